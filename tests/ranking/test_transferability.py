"""Transferability: a pool-independent scale, honest probabilities, a set that is not significantly different."""

import math
from dataclasses import replace

import numpy as np
import pytest

from selector.core.contracts import LabelKind, Score
from selector.features import FeatureSet
from selector.proxies import default_proxies, evaluate
from selector.ranking.agreement import calibration
from selector.ranking.combination import LabelFacts, combine, out_of_reach
from selector.ranking.history import Result
from selector.ranking.prior import ModelFacts, Prior, PriorScore, static_prior

LABELS = np.repeat(np.arange(4), 50)
FACTS = LabelFacts.of(LABELS, LabelKind.CLASSES)


def model(quality: float, rng: np.random.Generator, shared: np.ndarray, own: float = 0.01) -> dict[str, Score]:
    def score(value: float, scale: float) -> Score:
        return Score(value, blocks=value + scale * (shared + own * rng.standard_normal(len(shared))))

    share = FACTS.chance + quality * (1 - FACTS.chance)
    return {
        "knn": score(share, 0.1),
        "probe": score(-FACTS.entropy * (1 - quality), 0.1),
        "logme": score(FACTS.null_logme - 0.5 * math.log(1 - quality**2), 0.1),
    }


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(10)
    return {name: model(q, rng, shared) for name, q in {"good": 0.8, "fair": 0.5, "poor": 0.1}.items()}


def test_the_scale_is_zero_at_chance_and_one_at_perfection():
    nothing = {"knn": Score(FACTS.chance), "probe": Score(-FACTS.entropy), "logme": Score(FACTS.null_logme)}
    everything = {"knn": Score(1.0), "probe": Score(0.0), "logme": Score(FACTS.null_logme + 20)}
    transferability = combine({"nothing": nothing, "everything": everything}, FACTS)
    assert transferability["nothing"].value == pytest.approx(0, abs=1e-12)
    assert transferability["everything"].value == pytest.approx(1)


def test_null_logme_is_the_gaussian_log_likelihood_of_the_class_priors():
    onehot = np.eye(4)[LABELS]
    from scipy.stats import norm

    expected = np.mean([norm.logpdf(c, c.mean(), c.std()).mean() for c in onehot.T])
    assert FACTS.null_logme == pytest.approx(expected)


def test_adding_a_model_changes_no_value_and_no_order(pool):
    before = combine({k: pool[k] for k in ("good", "fair")}, FACTS)
    after = combine(pool, FACTS)
    for name, transferability in before.items():
        assert after[name].value == transferability.value
        assert after[name].low == pytest.approx(transferability.low)


def test_errors_that_all_models_share_cancel_in_the_probabilities(pool):
    transferability = combine(pool, FACTS, top_k=2)
    good, fair, poor = transferability["good"], transferability["fair"], transferability["poor"]
    assert good.high - good.low > 0.1  # each alone is uncertain
    assert good.p_best > 0.99  # their difference is not
    assert (good.tied, fair.tied, poor.tied) == (True, False, False)
    assert fair.p_top_k > 0.99
    assert sum(e.p_best for e in transferability.values()) == pytest.approx(1)
    assert sum(e.p_top_k for e in transferability.values()) == pytest.approx(2)
    assert [round(e.mean_rank, 1) for e in transferability.values()] == [1, 2, 3]


def test_independent_errors_of_the_same_size_do_not():
    rng = np.random.default_rng(1)
    pool = {name: model(q, rng, np.zeros(10), own=1.0) for name, q in {"a": 0.50, "b": 0.49, "c": 0.48}.items()}
    transferability = combine(pool, FACTS)
    assert all(e.tied for e in transferability.values())
    assert transferability["a"].p_best < 0.7
    assert 1 < transferability["a"].mean_rank < transferability["b"].mean_rank < transferability["c"].mean_rank < 3
    assert sum(e.mean_rank for e in transferability.values()) == pytest.approx(6)


def test_a_member_that_one_model_lacks_is_left_out_for_all(pool):
    del pool["poor"]["probe"]
    assert all(set(e.members) == {"knn", "logme"} for e in combine(pool, FACTS).values())
    assert combine({"only": {"hscore": Score(3.0)}}, FACTS) == {}


def test_facets_count_the_same_however_many_members_they_have():
    real = LabelFacts.of(np.linspace(-1, 1, 50), LabelKind.REAL)
    facts = {"what": FACTS, "where": real}
    blocks = np.linspace(0.3, 0.5, 10)
    scores = {"what:knn": Score(0.8, blocks=blocks), "what:probe": Score(-0.2), "where:knn": Score(0.4, blocks=blocks)}
    found = combine({"m": scores}, facts)["m"]
    what = combine({"m": {"knn": scores["what:knn"], "probe": scores["what:probe"]}}, FACTS)["m"]
    where = combine({"m": {"knn": scores["where:knn"]}}, real)["m"]
    assert found.normalized_score == pytest.approx((what.normalized_score + where.normalized_score) / 2)
    assert found.deviations == pytest.approx((what.deviations + where.deviations) / 2)
    assert set(found.members) == {"what:knn", "what:probe", "where:knn"}


