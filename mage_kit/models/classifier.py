"""A classifier on a MAGE encoder: fine-tuned from a pre-trained one, or trained from scratch on tokens.

Paper: section 4.2, Tables 12 and 13. Legend: B images, L tokens, D encoder width, C classes.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from mage_kernels import Backend
from torch import Tensor, nn

from mage_kit.encoders import Encoder
from mage_kit.layers.batch_norm import BatchNorm
from mage_kit.layers.block_settings import WithBlocks
from mage_kit.layers.blocks import NORM_EPS, Block, evaluating
from mage_kit.layers.embedding import EmbeddingConfig, TokenEmbedding, open_plan
from mage_kit.tokenizers import TOKENS, Tokenizer

Head = Literal["linear", "probe"]


class MageClassifier(WithBlocks):
    """Tokens, encoder, mean over the patch positions of the last block, LayerNorm (eps 1e-6), linear layer.

    All tokens are seen, nothing is masked. The encoder is copied; its own final norm is not used. The head of a linear
    probe has batch norm without affine transform (eps 1e-6) before its linear layer, and its LayerNorm is not trained.

    Args:
        tokenizer: Images to tokens; frozen here.
        encoder: Tokens to features.
        classes: Number of classes, C.
        embedding: Positions, input norm and dropout; as the encoder was pre-trained.
        head: "linear" for fine-tuning and training from scratch, "probe" for the published linear probe.
        drop_path: Probability in training that an image goes past the last block's parts; linear from 0 at the first.
        input: Stream of the tokenizer that the encoder sees.

    Raises:
        ValueError: If `classes` is below 1, there is no block to go past, sine-cosine positions do not fit, or the
            tokenizer gives no such stream.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        classes: int,
        embedding: EmbeddingConfig | None = None,
        head: Head = "linear",
        drop_path: float = 0.0,
        input: str = TOKENS,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes: {classes}, must be at least 1")
        if input not in tokenizer.streams:
            raise ValueError(f"input: '{input}', must be one of {', '.join(tokenizer.streams)}")
        config = embedding or EmbeddingConfig()
        if config.positions == "sine_cosine" and encoder.dim % 4:
            raise ValueError(f"embedding: sine-cosine positions need an encoder's width of 4k, not {encoder.dim}")
        self.backend: Backend = "auto"
        self.tokenizer = tokenizer.requires_grad_(False)
        self.input, self.streams, self.targets = input, dict(tokenizer.streams), nn.ModuleDict()
        self.spec = self.streams[input]
        self.classes = classes
        self.embedding = TokenEmbedding(self.spec, encoder.dim, config)
        self.encoder = copy.deepcopy(encoder)
        self.encoder.norm = nn.Identity()
        self.norm = nn.LayerNorm(encoder.dim, eps=NORM_EPS)
        self.kind, self.frozen, self.drop_path = head, False, drop_path
        self.batch_norm = BatchNorm(encoder.dim) if head == "probe" else None
        self.norm.requires_grad_(head == "linear")
        self.head = nn.Linear(encoder.dim, classes)
        nn.init.normal_(self.head.weight, std=0.01 if head == "probe" else 2e-5)
        nn.init.zeros_(self.head.bias)
        blocks = [module for module in self.encoder.modules() if isinstance(module, Block)]
        if drop_path and not blocks:
            raise ValueError(f"drop_path: {drop_path}, {type(encoder).__name__} has no transformer blocks; must be 0")
        for number, block in enumerate(blocks):
            block.drop_path = drop_path * number / max(1, len(blocks) - 1)

    def train(self, mode: bool = True) -> MageClassifier:
        """Set the training mode of all parts but the tokenizer, and the encoder's blocks if frozen.

        Dropout after the embedding stays even then: the published linear probe has it.
        """
        super().train(mode)
        self.tokenizer.eval()
        if self.frozen:
            self.encoder.eval()
        return self

    def freeze_encoder(self) -> None:
        """Train norm and head alone from now on."""
        self.frozen = True
        self.embedding.requires_grad_(False)
        self.encoder.requires_grad_(False)
        self.train(self.training)

    @property
    def reads(self) -> tuple[str, ...]:
        """Streams that training reads: the encoder's input alone."""
        return (self.input,)

    def tokenize(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the streams that training reads, (B, L), (B, L, F) or (B, L, W), of float images in [0, 1]."""
        return self.tokenizer.encode_streams(images_BCHW, self.reads)

    def see(self, images_BCHW: Tensor) -> Tensor:
        """Return the tokens that the encoder sees, (B, L), (B, L, F) or (B, L, W), of float images in [0, 1]."""
        return self.tokenize(images_BCHW)[self.input]

    def components(self) -> list[object]:
        """Return everything in it whose class a plug-in may define."""
        return [self.tokenizer, self.encoder]

    def figures(self) -> list[str]:
        """Return what tells it from others, in a few words each."""
        return ["classifier", f"{self.classes} classes"]

    def set_backend(self, backend: Backend) -> None:
        """Choose what embeds tokens; "reference" chooses the plain attention too. See `Mage.set_backend`."""
        self.backend = self.embedding.backend = backend
        if backend == "reference":
            self.set_attention("reference")

    @property
    def blocks(self) -> int:
        """Transformer blocks of the encoder."""
        return sum(isinstance(module, Block) for module in self.encoder.modules())

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Return names and parameters that training changes."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    def pooled(self, tokens: Tensor) -> Tensor:
        """Return normed mean features (B, D) of the patch positions, as the linear layer reads them.

        Args:
            tokens: int64 ids (B, L) or (B, L, F), or continuous tokens (B, L, W).
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            hidden_BND: Tensor = self.encoder(self.embedding(tokens, open_plan(tokens)))
        normed_BD: Tensor = self.norm(hidden_BND[:, 1:].mean(dim=1))
        return normed_BD if self.batch_norm is None else self.batch_norm(normed_BD)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens -> logits (B, C)."""
        logits_BC: Tensor = self.head(self.pooled(tokens))
        return logits_BC

    @torch.no_grad()
    def logits(self, images_BCHW: Tensor) -> Tensor:
        """Classify images: logits (B, C), float32, in evaluation mode whatever the mode before.

        Args:
            images_BCHW: float images in [0, 1] of the tokenizer's size.
        """
        with evaluating(self):
            logits_BC: Tensor = self(self.see(images_BCHW)).float()
        return logits_BC

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.positions_ND.device
