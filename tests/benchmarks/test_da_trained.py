"""Adaptation that trains the network, on a pair made here: rows, and the table of the docs."""

import csv

import numpy as np
import pytest

from benchmarks import da_trained
from benchmarks.da_networks import _PREPROCESS
from selector.data import load_target
from selector.zoo import ModelSpec


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def squares(count, seed, background):
    """A bright square in one of three places."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(background, background + 60, (count, 28, 28, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[9:19, 9 * label : 9 * label + 10] = 230
    return images, labels


def test_rows_and_the_table_that_is_made_of_them(folder, capsys):
    source, classes = squares(60, 0, 0)
    images, hidden = squares(45, 1, 90)
    target = load_target(images, source_domain=(source, np.array(list("abc"))[classes]))
    spec = ModelSpec(source="python:benchmarks.architectures:lenet", name="lenet", preprocess=_PREPROCESS, kwargs={})
    trainer = da_trained.Trainer(target, spec, 16)
    done = [("source-only", 0), ("coral", 0), ("full", 2), ("dann", 2)]
    rows = [trainer.row("dark-bright", strategy, 2, 0, hidden) for strategy, _ in done]
    assert [(row["strategy"], row["steps"]) for row in rows] == done
    assert [row["head"] in ("as trained", "coral") for row in rows] == [False, False, True, True]
    assert rows[2]["head"] == "as trained"  # no look at the target
    assert rows[3]["accuracy"] == rows[3][f"accuracy, {rows[3]['head']}"]
    assert all(row["target_items"] == 45 and row["source_items"] < 60 for row in rows)
    path = folder / "rows.csv"
    fixed = {"pair": "dark-bright", "model": "lenet", "batch_size": 16}
    lonely = {**fixed, **rows[0], "model": "another"}  # one whose other strategies are not there
    da_trained.write_rows(path, [lonely, *({**fixed, **row} for row in rows)], da_trained.FIELDS)
    assert da_trained.main(["--tables", "--out", str(path)]) == 0
    with da_trained.tables_of(path).open() as file:
        lines = {row["strategy"]: row for row in csv.DictReader(file) if row["pair"] == "dark-bright"}
    assert set(lines) == {"coral", "full", "dann"}
    for row in rows[1:]:
        line, gain = lines[row["strategy"]], 100 * (row["accuracy"] - rows[0]["accuracy"])
        assert line["encoders"] == "1"
        assert float(line["gain"]) == pytest.approx(gain, abs=0.01)
        assert float(line["low"]) <= gain <= float(line["high"])
    shown = capsys.readouterr().out
    assert "| dark → bright (1) | " in shown
    assert "{:.1f}".format(100 * (rows[1]["accuracy"] - rows[0]["accuracy"])).replace("-", "−") in shown


@pytest.mark.parametrize("path", [da_trained.RESULTS, da_trained.FURTHER], ids=lambda path: path.stem)
def test_the_committed_table_is_that_of_the_committed_rows(path, tmp_path):
    """Gains are differences of accuracies over the encoders that a pair has in every strategy; intervals come out again."""
    rows = da_trained.read_rows(path)
    for row in rows:
        assert da_trained.hits_of(row).mean() == pytest.approx(float(row["accuracy"]), abs=5e-6)
    accuracy = {(r["pair"], r["model"], r["strategy"]): float(r["accuracy"]) for r in rows}
    with da_trained.tables_of(path).open() as file:
        lines = [row for row in csv.DictReader(file) if row["pair"] != da_trained.MEAN]
    assert lines
    for line in lines:
        pair, strategy = line["pair"], line["strategy"]
        names = {s for p, _, s in accuracy if p == pair}
        models = [m for m in dict.fromkeys(r["model"] for r in rows) if all((pair, m, s) in accuracy for s in names)]
        gains = [accuracy[pair, m, strategy] - accuracy[pair, m, "source-only"] for m in models]
        assert int(line["encoders"]) == len(models), (pair, strategy)
        assert float(line["gain"]) == pytest.approx(100 * np.mean(gains), abs=0.01), (pair, strategy)
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    assert da_trained.tables(copy) == 0
    assert da_trained.tables_of(copy).read_text() == da_trained.tables_of(path).read_text()
