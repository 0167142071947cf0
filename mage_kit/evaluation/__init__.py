"""How good a run is: the family of measures, and the features, probes and distances that they use."""

from mage_kit.evaluation.features import Features, extract_features, still_images
from mage_kit.evaluation.folds import Probe, linear_probe, probe_run
from mage_kit.evaluation.frechet import frechet_distance

__all__ = [
    "Features",
    "Probe",
    "extract_features",
    "frechet_distance",
    "linear_probe",
    "probe_run",
    "still_images",
]
