"""Images to cached tokens: by any number of processes, left and taken up again at any moment.

Legend: n images of a token file, K crops, F 1 or 2 (as cropped, and mirrored), L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mage_kit import processes
from mage_kit.datasets import Dataset, Sample
from mage_kit.datasets.token_store import (
    CACHE_FILE,
    NO_LABEL,
    CacheCard,
    read_card,
    read_notes,
    shard_file,
    shard_notes,
)
from mage_kit.draws import derive
from mage_kit.errors import BrokenImageError, MageKitError, RecipeError
from mage_kit.files import drop_temporaries, write_json, write_tensors
from mage_kit.progress import Reporter
from mage_kit.recipes.recipe import Recipe
from mage_kit.storage import TOKENIZER_FOLDER, best_device, describe_tokenizer, save_tokenizer
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.broken import BrokenImages
from mage_kit.training.resolve import check
from mage_kit.training.sources import WeightFolder, fill_tokenizer
from mage_kit.training.tasks.base import to_float
from mage_kit.training.tasks.tokens import token_precision

_VIEWS = 8192  # views a token file, at most: what is lost when the command is killed
_SHARD = (16, 1024)  # fewest and most images a token file
_AT_ONCE = 64  # views that the tokenizer sees at once


def tokenize(
    recipe: Recipe,
    out: Path,
    *,
    crops: int = 1,
    mirrored: bool = False,
    workers: int = 0,
    shard: int | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Tokenise every image of a recipe's data under seeded augmentations.

    Args:
        recipe: Its data, tokenizer (with `weights`) and seed count.
        out: Cache folder; new, empty, or one of the same tokenizer, transform and source, which is completed.
        crops: Augmented views of each image.
        mirrored: Whether each view is kept as cropped and mirrored; else flips are drawn with the crops.
        workers: Processes that load images; 0 loads in this one.
        shard: Images a token file; None for as many as make some 8,000 views.
        reporter: Where progress goes.

    Returns:
        The cache folder.

    Raises:
        MageKitError: If the tokenizer is untrained, the folder holds something else, or too many images are broken.
    """
    device = best_device()
    processes.start(device)
    reporter = (reporter or Reporter()) if processes.is_first() else Reporter.silent()
    shard = shard or min(max(_VIEWS // (crops * (1 + mirrored)), _SHARD[0]), _SHARD[1])
    dataset, tokenizer = _parts(recipe, mirrored)
    tokenizer = tokenizer.to(device)
    asked = recipe.training.get("precision") if recipe.training else "auto"
    card = processes.on_first(lambda: _open(recipe, dataset, tokenizer, out, crops, mirrored, shard, asked, device))
    reporter.say(
        f"tokenizing {len(dataset)} images, {crops} crops{' x mirrored' if mirrored else ''}, {card.tokenizer}"
    )
    seed = derive(recipe.seed, "tokenize")
    dataset.augment = dataset.augment.model_copy(
        update={"views": crops, "flip": 0.0 if mirrored else dataset.augment.flip}
    )
    broken = BrokenImages(dataset, out, reporter)
    missing = processes.on_first(lambda: [n for n in range(card.files) if not shard_file(out, n).is_file()])
    mine = missing[processes.rank() :: processes.world()]
    with reporter.task("token files of the first process", len(mine)) as task:
        for count, number in enumerate(mine, start=1):
            _write_shard(dataset, tokenizer, out, card, number, seed, workers, broken)
            task.update(count)
            if broken.too_many:
                break
    if processes.is_first():
        for number in range(card.files):  # those of an earlier start too
            broken.note(_broken_in(shard_file(out, number)))
    broken.settle()
    return out


def _broken_in(file: Path) -> list[tuple[str, str]]:
    """What a token file says was broken among its images."""
    if not file.is_file():
        return []
    with safe_open(file, framework="np") as held:
        return read_notes(held.metadata())[1]


def _parts(recipe: Recipe, mirrored: bool) -> tuple[Dataset, Tokenizer]:
    check(recipe)
    weights: str | None = recipe.tokenizer.get("weights")
    if weights is None:
        raise RecipeError(
            ["$.tokenizer.weights: null, must name a folder with a trained tokenizer (--set tokenizer.weights=DIR)"],
            recipe.name,
        )
    dataset = recipe.build_dataset()
    if dataset.gives_tokens:
        raise RecipeError(["$.data: a token cache already, must be images"], recipe.name)
    if mirrored and not dataset.augment.flip:
        raise RecipeError(["$.data.augment.flip: 0, so --flip would make what training never sees"], recipe.name)
    tokenizer = recipe.build_tokenizer()
    fill_tokenizer(tokenizer, recipe.tokenizer.model_dump(mode="json"), WeightFolder(Path(weights)), recipe.name)
    if not tokenizer.spec.discrete:
        raise RecipeError([f"$.tokenizer.kind: {recipe.tokenizer.kind}, has no codes to cache"], recipe.name)
    return dataset, tokenizer


def _open(
    recipe: Recipe,
    dataset: Dataset,
    tokenizer: Tokenizer,
    out: Path,
    crops: int,
    mirrored: bool,
    shard: int,
    asked: str,
    device: torch.device,
) -> CacheCard:
    """Make the folder, or make sure that it is a cache of just this."""
    before = read_card(out) if (out / CACHE_FILE).is_file() else None
    with processes.alone():
        precision = (
            before.tokenizer["precision"] if before else token_precision(tokenizer, dataset, device, asked).value
        )
    augment = {name: value for name, value in dataset.augment.model_dump(mode="json").items() if name != "views"}
    transform = {"augment": augment, "crops": crops, "mirrored": mirrored, "seed": recipe.seed}
    transform |= {"image_size": list(dataset.image_size), "channels": dataset.channels}
    spec = tokenizer.spec
    card = CacheCard(
        tokenizer={**describe_tokenizer(tokenizer), "precision": precision},
        transform=transform,
        source=dict(dataset.identity()),
        classes=dataset.classes,
        images=len(dataset),
        shard=before.shard if before else shard,
        grid=(spec.grid.height, spec.grid.width),
        codes=spec.codes or 0,
    )
    if before is not None:
        if found := before.differing(card):
            raise MageKitError(
                "\n".join([f"out: '{out}', is a cache of something else; choose another folder", *found])
            )
        drop_temporaries(out)
        return card
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MageKitError(f"out: '{out}', is not empty; choose another folder, or a cache to be completed")
    out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, out / TOKENIZER_FOLDER)
    write_json(out / CACHE_FILE, card.written())
    return card


class _Views(TorchDataset["Sample | BrokenImageError | MageKitError"]):
    """Samples by index; what is broken comes back as its error."""

    def __init__(self, dataset: Dataset, first: int, last: int, seed: int) -> None:
        self.dataset, self.first, self.last, self.seed = dataset, first, last, seed

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, place: int) -> Sample | BrokenImageError | MageKitError:
        try:
            return self.dataset.sample(self.first + place, 0, self.seed)
        except MageKitError as error:
            return error


