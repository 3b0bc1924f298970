"""Agreement measures against scipy and brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from benchmarks import agreement
from benchmarks.agreement import MEASURES, mean_agreement, paired_difference, regret_at, rel_at
from selector.core.errors import ConfigError
from selector.core.stats import mean_ranks
from selector.ranking.agreement import weighted_tau

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("cells", [None, 420])
def test_weighted_tau_is_scipys_in_either_convention(monkeypatch, cells):
    """However many models there are: with few cells, pairs are looked at seven models at a time."""
    x = np.random.default_rng(0).integers(0, 30, 60).astype(float)
    y = x + np.random.default_rng(1).integers(0, 9, 60)
    if cells:
        monkeypatch.setattr("selector.ranking.agreement._CELLS", cells)
    assert weighted_tau(x, y) == pytest.approx(stats.weightedtau(x, y).statistic)
    other = weighted_tau(x, y, convention="accuracy")
    assert other == pytest.approx(stats.weightedtau(y, x, rank=None).statistic)
    assert other != pytest.approx(weighted_tau(x, y))


def test_ranks_and_correlations_are_scipys_with_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 6, 15) / 7, rng.standard_normal(15)
        np.testing.assert_array_equal(mean_ranks(x), stats.rankdata(x))
        assert agreement.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        assert agreement.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("name", ["weighted_tau", "kendall", "spearman", "pearson"])
def test_constants_are_nan_and_perfect_agreement_is_one(name):
    measure = MEASURES[name]
    assert math.isnan(measure([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
    assert measure([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]) == pytest.approx(1)
    assert measure([4.0, 2.0, 1.0], [1.0, 2.0, 4.0]) < 0


@pytest.mark.parametrize("k", [1, 2, 3])
def test_ties_at_the_border_are_the_mean_over_all_orders(k):
    scores = np.array([3.0, 2.0, 2.0, 2.0, 1.0])
    accuracies = np.array([50.0, 90.0, 60.0, 70.0, 95.0])
    regrets, rels = [], []
    for order in itertools.permutations(range(5)):
        order = sorted(order, key=lambda i: -scores[i])  # stable: keeps the permutation among ties
        best = max(accuracies[i] for i in order[:k])
        regrets.append(95 - best)
        rels.append(best / 95)
    assert regret_at(k)(scores, accuracies) == pytest.approx(np.mean(regrets))
    assert rel_at(k)(scores, accuracies) == pytest.approx(np.mean(rels))


def test_mean_agreement_counts_undefined_sets_and_brackets_the_value():
    accuracies = [RNG.standard_normal(12) for _ in range(5)]
    scores = [a + RNG.standard_normal(12) for a in accuracies]
    scores[2] = np.ones(12)
    result = mean_agreement(scores, accuracies, draws=200)
    defined = [weighted_tau(s, a) for i, (s, a) in enumerate(zip(scores, accuracies, strict=True)) if i != 2]
    assert result.undefined == 1
    assert result.value == pytest.approx(np.mean(defined))
    assert result.low < result.value < result.high


def test_paired_difference_of_a_score_with_itself_is_exactly_zero():
    accuracies = [RNG.standard_normal(8) for _ in range(4)]
    scores = [a + RNG.standard_normal(8) for a in accuracies]
    same = paired_difference(scores, scores, accuracies, draws=50)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = paired_difference(accuracies, scores, accuracies, draws=50)
    assert better.low > 0


def best_of_first(x, y, k):
    """The best accuracy of the first k, in expectation over orders of ties, of one list at a time."""
    k = min(k, len(x))
    border = np.sort(x)[-k]
    sure, ties = y[x > border], np.sort(y[x == border])
    free, base = k - len(sure), sure.max(initial=-np.inf)
    ways = np.array([math.comb(i, free - 1) for i in range(len(ties))]) / math.comb(len(ties), free)
    return float((np.maximum(ties, base) * ways).sum())


ALONE = {
    **{name: MEASURES[name] for name in ("weighted_tau", "spearman")},
    **{f"regret@{k}": lambda x, y, k=k: y.max() - best_of_first(x, y, k) for k in (1, 3)},
    **{f"rel@{k}": lambda x, y, k=k: best_of_first(x, y, k) / y.max() for k in (1, 3)},
}


@pytest.mark.parametrize("name", agreement.BATCHED)
def test_measures_of_many_resamples_are_those_of_each(name):
    """With models that were drawn twice, ties of scores, and some that do not count."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (60, 9)) / 7, rng.integers(50, 60, (60, 9)) / 1.0
    x[:20] = rng.standard_normal((20, 9))
    counts = rng.uniform(size=(60, 9)) < np.linspace(0.1, 1, 60)[:, None]
    found = agreement.BATCHED[name](x, y, counts)
    expected = [
        ALONE[name](a[kept], b[kept]) if kept.sum() > 1 else math.nan for a, b, kept in zip(x, y, counts, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.isnan(found).any()
    assert np.isfinite(found).sum() > 40


def test_models_are_drawn_once_for_all_data_sets_that_have_them():
    """Against a bootstrap written out; three datasets share most of twelve models, whose errors are the same on each."""
    rng = np.random.default_rng(2)
    names = list("abcdefghijkl")
    models = [names[:10], names[2:], names]
    truth = dict(zip(names, rng.standard_normal(12), strict=True))
    error = dict(zip(names, rng.standard_normal(12), strict=True))
    accuracies = [[truth[n] for n in some] for some in models]
    scores = [[truth[n] + error[n] for n in some] for some in models]
    found = mean_agreement(scores, accuracies, "pearson", models=models, draws=600)
    means = []
    for _ in range(600):
        sets, pool = rng.integers(3, size=3), rng.choice(names, 12)
        drawn = [[n for n in pool if n in models[d]] for d in sets]
        each = [MEASURES["pearson"]([truth[n] + error[n] for n in some], [truth[n] for n in some]) for some in drawn]
        means.append(np.nanmean(each))
    assert (found.low, found.high) == pytest.approx(np.quantile(means, (0.05, 0.95)), abs=0.06)
    nested = mean_agreement(scores, accuracies, "pearson", draws=600)
    assert nested.high - nested.low < 0.85 * (found.high - found.low)  # the same errors, taken for independent ones
    other = [[-x for x in some] for some in scores]
    gain = paired_difference(scores, other, accuracies, "pearson", models=models, draws=600)
    assert (gain.low, gain.high) == pytest.approx((2 * found.low, 2 * found.high))


def test_lists_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match=r"one array a dataset in each of scores, accuracies. Got .*'scores': 1"):
        mean_agreement([[1.0, 2.0]], [[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ConfigError, match=r"models: expected a name for each of \[2\] models by dataset. Got \[3\]"):
        mean_agreement([[1.0, 2.0]], [[1.0, 2.0]], models=[["a", "b", "c"]])


@pytest.mark.parametrize(
    ("scores", "accuracies", "text"),
    [
        ([1.0, 2.0], [1.0], r"Got shapes \(2,\) and \(1,\)"),
        ([1.0, math.nan], [1.0, 2.0], "must be finite"),
        ([1.0], [1.0], "equal length M >= 2"),
    ],
)
def test_wrong_input_is_named(scores, accuracies, text):
    with pytest.raises(ConfigError, match=text):
        weighted_tau(scores, accuracies)
