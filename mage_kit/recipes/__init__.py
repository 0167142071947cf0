"""Recipes: the JSON form of a run, checked as a whole, and the parts that it describes."""

from mage_kit.recipes.build import Forms, Parts, build, forms_of, untrained_like
from mage_kit.recipes.recipe import Recipe, json_schema

__all__ = ["Forms", "Parts", "Recipe", "build", "forms_of", "json_schema", "untrained_like"]
