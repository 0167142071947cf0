"""Kinds of features of an image: of a source within a model, or raw pixels; what each is made from.

Legend: B images, C channels, H x W pixels, D numbers of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mage_kit.base.doors import trusted
from mage_kit.base.plugin_code import foreign_code
from mage_kit.evaluation.feature_sources import FeatureSource, check_sources, pool_features
from mage_kit.models.mage import Mage
from mage_kit.store.folders import weights_digest

Precision = Literal["float32", "bfloat16"]
_SIDE = 32  # of images whose raw pixels are classified; larger ones are averaged down


@dataclass(frozen=True)
class Kind:
    """One kind of features, always from all tokens, nothing masked, dropped or random.

    Args:
        label: For people, as "untrained encoder".
        file: What files of it are called.
        model: What makes them, in evaluation mode; None for raw pixels.
        source: Where in the model they come from.
        precision: What the encoder computes in; features are float32 either way, the tokenizer always.
        inputs: What else they are made from, for the fingerprint.
    """

    label: str
    file: str
    model: Mage | None
    source: FeatureSource
    precision: Precision
    inputs: dict[str, Any]


def model_kinds(
    model: Mage,
    sources: Sequence[FeatureSource],
    *,
    called: str = "",
    precision: Precision = "float32",
    weights: str | None = None,
) -> list[Kind]:
    """Return the kinds of a model's features.

    Args:
        model: In evaluation mode by the time they are made.
        sources: Which features.
        called: Before a source's name, for people and files, as "untrained".
        precision: What the encoder computes in.
        weights: SHA-256 of the weights, where it is known.

    Raises:
        ValueError: If a source names a block that there is not.
    """
    check_sources(model, sources)
    digest = weights_digest(model) if weights is None else weights
    code = foreign_code(model.modules())
    start, end = called.replace(" ", "-") + "-" if called else "", "-bf16" if precision == "bfloat16" else ""
    return [
        Kind(
            label=f"{called} {source}".strip(),
            file=f"{start}{source}{end}",
            model=model,
            source=source,
            precision=precision,
            inputs={
                "weights_sha256": digest,
                "source": str(source),
                "precision": precision,
                **({"code_sha256": code} if code else {}),
            },
        )
        for source in sources
    ]


def pixel_kind() -> Kind:
    """Return raw pixels, averaged down to 32 x 32 where they are larger: what every feature has to beat."""
    return Kind("raw pixels", "pixels", None, FeatureSource(), "float32", {"side": _SIDE})


@torch.no_grad()
@trusted()
def compute(kinds: Sequence[Kind], views_BCHW: np.ndarray) -> list[np.ndarray]:
    """Return float32 features (B, D) of each kind; each model and tokenizer looks at the images once a precision.

    Args:
        kinds: Which ones.
        views_BCHW: uint8, evaluation views.
    """
    features: dict[int, np.ndarray] = {}
    tokens: dict[tuple[int, str], Tensor] = {}
    for model, precision in {(id(kind.model), kind.precision): (kind.model, kind.precision) for kind in kinds}.values():
        mine = [place for place, kind in enumerate(kinds) if (kind.model, kind.precision) == (model, precision)]
        if model is None:
            values = [_pixels(torch.from_numpy(views_BCHW))] * len(mine)
        else:
            key = (id(model.tokenizer), model.input)
            if key not in tokens:
                tokens[key] = model.see(torch.from_numpy(views_BCHW).to(model.device).float() / 255)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                values = pool_features(model, tokens[key], [kinds[place].source for place in mine])
        features.update({place: value.cpu().numpy() for place, value in zip(mine, values, strict=True)})
    return [features[place] for place in range(len(kinds))]


def _pixels(views_BCHW: Tensor) -> Tensor:
    size = (min(_SIDE, views_BCHW.shape[2]), min(_SIDE, views_BCHW.shape[3]))
    return F.adaptive_avg_pool2d(views_BCHW.float() / 255, size).flatten(1)
