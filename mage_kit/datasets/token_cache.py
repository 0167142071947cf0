"""Tokens made beforehand: training without images and without the tokenizer in the loop."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from mage_kit.base.digests import arrays_digest
from mage_kit.base.draws import derive
from mage_kit.base.errors import MageKitError
from mage_kit.base.processes import is_first
from mage_kit.datasets.base import DATASETS, Dataset, DatasetWires, Sample, identity_of
from mage_kit.datasets.token_store import (
    NO_LABEL,
    CacheCard,
    differences,
    places_digest,
    read_cache_card,
    read_notes,
    shard_file,
)
from mage_kit.images.transforms import Augment


@DATASETS.register("token_cache")
class TokenCache(Dataset):
    """A folder of tokens that `mage-kit tokenize` wrote; each view is one of an image's cached crops, drawn anew.

    Args:
        path: The cache.
        views: Views of each image; MAGE-C contrasts two, which are two different crops.
        source: The `data` section that the cache must have been made from; it is compared, and evaluation reads its
            images. null: the cache is taken as it is, and there are no images to evaluate on.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        *,
        path: str | None = None,
        views: Literal[1, 2] = 1,
        source: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.views, self.source = path, views, source
        if path is None:
            raise MageKitError("path: null, must name a token cache (mage-kit tokenize writes one)")
        self._folder = Path(path)
        self.card = card = read_cache_card(self._folder)
        self._images = _open_source(source, image_size, channels)
        settings = card.transform["augment"]
        augment = Augment.model_validate_json(json.dumps({**settings, "views": views}))
        super().__init__(image_size, channels, augment)
        self.classes = card.classes
        problems = differences(
            {name: card.transform[name] for name in ("image_size", "channels")},
            {"image_size": list(image_size), "channels": channels},
        )
        problems = [f"transform: {line}" for line in problems]
        if self._images is not None:
            problems += [f"transform: {line}" for line in _other_augment(settings, self._images.augment)]
            here = _plain(identity_of(self._images)) if is_first() else card.source  # reads all names: once is enough
            problems += [f"source: {line}" for line in differences(card.source, here)]
        if views > card.crops:
            problems.append(f"transform: {card.crops} crop an image, {views} views need as many")
        if problems:
            raise MageKitError("\n".join([f"path: '{path}', the cache was not made from this recipe", *problems]))
        self.streams = tuple(card.streams)
        self._shards = _Shards(self._folder, card)

    def check_tokenizers(self, tokenizer: dict[str, Any], targets: dict[str, dict[str, Any]]) -> None:
        """Compare the tokenizers that the model has with those that made the tokens.

        Args:
            tokenizer: As in the cache's card: kind and SHA-256 of the weights; the precision is the cache's own.
            targets: The same of other tokenizers, by name.

        Raises:
            MageKitError: If one is another.
        """
        own = {name: value for name, value in self.card.tokenizer.items() if name != "precision"}
        lines = [f"tokenizer: {line}" for line in differences(own, tokenizer)]
        for name in self.card.targets.keys() & targets.keys():
            lines += [f"targets.{name}: {line}" for line in differences(self.card.targets[name], targets[name])]
        if lines:
            raise MageKitError("\n".join([f"path: '{self.path}', the cache was not made from this recipe", *lines]))

    def __len__(self) -> int:
        """Return the number of images; those that were broken when tokens were made are not among them."""
        return len(self._shards.labels_I)

    def image(self, index: int) -> Image.Image:
        """Return the source's image.

        Raises:
            MageKitError: If the recipe names no source.
        """
        return self._need_images().image(int(self._shards.index_I[index]))

    def still(self, index: int) -> Sample:
        """Return the evaluation view of the source's image."""
        sample = self._need_images().still(int(self._shards.index_I[index]))
        return Sample(sample.views, self.label(index), index)

    def label(self, index: int) -> int | None:
        """Return the class number, or None."""
        label = int(self._shards.labels_I[index])
        return None if label == NO_LABEL else label

    def sample(self, index: int, epoch: int, seed: int) -> Sample:
        """Return the tokens of a random crop a view, by stream; different crops for two views."""
        random = np.random.Generator(np.random.PCG64(derive(seed, "cached", epoch, index)))
        crops = random.permutation(self.card.crops)[: self.views]
        mirrored = (random.random(self.views) < self.augment.flip) & (self.card.mirrored == 2)
        crops_of = {name: self._shards.tokens(index, name) for name in self.streams}
        views = tuple(
            {name: tokens_KFL[crop, int(flip)] for name, tokens_KFL in crops_of.items()}
            for crop, flip in zip(crops, mirrored, strict=True)
        )
        return Sample(views, self.label(index), index)

    def identity(self) -> dict[str, object]:
        """Return what the cache was made from."""
        return {**super().identity(), "cache": self.card.fingerprint()}

    def _need_images(self) -> Dataset:
        if self._images is None:
            raise MageKitError(
                f"data: the token cache '{self.path}' holds no images; $.data.source may name them for what needs them"
            )
        return self._images


