"""Row readers against brute force, and the stream of rows."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from selector.core.errors import SourceError
from selector.extract.backend_choice import Agreement
from selector.extract.inputs import ready
from selector.extract.row_readers import level_of, registry
from selector.extract.rows import JUDGED_ON, MapRunner, canvas_encoder, extract_rows, open_map_runner
from selector.modalities.image import canvas_of
from selector.modalities.pixels.maps import read_points
from selector.sources._maps import MapTaps
from tests.sources.samples import load, spec

RNG = np.random.default_rng(0)


def bilinear(cells: np.ndarray, x: float, y: float) -> np.ndarray:
    """Value of (C, h, w) at a relative place, cell values at the middle of the cells, edges repeated."""
    _, height, width = cells.shape
    across, down = x * width - 0.5, y * height - 0.5
    left, top = math.floor(across), math.floor(down)
    total = np.zeros(len(cells))
    for row, a in ((top, 1 - (down - top)), (top + 1, down - top)):
        for column, b in ((left, 1 - (across - left)), (left + 1, across - left)):
            total += a * b * cells[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
    return total


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 2, 1, 4), (1, 4, 9, 3)])
def test_points_are_read_bilinearly(shape):
    found = RNG.normal(size=shape).astype(np.float32)
    item = np.sort(RNG.integers(0, shape[0], 40))
    place = RNG.random((40, 2)).astype(np.float32)
    place[:4] = [[0, 0], [1, 1], [0.5, 0], [0, 1]]
    place[4] = [(2 + 0.5) / shape[3] if shape[3] > 2 else 0.5, 0.5 / shape[2]]  # a cell's own middle
    maps = [(4, torch.from_numpy(found)), (8, torch.from_numpy(found[:, :1, ::2]))]
    rows = registry.get("point").read(maps, torch.from_numpy(item), torch.from_numpy(place), "stage1").numpy()
    expected = np.stack([bilinear(found[i], *p) for i, p in zip(item, place.tolist(), strict=True)])
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    both = registry.get("point").read(maps, torch.from_numpy(item), torch.from_numpy(place), "stages").numpy()
    last = registry.get("point").read(maps, torch.from_numpy(item), torch.from_numpy(place), "last").numpy()
    np.testing.assert_array_equal(both, np.concatenate([rows, last], 1))


def test_points_follow_the_conventions_of_grid_sample():
    found = torch.from_numpy(RNG.normal(size=(2, 5, 6, 9)).astype(np.float32))
    place = torch.from_numpy(RNG.random((2, 20, 2)).astype(np.float32))
    item = torch.arange(2).repeat_interleave(20)
    expected = torch.nn.functional.grid_sample(
        found, 2 * place[:, None] - 1, mode="bilinear", padding_mode="border", align_corners=False
    )
    for maps in (found, found.contiguous(memory_format=torch.channels_last)):
        rows = read_points(maps, item, place.reshape(-1, 2))
        torch.testing.assert_close(rows, expected[:, :, 0].permute(0, 2, 1).reshape(40, 5), rtol=1e-4, atol=1e-5)


def box_mean(cells: np.ndarray, box: np.ndarray) -> np.ndarray:
    """RoI-Align 7 x 7 with two samples a side, by its definition: means of bilinear values."""
    x0, y0, x1, y1 = box.tolist()
    steps = (np.arange(14) + 0.5) / 14
    values = [bilinear(cells, x0 + (x1 - x0) * a, y0 + (y1 - y0) * b) for a in steps for b in steps]
    return np.mean(values, 0)


def boxes(count: int) -> np.ndarray:
    first, second = RNG.random((2, count, 2)) * 0.45, RNG.random((2, count, 2)) * 0.5
    return np.concatenate([first[0], first[0] + 0.05 + second[1]], 1).astype(np.float32)


def test_boxes_are_read_from_the_map_that_fits_them():
    sizes = [(4, 2), (8, 3), (16, 2), (32, 4)]
    maps = [RNG.normal(size=(2, c, 224 // s, 416 // s)).astype(np.float32) for s, c in sizes]
    item, place = np.sort(RNG.integers(0, 2, 30)), boxes(30)
    place[0], place[1] = [0, 0, 1, 1], [0.5, 0.5, 0.52, 0.53]
    given = [(s, torch.from_numpy(m)) for (s, _), m in zip(sizes, maps, strict=True)]
    where = torch.from_numpy(item), torch.from_numpy(place)
    rows = registry.get("box").read(given, *where, "fitting").numpy()
    begins = np.cumsum([0, 2, 3, 2, 4])
    levels = set()
    for row, i, box in zip(rows, item, place, strict=True):
        side = math.sqrt((box[2] - box[0]) * 416 * (box[3] - box[1]) * 224)
        level = min(max(math.floor(4 + math.log2(side / 224)), 2), 5) - 2
        levels.add(level)
        expected = np.zeros(11)
        expected[begins[level] : begins[level + 1]] = box_mean(maps[level][i], box)
        np.testing.assert_allclose(row, expected, atol=2e-5)
    assert levels == {0, 1, 2}
    stages = registry.get("box").read(given, *where, "stages").numpy()
    single = registry.get("box").read(given[-1:], *where, "last").numpy()
    np.testing.assert_array_equal(stages[:, 7:], single)
    np.testing.assert_allclose(single[3], box_mean(maps[-1][item[3]], place[3]), atol=2e-5)


def test_levels_of_boxes():
    square = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.49, 0.49], [0.0, 0.0, 0.01, 0.01]])
    assert level_of(square, (224, 224), (4, 8, 16, 32)).tolist() == [2, 0, 0]
    assert level_of(square, (448, 448), (4, 8, 16, 32)).tolist() == [3, 1, 0]


class Photos:
    """Decoded images in memory that count what is asked of them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.asked = rows, 0

    def batch(self, indices: Any) -> np.ndarray:
        self.asked += len(indices)
        return self.rows[np.asarray(indices)]


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit"])
def test_rows_come_in_the_order_of_the_plan_whatever_the_batches(name):
    encoder = canvas_encoder(load(spec(name)), (96, 130))
    assert encoder.preprocess.input_size == (3, 96, 128)
    photos = Photos(RNG.integers(0, 256, (7, 96, 128, 3)).astype(np.uint8))
    items = np.repeat([0, 2, 3, 6], [3, 1, 4, 2])
    places = RNG.random((10, 2)).astype(np.float32)
    runner = MapRunner(encoder, "cpu", "float32", batch_size=3)
    variants = ["stages", "last", "stage1"]
    chunks = list(extract_rows(runner, photos, items, places, "point", variants))
    assert photos.asked == 4  # images without a row are not looked at
    np.testing.assert_array_equal(np.concatenate([c.rows for c in chunks]), np.arange(10))
    found = {v: np.concatenate([c.features[v] for c in chunks]) for v in variants}
    with torch.no_grad():
        maps = [m.numpy() for _, m in encoder.maps(ready(photos.rows, encoder.preprocess))]
    expected = [np.stack([bilinear(m[i], *p) for i, p in zip(items, places.tolist(), strict=True)]) for m in maps]
    for rows, wanted in ((found["stage1"], expected[0]), (found["last"], expected[-1])):
        np.testing.assert_allclose(rows, wanted, atol=1e-4 * np.abs(wanted).max())
    assert found["stages"].shape == (10, sum(m.shape[1] for m in maps))
    (whole,) = extract_rows(MapRunner(encoder, "cpu", "float32", batch_size=9), photos, items, places, "point")
    np.testing.assert_allclose(whole.features["stages"], found["stages"], rtol=1e-4, atol=1e-5)


