"""Recipes: the JSON form of a run, checked as a whole, and the parts that it describes."""

from mage_kit.recipes.build import Parts, build, untrained_like
from mage_kit.recipes.recipe import Recipe, json_schema

__all__ = ["Parts", "Recipe", "build", "json_schema", "untrained_like"]
