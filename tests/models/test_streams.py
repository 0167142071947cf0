"""Streams and heads: what a model may be made of beyond one tokenizer's codes in and out."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mage_kit as mk
from mage_kit.heads import HeadWires
from mage_kit.losses import LossWires
from mage_kit.training.tasks import tokens
from mage_kit.training.warm_start import fill_model
from mage_kit.training.weight_folders import WeightFolder
from tests import build
from tests.recipes.test_recipe import RECIPES

HALF = torch.full((4,), 0.6, dtype=torch.float64)


def two(input: str = "tokens", stream: str = "other", **changes: Any) -> mk.Mage:
    """A model that sees one tokenizer's stream and predicts another's."""
    first, second = build.vqgan(), build.vqgan(codes=16)
    losses = changes.pop("losses", [mk.MaskedCrossEntropy(stream=stream)])
    return build.mage(first, losses=losses, input=input, targets={"other": second}, **changes)


def streams(model: mk.Mage, count: int = 4, seed: int = 0) -> dict[str, Tensor]:
    return model.tokenize(build.images(model, count, seed))


# -- streams -----------------------------------------------------------------------------------------------------


def test_streams_are_those_of_the_tokenizers() -> None:
    model = two()
    assert list(model.streams) == ["tokens", "features", "other", "other/features"]
    assert model.reads == ("tokens", "other") and set(streams(model)) == {"tokens", "other"}
    images = build.images(model, 3)
    made = model.tokenize(images)
    assert torch.equal(made["tokens"], model.tokenizer.encode(images))
    assert torch.equal(made["other"], model.targets["other"].encode(images))
    seen = two("features", "tokens")
    assert seen.reads == ("features", "tokens") and seen.spec.width == 4 and not seen.spec.discrete
    features, codes = (seen.tokenize(images)[name] for name in ("features", "tokens"))
    assert torch.equal(seen.tokenizer.quantize.nearest(features), codes)
    assert torch.equal(seen.see(images), features)


def test_each_tokenizer_sees_the_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    feature_map = mk.VQGAN.feature_map
    monkeypatch.setattr(mk.VQGAN, "feature_map", lambda self, x: calls.append(id(self)) or feature_map(self, x))
    losses = [mk.MaskedCrossEntropy(), mk.MaskedCrossEntropy(stream="other"), mk.MaskedMSE(stream="other/features")]
    model = two("features", losses=losses)
    assert set(streams(model)) == {"tokens", "features", "other", "other/features"}
    assert sorted(calls) == sorted({id(model.tokenizer), id(model.targets["other"])})
    model(streams(model), *_masks(model)).terms[0].total.backward()


def test_the_stream_that_bfloat16_changes_most_decides_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are read, all ids of a token counting as one; where one is of values, all are in float32."""
    model, images = two(), mk.Recipe.load(RECIPES / "digits_demo.json").build_dataset()
    monkeypatch.setattr(tokens, "bfloat16_products", lambda device: True)
    encode = mk.VQGAN.encode_streams
    spoilt = {"tokens": 0.0, "other": 0.03}

    def changed(self: mk.VQGAN, pictures: Tensor, names: Any) -> dict[str, Tensor]:
        made = encode(self, pictures, names)
        if torch.is_autocast_enabled("cpu"):
            flat = made["tokens"].flatten()
            flat[: round(spoilt["tokens" if self is model.tokenizer else "other"] * len(flat))] += 1
            made["tokens"] = flat.view_as(made["tokens"])
        return made

    with torch.autocast("cpu", torch.bfloat16, enabled=False):  # both passes give the same ids but for what is spoilt
        monkeypatch.setattr(mk.VQGAN, "encode_streams", changed)
        monkeypatch.setattr(mk.VQGAN, "features", lambda self, x: x.new_ones(len(x), 16, 4))
        decide = partial(tokens.token_decision, images=images, device=torch.device("cpu"), precision="auto")
        assert decide(model).value == "float32" and "97.0%" in decide(model).reason
        spoilt["other"] = 0.01
        assert decide(model).value == "bfloat16"
        spoilt["other"], unread = 0.5, two(losses=[mk.MaskedCrossEntropy()])
        model = unread
        assert decide(unread).value == "bfloat16", "a target that no loss predicts has no say"
    assert decide(two("features", "tokens")).value == "float32"


