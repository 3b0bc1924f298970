"""Measures of two domains against independent references, and what moves them."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics.pairwise import cosine_distances, rbf_kernel

import selector.proxies as proxies
from selector.core.stats import softmax
from selector.proxies.domain_measures import estimated_shares, thresholded_confidence


@pytest.fixture
def domains():
    rng = np.random.default_rng(0)
    labels, other = np.arange(200) % 4, np.arange(150) % 4
    centers = 2.5 * rng.standard_normal((4, 6))
    source = centers[labels] + rng.standard_normal((200, 6))
    return source, labels, centers[other] + rng.standard_normal((150, 6)), other


def value(name, source, labels, target, **params):
    return proxies.score(source, labels, name, unlabeled=target, **params)


def test_pas_is_the_mean_relative_gap_of_cosine_distances(domains):
    source, labels, target, _ = domains
    unit = source / np.linalg.norm(source, axis=1, keepdims=True)
    centroids = np.stack([unit[labels == c].mean(axis=0) for c in range(4)])
    d = np.sort(cosine_distances(target, centroids), axis=1)
    assert float(value("pas", source, labels, target)) == pytest.approx(
        ((d[:, 1] - d[:, 0]) / d[:, 1]).mean(), rel=1e-9
    )


def test_mmd_is_the_unbiased_estimate(domains):
    source, labels, target, _ = domains
    source, labels, target = source[:150], labels[:150], target + 0.5
    rows = np.concatenate([source, target])
    squared = ((rows[:, None] - rows) ** 2).sum(axis=2)
    gamma = 1 / np.median(squared[np.triu_indices(300, 1)])
    own, other, cross = (
        rbf_kernel(source, gamma=gamma),
        rbf_kernel(target, gamma=gamma),
        rbf_kernel(source, target, gamma),
    )
    pairs = 150 * 149
    expected = (own.sum() - 150) / pairs + (other.sum() - 150) / pairs - 2 * cross.mean()
    assert float(value("mmd", source, labels, target)) == pytest.approx(-expected, rel=1e-9)


def test_coral_loss_is_that_of_the_paper(domains):
    source, labels, target, _ = domains
    centered = [rows - rows.mean(axis=0) for rows in (source, target)]
    own, other = (rows.T @ rows / (len(rows) - 1) for rows in centered)
    found = value("coral-distance", source, labels, target)
    assert found.details["loss"] == pytest.approx(((own - other) ** 2).sum() / (4 * 6**2), rel=1e-9)
    assert float(value("coral-distance", source, labels, source)) == pytest.approx(0, abs=1e-12)


def test_a_distance_knows_equal_and_disjoint_domains(domains):
    source, labels, target, _ = domains
    assert float(value("a-distance", source, labels, target)) > -0.5
    assert float(value("a-distance", source, labels, target + 50)) == -2.0


def test_class_shares_are_those_of_highest_likelihood():
    rng = np.random.default_rng(1)
    source = np.array([0.5, 0.3, 0.2])
    true = rng.choice(3, 3000, p=[0.1, 0.2, 0.7])
    densities = np.exp(-(((rng.standard_normal(3000) + 2 * true)[:, None] - 2 * np.arange(3)) ** 2) / 2)
    posterior = densities * source / (densities * source).sum(axis=1, keepdims=True)

    def loss(logits):
        shares = softmax(logits[None])[0]
        return -np.log((densities * shares).sum(axis=1)).mean()

    reference = softmax(minimize(loss, np.zeros(3)).x[None])[0]
    found = estimated_shares(posterior, source)
    assert (found, found) == (pytest.approx(reference, abs=1e-4), pytest.approx([0.1, 0.2, 0.7], abs=0.04))


def test_label_shift_sees_classes_that_are_rarer(domains):
    source, labels, target, other = domains
    few = target[(other > 1) | (np.arange(150) % 5 == 0)]
    assert float(value("label-shift", source, labels, target)) > -0.15
    assert float(value("label-shift", source, labels, few)) < -0.2


def test_thresholded_confidence_by_hand():
    held_out = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    # three of four are right, so the threshold leaves three above it
    assert thresholded_confidence(held_out, np.array([0, 0, 1, 1]), np.array([[0.95, 0.05], [0.5, 0.5]])) == 0.5


def test_the_predicted_accuracy_follows_the_target(domains):
    source, labels, target, other = domains
    near = value("target-accuracy", source, labels, target)
    far = value(
        "target-accuracy", source, labels, 0.2 * target[other == 0] + source.mean(axis=0)
    )  # one class, in between
    assert float(near) > float(far)
    centers = np.stack([source[labels == c].mean(axis=0) for c in range(4)])
    right = (((target[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1) == other).mean()
    assert near.details["thresholded_confidence"] == pytest.approx(right, abs=0.1)
    for found in (near, far):
        way = 0.651 + 0.0726 * found.details["source_accuracy"] + 0.484 * found.details["pas"]
        way += 0.828 * found.details["label_shift"]
        assert float(found) == pytest.approx(min(0.25 + 0.75 * way, 1.0), abs=1e-3)  # of four classes
    assert 0 < float(far) < 1
    assert near.details["low"] < float(near) <= near.details["high"]
    assert set(near.details) >= {"source_accuracy", "pas", "a_distance", "mmd", "coral_distance", "label_shift"}


def test_an_interval_deletes_rows_of_both_domains(domains):
    source, labels, target, _ = domains
    found = value("pas", source, labels, target, intervals=True)
    assert len(found.blocks) == 10
    assert found.low < found.value < found.high
    other = value("pas", source, labels, np.concatenate([target] * 4), intervals=True)
    assert other.high - other.low < found.high - found.low
