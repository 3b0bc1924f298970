"""Solved heads against scikit-learn, on raw features."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from selector.core.contracts import LabelKind
from selector.core.errors import ProxyError
from selector.linear import STRENGTHS, best_strength, solve_head, standardize
from selector.linear.logistic import Logistic, log_likelihood


def data(n=200, d=10, c=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % c
    x = rng.standard_normal((c, d))[labels] * 0.7 + rng.standard_normal((n, d))
    return x * np.logspace(-2, 2, d) + 7, labels


def softmax(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize(("n", "d", "c"), [(200, 10, 3), (200, 10, 2), (60, 100, 4)])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_a_head_equals_scikit_learns_on_standardized_features(n, d, c, strength):
    x, labels = data(n, d, c)
    train, val = slice(0, 2 * n // 3), slice(2 * n // 3, n)
    head = solve_head(x[train], labels[train], x[val], labels[val], c, strengths=[strength])
    scaler = StandardScaler().fit(x[train])
    reference = LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(scaler.transform(x[train]), labels[train])
    expected = reference.predict_proba(scaler.transform(x[val]))
    np.testing.assert_allclose(softmax(x[val] @ head.weight.T + head.bias), expected, atol=3e-3)
    assert head.val_log_loss == pytest.approx(log_loss(labels[val], expected), abs=1e-3)


def test_the_strength_is_the_one_that_the_validation_rows_prefer():
    x, labels = data(150, 40, 3)
    labels = np.where(np.random.default_rng(2).random(150) < 0.3, (labels + 1) % 3, labels)  # weak penalties overfit
    grid = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    losses = [solve_head(x[:100], labels[:100], x[100:], labels[100:], 3, strengths=[s]).val_log_loss for s in grid]
    head = solve_head(x[:100], labels[:100], x[100:], labels[100:], 3, strengths=grid)
    assert head.strength == grid[int(np.argmin(losses))]
    assert 0 < int(np.argmin(losses)) < 4  # inside the grid, so both ends were worth trying


def test_absent_classes_are_finite_and_never_win():
    x, labels = data(90, 6, 3)
    head = solve_head(x, labels * 2, x, labels * 2, 6)
    logits = x @ head.weight.T + head.bias
    assert head.weight.shape == (6, 6)
    assert np.isfinite(logits).all()
    assert not np.isin(logits.argmax(1), [1, 3, 5]).any()
    assert softmax(logits)[:, [1, 3, 5]].max() < 0.02


def test_constant_columns_and_a_thousand_classes():
    rng = np.random.default_rng(0)
    labels = np.arange(3000) % 1000
    signal = rng.standard_normal((1000, 48))[labels] + 0.3 * rng.standard_normal((3000, 48))
    x = np.hstack([signal, np.full((3000, 2), 4.0)])
    head = solve_head(x, labels, x[:1000], labels[:1000], 1000, strengths=[0.02, 0.2])
    assert np.isfinite(head.weight).all()
    assert not head.weight[:, 48:].any()
    assert ((x @ head.weight.T + head.bias).argmax(1) == labels).mean() > 0.95


def test_multilabel_heads_are_one_logistic_regression_a_label():
    x, labels = data(200, 8, 3)
    many = np.stack([labels == 0, labels > 0, labels == 2], axis=1).astype(int)
    head = solve_head(x, many, x, many, 3, label_kind=LabelKind.MULTILABEL, strengths=[0.1])
    scaled = StandardScaler().fit_transform(x)
    for k in range(3):
        reference = LogisticRegression(C=0.1, tol=1e-8).fit(scaled, many[:, k])
        found = 1 / (1 + np.exp(-(x @ head.weight[k] + head.bias[k])))
        np.testing.assert_allclose(found, reference.predict_proba(scaled)[:, 1], atol=3e-3)


def test_real_labels_are_fitted_by_ridge():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 6)) * [1, 10, 100, 1, 1, 1] + 3
    y = x @ rng.standard_normal((6, 2)) + 50 + 0.01 * rng.standard_normal((120, 2))
    head = solve_head(x[:80], y[:80], x[80:], y[80:], 2, label_kind=LabelKind.REAL, strengths=[1e-3, 10.0, 1e4])
    np.testing.assert_allclose(x[80:] @ head.weight.T + head.bias, y[80:], atol=0.1)


def test_wrong_arguments_are_refused():
    x, labels = data(30, 4, 3)
    with pytest.raises(ProxyError, match=r"class labels must lie in 0\.\.1\. Got 0\.\.2"):
        solve_head(x, labels, x, labels, 2)
    with pytest.raises(ProxyError, match=r"equal lengths. Got 30 rows and 29 labels"):
        solve_head(x, labels[:-1], x, labels, 3)
    with pytest.raises(ProxyError, match="every column has one value only"):
        solve_head(np.ones((30, 4)), labels, x, labels, 3)


def folds_of(n=120, d=30, c=3):
    """A cross-validation: coordinates, codes, and one weight a fold and row."""
    x, labels = data(n, d, c)
    basis = standardize(x)
    folds = np.arange(n) // 7 % 5
    return basis.own, basis.curvature, labels, (folds != np.arange(5)[:, None]).astype(float), folds


def test_held_out_labels_do_not_touch_the_fold_that_holds_them_out():
    z, curvature, labels, weights, folds = folds_of()
    changed = np.where(folds == 0, (labels + 1) % 3, labels)
    for strength, tolerance in ((1e-3, 1e-3), (0.3, 1e-6)):
        before = Logistic(z, curvature, labels, weights).solve(strength, tolerance).solution
        after = Logistic(z, curvature, changed, weights).solve(strength, tolerance).solution
        np.testing.assert_array_equal(after[:, 0], before[:, 0])
        assert not np.allclose(after[:, 1], before[:, 1])


@pytest.mark.parametrize("weighted", [False, True])
def test_folds_solved_together_equal_each_one_alone(weighted):
    z, curvature, labels, weights, folds = folds_of()
    if weighted:
        weights = weights * np.where(labels == 0, 2.5, 1)
    together = Logistic(z, curvature, labels, weights).solve(0.1, 1e-8).solution
    for fold in range(5):
        kept = folds != fold
        alone = LogisticRegression(C=0.1, tol=1e-9, max_iter=5000).fit(
            z[kept, :-1].astype(np.float64), labels[kept], sample_weight=weights[fold, kept]
        )
        found = z.astype(np.float64) @ together[:, fold]
        np.testing.assert_allclose(softmax(found), alone.predict_proba(z[:, :-1]), atol=2e-3)


def test_the_first_gradient_in_closed_form_equals_the_sum_over_rows():
    z, curvature, labels, weights, _ = folds_of()
    problem = Logistic(z, curvature, labels, weights)
    start = problem.start()
    value, gradient = problem._at_start(start)
    expected_value, expected = problem.loss_and_gradient(start, np.arange(5))
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)


def problem_of(rows, labels, folds):
    """A cross-validation, and what ``best_strength`` asks: log-likelihoods of the rows of five folds, each under the fit
    without them."""
    basis = standardize(rows)
    problem = Logistic(basis.own, basis.curvature, labels, (folds != np.arange(5)[:, None]).astype(float))

    def held_out(solution):
        own = [folds == fold for fold in range(5)]
        return np.concatenate(
            [log_likelihood(problem.z[f], solution[:, i : i + 1], labels[f])[0] for i, f in enumerate(own)]
        )

    return problem, held_out


def test_the_strongest_penalty_wins_where_the_labels_say_nothing():
    """It is looked at last: the walk begins at the second strength.

    A solution that had seen held-out rows would beat chance, most of all with more columns than rows.
    """
    rng = np.random.default_rng(4)
    rows, labels, folds = rng.standard_normal((200, 300)), rng.integers(0, 4, 200), np.arange(200) % 5
    problem, held_out = problem_of(rows, labels, folds)
    grid = [s / 300 for s in STRENGTHS]
    each = [held_out(problem.solve(strength, 1e-6).solution).mean() for strength in grid]
    assert int(np.argmax(each)) == 0
    solved, found = best_strength(problem, grid, held_out, 1e-6)
    assert solved.strength == grid[0]
    assert found.mean() == pytest.approx(each[0], abs=1e-4)
    assert found.mean() < -np.log(4) + 0.01


def test_a_decrease_that_stale_curvature_promises_is_not_believed():
    """The walk's curvature alone stops the last solution five times too early on rows like these."""
    rng = np.random.default_rng(2)
    labels, folds = np.arange(600) % 10, np.arange(600) // 10 % 5
    latent = rng.standard_normal((10, 187))[labels] * 0.6 + rng.standard_normal((600, 187))
    rows = np.maximum(latent @ rng.standard_normal((187, 1500)) / 14 + 0.3 * rng.standard_normal((600, 1500)), 0)
    problem, held_out = problem_of(rows, labels, folds)
    solved, found = best_strength(problem, [s / 1500 for s in STRENGTHS], held_out, 1e-6)
    exact = held_out(problem.solve(solved.strength, 1e-9).solution)
    assert found.mean() == pytest.approx(exact.mean(), abs=1e-4)