def test_agreement_counts_tokens_and_not_their_ids() -> None:
    exact = torch.zeros(1, 4, 2, dtype=torch.int64)
    fast = exact.clone()
    fast[0, 0, 0] = fast[0, 1, 1] = 1
    answers = iter([fast, exact])
    assert tokens.token_agreement(lambda images: {"tokens": next(answers)}, torch.zeros(1, 1, 2, 2)) == 0.5


def _masks(model: mk.Mage, ratio_B: Tensor = HALF) -> tuple[Any, mk.BatchMasks]:
    noise = torch.rand(len(ratio_B), model.spec.grid.size, generator=torch.Generator().manual_seed(0))
    plan = model.plan(ratio_B, noise)
    return plan, mk.BatchMasks(ratio_B, int(model.n_masked(ratio_B).sum()), 1)


def test_losses_see_the_targets_they_name() -> None:
    """Each loss by itself, from predictions and targets taken by hand."""
    losses = [mk.MaskedCrossEntropy(label_smoothing=0.0), mk.MaskedCrossEntropy(stream="other", label_smoothing=0.0)]
    model = two(losses=losses, dropout=0.0).eval()
    made, (plan, masks) = streams(model), _masks(model)
    terms = model(made, plan, masks).terms
    features = model.decode(model.encoder.norm(model.encode(made["tokens"], plan)), plan)
    for name, term in zip(("tokens", "other"), terms, strict=True):
        logits = model.heads[name](features, model.embedding)[plan.masked_BL]
        wanted = nn.functional.cross_entropy(logits, made[name][plan.masked_BL], reduction="sum")
        torch.testing.assert_close(term.total, wanted)
    assert model.heads["tokens"].table is None and model.heads["other"].table.shape == (16, 32)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: two(stream="absent"), "losses\\[0\\] and tokenizer: stream 'absent', must be one of tokens, features"),
        (lambda: two("absent"), "input and tokenizer: 'absent', must be one of"),
        (lambda: two(stream="other/features"), "MaskedCrossEntropy needs codes, VQGAN gives continuous"),
        (lambda: two(losses=[mk.MaskedMSE(stream="other")]), "MaskedMSE needs continuous tokens, VQGAN gives codes"),
        (lambda: two(heads={"tokens": _head(32, True)}), "heads.tokens and losses: no loss predicts that stream"),
        (lambda: build.mage(targets={"other": build.vqgan(grid=(8, 8))}), "targets.other and tokenizer: images of"),
        (lambda: build.mage(targets={"o": mk.Patches(image_size=(16, 16), channels=1, patch=8)},
                            losses=[mk.MaskedMSE(stream="o")]), "stream 'o' has 2x2 tokens, must be 4x4"),
        (lambda: mk.Mage(tokenizer=build.vqgan(), encoder=mk.ViTEncoder(dim=32, depth=1, heads=4), decoder=None,
                         losses=[mk.MaskedCrossEntropy()]), "reads predictions, there is no decoder"),
    ],
)  # fmt: skip
def test_streams_that_do_not_fit_are_named(make: Any, said: str) -> None:
    with pytest.raises(mk.PartsError, match=said):
        make()


def _head(codes: int, is_input: bool) -> mk.CodeHead:
    return mk.CodeHead(mk.TokenSpec(mk.TokenGrid(4, 4), codes, 4), 24, 32, is_input)


def test_a_model_of_two_tokenizers_is_saved_and_loaded(tmp_path: Any) -> None:
    model = two(heads={"other": _head(16, False)}).eval()
    loaded = mk.load(mk.save(model, tmp_path / "two"))
    assert mk.Recipe.of(loaded).to_json() == mk.Recipe.of(model).to_json()
    made, masks = streams(model), _masks(model)
    assert torch.equal(model(made, *masks).terms[0].total, loaded(made, *masks).terms[0].total)
    assert all(not value.requires_grad for value in loaded.targets.parameters())
    loaded.train()
    assert not loaded.targets["other"].training
    with pytest.raises(mk.PartsError, match="no loss predicts the model's own tokens"):
        mk.generate(model, 1)


# -- contrast alone ----------------------------------------------------------------------------------------------


