"""The prior: what enters, what it is made of, which way wins, how much it weighs."""

import math

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from selector.core.errors import ConfigError
from selector.ranking.history import Result
from selector.ranking.prior import LARGEST_WEIGHT, WEIGHT_WITHOUT_HISTORY, ModelFacts, pretraining_images, static_prior

MODELS = [f"m{i}" for i in range(8)]
NOTHING = dict.fromkeys(MODELS, ModelFacts())


def row(model, target, value, **changes):
    return Result(**{"target": target, "model": model, "metric": "accuracy", "value": float(value), **changes})


def table(values, facts=None, **changes):
    """Rows of a complete table: values (models, targets)."""
    facts = facts or {}
    return [
        row(m, f"t{j}", values[i][j], facts=facts.get(m, {}), **changes)
        for i, m in enumerate(MODELS[: len(values)])
        for j in range(len(values[i]))
    ]


def quality(noise, targets=6, seed=0):
    """(models, targets): every model has one quality, targets differ by noise and level."""
    rng = np.random.default_rng(seed)
    own, level = np.linspace(0, 1, len(MODELS)), rng.uniform(0, 50, targets)
    return own[:, None] + noise * rng.standard_normal((len(MODELS), targets)) + level


def values(prior):
    return [score.value for score in prior.scores.values()]


def test_without_a_history_facts_order_the_models():
    facts = {
        "tiny": ModelFacts(parameters=2e6, upstream_accuracy=66),
        "mid": ModelFacts(parameters=25e6, upstream_accuracy=76),
        "large": ModelFacts(parameters=60e6, upstream_accuracy=78),
        "untrained": ModelFacts(parameters=25e6, pretraining_images=0),
    }
    prior = static_prior(facts)
    assert (prior.method, prior.weight) == ("facts", pytest.approx(WEIGHT_WITHOUT_HISTORY))
    assert prior.agreement == {}
    by_name = {name: score.value for name, score in prior.scores.items()}
    assert by_name["large"] > by_name["mid"] > by_name["tiny"]
    assert by_name["untrained"] < by_name["mid"]
    assert prior.scores["mid"].origin == "parameters, upstream accuracy"


def test_an_absent_fact_counts_as_average_and_a_model_without_facts_is_exactly_that():
    prior = static_prior(
        {"unknown": ModelFacts(), "small": ModelFacts(parameters=1e6), "big": ModelFacts(parameters=1e9)}
    )
    assert prior.scores["unknown"].value == 0
    assert prior.scores["unknown"].origin == "nothing known: counts as average"
    assert prior.scores["small"].value < 0 < prior.scores["big"].value


def test_absent_upstream_accuracy_is_what_the_parameters_suggest():
    average = ModelFacts(parameters=10**7.7)
    stated = ModelFacts(parameters=10**7.7, upstream_accuracy=75 + 5 * 0.57)
    prior = static_prior({"absent": average, "stated": stated})
    assert prior.scores["absent"].value == pytest.approx(prior.scores["stated"].value)


def test_a_prior_that_knows_nothing_weighs_nothing():
    constant = [row(m, "same", 1.0) for m in MODELS] + [row("m0", "lonely", 1.0)]  # no order in either
    for rows in ([], constant):
        prior = static_prior(NOTHING, rows)
        assert values(prior) == [0] * len(MODELS)
        assert (prior.weight, prior.targets) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"parameters": 0}, r"The 'parameters' of a model must be a number >= 1 or None\. Got 0"),
        ({"upstream_accuracy": math.nan}, r"The 'upstream_accuracy' .* Got nan"),
    ],
)
def test_impossible_facts_are_named(changes, text):
    with pytest.raises(ConfigError, match=text):
        ModelFacts(**changes)


def test_no_model_is_an_error():
    with pytest.raises(ConfigError, match="at least one model"):
        static_prior({})


@pytest.mark.parametrize(
    ("tag", "images"),
    [
        ("a1_in1k", 1.28e6),
        ("augreg_in21k_ft_in1k", 1.42e7),
        ("lvd142m", 1.42e8),
        ("", None),
        ("notin1kreally", None),
        ("weakly supervised (SWAG), Instagram-3.6B; linear head on ImageNet-1k", 3.6e9),
        ("supervised, ImageNet-22k and -1k", 1.42e7),
        ("none, a control that every useful model should beat", 0.0),
        ("noisy student, JFT-300M and ImageNet-1k", 3e8),
    ],
)
def test_pretraining_images_of_a_tag(tag, images):
    assert pretraining_images(tag) == images


