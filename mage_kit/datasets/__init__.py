"""Data sets: where images come from, by index, so that order, epochs and resuming belong to the engine."""

from mage_kit.datasets.base import DATASETS, Dataset, DatasetWires, Sample
from mage_kit.datasets.digits import Digits
from mage_kit.datasets.image_folder import ImageFolder
from mage_kit.datasets.pictograms import Pictograms
from mage_kit.datasets.tar_shards import TarShards
from mage_kit.datasets.token_cache import TokenCache

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetWires",
    "Digits",
    "ImageFolder",
    "Pictograms",
    "Sample",
    "TarShards",
    "TokenCache",
]