def test_without_blocks_nothing_is_known_of_the_noise(pool):
    exact = {name: {proxy: Score(s.value) for proxy, s in scores.items()} for name, scores in pool.items()}
    transferability = combine({**exact, "twin": exact["good"]}, FACTS)
    for name, found in transferability.items():
        assert found.value == combine(pool | {"twin": pool["good"]}, FACTS)[name].value
        assert (found.low, found.high, found.p_best, found.p_top_k, found.mean_rank) == (None,) * 5
    assert [name for name, found in transferability.items() if found.tied] == ["good", "twin"]
    assert out_of_reach(transferability, 1) == []
    assert out_of_reach({}, 1) == []


def test_out_of_reach_is_paired_shared_errors_cancel():
    rng = np.random.default_rng(3)
    shared = 0.3 * rng.standard_normal(10)  # the intervals overlap, the differences do not reach zero
    pool = {n: model(q, rng, shared) for n, q in {"a": 0.60, "b": 0.59, "c": 0.50}.items()}
    transferability = combine(pool, FACTS, top_k=2)
    assert transferability["c"].high > transferability["b"].low
    assert out_of_reach(transferability, 2) == ["c"]


def test_out_of_reach_needs_k_networks_above_all_readings_of_one():
    rng = np.random.default_rng(4)
    normalized_scores = {"a@1": 0.9, "a@2": 0.88, "b": 0.8, "c@1": 0.2, "c@2": 0.7, "d": 0.1}
    transferability = combine({n: model(q, rng, np.zeros(10)) for n, q in normalized_scores.items()}, FACTS)
    assert out_of_reach(transferability, 2) == ["b", "c@1", "c@2", "d"]
    networks = {name: name[0] for name in normalized_scores}
    assert out_of_reach(transferability, 2, networks) == ["c@1", "c@2", "d"]
    assert out_of_reach(transferability, 3, networks) == ["d"]  # above c stand two networks, not three


def test_jackknife_interval_of_a_mean_matches_the_textbook():
    """Delete-a-block values of a plain mean: the interval must be the t interval of block means."""
    from scipy.stats import t

    rng = np.random.default_rng(3)
    blocks = rng.normal(0.6, 0.1, 10)  # block means of a vote share
    left_out = (blocks.sum() - blocks) / 9
    facts = LabelFacts(LabelKind.CLASSES, chance=0.0, entropy=1.0, null_logme=0.0)
    transferability = combine({"m": {"knn": Score(float(blocks.mean()), blocks=left_out)}}, facts)["m"]
    half = t.ppf(0.95, 9) * blocks.std(ddof=1) / math.sqrt(10)
    assert transferability.high - transferability.value == pytest.approx(half)


@pytest.mark.parametrize("other", ["poor", "fair"])
def test_equal_models_share_their_probabilities(pool, other):
    equal = dict.fromkeys("abcd", pool["good"])
    found = combine({**equal, other: pool[other]}, FACTS, top_k=2)
    assert [found[name].p_best for name in equal] == [found["a"].p_best] * 4
    assert sum(e.p_best for e in found.values()) == pytest.approx(1)
    assert sum(e.p_top_k for e in found.values()) == pytest.approx(2)
    for name in equal:
        assert found[name].p_best == pytest.approx(1 / 4, abs=1e-3)
        assert found[name].p_top_k == pytest.approx(1 / 2, abs=1e-3)
        assert found[name].mean_rank == pytest.approx(2.5, abs=0.05)
    assert found["a"].tied


def test_at_chance_nobody_is_the_best():
    rng = np.random.default_rng(0)
    pool = {name: model(q, rng, np.zeros(10), own=0.1) for name, q in {"a": 0.04, "b": 0.01}.items()}
    for found in combine(pool, FACTS).values():
        assert (found.p_best, found.p_top_k) == (None, None)
        assert found.low < found.value < found.high


def scored(rows, labels, kind, names):
    features = FeatureSet(rows, labels, label_kind=kind)
    return {name: evaluate(features, name, intervals=True) for name in names}


