"""probe, lda and ridge against scikit-learn, on the same folds."""

import warnings

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge
from sklearn.metrics import jaccard_score
from sklearn.model_selection import LeaveOneOut, PredefinedSplit, cross_val_predict
from sklearn.preprocessing import StandardScaler

import selector.proxies as proxies
from selector.features import FeatureSet


@pytest.mark.parametrize(("n", "d", "c"), [(150, 12, 4), (120, 20, 2), (60, 90, 3)])
def test_probe_equals_scikit_learns_logistic_regression_cv(mixture, n, d, c):
    x, labels = mixture(n, d, c, separation=0.5)
    features = FeatureSet(x, labels)
    strengths = np.array([0.1, 1, 10, 100]) / d
    score = proxies.evaluate(features, "probe", strengths=strengths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        reference = LogisticRegressionCV(
            Cs=strengths, cv=PredefinedSplit(features.folds), scoring="neg_log_loss", tol=1e-7, max_iter=5000
        ).fit(StandardScaler().fit_transform(x), labels)
    scores = np.asarray(
        next(iter(reference.scores_.values())) if isinstance(reference.scores_, dict) else reference.scores_
    )
    sizes = np.bincount(features.folds)
    losses = (scores.reshape(5, -1) * sizes[:, None]).sum(0) / n
    assert score.value == pytest.approx(losses.max(), abs=1e-3)
    assert score.details["strength"] == pytest.approx(strengths[losses.argmax()])


def test_what_large_sets_are_solved_to_is_near_the_exact_value(mixture, monkeypatch):
    x, labels = mixture(1500, 64, 40, separation=0.5)
    monkeypatch.setattr("selector.proxies.probe._TOLERANCES", ((0, 1e-9),))
    exact = proxies.evaluate(FeatureSet(x, labels), "probe")
    monkeypatch.setattr("selector.proxies.probe._TOLERANCES", ((10**9, 1e-9), (1500 * 65 * 40, 6e-6), (0, 1e-9)))
    found = proxies.evaluate(FeatureSet(x, labels), "probe")
    assert found.value != exact.value
    assert found.value == pytest.approx(exact.value, abs=1e-3)
    assert found.details["strength"] == exact.details["strength"]


def test_probe_counts_a_class_of_one_row_as_a_guess(mixture):
    x, labels = mixture(60, 8, 3)
    labels[0] = 7
    score = proxies.score(x, labels, "probe")
    assert score.per_row[0] == pytest.approx(-np.log(4))


@pytest.mark.parametrize(("n", "d"), [(120, 15), (50, 80)])
@pytest.mark.parametrize("shrinkage", [0.1, 0.7])
def test_lda_equals_scikit_learns_at_the_same_shrinkage_and_folds(mixture, n, d, shrinkage):
    x, labels = mixture(n, d, 3)
    features = FeatureSet(x, labels)
    score = proxies.evaluate(features, "lda", shrinkage=shrinkage)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    posterior = cross_val_predict(model, x, labels, cv=PredefinedSplit(features.folds), method="predict_log_proba")
    expected = posterior[np.arange(n), labels]
    np.testing.assert_allclose(np.log(score.per_row), expected, rtol=1e-6, atol=1e-9)
    assert score.value == pytest.approx(np.exp(expected).mean(), rel=1e-8)
    assert score.details["log_likelihood"] == pytest.approx(expected.mean(), rel=1e-8)
    assert score.details["accuracy"] == pytest.approx((posterior.argmax(1) == labels).mean())


def test_lda_shrinks_by_ledoit_wolf_on_rows_centered_by_class(mixture):
    from sklearn.covariance import ledoit_wolf_shrinkage

    for n, d in ((100, 12), (40, 60)):
        x, labels = mixture(n, d, 3)
        features = FeatureSet(x, labels)
        expected = []
        for fold in range(5):
            train, own = x[features.folds != fold], labels[features.folds != fold]
            centered = train - np.stack([train[own == c].mean(0) for c in range(3)])[own]
            expected.append(ledoit_wolf_shrinkage(centered, assume_centered=True))
        assert proxies.evaluate(features, "lda").details["shrinkage"] == pytest.approx(np.mean(expected), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, 10), (25, 40)])
