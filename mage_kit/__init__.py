"""mage_kit: masked image modeling from interchangeable parts."""

from mage_kit.base.draws import more_uniforms
from mage_kit.base.errors import MageKitError, PartsError, RecipeError, RegistrationError
from mage_kit.base.fields import Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Probability
from mage_kit.base.grid import TokenGrid, TokenSpec
from mage_kit.base.registry import FAMILIES
from mage_kit.base.version import __version__
from mage_kit.datasets import DATASETS, Dataset, Digits, ImageFolder, Sample
from mage_kit.decoders import DECODERS, ClassViTDecoder, Decoder, LinearDecoder, ViTDecoder
from mage_kit.editing import Edited, inpaint, outpaint, reconstruct, uncrop
from mage_kit.encoders import ENCODERS, Encoder, ViTEncoder
from mage_kit.generation import (
    Decoded,
    Generated,
    Relaxed,
    Sampler,
    Trace,
    decode_tokens,
    generate,
    straight_through,
)
from mage_kit.heads import HEADS, CodeHead, Head, ValueHead
from mage_kit.images.randaugment import RandAugment
from mage_kit.images.transforms import Augment
from mage_kit.layers.condition import Condition
from mage_kit.layers.embedding import EmbeddingConfig, TokenEmbedding
from mage_kit.layers.predictions import Drawn, DrawRule, LossRows, PassCost, Predictions
from mage_kit.losses import (
    LOSSES,
    BatchMasks,
    InfoNCE,
    Loss,
    LossInputs,
    LossTerm,
    MaskedCrossEntropy,
    MaskedMSE,
    MaskedPrediction,
)
from mage_kit.mask_ratios import (
    MASK_RATIOS,
    ArccosRatio,
    CosineRatio,
    FixedRatio,
    MaskRatio,
    TruncatedNormalRatio,
    UniformRatio,
)
from mage_kit.models import PRESETS, Decoding, Guidance, Mage, MageClassifier, Weighted
from mage_kit.paddings import PADDINGS, ClassTokenPadding, MaskTokenPadding, Padding
from mage_kit.quantizers import QUANTIZERS, EMACodebook, GradientCodebook, Quantized, Quantizer
from mage_kit.recipes import Parts, Recipe, build
from mage_kit.report import write_report
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
    Entropy,
    GumbelConfidence,
    Halton,
    Margin,
    Purity,
    RandomSelection,
    Selection,
    SelectionStep,
)
from mage_kit.store.convert import convert
from mage_kit.store.export import export
from mage_kit.store.folders import save, save_tokenizer
from mage_kit.store.loading import load, load_classifier, load_tokenizer
from mage_kit.tokenizers import (
    TOKENIZERS,
    VQGAN,
    CodebookTokenizer,
    LlamaGenVQ,
    Patches,
    TamingVQGAN,
    Tokenizer,
    TokenizerLosses,
)
from mage_kit.training.batches import Batch
from mage_kit.training.check import check
from mage_kit.training.events import CheckpointEvent, EndEvent, LogEvent, StepEvent
from mage_kit.training.players import Player, Rate, adamw
from mage_kit.training.tasks import (
    TASKS,
    Classify,
    Context,
    Contrast,
    Facts,
    Masked,
    Reconstruct,
    Task,
    TrainingStep,
)
from mage_kit.training.train import train

__all__ = [
    "DATASETS",
    "DECODERS",
    "ENCODERS",
    "FAMILIES",
    "HEADS",
    "LOSSES",
    "MASK_RATIOS",
    "PADDINGS",
    "PRESETS",
    "QUANTIZERS",
    "SCHEDULES",
    "SELECTIONS",
    "TASKS",
    "TOKENIZERS",
    "VQGAN",
    "ArccosRatio",
    "ArccosSchedule",
    "Augment",
    "Batch",
    "BatchMasks",
    "CheckpointEvent",
    "ClassTokenPadding",
    "ClassViTDecoder",
    "Classify",
    "CodeHead",
    "CodebookTokenizer",
    "Condition",
    "Context",
    "Contrast",
    "CosineRatio",
    "CosineSchedule",
    "Dataset",
    "Decoded",
    "Decoder",
    "Decoding",
    "Digits",
    "DrawRule",
    "Drawn",
    "EMACodebook",
    "Edited",
    "EmbeddingConfig",
    "Encoder",
    "EndEvent",
    "Entropy",
    "Facts",
    "FixedRatio",
    "Fraction",
    "Generated",
    "GradientCodebook",
    "Guidance",
    "GumbelConfidence",
    "Halton",
    "Head",
    "ImageFolder",
    "InfoNCE",
    "LinearDecoder",
    "LinearSchedule",
    "LlamaGenVQ",
    "LogEvent",
    "Loss",
    "LossInputs",
    "LossRows",
    "LossTerm",
    "Mage",
    "MageClassifier",
    "MageKitError",
    "Margin",
    "MaskRatio",
    "MaskTokenPadding",
    "Masked",
    "MaskedCrossEntropy",
    "MaskedMSE",
    "MaskedPrediction",
    "NonNegative",
    "NonNegativeFloat",
    "Padding",
    "Parts",
    "PartsError",
    "PassCost",
    "Patches",
    "Player",
    "Positive",
    "PositiveFloat",
    "PowerSchedule",
    "Predictions",
    "Probability",
    "Purity",
    "Quantized",
    "Quantizer",
    "RandAugment",
    "RandomSelection",
    "Rate",
    "Recipe",
    "RecipeError",
    "Reconstruct",
    "RegistrationError",
    "Relaxed",
    "Sample",
    "Sampler",
    "Schedule",
    "Selection",
    "SelectionStep",
    "SquareRootSchedule",
    "StepEvent",
    "TamingVQGAN",
    "Task",
    "TokenEmbedding",
    "TokenGrid",
    "TokenSpec",
    "Tokenizer",
    "TokenizerLosses",
    "Trace",
    "TrainingStep",
    "TruncatedNormalRatio",
    "UniformRatio",
    "ValueHead",
    "ViTDecoder",
    "ViTEncoder",
    "Weighted",
    "__version__",
    "adamw",
    "build",
    "check",
    "convert",
    "decode_tokens",
    "export",
    "generate",
    "inpaint",
    "load",
    "load_classifier",
    "load_tokenizer",
    "more_uniforms",
    "outpaint",
    "reconstruct",
    "save",
    "save_tokenizer",
    "straight_through",
    "train",
    "uncrop",
    "write_report",
]
