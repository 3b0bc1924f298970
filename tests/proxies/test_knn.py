"""Nearest neighbors against brute force in float64, with ties and duplicates."""

import os
import subprocess
import sys

import numpy as np
import pytest

import selector.proxies as proxies
from selector.features import FeatureSet
from selector.features.threads import _CORES
from selector.proxies import knn as module


def brute(x, labels, k):
    """Expected share and accuracy over all orders of equally near rows, from the full matrix."""
    x = np.asarray(x, dtype=np.float64)
    norms = np.linalg.norm(x, axis=1)
    unit = x / np.where(norms > 0, norms, 1)[:, None]
    share, correct = [], []
    for i in range(len(x)):
        similarity = unit @ unit[i]
        others = np.array([j for j in range(len(x)) if j != i])
        similarity = similarity[others]
        kk = min(k, len(others))
        last = np.sort(similarity)[::-1][kk - 1]
        nearer, tied = similarity > last + 1e-6, np.abs(similarity - last) <= 1e-6
        weight = nearer + tied * (kk - nearer.sum()) / tied.sum()
        tally = np.array([weight[labels[others] == c].sum() for c in range(labels.max() + 1)])
        share.append(tally[labels[i]] / kk)
        leading = np.flatnonzero(tally >= tally.max() - 1e-9)
        nearest = [similarity[(labels[others] == c) & (weight > 0)].max() for c in leading]
        first = leading[np.array(nearest) >= max(nearest) - 1e-6]
        correct.append((labels[i] in first) / len(first))
    return np.mean(share), np.mean(correct)


@pytest.mark.parametrize("case", ["plain", "duplicates", "many duplicates", "few rows", "zero rows", "constant"])
def test_equals_brute_force(mixture, case):
    x, labels = mixture(90, 8, separation=0.4)
    if case == "duplicates":
        x[30:60] = x[:30]
    elif case == "many duplicates":
        x[20:70] = x[5]  # more than the list of neighbors holds
    elif case == "few rows":
        x, labels = x[:5], np.array([0, 1, 0, 1, 1])
    elif case == "zero rows":
        x[:30] = 0
    elif case == "constant":
        x[:] = x[0]
    details = proxies.score(x.astype(np.float32), labels, "knn").details
    for k in (1, 5, 20):
        share, accuracy = brute(x.astype(np.float32), labels, k)
        assert details[f"share@{k}"] == pytest.approx(share, abs=1e-9)
        assert details[f"accuracy@{k}"] == pytest.approx(accuracy, abs=1e-9)


def test_blocks_of_rows_give_what_one_block_gives(mixture, monkeypatch):
    x, labels = mixture(3000, 8)
    whole = proxies.score(x, labels, "knn")
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1)  # blocks of 1024 rows
    parts = proxies.score(x, labels, "knn")
    assert parts.details == pytest.approx(whole.details, abs=1e-9)


SEARCH = """
import os
import numpy as np
from threadpoolctl import threadpool_info
import selector.proxies as proxies
rng = np.random.default_rng(0)
proxies.score(rng.normal(size=(40, 4)), np.arange(40) % 2, "knn")
found = {("faiss" in one["filepath"]): one["architecture"] for one in threadpool_info() if one["internal_api"] == "openblas"}
print(found.get(True), found.get(False), os.environ.get("OPENBLAS_CORETYPE"))
"""


@pytest.mark.parametrize("told", [None, "Haswell"])
def test_faiss_takes_the_processor_for_what_numpy_does(told):
    """Unless the environment says which; with the kernels of an unknown processor a search took three times as long."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= {"OPENBLAS_CORETYPE": told} if told else {}
    run = subprocess.run([sys.executable, "-c", SEARCH], env=environment, capture_output=True, text=True, check=True)
    of_faiss, of_numpy, left = run.stdout.split()
    assert left == str(told)
    if of_numpy not in _CORES or of_faiss == "None":
        pytest.skip(f"numpy computes as on {of_numpy}, faiss without an OpenBLAS of its own")
    assert of_faiss == (told or _CORES[of_numpy])


def test_a_tied_vote_goes_to_the_nearest_not_to_the_smallest_label():
    angle = np.radians([0, 10, 25, 40, 55])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    labels = np.array([1, 1, 0, 1, 0])  # row 0 sees 1 at 10°, 0 at 25°, 1 at 40°, 0 at 55°: two votes each
    features = proxies.FeatureSet(x, labels)
    _, correct = module.votes(features, module.neighbors(features), 5)
    assert correct[0] == 1


def leave_one_out_votes(x, labels, k=5):
    """scikit-learn's regressor on unit rows, asked for each row without it."""
    from sklearn.neighbors import KNeighborsRegressor

    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    known = ~np.isnan(labels)
    found = np.full_like(labels, np.nan)
    for i in range(len(x)):
        if known[i]:
            rest = np.arange(len(x)) != i
            found[i] = KNeighborsRegressor(k).fit(unit[rest], labels[rest]).predict(unit[i : i + 1])[0]
    return found


