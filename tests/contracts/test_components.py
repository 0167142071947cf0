"""The contract suite over every registered component: a new one is covered as soon as it is registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mage_kit as mk
from mage_kit.adversaries import AdversaryWires
from mage_kit.base.registry import FAMILIES
from mage_kit.base.signature import NoWires
from mage_kit.datasets import DatasetWires
from mage_kit.decoders import DecoderWires
from mage_kit.evaluation.measures import MEASURES
from mage_kit.heads import HeadWires
from mage_kit.losses import LossWires
from mage_kit.paddings import PaddingWires
from mage_kit.training.tasks import TaskWires
from tests import build
from tests.contracts import checks

SMALL: dict[str, dict[str, Any]] = {
    "vqgan": {
        "image_size": [16, 16], "channels": 1, "base_channels": 8, "multipliers": [1, 1, 2], "res_blocks": 1,
        "norm_groups": 4, "quantizer": {"kind": "ema", "codes": 32, "width": 4},
    },
    "patches": {"image_size": [16, 16], "channels": 1, "patch": 4},
    "vit": {"dim": 32, "depth": 1, "heads": 4},
    "class_vit": {"classes": 3, "dim": 32, "depth": 1, "heads": 4},
    "linear": {"dim": 32},
    "info_nce": {"hidden": 32, "output": 16},
    "masked": {"epochs": 1, "warmup_epochs": 0},
    "contrast": {"epochs": 1, "warmup_epochs": 0},
    "masked_adversarial": {"epochs": 1, "warmup_epochs": 0},
    "classify": {"epochs": 1, "warmup_epochs": 0},
    "reconstruct": {"steps": 4},
    "adversarial": {"steps": 4, "adversary": {"kind": "vqgan_plus", "width": 32}},
    "patchgan": {"width": 8, "halvings": 1},
    "vqgan_plus": {"width": 32},
    "stylegan": {"widest": 8},
    "transfer": {"folders": ["flowers"]},
}  # fmt: skip


SMALL["taming"] = {**SMALL["vqgan"], "z_channels": 8, "quantizer": {"kind": "gradient", "codes": 32, "width": 4}}
SMALL["llamagen"] = {**SMALL["taming"], "quantizer": {**SMALL["taming"]["quantizer"], "unit": True}}
SMALL["ema"] = SMALL["gradient"] = {"codes": 32, "width": 4}


def make(family: str, kind: str, **settings: Any) -> Any:
    """Build a component of any family at a small size."""
    registry = FAMILIES[family]
    known = registry.get(kind).config.model_fields
    wanted = {key: value for key, value in {**SMALL.get(kind, {}), **settings}.items() if key in known}
    slots = {name: value for name, value in {"weight": 1.0, "batch": 8}.items() if name in registry.slot_fields}
    spec = mk.TokenSpec(mk.TokenGrid(4, 4), 32, 4)
    wires = (
        task_wires(kind)
        if registry.wires is TaskWires
        else {
            NoWires: NoWires(),
            PaddingWires: PaddingWires(24),
            DecoderWires: DecoderWires(32, 16),
            LossWires: LossWires(spec, 32, {"tokens": spec}),
            HeadWires: HeadWires(spec, 24, 32, True),
            DatasetWires: DatasetWires((16, 16), 1),
            AdversaryWires: AdversaryWires(1, (16, 16), (4, 4)),
        }[registry.wires]
    )
    return registry.build(registry.parse({"kind": kind, **wanted, **slots}), wires)


def task_wires(kind: str) -> TaskWires:
    """A tokenizer and the model that a task of a kind trains."""
    model: Any = None
    wanted = mk.TASKS.get(kind).cls.model_kind
    if wanted == "mage":
        contrast = [mk.InfoNCE(32, hidden=32, output=16)]
        model = build.mage(losses=contrast if kind == "contrast" else None)
    elif wanted == "classifier":
        model = mk.MageClassifier(tokenizer=build.vqgan(), encoder=mk.ViTEncoder(dim=32, depth=1, heads=4), classes=3)
    return TaskWires(build.vqgan() if model is None else model.tokenizer, model)


assert MEASURES.family in FAMILIES, "a family that is imported on demand"


def kinds(family: str) -> list[str]:
    return FAMILIES[family].kinds()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two classes with images of several modes and sizes."""
    random = np.random.default_rng(0)
    root = tmp_path / "images"
    for label in ("cats", "dogs"):
        (root / label).mkdir(parents=True)
        for number, mode in enumerate(["RGB", "L", "P", "RGBA", "CMYK", "1"]):
            pixels = random.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).convert(mode if mode not in ("CMYK",) else "CMYK")
            picture.save(root / label / f"{number}.{'tiff' if mode == 'CMYK' else 'png'}")
    return root


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"datasets", "perceptual"}))
def test_every_keyword_is_an_attribute(family: str) -> None:
    for kind in kinds(family):
        checks.attributes(FAMILIES[family], make(family, kind))


@pytest.mark.parametrize("kind", kinds("mask_ratios"))
def test_mask_ratios(kind: str) -> None:
    checks.mask_ratio(make("mask_ratios", kind))


@pytest.mark.parametrize("kind", kinds("schedules"))
def test_schedules(kind: str) -> None:
    checks.schedule(make("schedules", kind))


@pytest.mark.parametrize("kind", kinds("selections"))
@pytest.mark.parametrize(
    ("schedule", "grid"), [*((schedule, (4, 4)) for schedule in kinds("schedules")), ("cosine", (5, 7))]
)
def test_selections(kind: str, schedule: str, grid: tuple[int, int]) -> None:
    model = build.mage(build.vqgan(grid=grid)).eval()
    checks.selection(make("selections", kind), model, make("schedules", schedule))


