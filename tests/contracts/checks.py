"""What every component has to hold, as functions: run over all registered ones, and over mutants that must fail.

Each raises AssertionError. The rules answer what users of other projects met: one polarity, loss on masked tokens only,
no leak of targets, known tokens unchanged, exact counts, fresh and repeatable masks.
"""

from __future__ import annotations

import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.base.files import write_json, write_tensors
from mage_kit.base.registry import Registry
from mage_kit.datasets import DATASETS, DatasetWires
from mage_kit.datasets.token_store import CACHE_FILE, CacheCard, shard_file, shard_notes
from mage_kit.generation import decode_tokens
from mage_kit.models.decoding import Decoding
from mage_kit.selections import SelectionStep
from tests import build


def attributes(registry: Registry[Any, Any], component: Any) -> None:
    """Every keyword is an attribute, and the recipe form rebuilds the same component."""
    entry = registry.entry_of(component)
    for name in registry.parameters(entry):
        assert hasattr(component, name), f"{entry.kind}: keyword '{name}' is no attribute"
    given = {"weight": 1.0, "batch": 8}
    slots = {name: given.get(name, field.default) for name, (_, field) in registry.slot_fields.items()}
    described = registry.describe(component, **slots)
    assert registry.parse(described).model_dump(mode="json") == described


