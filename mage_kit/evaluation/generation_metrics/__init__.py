"""How close generated images are to real ones: Fréchet distance, Inception score, KID, precision and recall."""

from mage_kit.evaluation.generation_metrics.distances import inception_score, kernel_distance, precision_recall
from mage_kit.evaluation.generation_metrics.extractor import Extractor, load_extractor
from mage_kit.evaluation.generation_metrics.moments import Moments, frechet
from mage_kit.evaluation.generation_metrics.reference import Reference, make_reference, read_reference

__all__ = [
    "Extractor",
    "Moments",
    "Reference",
    "frechet",
    "inception_score",
    "kernel_distance",
    "load_extractor",
    "make_reference",
    "precision_recall",
    "read_reference",
]