@pytest.mark.parametrize("kind", kinds("selections"))
def test_selections_whatever_the_batch(kind: str) -> None:
    checks.selection_by_itself(make("selections", kind), build.sharpen(build.mage().eval()))


@pytest.mark.parametrize("kind", kinds("paddings"))
@pytest.mark.parametrize("replace_seen", [True, False])
def test_paddings(kind: str, replace_seen: bool) -> None:
    checks.padding(make("paddings", kind, replace_seen=replace_seen))


@pytest.mark.parametrize("tokenizer", kinds("tokenizers"))
@pytest.mark.parametrize("padding", kinds("paddings"))
@pytest.mark.parametrize("decoder", kinds("decoders"))
@pytest.mark.parametrize("encoder", kinds("encoders"))
@pytest.mark.parametrize("drop", [0.5, 0.0])
def test_no_combination_leaks_or_looks_at_visible_tokens(
    tokenizer: str, padding: str, decoder: str, encoder: str, drop: float
) -> None:
    if drop > 0 and decoder == "linear" and padding == "mask_token":
        with pytest.raises(mk.PartsError, match="decoder and padding"):
            build.mage(decoder=make("decoders", "linear"), padding=mk.MaskTokenPadding(32))
        return
    made = make("tokenizers", tokenizer)
    decoded = make("decoders", decoder)
    parts = {
        "encoder": make("encoders", encoder),
        "decoder": decoded,
        "padding": FAMILIES["paddings"].build(
            FAMILIES["paddings"].parse({"kind": padding, "replace_seen": drop > 0}), PaddingWires(decoded.dim)
        ),
    }
    model = build.mage(made, drop=drop, **parts)
    checks.no_leak(model)
    checks.masked_only(model)


@pytest.mark.parametrize("kind", kinds("losses"))
def test_losses_are_finite_and_reach_every_parameter(kind: str) -> None:
    loss = make("losses", kind)
    tokenizer = make("tokenizers", "patches" if loss.needs_codes is False else "vqgan")
    base = mk.MaskedMSE() if loss.needs_codes is False else mk.MaskedCrossEntropy()
    for losses in ([loss], [base, loss]):
        checks.masked_only(build.mage(tokenizer, losses=losses, mask_ratio=mk.UniformRatio(low=0.5, high=0.6)))


@pytest.mark.parametrize("kind", kinds("tokenizers"))
def test_tokenizers(kind: str) -> None:
    tokenizer = make("tokenizers", kind).eval()
    images = torch.rand(3, tokenizer.channels, *tokenizer.image_size, generator=torch.Generator().manual_seed(0))
    tokens = tokenizer.encode(images)
    spec = tokenizer.spec
    assert tokens.shape[:2] == (3, spec.grid.size) and not tokens.requires_grad
    assert torch.equal(tokens, tokenizer.encode(images))
    assert torch.equal(tokens[1:2], tokenizer.encode(images[1:2])), "an image's tokens depend on its batch"
    if spec.discrete:
        assert tokens.dtype == torch.int64 and 0 <= int(tokens.min()) <= int(tokens.max()) < spec.codes
    else:
        assert tokens.shape[2] == spec.width
        torch.testing.assert_close(tokenizer.decode(tokens), images)
    assert tokenizer.decode(tokens).shape == images.shape
    with pytest.raises(ValueError, match="images: "):
        tokenizer.encode(images[:, :, :-1])
    if tokenizer.needs_training:
        state = set(tokenizer.state_dict())
        tokenizer.start_training()
        losses = tokenizer.objective(images, 0.0, torch.Generator().manual_seed(0))
        losses.total.backward()
        assert bool(torch.isfinite(losses.total))
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in tokenizer.encoder.parameters())
        tokenizer.finish_training()
        assert set(tokenizer.state_dict()) == state, (
            "training leaves something in the state that loading does not expect"
        )
        assert not tokenizer.training and not any(p.requires_grad for p in tokenizer.parameters())


@pytest.mark.parametrize("kind", kinds("datasets"))
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_datasets(kind: str, channels: int, folder: Path) -> None:
    registry = FAMILIES["datasets"]
    wires = DatasetWires((12, 20), channels)
    dataset = registry.build(registry.parse(checks.dataset_config(kind, folder, wires)), wires)
    checks.attributes(registry, dataset)
    shape, dtype = ((6,), np.int16) if dataset.gives_tokens else ((channels, 12, 20), np.uint8)

    def views_of(sample: mk.Sample) -> list[Any]:
        return [view["tokens"] for view in sample.views] if dataset.gives_tokens else list(sample.views)

    for index in range(min(len(dataset), 12)):
        sample, again, later = dataset.sample(index, 3, 7), dataset.sample(index, 3, 7), dataset.sample(index, 4, 7)
        views, same, others = views_of(sample), views_of(again), views_of(later)
        assert [view.shape for view in views] == [shape] * 2
        assert all(view.dtype == dtype for view in views)
        assert all(np.array_equal(a, b) for a, b in zip(views, same, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(views, others, strict=True))
        assert not np.array_equal(*views), "both views are the same crop"
        assert sample.label == dataset.label(index) and sample.index == index
        still = dataset.still(index).views[0]
        assert still.shape == (channels, 12, 20) and np.array_equal(still, dataset.still(index).views[0])
    assert len(dataset.classes) in (2, 10, 18)


def test_masks_of_training_are_fresh_and_repeatable() -> None:
    checks.fresh_masks()


def test_confidence_ranks_the_sampled_tokens() -> None:
    checks.confidence(mk.GumbelConfidence(temperature=6.0))
