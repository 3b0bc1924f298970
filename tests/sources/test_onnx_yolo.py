"""A user's own ONNX export of a YOLO detector: a file of the same layout, and what can be done with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

import selector
from selector.core.contracts import Target
from selector.sources import registry
from selector.zoo import ModelSpec
from tests.sources.samples import save_onnx
from tests.tasks.test_whole_detectors import target

__all__ = ["target"]
SIDE, STRIDES, CLASSES = 96, (8, 16, 32), 80


def yolo_file(path: Path, *, free: bool = False) -> Path:
    """``images`` (1, 3, S, S) in 0..1 -> ``output0`` (1, 4 + classes, cells of all strides); of a free size or a fixed one."""
    rng, nodes, weights = np.random.default_rng(0), [], {"flat": np.array([1, 4 + CLASSES, -1], np.int64)}
    before, parts = ("images", 3), []
    for number, (stride, width) in enumerate(zip(STRIDES, (8, 12, 16), strict=True)):
        step = stride // (STRIDES[number - 1] if number else 1)
        shapes = {"w": (width, before[1], step, step), "h": (4 + CLASSES, width, 1, 1)}
        for kind, shape in shapes.items():
            weights[f"{kind}{stride}"] = rng.normal(0, 0.3, shape).astype(np.float32)
        nodes += [
            helper.make_node("Conv", [before[0], f"w{stride}"], [f"c{stride}"], strides=[step, step]),
            helper.make_node("Relu", [f"c{stride}"], [f"/model.neck/p{stride}"]),
            helper.make_node("Conv", [f"/model.neck/p{stride}", f"h{stride}"], [f"d{stride}"]),
            helper.make_node("Reshape", [f"d{stride}", "flat"], [f"f{stride}"]),
        ]
        before, parts = (f"/model.neck/p{stride}", width), [*parts, f"f{stride}"]
    nodes.append(helper.make_node("Concat", parts, ["output0"], axis=2))
    cells = "cells" if free else sum((SIDE // stride) ** 2 for stride in STRIDES)
    sides = ["height", "width"] if free else [SIDE, SIDE]
    save_onnx(path, nodes, {"images": [1, 3, *sides]}, {"output0": [1, 4 + CLASSES, cells]}, weights)
    return path


def with_neck(path: Path, out: Path) -> Path:
    """The program of the how-to page, which names the last map of each stride as a further output."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "detection.md").read_text(encoding="utf-8")
    program = page.split("test_onnx_yolo.py runs it")[1].split("```python\n")[1].split("```")[0]
    exec(program.replace("yolo-maps.onnx", str(out)).replace("yolo.onnx", str(path)), {})
    return out


def spec(path: Path, **more: Any) -> ModelSpec:
    reads = {"mean": [0.0] * 3, "std": [1.0] * 3, "crop_mode": "squash", "interpolation": "bilinear"}
    return ModelSpec.model_validate({"source": f"onnx:{path}", "name": "yolo", "preprocess": reads, **more})


def test_boxes_are_no_features_and_named_maps_are(tmp_path: Path) -> None:
    plain = registry.get("onnx").load(spec(yolo_file(tmp_path / "plain.onnx")))
    assert plain.num_features == sum((SIDE // stride) ** 2 for stride in STRIDES)  # a mean over boxes and scores
    path = with_neck(tmp_path / "plain.onnx", tmp_path / "maps.onnx")
    encoder: Any = registry.get("onnx").load(spec(path, layer="/model.neck/p32"))
    assert (encoder.num_features, encoder.strides) == (16, STRIDES)
    batch = torch.rand((5, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.encode(batch)[3:4], encoder.encode(batch[3:4]))
    for stride, found in encoder.maps(batch):
        assert found.shape == (5, {8: 8, 16: 12, 32: 16}[stride], SIDE // stride, SIDE // stride)
    with pytest.raises(selector.SelectorError, match="cannot be fine-tuned"):
        encoder.map_module()


def rank(target: Target, folder: Path, *, free: bool = False, layer: str | None = None, **options: Any) -> Any:
    path = with_neck(yolo_file(folder / "plain.onnx", free=free), folder / "maps.onnx")
    return selector.rank(
        target, zoo=[spec(path, layer=layer)], proxies=["knn"], precision="float32", measure_cost="never",
        history=False, store=folder / "store", **options,
    )  # fmt: skip


def test_it_is_ranked_for_boxes(target: Target, tmp_path: Path) -> None:
    (model,) = rank(target, tmp_path, free=True)
    assert model.reason == ""
    assert model.scores["what:knn"].value is not None
    assert model.scores["where:knn"].value is not None
    (fixed,) = rank(target, tmp_path)
    assert "export it with a free height and width" in fixed.reason


def test_it_is_measured_with_a_linear_probe(tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(0), np.arange(48) % 2
    images = rng.integers(0, 90, (48, SIDE, SIDE, 3), dtype=np.uint8)
    images[labels == 1, :, :, 0] += 120
    classes = selector.load_target((images, [("dull", "red")[label] for label in labels]))
    ranking = rank(
        classes,
        tmp_path,
        layer="/model.neck/p32",
        confirm=True,
        out=tmp_path / "run",
        strategies=["frozen"],
        budget="60s",
    )
    (model,) = ranking
    (row,) = model.measurements
    assert (row.strategy, row.status) == ("frozen", "ok")
    assert row.val["accuracy"] > 0.9
    assert not (tmp_path / "run" / "best").exists()  # there is nothing to save
