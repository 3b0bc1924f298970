"""What the package says of adaptation follows from the committed rows."""

import csv

import pytest

from benchmarks import da_tables
from benchmarks.da import RESULTS
from selector.proxies.target_accuracy import INTERCEPT, MISSES, WEIGHTS


def rows():
    with RESULTS.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_weights_of_target_accuracy_are_those_of_the_rows():
    own = [row for row in rows() if row["strategy"] == "source-only"]
    assert len(own) == 56
    intercept, *weights = da_tables._ridge(own)
    assert intercept == pytest.approx(INTERCEPT, abs=1e-3)
    assert weights == pytest.approx([WEIGHTS[name] for name in da_tables.FITTED], abs=1e-3)


def test_the_tables_are_those_of_the_rows(tmp_path, capsys):
    assert da_tables.main(["--out", str(tmp_path / "tables.csv")]) == 0
    with (tmp_path / "tables.csv").open() as file:
        made = {(r["table"], r["pair"], r["name"]): r["value"] for r in csv.DictReader(file)}
    with da_tables.TABLES.open() as file:
        kept = {(r["table"], r["pair"], r["name"]): r["value"] for r in csv.DictReader(file)}
    assert {key: kept[key] for key in made} == made
    assert float(made["regression", "all", "90 % of what is missed, points"]) == pytest.approx(100 * MISSES, abs=0.5)
    assert "class-ami" in capsys.readouterr().out