def test_rows_of_the_same_target_do_not_enter():
    others = table(quality(0.05))
    own = [row(m, "mine", -i, run="earlier") for i, m in enumerate(MODELS)]  # the opposite order
    with_own = static_prior(NOTHING, [*others, *own], target="mine")
    assert values(with_own) == values(static_prior(NOTHING, others, target="mine"))
    assert with_own.left_out == {"same target": len(MODELS)}
    assert values(static_prior(NOTHING, [*others, *own], target="another")) != values(with_own)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"kind": "predicted"}, "predicted, not measured"), ({"metric": "log_loss"}, "lower is better")],
)
def test_predicted_figures_and_losses_do_not_enter(changes, reason):
    measured = table(quality(0.05))
    other = [row(m, "t9", -i, **changes) for i, m in enumerate(MODELS)]
    prior = static_prior(NOTHING, [*measured, *other])
    assert values(prior) == values(static_prior(NOTHING, measured))
    assert prior.left_out == {reason: len(MODELS)}
    assert static_prior(NOTHING, other * 3).targets == 0


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("oxford_flowers-102", 8), ("flowers", 8), ("Flowers (train).parquet", 8), ("flow", 0), ("", 0), ("my photos", 0)],
)
def test_a_target_that_may_mean_a_published_data_set_does_not_see_it(name, left_out):
    others = table(quality(0.05), origin="published")
    rows = [row(m, "published:flowers", i, origin="published", target_name="flowers") for i, m in enumerate(MODELS)]
    found = static_prior(NOTHING, [*others, *rows], target="f00", target_name=name).left_out
    assert found == ({"same target": left_out} if left_out else {})
    local = [row(m, "an older copy", i, target_name="flowers") for i, m in enumerate(MODELS)]
    assert static_prior(NOTHING, local, target="f00", target_name=name).left_out == {}


def test_two_published_tables_of_a_data_set_are_not_averaged():
    """One in per cent, one as a fraction: the unit of a table must not matter."""
    other = [row(m, "e", i, origin="published", run="a") for i, m in enumerate(MODELS)]

    def tables(unit):
        first = [row(m, "d", 50 + i, origin="published", run="a") for i, m in enumerate(MODELS[:5])]
        second = [row(m, "d", unit * (40 + i), origin="published", run="b") for i, m in enumerate(MODELS[3:])]
        return static_prior(NOTHING, [*first, *second, *other])

    assert values(tables(0.01)) == pytest.approx(values(tables(1.0)))


def test_a_complete_history_orders_by_mean_rank():
    accuracy = quality(0.4, seed=3)
    prior = static_prior(NOTHING, table(accuracy))
    assert prior.method == "mean rank"
    expected = rankdata(accuracy, axis=0).mean(axis=1)
    assert spearmanr(values(prior), expected).statistic == pytest.approx(1)
    assert prior.scores["m0"].origin == "mean rank on 6 earlier targets"


def test_strong_models_measured_among_themselves_do_not_look_weak():
    """m6 is the last of its own pool, yet better than everyone in the other."""
    weak = [row(f"m{i}", t, i) for t in "abcdefghij" for i in (0, 1, 2, 7)]
    strong = [row(f"m{i}", t, i) for t in "klmnopqrst" for i in (6, 7, 8)]
    prior = static_prior({f"m{i}": ModelFacts() for i in range(9)}, [*weak, *strong])
    assert prior.method == "mean rank"
    assert prior.scores["m6"].value > prior.scores["m1"].value


def test_ridge_wins_where_a_fact_explains_the_order_and_models_do_not_return():
    rng = np.random.default_rng(0)
    rows, known = [], {}
    for t in range(8):
        for i in range(6):
            name = f"p{t}-{i}"  # every target has models of its own: their own ranks say nothing
            known[name] = {"input_size": float(rng.integers(96, 448))}
            rows.append(row(name, f"t{t}", -known[name]["input_size"], facts=known[name]))
    pool = {"small": ModelFacts(input_size=96), "large": ModelFacts(input_size=448)}
    prior = static_prior(pool, rows)
    assert prior.method == "ridge"
    assert prior.coefficients["input_size"] < 0
    assert prior.scores["small"].value > prior.scores["large"].value