def alone() -> mk.Mage:
    """SimCLR's form: no decoder, nothing masked, nothing dropped."""
    tokenizer = build.vqgan()
    spec, encoder = tokenizer.spec, mk.ViTEncoder(dim=32, depth=2, heads=4, dropout=0.0)
    loss = FAMILY.build(FAMILY.parse({"kind": "info_nce", "weight": 1.0, "hidden": 32, "output": 16, "gate": 1.0}),
                        LossWires(spec, 32, tokenizer.streams))  # fmt: skip
    return mk.Mage(
        tokenizer=tokenizer, encoder=encoder, decoder=None, losses=[loss], drop=0.0,
        mask_ratio=mk.FixedRatio(ratio=0.0), embedding=mk.EmbeddingConfig(dropout=0.0),
    )  # fmt: skip


FAMILY = mk.LOSSES


def test_contrast_without_masks_is_what_features_give() -> None:
    """A ratio and a drop of 0: the loss is InfoNCE of the projected mean features of all tokens."""
    model = alone().eval()
    assert not model.heads and model.padding is None and int(model.n_masked(torch.zeros(3).double()).sum()) == 0
    ids = model.tokenizer.encode(torch.cat([build.images(model, 4, 0), build.images(model, 4, 1)]))
    ratio = torch.zeros(8, dtype=torch.float64)
    plan = model.plan(ratio, torch.rand(8, 16))
    assert plan.kept_BS.shape == (8, 17) and not bool(plan.masked_BL.any())
    (term,) = model(ids, plan, mk.BatchMasks(ratio, 0, 2)).terms
    normed = model.encoder.norm(model.encode(ids, plan))[:, 1:].mean(dim=1)
    z = nn.functional.normalize(model.losses[0].projection(normed), dim=1)
    logits = (z @ z.T / 0.2).fill_diagonal_(-torch.inf)
    labels = torch.arange(8).roll(4)
    torch.testing.assert_close(term.total, nn.functional.cross_entropy(logits, labels, reduction="sum"))
    term.total.backward()
    assert all(value.grad is not None for _, value in model.trainable() if value.requires_grad)
    for call in (lambda: mk.generate(model, 1), lambda: model.logits(ids, plan.masked_BL)):
        with pytest.raises(mk.PartsError, match="decoder"):
            call()
    assert model.features(build.images(model, 2)).shape == (2, 32)


# -- heads -------------------------------------------------------------------------------------------------------


def test_a_head_with_a_table_of_its_own() -> None:
    """Untied: the same form, and the table learns."""
    tied, free = (mk.HEADS.build(mk.HEADS.parse({"kind": "codes", "tied": tied}), _wires()) for tied in (True, False))
    model = build.mage(heads={"tokens": free}).eval()
    model(build.tokens(model, 4), *_masks(model)).terms[0].total.backward()
    assert model.head is free and free.table.grad is not None and tied.table is None
    with torch.no_grad():
        free.table.copy_(model.embedding.codes_VD)
    tied.load_state_dict({name: value for name, value in free.state_dict().items() if name != "table"})
    features = torch.randn(3, 24)
    torch.testing.assert_close(free(features, model.embedding), tied(features, model.embedding))
    assert free.cost(10, 2).backward == 2 and tied.cost(10, 2).backward == 1


def _wires() -> HeadWires:
    return HeadWires(mk.TokenSpec(mk.TokenGrid(4, 4), 32, 4), 24, 32, True)


def test_log_p_is_that_of_what_is_drawn() -> None:
    head, logits = _head(32, True), torch.randn(2, 16, 32)
    uniform = torch.rand(2, 16, dtype=torch.float64)
    drawn = head.draw(logits, uniform, None, mk.DrawRule())
    torch.testing.assert_close(head.log_p(logits, drawn.ids_BL), drawn.log_p_BL)


# -- several ids a token -----------------------------------------------------------------------------------------


class Halves(mk.Patches):
    """Grey patches as two ids: the mean of the upper and of the lower half, in eight steps each."""

    def __init__(self) -> None:
        super().__init__(image_size=(16, 16), channels=1, patch=4, mean=(0.0,), std=(1.0,))
        self.spec = mk.TokenSpec(mk.TokenGrid(4, 4), 8, 16, factors=2)

    def encode(self, images_BCHW: Tensor) -> Tensor:
        halves = super().encode(images_BCHW).unflatten(2, (2, 8)).mean(dim=3)
        return (halves * 8).long().clamp(0, 7)

    def decode(self, tokens: Tensor) -> Tensor:
        return super().decode(((tokens.float() + 0.5) / 8).repeat_interleave(8, dim=2))


