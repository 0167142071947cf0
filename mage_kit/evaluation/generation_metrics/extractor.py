"""The network whose features are compared: the user's own file, named by its SHA-256. Nothing is downloaded.

Legend: I images, C channels, H x W pixels, D features, K classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mage_kit.base.devices import check_device
from mage_kit.base.errors import MageKitError

Range = Literal["bytes", "unit", "signed"]
"""What the network takes: 0 to 255, 0 to 1, or -1 to 1."""

SIDE = 299  # of Inception
_CLASSES = (1000, 1001, 1008)  # of ImageNet's classifiers
_NEAR = 1e-2  # of 1: probabilities in half precision
_SAID = 300  # letters of what a network says when it fails


@dataclass(frozen=True)
class Extractor:
    """A network that gives features, and perhaps logits.

    Args:
        network: (I, 3, S, S) float32 to features (I, D), or to (features, logits).
        name: What it is called in results.
        sha256: Of its file; None for one given in Python.
        side: Images are resized to (bilinear, antialiased); None leaves them as they are.
        values: Range of what it takes.
        device: Where it runs; None for the CPU.
    """

    network: Callable[[Tensor], Any]
    name: str
    sha256: str | None = None
    side: int | None = SIDE
    values: Range = "bytes"
    device: torch.device | None = None

    @torch.no_grad()
    def __call__(self, images_ICHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features (I, D) and logits (I, K) or None, float32, of uint8 images (I, C, H, W).

        Raises:
            MageKitError: If the network gives something else.
        """
        if images_ICHW.dtype != torch.uint8:
            raise MageKitError(f"images: {images_ICHW.dtype}, must be uint8: what is compared are pictures, not floats")
        pixels = images_ICHW.to(self.where).float()
        pixels = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels[:, :3]
        if self.side is not None and pixels.shape[-2:] != (self.side, self.side):
            size = (self.side, self.side)
            pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
        inputs = pixels / 255 if self.values == "unit" else pixels / 127.5 - 1 if self.values == "signed" else pixels
        try:
            with torch.autocast(pixels.device.type, enabled=False):  # a model around it may be in bfloat16
                outputs = self.network(inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever somebody's network says
            words = " ".join(str(error).split())
            words = words if len(words) <= _SAID else f"... {words[-_SAID:]}"
            rule = "it must take any number of images (a .pt2 is to be exported with a dynamic batch)"
            raise MageKitError(f"extractor: '{self.name}', failed on {tuple(inputs.shape)}, {rule}: {words}") from error
        features, logits = outputs if isinstance(outputs, tuple | list) and len(outputs) == 2 else (outputs, None)
        vectors = _vectors(features)
        if vectors is None or len(vectors) != len(images_ICHW):
            what = _shape(outputs)
            raise MageKitError(
                f"extractor: '{self.name}', gave {what}, must give features (images, D), or (features, logits)"
            )
        if not torch.isfinite(vectors).all():
            raise MageKitError(f"extractor: '{self.name}', gave features that are not finite; see --values and --side")
        if (vectors == vectors[:1]).all() and not (images_ICHW == images_ICHW[:1]).all():
            rule = "so it tells no image from another; see --values and --side"
            raise MageKitError(f"extractor: '{self.name}', gave the same features for different images, {rule}")
        if words := _mistaken(vectors.float(), None if logits is None else logits.float()):
            raise MageKitError(f"extractor: '{self.name}', {words}")
        return vectors.float(), None if logits is None else logits.float()

    @property
    def where(self) -> torch.device:
        """Where it runs."""
        return self.device or torch.device("cpu")

    def describe(self) -> dict[str, Any]:
        """Return what a result says of it, ready for JSON."""
        return {"name": self.name, "sha256": self.sha256, "side": self.side, "values": self.values}


def _mistaken(features_ID: Tensor, logits_IK: Tensor | None) -> str:
    """Say what outputs look like other than features and logits; nothing where they may well be these.

    Inception's pooled features come from a rectifier and are never negative; logits are, and probabilities add up to 1.
    """
    if _are_probabilities(features_ID):
        return "gave probabilities (each row adds up to 1), must give features, as those before the last layer"
    if features_ID.shape[1] in _CLASSES and bool((features_ID < 0).any()):
        return f"gave {features_ID.shape[1]:,} values, some negative: logits of classes, must give features"
    if logits_IK is None:
        return ""
    if logits_IK.ndim != 2 or len(logits_IK) != len(features_ID):
        return f"gave {tuple(logits_IK.shape)} beside the features, must be logits ({len(features_ID)}, K)"
    if _are_probabilities(logits_IK):
        return "gave probabilities (each row adds up to 1) beside the features, must give logits"
    if not bool(torch.isfinite(logits_IK).all()):
        return "gave logits that are not finite"
    if bool((features_ID < 0).any()) and not bool((logits_IK < 0).any()):
        return "gave logits first and features second, it seems: must give (features, logits)"
    return ""


def _are_probabilities(values_IX: Tensor) -> bool:
    sums_I = values_IX.sum(dim=1)
    return values_IX.shape[1] > 1 and bool((values_IX >= 0).all()) and bool(((sums_I - 1).abs() < _NEAR).all())


def _vectors(features: Any) -> Tensor | None:
    """Return features (I, D); a map of them must have been pooled to one place. None for anything else."""
    if not isinstance(features, Tensor) or features.ndim < 2 or math.prod(features.shape[2:]) != 1:
        return None
    return features.flatten(1)


def _shape(outputs: Any) -> str:
    first = outputs[0] if isinstance(outputs, tuple | list) and outputs else outputs
    return str(tuple(first.shape)) if isinstance(first, Tensor) else type(outputs).__name__


def load_extractor(
    file: Path, *, side: int | None = SIDE, values: Range = "bytes", device: str | torch.device | None = None
) -> Extractor:
    """Read a network from a TorchScript file, or an exported program (.pt2).

    Args:
        file: The user's own file; it is run, so it must be one that is trusted.
        side: Pixels a side of what it takes; None for the images' own.
        values: Range of what it takes.
        device: Where it runs.

    Raises:
        MageKitError: If there is no such file or device, or it is neither.
    """
    if not file.is_file():
        raise MageKitError(f"extractor: '{file}', there is no such file; must be a TorchScript or .pt2 file of yours")
    where = check_device(device or "cpu")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        if file.suffix == ".pt2":
            network: Any = torch.export.load(file).module().to(where)
        else:
            network = torch.jit.load(file, map_location=where).eval()
    except Exception as error:  # whatever the reader says of a file that is none
        words = " ".join(str(error).split())[:200]
        raise MageKitError(f"extractor: '{file}', is no TorchScript file and no .pt2 file ({words})") from None
    return Extractor(network, file.name, digest, side, values, where)
