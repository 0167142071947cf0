"""What a recipe gets wrong, all of it at once: parts and tasks built without memory, no data read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from mage_kit.base.errors import RecipeError
from mage_kit.base.signature import ComponentConfig
from mage_kit.models import Mage
from mage_kit.models.decoding_rules import decoding_problems
from mage_kit.recipes import Parts, Recipe, build
from mage_kit.recipes.assemble import seeded
from mage_kit.recipes.places import at
from mage_kit.recipes.sections import MageSection
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.tasks.base import TASKS, Task
from mage_kit.training.tasks.context import Facts, TaskWires


def check(recipe: Recipe) -> Parts:
    """Build everything without memory and without reading data; return the parts on the meta device.

    Raises:
        RecipeError: With every problem found.
    """
    with torch.device("meta"):
        parts = build(recipe)
        tasks = build_tasks(recipe, parts)
    problems = _tokenizer_problems(recipe, parts.tokenizer)
    if isinstance(parts.model, Mage):
        problems += _model_problems(parts.model) + _target_problems(recipe, parts.model)
    for path, config in task_sections(recipe).items():
        if recipe.data is None:
            problems.append("$.data: missing, training needs it")
        problems += _misfit(recipe, path, config)
        batch, micro = config.get("batch"), config.get("micro_batch")
        if micro is not None and batch % micro:
            problems.append(f"{path}.micro_batch: {micro}, must divide {path}.batch ({batch})")
        if path in tasks:
            facts = Facts(path, batch, micro, recipe.data)
            problems += tasks[path].problems(facts)
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)), recipe.name)
    return parts


def build_tasks(recipe: Recipe, parts: Parts) -> dict[str, Task]:
    """The tasks that fit the recipe's model, by the path of their section; weights of their own follow the seed."""
    tasks = {}
    for path, config in task_sections(recipe).items():
        if not _misfit(recipe, path, config):
            with at(path, config), seeded(recipe.seed, f"task-{path}"):
                tasks[path] = TASKS.build(config, TaskWires(parts.tokenizer, parts.model))
    return tasks


def task_sections(recipe: Recipe) -> dict[str, ComponentConfig]:
    """Return the sections that name a task, by path."""
    sections = {"$.tokenizer_training": recipe.tokenizer_training, "$.training": recipe.training}
    return {path: config for path, config in sections.items() if config is not None}


def stage_problems(tasks: Mapping[str, Task]) -> list[str]:
    """Two trainings under one name would take up each other's checkpoints."""
    owners: dict[str, str] = {}
    problems = []
    for path, task in tasks.items():
        if (owner := owners.setdefault(task.stage, path)) != path:
            problems.append(f"{owner}.kind and {path}.kind: both tasks have the stage '{task.stage}', must differ")
    return problems


def _misfit(recipe: Recipe, path: str, config: ComponentConfig) -> list[str]:
    """Say if a task is named for another kind of model than there is."""
    needs, kind = TASKS.get(config.kind).cls.model_kind, None if recipe.model is None else recipe.model.kind
    if needs is None or kind == needs:
        return []
    has = "null" if kind is None else f"of kind '{kind}'"
    return [f"{path}.kind and $.model: '{config.kind}' trains a model of kind '{needs}', the model is {has}"]


def _target_problems(recipe: Recipe, model: Mage) -> list[str]:
    """Targets are trained elsewhere: each that needs weights names them."""
    if recipe.training is None or not isinstance(recipe.model, MageSection):
        return []
    return [
        f"$.model.targets.{name}.weights: null, must name a folder with a trained tokenizer"
        for name, config in recipe.model.targets.items()
        if config.get("weights") is None and getattr(model.targets[name], "needs_training", False)
    ]


def _tokenizer_problems(recipe: Recipe, tokenizer: Tokenizer) -> list[str]:
    problems = []
    weights, first, training = recipe.tokenizer.get("weights"), recipe.tokenizer_training, recipe.training
    if not tokenizer.needs_training and weights is not None:
        problems.append("$.tokenizer.weights: given, but this tokenizer has nothing to load; must be null")
    if first is not None and TASKS.get(first.kind).cls.makes != "tokenizer":
        problems.append(f"$.tokenizer_training.kind: '{first.kind}', must be a task that makes a tokenizer")
    if training is None:
        return problems
    makes = TASKS.get(training.kind).cls.makes
    if makes == "tokenizer":
        if recipe.model is not None:
            problems.append(
                f"$.model and $.training.kind: '{training.kind}' makes a tokenizer alone; model must be null"
            )
        if first is not None:
            problems.append("$.tokenizer_training: given, but $.training trains the tokenizer; must be null")
        if not tokenizer.needs_training:
            problems.append(f"$.tokenizer.kind and $.training.kind: '{recipe.tokenizer.kind}' has nothing to train")
    for path, config in task_sections(recipe).items():
        if getattr(config, "train", None) == "decoder" and weights is None:
            rule = "a decoder alone learns from a trained tokenizer's tokens, weights must name one"
            problems.append(f"$.tokenizer.weights and {path}.train: null and 'decoder'; {rule}")
    if makes == "tokenizer":
        return problems
    if tokenizer.needs_training and weights is None and recipe.pretrained is None and first is None:
        others = "$.tokenizer_training" if recipe.model is None or recipe.model.kind == "mage" else "$.pretrained"
        problems.append(f"$.tokenizer.weights and {others}: both null, the tokenizer would stay untrained")
    return problems


def _model_problems(model: Mage) -> list[str]:
    problems = []
    tests: dict[str, Callable[[], object]] = {
        "$.model.mask_ratio": lambda: model.draw_ratios(4, torch.Generator().manual_seed(0)),
        "$.model.generation.schedule": lambda: model.decoding.schedule.check(model.decoding.steps),
    }
    for path, test in tests.items():
        try:
            test()
        except ValueError as error:
            problems.append(f"{path}: {error}")
    if model.generates:
        for name, line in decoding_problems(model, model.decoding).items():
            problems.append(f"$.model.generation.{name} and $.model: {line}")
    elif model.decoding.guidance is not None and model.classes is None:
        problems.append("$.model.generation.guidance and $.model.decoder: there is no class to guide by; must be null")
    return problems
