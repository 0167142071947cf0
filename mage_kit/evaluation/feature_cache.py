"""Features on disk: extracted once, recognised by what they were made from, refused where that has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open

from mage_kit import processes
from mage_kit.datasets import Dataset
from mage_kit.errors import MageKitError
from mage_kit.evaluation.features import Features, extract
from mage_kit.evaluation.sources import FeatureSource
from mage_kit.files import write_tensors
from mage_kit.model import Mage
from mage_kit.progress import Reporter
from mage_kit.storage import weights_digest

_KEY = "mage_kit"


class FeatureCache:
    """Features of one model, a file for each data set and source.

    Args:
        folder: Where the files lie.
        model: What makes the features.
        precision: What its encoder computes in.
        refresh: Extract again what does not fit, instead of refusing it.
        reporter: Where progress goes.
    """

    def __init__(
        self,
        folder: Path,
        model: Mage,
        *,
        precision: Literal["float32", "bfloat16"] = "float32",
        refresh: bool = False,
        reporter: Reporter | None = None,
    ) -> None:
        self.folder, self.model, self.precision, self.refresh = folder, model, precision, refresh
        self.reporter = reporter or Reporter()
        self.weights = weights_digest(model)

    def get(self, name: str, dataset: Dataset, sources: Sequence[FeatureSource]) -> list[Features]:
        """Return the features of a data set, of each source; those that are missing are extracted in one pass.

        Args:
            name: Of the data set, as "train"; files begin with it.
            dataset: Labelled images.
            sources: Which features.

        Raises:
            MageKitError: If a file is of other weights, images or settings, and `refresh` was not asked for.
        """
        labels, identity = dataset.labels(), processes.on_first(dataset.identity)
        files = {source: self.folder / f"{name}-{source}.safetensors" for source in sources}
        stated = {source: self._stated(source, dataset, identity) for source in sources}
        missing = [source for source in sources if self._missing(files[source], stated[source])]
        if missing:
            values, places = extract(self.model, dataset, missing, precision=self.precision, reporter=self.reporter)
            for source, value in zip(missing, values, strict=True):
                processes.on_first(partial(self._write, files[source], stated[source], value, places))
        return [self._read(files[source], labels) for source in sources]

    def _stated(self, source: FeatureSource, dataset: Dataset, identity: dict[str, object]) -> dict[str, Any]:
        augment = dataset.augment
        return {
            "weights_sha256": self.weights,
            "source": str(source),
            "precision": self.precision,
            "image_size": list(dataset.image_size),
            "view": {"centre": augment.centre, "filter": augment.filter},
            "data": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        }

    def _missing(self, file: Path, wanted: dict[str, Any]) -> bool:
        return processes.on_first(partial(self._judge, file, wanted))

    def _judge(self, file: Path, wanted: dict[str, Any]) -> bool:
        """Whether a file has to be made; one that was made from something else is nobody's to take."""
        if not file.is_file() or self.refresh:
            return True
        try:
            with safe_open(file, "pt") as held:
                found = json.loads((held.metadata() or {})[_KEY])
        except Exception:  # damaged, however
            raise MageKitError(f"features: '{file}', is damaged; --refresh extracts them again") from None
        differing = [name for name, value in wanted.items() if found.get(name) != value]
        if differing:
            what = ", ".join(name.replace("_sha256", "") for name in differing)
            raise MageKitError(f"features: '{file}', were made from other {what}; --refresh extracts them again")
        return False

    def _write(self, file: Path, stated: dict[str, Any], values: np.ndarray, places: np.ndarray) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"values": torch.from_numpy(values), "places": torch.from_numpy(places)}
        write_tensors(file, tensors, {_KEY: json.dumps(stated, sort_keys=True)})

    def _read(self, file: Path, labels: np.ndarray) -> Features:
        with safe_open(file, "pt") as held:
            values, places = held.get_tensor("values").numpy(), held.get_tensor("places").numpy()
        return Features(values, labels[places])
