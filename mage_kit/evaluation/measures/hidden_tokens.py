"""Statistics of tokens: what a model knows of hidden ones by how many are hidden, and what its samples are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mage_kit.base.errors import MageKitError, MissingExtraError
from mage_kit.base.fields import Positive
from mage_kit.base.version import versions
from mage_kit.datasets import Dataset
from mage_kit.datasets.base import fingerprint
from mage_kit.datasets.stills import broken_facts, still_batches
from mage_kit.datasets.subset import Subset, draw_places
from mage_kit.evaluation.measures.base import MEASURES, Measure, Outcome
from mage_kit.evaluation.measures.request import Request
from mage_kit.evaluation.run_images import images_to_look_at
from mage_kit.evaluation.token_plots import plot_tokens
from mage_kit.evaluation.token_statistics import (
    CodeUse,
    HiddenTokens,
    add_hidden,
    code_use,
    decoding_shares,
    difference_of_use,
    hidden_places,
)
from mage_kit.generation import generate
from mage_kit.layers.blocks import evaluating
from mage_kit.models.mage import Mage
from mage_kit.planning.passes import Passes
from mage_kit.recipes import Recipe
from mage_kit.store.folders import RECIPE_FILE, best_device, weights_digest
from mage_kit.store.loading import load
from mage_kit.tokenizers import TOKENS

Share = Annotated[float, Field(gt=0, le=1)]
_BATCH = 64


@MEASURES.register("tokens")
class TokenStatistics(Measure):
    """Loss and accuracy of hidden tokens by their share and by step of decoding, calibration, codes, diversity.

    Args:
        shares: Of the tokens that are hidden, uniformly; nothing of the others is dropped.
        images: Looked at; drawn once for all runs, since files are often sorted by class.
        n: Images to generate; 0 for none.
    """

    title: ClassVar[str] = "Statistics of tokens"
    takes: ClassVar[frozenset[str]] = frozenset({"data", "weights", "seed"})
    flags: ClassVar[Mapping[str, str]] = {"n": "-n"}
    caption: ClassVar[str] = "hidden tokens by their share and by step of decoding, calibration, use of codes"

    @classmethod
    def fits(cls, model: Mage) -> bool:
        """It must predict its tokenizer's tokens."""
        return model.decoder is not None and TOKENS in model.heads

    def __init__(
        self,
        *,
        shares: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        images: Positive = 512,
        n: Annotated[int, Field(ge=0, le=100_000)] = 256,
    ) -> None:
        self.shares, self.images, self.n = tuple(dict.fromkeys(shares)), images, n

    def run(self, request: Request) -> Outcome:
        """Hide tokens of real images and ask for them; generate, and count codes."""
        model = load(request.run, best_device(), weights=request.weights)
        recipe = Recipe.load(request.run / RECIPE_FILE)
        every, where = images_to_look_at(recipe, request.data)
        one_class_I = np.zeros(len(every), dtype=np.int64)  # the same places for every run and seed
        dataset = Subset(every, sorted(draw_places(one_class_I, 1, self.images, seed=0).tolist()))
        with evaluating(model):
            hidden, ids_BL, facts = self._ask(model, dataset, request)
        steps = dict(enumerate(decoding_shares(model) if model.generates else (), start=1))
        rows: dict[str, Any] = {f"{share:g} hidden": hidden[share].as_dict() for share in self.shares}
        rows |= {f"step {step} of {len(steps)}": hidden[share].as_dict() for step, share in steps.items()}
        uses = self._uses(model, ids_BL, request)
        rows |= _use_rows(uses)
        protocol = (
            f"{len(dataset)} images drawn from {len(every)}; uniformly hidden tokens predicted from all others, "
            f"nothing dropped; calibration error over 15 bins of confidence; {self.n} samples by the model's decoding"
        )
        about = {
            "run": recipe.name, "weights": request.weights, "weights_sha256": weights_digest(model),
            "data": where, "data_sha256": fingerprint(dataset),
            "images": len(dataset), "versions": versions(), **facts,
        }  # fmt: skip
        by_step = {step: hidden[share] for step, share in steps.items()}
        try:
            picture = plot_tokens({share: hidden[share] for share in self.shares}, by_step, uses)
        except MissingExtraError as error:
            request.reporter.say(f"no picture: {error}")
            picture = None
        return Outcome({**about, "protocol": protocol, "rows": rows}, picture)

    def _ask(
        self, model: Mage, dataset: Dataset, request: Request
    ) -> tuple[dict[float, HiddenTokens], Tensor, dict[str, Any]]:
        """Sums by share, those of decoding's steps among them, the images' ids, and which could not be read."""
        shares = [*self.shares, *(decoding_shares(model) if model.generates else ())]
        by_share = {share: HiddenTokens() for share in shares}
        parts, broken = list[Tensor](), []
        batches = [range(start, min(start + _BATCH, len(dataset))) for start in range(0, len(dataset), _BATCH)]
        with request.reporter.task("asking for hidden tokens", len(dataset)) as task:
            for part, stills in zip(batches, still_batches(dataset, batches), strict=True):
                broken += stills.broken
                if stills.samples:
                    views = torch.stack([torch.from_numpy(sample.views[0]) for sample in stills.samples])
                    streams = model.tokenize(views.to(model.device).float() / 255)
                    index_B = torch.tensor([sample.index for sample in stills.samples])
                    for share, sums in by_share.items():
                        places_BL = hidden_places(index_B, model.spec.grid.size, share, request.seed)
                        add_hidden(sums, model, streams, places_BL.to(model.device))
                    parts.append(streams[TOKENS])
                task.update(part.stop)
        if not parts:
            raise MageKitError(f"data: no image could be read, of {len(dataset)}; the last: {broken[-1]}")
        return by_share, torch.cat(parts), broken_facts(broken, dataset)

    def _uses(self, model: Mage, ids_BL: Tensor, request: Request) -> dict[str, CodeUse]:
        """Use of codes by data and samples; none of tokens that are no single ids."""
        codes = model.tokenizer.spec.codes
        if not codes or ids_BL.ndim != 2:
            return {}
        uses = {"data": code_use(ids_BL, codes)}
        if self.n >= 2 and model.generates:
            with request.reporter.task(f"generating {self.n} images", self.n * model.decoding.steps) as task:
                samples = generate(model, self.n, seed=request.seed, on_progress=lambda done, _: task.update(done))
            uses["samples"] = code_use(samples.ids_BL, codes)
        return uses

    def passes(self, train: int, test: int) -> Passes:
        """Every image once through the tokenizer, and once a share through the rest."""
        return Passes(tokenized=self.images, encoded=self.images * len(self.shares), generated=self.n)


def _use_rows(uses: Mapping[str, CodeUse]) -> dict[str, dict[str, float]]:
    rows = {name: use.as_dict() for name, use in uses.items()}
    if "samples" in uses:
        rows["samples"]["difference_of_use"] = difference_of_use(uses["data"], uses["samples"])
    return rows