def test_ridge_is_least_squares_with_a_level_a_target_around_the_fixed_weights():
    """Against numpy's lstsq: one column a target for its level, the penalty as rows of its own."""
    rng = np.random.default_rng(0)
    rows, facts, levels, ranks = [], [], [], []
    for t in range(8):
        sizes = 10.0 ** rng.uniform(6 + t / 8, 7 + t / 8, 6)  # later targets saw larger models
        for i, size in enumerate(sizes):
            rows.append(row(f"p{t}-{i}", f"t{t}", -size, facts={"parameters": size}))
            z = (math.log10(size) - 7.2) / 0.5
            facts.append([z, 0.57 * z, 0, 0, 0])
            levels.append(np.eye(8)[t])
        ranks += list(rankdata(-sizes) / 7 - 0.5)
    prior = static_prior({"x": ModelFacts(parameters=1e7)}, rows)
    assert prior.method == "ridge"
    penalty = math.sqrt(20) * np.eye(5)
    design = np.block([[np.array(facts), np.array(levels)], [penalty, np.zeros((5, 8))]])
    expected, *_ = np.linalg.lstsq(design, np.concatenate([ranks, penalty @ [0.1, 0.2, 0.1, 0, 0]]))
    assert list(prior.coefficients.values()) == pytest.approx(expected[:5])


def test_all_rows_of_a_target_are_left_out_together():
    """One target measured twice, another in the opposite order: neither foretells the other."""
    twice = [row(m, "t0", i, strategy=how) for how in ("full", "frozen") for i, m in enumerate(MODELS)]
    opposite = [row(m, "t1", -i, strategy="full") for i, m in enumerate(MODELS)]
    assert static_prior(NOTHING, [*twice, *opposite]).agreement["mean rank"] == pytest.approx(-1)


def test_a_wrong_formula_loses_to_what_was_measured():
    facts = {m: {"parameters": 10.0 ** (9 - i / 2)} for i, m in enumerate(MODELS)}  # larger is worse here
    pool = {m: ModelFacts(**f) for m, f in facts.items()}
    prior = static_prior(pool, table(quality(0.02), facts))
    assert prior.agreement["facts"] < 0
    assert prior.method != "facts"
    assert prior.scores["m7"].value > prior.scores["m0"].value


def test_one_earlier_target_cannot_be_tried_and_facts_remain():
    prior = static_prior(NOTHING | {"m0": ModelFacts(parameters=1e9)}, table(quality(0.05, targets=1)))
    assert (prior.method, prior.agreement) == ("facts", {})
    assert prior.weight == pytest.approx(WEIGHT_WITHOUT_HISTORY)


@pytest.mark.parametrize("written", [True, False])
def test_a_model_that_joins_the_pool_reorders_nothing(written):
    facts = {m: {"parameters": 10.0 ** (6 + i / 3)} for i, m in enumerate(MODELS)}
    rows = table(quality(0.5), facts if written else {})
    pool = {m: ModelFacts(parameters=5e6 + i) for i, m in enumerate(MODELS[:4])}
    before = static_prior(pool, rows)
    joined = {**pool, "m6": ModelFacts(parameters=1e10), "new": ModelFacts(parameters=1e4)}
    after = static_prior(joined, rows)
    assert [after.scores[m].value for m in pool] == pytest.approx(values(before), abs=1e-12)
    assert [after.scores[m].weight for m in pool] == [score.weight for score in before.scores.values()]
    assert after.agreement == before.agreement


def test_neither_the_level_nor_the_order_of_the_rows_matters():
    accuracy = quality(0.3)
    rows = table(accuracy)
    moved = table(accuracy * 3 + 7)
    assert values(static_prior(NOTHING, moved)) == pytest.approx(values(static_prior(NOTHING, rows)))
    assert values(static_prior(NOTHING, rows[::-1])) == pytest.approx(values(static_prior(NOTHING, rows)))


def test_the_weight_grows_with_the_targets_that_confirm_the_prior():
    weights = [static_prior(NOTHING, table(quality(0.1, targets=n))).weight for n in (2, 4, 8, 16)]
    assert weights == sorted(weights)
    assert WEIGHT_WITHOUT_HISTORY < weights[0] < LARGEST_WEIGHT
    assert weights[-1] == LARGEST_WEIGHT


def test_the_weight_falls_where_the_prior_fails():
    noise = np.random.default_rng(1).standard_normal((len(MODELS), 20))
    prior = static_prior(NOTHING, table(noise))
    assert max(prior.agreement.values()) < 0.3
    assert prior.weight < WEIGHT_WITHOUT_HISTORY


def test_published_tables_vouch_for_models_that_were_measured_not_for_facts():
    """The fixed weights of the facts were fitted on them."""
    facts = {m: {"parameters": 10.0 ** (6 + i / 3)} for i, m in enumerate(MODELS)}
    pool = {"m7": ModelFacts(parameters=1e9), "new": ModelFacts(parameters=1e9), "blank": ModelFacts()}
    published = static_prior(pool, table(quality(0.02, targets=12), facts, origin="published"))
    assert published.scores["new"].weight == pytest.approx(WEIGHT_WITHOUT_HISTORY)
    assert published.scores["blank"].weight == 0
    measured = static_prior(pool, table(quality(0.02, targets=12)))  # of models whose facts nobody knows
    assert (measured.method, measured.scores["m7"].weight) == ("mean rank", LARGEST_WEIGHT)
    assert 0 < measured.scores["new"].weight == measured.facts_weight < WEIGHT_WITHOUT_HISTORY


def test_having_been_measured_once_does_not_make_the_facts_of_a_model_weigh_more():
    """Twins, one of them measured beside its like: what they add to a normalized score is nearly the same."""
    published = table(quality(0.02, targets=12), origin="published")  # facts unknown: the mean rank wins
    small = {"parameters": 1e6}
    own = [row(m, "own", i, facts=small) for i, m in enumerate(("seen", "beside it"))]
    pool = dict.fromkeys(("seen", "beside it", "twin"), ModelFacts(**small))
    prior = static_prior(pool, [*published, *own])
    assert prior.method == "mean rank"
    adds = {m: s.weight / (1 - s.weight) * s.value for m, s in prior.scores.items()}
    assert adds["seen"] < adds["beside it"]  # as they were measured
    assert (adds["seen"] + adds["beside it"]) / 2 == pytest.approx(adds["twin"])


def own(values, target, items, **changes):
    return [row(m, target, v, items=items, run="r", **changes) for m, v in zip(MODELS, values, strict=False)]


def test_an_inconclusive_target_says_nothing_and_a_decisive_one_nearly_all():
    """Six images, 6/6 against 5/6, are no result; 80 against 60% on 300 images are one."""
    toy = static_prior(NOTHING, [r for t in "abcd" for r in own([1.0, 5 / 6, 5 / 6], t, 6)])
    assert toy.targets == 0
    assert values(toy) == [0.0] * len(MODELS)
    by_items = [
        static_prior(NOTHING, [r for t in "abcd" for r in own([0.8, 0.6, 0.5], t, n)]).scores["m0"].value
        for n in (30, 60, 300, 0)
    ]
    assert 0 < by_items[0] < by_items[1] < by_items[2]
    assert by_items[2] == pytest.approx(by_items[3], rel=0.05)


def test_own_results_count_from_three_unlike_targets_on():
    clear = [0.9, 0.5, 0.3]
    two = [*own(clear, "a", 300), *own(clear, "b", 300)]
    alike = [r for t in "abc" for r in own(clear, t, 300, target_name="flowers")]  # three samples of one dataset
    toys = [*two, *own([1.0, 5 / 6, 5 / 6], "c", 6)]
    for history in (two, alike, toys):
        prior = static_prior(NOTHING, history, fewest_own=3)
        assert values(prior) == [0.0] * len(MODELS)
        assert prior.left_out == {"own results: fewer than 3 unlike, decisive targets": len(history)}
    assert static_prior(NOTHING, [*two, *own(clear, "c", 300)], fewest_own=3).scores["m0"].value > 0


def test_the_error_of_own_results_shrinks_with_the_targets():
    errors = [
        static_prior(NOTHING, [r for t in range(n) for r in own([0.9, 0.7, 0.5], f"t{t}", 300)]).scores["m0"].deviation
        for n in (2, 4, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < errors[0] < 1
    assert static_prior({"m0": ModelFacts(parameters=1e7)}).scores["m0"].deviation == 0


def confirmed(target, measured, scores, items=300):
    """What a confirmation of a few models adds: the accuracies, and the scores that they had."""
    names = list(measured)
    rows = [row(m, target, measured[m], items=items, run="r", strategy="full") for m in names]
    return [
        *rows,
        *(row(m, target, scores[m], kind="predicted", metric="normalized_score:knn", run="r") for m in names),
    ]


def test_leaders_that_were_confirmed_do_not_count_as_average_models():
    """Only the best by score are confirmed; their ranks among each other say nothing of the others."""
    facts = {m: ModelFacts(parameters=10.0 ** (6 + i / 3)) for i, m in enumerate(MODELS)}
    scores = dict(zip(MODELS[5:], (0.7, 0.6, 0.5), strict=True))
    history = [r for t in "abcd" for r in confirmed(t, dict(zip(MODELS[5:], (0.9, 0.8, 0.7), strict=True)), scores)]
    prior = static_prior(facts, history, fewest_own=3)
    alone = static_prior(facts)
    assert [s.value for s in prior.scores.values()] == values(alone)  # they ended in the order of their scores
    assert [s.trained for s in prior.scores.values()] == [0.0] * len(MODELS)
    assert prior.scores["m5"].origin == "parameters; trained as well as its score says on 4 earlier targets"
    assert (prior.targets, prior.rows, prior.left_out) == (4, 12, {})


def test_trained_is_the_mean_place_above_that_of_the_score():
    """Against the formula by hand: three models in four targets, the last by score ends first each time."""
    history = [
        r for t in "abcd" for r in confirmed(t, {"m0": 0.9, "m1": 0.6, "m2": 0.3}, {"m0": 0.1, "m1": 0.2, "m2": 0.3})
    ]
    history = [r if r.kind == "predicted" else Result(**{**vars(r), "items": 0}) for r in history]  # no noise
    prior = static_prior(NOTHING, history)
    deviation = 1 / math.sqrt(12)
    mean = {"m0": 4 * 0.5 / (4 + 1) / deviation, "m1": 0.0, "m2": -4 * 0.5 / (4 + 1) / deviation}
    weight = prior.trained_weight
    assert prior.agreement["beyond scores"] == pytest.approx(1)
    assert weight == LARGEST_WEIGHT
    for model, value in mean.items():
        assert prior.scores[model].trained == pytest.approx(weight / (1 - weight) * value)
        assert prior.scores[model].trained_error == pytest.approx(weight / (1 - weight) / math.sqrt(5))
    assert prior.scores["m7"].trained == 0.0
    assert prior.scores["m0"].origin.endswith("; trained better than its score says on 4 earlier targets")


def test_what_trained_otherwise_each_time_weighs_little():
    def history(measured, scores):
        four = (dict(zip(MODELS[:4], v, strict=True)) for v in (measured, scores))
        return [next(four), next(four)]

    rng = np.random.default_rng(0)
    chance = [r for t in range(12) for r in confirmed(f"t{t}", *history(rng.uniform(0, 1, 4), rng.uniform(0, 1, 4)))]
    always = [r for t in range(12) for r in confirmed(f"t{t}", *history((0.9, 0.7, 0.5, 0.3), (0.1, 0.2, 0.3, 0.4)))]
    assert static_prior(NOTHING, chance).trained_weight < WEIGHT_WITHOUT_HISTORY
    assert static_prior(NOTHING, always).trained_weight == LARGEST_WEIGHT


def test_scores_over_other_members_are_not_compared():
    history = [
        r for t in "abc" for r in confirmed(t, {"m0": 0.9, "m1": 0.6, "m2": 0.3}, {"m0": 0.1, "m1": 0.2, "m2": 0.3})
    ]
    other = [row("m3", t, 0.01, kind="predicted", metric="normalized_score:knn+logme", run="r") for t in "abc"]
    third = [row("m3", t, 0.99, items=300, run="r", strategy="full") for t in "abc"]
    prior = static_prior(NOTHING, [*history, *other, *third])
    assert prior.scores["m3"].trained == 0.0
    assert prior.scores["m0"].trained > 0
