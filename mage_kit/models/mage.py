"""Mage: the only place where parts are wired together.

Legend: B images, L tokens, N = 1 + L positions (class first), S kept positions, M loss rows, D encoder width,
E decoder width, V codes. `True = masked`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from mage_kernels import Backend, MaskPlan, full_plan, make_plan
from torch import Tensor, nn

from mage_kit.block_settings import WithBlocks
from mage_kit.blocks import evaluating
from mage_kit.condition import Condition
from mage_kit.decoders import Decoder
from mage_kit.embedding import EmbeddingConfig, TokenEmbedding, open_plan
from mage_kit.encoders import Encoder
from mage_kit.errors import PartsError
from mage_kit.head import make_head
from mage_kit.losses import BatchMasks, Gather, Loss, LossInputs, LossTerm
from mage_kit.mask_ratios import MaskRatio, TruncatedNormalRatio, draw
from mage_kit.models.decoding import Decoding
from mage_kit.models.rules import check_parts
from mage_kit.paddings import ClassTokenPadding, Padding
from mage_kit.schedules import CosineSchedule
from mage_kit.selections import GumbelConfidence
from mage_kit.tokenizers import Tokenizer

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


@dataclass(frozen=True)
class StepOutput:
    """One forward pass in training.

    Args:
        terms: One term a loss, before division, in the order of the model's losses.
        picked_M: Flat indices (image * L + token) of the loss rows.
        weight_M: 1 for a masked token, 0 for a padding row.
    """

    terms: list[LossTerm]
    picked_M: Tensor
    weight_M: Tensor


class Mage(WithBlocks):
    """A masked image model made of parts; MAGE, MAGE-C, MaskGIT's and MAE's form are choices of parts.

    Args:
        tokenizer: Images to tokens; frozen here.
        encoder: Kept tokens to features.
        decoder: Padded grid to features; its wires must be the encoder's width and the grid's size.
        losses: One or more; a bare loss weighs 1.
        mask_ratio: Distribution of the training ratio.
        padding: What fills the grid before the decoder.
        drop: Share of tokens that the encoder never sees; "lowest" for the mask ratio's own lower bound.
        ratio_group: Images that share one drawn ratio: 1 one an image (the paper's text), 64 what the published
            script did, 0 one for the batch.
        embedding: Positions, input norm and dropout.
        decoding: How it generates by default.

    Raises:
        PartsError: If two parts do not fit; names both.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        decoder: Decoder,
        losses: Sequence[Loss | Weighted],
        mask_ratio: MaskRatio | None = None,
        padding: Padding | None = None,
        drop: float | Literal["lowest"] = 0.5,
        ratio_group: int = 64,
        embedding: EmbeddingConfig | None = None,
        decoding: Decoding | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False)
        self.spec = tokenizer.spec
        self.mask_ratio = mask_ratio or TruncatedNormalRatio()
        self.encoder, self.decoder = encoder, decoder
        self.padding = padding or ClassTokenPadding()
        weighted = [slot if isinstance(slot, Weighted) else Weighted(slot) for slot in losses]
        self.losses = nn.ModuleList(slot.loss for slot in weighted)
        self.loss_weights = [slot.weight for slot in weighted]
        self.drop, self.ratio_group = drop, ratio_group
        self.decoding = decoding or Decoding(CosineSchedule(), GumbelConfidence())
        config = embedding or EmbeddingConfig()
        if config.positions == "sine_cosine" and encoder.dim % 4:
            raise PartsError(("embedding", "encoder"), f"sine-cosine positions need a width of 4k, not {encoder.dim}")
        self.embedding = TokenEmbedding(self.spec, encoder.dim, config)
        self.head = make_head(self.spec, decoder.dim, encoder.dim)
        self.frozen = False
        self.backend: Backend = "auto"
        check_parts(self)

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

    def train(self, mode: bool = True) -> Mage:
        """Set the training mode of all parts but the tokenizer, and the encoder if frozen: these stay as they are."""
        super().train(mode)
        self.tokenizer.eval()
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
        """Return names and parameters that training changes: all but the tokenizer's."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    def components(self) -> list[object]:
        """Return everything in it whose class a plug-in may define."""
        parts = [self.tokenizer, self.mask_ratio, self.encoder, self.padding, self.decoder, *self.losses]
        return [*parts, self.decoding.schedule, self.decoding.selection]

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
        self.backend = self.embedding.backend = self.padding.backend = backend
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
        """Return ceil(ratio L) of each image, int64 on the CPU; at least one token."""
        length = self.spec.grid.size
        # 1e-9: in binary 0.55 x 100 lies a rounding error above 55, whose ceiling would be one token too many.
        n_masked_B = (ratio_B.to(torch.float64) * length - 1e-9).ceil().to(torch.int64)
        return n_masked_B.clamp(min=max(1, self.n_dropped), max=length)

    # -- the model ---------------------------------------------------------------------------------------------

    def encode(self, tokens: Tensor, plan: MaskPlan) -> Tensor:
        """Return the encoder's last block output (B, S, D), before the final norm."""
        hidden: Tensor = self.encoder(self.embedding(tokens, plan))
        return hidden

    def decode(self, latents_BSD: Tensor, plan: MaskPlan, condition: Condition | None = None) -> Tensor:
        """Return decoder features (B, L, E) of all tokens from normed encoder outputs."""
        embedded_BSE = self.decoder.embed(latents_BSD)
        padded_BNE = self.padding(embedded_BSE, plan, self.decoder.positions_NE)
        features: Tensor = self.decoder(padded_BNE, condition)[:, 1:]
        return features

    def forward(
        self,
        tokens: Tensor,
        plan: MaskPlan,
        masks: BatchMasks,
        gather: Gather | None = None,
        condition: Condition | None = None,
    ) -> StepOutput:
        """One training pass: losses on the masked tokens, nothing else is predicted.

        Args:
            tokens: Ids (B, L) int64 or continuous tokens (B, L, W); with two views, view after view.
            plan: The masks on the device.
            masks: The masks' host side.
            gather: Joins tensors of the processes; None for those of this run.
            condition: For conditional decoders.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            latents_BSD = self.encoder.norm(self.encode(tokens, plan))
        features_BLE = self.decode(latents_BSD, plan, condition)
        picked_ME = features_BLE.flatten(0, 1).index_select(0, plan.picked_M)
        predictions_MX = self.head(picked_ME, self.embedding).float()
        targets_M = tokens.flatten(0, 1).index_select(0, plan.picked_M)
        inputs = LossInputs(
            predictions_MX,
            targets_M,
            plan.weight_M,
            latents_BSD,
            plan,
            masks,
            gather or Gather(),
        )
        terms = [loss(inputs) for loss in self.losses]
        if not any(loss.reads_predictions for loss in self.losses if isinstance(loss, Loss)):
            # Decoder and head would get no gradient at all, which wrappers and optimisers trip over: give them zeros.
            terms[0] = dataclasses.replace(terms[0], total=terms[0].total + 0.0 * predictions_MX.sum())
        return StepOutput(terms, plan.picked_M, plan.weight_M)

    def logits(
        self,
        ids_BL: Tensor,
        masked_BL: Tensor,
        condition: Condition | None = None,
        rows_M: Tensor | None = None,
        guidance: float = 0.0,
    ) -> Tensor:
        """Return predictions for every token (B, L, V), nothing dropped: the generation pass.

        Args:
            ids_BL: Tokens; what stands at masked places is not read.
            masked_BL: bool, True where the token is unknown.
            condition: For conditional decoders.
            rows_M: Flat indices (image * L + token) of the tokens wanted; the result is then (M, V).
            guidance: Weight of what the condition adds to the logits; the encoder runs once all the same.
        """
        plan = full_plan(masked_BL)
        latents_BSD = self.encoder.norm(self.encode(ids_BL, plan))

        def predict(told: Condition | None) -> Tensor:
            features = self.decode(latents_BSD, plan, told)
            if rows_M is not None:
                features = features.flatten(0, 1).index_select(0, rows_M)
            predictions: Tensor = self.head(features, self.embedding)
            return predictions

        told = predict(condition)
        if not guidance or condition is None:
            return told
        told = told.float()
        guided = told + guidance * (told - predict(condition.without()).float())
        return torch.where(told.isneginf(), told, guided)  # a code that may not be drawn stays one

    def token_features(self, tokens: Tensor) -> Tensor:
        """Return mean features (B, D) of the patch positions of the last block, nothing masked, nothing dropped."""
        return self.encode(tokens, open_plan(tokens))[:, 1:].float().mean(dim=1)

    def block_features(self, tokens: Tensor) -> Tensor:
        """Return mean features (blocks, B, D) of the patch positions after each block (paper Figure 6); see above."""
        outputs = self.encoder.outputs(self.embedding(tokens, open_plan(tokens)))
        return torch.stack([output_BND[:, 1:].float().mean(dim=1) for output_BND in outputs])

    @torch.no_grad()
    def features(self, images_BCHW: Tensor) -> Tensor:
        """Return features (B, D) of images: the representation of the linear probe (paper section 4.2).

        Args:
            images_BCHW: float images in [0, 1] of the tokenizer's size.
        """
        with evaluating(self):
            return self.token_features(self.tokenizer.encode(images_BCHW))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.decoder.positions_NE.device