def test_ridge_leave_one_out_equals_refitting(mixture, n, d):
    x, _ = mixture(n, d)
    target = np.random.default_rng(0).standard_normal(n) + x[:, 0]
    score = proxies.score(x, target, "ridge", method="loo")
    unit = ((x - x.mean(0)) ** 2).sum() / n
    predicted = cross_val_predict(Ridge(alpha=unit * score.details["strength"]), x, target, cv=LeaveOneOut())
    means = cross_val_predict(Ridge(alpha=1e15), x, target, cv=LeaveOneOut())
    # Ridge centers anew without each row; the hat matrix of the centered rows has the same residuals
    expected = 1 - ((predicted - target) ** 2).sum() / ((means - target) ** 2).sum()
    assert score.value == pytest.approx(expected, abs=1e-6)


def by_hand(x, target, penalties, groups):
    """Ridge refitted without each unit: R² of what is predicted for it against the mean of the others."""
    errors = null = 0.0
    for unit in np.unique(groups):
        out = groups == unit
        if np.isnan(target[out]).all():
            continue
        rest = ~out & ~np.isnan(target)
        own = out & ~np.isnan(target)
        model = Ridge(alpha=penalties, tol=1e-12).fit(x[rest], target[rest])
        errors += ((model.predict(x[own]) - target[own]) ** 2).sum()
        null += ((target[rest].mean() - target[own]) ** 2).sum()
    return 1 - errors / null


@pytest.mark.parametrize(("n", "d"), [(60, 10), (30, 45)])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_loo_ridge_equals_refitting_without_every_item(mixture, n, d, grouped, missing):
    x, _ = mixture(n, d)
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((n, 2)) * [1, 30] + x[:, :2] @ [[1, 20], [-0.5, 10]] + [5, 100]
    groups = np.arange(n) // 3 if grouped else np.arange(n)
    if missing:
        targets[rng.random((n, 2)) < 0.15] = np.nan
    score = proxies.score(x, targets, "loo-ridge", groups=groups if grouped else None, label_names=["a", "b"])
    values = []
    for name, column in zip("ab", targets.T, strict=True):
        known = ~np.isnan(column)
        alone = proxies.score(x[known], column[known], "ridge", method="gcv")
        unit = ((x[known] - x[known].mean(0)) ** 2).sum() / known.sum()
        values.append(by_hand(x, column, unit * alone.details["strength"], groups))
        assert score.details[f"r2:{name}"] == pytest.approx(values[-1], abs=1e-6)
    assert score.value == pytest.approx(np.mean(values), abs=1e-6)


def test_loo_ridge_of_labels_is_one_against_rest(mixture):
    x, labels = mixture(80, 12)
    many = np.stack([labels == 0, labels < 2], axis=1).astype(float)
    each = [proxies.score(x, column, "loo-ridge").value for column in many.T]  # as real values
    assert proxies.score(x, many.astype(int), "loo-ridge").value == pytest.approx(np.mean(each), rel=1e-9)


def test_loo_ridge_in_chunks_that_hold_whole_items(mixture, monkeypatch):
    x, _ = mixture(120, 10)
    target, groups = (
        x[:, 0] + np.random.default_rng(1).standard_normal(120),
        np.random.default_rng(2).integers(0, 30, 120),
    )
    whole = proxies.score(x, target, "loo-ridge", groups=groups).value
    monkeypatch.setattr("selector.proxies.ridge.chunk_rows", lambda rows: 16)
    assert proxies.score(x, target, "loo-ridge", groups=groups).value == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("missing", [False, True])
def test_probe_of_several_labels_is_scikit_learns_one_against_rest(mixture, missing):
    from sklearn.linear_model import LogisticRegression

    x, labels = mixture(150, 12, 4, separation=0.5)
    many = np.stack([labels == 0, labels < 2, labels % 2 == 0], axis=1).astype(float)
    if missing:
        many[np.random.default_rng(0).random(many.shape) < 0.15] = np.nan
    features = FeatureSet(x, many)
    strength = 0.2
    score = proxies.evaluate(features, "probe", strengths=[strength], intervals=True)
    z = StandardScaler().fit_transform(x)
    losses, precision = [], []
    from sklearn.metrics import average_precision_score

    for column in many.T:
        known = ~np.isnan(column)
        p, said = np.full(150, np.nan), np.full(150, np.nan)
        for fold in range(5):
            train, held = known & (features.folds != fold), known & (features.folds == fold)
            model = LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(z[train], column[train])
            said[held] = model.decision_function(z[held])
            own = model.predict_proba(z[held])
            p[held] = np.log(own[np.arange(held.sum()), column[held].astype(int)])
        losses.append(np.nanmean(p))
        precision.append(average_precision_score(column[known], said[known]))
    assert score.value == pytest.approx(np.mean(losses), abs=1e-3)
    assert score.per_row.mean() == pytest.approx(score.value)
    assert score.details["map"] == pytest.approx(np.mean(precision), abs=0.02)
    assert score.low < score.value < score.high


