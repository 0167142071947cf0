"""From sections to parts: the components of a model built in one order, from one seed, every misfit with its path."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch

from mage_kit.base.draws import derive
from mage_kit.base.errors import PartsError
from mage_kit.base.signature import ComponentConfig, NoWires
from mage_kit.decoders import DECODERS, Decoder, DecoderWires
from mage_kit.encoders import ENCODERS, Encoder
from mage_kit.heads import HEADS, Head, HeadWires
from mage_kit.losses import LOSSES, Loss, LossWires
from mage_kit.mask_ratios import MASK_RATIOS
from mage_kit.models import Decoding, Mage, MageClassifier, Weighted
from mage_kit.paddings import PADDINGS, Padding, PaddingWires
from mage_kit.recipes.places import Collected, at
from mage_kit.recipes.sections import ClassifierSection, Generation, MageSection
from mage_kit.schedules import SCHEDULES
from mage_kit.selections import SELECTIONS
from mage_kit.tokenizers import TOKENIZERS, Tokenizer
from mage_kit.tokenizers.streams import stream_specs

MakeTokenizer = Callable[[], Tokenizer] | None


@contextlib.contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Initialise weights from (seed, purpose), leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "init-" + purpose))
        yield


def assemble_tokenizer(config: ComponentConfig, seed: int) -> Tokenizer:
    """Return a tokenizer with weights initialised from the seed."""
    with at("$.tokenizer", config), seeded(seed, "tokenizer"):
        return TOKENIZERS.build(config, NoWires())


def assemble_decoding(config: Generation) -> Decoding:
    """Return the way to generate that a section describes."""
    with at("$.model.generation.schedule", config.schedule):
        schedule = SCHEDULES.build(config.schedule, NoWires())
    with at("$.model.generation.selection", config.selection):
        selection = SELECTIONS.build(config.selection, NoWires())
    return Decoding(
        schedule, selection, config.steps, config.token_temperature, config.top_k, config.top_p, config.guidance
    )


def assemble_mage(
    section: MageSection, tokenizer: Tokenizer | None, make_tokenizer: MakeTokenizer, seed: int, source: str
) -> Mage:
    """Return a masked model.

    Args:
        section: Its parts.
        tokenizer: Its tokenizer, or None to make one.
        make_tokenizer: Makes it.
        seed: Of the weights.
        source: The recipe's name, for errors.

    Raises:
        RecipeError: With every problem of the parts.
    """
    collected = Collected()
    if tokenizer is None and make_tokenizer is not None:
        tokenizer = collected.attempt("$.tokenizer", None, make_tokenizer)
    targets = {name: _target(collected, name, config, seed) for name, config in section.targets.items()}
    with seeded(seed, "model"):
        mask_ratio = collected.build("$.model.mask_ratio", MASK_RATIOS, section.mask_ratio, NoWires())
        encoder = collected.build("$.model.encoder", ENCODERS, section.encoder, NoWires())
        generation, decoding = section.generation, None
        if generation is not None:
            decoding = collected.attempt("$.model.generation", None, lambda: assemble_decoding(generation))
        parts = None
        if tokenizer is not None and encoder is not None and None not in targets.values():
            others = {name: other for name, other in targets.items() if other is not None}
            parts = _on_tokens(collected, section, tokenizer, others, encoder)
        collected.raise_if_any(source)
        assert parts and tokenizer and encoder and mask_ratio
        with at("$.model"):
            return Mage(
                tokenizer=tokenizer,
                encoder=encoder,
                decoder=parts.decoder,
                losses=parts.losses,
                mask_ratio=mask_ratio,
                padding=parts.padding,
                drop=section.drop,  # type: ignore[arg-type]  # "lowest" is checked by the validator
                ratio_group=section.ratio_group,
                embedding=section.embedding,
                decoding=decoding,
                input=section.input,
                targets=parts.targets,
                heads=parts.heads,
            )


@dataclass
class _OnTokens:
    """The parts that need to know tokens and encoder."""

    targets: dict[str, Tokenizer]
    decoder: Decoder | None = None
    padding: Padding | None = None
    losses: list[Weighted] = field(default_factory=list)
    heads: dict[str, Head] = field(default_factory=dict)


def assemble_target(name: str, config: ComponentConfig, seed: int) -> Tokenizer:
    """Return another tokenizer of a model, with weights initialised from the seed and its name."""
    with at(f"$.model.targets.{name}", config), seeded(seed, f"targets-{name}"):
        return TOKENIZERS.build(config, NoWires())


def _target(collected: Collected, name: str, config: ComponentConfig, seed: int) -> Tokenizer | None:
    return collected.attempt(f"$.model.targets.{name}", None, lambda: assemble_target(name, config, seed))


def _on_tokens(
    collected: Collected, section: MageSection, tokenizer: Tokenizer, targets: dict[str, Tokenizer], encoder: Encoder
) -> _OnTokens:
    parts, streams = _OnTokens(targets), stream_specs(tokenizer, targets)
    spec = streams.get(section.input, tokenizer.spec)  # a name that is none is told when they are put together
    if section.decoder is not None:
        wires = DecoderWires(encoder.dim, spec.grid.size)
        parts.decoder = collected.build("$.model.decoder", DECODERS, section.decoder, wires)
    for number, config in enumerate(section.losses):
        loss = collected.build(f"$.model.losses[{number}]", LOSSES, config, LossWires(spec, encoder.dim, streams))
        parts.losses += [] if loss is None else [Weighted(loss, config.get("weight"))]
    if parts.decoder is not None:
        dim = parts.decoder.dim
        if section.padding is not None:
            parts.padding = collected.build("$.model.padding", PADDINGS, section.padding, PaddingWires(dim))
        for name, config in section.heads.items():
            wired = HeadWires(streams.get(name, spec), dim, encoder.dim, name == section.input)
            head = collected.attempt(f"$.model.heads.{name}", config, partial(_head, config, wired, name))
            parts.heads |= {} if head is None else {name: head}
    return parts


def _head(config: ComponentConfig, wires: HeadWires, stream: str) -> Head:
    """Build a head whose stream is of the kind that it needs; its sizes follow from it."""
    needs = HEADS.get(config.kind).cls.needs_codes
    if needs is not None and needs != wires.spec.discrete:
        wants, has = ("codes", "continuous tokens") if needs else ("continuous tokens", "codes")
        raise PartsError((f"heads.{stream}", "tokenizer"), f"'{config.kind}' needs {wants}, the stream has {has}")
    return HEADS.build(config, wires)


def describe_mage(model: Mage) -> dict[str, Any]:
    """Return the section of a masked model composed in Python, ready for JSON.

    Raises:
        MageKitError: If a part's class is not registered.
    """
    losses = [
        LOSSES.describe(cast(Loss, loss), weight=weight)
        for loss, weight in zip(model.losses, model.loss_weights, strict=True)
    ]
    targets = {name: TOKENIZERS.describe(cast(Tokenizer, other), weights=None) for name, other in model.targets.items()}
    return {
        "kind": "mage",
        "mask_ratio": MASK_RATIOS.describe(model.mask_ratio),
        "ratio_group": model.ratio_group,
        "drop": model.drop,
        "embedding": model.embedding.config.model_dump(mode="json"),
        "encoder": ENCODERS.describe(model.encoder),
        "padding": None if model.padding is None else PADDINGS.describe(model.padding),
        "decoder": None if model.decoder is None else DECODERS.describe(model.decoder),
        "input": model.input,
        "targets": targets,
        "heads": {name: HEADS.describe(cast(Head, head)) for name, head in model.heads.items()},
        "losses": losses,
        "generation": model.decoding.describe(),
    }


def part_forms(model: Mage) -> dict[str, dict[str, Any] | None]:
    """Return the forms of what stands on a masked model's encoder, by where its tensors stand: `heads.tokens`."""
    stated = describe_mage(model)
    losses = {f"losses.{number}": form for number, form in enumerate(stated["losses"])}
    heads = {f"heads.{name}": form for name, form in stated["heads"].items()}
    return {"decoder": stated["decoder"], "padding": stated["padding"], **heads, **losses}


def assemble_classifier(
    section: ClassifierSection, tokenizer: Tokenizer | None, make_tokenizer: MakeTokenizer, seed: int, source: str
) -> MageClassifier:
    """Return a classifier; see `assemble_mage`."""
    collected = Collected()
    if tokenizer is None and make_tokenizer is not None:
        tokenizer = collected.attempt("$.tokenizer", None, make_tokenizer)
    with seeded(seed, "model"):
        encoder = collected.build("$.model.encoder", ENCODERS, section.encoder, NoWires())
        collected.raise_if_any(source)
        assert tokenizer is not None and encoder is not None
        with at("$.model", section):
            return MageClassifier(
                tokenizer=tokenizer,
                encoder=encoder,
                classes=section.classes,
                embedding=section.embedding,
                head=section.head,
                drop_path=section.drop_path,
                input=section.input,
            )
