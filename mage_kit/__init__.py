"""mage_kit: masked image modeling from interchangeable parts."""

from mage_kit.classifier import MageClassifier
from mage_kit.classifier_recipe import ClassifierRecipe
from mage_kit.datasets import DATASETS, Dataset, Digits, ImageFolder, Sample
from mage_kit.decoders import DECODERS, Decoder, LinearDecoder, ViTDecoder
from mage_kit.embedding import EmbeddingConfig
from mage_kit.encoders import ENCODERS, Encoder, ViTEncoder
from mage_kit.errors import MageKitError, PartsError, RecipeError, RegistrationError
from mage_kit.fields import Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Probability
from mage_kit.generation import Generated, decode_tokens, generate
from mage_kit.grid import TokenGrid, TokenSpec
from mage_kit.jobs.convert import convert
from mage_kit.jobs.export import export
from mage_kit.jobs.train import train
from mage_kit.loading import load, load_classifier, load_tokenizer
from mage_kit.losses import LOSSES, InfoNCE, Loss, MaskedCrossEntropy, MaskedMSE
from mage_kit.mask_ratios import (
    MASK_RATIOS,
    ArccosRatio,
    CosineRatio,
    FixedRatio,
    MaskRatio,
    TruncatedNormalRatio,
    UniformRatio,
)
from mage_kit.model import Decoding, Mage, Weighted
from mage_kit.paddings import PADDINGS, ClassTokenPadding, MaskTokenPadding, Padding
from mage_kit.recipe import Recipe
from mage_kit.registry import FAMILIES
from mage_kit.schedules import (
    SCHEDULES,
    ArccosSchedule,
    CosineSchedule,
    LinearSchedule,
    PowerSchedule,
    Schedule,
    SquareRootSchedule,
)
from mage_kit.selections import (
    SELECTIONS,
    GumbelConfidence,
    Halton,
    RandomSelection,
    Selection,
    SelectionStep,
)
from mage_kit.storage import save, save_tokenizer
from mage_kit.tokenizers import TOKENIZERS, VQGAN, CodebookTokenizer, LlamaGenVQ, Patches, TamingVQGAN, Tokenizer
from mage_kit.transforms import Augment
from mage_kit.version import __version__

__all__ = [
    "DATASETS",
    "DECODERS",
    "ENCODERS",
    "FAMILIES",
    "LOSSES",
    "MASK_RATIOS",
    "PADDINGS",
    "SCHEDULES",
    "SELECTIONS",
    "TOKENIZERS",
    "VQGAN",
    "ArccosRatio",
    "ArccosSchedule",
    "Augment",
    "ClassTokenPadding",
    "ClassifierRecipe",
    "CodebookTokenizer",
    "CosineRatio",
    "CosineSchedule",
    "Dataset",
    "Decoder",
    "Decoding",
    "Digits",
    "EmbeddingConfig",
    "Encoder",
    "FixedRatio",
    "Fraction",
    "Generated",
    "GumbelConfidence",
    "Halton",
    "ImageFolder",
    "InfoNCE",
    "LinearDecoder",
    "LinearSchedule",
    "LlamaGenVQ",
    "Loss",
    "Mage",
    "MageClassifier",
    "MageKitError",
    "MaskRatio",
    "MaskTokenPadding",
    "MaskedCrossEntropy",
    "MaskedMSE",
    "NonNegative",
    "NonNegativeFloat",
    "Padding",
    "PartsError",
    "Patches",
    "Positive",
    "PositiveFloat",
    "PowerSchedule",
    "Probability",
    "RandomSelection",
    "Recipe",
    "RecipeError",
    "RegistrationError",
    "Sample",
    "Schedule",
    "Selection",
    "SelectionStep",
    "SquareRootSchedule",
    "TamingVQGAN",
    "TokenGrid",
    "TokenSpec",
    "Tokenizer",
    "TruncatedNormalRatio",
    "UniformRatio",
    "ViTDecoder",
    "ViTEncoder",
    "Weighted",
    "__version__",
    "convert",
    "decode_tokens",
    "export",
    "generate",
    "load",
    "load_classifier",
    "load_tokenizer",
    "save",
    "save_tokenizer",
    "train",
]
