"""Rows that are read off feature maps in a scan: addressed by image and place, several facets, one pass a network."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import selector
from selector import sources, tasks
from selector.core.contracts import LabelKind, Target
from selector.core.table import Facet, RowPlan
from selector.data import load_target
from selector.extract.job import ExtractSettings
from selector.extract.rows import MapRunner, canvas_encoder
from selector.modalities.image import canvas_of
from selector.modalities.pixels.transform import normalize
from selector.scan.extraction import Extraction
from selector.store import FeatureStore
from selector.tasks.classification import Classification
from selector.zoo import ModelSpec

TINY = [
    ModelSpec(name="resnet", source="timm:test_resnet", weights="none"),
    ModelSpec(name="vit", source="timm:test_vit", weights="none"),
]
FAST = {"zoo": TINY, "proxies": ["knn", "logme"], "precision": "float32", "measure_cost": "never", "history": False}
POINTS = 6


class Points(Classification):
    """A facet of classes (left or right half) and one of real values (x, y) at fixed points of each image."""

    name = "points"
    reader = "point"

    def rows(self, target: Target, indices: np.ndarray, limit: int | None = None, seed: int = 0) -> RowPlan:
        place = np.concatenate([places(target.hashes[i]) for i in indices])
        side = (place[:, 0] > 0.5).astype(np.int64)
        facets = {
            "side": Facet(LabelKind.CLASSES, side, ("left", "right")),
            "where": Facet(LabelKind.REAL, place.astype(np.float64)),
        }
        return RowPlan(np.repeat(indices, POINTS), facets, place, self.reader)


def places(content: str) -> np.ndarray:
    return np.random.default_rng(int(content[:8], 16)).uniform(0, 1, (POINTS, 2)).astype(np.float32)


@pytest.fixture
def task() -> Iterator[None]:
    tasks.registry.register("points")(Points())
    yield
    del tasks.registry._objects["points"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose brightness grows from left to right, of several sizes."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(24):
        width = (64, 80)[number % 2]
        ramp = np.linspace(0, 200, width)[None, :, None] + rng.integers(0, 50, (48, width, 3))
        path = root / ("a", "b")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(ramp.astype(np.uint8)).save(path)
    return root


def target_of(folder: Path) -> Target:
    return replace(load_target(folder), task="points")


def test_each_facet_is_scored_and_counts_the_same(folder, tmp_path, task):
    ranking = selector.rank(target_of(folder), **FAST, store=tmp_path)
    assert [m.status for m in ranking] == ["ok", "ok"]
    for model in ranking:
        assert set(model.scores) == {"side:knn", "side:logme", "where:knn", "where:logme"}
        sides = [np.mean([v for k, v in model.members.items() if k.startswith(f)]) for f in ("side", "where")]
        assert model.normalized_score == pytest.approx(np.mean(sides))
        assert model.transferability_low < model.transferability < model.transferability_high


def test_rows_are_the_maps_read_at_their_places(folder, tmp_path, task):
    """Against the network run by hand on the squashed image and a bilinear read at each place."""
    target = target_of(folder)
    selector.rank(target, **FAST, store=tmp_path)
    extraction = Extraction(target, FeatureStore(tmp_path), ExtractSettings(precision="float32", trusted=True))
    entry = extraction.stored(TINY[0])
    assert entry is not None
    encoder = sources.registry.get("timm").load(TINY[0])
    encoder = canvas_encoder(encoder, canvas_of(target.items, max(160, min(encoder.image_preprocess.input_size[1:]))))
    pixels = extraction.inputs(encoder.preprocess).batch(np.array([3]))
    with torch.inference_mode():
        maps = [m for _, m in encoder.maps(normalize(pixels, encoder.image_preprocess, "cpu", torch.float32))]
    plan = target_plan(target, [3])
    grid = torch.from_numpy(plan.place)[None, :, None] * 2 - 1
    wanted = torch.cat(
        [
            torch.nn.functional.grid_sample(m, grid, padding_mode="border", align_corners=False)[0, :, :, 0].T
            for m in maps
        ],
        dim=1,
    )
    found = entry.rows(plan.addresses(target.hashes))
    assert found == pytest.approx(wanted.numpy(), abs=2e-4)


def target_plan(target: Target, items: Sequence[int]) -> RowPlan:
    return tasks.task_of(target).rows(target, np.array(items))


def test_a_second_scan_runs_nothing_and_new_pictures_only_themselves(folder, tmp_path, task, monkeypatch):
    target = target_of(folder)
    fewer = replace(load_target(folder, max_samples=14), task="points")
    first = selector.rank(fewer, **FAST, store=tmp_path)
    assert not any(m.cached for m in first)
    run: list[int] = []
    read = MapRunner.read

    def spied(self: MapRunner, pixels: Any, *args: Any) -> Any:
        run.append(len(pixels))
        return read(self, pixels, *args)

    monkeypatch.setattr(MapRunner, "read", spied)
    again = selector.rank(fewer, **FAST, store=tmp_path)
    assert run == []
    assert all(m.cached for m in again)
    assert [m.transferability for m in again] == [m.transferability for m in first]
    whole = selector.rank(target, **FAST, store=tmp_path)
    known = {h for h, s in zip(fewer.hashes, fewer.splits, strict=True) if s != "test"}
    scored = {h for h, s in zip(target.hashes, target.splits, strict=True) if s != "test"}
    assert sum(run) == len(TINY) * len(scored - known)
    assert all(m.status == "ok" for m in whole)


def test_a_kill_of_a_slow_network_keeps_the_rows_of_finished_batches(folder, tmp_path, task, monkeypatch):
    clock = itertools.count(0, 11)  # every pass takes 11 seconds
    monkeypatch.setattr("selector.extract.encode.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("selector.extract.rows._PIXELS", 6 * 160 * 160)
    read, seen = MapRunner.read, []

    def killed(self: MapRunner, pixels: Any, *args: Any) -> Any:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(pixels))
        return read(self, pixels, *args)

    monkeypatch.setattr(MapRunner, "read", killed)
    with pytest.raises(KeyboardInterrupt):
        selector.rank(target_of(folder), **{**FAST, "zoo": TINY[:1]}, store=tmp_path)
    settings = ExtractSettings(precision="float32", trusted=True)
    extraction = Extraction(target_of(folder), FeatureStore(tmp_path), settings)
    entry = extraction.stored(TINY[0])
    assert entry is not None
    assert entry.stored == POINTS * sum(seen)


def test_layers_are_feature_variants_from_one_pass_and_an_unknown_one_fails_alone(folder, tmp_path, task):
    ranking = selector.rank(target_of(folder), **FAST, store=tmp_path, models="resnet", layers="own,last,nowhere")
    assert {m.name: m.status for m in ranking} == {"resnet": "ok", "resnet@last": "ok", "resnet@nowhere": "failed"}
    assert ranking["resnet"].num_features > ranking["resnet@last"].num_features  # all stages, the last one
    assert "no feature variant 'nowhere' of its maps; known: stages, last, stage1" in ranking["resnet@nowhere"].reason
