"""What a tokenizer is. Geometry and vocabulary of everything above it come from its TokenSpec.

Legend: B images, C channels, H x W pixels, L tokens, V codes, F ids a token, W token width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mage_kit.base.doors import check_pixels, check_tensor, check_tokens
from mage_kit.base.errors import MageKitError
from mage_kit.base.grid import TokenSpec
from mage_kit.base.registry import Registry
from mage_kit.base.signature import NoWires

TOKENS = "tokens"  # the stream that every tokenizer has
_Side = Annotated[int, Field(ge=1, le=65_536)]
ImageSize = Annotated[tuple[_Side, _Side], Field(description="Height and width in pixels.")]
Channels = Literal[1, 3, 4]


@dataclass(frozen=True)
class TokenizerLosses:
    """One training step of a tokenizer.

    Args:
        total: Scalar to minimise.
        parts: Named scalars for the log, detached.
        rebuilt: The images given back, (B, C, H, W) with gradients, for those who add terms of their own.
    """

    total: Tensor
    parts: dict[str, Tensor]
    rebuilt: Tensor | None = None


class Tokenizer(nn.Module, ABC):
    """Turns images into tokens and tokens into images.

    Attributes:
        image_size: Height and width of its images.
        channels: 1 grey, 3 RGB, 4 RGBA.
        spec: Grid, codes and width of its tokens.
        needs_training: False where there is nothing to learn.
        weightless: Keywords that weights fit whatever they say: of training alone, and of sizes that no weight knows.
    """

    image_size: tuple[int, int]
    channels: int
    spec: TokenSpec
    needs_training: ClassVar[bool] = True
    weightless: ClassVar[frozenset[str]] = frozenset()

    def weights_fit(self, keyword: str, mine: Any, theirs: Any) -> bool:
        """Tell if weights serve this tokenizer that were trained by one with another keyword.

        Args:
            keyword: Its name; of a component in a slot, SLOT.NAME.
            mine: Its value here, as JSON.
            theirs: Its value there, another.
        """
        return keyword in self.weightless

    @abstractmethod
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Return tokens, without gradients.

        Args:
            images_BCHW: float images in [0, 1].

        Returns:
            int64 ids (B, L), or (B, L, F) where a token has F of them; or float32 continuous tokens (B, L, W).
        """

    @abstractmethod
    def decode(self, tokens: Tensor) -> Tensor:
        """Return float images (B, C, H, W), not clamped.

        Args:
            tokens: As `encode` returns them: (B, L), (B, L, F) or (B, L, W).
        """

    @property
    def streams(self) -> Mapping[str, TokenSpec]:
        """The streams of tokens that an image gives, by name; "tokens" is what `encode` returns and `decode` takes."""
        return {TOKENS: self.spec}

    def encode_streams(self, images_BCHW: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return some of the streams, without gradients, in one pass over the images.

        Args:
            images_BCHW: float images in [0, 1].
            names: Of `streams`.

        Returns:
            Tokens by name, as the stream's spec says: int64 ids (B, L) or (B, L, F), or float32 values (B, L, W).

        Raises:
            MageKitError: If the tokenizer gives no such stream.
        """
        unknown = [name for name in names if name != TOKENS]
        if unknown:
            raise MageKitError(f"tokenizer: {type(self).__name__} gives no stream '{unknown[0]}'")
        return {TOKENS: self.encode(images_BCHW)}

    def decode_weights(self, weights_BLV: Tensor) -> Tensor:
        """Return images (B, C, H, W), not clamped, of weighted means of codes; gradients reach the weights.

        Args:
            weights_BLV: Floating weights of each code; one-hot ones give `decode`'s images.

        Raises:
            MageKitError: If the tokenizer has no codebook to take means of.
        """
        raise MageKitError(f"tokenizer: {type(self).__name__} has no codebook to take means of")

    def compile_encoder(self, **options: Any) -> bool:
        """Have torch compile what `encode` spends its time in, at its first call; return False if there is no such.

        Args:
            options: Of torch.compile.
        """
        return False

    def start_training(self) -> None:
        """Enter training mode and let gradients reach what they should train."""
        self.requires_grad_(True).train()

    def finish_training(self) -> None:
        """Freeze, enter evaluation mode, and drop what training alone needed."""
        self.requires_grad_(False).eval()

    def objective(self, images_BCHW: Tensor, progress: float, random: torch.Generator) -> TokenizerLosses:
        """Return the training losses of a batch.

        Args:
            images_BCHW: float images in [0, 1].
            progress: Share of the training done, in [0, 1).
            random: Source of all draws, fresh in each step.

        Raises:
            MageKitError: If the tokenizer has nothing to train.
        """
        raise MageKitError(f"tokenizer: {type(self).__name__} has nothing to train")

    def train_decoder_alone(self) -> None:
        """After `start_training`: leave gradients to what `decode` computes with alone; tokens stay as they are.

        Raises:
            MageKitError: If the tokenizer has no such part.
        """
        raise MageKitError(f"tokenizer: {type(self).__name__} has no decoder to train alone")

    def decoder_objective(self, images_BCHW: Tensor) -> TokenizerLosses:
        """Return the training losses of `decode` alone, from the tokens of a batch.

        Args:
            images_BCHW: float images in [0, 1].

        Raises:
            MageKitError: If the tokenizer has no decoder to train alone.
        """
        raise MageKitError(f"tokenizer: {type(self).__name__} has no decoder to train alone")

    def rehearse(self, images_BCHW: Tensor) -> Tensor:
        """Return images as training gives them back, codes left out; for what plans a training on the meta device.

        Args:
            images_BCHW: float images of the meta device.
        """
        return self.decode(self.encode(images_BCHW))

    @property
    def last_weight(self) -> nn.Parameter | None:
        """Weight of the last layer that pictures come from, where gradients are compared; None where there is none."""
        return None

    def check_images(self, images_BCHW: Tensor) -> None:
        """Raise ValueError unless the images have this tokenizer's channels, size and type, and values in [0, 1]."""
        check_tensor("images", images_BCHW)
        shape = (self.channels, *self.image_size)
        if images_BCHW.ndim != 4 or tuple(images_BCHW.shape[1:]) != shape or not images_BCHW.is_floating_point():
            raise ValueError(
                f"images: {tuple(images_BCHW.shape)} {images_BCHW.dtype}, "
                f"must be floating (B, {', '.join(map(str, shape))})"
            )
        own = next((value.dtype for value in self.parameters()), None)
        if own not in (None, images_BCHW.dtype):
            has, must = (str(kind).removeprefix("torch.") for kind in (images_BCHW.dtype, own))
            if has == "float64" or not torch.is_autocast_enabled(images_BCHW.device.type):
                raise ValueError(f"images: {has}, must be {must}, as the tokenizer's weights are")
        check_pixels("images", images_BCHW)

    def check_own_tokens(self, tokens: Tensor) -> None:
        """Raise ValueError unless tokens are of this tokenizer's spec: shape, type, ids that name codes."""
        check_tokens("tokens", tokens, self.spec.shape(1)[1:], self.spec.codes, None)


TOKENIZERS: Registry[Tokenizer, NoWires] = Registry(
    "tokenizers",
    Tokenizer,
    NoWires,
    slot_fields={
        "weights": (
            str | None,
            Field(
                None,
                description="Folder of a trained tokenizer that this program wrote; null: train it first.",
            ),
        )
    },
)
