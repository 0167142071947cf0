"""Statistics of tokens against their definitions, and as a measure of a run."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import mage_kit as mk
from mage_kit.evaluation.token_plots import calibration_limit
from mage_kit.evaluation.token_statistics import (
    BINS,
    HiddenTokens,
    add_hidden,
    code_use,
    decoding_shares,
    difference_of_use,
    hidden_places,
)
from tests.build import images, mage
from tests.training.test_training import small


def test_more_hidden_places_hold_those_of_fewer_and_follow_the_image() -> None:
    index_B = torch.arange(5)
    few, many = (hidden_places(index_B, 16, share, seed=3) for share in (0.3, 0.8))
    assert few.sum(dim=1).tolist() == [5] * 5 and many.sum(dim=1).tolist() == [13] * 5
    assert bool((many | ~few).all()) and not torch.equal(few[0], few[1])
    assert torch.equal(hidden_places(index_B[2:], 16, 0.3, seed=3), few[2:])
    assert hidden_places(index_B, 16, 1e-9, seed=0).sum(dim=1).tolist() == [1] * 5


def test_loss_accuracy_and_calibration_by_hand() -> None:
    model = mage().eval()
    streams = model.tokenize(images(model, 6))
    hidden_BL = hidden_places(torch.arange(6), model.spec.grid.size, 0.5, seed=0)
    sums = HiddenTokens()
    for part in (slice(0, 2), slice(2, 6)):
        add_hidden(sums, model, {"tokens": streams["tokens"][part]}, hidden_BL[part])
    with torch.no_grad():
        logits = model.logits(streams["tokens"], hidden_BL)[hidden_BL].float()
    targets = streams["tokens"][hidden_BL]
    sure, predicted = logits.softmax(dim=-1).max(dim=-1)
    right = (predicted == targets).double()
    error = sum(
        float((sure[inside].double().sum() - right[inside].sum()).abs())
        for k in range(BINS)
        if (inside := (sure * BINS).long().clamp_max(BINS - 1) == k).any()
    ) / len(right)
    figures = sums.as_dict()
    assert figures["loss"] == pytest.approx(float(F.cross_entropy(logits, targets).detach()), rel=1e-4)
    assert figures["accuracy"] == pytest.approx(float(right.mean()))
    assert figures["confidence"] == pytest.approx(float(sure.double().mean()), rel=1e-5)
    assert figures["calibration_error"] == pytest.approx(error, rel=1e-5)


def test_codes_and_diversity_by_hand() -> None:
    same = code_use(torch.tensor([[0, 1], [0, 1], [0, 1]]), 4)
    assert same.alike == 1 and same.as_dict() == {
        "codes_used": 2, "share_used": 0.5, "perplexity": pytest.approx(2.0), "diversity": 0.0
    }  # fmt: skip
    # Of three pairs one is alike at the first place, none at the second: 1 of 6.
    mixed = code_use(torch.tensor([[0, 1], [0, 2], [3, 3]]), 4)
    assert mixed.alike == pytest.approx(1 / 6)
    assert difference_of_use(same, same) == 0
    assert difference_of_use(same, mixed) == pytest.approx(0.5 * (1 / 6 + 2 / 6 + 1 / 6 + 2 / 6))
    with pytest.raises(mk.MageKitError, match="1, must be at least 2"):
        code_use(torch.zeros(1, 2, dtype=torch.int64), 4)


def test_shares_of_decoding_are_those_of_its_schedule() -> None:
    model = mage()
    shares = decoding_shares(model)
    assert shares[0] == 1 and 1 < len(shares) <= model.decoding.steps
    assert all(first > second > 0 for first, second in itertools.pairwise(shares))


def test_a_run_is_measured_and_one_that_predicts_no_tokens_is_refused(tmp_path: Path) -> None:
    run = mk.train(small("training.epochs=0.2").changed("tokenizer_training", steps=2), tmp_path / "run")
    result = mk.evaluate(run, "tokens", images=40, n=8, shares=(0.5, 1.0))
    rows = result["rows"]
    assert rows["0.5 hidden"]["loss"] > 0 and 0 <= rows["1 hidden"]["accuracy"] <= 1
    assert rows["step 1 of 12"]["loss"] == pytest.approx(rows["1 hidden"]["loss"])
    assert rows["1 hidden"]["loss"] < 2 * math.log(32)
    assert {"codes_used", "diversity", "difference_of_use"} <= rows["samples"].keys()
    assert result["images"] == 40 and "nothing dropped" in result["protocol"]
    picture = Image.open(run / "eval" / "tokens.png")
    assert picture.width > 900 and len(picture.getcolors(10**6) or []) > 100, "four panels with something in them"
    sums = HiddenTokens(loss=1.0, hits=1.0, count=2)
    sums.sureness_3K[:, BINS - 1] = torch.tensor([1.9, 1.0, 2.0])
    assert calibration_limit([sums]) == 1.0, "a bin at 0.95 is inside"
    lone = mage(losses=[mk.MaskedCrossEntropy()])
    assert mk.MEASURES.get("tokens").cls.fits(lone)


def test_generated_images_are_judged_by_what_is_at_hand(tmp_path: Path) -> None:
    """Of grey digits by a classifier of theirs; another network is refused in a sentence."""
    run = mk.train(small("training.epochs=0.2").changed("tokenizer_training", steps=2), tmp_path / "run")
    row = mk.evaluate(run, "frechet", n=40)["rows"]["samples"]
    assert row["frechet"] > 10 * row["floor"] > 0, "an untrained model's samples are no digits"
    with pytest.raises(mk.MageKitError, match="sees colour; the images have 1 channel"):
        mk.evaluate(run, "frechet", n=40, network="squeezenet", out=tmp_path / "other.json")
