"""mage_kit: masked image modeling from interchangeable parts."""

import importlib
from typing import TYPE_CHECKING, Any

from mage_kit.adversaries import (
    ADVERSARIES,
    Adversary,
    AdversarySlot,
    PatchGAN,
    StyleGANAdversary,
    VQGANPlusAdversary,
)
from mage_kit.base.draws import more_uniforms
from mage_kit.base.errors import MageKitError, PartsError, RecipeError, RegistrationError
from mage_kit.base.fields import Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Probability
from mage_kit.base.grid import TokenGrid, TokenSpec
from mage_kit.base.plugins import consent
from mage_kit.base.registry import FAMILIES
from mage_kit.base.signature import ComponentConfig
from mage_kit.base.version import __version__
from mage_kit.datasets import DATASETS, Dataset, Digits, ImageFolder, Pictograms, Sample
from mage_kit.decoders import DECODERS, ClassViTDecoder, Decoder, LinearDecoder, ViTDecoder
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
    write_samples,
)
from mage_kit.heads import HEADS, CodeHead, Head, ValueHead
from mage_kit.images.distortion import Distortion
from mage_kit.images.randaugment import RandAugment
from mage_kit.images.transforms import Augment
from mage_kit.layers.condition import Condition
from mage_kit.layers.embedding import EmbeddingConfig, TokenEmbedding
from mage_kit.layers.predictions import DrawRule, LossRows, PassCost, Predictions, TokenDraw
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
from mage_kit.optimizers import (
    LARS,
    OPTIMIZERS,
    AdamW,
    MakeOptimizer,
    Optimizer,
    OptimizerSlot,
    build_optimizer,
    optimizer_config,
)
from mage_kit.paddings import PADDINGS, ClassTokenPadding, MaskTokenPadding, Padding
from mage_kit.perceptual import (
    LPIPSVGG,
    PERCEPTUAL,
    Lite0Distance,
    Perceptual,
    PerceptualSlot,
    ResNet50Logits,
    SqueezeNetDistance,
)
from mage_kit.quantizers import (
    BSQ,
    FSQ,
    IBQ,
    LFQ,
    QUANTIZERS,
    EMACodebook,
    GradientCodebook,
    Quantized,
    Quantizer,
    SimVQ,
)
from mage_kit.recipes import Parts, Recipe, at_size, build
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
from mage_kit.training.players import Player, Rate
from mage_kit.training.tasks import (
    TASKS,
    Adversarial,
    Classify,
    Context,
    Contrast,
    Facts,
    Masked,
    MaskedAdversarial,
    Reconstruct,
    Task,
    TrainingStep,
)

if TYPE_CHECKING:
    from mage_kit.editing import Edited, inpaint, outpaint, reconstruct, uncrop
    from mage_kit.evaluation.evaluate import evaluate
    from mage_kit.evaluation.features import Features
    from mage_kit.evaluation.measures import MEASURES, Curves, FeatureMeasure, Figure, Measure, Outcome, Request
    from mage_kit.evaluation.subject import Subject
    from mage_kit.planning.passes import Passes
    from mage_kit.report import write_report
    from mage_kit.store.convert import convert
    from mage_kit.store.export import export
    from mage_kit.studies.compare import compare
    from mage_kit.studies.comparison import Comparison
    from mage_kit.studies.measurement import Measurement
    from mage_kit.training.train import train

_LATE = {
    "mage_kit.editing": (
        "Edited",
        "inpaint",
        "outpaint",
        "reconstruct",
        "uncrop",
    ),
    "mage_kit.evaluation.evaluate": ("evaluate",),
    "mage_kit.evaluation.features": ("Features",),
    "mage_kit.evaluation.measures": (
        "Curves",
        "FeatureMeasure",
        "Figure",
        "MEASURES",
        "Measure",
        "Outcome",
        "Request",
    ),
    "mage_kit.evaluation.subject": ("Subject",),
    "mage_kit.planning.passes": ("Passes",),
    "mage_kit.report": ("write_report",),
    "mage_kit.store.convert": ("convert",),
    "mage_kit.store.export": ("export",),
    "mage_kit.studies.compare": ("compare",),
    "mage_kit.studies.comparison": ("Comparison",),
    "mage_kit.studies.measurement": ("Measurement",),
    "mage_kit.training.train": ("train",),
}
"""What most programs never ask for, by the module that has it: importing those costs a third of a second."""