def test_memory_that_runs_out_halves_the_batch(monkeypatch):
    encoder = canvas_encoder(load(spec("timm:test_resnet")), (64, 64))
    photos = Photos(RNG.integers(0, 256, (6, 64, 64, 3)).astype(np.uint8))
    runner = MapRunner(encoder, "cpu", "float32", batch_size=4)
    read, sizes = runner._read, []

    def scarce(pixels: Any, *rest: Any) -> Any:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return read(pixels, *rest)

    items, places = np.arange(6), np.full((6, 2), 0.3, np.float32)
    (expected,) = extract_rows(MapRunner(encoder, "cpu", "float32", batch_size=6), photos, items, places, "point")
    monkeypatch.setattr(runner, "_read", scarce)
    chunks = list(extract_rows(runner, photos, items, places, "point"))
    assert sizes == [4, 2, 2, 2]
    assert runner.facts["batch_size"] == 2
    rows = np.concatenate([c.features["stages"] for c in chunks])
    np.testing.assert_allclose(rows, expected.features["stages"], rtol=1e-4, atol=1e-5)


def test_a_variant_that_the_maps_have_not_is_named():
    encoder = canvas_encoder(load(spec("timm:test_resnet")), (64, 64))
    photos, items = Photos(np.zeros((1, 64, 64, 3), np.uint8)), np.zeros(1, int)
    runner = open_map_runner(encoder, device="cpu")
    with pytest.raises(SourceError, match="'point' has no variant 'stage9'; known: stages, last, stage1"):
        next(extract_rows(runner, photos, items, np.zeros((1, 2)), "point", ["stage9"]))


