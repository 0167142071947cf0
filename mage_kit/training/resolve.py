"""One pass over a recipe: checked, opened, loaded, each part built once. Nothing below reads a recipe.

The order is that of cost: settings on the meta device, then what the machine can run, the data, the weights. What comes
out is plain: images, modules, and one job a training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mage_kit.base.errors import RecipeError
from mage_kit.base.plugin_code import foreign_code
from mage_kit.base.plugins import plugin_folders
from mage_kit.base.signature import ComponentConfig
from mage_kit.datasets import Dataset
from mage_kit.datasets.base import identity_of
from mage_kit.models import Mage, MageClassifier
from mage_kit.planning.estimate import operations_an_image
from mage_kit.recipes import Parts, Recipe
from mage_kit.recipes.answers import contrasts_images
from mage_kit.recipes.build import build_fitting, require_memory
from mage_kit.recipes.data_fit import fit_to_data
from mage_kit.recipes.places import at
from mage_kit.recipes.sections import MageSection
from mage_kit.recipes.workload import workload
from mage_kit.store.folders import describe_tokenizer
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.batches import BatchLayout, spread
from mage_kit.training.check import build_tasks, check, stage_problems, task_sections
from mage_kit.training.job import Job
from mage_kit.training.kernels import kernel_problems
from mage_kit.training.sizing import size_decision
from mage_kit.training.tasks.base import CARRIED_OUT, TASKS, Task
from mage_kit.training.tasks.context import Facts
from mage_kit.training.warm_start import fill_model
from mage_kit.training.weight_folders import WeightFolders, fill_target, fill_tokenizer

Images = tuple[Dataset, Dataset | None]
"""What is trained on, and what accuracy is measured on."""


@dataclass(frozen=True)
class Resolved:
    """A recipe, resolved.

    Args:
        name: Of the run.
        seed: Every random draw follows from it.
        text: The recipe, every number stated.
        plugins: Folders that its plug-ins come from, by module.
        images: The data, as opened.
        tokenizer: With its weights, or about to be trained.
        tokenizer_form: Its recipe form.
        model: On the tokenizer; None of a tokenizer alone.
        jobs: What is trained, in order: the tokenizer if it needs it, then what the recipe is for.
        free: Paths that a resumed run may change.
        extends: Paths that one may change which goes on beyond its end.
        remarks: Lines to tell: what was done to weights so that they fit.
    """

    name: str
    seed: int
    text: str
    plugins: Mapping[str, str]
    images: Dataset
    tokenizer: Tokenizer
    tokenizer_form: Mapping[str, Any]
    model: Mage | MageClassifier | None
    jobs: tuple[Job, ...]
    free: frozenset[str]
    extends: frozenset[str]
    remarks: tuple[str, ...] = ()


def resolve(recipe: Recipe, device: torch.device, images: Images | None = None) -> Resolved:
    """Resolve a recipe for a training on this machine.

    Args:
        recipe: With data and a task.
        device: Where it will run.
        images: To train and to measure on, instead of those that the recipe names.

    Raises:
        RecipeError: With every problem of the pass that found one.
        MageKitError: If data or weights cannot be read.
    """
    meta = check(recipe)
    fitted, lines = fit_to_data(recipe, images[0] if images else None)
    if fitted is not recipe:
        recipe, meta = fitted, check(fitted)
    require_memory(meta, recipe.name)
    if recipe.training is None:
        raise RecipeError(["$.training: missing, training needs it"], recipe.name)
    sections = {path: task_sections(recipe)[path] for path in _section_paths(recipe, meta.tokenizer)}
    micro = recipe.training.get("micro_batch") or recipe.training.get("batch")
    if meta.model is not None:
        _raise(kernel_problems(meta.model, device, recipe.training.get("precision"), micro), recipe)
    dataset, validation = images or (recipe.build_dataset(), None)
    _raise(_size_problems(sections, len(dataset)), recipe)
    layouts = {
        path: spread(path, config.get("batch"), config.get("micro_batch"), recipe.name)
        for path, config in sections.items()
    }
    parts, remarks = _load(recipe, dataset)
    if recipe.tokenizer_training is not None and "$.tokenizer_training" not in sections:
        remarks.append("tokenizer_training: its steps are left out, since a trained tokenizer is named")
    tasks = build_tasks(recipe, parts)
    _raise(stage_problems({path: tasks[path] for path in sections}), recipe)
    jobs = []
    for path, config in sections.items():
        task, layout = tasks[path], layouts[path]
        data = _accept(recipe, task, dataset, validation, path)
        _raise(_size_problems({path: config}, len(data)), recipe)
        _raise(task.problems(Facts(path, layout.batch, layout.micro, recipe.data)), recipe)
        job = _job(recipe, path, task, data, layout, parts.tokenizer)
        jobs.append(_planned(recipe, job, meta))
    return Resolved(
        name=recipe.name,
        seed=recipe.seed,
        text=recipe.to_json(),
        plugins=plugin_folders(recipe.plugins),
        images=dataset,
        tokenizer=parts.tokenizer,
        tokenizer_form=recipe.tokenizer.model_dump(mode="json"),
        model=parts.model,
        jobs=tuple(jobs),
        free=frozenset(f"{job.path}.{name}" for job in jobs for name in CARRIED_OUT | job.task.free),
        extends=frozenset(f"{jobs[-1].path}.{name}" for name in jobs[-1].task.extends),
        remarks=(*lines, *([dataset.credit] if dataset.credit else []), *remarks),
    )


# -- settings --------------------------------------------------------------------------------------------------


def _section_paths(recipe: Recipe, tokenizer: Tokenizer) -> list[str]:
    """Paths of the sections that are carried out, in order."""
    assert recipe.training is not None
    has_weights = recipe.tokenizer.get("weights") is not None or recipe.pretrained is not None
    alone = TASKS.get(recipe.training.kind).cls.makes == "tokenizer"
    first = tokenizer.needs_training and not has_weights and not alone
    return [*(["$.tokenizer_training"] if first else []), "$.training"]


def _size_problems(sections: Mapping[str, ComponentConfig], images: int) -> list[str]:
    """Batches that the data cannot fill, told before the first stage has cost its time."""
    return [
        f"{path}.batch: {config.get('batch')}, must be at most the number of images ({images})"
        for path, config in sorted(sections.items(), key=lambda item: item[0] != "$.training")
        if config.get("batch") > images
    ]


def _raise(problems: list[str], recipe: Recipe) -> None:
    if problems:
        raise RecipeError(problems, recipe.name)


# -- data and weights ------------------------------------------------------------------------------------------


def _load(recipe: Recipe, dataset: Dataset) -> tuple[Parts, list[str]]:
    """Build tokenizer and model, and fill in what the recipe names; each folder is opened once.

    Returns:
        The parts, and lines to tell.
    """
    folder, remarks = WeightFolders(), list[str]()
    tokenizer = recipe.build_tokenizer()
    weights, pretrained = recipe.tokenizer.get("weights"), recipe.pretrained
    if weights is None and pretrained is not None and tokenizer.needs_training:
        weights = pretrained.weights
        if not Path(weights).is_dir():
            advice = "train it first, or name one with --set pretrained.weights=DIR"
            rule = f"must be the folder of a trained model: {advice}"
            raise RecipeError([f"$.pretrained.weights: '{weights}', {rule}"], recipe.name)
    if weights is not None:
        fill_tokenizer(tokenizer, recipe.tokenizer.model_dump(mode="json"), folder(weights), recipe.name)
    parts = build_fitting(recipe, tokenizer)
    targets = _fill_targets(recipe, parts.model, folder)
    if dataset.gives_tokens:
        _check_cache(recipe, dataset, tokenizer, weights, targets)
    if pretrained is not None and parts.model is not None:
        whole = pretrained.parts == "all"
        remarks = fill_model(parts.model, folder(pretrained.weights), recipe.name, whole=whole, classes=dataset.classes)
    return parts, remarks


def _fill_targets(recipe: Recipe, model: Mage | MageClassifier | None, folder: WeightFolders) -> dict[str, Tokenizer]:
    """Fill the other tokenizers, which nothing trains here; return them."""
    if not isinstance(model, Mage) or not isinstance(recipe.model, MageSection):
        return {}
    targets = {}
    for name, other in model.targets.items():
        assert isinstance(other, Tokenizer)
        fill_target(other, name, recipe.model.targets[name], folder, recipe.name)
        targets[name] = other
    return targets


def _check_cache(
    recipe: Recipe, cache: Dataset, tokenizer: Tokenizer, weights: str | None, targets: Mapping[str, Tokenizer]
) -> None:
    """Refuse tokens that another tokenizer made."""
    if weights is None and tokenizer.needs_training:
        advice = f"must name the one that made the cache (--set tokenizer.weights={getattr(cache, 'path', 'CACHE')})"
        raise RecipeError([f"$.tokenizer.weights: null, {advice}"], recipe.name)
    with at("$.data", recipe.data):
        others = {name: dict(describe_tokenizer(other)) for name, other in targets.items()}
        cache.check_tokenizers(dict(describe_tokenizer(tokenizer)), others)


def _accept(recipe: Recipe, task: Task, dataset: Dataset, validation: Dataset | None, path: str) -> Dataset:
    with at(path):
        try:
            return task.accept(dataset, validation, recipe.seed, path)
        except RecipeError as error:
            raise RecipeError(error.problems, recipe.name) from None


def _job(recipe: Recipe, path: str, task: Task, images: Dataset, layout: BatchLayout, tokenizer: Tokenizer) -> Job:
    config = task_sections(recipe)[path]
    options = {name: config.get(name) for name in CARRIED_OUT}
    makes = task.makes == "tokenizer"
    steps = task.length(len(images) // layout.batch)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        rule = "must be a whole number of at least 1"
        raise RecipeError([f"{path}.kind: '{config.kind}' says that it takes {steps!r} steps, {rule}"], recipe.name)
    return Job(
        path=path,
        task=task,
        images=images,
        layout=layout,
        steps=steps,
        precision=config.get("precision"),
        recompute=recipe.kernels.recompute and not makes,
        compile=False if makes else recipe.kernels.compile,
        residual="float32" if makes else recipe.kernels.residual,
        fingerprint=_fingerprint(recipe, config, task, images, tokenizer) if makes else None,
        **options,
    )


def _planned(recipe: Recipe, job: Job, meta: Parts) -> Job:
    """Give a job what the planner knows of it; that is of masked models, by tasks that know epochs."""
    config = task_sections(recipe)[job.path]
    if getattr(config, "adversary", None) is not None:
        return job  # the planner counts one player
    if job.fingerprint is not None or not isinstance(meta.model, Mage) or not hasattr(config, "epochs"):
        return job
    work = workload(recipe, meta.model)
    is_free = work.micro_batch is None and not contrasts_images(recipe)
    sizes = partial(size_decision, work, job.layout) if is_free else None
    return replace(job, sizes=sizes, operations=partial(operations_an_image, work))


def _fingerprint(recipe: Recipe, config: ComponentConfig, task: Task, images: Dataset, tokenizer: Tokenizer) -> str:
    """What a trained tokenizer depends on: its form, the weights that it starts from where they are no draws of the
    seed, its task with the weights of other networks in it, the images and the seed; not how it was carried out."""
    settings = {name: value for name, value in config.model_dump(mode="json").items() if name not in CARRIED_OUT}
    form = recipe.tokenizer.model_dump(mode="json")
    data = None if recipe.data is None else recipe.data.model_dump(mode="json")
    parts = [{**form, "weights": None}, settings, data, recipe.seed, identity_of(images)]
    if code := foreign_code([task, *tokenizer.modules()]):
        parts.append(code)
    if materials := task.materials():
        parts.append({"materials": list(materials)})
    if recipe.tokenizer.get("weights") is not None:
        parts.append(dict(describe_tokenizer(tokenizer)))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
