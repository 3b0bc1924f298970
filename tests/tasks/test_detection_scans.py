"""Detection from a COCO file to a confirmed model: a kill in the middle."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import selector
from tests.sources.samples import spec
from tests.support.kills import begun, figures, killed_in_training

OPTIONS: dict[str, Any] = {
    "proxies": ["knn", "loo-ridge"], "precision": "float32", "measure_cost": "never", "history": False, "seed": 0, "confirm": True,
    "top_k": 1, "max_steps": 4, "strategies": ["full"], "decoder": ["ssd", "retinanet"],
}  # fmt: skip


def zoo() -> list[Any]:
    return [spec("timm:test_resnet", name="resnet", preprocess={"input_size": [3, 64, 64]})]


def scenes(root: Path) -> Path:
    rng = np.random.default_rng(1)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(18):
        picture = rng.integers(90, 130, (64, 64, 3), dtype=np.uint8)
        left, top, side = (int(v) for v in (*rng.integers(0, 40, 2), rng.integers(12, 24)))
        picture[top : top + side, left : left + side, number % 3] = 250
        Image.fromarray(picture).save(root / f"{number:02}.png")
        images.append({"id": number, "file_name": f"{number:02}.png", "width": 64, "height": 64})
        box = {"bbox": [left, top, side, side], "area": side * side, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": number % 3, **box})
    categories = [{"id": i, "name": name} for i, name in enumerate(("red", "green", "blue"))]
    path = root / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_kill_in_the_training_changes_nothing(tmp_path: Path) -> None:
    """Killed as soon as the first training is in its journal; the same call goes on from there."""
    path = scenes(tmp_path)
    stormy, killed = tmp_path / "stormy", tmp_path / "killed"
    before = killed_in_training(begun(__name__, path, stormy, killed), stormy, killed)
    selector.rank(path, zoo=zoo(), store=tmp_path / "stormy", out=tmp_path / "killed", **OPTIONS)
    assert all(next((stormy / "trainings").rglob(name)).read_bytes() == content for name, content in before.items())
    selector.rank(path, zoo=zoo(), store=tmp_path / "calm", out=tmp_path / "whole", **OPTIONS)
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    pictures = sorted(str(p) for p in tmp_path.glob("*.png"))
    boxes = [
        selector.load_model(tmp_path / name).predict(pictures, min_score=0.0).boxes  # type: ignore[attr-defined]
        for name in ("killed", "whole")
    ]
    assert boxes[0] == boxes[1]
    assert any(boxes[0])
