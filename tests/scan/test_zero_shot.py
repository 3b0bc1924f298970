"""Zero-shot rows: a baseline from class names beside what is measured, and nothing else moves.

The pair of towers is an exact construction (``support.vision_models``): it knows three colors and their words.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import selector
from selector import sources
from selector.core.contracts import Target
from selector.core.errors import OptionError
from selector.data import load_target
from selector.report.html import render_report
from selector.report.table import render_text
from selector.zoo import ModelSpec
from tests.support.vision_models import COLORS, clip

OTHER = ModelSpec.model_validate({"source": "timm:test_resnet", "name": "other", "weights": "none"})


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return ModelSpec.model_validate({"source": f"vision:{clip(tmp_path_factory.mktemp('clip'))}", "name": "towers"})


def colors(names: tuple[str, ...] = COLORS) -> Target:
    """Images of one color each; the names of their classes, in the order of ``COLORS``."""
    rng, labels = np.random.default_rng(0), np.arange(36) % 3
    images = rng.integers(0, 60, (36, 16, 16, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, label] = 250
    return load_target((images, [names[label] for label in labels]))


def rank(target: Target, zoo: list[Any], folder: Path, **options: Any) -> Any:
    return selector.rank(
        target, zoo=zoo, proxies=["knn"], precision="float32", measure_cost="never", history=False,
        store=folder / "store", **{"zero_shot": True, **options},
    )  # fmt: skip


def test_names_alone_are_right_and_move_no_model(towers, tmp_path):
    ranking = rank(colors(), [OTHER, towers], tmp_path, out=tmp_path / "run")
    (row,) = ranking["towers"].measurements
    assert (row.strategy, row.status, row.steps) == ("zero-shot", "baseline", 0)
    assert row.val["accuracy"] == 1.0
    assert row.test == {}  # read by a run that fine-tunes only
    assert ranking["other"].measurements == ()
    without = rank(colors(), [OTHER, towers], tmp_path, zero_shot=False)
    assert [m.name for m in ranking] == [m.name for m in without]
    assert [m.transferability for m in ranking] == [m.transferability for m in without]
    assert ranking.best.best_measurement() is None
    table = render_text(ranking, width=200)
    assert "zero-shot" in table
    assert "1.000" in next(line for line in table.splitlines() if "towers" in line)
    page = render_report(selector.load_ranking(tmp_path / "run"))
    assert "<td>zero-shot</td>" in page
    assert "a photo of a {}." in page


def test_other_names_are_wrong(towers, tmp_path):
    ranking = rank(colors(("green", "blue", "red")), [towers], tmp_path)
    assert ranking["towers"].measurements[0].val["accuracy"] == 0.0


def test_a_confirmed_run_has_it_on_test_as_well_and_saves_another(towers, tmp_path):
    ranking = rank(
        colors(), [towers], tmp_path, out=tmp_path / "run", confirm=True, strategies=["frozen"], budget="30s"
    )
    rows = {m.strategy: m for m in ranking["towers"].measurements}
    assert (set(rows), rows["zero-shot"].test["accuracy"]) == ({"frozen", "zero-shot"}, 1.0)
    best = ranking.best.best_measurement()
    assert best is not None
    assert best.strategy == "frozen"
    assert selector.load_model(tmp_path / "run").config["strategy"] == "frozen"
    again = selector.confirm(
        selector.load_ranking(tmp_path / "run"), target=colors(), budget="30s", strategies=["frozen"]
    )
    assert "zero-shot" in {m.strategy for m in again["towers"].measurements}


def test_a_tower_that_fails_costs_its_row_only(towers, tmp_path, monkeypatch):
    def broken(spec: ModelSpec, texts: Any) -> Any:
        raise selector.SelectorError("no words")

    monkeypatch.setattr(sources.registry.get("vision"), "zero_shot", broken)
    ranking = rank(colors(), [towers], tmp_path)
    assert (ranking["towers"].status, ranking["towers"].measurements) == ("ok", ())
    assert "no zero-shot row of towers: no words" in ranking.warnings


def test_it_is_refused_where_it_would_do_nothing(towers, tmp_path):
    with pytest.raises(OptionError, match="no selected model has a text tower"):
        rank(colors(), [OTHER], tmp_path)
    with pytest.raises(OptionError, match="no selected model has a text tower"):
        rank(colors(), [towers.model_copy(update={"layer": "encoder.layers.0"})], tmp_path)
    with pytest.raises(OptionError, match="its classes are numbers"):
        rank(colors(("0", "1", "2")), [towers], tmp_path)
    images = np.random.default_rng(0).integers(0, 255, (30, 16, 16, 3), dtype=np.uint8)
    with pytest.raises(OptionError, match="it needs one class per image"):
        rank(load_target((images, np.linspace(0, 1, 30)), task="regression"), [towers], tmp_path)
