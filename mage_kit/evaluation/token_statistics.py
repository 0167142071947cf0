"""What a model knows of hidden tokens, and what its samples are made of: numbers that tell why a figure moved.

Hidden places follow (seed, image, place) alone: at a larger share the places of a smaller one are hidden too, and two
models are asked about the same places.

Legend: B images, L tokens, M hidden tokens, V codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mage_kit.base.draws import keys, uniforms
from mage_kit.base.errors import MageKitError
from mage_kit.heads.base import checked_rows
from mage_kit.models.mage import Mage
from mage_kit.tokenizers import TOKENS

BINS = 15  # of confidence (Guo et al., 2017)


@dataclass
class HiddenTokens:
    """Sums over the hidden tokens of one share.

    Args:
        loss: Of the head's own loss.
        hits: Tokens that were predicted right; None where a head does not say.
        count: Tokens.
        sureness_3K: By bin of confidence: its sum, hits, tokens; all 0 where there are no probabilities.
    """

    loss: float = 0.0
    hits: float | None = 0.0
    count: int = 0
    sureness_3K: Tensor = field(default_factory=lambda: torch.zeros(3, BINS, dtype=torch.float64))

    def as_dict(self) -> dict[str, float]:
        """Return mean loss, accuracy, and the expected calibration error, where they are known."""
        numbers = {"loss": self.loss / self.count}
        if self.hits is not None:
            numbers["accuracy"] = self.hits / self.count
        sure, hits, counts = self.sureness_3K
        if counts.sum() > 0:
            numbers["confidence"] = float(sure.sum() / counts.sum())
            numbers["calibration_error"] = float((sure - hits).abs().sum() / counts.sum())
        return numbers


def hidden_places(index_B: Tensor, length: int, share: float, seed: int) -> Tensor:
    """Return which places of images are hidden: bool (B, L), as many of each image.

    Args:
        index_B: int64 numbers of the images.
        length: Tokens an image.
        share: Of the tokens; at least one is hidden.
        seed: Of the places.
    """
    noise_BL = uniforms(keys(seed, "hidden", index_B), length)
    count = min(length, max(1, int(np.ceil(share * length - 1e-9))))
    ranks_BL = noise_BL.argsort(dim=1).argsort(dim=1)
    return ranks_BL < count


@torch.no_grad()
def add_hidden(sums: HiddenTokens, model: Mage, streams: Mapping[str, Tensor], hidden_BL: Tensor) -> None:
    """Predict the hidden tokens of images from all others, nothing dropped, and add up what came of it.

    Args:
        sums: Changed in place.
        model: In evaluation mode; it predicts its tokenizer's tokens.
        streams: Tokens by name, as `Mage.tokenize` gives them, on the model's device.
        hidden_BL: bool, where tokens are hidden.

    Raises:
        MageKitError: If no loss of the model predicts its tokenizer's tokens.
    """
    if model.decoder is None or TOKENS not in model.heads:
        raise MageKitError("model: predicts no tokens of its tokenizer, so that nothing can be asked about them")
    rows_M = hidden_BL.flatten().nonzero()[:, 0]
    predictions_MX = model.logits(streams[model.input], hidden_BL, rows_M=rows_M).float()
    targets_M = streams[TOKENS].flatten(0, 1).index_select(0, rows_M)
    rows = checked_rows(model.head, predictions_MX, targets_M)
    sums.loss += float(rows.rows_M.double().sum())
    sums.count += len(rows_M)
    if rows.hits_M is None or sums.hits is None:
        sums.hits = None
        return
    sums.hits += float(rows.hits_M.double().sum())
    if model.head.gives_logits and targets_M.ndim == 1:
        sure_M = predictions_MX.softmax(dim=-1).amax(dim=-1).double().cpu()
        place_M = (sure_M * BINS).long().clamp_max(BINS - 1)
        for row, values_M in enumerate((sure_M, rows.hits_M.double().cpu(), torch.ones_like(sure_M))):
            sums.sureness_3K[row].index_add_(0, place_M, values_M)


@dataclass(frozen=True)
class CodeUse:
    """What images are made of, by their ids.

    Args:
        counts_V: Uses of each code.
        alike: Probability that two of the images have one code at one place: 1 where all are the same.
    """

    counts_V: np.ndarray
    alike: float

    def as_dict(self) -> dict[str, float]:
        """Return codes in use, their share, and perplexity."""
        shares = self.counts_V[self.counts_V > 0] / self.counts_V.sum()
        in_use = int((self.counts_V > 0).sum())
        return {
            "codes_used": in_use,
            "share_used": in_use / len(self.counts_V),
            "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
            "diversity": 1 - self.alike,
        }


def code_use(ids_BL: Tensor, codes: int) -> CodeUse:
    """Count the codes of images.

    Args:
        ids_BL: int64 ids of at least two images.
        codes: V.
    """
    count = len(ids_BL)
    if count < 2:
        raise MageKitError(f"images: {count}, must be at least 2 to be compared")
    pairs = 0
    for place_B in ids_BL.cpu().T:
        uses_V = torch.bincount(place_B, minlength=codes)
        pairs += int((uses_V * (uses_V - 1)).sum())
    alike = pairs / (ids_BL.shape[1] * count * (count - 1))
    return CodeUse(torch.bincount(ids_BL.cpu().flatten(), minlength=codes).numpy(), alike)


def difference_of_use(first: CodeUse, second: CodeUse) -> float:
    """Return half of the summed differences of how often codes are used (total variation), in [0, 1]."""
    one, other = (use.counts_V / use.counts_V.sum() for use in (first, second))
    return float(np.abs(one - other).sum() / 2)


def decoding_shares(model: Mage) -> Sequence[float]:
    """Return the share of tokens that is hidden before each step of the model's own decoding which decodes any."""
    length, decoding = model.spec.grid.size, model.decoding
    hidden = [length, *decoding.schedule.counts(length, decoding.steps)]
    return [count / length for count in hidden if count]
