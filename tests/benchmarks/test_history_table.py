"""What a history of confirmations does to the order: what is put into it."""

import pytest

from benchmarks.suite.history_table import confirmed
from selector.ranking.combination import Transferability

ALONE = {
    e: Transferability(v, None, None, None, None, False, v - 0.1)
    for e, v in zip("abcd", (0.9, 0.2, 0.7, 0.5), strict=True)
}
COLUMN = {"a": 80.0, "b": 10.0, "c": 90.0, "d": 60.0}


def test_the_leaders_by_score_are_confirmed_with_the_scores_of_that_time() -> None:
    rows = confirmed("s", COLUMN, ALONE, 2, "scores and results")
    assert [(r.model, r.kind, r.value) for r in rows] == [
        ("a", "measured", 0.8), ("c", "measured", 0.9),
        ("a", "predicted", pytest.approx(0.8)), ("c", "predicted", pytest.approx(0.6)),
    ]  # fmt: skip
    assert all(r.kind == "measured" for r in confirmed("s", COLUMN, ALONE, 2, "ranks"))
