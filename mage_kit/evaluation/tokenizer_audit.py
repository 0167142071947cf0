"""Is a tokenizer fit for one's own images? Measured before GPU time is spent on a model of its tokens.

Legend: I images, C channels, H x W pixels, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.base.progress import Reporter
from mage_kit.datasets import Dataset, Sample
from mage_kit.datasets.stills import still_batches
from mage_kit.evaluation.colour_check import ColourCheck
from mage_kit.tokenizers import Tokenizer

WORST = 8
_BATCH = 32
_WINDOW, _SIGMA = 11, 1.5  # of SSIM (Wang et al., 2004)
_POOR, _FAIR = 18.0, 22.0  # dB
_COLLAPSED, _THIN = 0.02, 0.2  # of the codes, by perplexity
_USES = 10  # of a code, on average: fewer tokens say little of a codebook
_BROKEN = 0.01  # of the images
_TRUE, _SHIFTED = 0.9, 0.03  # correlation of colours, difference of a channel's mean
_FAR = 8.0  # dB below the mean


@dataclass(frozen=True)
class Audit:
    """What was found.

    Args:
        psnr: Mean over images, dB.
        ssim: Mean over images.
        images: How many were looked at.
        broken: How many could not be.
        counts_V: Uses of each code; None of continuous tokens.
        psnr_I: Of each image.
        worst: Places of the worst images in the data set, worst first.
        pairs: uint8 (original, reconstruction) of these, each (C, H, W).
        greyed: How many are in colour, and were turned grey.
        errors: What is wrong with those that could not be looked at.
        chroma: Correlation of their colours with the reconstructions', see `ColourCheck`; None where there are none.
        shift: Largest difference of a channel's mean, of 1.
    """

    psnr: float
    ssim: float
    images: int
    broken: int
    counts_V: np.ndarray | None
    psnr_I: np.ndarray
    worst: list[int]
    pairs: list[tuple[np.ndarray, np.ndarray]]
    greyed: int = 0
    errors: tuple[BrokenImageError, ...] = ()
    chroma: float | None = None
    shift: float = 0.0

    @property
    def entropy(self) -> float:
        """Of the codes' uses, in bits."""
        assert self.counts_V is not None
        shares = self.counts_V[self.counts_V > 0] / self.counts_V.sum()
        return float(-(shares * np.log2(shares)).sum())

    @property
    def perplexity(self) -> float:
        """As many codes, used alike, would carry as much."""
        return float(2.0**self.entropy)

    @property
    def enough(self) -> bool:
        """Whether there are tokens enough to say something of the codebook."""
        return self.counts_V is None or int(self.counts_V.sum()) >= _USES * len(self.counts_V)

    @property
    def share(self) -> float:
        """Perplexity as a share of the codes, 0 where a single one is used; 1 of continuous tokens."""
        if self.counts_V is None:
            return 1.0
        return 0.0 if self.perplexity < 2 else self.perplexity / len(self.counts_V)

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        deciles = {f"p{share}": round(float(np.percentile(self.psnr_I, share)), 3) for share in (1, 10, 50, 90)}
        values: dict[str, Any] = {"psnr": self.psnr, "psnr_percentiles": deciles, "ssim": self.ssim}
        values |= {"images": self.images, "broken": self.broken, "greyed": self.greyed}
        values |= {} if self.chroma is None else {"chroma_correlation": self.chroma, "channel_shift": self.shift}
        if self.counts_V is not None:
            in_use = int((self.counts_V > 0).sum())
            values |= {
                "codes": len(self.counts_V),
                "codes_used": in_use,
                "perplexity": self.perplexity,
                "entropy_bits": self.entropy,
            }
        return values


@torch.no_grad()
def audit(
    tokenizer: Tokenizer,
    dataset: Dataset,
    *,
    reporter: Reporter | None = None,
    on_batch: Callable[[Tensor, Tensor], None] | None = None,
) -> Audit:
    """Reconstruct every image and count the codes.

    Args:
        tokenizer: A trained one, in evaluation mode.
        dataset: Images; labels are not read.
        reporter: Where progress goes.
        on_batch: Told of images and their reconstructions, uint8 (B, C, H, W) each, as they are made.

    Raises:
        MageKitError: If no image can be read.
    """
    device = next(iter(tokenizer.state_dict().values()), torch.zeros(())).device
    codes = tokenizer.spec.codes
    counts = torch.zeros(codes or 0, dtype=torch.int64, device=device)
    scores: list[tuple[float, float, int]] = []
    worst: list[tuple[float, int, np.ndarray, np.ndarray]] = []
    broken: list[BrokenImageError] = []
    colours = ColourCheck()
    with (reporter or Reporter()).task("auditing", len(dataset)) as task:
        parts = [range(start, min(start + _BATCH, len(dataset))) for start in range(0, len(dataset), _BATCH)]
        for part, stills in zip(parts, still_batches(dataset, parts), strict=True):
            broken += stills.broken
            if stills.samples:
                places = [sample.index for sample in stills.samples]
                views, tokens, outputs = _reconstruct(tokenizer, stills.samples, device)
                if codes:
                    counts += torch.bincount(tokens.flatten(), minlength=codes)
                if tokenizer.channels == 3:
                    colours.add(views, outputs)
                if on_batch is not None:
                    on_batch(views, outputs)
                values = list(zip(psnr(views, outputs).tolist(), ssim(views, outputs).tolist(), places, strict=True))
                scores += values
                pairs = zip(values, views.cpu().numpy(), outputs.cpu().numpy(), strict=True)
                worst += [(score, place, image, again) for (score, _, place), image, again in pairs]
                worst = sorted(worst, key=lambda item: item[:2])[:WORST]
            task.update(part.stop)
    if not scores:
        raise MageKitError(f"data: no image could be read, of {len(dataset)}; the last: {broken[-1]}")
    psnr_I, ssim_I = (np.array(column) for column in list(zip(*scores, strict=True))[:2])
    return Audit(
        float(psnr_I.mean()),
        float(ssim_I.mean()),
        len(scores),
        len(broken),
        counts.cpu().numpy() if codes else None,
        psnr_I,
        [place for _, place, _, _ in worst],
        [(image, again) for _, _, image, again in worst],
        errors=tuple(broken),
        chroma=colours.correlation,
        shift=colours.shift,
    )


