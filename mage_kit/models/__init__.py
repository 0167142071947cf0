"""Models: what is made of the parts, the rules that hold between them, and how a model decodes."""

from mage_kit.models.classifier import MageClassifier
from mage_kit.models.decoding import PRESETS, Decoding
from mage_kit.models.guidance import Guidance
from mage_kit.models.mage import Mage, StepOutput
from mage_kit.models.parts import Weighted

__all__ = ["PRESETS", "Decoding", "Guidance", "Mage", "MageClassifier", "StepOutput", "Weighted"]