def test_two_ids_a_token_are_embedded_predicted_and_drawn() -> None:
    torch.manual_seed(0)
    model = build.mage(Halves(), losses=[mk.MaskedCrossEntropy(label_smoothing=0.0)], dropout=0.0)
    assert model.embedding.table.shape == (18, 32) and model.spec.shape(3) == (3, 16, 2)
    ids, (plan, masks) = torch.randint(8, (4, 16, 2)), _masks(model)
    output = model(ids, plan, masks)
    logits = model.head(model.decode(model.encoder.norm(model.encode(ids, plan)), plan), model.embedding)
    picked = logits[plan.masked_BL].unflatten(1, (2, 8))
    wanted = nn.functional.cross_entropy(picked.flatten(0, 1), ids[plan.masked_BL].flatten(), reduction="sum")
    torch.testing.assert_close(output.terms[0].total, wanted)
    output.terms[0].total.backward()
    assert all(value.grad is not None for _, value in model.trainable())
    hidden = torch.where(plan.masked_BL[..., None], torch.randint(8, ids.shape), ids)
    assert torch.equal(model.encode(ids, plan), model.encode(hidden, plan)), "what is hidden is read"
    model.eval()
    for selection in (mk.GumbelConfidence(), mk.Entropy(), mk.Margin(), mk.Halton()):
        made = mk.generate(model, 6, selection=selection, steps=5)
        assert made.ids_BL.shape == (6, 16, 2) and made.images_BCHW.shape == (6, 1, 16, 16)
        assert torch.equal(made.ids_BL, mk.generate(model, 6, selection=selection, steps=5, batch=4).ids_BL)
    known = torch.randint(8, (2, 16, 2))
    masked = torch.rand(2, 16) < 0.5
    filled = mk.decode_tokens(model, known, masked).ids_BL
    assert torch.equal(filled[~masked], known[~masked])


def test_ids_of_one_token_are_drawn_by_themselves() -> None:
    """Each id follows its own distribution, independent of the other's."""
    head = mk.CodeHead(mk.TokenSpec(mk.TokenGrid(1, 1), 4, 4, factors=2), 8, 8, True)
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]])
    count = 40_000
    uniform = torch.rand(1, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = head.draw(p.log().flatten().expand(1, count, 8), uniform, None, mk.DrawRule())
    joint = torch.zeros(4, 4).index_put_(tuple(drawn.ids_BL[0].T), torch.ones(count), accumulate=True) / count
    torch.testing.assert_close(joint, p[0][:, None] * p[1][None], atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.log_p_BL[0].exp(), (p[0][:, None] * p[1][None])[tuple(drawn.ids_BL[0].T)])


def test_specs_that_make_no_sense() -> None:
    for codes, factors in ((None, 2), (8, 0)):
        with pytest.raises(ValueError, match="factors"):
            mk.TokenSpec(mk.TokenGrid(2, 2), codes, 4, factors=factors)


def test_a_classifier_takes_no_encoder_that_saw_another_stream(tmp_path: Any) -> None:
    """The same shapes on all sides, and yet other tokens."""
    model = two("other", losses=[mk.MaskedCrossEntropy(stream="other")])
    mk.save(model, tmp_path / "model")
    classifier = mk.MageClassifier(
        tokenizer=model.tokenizer, encoder=model.encoder, classes=3, embedding=model.embedding.config
    )
    with pytest.raises(mk.RecipeError, match="its encoder sees the stream 'other', must be one whose encoder sees"):
        fill_model(classifier, WeightFolder(tmp_path / "model"), "mine", whole=False)
    again = two("other", losses=[mk.MaskedCrossEntropy(stream="other")])
    with torch.no_grad():
        next(again.targets["other"].parameters()).add_(1.0)
    with pytest.raises(mk.RecipeError, match=r"\$.model.targets.other and \$.pretrained.weights: .* another tokenizer"):
        fill_model(again, WeightFolder(tmp_path / "model"), "mine", whole=False)
    fill_model(model, WeightFolder(tmp_path / "model"), "mine", whole=False)