def _reconstruct(
    tokenizer: Tokenizer, samples: Sequence[Sample], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, their tokens, and what these decode to, as a PNG would hold it."""
    views = torch.from_numpy(np.stack([sample.views[0] for sample in samples])).to(device)
    tokens = tokenizer.encode(views.float() / 255)
    return views, tokens, (tokenizer.decode(tokens).clamp(0, 1) * 255).byte()


def psnr(first_ICHW: Tensor, second_ICHW: Tensor) -> Tensor:
    """Return peak signal-to-noise ratios (I,) in dB of uint8 images; 100 where they are the same."""
    error = (first_ICHW.double() - second_ICHW.double()).square().mean(dim=(1, 2, 3)) / 255**2
    return (-10 * error.clamp_min(1e-10).log10()).float()


def ssim(first_ICHW: Tensor, second_ICHW: Tensor) -> Tensor:
    """Return structural similarities (I,) of uint8 images, window of 11 (less for smaller images), deviation 1.5."""
    side = min(_WINDOW, *first_ICHW.shape[-2:])
    side -= 1 - side % 2
    place = torch.arange(side, dtype=torch.float64, device=first_ICHW.device) - side // 2
    line = torch.exp(-place.square() / (2 * _SIGMA**2))
    window = torch.outer(line, line) / line.sum() ** 2
    channels = first_ICHW.shape[1]
    kernel = window.expand(channels, 1, side, side)

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel, groups=channels)

    x, y = first_ICHW.double() / 255, second_ICHW.double() / 255
    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x.square(), mean(y * y) - mean_y.square()
    both = mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return (top / ((mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2))).mean(dim=(1, 2, 3)).float()


def verdict(figures: Audit) -> str:
    """Say in words whether a model should be trained on these tokens."""
    remarks = [_of_pixels(figures), *_of_colours(figures), *_of_codes(figures), *_of_images(figures)]
    damage = figures.broken / (figures.broken + figures.images)
    collapse = figures.enough and figures.share < _COLLAPSED
    if figures.psnr < _POOR or collapse or damage > _BROKEN or _of_colours(figures):
        start = "Do not train on these tokens yet"
    else:
        start = "These tokens will do" if figures.enough else "Too few images to tell"
    return f"{start}: {'; '.join(remarks)}."


def _of_pixels(figures: Audit) -> str:
    level = f"({figures.psnr:.1f} dB)"
    if figures.psnr < _POOR:
        return f"reconstructions are poor {level}: what a model generates cannot be better than these"
    if figures.psnr < _FAIR:
        return f"reconstructions lose detail {level}: look at the worst ones"
    return f"reconstructions are sound {level}"


def _of_colours(figures: Audit) -> list[str]:
    if figures.chroma is None or (figures.chroma >= _TRUE and figures.shift <= _SHIFTED):
        return []
    where = f"their correlation is {figures.chroma:.2f}, means are off by {figures.shift:.3f}"
    return [f"hues are wrong ({where}): train longer, take more codes or raise chroma_weight"]


def _of_codes(figures: Audit) -> list[str]:
    if figures.counts_V is None:
        return []
    use = f"perplexity {figures.perplexity:.0f} of {len(figures.counts_V)} codes"
    if not figures.enough:
        tokens = int(figures.counts_V.sum())
        least = math.ceil(_USES * len(figures.counts_V) * figures.images / tokens)
        return [f"{use} over {tokens} tokens says little: audit {least:,} images or more"]
    if figures.share < _COLLAPSED:
        return [f"the codebook has collapsed ({use})"]
    if figures.share < _THIN:
        return [f"few codes do most of the work ({use}): these images are narrower than the codebook"]
    return [f"the codebook is well used ({use})"]


def _of_images(figures: Audit) -> list[str]:
    remarks = []
    low = float(np.percentile(figures.psnr_I, 1))
    if figures.psnr - low > _FAR and math.isfinite(low):
        remarks.append(f"one image in a hundred is below {low:.1f} dB: see what kind they are")
    if figures.greyed:
        remarks.append(
            f"{figures.greyed} images are in colour, which is lost before anything is measured: the tokens are grey"
        )
    if figures.broken:
        remarks.append(f"{figures.broken} of {figures.broken + figures.images} images cannot be read")
    return remarks
