"""A recipe resolved for tokenizing: its images, the trained tokenizers, and which of their streams are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mage_kit.base.errors import RecipeError
from mage_kit.base.grid import TokenSpec
from mage_kit.datasets import Dataset
from mage_kit.recipes import Recipe
from mage_kit.recipes.assemble import assemble_target
from mage_kit.recipes.sections import MageSection
from mage_kit.tokenizers import TOKENS, Tokenizer
from mage_kit.tokenizers.streams import encode_streams, stream_specs
from mage_kit.training.check import check
from mage_kit.training.weight_folders import WeightFolders, fill_target, fill_tokenizer


@dataclass(frozen=True)
class TokenSources:
    """Who tokenises, and which streams are wanted of them.

    Args:
        images: The recipe's.
        own: The recipe's tokenizer.
        targets: Other tokenizers, by name.
        streams: Names of what is wanted.
        precision: That the recipe asks of its training.
        seed: The recipe's.
    """

    images: Dataset
    own: Tokenizer
    targets: dict[str, Tokenizer]
    streams: tuple[str, ...]
    precision: str
    seed: int

    def encode(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return what is wanted of float images, by name."""
        return encode_streams(self.own, self.targets, self.streams, images_BCHW)

    def specs(self) -> dict[str, TokenSpec]:
        """Return what is wanted, by name."""
        specs = stream_specs(self.own, self.targets)
        return {name: specs[name] for name in self.streams}


def resolve_tokens(recipe: Recipe, mirrored: bool, device: torch.device) -> TokenSources:
    """Open the images of a recipe and load its tokenizers.

    Args:
        recipe: Its tokenizer has weights.
        mirrored: Whether views are kept mirrored too.
        device: Where the tokenizers go.

    Raises:
        RecipeError: If a tokenizer is untrained, the data gives tokens, or nothing wanted has codes.
    """
    meta = check(recipe).model
    streams = (TOKENS,) if meta is None else meta.reads
    tokenizer, weights = recipe.build_tokenizer(), recipe.tokenizer.get("weights")
    if weights is None and tokenizer.needs_training:
        rule = "must name a folder with a trained tokenizer (--set tokenizer.weights=DIR)"
        raise RecipeError([f"$.tokenizer.weights: null, {rule}"], recipe.name)
    images = recipe.build_dataset()
    if images.gives_tokens:
        raise RecipeError(["$.data: a token cache already, must be images"], recipe.name)
    if mirrored and not images.augment.flip:
        raise RecipeError(["$.data.augment.flip: 0, so --flip would make what training never sees"], recipe.name)
    folder = WeightFolders()
    if weights is not None:
        fill_tokenizer(tokenizer, recipe.tokenizer.model_dump(mode="json"), folder(weights), recipe.name)
    targets = {}
    for name, config in (recipe.model.targets if isinstance(recipe.model, MageSection) else {}).items():
        targets[name] = assemble_target(name, config, recipe.seed)
        fill_target(targets[name], name, config, folder, recipe.name)
    precision = "auto" if recipe.training is None else recipe.training.get("precision")
    others = {name: other.to(device) for name, other in targets.items()}
    sources = TokenSources(images, tokenizer.to(device), others, streams, precision, recipe.seed)
    if not any(spec.discrete for spec in sources.specs().values()):
        raise RecipeError([f"$.tokenizer.kind: {recipe.tokenizer.kind}, has no codes to cache"], recipe.name)
    return sources
