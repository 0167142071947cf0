"""What makes generation fast changes nothing but the time: packed weights, precision, one image for a blank start."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from mage_kernels import packing as packing
from mage_kernels.packing import PackedLinear, packing_problem

import mage_kit as mk
from mage_kit.base.precision import bfloat16_products
from mage_kit.generation import generation_precision, prepare_to_generate
from mage_kit.generation import loop as decoding
from mage_kit.generation import preparation as preparing
from mage_kit.generation.sampling import draw_tokens
from mage_kit.layers.blocks import SelfAttention
from mage_kit.layers.linear_layers import linear, packable_layers, packed_weights
from tests import build

CPU = torch.device("cpu")

packs = pytest.mark.skipif(packing_problem(CPU) is not None, reason="this processor's torch packs no weights")


def unprepared(model: mk.Mage) -> bool:
    """Whether nothing is left of a preparation."""
    attentions = [module for module in model.modules() if isinstance(module, SelfAttention)]
    return all(packed_weights(layer) is None for layer in packable_layers(model)) and all(
        attention.generating is None for attention in attentions
    )


def wide() -> mk.Mage:
    """A model wide enough for bfloat16 to be chosen."""
    decoder = mk.ViTDecoder(384, build.vqgan().spec.grid.size, dim=384, depth=1, heads=8)
    return build.mage(encoder=mk.ViTEncoder(dim=384, depth=1, heads=4), decoder=decoder)


@packs
@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_packed_layers_compute_what_plain_ones_do(rows: int, gelu: bool, bias: bool) -> None:
    random = torch.Generator().manual_seed(0)
    weight, x = torch.randn(24, 40, generator=random), torch.randn(2, rows, 40, generator=random)
    shift = torch.randn(24, generator=random) if bias else None
    found = PackedLinear(weight, shift, rows)(x, gelu=gelu)
    wanted = torch.nn.functional.linear(x.double(), weight.double(), None if shift is None else shift.double())
    wanted = torch.nn.functional.gelu(wanted) if gelu else wanted
    plain = torch.nn.functional.linear(x.bfloat16(), weight.bfloat16(), None if shift is None else shift.bfloat16())
    plain = torch.nn.functional.gelu(plain) if gelu else plain
    assert found.dtype == torch.bfloat16 and found.shape == wanted.shape
    assert (found.double() - wanted).norm() <= 2 * (plain.double() - wanted).norm()


def test_a_processor_that_cannot_pack_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "for CPUs" in str(packing_problem(torch.device("cuda")))

    def broken(*_: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(packing, "PackedLinear", broken)
    assert packing_problem(CPU) == "RuntimeError: no such operator"


@packs
def test_weights_are_packed_for_the_while_and_only_without_gradients() -> None:
    model = wide().train()
    layers = packable_layers(model)
    assert len(layers) == 4 + 4 + 2  # two blocks, decoder.embed, head.fc
    with prepare_to_generate(model, 2, "bfloat16") as decision:
        assert decision.value == "bfloat16" and not model.training
        assert all(packed_weights(layer) is not None for layer in layers)
        with torch.enable_grad():
            assert linear(layers[0], torch.ones(1, layers[0].in_features)).requires_grad, "packed weights were used"
        with prepare_to_generate(model, 2, "bfloat16"):
            pass
        assert all(packed_weights(layer) is not None for layer in layers), "the inner call took them from the outer one"
    assert model.training and unprepared(model)


def watch_calls(kind: str, layer: torch.nn.Linear, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], Any]:
    """Calls that a hook of the layer, or of all modules, sees; and what removes the hook."""
    calls: list[Any] = []
    every = torch.nn.modules.module

    def see(called: torch.nn.Module, *_: Any) -> None:
        calls.extend([called] if called is layer else [])

    if kind == "forward attribute":
        plain = layer.forward

        def forward(x: torch.Tensor) -> torch.Tensor:
            see(layer)
            return plain(x)

        monkeypatch.setattr(layer, "forward", forward)
        return calls, None
    hooks = {
        "forward": lambda: layer.register_forward_hook(see),
        "before": lambda: layer.register_forward_pre_hook(see),
        "forward of all": lambda: every.register_module_forward_hook(see),
        "before all": lambda: every.register_module_forward_pre_hook(see),
    }
    return calls, hooks[kind]()


@packs
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["forward", "before", "forward of all", "before all", "forward attribute"])
def test_hooks_run_in_bfloat16_too(kind: str, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they came before the model was prepared or after; the others stay packed."""
    model = wide().eval()
    layers = packable_layers(model)
    layer = layers[1]
    ids, masked = build.tokens(model, 2), torch.ones(2, 16, dtype=torch.bool)
    handle = None
    try:
        if not late:
            calls, handle = watch_calls(kind, layer, monkeypatch)
        with prepare_to_generate(model, 2, "bfloat16"):
            assert (packed_weights(layer) is not None) == late
            if late:
                calls, handle = watch_calls(kind, layer, monkeypatch)
            model.logits(ids, masked)
            if "all" not in kind:
                assert all((packed_weights(other) is None) == (other is layer and not late) for other in layers)
        assert calls == [layer]
    finally:
        if handle is not None:
            handle.remove()
    assert unprepared(model)


@packs
def test_a_failure_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wide().train()
    with pytest.raises(KeyError), prepare_to_generate(model, 1, "bfloat16"):
        raise KeyError
    assert unprepared(model) and model.training
    made = []

    def fails_late(*inputs: Any) -> PackedLinear:
        made.append(inputs)
        if len(made) == 3:
            raise MemoryError
        return PackedLinear(*inputs)

    monkeypatch.setattr(preparing, "PackedLinear", fails_late)
    with pytest.raises(MemoryError), prepare_to_generate(model, 1, "bfloat16"):
        pass
    assert unprepared(model) and model.training