def test_regression_is_the_r2_of_scikit_learns_neighbors(mixture):
    from sklearn.metrics import r2_score

    x, _ = mixture(100, 6)
    targets = np.stack([x[:, 0] + 0.1 * x[:, 1], x[:, 2]], axis=1)
    means = np.stack([leave_one_out_votes(x, column) for column in targets.T], axis=1)
    score = proxies.score(x, targets, "knn")
    assert score.value == score.details["r2@5"] == pytest.approx(r2_score(targets, means), abs=1e-6)
    correlations = [np.corrcoef(means[:, i], targets[:, i])[0, 1] for i in range(2)]
    assert score.details["pearson@5"] == pytest.approx(np.mean(correlations), abs=1e-6)


def test_multilabel_is_the_vote_above_chance_averaged_over_labels(mixture):
    from sklearn.neighbors import KNeighborsClassifier

    x, labels = mixture(100, 6)
    many = np.stack([labels == 0, labels < 2], axis=1).astype(int)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = []
    for column in many.T:
        votes = [
            KNeighborsClassifier(5)
            .fit(np.delete(unit, i, 0), np.delete(column, i))
            .predict_proba(unit[i : i + 1])[0, 1]
            for i in range(100)
        ]
        right = np.where(column == 1, votes, 1 - np.array(votes)).mean()
        chance = column.mean() ** 2 + (1 - column.mean()) ** 2
        expected.append((right - chance) / (1 - chance))
    assert proxies.score(x, many, "knn").value == pytest.approx(np.mean(expected), abs=1e-6)


def test_neighbors_without_a_label_do_not_vote(mixture):
    x, labels = mixture(120, 6)
    target = np.stack([x[:, 0], labels.astype(float)], axis=1)
    target[np.random.default_rng(0).random(target.shape) < 0.2] = np.nan
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    nearest = np.argsort(-(unit @ unit.T - 2 * np.eye(120)), axis=1)[:, :5]
    expected = []
    for column in target.T:
        means = np.array([np.nanmean(column[near]) for near in nearest])
        known = ~np.isnan(column)
        rest = ((column - means)[known] ** 2).sum()
        expected.append(1 - rest / ((column[known] - column[known].mean()) ** 2).sum())
    score = proxies.score(x, target, "knn", intervals=True)
    assert score.value == pytest.approx(np.mean(expected), abs=1e-6)
    assert score.low < score.value < score.high


@pytest.mark.parametrize("largest", [3, 260])
def test_rows_of_one_unit_are_no_neighbors_of_each_other(largest: int) -> None:
    rng = np.random.default_rng(0)
    sizes = [largest, *rng.integers(1, 8, size=90)]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    centers = rng.normal(size=(len(sizes), 6))
    rows = (centers[groups] + 0.05 * rng.normal(size=(len(groups), 6))).astype(np.float32)  # a unit's rows lie together
    labels = rng.integers(3, size=len(groups))
    score = proxies.evaluate(FeatureSet(rows, labels, groups=groups), "knn", intervals=True, seed=0)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = unit @ unit.T
    similarity[groups[:, None] == groups[None, :]] = -9
    for k in (1, 5, 20):
        nearest = np.argsort(-similarity, axis=1)[:, :k]
        share = (labels[nearest] == labels[:, None]).mean(axis=1)
        assert score.details[f"share@{k}"] == pytest.approx(share.mean(), abs=1e-6)
    assert score.low is not None
    order = rng.permutation(len(groups))
    again = proxies.evaluate(
        FeatureSet(rows[order], labels[order], groups=groups[order]), "knn", intervals=True, seed=0
    )
    assert again.value == pytest.approx(score.value, abs=1e-9)
    assert again.low == pytest.approx(score.low, abs=1e-9)
