"""Images to cached tokens: by any number of processes, left and taken up again at any moment.

Legend: n images of a token file, K crops, F 1 or 2 (as cropped, and mirrored), L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mage_kit.base import processes
from mage_kit.base.checks import whole_number
from mage_kit.base.doors import trusted
from mage_kit.base.draws import derive
from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.base.fields import MOST_WORKERS
from mage_kit.base.files import drop_temporaries, write_json, write_tensors
from mage_kit.base.progress import Reporter
from mage_kit.datasets import Dataset, Sample
from mage_kit.datasets.base import identity_of
from mage_kit.datasets.token_store import (
    CACHE_FILE,
    NO_LABEL,
    CacheCard,
    read_cache_card,
    read_notes,
    shard_file,
    shard_notes,
)
from mage_kit.recipes import Recipe
from mage_kit.store.folders import TOKENIZER_FOLDER, best_device, describe_tokenizer, save_tokenizer
from mage_kit.training.broken_images import BrokenImages
from mage_kit.training.resolve_tokens import TokenSources, resolve_tokens
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
        ValueError: If `workers` is outside 0 to 256.
    """
    workers = whole_number("workers", workers, 0, MOST_WORKERS)
    device = best_device()
    processes.start(device)
    reporter = (reporter or Reporter()) if processes.is_first() else Reporter.silent()
    shard = shard or min(max(_VIEWS // (crops * (1 + mirrored)), _SHARD[0]), _SHARD[1])
    sources = resolve_tokens(recipe, mirrored, device)
    dataset = sources.images
    card = processes.on_first(lambda: _open(sources, out, crops, mirrored, shard, device))
    reporter.say(
        f"tokenizing {len(dataset)} images, {crops} crops{' x mirrored' if mirrored else ''}, {card.tokenizer}"
    )
    seed = derive(sources.seed, "tokenize")
    dataset.augment = dataset.augment.model_copy(
        update={"views": crops, "flip": 0.0 if mirrored else dataset.augment.flip}
    )
    broken = BrokenImages(dataset, out, reporter)
    missing = processes.on_first(lambda: [n for n in range(card.files) if not shard_file(out, n).is_file()])
    mine = missing[processes.rank() :: processes.world()]
    with reporter.task("token files of the first process", len(mine)) as task:
        for count, number in enumerate(mine, start=1):
            _write_shard(sources, out, card, number, seed, workers, broken)
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
    try:
        with safe_open(file, framework="np") as reader:
            return read_notes(reader.metadata()).broken
    except (SafetensorError, OSError, ValueError) as error:
        raise MageKitError(f"{file}: damaged ({error}); remove it and run mage-kit tokenize again") from None


def _open(sources: TokenSources, out: Path, crops: int, mirrored: bool, shard: int, device: torch.device) -> CacheCard:
    """Make the folder, or make sure that it is a cache of just this."""
    before = read_cache_card(out) if (out / CACHE_FILE).is_file() else None
    dataset, specs = sources.images, sources.specs()
    precision = before.tokenizer["precision"] if before else "float32"
    if before is None and all(spec.discrete for spec in specs.values()):
        with processes.alone():
            precision = token_precision(sources.encode, dataset, device, sources.precision).value
    augment = {name: value for name, value in dataset.augment.model_dump(mode="json").items() if name != "views"}
    transform = {"augment": augment, "crops": crops, "mirrored": mirrored, "seed": sources.seed}
    transform |= {"image_size": list(dataset.image_size), "channels": dataset.channels}
    grid = next(iter(specs.values())).grid
    card = CacheCard(
        tokenizer={**describe_tokenizer(sources.own), "precision": precision},
        targets={name: dict(describe_tokenizer(other)) for name, other in sources.targets.items()},
        transform=transform,
        source=identity_of(dataset),
        classes=dataset.classes,
        images=len(dataset),
        shard=before.shard if before else shard,
        grid=(grid.height, grid.width),
        streams={n: {"codes": s.codes, "width": s.width, "factors": s.factors} for n, s in specs.items()},
    )
    if before is not None:
        if lines := before.differing(card):
            raise MageKitError(
                "\n".join([f"out: '{out}', is a cache of something else; choose another folder", *lines])
            )
        drop_temporaries(out)
        return card
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MageKitError(f"out: '{out}', is not empty; choose another folder, or a cache to be completed")
    out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(sources.own, out / TOKENIZER_FOLDER)
    write_json(out / CACHE_FILE, card.as_json(), listed=True)
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
    sources: TokenSources,
    out: Path,
    card: CacheCard,
    number: int,
    seed: int,
    workers: int,
    broken: BrokenImages,
) -> None:
    first, last = number * card.shard, min((number + 1) * card.shard, card.images)
    parts: dict[str, list[Tensor]] = {name: [_empty(card, name)] for name in card.streams}
    index, labels = [], []
    lost: list[tuple[str, str]] = []
    for samples in _chunks(_Views(sources.images, first, last, seed), max(1, _AT_ONCE // card.crops), workers):
        good = [sample for sample in samples if isinstance(sample, Sample)]
        for error in (sample for sample in samples if not isinstance(sample, Sample)):
            if not isinstance(error, BrokenImageError) or not sources.images.max_broken:
                raise error
            lost.append((error.name, error.reason))
        for name, tokens in (_encode(sources, good, card) if good else {}).items():
            parts[name].append(tokens)
        broken.remark(each for sample in good for each in sample.remarks)
        index += [sample.index for sample in good]
        labels += [NO_LABEL if sample.label is None else sample.label for sample in good]
    streams = {name: torch.cat(tokens) for name, tokens in parts.items()}
    tensors = {"index": torch.tensor(index, dtype=torch.int64), "labels": torch.tensor(labels, dtype=torch.int64)}
    arrays, places = ({name: part.numpy() for name, part in each.items()} for each in (streams, tensors))
    notes = shard_notes(arrays, places, lost)
    write_tensors(shard_file(out, number), {**streams, **tensors}, notes)
    broken.note(lost)


def _empty(card: CacheCard, stream: str) -> Tensor:
    """No image's tokens (0, K, F, L) of a stream, in the type that it is stored in."""
    return torch.empty(0, card.crops, *card.spec(stream).shape(card.mirrored), dtype=_kind(card, stream))


def _kind(card: CacheCard, stream: str) -> torch.dtype:
    return {"int16": torch.int16, "int32": torch.int32, "float32": torch.float32}[card.stored_kind(stream)]


def _chunks(views: _Views, size: int, workers: int) -> Iterator[list[Sample | BrokenImageError | MageKitError]]:
    loader: DataLoader[Sample | BrokenImageError | MageKitError] = DataLoader(
        views, batch_size=size, num_workers=workers, collate_fn=list, generator=torch.Generator().manual_seed(0)
    )
    yield from loader


@torch.no_grad()
@trusted()
def _encode(sources: TokenSources, samples: list[Sample], card: CacheCard) -> dict[str, Tensor]:
    """Return tokens (n, K, F, L) by stream, with one more dimension for more than one number a token."""
    device = best_device()
    views = torch.from_numpy(np.stack([view for sample in samples for view in sample.views]))
    both = torch.stack([views, views.flip(-1)], dim=1) if card.mirrored == 2 else views[:, None]
    images = to_float(both.flatten(0, 1), device)
    with torch.autocast(device.type, torch.bfloat16, enabled=card.tokenizer["precision"] == "bfloat16"):
        parts = [sources.encode(part) for part in images.split(_AT_ONCE)]
    whole = {name: torch.cat([part[name] for part in parts]) for name in sources.streams}
    shape = (len(samples), card.crops, card.mirrored)
    return {name: tokens.to("cpu", _kind(card, name)).unflatten(0, shape) for name, tokens in whole.items()}