@packs
def test_what_is_prepared_serves_only_threads_in_bfloat16() -> None:
    model = wide().eval()
    ids, masked = build.tokens(model, 2), torch.ones(2, 16, dtype=torch.bool)
    with torch.no_grad():
        wanted = model.logits(ids, masked)
        with prepare_to_generate(model, 2, "bfloat16"), prepare_to_generate(model, 2, "float32"):
            assert torch.equal(model.logits(ids, masked), wanted)


def test_overlapping_calls_stay_in_evaluation_until_the_last_has_ended() -> None:
    model = wide().train()
    first, second = preparing._in_use(model), preparing._in_use(model)  # as two threads enter and leave
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not model.training, "the first to end took the mode from the other"
    second.__exit__(None, None, None)
    assert model.training


def test_compiled_blocks_are_not_packed() -> None:
    model = wide()
    model.compile_blocks(backend="eager")
    with prepare_to_generate(model, 1, "bfloat16"):
        assert all(packed_weights(layer) is None for layer in packable_layers(model))


def test_logits_in_bfloat16_are_near_those_in_float32() -> None:
    model = wide().eval()
    ids, masked = build.tokens(model, 3), torch.rand(3, 16, generator=torch.Generator().manual_seed(1)) < 0.6
    with torch.no_grad():
        wanted = model.logits(ids, masked)
        with prepare_to_generate(model, 3, "bfloat16"):
            found = model.logits(ids, masked).float()
    assert 0 < (found - wanted).norm() / wanted.norm() < 0.02


def test_precision_follows_machine_and_width_unless_it_is_given() -> None:
    has = "bfloat16" if bfloat16_products(CPU) else "float32"
    assert generation_precision("auto", wide()).value == has
    assert generation_precision("auto", build.mage()).value == "float32"
    assert generation_precision("float32", wide()).value == "float32"
    assert generation_precision(None, wide()).value == "surrounding"
    assert generation_precision("auto", build.mage().double()).value == "surrounding"
    with pytest.raises(ValueError, match="precision: 'half', must be auto, float32 or bfloat16"):
        mk.generate(build.mage(), 1, precision="half")  # type: ignore[arg-type]


def test_a_seed_gives_the_same_tokens_in_bfloat16_whatever_the_batch() -> None:
    model = wide()
    whole = mk.generate(model, 6, steps=4, precision="bfloat16")
    again = mk.generate(model, 6, steps=4, precision="bfloat16")
    assert torch.equal(whole.ids_BL, again.ids_BL) and torch.equal(whole.images_BCHW, again.images_BCHW)
    parts = mk.generate(model, 6, steps=4, batch=4, precision="bfloat16")
    assert float((parts.ids_BL == whole.ids_BL).double().mean()) > 0.9  # products of other shapes may round otherwise


def test_threads_may_generate_with_one_model_at_once() -> None:
    model = wide().train()
    alone = [mk.generate(model, 2, seed=seed, steps=3, precision="bfloat16").ids_BL for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(lambda seed: mk.generate(model, 2, seed=seed, steps=3, precision="bfloat16").ids_BL, range(4))
        )
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)
    assert model.training and unprepared(model)


def test_a_blank_start_is_computed_once_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build.mage().double().eval()
    blank = torch.ones(5, 16, dtype=torch.bool)
    seen: list[int] = []
    logits = mk.Mage.logits

    def spy(self: mk.Mage, ids: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        seen.append(len(ids))
        return logits(self, ids, *rest, **options)

    monkeypatch.setattr(mk.Mage, "logits", spy)
    known = torch.zeros(5, 16, dtype=torch.int64)
    made = mk.decode_tokens(
        model, known, blank, seed=3, decoding=mk.Decoding(mk.CosineSchedule(), mk.Halton(), 4)
    ).ids_BL
    assert seen == [1, 5, 5, 5]
    blank[0, 0] = False  # one known token: every image is computed
    seen.clear()
    other = mk.decode_tokens(
        model, known, blank, seed=3, decoding=mk.Decoding(mk.CosineSchedule(), mk.Halton(), 4)
    ).ids_BL
    assert seen == [5, 5, 5, 5]
    assert torch.equal(made[1:], other[1:])


@pytest.mark.parametrize(
    ("selection", "limits"),
    [(mk.GumbelConfidence(), {}), (mk.Margin(), {"token_temperature": (1.2, 0.8), "top_k": 5, "top_p": 0.9})],
)
def test_a_decoding_step_reads_nothing_back_from_the_device(selection: mk.Selection, limits: dict[str, object]) -> None:
    """On the meta device, where every read-back raises; the way taken is a GPU's."""
    model = build.mage().eval().to("meta")
    model.set_backend("torch")
    plan = mk.Decoding(mk.CosineSchedule(), selection, 4, **limits)  # type: ignore[arg-type]
    ids, masked = (torch.zeros(3, 16, dtype=kind, device="meta") for kind in (torch.int64, torch.bool))
    uniform, gumbel = torch.zeros(3, 32, dtype=torch.float64, device="meta").chunk(2, dim=1)
    with torch.no_grad():
        drawn = draw_tokens(model, plan, 1, ids, masked, uniform, None, same=False)
        ids, masked, broken = decoding._keep_best(model, plan, 1, ids, masked, masked.sum(dim=1), gumbel, drawn)
    assert ids.shape == masked.shape == (3, 16) and broken.shape == (2,)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(broken.any())
