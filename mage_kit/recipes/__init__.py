"""Recipes: the JSON form of a run, checked as a whole, and the parts that it describes."""

from mage_kit.recipes.build import Forms, Parts, build, grid_of_form, read_forms, untrained_like
from mage_kit.recipes.recipe import Recipe, json_schema
from mage_kit.recipes.resizing import at_size

__all__ = [
    "Forms",
    "Parts",
    "Recipe",
    "at_size",
    "build",
    "grid_of_form",
    "json_schema",
    "read_forms",
    "untrained_like",
]
