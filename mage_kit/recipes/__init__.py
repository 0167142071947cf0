"""Recipes: the JSON form of a run, checked as a whole, and the parts that it describes."""

from mage_kit.recipes.build import Forms, Parts, build, read_forms, untrained_like
from mage_kit.recipes.recipe import Recipe, json_schema

__all__ = ["Forms", "Parts", "Recipe", "build", "json_schema", "read_forms", "untrained_like"]
