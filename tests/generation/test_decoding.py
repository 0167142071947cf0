"""The decoding loop: how tokens are drawn, what is told of them, labels and guidance; and images without end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import mage_kit as mk
from mage_kit.generation.sampling import draw_tokens
from mage_kit.heads.codes import limited
from tests import build


@pytest.fixture
def conditional() -> mk.Mage:
    model = build.mage(decoder=mk.ClassViTDecoder(32, 16, classes=3, dim=24, depth=2, heads=4)).eval()
    return build.sharpen(model)


def blank(model: mk.Mage, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (count, model.spec.grid.size)
    return torch.zeros(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.bool)


# -- drawing -----------------------------------------------------------------------------------------------------


def test_codes_are_cut_to_the_likeliest() -> None:
    logits = torch.randn(50, 3, 17, generator=torch.Generator().manual_seed(0)) * 3
    assert limited(logits, 1.0, None, None) is logits and limited(logits, 1.0, 17, 1.0) is logits
    assert torch.equal(limited(logits, 0.5, None, None), logits / 0.5)
    cuts = ((1, None, 1.0), (4, None, 0.7), (None, 0.6, 1.3), (5, 0.5, 1.0), (None, 1e-9, 1.0))
    for top_k, top_p, temperature in cuts:
        kept = limited(logits, temperature, top_k, top_p).isfinite()
        for row, held in zip((logits / temperature).flatten(0, 1), kept.flatten(0, 1), strict=True):
            order = row.argsort(descending=True)[: top_k or 17].tolist()
            p = row[order].softmax(0).double()
            wanted = [i for place, i in enumerate(order) if float(p[:place].sum()) < (top_p or 1.0)]
            assert sorted(wanted) == held.nonzero()[:, 0].tolist()


def test_the_likeliest_code_alone_and_of_equals_the_first() -> None:
    logits = torch.tensor([[[0.0, 2.0, 2.0, -1.0]]])
    for settings in ((0.0, None, None), (1.0, 1, None), (1.0, None, 0.2)):
        assert limited(logits, *settings).isfinite().tolist() == [[[False, True, False, False]]]


def test_without_temperature_every_image_is_the_same(tiny: mk.Mage) -> None:
    made = mk.generate(tiny, 3, token_temperature=0.0, selection=mk.Purity())
    assert bool((made.ids_BL == made.ids_BL[0]).all())
    assert not bool((mk.generate(tiny, 3, selection=mk.Purity()).ids_BL == made.ids_BL[0]).all())


def test_temperature_goes_from_the_first_step_to_the_last(tiny: mk.Mage) -> None:
    plan = mk.Decoding(mk.CosineSchedule(), mk.Halton(), 5, token_temperature=(2.0, 0.5))
    assert [plan.temperature_at(step) for step in range(1, 6)] == pytest.approx([2.0, 1.625, 1.25, 0.875, 0.5])
    for first in (0.3, 0.8, 0.95, 1.9):
        for steps in range(2, 65):
            cooled = mk.Decoding(mk.CosineSchedule(), mk.Halton(), steps, token_temperature=(first, 0.0))
            assert cooled.temperature_at(steps) == 0 and cooled.temperature_at(1) == first
            assert all(cooled.temperature_at(step) > 0 for step in range(1, steps))
    hot = mk.generate(tiny, 8, token_temperature=(3.0, 0.2), selection=mk.Halton())
    assert not torch.equal(hot.ids_BL, mk.generate(tiny, 8, selection=mk.Halton()).ids_BL)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"steps": 0}, "steps: 0, must be at least 1"),
        ({"top_k": 0}, "top_k: 0, must be at least 1"),
        ({"top_p": 0.0}, r"top_p: 0.0, must lie in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p: 1.5, must lie in \(0, 1\]"),
        ({"token_temperature": -1.0}, "token_temperature: .*must be two finite numbers, each 0 or at least 0.001"),
        ({"token_temperature": float("nan")}, "token_temperature: .*must be two finite numbers"),
        ({"token_temperature": 1e-30}, "token_temperature: .*must be two finite numbers"),
        ({"token_temperature": (1.0, 0.5, 0.2)}, "token_temperature: .*must be two finite numbers"),
        ({"guidance": 2.0}, "guidance: given, but ViTDecoder takes no labels"),
        ({"labels": 2}, "labels: given, but ViTDecoder takes none"),
    ],
)
def test_settings_outside_their_range_are_refused(tiny: mk.Mage, setting: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mk.generate(tiny, 1, **setting)  # type: ignore[arg-type]


# -- what comes back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{}, {"token_temperature": (1.5, 0.5), "top_k": 9}])
def test_confidence_is_the_models_own_probability_when_the_token_was_kept(
    tiny: mk.Mage, limits: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At temperature 1 and with nothing cut, whatever tokens were drawn with; 0 for known tokens."""
    seen: list[torch.Tensor] = []
    logits = mk.Mage.logits

    def spy(self: mk.Mage, ids: torch.Tensor, masked: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(logits(self, ids, masked).float().log_softmax(2))
        return logits(self, ids, masked, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(mk.Mage, "logits", spy)
    known, masked = build.tokens(tiny, 4), torch.rand(4, 16) < 0.7
    plan = mk.Decoding(mk.CosineSchedule(), mk.GumbelConfidence(), 5, **limits)  # type: ignore[arg-type]
    made = mk.decode_tokens(tiny, known, masked, decoding=plan, trace=True)
    assert made.trace is not None and made.trace.ids_TBL.shape == (5, 4, 16)
    assert torch.equal(made.log_p_BL[~masked], torch.zeros(int((~masked).sum())))
    before = masked
    for step in range(5):
        kept = before & ~made.trace.masked_TBL[step]
        told = seen[step].gather(2, made.trace.ids_TBL[step][..., None])[..., 0]
        torch.testing.assert_close(made.log_p_BL[kept], told[kept])
        assert torch.equal(made.trace.ids_TBL[step][kept], made.ids_BL[kept])
        before = made.trace.masked_TBL[step]
    assert not bool(before.any()) and torch.equal(made.trace.ids_TBL[-1], made.ids_BL)


def test_predictions_are_what_they_are_called(tiny: mk.Mage) -> None:
    class Looking(mk.Selection):
        reads_predictions = True

        def score(self, step: mk.SelectionStep) -> torch.Tensor:
            told.append(step.read())
            return step.uniform_BL

    told: list[mk.Predictions] = []
    known, masked = blank(tiny, 2)
    masked[0, 3] = False
    p = tiny.logits(known, masked).float().softmax(2)
    mk.decode_tokens(tiny, known, masked, decoding=mk.Decoding(mk.CosineSchedule(), Looking(), 3))
    first, second = p.sort(dim=2, descending=True).values.unbind(2)[:2]
    entropy = -(p * p.log()).sum(2)
    for wanted, made in ((first, told[0].first_BL), (second, told[0].second_BL), (entropy, told[0].entropy_BL)):
        torch.testing.assert_close(made[masked], wanted[masked])


def test_a_selection_that_reads_what_it_did_not_ask_for_is_told(tiny: mk.Mage) -> None:
    class Careless(mk.Selection):
        def score(self, step: mk.SelectionStep) -> torch.Tensor:
            return step.read().first_BL

    with pytest.raises(ValueError, match="must state reads_predictions = True"):
        mk.generate(tiny, 1, selection=Careless())


def test_tokens_of_another_grid_are_refused(tiny: mk.Mage) -> None:
    ids, masked = torch.zeros(2, 15, dtype=torch.int64), torch.ones(2, 15, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"known and masked: \(2, 15\) and \(2, 15\), must both be \(B, 16\)"):
        mk.decode_tokens(tiny, ids, masked)


# -- labels and guidance -----------------------------------------------------------------------------------------


def test_images_take_their_labels(conditional: mk.Mage) -> None:
    """Each class in turn unless told; an image depends on its own label alone; -1 is the model without labels."""
    made = mk.generate(conditional, 7, batch=3)
    assert made.labels_B is not None and made.labels_B.tolist() == [0, 1, 2, 0, 1, 2, 0]
    ones = mk.generate(conditional, 7, labels=1)
    assert torch.equal(made.ids_BL[[1, 4]], ones.ids_BL[[1, 4]]) and not torch.equal(made.ids_BL, ones.ids_BL)
    without = mk.generate(conditional, 7, labels=-1)
    masked = blank(conditional, 7)
    assert torch.equal(without.ids_BL, mk.decode_tokens(conditional, *masked).ids_BL)
    same = mk.generate(conditional, 7, labels=torch.ones(1, dtype=torch.int64)[0])
    assert torch.equal(same.ids_BL, ones.ids_BL)
    for labels in (3, -2, [0, 5], [], [1.9], [True], True):
        with pytest.raises(ValueError, match="labels: "):
            mk.generate(conditional, 2, labels=labels)


def test_guidance_moves_logits_away_from_what_is_said_without_the_label(conditional: mk.Mage) -> None:
    ids, masked = blank(conditional, 3)
    condition = mk.Condition(torch.tensor([0, 1, 2]))
    told, plain = conditional.logits(ids, masked, condition), conditional.logits(ids, masked, condition.without())
    guided = conditional.logits(ids, masked, condition, guidance=1.5)
    torch.testing.assert_close(guided, told + 1.5 * (told - plain))
    rows = torch.tensor([0, 17, 40])
    torch.testing.assert_close(
        conditional.logits(ids, masked, condition, rows, 1.5), guided.flatten(0, 1)[rows], rtol=1e-4, atol=1e-5
    )


def test_codes_that_may_not_be_drawn_stay_so_with_guidance(conditional: mk.Mage) -> None:
    with torch.no_grad():
        conditional.head.bias[3] = -torch.inf
    made = mk.generate(conditional, 6, guidance=2.0)
    assert not bool((made.ids_BL == 3).any())


def test_labels_of_no_class_are_refused_in_the_loop(conditional: mk.Mage) -> None:
    for labels in ([3, 0], [-2, 0], [0]):
        with pytest.raises(ValueError, match=r"condition: labels .* must be 2 whole numbers from 0 to 2"):
            mk.decode_tokens(conditional, *blank(conditional, 2), condition=mk.Condition(torch.tensor(labels)))


@pytest.mark.parametrize("selection", [mk.GumbelConfidence(), mk.Entropy()])
@pytest.mark.parametrize("limits", [{}, {"token_temperature": (0.7, 0.7), "top_k": 6, "top_p": 0.9}])
def test_both_ways_to_draw_give_the_same(
    conditional: mk.Mage, selection: mk.Selection, limits: dict[str, object]
) -> None:
    """On the unknown tokens alone, as on a CPU, and on the whole grid, as on a GPU."""
    plan = mk.Decoding(mk.CosineSchedule(), selection, 4, guidance=mk.Guidance(scale=1.5), **limits)  # type: ignore[arg-type]
    known, masked = build.tokens(conditional, 5), torch.rand(5, 16, generator=torch.Generator().manual_seed(1)) < 0.6
    uniform = torch.rand(5, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    condition = mk.Condition(torch.tensor([0, 1, 2, -1, 0]))
    few, whole = (
        draw_tokens(conditional, plan, 2, known, masked, uniform, condition, same=False, rows=rows)
        for rows in (True, False)
    )
    assert torch.equal(few.ids_BL[masked], whole.ids_BL[masked])
    torch.testing.assert_close(few.log_p_BL, whole.log_p_BL, rtol=1e-4, atol=1e-5)
    if selection.reads_predictions:
        assert few.predictions is not None and whole.predictions is not None
        for name in ("first_BL", "second_BL", "entropy_BL"):
            mine, theirs = (getattr(made.predictions, name)[masked] for made in (few, whole))
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_guidance_over_the_steps() -> None:
    assert [mk.Guidance(scale=2.0).weight(r) for r in (0.1, 1.0)] == [2.0, 2.0]
    assert [mk.Guidance(scale=2.0, schedule="linear").weight(r) for r in (0.25, 1.0)] == [0.5, 2.0]
    curve = [mk.Guidance(scale=2.0, schedule="cosine").weight(r) for r in (0.0, 0.5, 1.0)]
    assert curve == pytest.approx([0.0, 1.0, 2.0])


def test_the_encoder_runs_once_with_guidance(conditional: mk.Mage, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = mk.Mage.encode
    monkeypatch.setattr(mk.Mage, "encode", lambda self, ids, plan: seen.append(len(ids)) or encode(self, ids, plan))
    made = mk.generate(conditional, 3, steps=4, guidance=2.0)
    assert seen == [3] * 4
    assert not torch.equal(made.ids_BL, mk.generate(conditional, 3, steps=4).ids_BL)


# -- gradients through tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [build.vqgan, build.llamagen, build.taming])
def test_gradients_go_straight_through_the_tokens(kind: Callable[[], mk.Tokenizer]) -> None:
    """Forward the images of the tokens drawn, backward the mean code; known tokens carry no gradient."""
    model = build.mage(kind()).eval()
    known, masked = build.tokens(model, 3), torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) < 0.6
    made = mk.straight_through(model, known, masked, temperature=0.8, seed=4)
    assert torch.equal(made.ids_BL[~masked], known[~masked]) and not torch.equal(made.ids_BL, known)
    torch.testing.assert_close(made.images_BCHW, model.tokenizer.decode(made.ids_BL), rtol=1e-3, atol=1e-4)
    made.logits_BLV.retain_grad()
    made.images_BCHW.square().mean().backward()
    gradient = made.logits_BLV.grad
    assert gradient is not None and bool((gradient[masked] != 0).any()) and not bool((gradient[~masked] != 0).any())
    assert model.encoder.blocks[0].attn.qkv.weight.grad is not None
    weights = torch.nn.functional.one_hot(made.ids_BL, 32).float().requires_grad_()
    wanted = torch.autograd.grad(model.tokenizer.decode_weights(weights).square().mean(), weights)[0]
    p = (made.logits_BLV.detach() / 0.8).softmax(2)
    chain = p * (wanted - (p * wanted).sum(2, keepdim=True)) / 0.8
    torch.testing.assert_close(gradient[masked], chain[masked], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precisions(dtype: torch.dtype) -> None:
    model = build.mage(build.vqgan(3)).eval().to(dtype)
    image = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0)).numpy()
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[:, 8:] = True
    assert mk.generate(model, 2, steps=2).images_BCHW.dtype == torch.float32
    assert mk.inpaint(model, image, hole.numpy(), steps=2, dilate=0).pictures[0].size == (16, 16)
    assert mk.straight_through(model, *blank(model, 2)).images_BCHW.shape == (2, 3, 16, 16)


def test_what_cannot_be_relaxed_is_said(tiny: mk.Mage) -> None:
    with pytest.raises(ValueError, match=r"temperature: 0\.0, must be above 0"):
        mk.straight_through(tiny, *blank(tiny, 1), temperature=0.0)
    pixels = build.mage(mk.Patches(image_size=(16, 16), channels=1, patch=4))
    with pytest.raises(mk.PartsError, match="needs codes, Patches has none"):
        mk.straight_through(pixels, *blank(tiny, 1))
    with pytest.raises(mk.MageKitError, match="no codebook to take means of"):
        pixels.tokenizer.decode_weights(torch.zeros(1, 16, 4))
