"""lead, itm and disco against their formulas written out, row by row and matrix by matrix."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

import selector.proxies as proxies
from selector.core.errors import NotApplicable
from selector.features import FeatureSet

SHAPES = [(70, 9), (40, 60)]


@pytest.fixture(params=SHAPES, ids=["tall", "wide"])
def case(request, mixture):
    return mixture(*request.param, 3, separation=0.5)


def unequal(n=120, d=150, classes=6):
    """One class has a direction of its own, the others nothing: one strength for all shrinks it too much."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    rows = rng.standard_normal((n, d))
    rows[:, 0] = 0.3 * rows[:, 0] + 4 * (labels == 0)
    return rows, labels


@pytest.mark.parametrize("grouped", [False, True], ids=["rows", "groups"])
@pytest.mark.parametrize("time", [0.0, 0.7])
def test_lead_is_the_evolution_of_left_out_ridge_predictions(time, grouped):
    x, labels = unequal()
    classes = labels.max() + 1
    n, centered, onehot = len(x), x - x.mean(0), np.eye(classes)[labels]
    groups = np.random.default_rng(1).integers(0, 60, n) if grouped else np.arange(n)
    unit = (centered**2).sum() / n
    penalty = unit * proxies.score(x, labels, "ridge").details["strength"]
    splits = list(
        LeaveOneGroupOut().split(x, onehot, groups)
    )  # groups are no argument once another library turned routing on
    start = cross_val_predict(Ridge(alpha=penalty), x, onehot, cv=splits)
    means = np.stack([onehot[groups != u].mean(0) for u in groups])
    kernel, apart = centered @ centered.T, groups[:, None] != groups
    noise = np.sqrt(2 * (kernel[apart] ** 2).sum()) / np.trace(kernel)
    left, rates = 0.0, []
    for c in range(classes):
        r = onehot[:, c] - start[:, c]
        rates.append(max(n * (np.outer(r, r) * kernel)[apart].sum() / (r @ r) / np.trace(kernel) - 3 * noise, 0))
        evolved = (1 - np.exp(-rates[c] * time)) * onehot[:, c] + np.exp(-rates[c] * time) * start[:, c]
        left += ((onehot[:, c] - evolved) ** 2).sum()
    assert rates[0] > 0.05  # else time would not matter here
    score = proxies.evaluate(FeatureSet(x, labels, groups=groups if grouped else None), "lead", time=time)
    assert score.value == pytest.approx(1 - left / ((onehot - means) ** 2).sum(), abs=1e-6)
    assert score.details["start"] <= score.value


@pytest.mark.parametrize("width", [10, 50, 500])
def test_lead_of_noise_and_of_permuted_labels_is_0_and_below_that_of_the_true_ones(width):
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 5
    noise = rng.standard_normal((200, width))
    rows = noise + 0.4 * rng.standard_normal((5, width))[labels]
    permuted = [proxies.score(rows, rng.permutation(labels), "lead").value for _ in range(10)]
    assert np.abs(permuted).max() < 0.03
    assert proxies.score(noise, labels, "lead").value == pytest.approx(0, abs=0.03)
    assert proxies.score(rows, labels, "lead").value > 0.15 + max(permuted)


def test_lead_of_rows_that_say_nothing_is_0_and_of_a_perfect_model_1():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    noise = rng.standard_normal((60, 20))
    assert proxies.score(noise, np.arange(60), "lead").value == pytest.approx(0, abs=1e-3)  # a row a class
    noise[3] *= 1e6  # its own force on itself is all there is
    assert proxies.score(noise, labels, "lead").value == pytest.approx(0, abs=1e-3)
    assert proxies.score(np.eye(3)[labels], labels, "lead").value == pytest.approx(1, abs=1e-3)


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
            center = np.stack([moved[own == c].mean(0) for c in range(3)])[own]
            moved_outside = moved_outside + rate * across @ (center - moved)
            moved = (np.eye(len(e)) - rate * kernel) @ moved + rate * kernel @ center
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


def test_classes_without_spread_are_perfect_and_single_rows_say_nothing():
    """Collapsed features are the best that there can be; a row alone in its class says nothing of its spread."""
    labels = np.arange(60) % 3
    collapsed = np.random.default_rng(0).standard_normal((3, 8))[labels]
    for name in ("itm", "disco"):
        assert proxies.score(collapsed, labels, name).value == pytest.approx(1, abs=1e-9)
    # two classes at one place cannot be told apart
    assert proxies.score(collapsed, np.where(labels == 2, 2 + np.arange(60) // 3 % 2, labels), "itm").value < 0.9
    rows = np.random.default_rng(0).standard_normal((12, 5))
    assert proxies.score(rows, np.arange(12), "disco").value == pytest.approx(1 / 12)
    with pytest.raises(NotApplicable, match="needs two classes with rows in two folds each"):
        proxies.score(rows, np.arange(12), "itm")
    with pytest.raises(NotApplicable, match="each class has one training row: nothing is known of the spread"):
        proxies.evaluate(FeatureSet(rows, np.arange(12) // 2, groups=np.arange(12) % 2), "itm")


def test_disco_of_classes(case):
    x, labels = case
    centered = x - x.mean(0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
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
