"""The parts of a masked model: how they are held, what follows from them, which of them are trained.

Legend: B images, L tokens, D encoder width, E decoder width. `True = masked`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from mage_kernels import Backend, MaskPlan, make_plan
from torch import Tensor, nn

from mage_kit.base.errors import PartsError
from mage_kit.decoders import Decoder
from mage_kit.encoders import Encoder
from mage_kit.heads import Head
from mage_kit.layers.block_settings import WithBlocks
from mage_kit.layers.embedding import EmbeddingConfig, TokenEmbedding
from mage_kit.losses import Loss
from mage_kit.mask_ratios import MaskRatio, TruncatedNormalRatio, draw
from mage_kit.models.assembly import default_head, read_streams
from mage_kit.models.decoding import Decoding
from mage_kit.models.rules import check_parts, check_target_names
from mage_kit.paddings import ClassTokenPadding, Padding
from mage_kit.schedules import CosineSchedule
from mage_kit.selections import GumbelConfidence
from mage_kit.tokenizers import TOKENS, Tokenizer
from mage_kit.tokenizers.streams import encode_streams, stream_specs

ROW_STEPS = 16  # loss rows are padded to sixteenths of the batch's tokens: few shapes for compiled code


@dataclass(frozen=True)
class Weighted:
    """A loss in its slot, with its factor in the total.

    Args:
        loss: The loss.
        weight: Its factor, lambda.
    """

    loss: Loss
    weight: float = 1.0


class MaskedParts(WithBlocks):
    """What a `Mage` holds; see there for the arguments."""

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        decoder: Decoder | None,
        losses: Sequence[Loss | Weighted],
        mask_ratio: MaskRatio | None = None,
        padding: Padding | None = None,
        drop: float | Literal["lowest"] = 0.5,
        ratio_group: int = 64,
        embedding: EmbeddingConfig | None = None,
        decoding: Decoding | None = None,
        input: str = TOKENS,
        targets: Mapping[str, Tokenizer] | None = None,
        heads: Mapping[str, Head] | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False)
        check_target_names(targets or {}, tokenizer.streams)
        self.targets = nn.ModuleDict({name: other.requires_grad_(False) for name, other in (targets or {}).items()})
        self.streams = stream_specs(tokenizer, targets or {})
        self.input = input
        if input not in self.streams:
            raise PartsError(("input", "tokenizer"), f"'{input}', must be one of {', '.join(self.streams)}")
        self.spec = self.streams[input]
        self.mask_ratio = mask_ratio or TruncatedNormalRatio()
        self.encoder, self.decoder = encoder, decoder
        self.padding = (padding or ClassTokenPadding()) if decoder is not None else None
        slots = [slot if isinstance(slot, Weighted) else Weighted(slot) for slot in losses]
        self.losses = nn.ModuleList(slot.loss for slot in slots)
        self.loss_weights = [slot.weight for slot in slots]
        self.drop, self.ratio_group = drop, ratio_group
        self.decoding = decoding or Decoding(CosineSchedule(), GumbelConfidence())
        config = embedding or EmbeddingConfig()
        if config.positions == "sine_cosine" and encoder.dim % 4:
            raise PartsError(("embedding", "encoder"), f"sine-cosine positions need a width of 4k, not {encoder.dim}")
        self.embedding = TokenEmbedding(self.spec, encoder.dim, config)
        self.reads = read_streams(input, self.losses, self.streams)
        self.heads = nn.ModuleDict()
        if decoder is not None:
            rest = dict(heads or {})
            # A decoder that no loss reads keeps the head of its own tokens, if only to generate with.
            names = [loss.stream for loss in self.losses if isinstance(loss, Loss) and loss.reads_predictions]
            for name in dict.fromkeys(names or [input]):
                head = rest.pop(name, None) or default_head(self.streams[name], decoder.dim, encoder.dim, name == input)
                self.heads[name] = head
            if rest:
                raise PartsError((f"heads.{min(rest)}", "losses"), "no loss predicts that stream")
        self.frozen = False
        self.backend: Backend = "auto"
        check_parts(self)

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        """The head of the tokenizer's own tokens, which generation draws from.

        Raises:
            PartsError: If nothing predicts them.
        """
        if TOKENS not in self.heads:
            raise PartsError(
                ("losses", "decoder"), "no loss predicts the model's own tokens, so it has no head for them"
            )
        head = self.heads[TOKENS]
        assert isinstance(head, Head)
        return head

    @property
    def generates(self) -> bool:
        """Whether it can make tokens: what it sees are its tokenizer's tokens, and its head draws."""
        return self.decoder is not None and self.input == TOKENS and TOKENS in self.heads and self.head.draws

    @property
    def predicts_values(self) -> bool:
        """Whether it predicts the values of the tokens that it sees, all at once, as MAE does."""
        return self.decoder is not None and self.input == TOKENS and TOKENS in self.heads and self.head.gives_values

    def check_generates(self, what: str) -> None:
        """Raise PartsError, naming the part that is in the way, unless it can make tokens.

        Args:
            what: What needs it, for the error.
        """
        draws = TOKENS in self.heads and self.head.draws
        if self.input == TOKENS and not self.spec.discrete and not draws:
            rule = "or a head that draws values"
            raise PartsError(
                ("generation", "tokenizer"), f"{what} needs codes, {type(self.tokenizer).__name__} has none, {rule}"
            )
        if self.decoder is None:
            raise PartsError(("generation", "decoder"), f"{what} needs a decoder, there is none")
        if self.input != TOKENS:
            raise PartsError(
                ("generation", "input"), f"{what} needs an encoder that sees tokens, it sees '{self.input}'"
            )
        if not self.head.draws:
            rule = f"{what} draws tokens, and none can be drawn from {type(self.head).__name__}"
            raise PartsError(("generation", "heads.tokens"), rule)

    @property
    def generation_obstacle(self) -> str:
        """What is in the way of making tokens, in words; nothing where it can."""
        try:
            self.check_generates("sampling")
        except PartsError as error:
            return error.message
        return ""

    @property
    def classes(self) -> int | None:
        """Number of classes that the decoder may be told of; None if it takes no label, or there is none."""
        return None if self.decoder is None else self.decoder.classes

    @property
    def predicts(self) -> bool:
        """Whether a loss reads predictions: then at least one token is masked, however small the ratio."""
        return any(loss.reads_predictions for loss in self.losses if isinstance(loss, Loss))

    @property
    def drop_share(self) -> float:
        """Share of tokens dropped before the encoder."""
        return self.mask_ratio.low if self.drop == "lowest" else float(self.drop)

    @property
    def n_dropped(self) -> int:
        """Tokens dropped from each image: ceil(drop L)."""
        return math.ceil(self.drop_share * self.spec.grid.size - 1e-9)

    @property
    def views(self) -> int:
        """Views of each image that the losses need."""
        return max(loss.needs_views for loss in self.losses if isinstance(loss, Loss))

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of all parts but tokenizers, and the encoder if frozen: these stay as they are."""
        super().train(mode)
        self.tokenizer.eval()
        self.targets.eval()
        if self.frozen:
            self.embedding.eval()
            self.encoder.eval()
        return self

    def freeze_encoder(self) -> None:
        """Train decoder and head alone from now on: encoder and embedding get no gradient, and no dropout either."""
        self.frozen = True
        self.embedding.requires_grad_(False)
        self.encoder.requires_grad_(False)
        self.train(self.training)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Return names and parameters that training changes: all but the tokenizers'."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    def components(self) -> list[object]:
        """Return everything in it whose class a plug-in may define."""
        parts: list[object] = [self.tokenizer, *self.targets.values(), self.mask_ratio, self.encoder]
        parts += [self.padding, self.decoder]
        parts += [*self.losses, *self.heads.values(), self.decoding.schedule, self.decoding.selection]
        return [part for part in parts if part is not None]

    def figures(self) -> list[str]:
        """Return what tells it from others, in a few words each."""
        return [f"{self.n_dropped} of {self.spec.grid.size} dropped"]

    def set_backend(self, backend: Backend) -> None:
        """Choose what runs token drop, padding and decoding; attention has its own forms (`set_attention`), of which
        "reference" chooses the plain one.

        Args:
            backend: "auto" decides at the first call, by running it.

        Raises:
            ValueError: If it is unknown. That it cannot run here shows at the first call.
        """
        if backend not in get_args(Backend):
            raise ValueError(f"backend: '{backend}', must be one of {', '.join(get_args(Backend))}")
        self.backend = self.embedding.backend = backend
        if self.padding is not None:
            self.padding.backend = backend
        if backend == "reference":
            self.set_attention("reference")

    # -- masks -------------------------------------------------------------------------------------------------

    def draw_ratios(self, groups: int, random: torch.Generator) -> Tensor:
        """Draw `groups` mask ratios, float64 on the CPU.

        Raises:
            ValueError: If the mask ratio returns anything outside its own range: a plug-in's bug, named.
        """
        return draw(self.mask_ratio, groups, random)

    def plan(self, ratio_B: Tensor, noise_BL: Tensor) -> MaskPlan:
        """Return the plan of a training batch.

        Args:
            ratio_B: float64 CPU tensor of mask ratios.
            noise_BL: Floating noise on the model's device.
        """
        step = -(-len(ratio_B) * self.spec.grid.size // ROW_STEPS)
        return make_plan(noise_BL, self.n_masked(ratio_B), self.n_dropped, rows_step=step)

    def n_masked(self, ratio_B: Tensor) -> Tensor:
        """Return ceil(ratio L) of each image, int64 on the CPU; at least one token where something is predicted."""
        length = self.spec.grid.size
        # 1e-9: in binary 0.55 x 100 lies a rounding error above 55, whose ceiling would be one token too many.
        n_masked_B = (ratio_B.to(torch.float64) * length - 1e-9).ceil().to(torch.int64)
        return n_masked_B.clamp(min=max(int(self.predicts), self.n_dropped), max=length)

    # -- tokens ------------------------------------------------------------------------------------------------

    def tokenize(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the streams that training reads, each tokenizer seeing the images once.

        Args:
            images_BCHW: float images in [0, 1] of the tokenizers' size.

        Returns:
            By name int64 ids (B, L) or (B, L, F), or float32 values (B, L, W).
        """
        return self._encode_streams(self.reads, images_BCHW)

    def see(self, images_BCHW: Tensor) -> Tensor:
        """Return the tokens of images that the encoder sees: (B, L), (B, L, F) or (B, L, W).

        Args:
            images_BCHW: float images in [0, 1] of the tokenizer's size.
        """
        return self._encode_streams((self.input,), images_BCHW)[self.input]

    def _encode_streams(self, names: tuple[str, ...], images_BCHW: Tensor) -> dict[str, Tensor]:
        others = {name: other for name, other in self.targets.items() if isinstance(other, Tokenizer)}
        return encode_streams(self.tokenizer, others, names, images_BCHW)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.positions_ND.device
