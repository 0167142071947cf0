"""What the rooms above training ask of a recipe: how a run is measured, shown and repeated.

Sections are read in this room and where a recipe is resolved for training.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.base.plugin_code import code_digest
from mage_kit.base.signature import ComponentConfig
from mage_kit.datasets import DATASETS, Dataset
from mage_kit.images.transforms import Augment
from mage_kit.losses import LOSSES
from mage_kit.recipes.overrides import states
from mage_kit.recipes.recipe import Recipe
from mage_kit.recipes.sections import Evaluation


def kind_of(recipe: Recipe) -> str:
    """Return what a recipe is of: "mage", "classifier", or "tokenizer"."""
    return "tokenizer" if recipe.model is None else recipe.model.kind


def task_of(recipe: Recipe) -> str | None:
    """Return the kind of the task that a recipe is for; None where it trains nothing."""
    return None if recipe.training is None else recipe.training.kind


def encoder_width(recipe: Recipe) -> int | None:
    """Return the width of a recipe's encoder; None where it has no encoder, or one that states none."""
    encoder = getattr(recipe.model, "encoder", None)
    return None if encoder is None else getattr(encoder, "dim", None)


def contrasts_images(recipe: Recipe) -> bool:
    """Return whether a loss of a recipe takes the images of a batch for each other's negatives, as MAGE-C's does."""
    losses = getattr(recipe.model, "losses", None) or ()
    return any(LOSSES.get(loss.kind).cls.contrasts_batch for loss in losses)


def plugin_digests(recipe: Recipe) -> dict[str, str]:
    """Return a SHA-256 of the code of each plug-in that a recipe names, by its module."""
    return {name: code_digest(name) for name in recipe.plugins}


def has_place(recipe: Recipe, override: str) -> bool:
    """Return whether a recipe states the place of "training.validation.path=DIR"; a null section has none in it."""
    return states(recipe.model_dump(mode="json", by_alias=True), override.partition("=")[0])


def evaluation_of(recipe: Recipe) -> Evaluation:
    """Return how a run is measured, where nothing else is said."""
    return recipe.evaluation


def measured_images(recipe: Recipe) -> Dataset:
    """Open the images that a run is measured on: its own; of a token cache those that it was made from.

    Raises:
        MageKitError: If there are none, or a cache does not know its images.
    """
    if recipe.data is not None and recipe.data.kind == "token_cache":
        source = recipe.data.get("source")
        if source is None:
            raise MageKitError("data: the run was trained on cached tokens without images; name some with --data")
        return recipe.extended(data=source).build_dataset()
    return recipe.build_dataset()


def has_labels(recipe: Recipe) -> bool:
    """Return whether the images that a run is measured on have classes.

    Raises:
        MageKitError: As `measured_images`.
    """
    images = measured_images(recipe)
    try:
        images.labels()
    except MageKitError:
        return False
    return True


def held_out_images(recipe: Recipe) -> tuple[Dataset, str]:
    """Open images that a run did not train on, where its data knows such a part, else its own; return which, in words.

    Raises:
        MageKitError: As `measured_images`.
    """
    if has_parts(recipe):
        with contextlib.suppress(MageKitError):  # a folder of few images may have none to hold out
            return recipe.changed("data", part="held_out").build_dataset(), "held out"
    return measured_images(recipe), "of those that were trained on"


def has_parts(recipe: Recipe) -> bool:
    """Return whether a run learns from one part of its data, and another part is held out."""
    return recipe.data is not None and getattr(recipe.data, "part", None) == "training"


def parts_of(recipe: Recipe) -> tuple[Dataset, Dataset] | None:
    """Open the part that a run learns from and the one that is held out; None where its data is one.

    Raises:
        MageKitError: If either has no image.
    """
    if not has_parts(recipe):
        return None
    return recipe.build_dataset(), recipe.changed("data", part="held_out").build_dataset()


def perceptual_kind(recipe: Recipe) -> str | None:
    """Return the kind of the perceptual distance that a tokenizer's training used; None where it used none."""
    for section in (recipe.tokenizer_training, recipe.training):
        form = getattr(section, "perceptual", None)
        if form is not None:
            return str(form.kind)
    return None


def credit_of(recipe: Recipe) -> str:
    """Return whose the images of a recipe are, where that must stand beside them; else ""."""
    images = _images(recipe.data)
    return "" if images is None else DATASETS.get(images.kind).cls.credit


def tokenizer_weights(recipe: Recipe) -> str | None:
    """Return the folder of the trained tokenizer that a recipe names; None where it names none."""
    weights: str | None = recipe.tokenizer.get("weights")
    return weights


def training_views(recipe: Recipe) -> Augment | None:
    """Return how a recipe's data makes views; of a token cache, how the images do that it was made from."""
    return _views(recipe.data)


def validation_views(recipe: Recipe) -> Augment | None:
    """Return how the images make views that a classifier is measured on; without any, those that it is trained on."""
    return _views(recipe.validation or recipe.data)


def validation_words(recipe: Recipe) -> str:
    """Return what the recipe says of its validation images, in a few words."""
    config = recipe.validation
    if config is None:
        raise MageKitError("data: the recipe names no validation images; name a folder with --data")
    where = getattr(config, "path", None) or getattr(config, "part", None)
    return f"the recipe's validation images ({config.kind}{f' {where}' if where else ''})"


def repeated(recipe: Recipe, tokenizer: Path | None) -> Recipe:
    """Return the same training with nothing beside it: no checkpoints, no pictures.

    Args:
        recipe: With a task.
        tokenizer: Folder of its trained tokenizer; None for what the recipe names.

    Raises:
        MageKitError: If the recipe trains nothing.
    """
    if recipe.training is None:
        raise MageKitError("recipe: trains nothing")
    form = recipe.tokenizer.model_dump(mode="json")
    if tokenizer is not None:
        form["weights"] = str(tokenizer)
    quiet = {"checkpoint_every": 10**9, **({"samples_every": None} if recipe.training.kind == "masked" else {})}
    return recipe.extended(tokenizer=form).changed("training", **quiet)


def pixel_levels(recipe: Recipe) -> int | None:
    """Return how many levels deep pictures have from black to white; None for those of their files' type."""
    levels: int | None = getattr(_images(recipe.data), "levels", None)
    return levels


def _views(config: ComponentConfig | None) -> Augment | None:
    return getattr(_images(config), "augment", None)


def _images(config: ComponentConfig | None) -> ComponentConfig | None:
    """The section that names images; of a token cache, that of its source."""
    if config is not None and config.kind == "token_cache":
        source = config.get("source")
        return None if source is None else DATASETS.parse(source)
    return config
