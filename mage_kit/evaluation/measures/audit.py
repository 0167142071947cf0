"""An audit of a tokenizer on images: figures, a verdict in words, and the worst images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch

from mage_kit.base.errors import MageKitError
from mage_kit.base.version import versions
from mage_kit.datasets.base import fingerprint
from mage_kit.datasets.stills import broken_facts
from mage_kit.evaluation.generation_metrics.reference import look_at
from mage_kit.evaluation.image_quality import tokenizer_and_images
from mage_kit.evaluation.measures.base import MEASURES, Figure, Measure, Outcome
from mage_kit.evaluation.measures.request import Request
from mage_kit.evaluation.tokenizer_audit import Audit, audit, verdict
from mage_kit.images.pictures import labelled_rows
from mage_kit.planning.passes import Passes
from mage_kit.store.folders import weights_digest

_SMALL = 64  # pixels: smaller images are enlarged


@MEASURES.register("audit")
class TokenizerAudit(Measure):
    """Is a tokenizer fit for these images? PSNR, SSIM, codes used, the worst images, and a verdict in words."""

    title: ClassVar[str] = "Audit of the tokenizer"
    needs: ClassVar[Literal["mage", "classifier", "tokenizer"]] = "tokenizer"
    takes: ClassVar[frozenset[str]] = frozenset({"data", "file"})
    caption: ClassVar[str] = "The worst images and their reconstructions"

    def check(self, request: Request) -> None:
        """There must be images."""
        if request.data is None:
            raise MageKitError("--data: none given; name the folder of images that the tokenizer is to be fit for")

    def run(self, request: Request) -> Outcome:
        """Reconstruct every image and count the codes."""
        assert request.data is not None
        tokenizer, images = tokenizer_and_images(request.run, request.data, max_broken=1.0)
        greyed = look_at(images)["greyed"]  # first: what goes wrong here costs no finished figures
        figures = replace(audit(tokenizer, images, reporter=request.reporter), greyed=greyed)
        numbers = figures.as_dict()
        result = {
            "tokenizer": str(request.run),
            "tokenizer_sha256": weights_digest(tokenizer),
            "data": str(request.data),
            "data_sha256": fingerprint(images),
            "images": figures.images,
            **broken_facts(figures.errors, images),
            "versions": versions(),
            "protocol": f"audit of the tokenizer: {verdict(figures)}",
            "verdict": verdict(figures),
            "rows": {"reconstructions": numbers},
            "worst": {images.name(place): round(float(score), 3) for place, score in _worst(figures)},
        }
        rows = [
            (text, torch.stack([torch.from_numpy(pair[place]) for pair in figures.pairs]).float() / 255)
            for place, text in enumerate(("worst images", "their reconstructions"))
        ]
        return Outcome(result, labelled_rows(rows, scale=2 if max(tokenizer.image_size) <= _SMALL else 1))

    @classmethod
    def figures(cls, result: Mapping[str, Any]) -> list[Figure]:
        """Return PSNR, SSIM and what the codes are used for."""
        numbers = result["rows"]["reconstructions"]
        return [
            Figure("reconstructions", name, float(value))
            for name, value in numbers.items()
            if isinstance(value, int | float)
        ]

    def passes(self, train: int, test: int) -> Passes:
        """Every test image there and back; back is not counted."""
        return Passes(tokenized=test)


def _worst(figures: Audit) -> list[tuple[int, float]]:
    scores = sorted(figures.psnr_I)
    return list(zip(figures.worst, scores[: len(figures.worst)], strict=True))
