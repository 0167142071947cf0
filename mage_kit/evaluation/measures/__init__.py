"""Measures: how good a run is, one class a way of measuring; a family, open to plug-ins."""

from mage_kit.evaluation.measures.accuracy import AccuracyAgain
from mage_kit.evaluation.measures.at_hand import FrechetAtHand
from mage_kit.evaluation.measures.audit import TokenizerAudit
from mage_kit.evaluation.measures.base import MEASURES, Curves, Figure, Measure, Outcome, plain_figures
from mage_kit.evaluation.measures.by_block import BlockProbes
from mage_kit.evaluation.measures.few_labels import FewShot
from mage_kit.evaluation.measures.fid import GeneratedImages, Reconstructions
from mage_kit.evaluation.measures.hidden_tokens import TokenStatistics
from mage_kit.evaluation.measures.knn import Neighbours
from mage_kit.evaluation.measures.linear_probe import LinearProbe
from mage_kit.evaluation.measures.on_features import FeatureMeasure
from mage_kit.evaluation.measures.probe_fast import FastProbe
from mage_kit.evaluation.measures.request import Request
from mage_kit.evaluation.measures.transfer import Transfer

__all__ = [
    "MEASURES",
    "AccuracyAgain",
    "BlockProbes",
    "Curves",
    "FastProbe",
    "FeatureMeasure",
    "FewShot",
    "Figure",
    "FrechetAtHand",
    "GeneratedImages",
    "LinearProbe",
    "Measure",
    "Neighbours",
    "Outcome",
    "Reconstructions",
    "Request",
    "TokenStatistics",
    "TokenizerAudit",
    "Transfer",
    "plain_figures",
]
