"""lead, itm and disco against their formulas written out, row by row and matrix by matrix."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

import selector.proxies as proxies
from selector.features import FeatureSet

SHAPES = [(70, 9), (40, 60)]


@pytest.fixture(params=SHAPES, ids=["tall", "wide"])
def case(request, mixture):
    return mixture(*request.param, 3, separation=0.5)


@pytest.mark.parametrize("time", [0.0, 0.7])
def test_lead_is_the_evolution_of_left_out_ridge_predictions(case, time):
    x, labels = case
    n, centred, onehot = len(x), x - x.mean(0), np.eye(3)[labels]
    unit = (centred**2).sum() / n
    penalty = unit * proxies.score(x, labels, "ridge").details["strength"]
    start = cross_val_predict(Ridge(alpha=penalty), x, onehot, cv=LeaveOneOut())
    means = (onehot.sum(0) - onehot) / (n - 1)
    left = 0.0
    for c in range(3):
        r = onehot[:, c] - start[:, c]
        rate = n * np.linalg.norm(centred.T @ r) ** 2 / (r @ r) / (centred**2).sum()
        evolved = (1 - np.exp(-rate * time)) * onehot[:, c] + np.exp(-rate * time) * start[:, c]
        left += ((onehot[:, c] - evolved) ** 2).sum()
    score = proxies.score(x, labels, "lead", time=time)
    assert score.value == pytest.approx(1 - left / ((onehot - means) ** 2).sum(), abs=1e-6)
    assert score.details["start"] <= score.value


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 1), (0.4, 3), (0.0, 1)])
def test_itm_takes_the_implicit_step_between_rows(case, rate, steps):
    x, labels = case
    features = FeatureSet(x, labels)
    z = features.coordinates(64)
    expected = np.empty(len(x))
    for fold in range(5):
        train, held = features.folds != fold, features.folds == fold
        mean = z[train].mean(0)
        e, outside, own = z[train] - mean, z[held] - mean, labels[train]
        largest = np.linalg.eigvalsh(np.cov(e.T, bias=True))[-1]
        kernel, across = e @ e.T / len(e) / largest, outside @ e.T / len(e) / largest
        moved, moved_outside = e, outside
        for _ in range(steps):  # rows outside the fold follow the displacement of the training rows
            centre = np.stack([moved[own == c].mean(0) for c in range(3)])[own]
            moved_outside = moved_outside + rate * across @ (centre - moved)
            moved = (np.eye(len(e)) - rate * kernel) @ moved + rate * kernel @ centre
        means = np.stack([moved[own == c].mean(0) for c in range(3)])
        variance = ((moved - means[own]) ** 2).sum() / moved.size
        prior = np.log(np.bincount(own) / len(own))
        p = softmax(prior - ((moved_outside[:, None] - means) ** 2).sum(2) / (2 * variance), axis=1)
        expected[held] = p[np.arange(held.sum()), labels[held]]
    score = proxies.evaluate(features, "itm", rate=rate, steps=steps)
    np.testing.assert_allclose(score.per_row, expected, atol=1e-9)
    if rate == 0:
        assert score.details["gain"] == 0


def test_itm_gains_where_the_classes_lie_across_a_nuisance_of_large_variance():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    x = np.stack([5 * rng.standard_normal(200), labels + 0.6 * rng.standard_normal(200)], axis=1)
    details = proxies.score(x, labels, "itm").details
    assert details["gain"] > 0.05


def test_disco_of_classes(case):
    x, labels = case
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    keep = s > 1e-9 * s[0]
    u, s = u[:, keep], s[keep]
    expected = 0.0
    for group in np.array_split(np.arange(len(s)), 8):
        z = u[:, group] * s[group]
        whole = np.stack([z[labels == c].mean(0) for c in range(3)])
        variance = ((z - whole[labels]) ** 2).sum() / z.size
        p = []
        for i in range(len(x)):
            rest = np.arange(len(x)) != i
            means = whole.copy()
            means[labels[i]] = z[rest & (labels == labels[i])].mean(0)
            logits = np.log(np.bincount(labels) / len(x)) - ((z[i] - means) ** 2).sum(1) / (2 * variance)
            p.append(softmax(logits)[labels[i]])
        expected += s[group].sum() / s.sum() * np.mean(p)
    assert proxies.score(x, labels, "disco").value == pytest.approx(expected, rel=1e-7)


def test_disco_of_real_values(case):
    x, _ = case
    target = np.stack([x[:, 0] + np.random.default_rng(0).standard_normal(len(x)), x[:, 1] + x[:, 2]], axis=1)
    target[:4, 1] = np.nan
    values = []
    for column in target.T:
        known = ~np.isnan(column)
        rows, y = x[known], column[known]
        u, s, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
        keep = s > 1e-9 * s[0]
        u, s, total = u[:, keep], s[keep], 0.0
        for group in np.array_split(np.arange(len(s)), 8):
            r2 = LinearRegression().fit(u[:, group], y).score(u[:, group], y)
            adjusted = 1 - (1 - r2) * (len(y) - 1) / max(len(y) - 1 - len(group), 1)
            total += s[group].sum() / s.sum() * min(max(adjusted, 0), 1)
        values.append(total)
    assert proxies.score(x, target, "disco").value == pytest.approx(np.mean(values), rel=1e-7)