def test_unknown_labels_are_not_fitted():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6)) * np.linspace(1, 3, 6) + 2
    real = np.stack([x[:, 0] + x[:, 1] + rng.standard_normal(200), x[:, 2]], axis=1) + 10
    many = (real > np.median(real, axis=0)).astype(float)
    hole = rng.random(real.shape) < 0.3
    known = ~hole
    real[hole] = many[hole] = np.nan
    scaler = StandardScaler().fit(x[:150])
    z = scaler.transform(x)
    solved = solve_head(x[:150], real[:150], x[150:], real[150:], 2, label_kind=LabelKind.REAL, strengths=[0.1])
    found = x @ solved.weight.T + solved.bias
    labels = solve_head(x[:150], many[:150], x[150:], many[150:], 2, label_kind=LabelKind.MULTILABEL, strengths=[0.1])
    logits = x @ labels.weight.T + labels.bias
    for i in range(2):
        rows = np.flatnonzero(known[:150, i])
        expected = Ridge(alpha=10).fit(z[rows], real[rows, i]).predict(z)
        np.testing.assert_allclose(found[:, i], expected, atol=2e-3)
        model = LogisticRegression(C=0.1, tol=1e-8).fit(z[rows], many[rows, i])
        np.testing.assert_allclose(logits[:, i], model.decision_function(z), atol=0.02)
    assert np.isfinite([solved.val_log_loss, labels.val_log_loss]).all()
    real[:150, 1] = np.nan
    with pytest.raises(ProxyError, match="real column 1 is unknown for all training rows"):
        solve_head(x[:150], real[:150], x[150:], real[150:], 2, label_kind=LabelKind.REAL)


@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64])
def test_fewer_rows_than_columns_need_no_directions_written_down(given):
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((60, 700)) * rng.uniform(0.1, 3, 700) + 5).astype(given)
    rows[:, 3] = 2
    order = rng.permutation(60)
    basis = standardize(rows, order)
    x = rows.astype(np.float64)[order]
    live = x.std(axis=0) > 0
    z = np.where(live, (x - x.mean(axis=0)) / np.where(live, x.std(axis=0), 1), 0)
    np.testing.assert_allclose(basis.own[:, :-1] @ basis.own[:, :-1].T, z @ z.T, atol=2e-2)
    np.testing.assert_allclose(basis.coordinates(rows[order]), basis.own, atol=2e-3)
    solution = rng.standard_normal((basis.own.shape[1], 3))
    weight, bias = basis.raw(solution)
    np.testing.assert_allclose(x @ weight.T + bias, basis.own @ solution, atol=5e-2)
    np.testing.assert_array_equal(
        standardize(rows[order]).own, basis.own
    )  # to the bit: the order of rows cannot matter
