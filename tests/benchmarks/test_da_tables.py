"""What the package says of adaptation follows from the committed rows."""

import numpy as np
import pytest

from benchmarks import da_tables
from benchmarks.da import RESULTS
from benchmarks.rows import read_rows
from selector.proxies.domain_measures import INTERCEPT, MISSES, WEIGHTS


def test_the_weights_of_target_accuracy_are_those_of_the_rows():
    own = [row for row in read_rows(RESULTS) if row["strategy"] == "source-only"]
    assert len(own) > 112
    intercept, *weights = da_tables._ridge(own)
    assert intercept == pytest.approx(INTERCEPT, abs=1e-3)
    assert weights == pytest.approx([WEIGHTS[name] for name in da_tables.FITTED], abs=1e-3)


def test_the_tables_are_those_of_the_rows(tmp_path, capsys):
    assert da_tables.main(["--out", str(tmp_path / "tables.csv")]) == 0
    made, kept = (
        {(r["table"], r["pair"], r["name"]): r["value"] for r in read_rows(path)}
        for path in (tmp_path / "tables.csv", da_tables.TABLES)
    )
    assert {key: kept[key] for key in made} == made
    assert float(made["regression", "all", "90% of what is missed, points"]) == pytest.approx(100 * MISSES, abs=0.5)
    assert "class-ami" in capsys.readouterr().out


def test_regret_of_ways_to_ask(tmp_path, monkeypatch):
    """One candidate is right, three are wrong alike: a label that tells is enough, and the plain draw shares its first
    choice among those that are level."""
    monkeypatch.setattr(da_tables, "TURNS", 3)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 80)
    right, wrong = np.eye(3)[truth], np.eye(3)[(truth + 1) % 3]
    np.savez(
        tmp_path / "x.npz", keys=[f"m {k}" for k in range(4)], probabilities=0.9 * np.stack([wrong, right, wrong, wrong]) + 0.05, labels=truth, merits=np.zeros(4)
    )  # fmt: skip
    curves, stops = da_tables._regret_curves(tmp_path / "x.npz", "m 2")
    assert set(stops) == {"label", "label, ten at a time", da_tables.FROM_CHOICE}
    # the choice without labels was wrong: it is left once another is surely better
    assert (curves[da_tables.FROM_CHOICE][0], curves[da_tables.FROM_CHOICE][-1]) == (100, 0)
    assert stops["label"][0] < 10 == stops["label, ten at a time"][0]
    assert stops["label"][1] == 0
    assert set(curves) == set(da_tables.ASKED)
    assert all(curve.shape == (da_tables.MOST_LABELS,) for curve in curves.values())
    assert curves["random"].max() == 0
    assert da_tables._needed(curves["random"]) == 1
    assert max(curve[5] for name, curve in curves.items() if name != da_tables.FROM_CHOICE) == 0
    assert da_tables._needed(np.array([3.0, 0.5, 1.2, 1.0, 0.0])) == 4
    rows = {(table, name): value for table, _, name, value in da_tables._labels({"x": curves}) if "after" in table}
    assert rows["regret after 25 labels", "label"] == 0
