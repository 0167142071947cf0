"""What a way of decoding asks of a model: classes to guide by, logits to cut off, probabilities to revise by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mage_kit.models.decoding import Decoding

if TYPE_CHECKING:
    from mage_kit.models.mage import Mage


def decoding_problems(model: Mage, decoding: Decoding) -> dict[str, str]:
    """Return a line for each setting that a model cannot follow, by the setting's name; none where all can be done.

    Args:
        model: One that generates.
        decoding: How it is to.
    """
    head, selection = model.head, decoding.selection
    name, chooser = type(head).__name__, type(selection).__name__
    problems = {}
    if not head.gives_logits:
        for setting, value in decoding.cuts().items():
            problems[setting] = f"{setting}: {value}, {name} gives no logits to cut off"
    if decoding.guidance is not None and decoding.guidance.scale:
        if model.classes is None:
            problems["guidance"] = f"guidance: given, but {type(model.decoder).__name__} takes no labels"
        elif not head.gives_logits:
            problems["guidance"] = f"guidance: given, but {name} gives no logits to guide"
    if selection.revises and not head.gives_log_p:
        problems["selection"] = f"selection: {chooser} revises tokens by their probability, {name} has no log_p"
    elif selection.reads_predictions and not head.gives_predictions:
        problems["selection"] = f"selection: {chooser} reads predictions, {name} gives none"
    return problems