@pytest.mark.parametrize("kind", [LabelKind.REAL, LabelKind.MULTILABEL])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_several_labels_and_real_values_are_on_the_scale_from_frequencies_or_mean_to_perfect(kind, missing):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((400, 2))
    labels = 1e6 + 3e5 * values if kind is LabelKind.REAL else (values > 0.5).astype(float)
    labels[rng.random(labels.shape) < missing] = np.nan
    facts = LabelFacts.of(labels, kind)
    noise = rng.standard_normal((400, 30))
    signal = values @ rng.standard_normal((2, 30)) + 3  # away from the origin, so that cosines see lengths
    rows = {"noise": noise, "fair": signal + 2 * noise, "good": signal + 0.1 * noise}
    scores = {name: scored(x, labels, kind, default_proxies(kind)) for name, x in rows.items()}
    transferability = combine(scores, facts)
    assert set(transferability["good"].members) == set(default_proxies(kind))
    assert transferability["noise"].value == pytest.approx(0, abs=0.03)
    assert 0.1 < transferability["fair"].value < transferability["good"].value <= 1
    assert transferability["good"].value > 0.7
    assert all(0 <= normalized_score <= 1 for e in transferability.values() for normalized_score in e.members.values())
    assert transferability["good"].p_best == pytest.approx(1, abs=1e-3)
    hopeless = combine({"a": scores["noise"], "b": scores["noise"]}, facts)
    assert hopeless["a"].p_best is None


def test_the_prior_is_a_member_of_its_weight(pool):
    """The order is that of (1 - w) normalized score + w s prior; a model of which nothing is known keeps its normalized score."""
    prior = Prior({"good": PriorScore(0.0, "nothing", 0, 0.4), "fair": PriorScore(2.0, "facts", 0, 0.4)}, "facts", 0.4)
    plain, with_prior = combine(pool, FACTS), combine(pool, FACTS, prior=prior)
    for name in ("good", "poor"):
        assert with_prior[name].value == with_prior[name].normalized_score == plain[name].value
    fair = with_prior["fair"]
    mixed = 0.6 * plain["fair"].value + 0.4 * calibration().normalized_score_per_deviation * 2.0
    assert fair.value == pytest.approx(mixed / 0.6)
    assert fair.value == pytest.approx(fair.normalized_score + fair.prior)
    assert fair.high - fair.low == pytest.approx(
        plain["fair"].high - plain["fair"].low
    )  # rows only: no error of its own
    assert fair.fields()["prior"].weight == 0.4


def test_own_results_never_overturn_what_the_target_says_clearly(pool):
    """However often the poor model won elsewhere: what this target separates stays separated."""
    history = [
        Result(f"t{t}", m, "accuracy", v, items=300, run="r")
        for t in range(40)
        for m, v in (("poor", 0.95), ("fair", 0.7), ("good", 0.4))
    ]
    prior = static_prior(dict.fromkeys(pool, ModelFacts()), history)
    assert prior.scores["poor"].effect > 0 > prior.scores["good"].effect
    pool = {
        n: {p: replace(s, blocks=s.value + (s.blocks - s.blocks.mean()) / 5) for p, s in m.items()}
        for n, m in pool.items()
    }
    plain, moved = combine(pool, FACTS), combine(pool, FACTS, prior=prior)
    assert plain["good"].low > plain["poor"].high  # clearly apart
    assert moved["good"].value >= moved["poor"].value
    for name in pool:
        half = (plain[name].high - plain[name].low) / 2
        assert abs(moved[name].prior) <= half + 1e-12
        assert moved[name].high - moved[name].low > 2 * half  # with an error of its own


def test_members_that_a_task_names_make_the_score_and_the_usual_ones_where_they_are_missing(pool):
    facts = LabelFacts.of(LABELS, LabelKind.CLASSES, ("logme", "lda", "gbc"))
    everything = {"logme": Score(facts.null_logme + 20), "lda": Score(1.0), "gbc": Score(0.0), "knn": Score(0.3)}
    nothing = {"logme": Score(facts.null_logme), "lda": Score(facts.chance), "gbc": Score(-facts.overlap)}
    found = combine({"everything": everything, "nothing": {**nothing, "knn": Score(1.0)}}, facts)
    assert found["everything"].members.keys() == {"logme", "lda", "gbc"}
    assert found["everything"].value == pytest.approx(1)
    assert found["nothing"].value == pytest.approx(0, abs=1e-12)
    usual = {name: {"knn": scores["knn"]} for name, scores in pool.items()}
    assert combine(usual, facts)["good"].members.keys() == {"knn"}


@pytest.mark.parametrize(("rows", "classes"), [(2000, 77), (2000, 6), (1200, 100)])
def test_overlap_of_rows_that_do_not_know_the_classes_is_near_zero_on_the_scale(rows, classes):
    rng = np.random.default_rng(0)
    labels = np.arange(rows) % classes
    facts = LabelFacts.of(labels, LabelKind.CLASSES)
    value = evaluate(FeatureSet(rng.standard_normal((rows, 128)).astype(np.float32), labels), "gbc").value
    assert value == pytest.approx(-facts.overlap, rel=0.06)
