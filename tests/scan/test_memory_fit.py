"""Whether models fit: the arithmetic, what a dry run says of it, and the table."""

import csv
from pathlib import Path

import pytest

import selector
import selector.sources
from selector.core.costs import Footprint
from selector.report.table import render_text
from selector.scan import memory_fit
from selector.scan.memory_fit import LIBRARIES, SCANNED, TRAINED, Machine, scanning, training
from selector.zoo import ModelSpec
from tests.support.commands import ok

GB = 1 << 30
SHAPE = Footprint(weights=GB, item=GB, step=4 * GB, area=224 * 224)
TINY = [ModelSpec(name="tiny", source="timm:test_resnet", weights="none")]


def test_a_batch_is_halved_until_it_fits() -> None:
    exact = round(LIBRARIES + SCANNED * GB + 4 * GB)
    assert scanning(SHAPE, Machine(exact), 16) == memory_fit.Need(exact, 4)
    assert scanning(SHAPE, Machine(exact - 1), 16).batch == 2
    short = scanning(SHAPE, Machine(GB), 16)
    assert (short.batch, short.fits) == (1, False)


def test_a_training_that_is_too_large_is_offered_a_smaller_size() -> None:
    native = round(LIBRARIES + TRAINED * GB + 4 * GB)
    assert training(SHAPE, Machine(native), 32) == memory_fit.Need(native, 1)
    smaller = training(SHAPE, Machine(native - 1), 32)
    assert smaller.fits
    assert smaller.size == 0.72
    assert not training(SHAPE, Machine(native - 1), 32, resizable=False).fits
    assert not training(SHAPE, Machine(GB), 32).fits
    assert training(SHAPE, Machine(100 * GB), 32, most=0.58).size == 0.58  # what the budget leaves


def test_a_gpu_needs_room_on_both_sides() -> None:
    weights = scanning(SHAPE, Machine(100 * GB, 3 * GB), 128)
    assert (weights.batch, weights.fits) == (2, True)
    assert not scanning(SHAPE, Machine(GB, 100 * GB), 128).fits  # weights pass through the memory


def dry(photos: Path, tmp_path: Path, *words: str) -> str:
    zoo = tmp_path / "zoo.yaml"
    zoo.write_text("version: 1\nmodels:\n- {name: tiny, source: 'timm:test_resnet', weights: none}\n")
    return ok("scan", photos, "--zoo", zoo, "--store", tmp_path / "store", "--dry-run", *words, COLUMNS="200").stdout


def test_a_dry_run_says_what_fits(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_fit, "free_memory", lambda: 100 * GB)
    shown = dry(photos, tmp_path)
    row = next(line for line in shown.splitlines() if line.startswith(" tiny"))
    assert "(16)" in row
    assert "(8, 160 px)" in row
    assert row.endswith("yes")
    assert "are free" in shown
    monkeypatch.setattr(memory_fit, "free_memory", lambda: 1)
    assert "too little memory to scan it; too little memory to train it" in dry(photos, tmp_path)


def test_a_plan_tells_batch_side_and_epochs(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"zoo": TINY, "store": tmp_path / "store", "device": "cpu", "confirm": True}
    (row,) = selector.plan(photos, **asked, resolution=80, max_steps=3).models
    assert (row["training_side"], row["training_epochs"], row["fits"]) == (80, None, "")
    (full,) = selector.plan(photos, **asked, max_steps=3).models
    assert full["training_bytes"] - row["training_bytes"] == pytest.approx(
        0.75 * (full["training_bytes"] - fixed(full)), rel=0.01
    )
    (limited,) = selector.plan(
        photos, **asked, max_steps=3, max_memory=(full["training_bytes"] - LIBRARIES) // 2
    ).models
    assert limited["training_batch"] < full["training_batch"] == 8
    (short,) = selector.plan(photos, **asked, budget=1).models
    assert short["fits"] == "too short a budget to train it"
    (scanned,) = selector.plan(photos, **{**asked, "confirm": False}).models
    assert scanned["training_bytes"] is None
    monkeypatch.setattr("selector.sources.timm.TimmSource.sketch", None)  # remembered: no network is looked at again
    assert selector.plan(photos, **asked, max_steps=3).models[0]["training_bytes"] == full["training_bytes"]


def fixed(row: dict[str, float]) -> float:
    shape = selector.sources.registry.get("timm").sketch(TINY[0])
    return LIBRARIES + TRAINED * sum(
        t.numel() * t.element_size() for t in (*shape.module.parameters(), *shape.module.buffers())
    )


def test_the_table_has_a_column_for_training(photos: Path, tmp_path: Path) -> None:
    asked = {"zoo": TINY, "store": tmp_path / "store", "proxies": "knn", "precision": "float32", "backend": "eager"}
    selector.plan(photos, zoo=TINY, store=tmp_path / "store", confirm=True, max_steps=1)
    ranking = selector.rank(photos, **asked, confirm=True, strategies="frozen,full", max_steps=1, pilot_cost=0)
    assert ranking["tiny"].fit["fits"] == ""
    assert "memory" in render_text(ranking, width=400)
    assert "to train" in render_text(ranking, width=400)


def test_ten_measured_models_are_within_a_factor_of_one_and_a_half() -> None:
    file = Path(__file__).parents[2] / "benchmarks" / "results" / "memory_fit.csv"
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    for what in ("scan", "training"):
        ratios = {row["model"]: float(row["ratio"]) for row in rows if row["what"] == what}
        assert len(ratios) >= 3
        assert all(1 / 1.5 <= ratio <= 1.5 for ratio in ratios.values())