def test_duplicates_do_not_fool_generalized_cross_validation():
    """Rows that occur twice with their label leave no residual and nearly no degrees of freedom at a weak penalty."""
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((120, 300)), rng.standard_normal(120)
    x[1:11:2], target[1:11:2] = x[:10:2], target[:10:2]
    assert proxies.score(x, target, "ridge").value < 0.05  # noise; it was 0.99998
    assert proxies.score(x, target, "loo-ridge").value > -0.05
    # every row twice is every row once with another step of the penalty
    once = proxies.score(x[10:], target[10:], "ridge")
    twice = proxies.score(np.repeat(x[10:], 2, axis=0), np.repeat(target[10:], 2), "ridge")
    assert twice.value == pytest.approx(once.value, abs=0.01)


def test_equal_rows_are_found_as_they_are():
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((200, 40)), 0).astype(np.float32) * (rng.random((200, 40)) < 0.7)
    x[[3, 9, 150]] = x[70]
    x[199] = x[0]
    features = FeatureSet(x, np.arange(200) % 2)
    _, expected = np.unique(x, axis=0, return_inverse=True)
    for part, rows in ((features, np.arange(200)), (features.take(np.arange(3, 200)), np.arange(3, 200))):
        groups, wanted = part.equal_rows, expected.ravel()[rows]
        assert groups is not None
        np.testing.assert_array_equal(groups[:, None] == groups, wanted[:, None] == wanted)
    assert features.take(np.arange(10, 150)).equal_rows is None
    assert FeatureSet(rng.standard_normal((50, 3)), np.arange(50) % 2).equal_rows is None


def test_ridge_gcv_equals_its_definition(mixture):
    for n, d in ((60, 10), (25, 40)):
        x, labels = mixture(n, d)
        score = proxies.score(x, labels, "ridge")
        centered, columns = x - x.mean(0), np.eye(4)[labels] - np.eye(4)[labels].mean(0)
        unit = (centered**2).sum() / n
        values = []
        for exponent in range(-8, 9):
            hat = centered @ np.linalg.solve(
                centered.T @ centered + unit * 10 ** (exponent / 2) * np.eye(d), centered.T
            )
            residual = columns - hat @ columns
            values.append(n * (residual**2).sum() / (n - 1 - np.trace(hat)) ** 2)
        null = n * (columns**2).sum() / (n - 1) ** 2
        assert score.value == pytest.approx(1 - min(values) / null, rel=1e-7)


def test_ridge_refuses_an_unknown_method(mixture):
    with pytest.raises(Exception, match=r"ridge: method must be 'gcv' or 'loo'. Got 'looo'"):
        proxies.score(*mixture(), "ridge", method="looo")


def test_the_probe_tells_the_mean_iou_of_rows_on_items_that_it_did_not_see() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 180)
    rows = (np.eye(3)[labels] @ rng.normal(size=(3, 6)) + rng.normal(0, 0.7, (180, 6))).astype(np.float32)
    groups = np.repeat(np.arange(30), 6)
    features = FeatureSet(rows, labels, groups=groups)
    found = proxies.evaluate(features, "probe").details
    z = (rows - rows.mean(0)) / rows.std(0)
    predicted = np.empty_like(labels)
    for fold in np.unique(features.folds):
        held = features.folds == fold
        assert not set(groups[held]) & set(groups[~held])
        model = LogisticRegression(C=found["strength"], tol=1e-8, max_iter=2000).fit(z[~held], labels[~held])
        predicted[held] = model.predict(z[held])
    assert found["miou"] == pytest.approx(jaccard_score(labels, predicted, average="macro"), abs=0.01)
