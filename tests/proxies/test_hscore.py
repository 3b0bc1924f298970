"""H-score against its formula, scikit-learn's shrinkage, and permutations."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

import selector.proxies as proxies


def direct(x, labels, shrinkage=None):
    """With matrices written out, an inverse and scikit-learn's shrunk covariance."""
    x = x - x.mean(0)
    covariance, a = ledoit_wolf(x, assume_centered=True)
    if shrinkage is not None:
        empirical = x.T @ x / len(x)
        a, covariance = (
            shrinkage,
            (1 - shrinkage) * empirical + shrinkage * np.trace(empirical) / len(empirical) * np.eye(len(empirical)),
        )
    means = np.stack([x[labels == c].mean(0) for c in np.unique(labels)])
    placed = means[np.unique(labels, return_inverse=True)[1]]
    return float(np.trace(np.linalg.pinv(covariance) @ ((1 - a) * placed.T @ placed / len(x)))), a


@pytest.mark.parametrize(("n", "d", "rank"), [(120, 20, 20), (25, 60, 25), (60, 60, 60), (90, 40, 12)])
def test_equals_the_formula_and_scikit_learns_shrinkage(mixture, n, d, rank):
    x, labels = mixture(n, rank)
    x = x @ np.random.default_rng(0).standard_normal((rank, d)) if rank < d else x
    score = proxies.score(x, labels, "hscore")
    value, shrinkage = direct(x, labels)
    assert score.value == pytest.approx(value, rel=1e-9)
    assert score.details["shrinkage"] == pytest.approx(shrinkage, rel=1e-9)


def test_plain_score_is_bounded_and_meets_its_bound_on_noise_when_rows_are_few(mixture):
    x, labels = mixture(90, 10)
    assert proxies.score(x, labels, "hscore", shrinkage=0).value == pytest.approx(direct(x, labels, 0.0)[0], rel=1e-8)
    noise = np.random.default_rng(0).standard_normal((30, 80))
    assert proxies.score(noise, np.arange(30) % 5, "hscore", shrinkage=0).value == pytest.approx(4, rel=1e-9)


def test_chance_is_the_mean_over_all_permutations(mixture):
    x, _ = mixture(6, 3, 2)
    labels = np.array([0, 0, 1, 1, 1, 1])
    every = [np.isin(np.arange(6), pair, invert=True).astype(int) for pair in combinations(range(6), 2)]
    mean = np.mean([proxies.score(x, permuted, "hscore").value for permuted in every])
    assert proxies.score(x, labels, "hscore").details["chance"] == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(2000, 64), (300, 400)])
def test_isotropic_noise_scores_nearly_nothing(n, d):
    x = np.random.default_rng(1).standard_normal((n, d))
    assert proxies.score(x, np.arange(n) % 10, "hscore").value <= 0.02 * 9
