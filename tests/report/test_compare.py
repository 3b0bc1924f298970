"""Two runs beside each other."""

import json
import math
from dataclasses import replace

import pytest
from scipy.stats import kendalltau

from selector.core.errors import ConfigError
from selector.report.compare import compare
from selector.report.html import write_comparison
from selector.report.ranking import Ranking
from tests.report import samples
from tests.support.commands import fails, ok


def shuffled() -> Ranking:
    """The same target later: the third model won, one is gone, one is new, a setting and a version changed."""
    base = samples.ranking()
    a, b, c, _, failed = base.models
    models = (
        replace(c, rank=1, transferability=0.9, transferability_low=0.88, transferability_high=0.92),
        replace(a, rank=2),
        replace(b, rank=3),
        samples.model(7, rank=4),
        failed,
    )
    return replace(
        base, models=models, settings={**base.settings, "seed": 1}, versions={**base.versions, "torch": "2.9"}
    )


def test_moves_intervals_and_what_differs():
    found = compare(samples.ranking(), shuffled())
    by_index = {m.name.split("_")[1][0]: m for m in found.models}
    assert [by_index[i].moved for i in "0124"] == [-1, -1, 2, None]
    assert [by_index[i].apart for i in "0124"] == [False, False, True, None]
    assert found.agreement == pytest.approx(kendalltau([1, 2, 3], [2, 3, 1]).statistic)
    assert (found.only_first, found.only_second) == (("timm:network_3.in1k",), ("timm:network_7.in1k",))
    assert (found.settings, found.versions) == ((("seed", 0, 1),), (("torch", None, "2.9"),))
    told = " ".join(found.summary())
    assert "Both runs are of the same target: photos, 2000 items" in told
    assert "The first was timm:network_0.in1k and is timm:network_2.in1k." in told
    assert "3 of 4 common models changed their place; the orders agree with a Kendall tau of -0.33." in told
    assert "More than sampling noise: the intervals of timm:network_2.in1k have nothing in common." in told


def test_the_same_run_twice_has_nothing_to_tell():
    found = compare(samples.ranking(), samples.ranking())
    assert [m.moved for m in found.models] == [0, 0, 0, 0, None]
    assert (found.agreement, found.settings, found.only_first) == (1, (), ())
    assert list(found.summary())[1:] == [
        "Both put timm:network_0.in1k first.",
        "0 of 5 common models changed their place; the orders agree with a Kendall tau of 1.00.",
    ]


def test_other_targets_are_said_and_their_transferability_is_not_compared():
    base = shuffled()
    other = replace(base, target={**base.target, "name": "x-rays", "fingerprint": "fedcba"})
    found = compare(samples.ranking(), other)
    assert not found.same_target
    assert next(iter(found.summary())).startswith("The targets differ (photos, 2000 items")
    assert all(m.apart is None for m in found.models)


def test_runs_without_a_common_model_are_refused():
    lonely = samples.ranking((samples.model(9),))
    with pytest.raises(ConfigError, match=r"have no model in common.*the other timm:network_9\.in1k"):
        compare(samples.ranking(), lonely)
    alone = compare(samples.ranking((samples.model(9),)), lonely)
    assert math.isnan(alone.agreement)


def test_the_command_prints_a_table_a_document_and_a_page(tmp_path):
    first = samples.hostile().save(tmp_path / "a").path
    second = samples.hostile().save(tmp_path / "b").path
    shuffled().save(tmp_path / "c")
    page = tmp_path / "pages" / "page.html"
    shown = ok("compare", tmp_path / "c", second, "--html", page).stdout
    assert "changed their place" in shown
    assert "timm:network_2.in1k" in shown
    html = page.read_text()
    assert "<img" not in html
    assert "<script" not in html
    assert "style-src &#39;sha256-" in html
    found = json.loads(ok("compare", first, second, "--json").stdout)
    assert found["same_target"] is True
    assert found["models"][0]["first"]["rank"] == 1
    assert "is not a run: it has no run.json" in fails(2, "compare", first, tmp_path / "nothing")
    assert write_comparison(compare(samples.ranking(), shuffled()), page).read_text().count("<tr>") > 5
