"""Classifiers on frozen features, against scikit-learn and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import mage_kit as mk
from mage_kit.datasets.subset import draw_places
from mage_kit.evaluation import logistic
from mage_kit.evaluation.features import Features
from mage_kit.evaluation.logistic import fit_best, fit_logistic
from mage_kit.evaluation.measures.few_labels import few_shot
from mage_kit.evaluation.measures.knn import knn_accuracy


def made(images: int = 300, width: int = 12, classes: int = 4, seed: int = 0, noise: float = 1.5) -> Features:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    values = (centres[labels] + noise * random.normal(size=(images, width))).astype(np.float32)
    return Features(values, labels)


@pytest.mark.parametrize("strength", [0.01, 1.0, 10.0])
def test_logistic_regression_is_scikit_learns(strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in parts, as where not all images fit at once."""
    train, test = made(), made(seed=1)
    scaler = StandardScaler().fit(train.values_ID)
    theirs = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit(
        scaler.transform(train.values_ID), train.labels_I
    )
    wanted = theirs.decision_function(scaler.transform(test.values_ID))
    for at_once in (65_536, 64):
        monkeypatch.setattr(logistic, "_AT_ONCE", at_once)
        ours = fit_logistic(train.values_ID, train.labels_I, 4, strength)
        scores = ours.scores(test.values_ID)
        centred = scores - scores.mean(axis=1, keepdims=True)  # what is added to all classes says nothing
        np.testing.assert_allclose(centred, wanted - wanted.mean(axis=1, keepdims=True), atol=2e-3)
        assert ours.accuracy(test.values_ID, test.labels_I) == pytest.approx(
            theirs.score(scaler.transform(test.values_ID), test.labels_I), abs=1 / 300
        )


def test_features_that_say_nothing_do_no_harm() -> None:
    train = made()
    values = np.concatenate([train.values_ID, np.full((300, 1), 7.0, np.float32)], axis=1)
    one, two = (fit_logistic(held, train.labels_I, 4) for held in (train.values_ID, values))
    np.testing.assert_allclose(one.scores(train.values_ID), two.scores(values), atol=1e-6)
    with pytest.raises(mk.MageKitError, match="features: not finite"):
        fit_logistic(np.full((4, 2), np.nan, np.float32), np.array([0, 1, 0, 1]), 2)
    with pytest.raises(mk.MageKitError, match="a single class"):
        fit_logistic(np.ones((4, 2), np.float32), np.zeros(4, np.int64), 2)


def test_the_strength_is_chosen_without_the_test_images() -> None:
    """Noisy, wide and few: strong regularisation wins; clean and many: it need not."""
    noisy = fit_best(*_parts(made(80, 60, noise=6.0)), 4, strengths=(1e-4, 100.0))
    assert noisy.strength == 1e-4
    clean = fit_best(*_parts(made(600, 12, noise=0.3)), 4, strengths=(1e-6, 1.0))
    assert clean.strength == 1.0 and clean.validation > 0.99


def _parts(features: Features) -> tuple[np.ndarray, np.ndarray]:
    return features.values_ID, features.labels_I


def test_knn_is_the_plain_loop() -> None:
    train, test = made(120), made(40, seed=2)
    found = knn_accuracy(train, test, 4, counts=(1, 7, 500))
    assert set(found) == {1, 7}, "more neighbours than there are images are left out"
    for count in (1, 7):
        hits = 0
        for value, label in zip(test.values_ID, test.labels_I, strict=True):
            cosine = train.values_ID @ value / np.linalg.norm(train.values_ID, axis=1) / np.linalg.norm(value)
            votes = np.zeros(4)
            for place in np.argsort(-cosine)[:count]:
                votes[train.labels_I[place]] += np.exp(cosine[place] / 0.07)
            hits += int(votes.argmax() == label)
        assert found[count] == hits / 40


def test_few_shot_draws_and_deviations() -> None:
    train, test = made(400), made(200, seed=3)
    places = draw_places(train.labels_I, 4, 5, seed=1)
    assert np.bincount(train.labels_I[places]).tolist() == [5] * 4
    assert set(draw_places(train.labels_I, 4, 2, seed=1)) < set(places), "fewer are among more"
    found = few_shot(train, test, 4, shots=(1, 20), seeds=4)
    by_hand = [
        fit_logistic(train.values_ID[at], train.labels_I[at], 4).accuracy(test.values_ID, test.labels_I)
        for at in (draw_places(train.labels_I, 4, 20, seed) for seed in range(4))
    ]
    assert found[1].top1 == pytest.approx(np.mean(by_hand)) and found[1].std == pytest.approx(np.std(by_hand, ddof=1))
    assert found[0].top1 < found[1].top1
    with pytest.raises(mk.MageKitError, match="shots: 500, class"):
        few_shot(train, test, 4, shots=(500,))
