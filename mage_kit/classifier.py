"""A classifier on a MAGE encoder: fine-tuned from a pre-trained one, or trained from scratch on tokens.

Paper: section 4.2, Tables 12 and 13. Legend: B images, L tokens, D encoder width, C classes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mage_kit.blocks import NORM_EPS, evaluating
from mage_kit.embedding import EmbeddingConfig, TokenEmbedding, open_plan
from mage_kit.encoders import Encoder
from mage_kit.tokenizers import Tokenizer


class MageClassifier(nn.Module):
    """Tokens, encoder, mean over the patch positions of the last block, LayerNorm (eps 1e-6), linear layer.

    All tokens are seen, nothing is masked. The encoder is copied; its own final norm is not used.

    Args:
        tokenizer: Images to tokens; frozen here.
        encoder: Tokens to features.
        classes: Number of classes, C.
        embedding: Positions, input norm and dropout; as the encoder was pre-trained.

    Raises:
        ValueError: If `classes` is below 1, or sine-cosine positions do not fit the encoder's width.
    """

    def __init__(
        self, *, tokenizer: Tokenizer, encoder: Encoder, classes: int, embedding: EmbeddingConfig | None = None
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes: {classes}, must be at least 1")
        config = embedding or EmbeddingConfig()
        if config.positions == "sine_cosine" and encoder.dim % 4:
            raise ValueError(f"embedding: sine-cosine positions need an encoder's width of 4k, not {encoder.dim}")
        self.tokenizer = tokenizer.requires_grad_(False)
        self.spec = tokenizer.spec
        self.classes = classes
        self.embedding = TokenEmbedding(self.spec, encoder.dim, config)
        self.encoder = copy.deepcopy(encoder)
        self.encoder.norm = nn.Identity()
        self.norm = nn.LayerNorm(encoder.dim, eps=NORM_EPS)
        self.head = nn.Linear(encoder.dim, classes)
        nn.init.normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> MageClassifier:
        """Set the training mode of all parts but the tokenizer, which stays as it is trained."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def pooled(self, tokens: Tensor) -> Tensor:
        """Return normed mean features (B, D) of the patch positions.

        Args:
            tokens: Ids (B, L) int64, or continuous tokens (B, L, W).
        """
        hidden_BND: Tensor = self.encoder(self.embedding(tokens, open_plan(tokens)))
        normed_BD: Tensor = self.norm(hidden_BND[:, 1:].mean(dim=1))
        return normed_BD

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
            logits_BC: Tensor = self(self.tokenizer.encode(images_BCHW)).float()
        return logits_BC

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.head.weight.device
