"""What a report shows of a tokenizer: pictures beside what it makes of them, and which codes it uses.

Legend: B images, C channels, H x W pixels, V codes.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mage_kit.base.progress import ProgressTask, Reporter
from mage_kit.datasets import Dataset
from mage_kit.images.pictures import grid_picture
from mage_kit.recipes.recipe import Recipe
from mage_kit.report.charts import codebook_chart
from mage_kit.report.content import Part, picture, scale_of
from mage_kit.report.own_images import still_of, stills_of
from mage_kit.store.folders import best_device
from mage_kit.store.loading import load_tokenizer
from mage_kit.tokenizers import Tokenizer

_SHOWN = 8
_COUNTED = 512  # images whose tokens are counted
_AT_ONCE = 32


def tokenizer_parts(run: Path, recipe: Recipe, reporter: Reporter) -> list[Part]:
    """Show what a run's tokenizer gives back of the run's own images; or say why nothing can be shown."""
    dataset, why = stills_of(run, recipe)
    if dataset is None:
        return [Part("Reconstruction", f"None: the run's data cannot be opened here ({why}).")]
    tokenizer = load_tokenizer(run, best_device())
    parts = [reconstruction(tokenizer, dataset)]
    if tokenizer.spec.discrete:
        with reporter.task("codes of images", min(_COUNTED, len(dataset))) as task:
            parts.append(codebook(tokenizer, dataset, task))
    return parts


@torch.no_grad()
def reconstruction(tokenizer: Tokenizer, dataset: Dataset) -> Part:
    """Encode and decode some images, spread over the data."""
    part = Part("Reconstruction", "Images of the run's own data, and under each what its tokens give back.")
    places = np.linspace(0, len(dataset) - 1, min(_SHOWN, len(dataset))).astype(int)
    seen_BCHW = _views(dataset, places, tokenizer)
    if not len(seen_BCHW):
        part.note = "None: none of the images looked at can be read."
        return part
    given_BCHW = tokenizer.decode(tokenizer.encode(seen_BCHW)).float().clamp(0, 1)
    sheet = grid_picture(torch.cat([seen_BCHW.float(), given_BCHW]).cpu(), len(seen_BCHW))
    decibels = 10 * math.log10(1 / max(1e-12, float((given_BCHW - seen_BCHW).square().mean())))
    caption = f"original above, given back below: {decibels:.1f} dB on these {len(seen_BCHW)}"
    part.pictures.append(picture(sheet, caption, scale_of(tokenizer)))
    return part


@torch.no_grad()
def codebook(tokenizer: Tokenizer, dataset: Dataset, task: ProgressTask) -> Part:
    """Count which codes a tokenizer uses on a run's images; all ids of a token count."""
    count = min(_COUNTED, len(dataset))
    places = np.linspace(0, len(dataset) - 1, count).astype(int)
    totals, n_images = torch.zeros(tokenizer.spec.codes or 0, dtype=torch.int64), 0
    for first in range(0, count, _AT_ONCE):
        views_BCHW = _views(dataset, places[first : first + _AT_ONCE], tokenizer)
        if len(views_BCHW):
            totals += torch.bincount(tokenizer.encode(views_BCHW).flatten().cpu(), minlength=len(totals))
        n_images += len(views_BCHW)
        task.update(min(count, first + _AT_ONCE))
    p = totals.double() / max(1, int(totals.sum()))
    perplexity = math.exp(float(torch.special.entr(p).sum()))
    in_use = int((totals > 0).sum())
    rows = [
        ("codes used", f"{in_use} of {len(totals)} ({in_use / len(totals):.0%})"),
        ("perplexity", f"{perplexity:.1f} (as many codes, used alike, would carry as much)"),
    ]
    rest = f"; {count - n_images} are broken" if n_images < count else ""
    note = f"On {n_images} images of the run's data{rest}."
    return Part("Codebook", note, charts=[codebook_chart(totals.tolist())], rows=rows)


def _views(dataset: Dataset, places: np.ndarray, tokenizer: Tokenizer) -> Tensor:
    """Images in [0, 1] as the tokenizer takes them, without broken ones."""
    views = [view for place in places if (view := still_of(dataset, int(place))) is not None]
    template = next(tokenizer.parameters(), torch.empty(0))
    if not views:
        return template.new_empty(0)
    return torch.from_numpy(np.stack(views)).to(template.device).to(template.dtype) / 255