class _Shards:
    """The token files of a cache; tokens are read from disk when asked for."""

    def __init__(self, folder: Path, card: CacheCard) -> None:
        self._folder, self._card = folder, card
        absent = [number for number in range(card.files) if not shard_file(folder, number).is_file()]
        if absent:
            raise MageKitError(
                f"path: '{folder}', {len(absent)} of {card.files} token files are missing; the same mage-kit tokenize "
                "command goes on where it stopped"
            )
        parts = [self._read(number) for number in range(card.files)]
        self.index_I: NDArray[np.int64] = np.concatenate([index for index, _ in parts])
        self.labels_I: NDArray[np.int64] = np.concatenate([labels for _, labels in parts])
        self._ends = np.cumsum([len(index) for index, _ in parts])
        self._open: dict[tuple[int, int], Any] = {}

    def tokens(self, index: int, stream: str) -> NDArray[Any]:
        """Return an image's tokens of a stream (K, F, L), with one more dimension for more than one number a token."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[number - 1]) if number else 0
        key = (os.getpid(), number)
        file = shard_file(self._folder, number)
        try:
            if (
                key not in self._open
            ):  # a handle for this process: a forked one would share the other's place in the file
                self._open[key] = _open_shard(file, list(self._card.streams))
            tokens: NDArray[Any] = self._open[key].get_slice(stream)[index - first]
        except (SafetensorError, OSError) as error:
            raise MageKitError(f"{file}: cannot be read ({error})") from None
        return tokens

    def _read(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        file = shard_file(self._folder, number)
        try:
            with safe_open(file, framework="np") as shard:
                shapes = {name: tuple(shard.get_slice(name).get_shape()) for name in self._card.streams}
                index, labels = shard.get_tensor("index"), shard.get_tensor("labels")
                notes = read_notes(shard.metadata())
            if places_digest({"index": index, "labels": labels}, notes.broken) != notes.places_sha256:
                raise ValueError("its index and labels are not what was written")
        except (SafetensorError, OSError, ValueError) as error:
            raise MageKitError(f"{file}: damaged ({error}); remove it and run mage-kit tokenize again") from None
        card = self._card
        for name, shape in shapes.items():
            spec_shape = (len(index), card.crops, *card.spec(name).shape(card.mirrored))
            if shape != spec_shape or len(labels) != len(index):
                rule = f"must be {spec_shape}; remove it and run mage-kit tokenize again"
                raise MageKitError(f"{file}: stream '{name}' {shape}, {rule}")
        return index, labels


def _open_shard(file: Path, streams: list[str]) -> Any:
    """Open a token file; once in each process its tokens are held against their digest, a few milliseconds' work."""
    shard: Any = safe_open(file, framework="np")
    tokens = {name: shard.get_tensor(name) for name in streams}
    if read_notes(shard.metadata()).tokens_sha256 != arrays_digest(tokens):
        raise MageKitError(
            f"{file}: damaged, its tokens are not what was written; remove it and run mage-kit tokenize again"
        )
    return shard


def _open_source(source: dict[str, Any] | None, image_size: tuple[int, int], channels: int) -> Dataset | None:
    if source is None:
        return None
    try:
        return DATASETS.build(DATASETS.parse(source), DatasetWires(image_size, channels))
    except ValidationError as error:
        item = error.errors()[0]
        raise MageKitError(f"source: {'.'.join(map(str, item['loc']))}: {item['msg']}") from None
    except MageKitError as error:
        raise MageKitError(f"source: {error}") from None


def _other_augment(settings: dict[str, Any], here: Augment) -> list[str]:
    """What of the augmentation differs; the number of views is the training's own affair."""
    there = Augment.model_validate_json(json.dumps(settings))  # one written before there were all settings of today
    sides = ({k: v for k, v in augment.model_dump(mode="json").items() if k != "views"} for augment in (there, here))
    return differences(*sides)


def _plain(value: dict[str, object]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain
