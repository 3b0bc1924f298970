"""Published tables: what they hold, and what follows from them."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.reproduce import published, static, tables
from benchmarks.reproduce.checks import BROKEN, EXACT, OTHER, ROUNDING, check_figure, copied_columns, impossible_hscores
from benchmarks.rows import read_rows
from selector.ranking.history import published_results
from selector.ranking.prior import ModelFacts, static_prior


@pytest.mark.parametrize("name", tables.ACCURACY_TABLES)
def test_tables_have_the_shape_of_their_name_and_plausible_values(name):
    table = tables.accuracies(name)
    shape = tuple(int(n) for n in name.rsplit("_", 1)[1].split("x"))
    assert table.accuracy.shape == shape == (len(table.models), len(table.sets))
    assert len(set(table.models)) == shape[0]
    assert np.isfinite(table.accuracy).all()
    assert table.accuracy.min() >= 0
    assert 50 < table.accuracy.max() <= 100


@pytest.mark.parametrize(
    ("name", "expected"), [("sfda_cnn_11x11", 0.837), ("transfergraph_111x13", 0.280), ("shift_image_231x16", 0.300)]
)
def test_mean_rank_elsewhere_reaches_the_quoted_agreement(name, expected):
    """Against scipy and a ranking that is computed set by set."""
    table = tables.accuracies(name)
    ranks = stats.rankdata(table.accuracy, axis=0)
    taus = [
        stats.weightedtau(np.round(np.delete(ranks, j, axis=1).mean(axis=1), 9), table.accuracy[:, j]).statistic
        for j in range(len(table.sets))
    ]
    assert np.mean(taus) == pytest.approx(expected, abs=5e-4)
    assert static.point(table, static.mean_rank_elsewhere(table), "weighted_tau") == pytest.approx(np.mean(taus))


def test_a_set_has_no_part_in_its_own_ranking():
    table = tables.accuracies("sfda_cnn_11x11")
    changed = table.accuracy.copy()
    changed[:, 0] = changed[::-1, 0]
    other = tables.AccuracyTable(table.name, table.title, table.models, table.sets, changed, table.printed)
    for rank in (static.mean_rank_elsewhere, static.mean_accuracy_elsewhere):
        np.testing.assert_allclose(rank(other)[:, 0], rank(table)[:, 0])
        assert not np.allclose(rank(other)[:, 1], rank(table)[:, 1])
    prior = published.with_history(table)
    np.testing.assert_allclose(published.with_history(other)[:, 0], prior[:, 0])


def check(printed, scores=("1.0", "2.0", "3.0", "4.0"), accuracy=("10", "30", "20", "40"), **changes):
    models = "abcd"
    options = {"conventions": ("scipy",), "draws": 100, "seed": 0} | changes
    columns = dict(zip(models, scores, strict=True)), dict(zip(models, accuracy, strict=True))
    return check_figure("here", ("set", "score", "weighted_tau"), printed, *columns, **options).verdict


def test_a_printed_figure_gets_the_verdict_it_deserves():
    x, y = [1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 40.0]
    assert check(round(stats.weightedtau(x, y).statistic, 3)) == EXACT
    assert check(0.123) == BROKEN
    uneven = ("3.0", "2.0", "4.0", "1.0")
    other = stats.weightedtau(y, [float(v) for v in uneven], rank=None).statistic
    assert check(round(other, 3), scores=uneven) == OTHER
    # the scores that were printed as 2.0 and 2.0 may have been 1.96 and 2.04, in either order
    assert check(1.0, scores=("1.0", "2.0", "2.0", "4.0"), accuracy=("10", "20", "30", "40")) == ROUNDING


def test_the_logme_readme_has_rows_that_do_not_follow_and_others_that_do():
    broken = {(c.source, c.dataset) for c in published.printed_figures(20, 0) if c.verdict == BROKEN}
    assert broken == {
        (published.LOGME, "Aircraft"),
        (published.LOGME, "OxfordIIITPets"),
        (published.LOGME, "DTD"),  # the NCE column alone
        (published.SPIDER, "Aircraft"),
    }


def test_the_copied_column_and_the_impossible_scores_are_found():
    readme, spider = tables.scores("logme_scores"), tables.scores("spider_scores")
    assert copied_columns(readme) == [("DTD", "logme", "nce")]
    assert copied_columns(spider) == []
    found = {(source, dataset, model) for source, dataset, _, model, _ in impossible_hscores({"LogME": readme})}
    assert {m for s, d, m in found if (s, d) == ("LogME", "DTD")} == {"Inception V3", "ResNet50", "ResNet101"}
    assert {m for s, _, m in found if s == "Back to the Basics"} == {"vit_small_patch16_224"}


def test_model_spider_prints_the_other_convention():
    for method, printed, other, ours in published.spider_means():
        assert other == pytest.approx(printed, abs=0.006), method
        if method in ("pactran", "gbc", "nleep"):
            assert abs(ours - printed) > 0.03


def test_the_means_of_printed_rows_are_means():
    for by_set in tables.printed_taus("sfda_tau").values():
        assert np.mean([v for s, v in by_set.items() if s != "mean"]) == pytest.approx(by_set["mean"], abs=6e-5)


def test_the_package_carries_what_the_tables_say():
    assert published.PACKED.read_text(encoding="utf-8") == published.packed(), "run published.py --pack"
    rows = {(r.run, r.target_name, r.model): r.value for r in published_results()}
    assert len(rows) == 11 * 11 + 11 * 11 + 10 * 8 + 10 * 11
    assert rows["sfda_cnn_11x11", "pets", "torchvision:resnet34.IMAGENET1K_V1"] == 93.5
    assert rows["logme_10x8", "pets", "torchvision:inception_v3.IMAGENET1K_V1"] == 93.5
    assert rows["tmlr_10x11", "sun397", "torchvision:densenet121.IMAGENET1K_V1"] == 49.728


def test_published_accuracies_rank_torchvision_networks():
    names = [f"torchvision:{m}.IMAGENET1K_V1" for m in tables.accuracies("sfda_cnn_11x11").models]
    pool = dict.fromkeys(names, ModelFacts())
    full = [row for row in published_results() if row.strategy == "full"]
    prior = static_prior(pool, full, target="f00", target_name="CIFAR-100")
    assert (prior.left_out, prior.method) == ({"same target": 11 + 10}, "mean rank")
    best = max(prior.scores, key=lambda m: prior.scores[m].value)
    assert best == "torchvision:resnet152.IMAGENET1K_V1"


@pytest.mark.slow
def test_the_script_writes_what_is_committed(tmp_path):
    assert published.main(["--out", str(tmp_path), "--draws", "200", "--seed", "0"]) == 0
    for name in ("baselines.csv", "printed.csv", "prior_weight.csv"):
        for new, old in zip(read_rows(tmp_path / name), read_rows(published.OUT / name), strict=True):
            for key, value in new.items():
                try:
                    assert float(value) == pytest.approx(float(old[key]), abs=2e-4), (name, new)
                except ValueError:
                    assert value == old[key]
    assert "## Headline figures" in (tmp_path / "published.md").read_text(encoding="utf-8")
