"""What the convolutional tokenizers share: encoder, quantizer, decoder, the pixel loss, and the keywords of all three.

Legend: B images, C channels, H x W pixels, L tokens, V codes, W code width, F ids a token.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mage_kit.base.fields import Depth, Positive
from mage_kit.base.grid import TokenGrid, TokenSpec
from mage_kit.base.processes import add_up
from mage_kit.quantizers import QUANTIZERS, Quantized, Quantizer, QuantizerSlot, build_quantizer, quantizer_sizes
from mage_kit.tokenizers.base import TOKENS, Channels, ImageSize, Tokenizer, TokenizerLosses

FEATURES = "features"
PUBLISHED_CODES = QUANTIZERS.parse({"kind": "ema", "codes": 1024, "width": 256})


class CodebookTokenizer(Tokenizer):
    """A tokenizer whose tokens are a convolutional encoder's features, quantized.

    Args:
        image_size: Height and width in pixels, multiples of 2^(levels - 1).
        channels: 1 grey, 3 RGB, 4 RGBA.
        base_channels: Width of the first level.
        multipliers: Width of each level as a multiple of the first; one 2x down-sampling between two levels.
        res_blocks: Residual blocks a level.
        norm_groups: Groups of GroupNorm; must divide every level's width.
        quantizer: How features become codes.
        reconstruction: Pixel loss: "l2" mean squared, "l1" mean absolute error.

    Attributes:
        quantize: The quantizer.
        encoder: Its convolutions.
        decoder: The other half's.
        decoding_parts: Names of what pictures are made with, codes apart.
    """

    encoder: nn.Module
    decoder: nn.Module
    decoding_parts: ClassVar[tuple[str, ...]] = ("decoder",)

    def __init__(
        self,
        *,
        image_size: ImageSize = (256, 256),
        channels: Channels = 3,
        base_channels: Positive = 128,
        multipliers: tuple[Positive, ...] = (1, 1, 2, 2, 4),
        res_blocks: Depth = 2,
        norm_groups: Positive = 32,
        quantizer: QuantizerSlot = PUBLISHED_CODES,
        reconstruction: Literal["l1", "l2"] = "l2",
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.base_channels = image_size, channels, base_channels
        self.multipliers, self.res_blocks, self.norm_groups = multipliers, res_blocks, norm_groups
        self.reconstruction = reconstruction
        self.quantizer, sizes = quantizer_sizes(quantizer)
        self.spec = TokenSpec(grid_of(image_size, multipliers), sizes.codes, sizes.width, sizes.factors)
        self.build_halves(level_widths(base_channels, multipliers, norm_groups))
        # After the halves, so that a seed gives the same ones whatever the quantizer draws.
        self.quantize = quantizer if isinstance(quantizer, Quantizer) else build_quantizer(self.quantizer)

    @abstractmethod
    def build_halves(self, widths: tuple[int, ...]) -> None:
        """Make `encoder` and `decoder`, and what lies between them and the codes, of levels of such widths."""

    @abstractmethod
    def feature_map(self, images_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] (B, C, H, W) -> features (B, W, h, w), before they are quantized."""

    @abstractmethod
    def picture(self, codes_BWHX: Tensor) -> Tensor:
        """Codes (B, W, h, w) -> images (B, C, H, W), about [0, 1], not clamped."""

    @property
    def weightless(self) -> frozenset[str]:  # type: ignore[override]  # the quantizer's are part of it
        """Convolutions serve any image size; keywords of the quantizer are called quantizer.NAME."""
        return frozenset({"image_size", "reconstruction", *(f"quantizer.{name}" for name in self.quantize.weightless)})

    def weights_fit(self, keyword: str, mine: Any, theirs: Any) -> bool:
        """Tell if trained weights serve; quantizers whose weights are alike stand in for one another."""
        alike = keyword == "quantizer.kind" and {mine, theirs} <= self.quantize.alike
        return alike or super().weights_fit(keyword, mine, theirs)

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Return encoder features (B, L, W) in float32: distances in half precision would pick other codes.

        Args:
            images_BCHW: float images in [0, 1].
        """
        self.check_images(images_BCHW)
        features_BLW: Tensor = rearrange(self.feature_map(images_BCHW), "b w h x -> b (h x) w")
        return features_BLW.float()

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> int64 ids (B, L), or (B, L, F), row by row."""
        return self.quantize.nearest(self.features(images_BCHW))

    @property
    def streams(self) -> Mapping[str, TokenSpec]:
        """Codes, and the features that they were taken for (paper: supplement, Table 6, an input not quantised)."""
        return {TOKENS: self.spec, FEATURES: TokenSpec(self.spec.grid, None, self.spec.width)}

    @torch.no_grad()
    def encode_streams(self, images_BCHW: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return ids (B, L) or (B, L, F), features (B, L, W) as they are compared with codes, or both."""
        features_BLW = self.features(images_BCHW)
        streams = {TOKENS: self.quantize.nearest(features_BLW)} if TOKENS in names else {}
        return streams | ({FEATURES: self.quantize.prepare(features_BLW)} if FEATURES in names else {})

    def decode(self, tokens: Tensor) -> Tensor:
        """Ids (B, L) or (B, L, F) -> images (B, C, H, W), not clamped."""
        self.check_own_tokens(tokens)
        return self._image(self.quantize.lookup(tokens))

    def decode_weights(self, weights_BLV: Tensor) -> Tensor:
        """Weights (B, L, V) -> images (B, C, H, W), not clamped."""
        return self._image(self.quantize.means(weights_BLV))

    def objective(self, images_BCHW: Tensor, progress: float, random: torch.Generator) -> TokenizerLosses:
        """Reconstruction, and what the quantizer adds."""
        return self._losses(self.quantize(self.features(images_BCHW), progress, random), images_BCHW)

    def decoder_objective(self, images_BCHW: Tensor) -> TokenizerLosses:
        """Reconstruction from the tokens that there are."""
        ids_BL = self.encode(images_BCHW)
        codes_BLW = self.quantize.lookup(ids_BL).detach()
        return self._losses(Quantized(codes_BLW, ids_BL, codes_BLW.new_zeros(())), images_BCHW)

    def rehearse(self, images_BCHW: Tensor) -> Tensor:
        """Through both halves, with what gradients need."""
        return self._image(self.features(images_BCHW))

    def train_decoder_alone(self) -> None:
        """Freeze all but the decoder, and what lies between codes and it."""
        self.requires_grad_(False)
        for name in self.decoding_parts:
            self.get_submodule(name).requires_grad_(True)

    @property
    def last_weight(self) -> nn.Parameter:
        """Of the decoder's last convolution."""
        return self.decoder.get_parameter("conv_out.weight")

    def _losses(self, result: Quantized, images_BCHW: Tensor) -> TokenizerLosses:
        images = self._image(result.codes_BLW).float()
        distance = F.mse_loss if self.reconstruction == "l2" else F.l1_loss
        reconstruction = distance(images, images_BCHW.float())
        total = reconstruction + result.loss
        counts_V = add_up(torch.bincount(result.ids_BL.flatten(), minlength=self.quantize.codes))
        parts = {
            "loss": total.detach(),
            "reconstruction": reconstruction.detach(),
            **result.parts,
            "mse": F.mse_loss(images.clamp(0, 1), images_BCHW.float()).detach(),
            "codes_used": (counts_V > 0).sum(),
        }
        return TokenizerLosses(total, parts, images)

    def compile_encoder(self, **options: Any) -> bool:
        """Compile the convolutions: norms and activations, most of their time on a GPU, become few kernels."""
        self.encoder.compile(**options)
        return True

    def start_training(self) -> None:
        """Train all but what the quantizer moves by itself."""
        super().start_training()
        self.quantize.start_training()

    def finish_training(self) -> None:
        """Freeze, and forget what training alone needed."""
        super().finish_training()
        self.quantize.finish_training()

    def _image(self, codes_BLW: Tensor) -> Tensor:
        grid = self.spec.grid
        return self.picture(rearrange(codes_BLW, "b (h x) w -> b w h x", h=grid.height, x=grid.width))


def level_widths(base_channels: int, multipliers: tuple[int, ...], groups: int) -> tuple[int, ...]:
    """Return the width of each level, full resolution first.

    Raises:
        ValueError: If there is none, or `groups` does not divide one.
    """
    widths = tuple(base_channels * multiplier for multiplier in multipliers)
    if not widths or any(width % groups for width in widths):
        raise ValueError(f"norm_groups: {groups}, must divide every level's width ({list(widths)})")
    return widths


def grid_of(image_size: tuple[int, int], multipliers: tuple[int, ...]) -> TokenGrid:
    """Return the token grid of an image size, one halving between two levels.

    Raises:
        ValueError: If a side is no multiple of the down-sampling.
    """
    factor = 2 ** (len(multipliers) - 1)
    height, width = image_size
    if height % factor or width % factor:
        raise ValueError(
            f"image_size: {height}x{width}, must be multiples of {factor} "
            f"(2^({len(multipliers)} - 1) for {len(multipliers)} multipliers)"
        )
    return TokenGrid(height // factor, width // factor)