def mask_ratio(ratio: mk.MaskRatio) -> None:
    """Draws lie in the stated range, in float64, the same for the same generator and fresh from another."""
    first, again, other = (ratio.sample(5000, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.dtype == torch.float64 and first.shape == (5000,)
    assert 0 <= ratio.low <= ratio.high <= 1
    assert bool(((first >= ratio.low) & (first <= ratio.high)).all()), "draws leave their own range"
    assert torch.equal(first, again)
    if ratio.low < ratio.high:
        assert not torch.equal(first, other), "the generator is not the source of the draws"
        assert first.std() > 0


def schedule(curve: mk.Schedule) -> None:
    """Falls from 1 to 0; counts are exact, agree on host and device, end in 0, and never stand still."""
    values = [curve.remaining(k / 100) for k in range(101)]
    assert abs(values[0] - 1) < 1e-9 and abs(values[-1]) < 1e-9
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(values))
    for unknown, steps in ((256, 20), (256, 8), (35, 12), (16, 20), (5, 5), (1, 3), (1, 1)):
        counts = curve.counts(unknown, steps)
        assert len(counts) == steps and counts[-1] == 0
        before = [unknown, *counts[:-1]]
        assert all(after < max(1, earlier) for earlier, after in zip(before, counts, strict=True))
        masked = torch.tensor([unknown, 0])
        start = masked.clone()
        for step, count in enumerate(counts, start=1):
            masked = curve.next_counts(start, masked, step, steps)
            assert masked.tolist() == [count, 0]


def selection(choice: mk.Selection, model: mk.Mage, schedule: mk.Schedule | None = None) -> None:
    """In decoding: exact counts a row, known tokens unchanged and never re-sampled, the same for (seed, index)."""
    length = model.spec.grid.size
    known = build.tokens(model, 6, seed=5)
    masked = (
        torch.rand(6, length, generator=torch.Generator().manual_seed(3))
        < torch.tensor([1, 0.9, 0.6, 0.3, 0.1, 0.0])[:, None]
    )
    masked[0] = True
    decoding = Decoding(schedule or mk.CosineSchedule(), choice, 6)
    seen: list[Tensor] = []
    logits = type(model).logits

    def spy(self: mk.Mage, ids: Tensor, mask: Tensor, *told: Any, **more: Any) -> Tensor:
        seen.append(mask.clone())
        return logits(self, ids, mask, *told, **more)

    type(model).logits = spy
    try:
        filled = decode_tokens(model, known, masked, decoding=decoding, seed=1).ids_BL
    finally:
        type(model).logits = logits
    assert torch.equal(filled[~masked], known[~masked]), "known tokens changed"
    expected = [decoding.schedule.counts(int(count), 6) for count in masked.sum(1)]
    for step, mask in enumerate(seen[1:]):
        assert mask.sum(1).tolist() == [row[step] for row in expected], "counts are not exact"
        assert not bool((mask & ~seen[step]).any()), "a token known before is masked again"
    again = decode_tokens(model, known, masked, decoding=decoding, seed=1).ids_BL
    assert torch.equal(filled, again)
    alone = decode_tokens(model, known[2:3], masked[2:3], decoding=decoding, seed=1, first_index=2).ids_BL
    assert torch.equal(alone, filled[2:3]), "an image depends on its batch"
    assert not torch.equal(filled, decode_tokens(model, known, masked, decoding=decoding, seed=2).ids_BL)


def selection_by_itself(choice: mk.Selection, model: mk.Mage) -> None:
    """Image i follows (seed, i), whatever else is computed with it: exactly in float64, nearly in float32; logits that
    are no numbers are an error, never a picture."""
    images, length = 64, model.spec.grid.size
    decoding = Decoding(mk.CosineSchedule(), choice, 8)
    known = build.tokens(model, images, seed=5)
    masked = torch.rand(images, length, generator=torch.Generator().manual_seed(3)) < 0.8
    for dtype, share in ((torch.float64, 1.0), (torch.float32, 0.999)):
        model.to(dtype)
        whole = decode_tokens(model, known, masked, decoding=decoding, seed=1).ids_BL
        parts = [
            decode_tokens(model, known[part], masked[part], decoding=decoding, seed=1, first_index=part.start).ids_BL
            for part in (slice(0, 1), slice(1, 4), slice(4, 33), slice(33, images))
        ]
        assert float((whole == torch.cat(parts)).double().mean()) >= share, f"an image depends on its batch in {dtype}"
    with torch.no_grad():
        model.head.bias[3] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        decode_tokens(model, known, masked, decoding=decoding)


def padding(pad: mk.Padding) -> None:
    """Visible tokens keep their own feature; all others of an image share one filling; positions are added once."""
    plan = build.mage(drop=0.5).plan(torch.tensor([0.5, 0.7, 1.0], dtype=torch.float64), torch.rand(3, 16))
    latents = torch.randn(3, plan.kept_BS.shape[1], 24, generator=torch.Generator().manual_seed(0))
    positions = torch.randn(17, 24, generator=torch.Generator().manual_seed(1))
    filled = pad(latents, plan, positions) - positions
    torch.testing.assert_close(filled[:, 0], latents[:, 0])
    for image in range(3):
        own = {int(place): latents[image, slot] for slot, place in enumerate(plan.kept_BS[image])}
        rest = []
        for token in range(16):
            hidden = bool(plan.masked_BL[image, token]) and (pad.replace_seen or token + 1 not in own)
            if hidden:
                rest.append(filled[image, token + 1])
            else:
                torch.testing.assert_close(filled[image, token + 1], own[token + 1])
        assert rest and all(torch.allclose(value, rest[0], atol=1e-5) for value in rest)


def no_leak(model: mk.Mage) -> None:
    """Predictions of masked tokens do not change with the tokens under the mask, by whatever attention form."""
    model.eval()
    values, other = build.tokens(model, 4, seed=1), build.tokens(model, 4, seed=2)
    ratio = torch.full((4,), model.mask_ratio.high * 0.5 + model.mask_ratio.low * 0.5, dtype=torch.float64)
    plan = model.plan(ratio, torch.rand(4, model.spec.grid.size, generator=torch.Generator().manual_seed(0)))
    masked = plan.masked_BL if values.ndim == 2 else plan.masked_BL[:, :, None]
    changed = torch.where(masked, other, values)
    for form in ("sdpa", "matmul", "reference"):
        model.set_attention(form)
        with torch.no_grad():
            first, second = (_masked_predictions(model, tokens, plan) for tokens in (values, changed))
        assert torch.equal(first, second), f"targets leak into the predictions ({form})"
    visible = torch.where(masked, values, other)
    with torch.no_grad():
        third = _masked_predictions(model, visible, plan)
    if bool((~plan.masked_BL).any()):
        assert not torch.equal(first, third), "visible tokens do not reach the predictions: the mask is inverted"


def _masked_predictions(model: mk.Mage, values: Tensor, plan: Any) -> Tensor:
    features = model.decode(model.encoder.norm(model.encode(values, plan)), plan)
    return model.head(features[plan.masked_BL], model.embedding)


def masked_only(model: mk.Mage) -> None:
    """The loss follows masked tokens' targets alone, is finite, and gives every parameter a finite gradient."""
    model.eval()
    views = model.views
    values = build.tokens(model, 4 * views, seed=1)
    ratio = torch.full((4 * views,), (model.mask_ratio.low + model.mask_ratio.high) / 2, dtype=torch.float64)
    output, plan, masks = build.masked_pass(model, values, ratio, views=views)
    total = torch.stack([term.total for term in output.terms]).sum()
    assert bool(torch.isfinite(total))
    total.backward()
    for name, parameter in model.trainable():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} is not finite"
    rows = int(output.weight_M.sum())
    assert rows == masks.masked_tokens == int(plan.masked_BL.sum()), "rows of the loss are not the masked tokens"
    picked = torch.zeros(plan.masked_BL.numel(), dtype=torch.bool)
    picked[output.picked_M[output.weight_M > 0]] = True
    assert torch.equal(picked, plan.masked_BL.flatten()), "the loss is taken on other tokens than the masked ones"
    for loss, term in zip(model.losses, output.terms, strict=True):
        count = loss.count(masks)
        if term.rows_M is not None:
            assert count == masks.masked_tokens
            mean = (term.rows_M * output.weight_M).sum() / rows
            torch.testing.assert_close(term.total.detach() / count, mean)