def _write_shard(
    dataset: Dataset,
    tokenizer: Tokenizer,
    out: Path,
    card: CacheCard,
    number: int,
    seed: int,
    workers: int,
    broken: BrokenImages,
) -> None:
    first, last = number * card.shard, min((number + 1) * card.shard, card.images)
    ids, index, labels = [], [], []
    lost: list[tuple[str, str]] = []
    for samples in _chunks(_Views(dataset, first, last, seed), max(1, _AT_ONCE // card.crops), workers):
        good = [sample for sample in samples if isinstance(sample, Sample)]
        for error in (sample for sample in samples if not isinstance(sample, Sample)):
            if not isinstance(error, BrokenImageError) or not dataset.max_broken:
                raise error
            lost.append((error.name, error.reason))
        if good:
            ids.append(_encode(tokenizer, good, card))
        index += [sample.index for sample in good]
        labels += [NO_LABEL if sample.label is None else sample.label for sample in good]
    kind = torch.int32 if card.wide else torch.int16
    empty = torch.empty(0, card.crops, card.mirrored, card.grid[0] * card.grid[1], dtype=kind)
    tensors = {"ids": torch.cat([empty, *ids]), "index": torch.tensor(index), "labels": torch.tensor(labels)}
    whole = {name: _whole_numbers(tensor) for name, tensor in tensors.items()}
    write_tensors(shard_file(out, number), whole, shard_notes(whole["ids"].numpy(), lost))
    broken.note(lost)


def _whole_numbers(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.int16, torch.int32) else tensor.to(torch.int64)


def _chunks(views: _Views, size: int, workers: int) -> Iterator[list[Sample | BrokenImageError | MageKitError]]:
    loader: DataLoader[Sample | BrokenImageError | MageKitError] = DataLoader(
        views, batch_size=size, num_workers=workers, collate_fn=list, generator=torch.Generator().manual_seed(0)
    )
    yield from loader


@torch.no_grad()
def _encode(tokenizer: Tokenizer, samples: list[Sample], card: CacheCard) -> Tensor:
    """Return ids (n, K, F, L)."""
    device = next(tokenizer.parameters()).device
    views = torch.from_numpy(np.stack([view for sample in samples for view in sample.views]))
    both = torch.stack([views, views.flip(-1)], dim=1) if card.mirrored == 2 else views[:, None]
    images = to_float(both.flatten(0, 1), device)
    with torch.autocast(device.type, torch.bfloat16, enabled=card.tokenizer["precision"] == "bfloat16"):
        ids = torch.cat([tokenizer.encode(part) for part in images.split(_AT_ONCE)])
    kind = torch.int32 if card.wide else torch.int16
    made: Tensor = ids.to("cpu", kind).unflatten(0, (len(samples), card.crops, card.mirrored))
    return made
