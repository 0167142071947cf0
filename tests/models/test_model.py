"""Models of every geometry build and step; the step never waits for the device; parts are held to their wires."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from mage_kernels import attention

import mage_kit as mk
from mage_kit.losses import BatchMasks
from mage_kit.optimizers import set_lr
from tests import build


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("grid", [(8, 32), (32, 32), (5, 7)], ids=str)
@pytest.mark.parametrize("kind", ["vqgan", "patches"])
def test_any_grid_and_channels(channels: int, grid: tuple[int, int], kind: str) -> None:
    """A real step: images to tokens, loss down after an optimiser step, generation where there are codes."""
    if kind == "vqgan":
        tokenizer: mk.Tokenizer = build.vqgan(channels, grid)
    else:
        tokenizer = mk.Patches(image_size=(grid[0] * 4, grid[1] * 4), channels=channels, patch=4)
    model = build.mage(tokenizer, dropout=0.0)
    assert model.spec.grid == mk.TokenGrid(*grid)
    images = build.images(model, 2)
    tokens = tokenizer.encode(images)
    optimizer = mk.AdamW()(dict(model.trainable()))
    set_lr(optimizer, 1e-2)
    ratio = torch.tensor([0.5, 0.8], dtype=torch.float64)
    losses = []
    for _ in range(4):
        output, _, masks = build.masked_pass(model, tokens, ratio)
        loss = output.terms[0].total / masks.masked_tokens
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model.features(images).shape == (2, 32)
    if kind == "vqgan" and grid != (32, 32):
        made = mk.generate(model, 2, steps=3)
        assert made.images_BCHW.shape == images.shape and made.ids_BL.shape == (2, model.spec.grid.size)


def test_the_step_never_waits_for_the_device() -> None:
    """On the meta device every read-back of a value raises, so a pass that runs there has none."""
    model = build.mage(
        losses=[mk.MaskedCrossEntropy(), mk.InfoNCE(32, hidden=16, output=8)],
        mask_ratio=mk.UniformRatio(low=0.5, high=0.6),
    ).to("meta")
    ratio = torch.full((8,), 0.55, dtype=torch.float64)
    plan = model.plan(ratio, torch.rand(8, 16, device="meta"))
    masks = BatchMasks(ratio, int(model.n_masked(ratio).sum()), 2)
    output = model(torch.zeros(8, 16, dtype=torch.int64, device="meta"), plan, masks)
    sum(term.total for term in output.terms).backward()


def test_few_shapes_reach_compiled_code() -> None:
    model = build.mage(build.vqgan(grid=(8, 8)))
    sizes = set()
    for seed in range(50):
        ratio = model.draw_ratios(8, torch.Generator().manual_seed(seed))
        sizes.add(len(model.plan(ratio, torch.rand(8, 64)).picked_M))
    assert len(sizes) <= 9


def test_dropped_tokens_cost_nothing_and_masked_ones_are_padded() -> None:
    model = build.mage()
    plan = model.plan(torch.tensor([0.5, 1.0], dtype=torch.float64), torch.rand(2, 16))
    assert model.encode(build.tokens(model, 2), plan).shape == (2, 1 + 8, 32)
    assert plan.visible_BN.sum(1).tolist() == [8, 0]


def test_head_is_tied_detached_and_knows_real_codes_only() -> None:
    model = build.mage(dropout=0.0)
    assert model.embedding.table.shape == (32 + 2, 32)
    hidden = torch.randn(5, 24)
    logits = model.head(hidden, model.embedding)
    assert logits.shape == (5, 32)
    logits.sum().backward()
    assert model.embedding.table.grad is None
    before = logits.detach().clone()
    with torch.no_grad():
        model.embedding.table[:32] += 1
    assert not torch.equal(before, model.head(hidden, model.embedding))


def test_features_see_everything_and_leave_the_mode_alone() -> None:
    model = build.mage().train()
    images = build.images(model, 3)
    first = model.features(images)
    assert model.training and torch.equal(first, model.features(images)), "dropout was active"
    assert not first.requires_grad


def test_sine_cosine_positions_are_distinct_and_follow_the_grid() -> None:
    from mage_kit.layers.embedding import sine_cosine_positions

    table = sine_cosine_positions(mk.TokenGrid(3, 5), 16)
    assert table.shape == (16, 16) and not table[0].any()
    assert len({tuple(row) for row in table.tolist()}) == 16
    torch.testing.assert_close(table[1, :8], table[6, :8])  # the same column: the first half tells x
    torch.testing.assert_close(table[1, 8:], table[2, 8:])  # the same row: the second half tells y


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": mk.CosineRatio()}, "mask_ratio and drop"),
        ({"mask_ratio": mk.FixedRatio(ratio=0.45)}, "mask_ratio and drop"),
        ({"decoder": mk.ViTDecoder(64, 16, dim=24, depth=1, heads=4)}, "decoder and encoder"),
        ({"decoder": mk.ViTDecoder(32, 17, dim=24, depth=1, heads=4)}, "decoder and tokenizer"),
        ({"padding": mk.MaskTokenPadding(23)}, "padding and decoder"),
        ({"losses": [mk.MaskedMSE()]}, r"losses\[0\] and tokenizer"),
        ({"losses": [mk.MaskedCrossEntropy(), mk.InfoNCE(31)]}, "losses and encoder"),
        ({"drop": 1.5}, "drop: 1.5"),
        ({"drop": 1.0, "mask_ratio": mk.FixedRatio(ratio=1.0)}, "drop and tokenizer"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(mk.PartsError, match=message):
        build.mage(**changes)


def test_lowest_drop_follows_the_ratio() -> None:
    model = build.mage(mask_ratio=mk.FixedRatio(ratio=0.45), drop="lowest")
    assert model.drop_share == 0.45 and model.n_dropped == 8


def test_ratio_of_single_precision_does_not_mask_one_too_many() -> None:
    """0.6 in float32 is above 0.6; ceil(0.6 x 5) must be 3."""
    model = build.mage(build.vqgan(grid=(1, 5)), mask_ratio=mk.FixedRatio(ratio=0.6), drop=0.4)
    assert model.n_masked(model.draw_ratios(4, torch.Generator())).tolist() == [3, 3, 3, 3]


def test_decay_rule_and_learning_rate() -> None:
    model = build.mage()
    names = dict(model.trainable())
    optimizer = mk.AdamW(weight_decay=0.05)(names)
    (first, second) = sorted(optimizer.param_groups, key=lambda group: -group["weight_decay"])
    decayed = {id(parameter) for parameter in first["params"]}
    assert first["weight_decay"] == 0.05 and second["weight_decay"] == 0
    assert {name for name, p in names.items() if id(p) in decayed} == {
        name for name, p in names.items() if p.ndim > 1 and not name.endswith("bias")
    }
    assert id(names["embedding.table"]) in decayed and id(names["decoder.positions_NE"]) in decayed
    assert not any(name.startswith("tokenizer") for name in names)
    rate = mk.Rate(1.0, warmup=10)
    assert [rate.at(step, 100) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert rate.at(55, 100) == pytest.approx(0.5) and rate.at(100, 100) == pytest.approx(0.0)


def test_parts_keep_the_weights_they_come_with() -> None:
    first = build.mage(seed=1)
    encoder, decoder = first.encoder.state_dict(), {k: v.clone() for k, v in first.decoder.state_dict().items()}
    second = build.mage(encoder=first.encoder, decoder=first.decoder, seed=2)
    assert all(torch.equal(value, encoder[name]) for name, value in second.encoder.state_dict().items())
    assert all(torch.equal(value, decoder[name]) for name, value in second.decoder.state_dict().items())


@pytest.mark.parametrize(
    ("ratio", "length", "masked"), [("0.55", 100, 55), ("0.28", 25, 7), ("0.7", 256, 180), ("1", 7, 7)]
)
def test_decimal_ratios_mask_the_exact_ceiling(ratio: str, length: int, masked: int) -> None:
    assert masked == -(-Fraction(ratio) * length // 1)
    model = build.mage(
        build.vqgan(grid=(1, length)), mask_ratio=mk.FixedRatio(ratio=float(ratio)), drop="lowest" if length != 7 else 0
    )
    assert model.n_masked(model.draw_ratios(2, torch.Generator())).tolist() == [masked] * 2


def test_float32_islands_hold_under_autocast() -> None:
    model = build.mage()
    ratio = torch.tensor([0.5, 0.8], dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        plan = model.plan(ratio, torch.rand(2, 16))
        output = model(build.tokens(model, 2), plan, BatchMasks(ratio, plan.total, 1))
        query = torch.randn(1, 1, 50, 16)
        forms = [attention(query, query, query, implementation=form) for form in ("matmul", "reference")]
    assert output.terms[0].total.dtype == output.terms[0].rows_M.dtype == torch.float32
    exact = attention(query.double(), query.double(), query.double(), implementation="reference")
    assert float((forms[1].double() - exact).norm() / exact.norm()) < 1e-6
    assert float((forms[0].double() - exact).norm() / exact.norm()) < 1e-2


def test_the_tokenizer_stays_as_it_is_trained() -> None:
    model = build.mage().train()
    assert model.training and model.encoder.training and not model.tokenizer.training


@pytest.mark.parametrize("form", ["sdpa", "matmul"])
def test_blocks_compile_without_a_break_and_compute_the_same(form: str) -> None:
    """Whole graphs, forward and backward; the compiler's own code generation is torch's business."""
    plain, compiled = build.mage(dropout=0.0), build.mage(dropout=0.0)
    for model in (plain, compiled):
        model.set_attention(form)  # type: ignore[arg-type]
    torch.compiler.reset()
    compiled.compile_blocks(backend="aot_eager", fullgraph=True)
    ratio_B = torch.full((3,), 0.75, dtype=torch.float64)
    losses = []
    for model in (plain, compiled):
        output, _, _ = build.masked_pass(model, build.tokens(model, 3), ratio_B)
        output.terms[0].total.backward()
        losses.append(output.terms[0].total)
    torch.testing.assert_close(losses[0], losses[1])
    for (name, one), (_, other) in zip(plain.trainable(), compiled.trainable(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    dropping = build.mage(dropout=0.3).train()
    dropping.set_attention(form)  # type: ignore[arg-type]
    dropping.compile_blocks(backend="aot_eager", fullgraph=True)
    output, _, _ = build.masked_pass(dropping, build.tokens(dropping, 3), ratio_B)
    output.terms[0].total.backward()
    assert torch.isfinite(output.terms[0].total)


def test_recomputing_blocks_changes_neither_loss_nor_gradients_but_memory() -> None:
    """With dropout: the masks of the second pass are those of the first."""
    kept, again = build.mage(dropout=0.2).train(), build.mage(dropout=0.2).train()
    again.set_recomputation(True)
    ratio_B = torch.full((3,), 0.75, dtype=torch.float64)
    saved: list[int] = []
    for model in (kept, again):
        torch.manual_seed(4)
        sizes: list[int] = []
        pack = lambda tensor, sizes=sizes: (sizes.append(tensor.numel()), tensor)[1]  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output, _, _ = build.masked_pass(model, build.tokens(model, 3), ratio_B)
        saved.append(sum(sizes))
        output.terms[0].total.backward()
    for (name, one), (_, other) in zip(kept.trainable(), again.trainable(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    assert saved[1] < saved[0] / 2