def confidence(choice: mk.Selection) -> None:
    """In the last step scores rank tokens as their probabilities do; in the first, noise has its say."""
    log_p = torch.linspace(-5, 0, 16)[torch.randperm(16, generator=torch.Generator().manual_seed(1))].repeat(2, 1)
    noise = torch.rand(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    last = choice.score(SelectionStep(8, 8, mk.TokenGrid(4, 4), log_p, noise))
    order = last.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(order, log_p.argsort(dim=1, descending=True)), "scores do not rank the tokens"
    first = choice.score(SelectionStep(1, 8, mk.TokenGrid(4, 4), log_p, noise))
    assert not torch.equal(first, last), "no noise in the first step"


def training_masks(epoch: int, views: int = 2) -> Tensor:
    """The masks that training gives the first 16 digits in an epoch: (views x 16, L), view after view."""
    from mage_kit.training.batches import Batch
    from tests.loops import loop_of
    from tests.training.test_training import small

    recipe = small()
    loop = loop_of(recipe)
    size = recipe.build_tokenizer().image_size
    batch = Batch({"images": torch.zeros(views * 16, 1, *size, dtype=torch.uint8)}, torch.arange(16), epoch, views)
    piece = loop.task.cut(batch, mk.TrainingStep(5, loop.job.steps, recipe.seed))[0]
    return loop.task.model.plan(piece.masks.ratio_B, piece.noise_TL).masked_BL


def fresh_masks() -> None:
    """Masks differ between epochs, images and views, and repeat for the same (seed, epoch, index, view)."""
    first, again, later = training_masks(0), training_masks(0), training_masks(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, later), "the same masks in each epoch"
    assert not torch.equal(first[:16], first[16:]), "the same masks in both views"
    assert len({tuple(row) for row in first[:16].tolist()}) > 8, "the same mask for each image"


def dataset_config(kind: str, folder: Path, wires: DatasetWires) -> dict[str, Any]:
    """The recipe form of a data set over a folder of images, in whatever shape its kind wants them."""
    augment = {"views": 2, "flip": 0.5}
    loose = {"kind": "image_folder", "path": str(folder), "augment": augment}
    if kind in ("digits", "pictograms"):
        return {"kind": kind, "augment": augment}
    if kind == "tar_shards":
        packed = folder.parent / "packed.tar"
        with tarfile.open(packed, "w") as tar:
            for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
                label = sorted(path.name for path in folder.iterdir()).index(file.parent.name)
                (folder.parent / "label.cls").write_text(str(label))
                tar.add(file, f"{number:03d}{file.suffix}")
                tar.add(folder.parent / "label.cls", f"{number:03d}.cls")
        return {"kind": kind, "path": str(packed), "augment": augment}
    if kind == "token_cache":
        return {"kind": kind, "path": str(_made_cache(folder, loose, wires)), "views": 2, "source": loose}
    return {**loose, "kind": kind}


def _made_cache(folder: Path, source: dict[str, Any], wires: DatasetWires) -> Path:
    """Random tokens, five crops of each image, mirrored too: 2 x 3 of 16 codes."""
    images = DATASETS.build(DATASETS.parse(source), wires)
    made = {name: value for name, value in images.augment.model_dump(mode="json").items() if name != "views"}
    transform = {"augment": made, "crops": 5, "mirrored": True, "seed": 0}
    transform |= {"image_size": list(wires.image_size), "channels": wires.channels}
    count, streams = len(images), {"tokens": {"codes": 16, "width": 4, "factors": 1}}
    card = CacheCard({}, {}, transform, dict(images.identity()), images.classes, count, count, (2, 3), streams)
    out = folder.parent / f"cache-{wires.channels}"
    out.mkdir(exist_ok=True)
    labels = torch.tensor([images.label(index) for index in range(len(images))])
    ids = torch.randint(16, (len(images), 5, 2, 6), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    places = {"index": torch.arange(len(images)), "labels": labels}
    notes = shard_notes({"tokens": ids.numpy()}, {name: part.numpy() for name, part in places.items()})
    write_tensors(shard_file(out, 0), {"tokens": ids, **places}, notes)
    write_json(out / CACHE_FILE, card.as_json())
    return out
