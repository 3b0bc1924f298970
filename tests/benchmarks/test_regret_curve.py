"""The replay of budgets: what is known in time counts, and the committed figure is that of the committed table."""

import numpy as np
import pytest

from benchmarks.rows import in_markdown, read_rows
from benchmarks.suite import best_probability, regret_curve
from benchmarks.suite.best_probability import Dataset
from benchmarks.suite.regret_curve import FIGURE, Cell, Replay, curve, figure, halving, oracle, selector, trained
from benchmarks.suite.suites import RESULTS


@pytest.fixture
def replay() -> Replay:
    """Two models: ``quick`` scores well, ``slow`` trains better; a minute and ten minutes of training."""
    data = Dataset("images", ("quick", "slow"), {}, np.array([0.6, 0.5]), np.full(2, 0.01), np.array([80.0, 90.0]))
    cells = {
        "quick": Cell((70.0, 71.0), (79.0, 80.0), 5.0, 60.0, 5.0, 75.0),
        "slow": Cell((60.0, 61.0), (91.0, 90.0), 20.0, 600.0, 10.0, 85.0),
    }
    return Replay(data, cells, {"quick": 1e6, "slow": 1e7}, 50.0)


def test_only_what_is_measured_in_time_counts(replay: Replay) -> None:
    assert curve(replay, lambda b: trained(replay, ["quick", "slow"])).tolist() == [10, 10, 10, 10, 0, 0]
    assert curve(replay, lambda b: trained(replay, ["slow"])).tolist() == [40, 40, 40, 0, 0, 0]
    assert curve(replay, lambda b: halving(replay)).tolist() == [40, 40, 40, 40, 0, 0]
    assert [oracle(replay, 60.0 * b) for b in (0.05, 0.1, 1, 10)] == [40, 19, 10, 0]


def test_a_run_scans_within_half_of_its_budget(replay: Replay) -> None:
    found = curve(replay, lambda b: selector(replay, b, None, 0.0))
    assert found.tolist() == [19, 10, 10, 10, 0, 0]  # a linear probe, the quick one, both
    assert next(selector(replay, 30.0, None, 0.0)) == (5.0, 70.0, 71.0)  # the other does not fit


def test_the_committed_figure_is_current_and_its_message_holds() -> None:
    rows = read_rows(RESULTS / "regret_curve.csv")
    assert figure(rows) == FIGURE.read_text(encoding="utf-8")
    by_name = {(row["strategy"], int(row["minutes"])): row for row in rows}
    for label in set(regret_curve.NAMES) - {"selector", "as shipped", "without pilot runs", "oracle"}:
        for minutes in (1, 2, 5, 10):
            assert float(by_name[label, minutes]["behind_low"]) > -0.5, (label, minutes)
            assert float(by_name[label, minutes]["behind_selector"]) > 1, (label, minutes)
    assert float(by_name["as shipped", 5]["regret"]) <= 2
    assert float(by_name["selector", 20]["regret"]) <= 1
    assert float(by_name["selector", 20]["worst"]) <= 3


def test_the_page_shows_the_committed_tables() -> None:
    page = regret_curve.PAGE.read_text(encoding="utf-8")
    assert in_markdown(regret_curve.shown(read_rows(RESULTS / "regret_curve.csv"))) in page
    assert in_markdown(best_probability.shown(read_rows(RESULTS / "best_probability.csv"))) in page