def test_a_canvas_is_tried_once(monkeypatch):
    encoder, passes, original = load(spec("timm:test_vit")), [], MapTaps.read
    _ = encoder.taps
    monkeypatch.setattr(MapTaps, "read", lambda *args: passes.append(tuple(args[2].shape[2:])) or original(*args))
    sizes = [canvas_encoder(encoder, size).preprocess.input_size[1:] for size in ((96, 128), (96, 128), (128, 96))]
    assert sizes == [(96, 128), (96, 128), (128, 96)]
    assert passes == [(96, 128), (128, 96)]


def test_the_canvas_has_the_median_aspect_in_multiples_of_32():
    sizes = [(100, 200), (60, 90), (100, 310)]
    pictures = [np.zeros((h, w, 3), np.uint8) for h, w in sizes]
    assert canvas_of(pictures, 224) == (224, 448)
    assert canvas_of([p.transpose(1, 0, 2) for p in pictures], 224) == (448, 224)
    assert canvas_of(pictures[1:2], 100) == (96, 160)


@pytest.mark.parametrize(("neighbors", "precision"), [(7 / 8, "bfloat16"), (6 / 8, "float32")])
def test_a_lower_precision_is_judged_by_pictures(neighbors, precision, monkeypatch):
    """A row an image, all places side by side; of eight images one may have another nearest one."""
    seen = []

    def agree(exact: np.ndarray, near: np.ndarray) -> Agreement:
        seen.append((exact.shape, float(np.abs(exact - near).max())))
        return Agreement(0.999, neighbors, len(exact))

    monkeypatch.setattr("selector.extract.rows._may_lower", lambda device, module: True)
    monkeypatch.setattr("selector.extract.rows.agreement", agree)
    encoder = canvas_encoder(load(spec("timm:test_resnet")), (96, 128))
    pictures = RNG.integers(0, 256, (9, 96, 128, 3)).astype(np.uint8)
    runner = open_map_runner(encoder, device="cpu", sample=pictures)
    assert runner.identity["precision"] == precision
    assert runner.facts["judged_on"] == JUDGED_ON == 8
    assert [shape[0] for shape, _ in seen] == [8] * len(registry.get("point").variants(encoder.strides))
    assert all(shape[1] % 9 == 0 and gap > 0 for shape, gap in seen)
    assert open_map_runner(encoder, device="cpu", sample=pictures[:7]).identity["precision"] == "float32"