def __getattr__(name: str) -> Any:
    owner = next((module for module, names in _LATE.items() if name in names), None)
    if owner is None:
        raise AttributeError(f"module 'mage_kit' has no attribute '{name}'")
    globals()[name] = value = getattr(importlib.import_module(owner), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for names in _LATE.values() for name in names)})


__all__ = [
    "ADVERSARIES", "BSQ", "DATASETS", "DECODERS", "ENCODERS", "FAMILIES", "FSQ", "HEADS", "IBQ", "LARS",
    "LFQ", "LOSSES", "LPIPSVGG", "MASK_RATIOS", "MEASURES", "OPTIMIZERS", "PADDINGS", "PERCEPTUAL",
    "PRESETS", "QUANTIZERS", "SCHEDULES", "SELECTIONS", "TASKS", "TOKENIZERS", "VQGAN", "AdamW",
    "Adversarial", "Adversary", "AdversarySlot", "ArccosRatio", "ArccosSchedule", "Augment", "Batch",
    "BatchMasks", "CheckpointEvent", "ClassTokenPadding", "ClassViTDecoder", "Classify", "CodeHead",
    "CodebookTokenizer", "Comparison", "ComponentConfig", "Condition", "Context", "Contrast", "CosineRatio",
    "CosineSchedule", "Curves", "Dataset", "Decoded", "Decoder", "Decoding", "Digits", "Distortion", "DrawRule",
    "EMACodebook", "Edited", "EmbeddingConfig", "Encoder", "EndEvent", "Entropy", "Facts", "FeatureMeasure",
    "Features", "Figure", "FixedRatio", "Fraction", "Generated", "GradientCodebook", "Guidance",
    "GumbelConfidence", "Halton", "Head", "ImageFolder", "InfoNCE", "LinearDecoder", "LinearSchedule",
    "Lite0Distance", "LlamaGenVQ", "LogEvent", "Loss", "LossInputs", "LossRows", "LossTerm", "Mage",
    "MageClassifier", "MageKitError", "MakeOptimizer", "Margin", "MaskRatio", "MaskTokenPadding", "Masked",
    "MaskedAdversarial", "MaskedCrossEntropy", "MaskedMSE", "MaskedPrediction", "Measure", "Measurement",
    "NonNegative", "NonNegativeFloat",
    "Optimizer", "OptimizerSlot", "Outcome", "Padding", "Parts", "PartsError", "PassCost", "Passes",
    "PatchGAN", "Patches", "Perceptual", "PerceptualSlot", "Pictograms", "Player", "Positive", "PositiveFloat",
    "PowerSchedule", "Predictions", "Probability", "Purity", "Quantized", "Quantizer", "RandAugment",
    "RandomSelection", "Rate", "Recipe", "RecipeError", "Reconstruct", "RegistrationError", "Relaxed",
    "Request", "ResNet50Logits", "Sample", "Sampler", "Schedule", "Selection", "SelectionStep", "SimVQ",
    "SquareRootSchedule", "SqueezeNetDistance", "StepEvent", "StyleGANAdversary", "Subject", "TamingVQGAN",
    "Task", "TokenDraw", "TokenEmbedding", "TokenGrid", "TokenSpec", "Tokenizer", "TokenizerLosses",
    "Trace", "TrainingStep", "TruncatedNormalRatio", "UniformRatio", "VQGANPlusAdversary", "ValueHead",
    "ViTDecoder", "ViTEncoder", "Weighted", "__version__", "at_size", "build", "build_optimizer", "check", "compare",
    "consent", "convert", "decode_tokens", "evaluate", "export", "generate", "inpaint", "load", "load_classifier",
    "load_tokenizer", "more_uniforms", "optimizer_config", "outpaint", "reconstruct", "save",
    "save_tokenizer", "straight_through", "train", "uncrop", "write_report", "write_samples",
]  # fmt: skip
