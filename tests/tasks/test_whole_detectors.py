"""torchvision's whole detectors as candidates: what is kept, what is new, and the way from a file to a saved model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import detection as detectors
from torchvision.models import resnet18

import selector
from selector import sources
from selector.core.contracts import Target
from selector.core.errors import ZooError
from selector.data import load_target
from selector.tasks import registry
from selector.zoo import ModelSpec

CLASSES = ("disc", "square")
NAMES = (
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn",
    pytest.param("fcos_resnet50_fpn", marks=pytest.mark.slow),
    "ssdlite320_mobilenet_v3_large",
    pytest.param("ssd300_vgg16", marks=pytest.mark.slow),
)


@pytest.fixture(autouse=True)
def _shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers of ResNet-18 have the names of ResNet-50's, and are built and stored in a fraction of the time."""
    for kind in ("retinanet", "fcos"):
        monkeypatch.setattr(f"torchvision.models.detection.{kind}.resnet50", resnet18)


def stored(folder: Path, name: str, classes: int = 7) -> tuple[torch.nn.Module, Path]:
    """A detector with random weights, and the file of them."""
    torch.manual_seed(1)
    module = getattr(detectors, name)(weights=None, weights_backbone=None, num_classes=classes).eval()
    state = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state if "ssd" not in name else module.state_dict(), folder / f"{name}.pth")
    return module, folder / f"{name}.pth"


def weights_of(path: Path) -> dict[str, str]:
    return {"file": path.name, "base": str(path.parent)}


def spec(name: str, weights: Path, side: int = 96) -> ModelSpec:
    settings = {"name": name, "source": f"torchvision:{name}", "preprocess": {"input_size": [3, side, side]}}
    return ModelSpec.model_validate({**settings, "weights": weights_of(weights)})


def check_learned_and_rebuilt(
    task: Any, encoder: Any, target: Target, learner: Any, batch: torch.Tensor, source: str
) -> set[str]:
    """After a backward pass: what learned is on its side of the division, and a rebuilt detector says the same.

    Returns:
        names of the parameters that have a gradient.
    """
    moved = {key for key, value in learner.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0}
    assert any(block in key for key in moved for block in encoder.blocks)
    assert not any(block in key for key in moved if key.startswith(learner.new) for block in encoder.blocks)
    learner.eval()
    rebuilt = task.rebuild(task.recipe(encoder, target), sources.registry.get(source).build)
    rebuilt.load_state_dict(learner.network.state_dict())
    with torch.inference_mode():
        for one, other in zip(task.output(rebuilt, batch), learner.predict(batch), strict=True):
            assert np.array_equal(one["boxes"], other["boxes"])
            assert ((one["boxes"] >= 0) & (one["boxes"] <= 1)).all()
            assert set(one["labels"]) <= {0, 1}
    return moved


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Up to the epsilon of a normalization."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


@pytest.fixture(scope="module")
def target() -> Target:
    rng = np.random.default_rng(0)
    images, known = [], []
    for number in range(24):
        picture = rng.integers(90, 130, (96, 96, 3), dtype=np.uint8)
        left, top, side, kind = (int(v) for v in (*rng.integers(0, 60, 2), rng.integers(16, 36), number % 2))
        picture[top : top + side, left : left + side, 2 * kind] = 250
        images.append(picture)
        known.append({"boxes": [[left, top, left + side, top + side]], "labels": [kind]})
    return load_target((images, known), class_names=CLASSES)


@pytest.mark.parametrize("name", NAMES)
def test_all_but_the_class_layers_is_kept(name: str, target: Target, tmp_path: Path) -> None:
    module, path = stored(tmp_path, name)
    task = registry.get("detection")
    encoder: Any = sources.registry.get("torchvision").load(spec(name, path, 300 if "ssd300" in name else 96))
    if "ssd300" in name:  # its last maps have one cell at 300 pixels; sides of a canvas are multiples of 32
        encoder = task.prepared(encoder, target)
    size = encoder.image_preprocess.input_size
    assert size == ((3, 288, 288) if "ssd300" in name else (3, 96, 96))
    learner: Any = task.learner(encoder, target)
    kept, before = learner.network.detector.state_dict(), module.state_dict()
    new = {key for key, value in kept.items() if key not in before or not torch.equal(value, before[key])}
    layers = ("cls_score", "bbox_pred") if "rcnn" in name else ("cls_logits", "classification_head.module_list")
    assert new
    assert all(any(layer in key for layer in layers) for key in new), sorted(new)[:5]
    assert set(before) - set(kept) <= {key for key in before if key.endswith("num_batches_tracked")}
    if "rcnn" in name:
        weight = before["roi_heads.box_predictor.bbox_pred.weight"].reshape(7, 4, -1)
        torch.testing.assert_close(kept["roi_heads.box_predictor.bbox_pred.weight"][:4], weight[1:].mean(0))
    # maps are those of its neck
    batch = torch.randn((2, *size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = [value for key, value in module.backbone(batch).items() if key not in ("pool", "p6", "p7")]  # type: ignore[operator]
        for stride, found in encoder.maps(batch):
            assert stride in (4, 8, 16, 32)
            assert any(close(found, one) for one in own)
    # it learns, and is built again without its weights
    learner.train()
    loss = learner.loss(batch, task.annotations(target, np.array([0, 1])))
    assert torch.isfinite(loss)
    loss.backward()
    moved = check_learned_and_rebuilt(task, encoder, target, learner, batch, "torchvision")
    assert any(key.startswith(learner.new) for key in moved)


def test_a_detector_reads_pictures_as_its_weights_do(tmp_path: Path) -> None:
    _, path = stored(tmp_path, "ssdlite320_mobilenet_v3_large")
    facts = {"name": "ssdlite", "source": "torchvision:ssdlite320_mobilenet_v3_large", "weights": weights_of(path)}
    given = ModelSpec.model_validate(facts)
    encoder = sources.registry.get("torchvision").load(given)
    assert encoder.preprocess.input_size == (3, 320, 320)  # type: ignore[union-attr]
    assert encoder.preprocess.mean == (0.5, 0.5, 0.5)  # type: ignore[union-attr]


def test_a_wildcard_means_detectors_where_it_matches_nothing_else() -> None:
    source = sources.registry.get("torchvision")
    assert source.expand("retinanet_*") == ["retinanet_resnet50_fpn.COCO_V1", "retinanet_resnet50_fpn_v2.COCO_V1"]
    assert not any("rcnn" in name for name in source.expand("*resnet50*"))
    with pytest.raises(ZooError):
        source.expand("maskrcnn_*")


def test_a_scan_with_a_whole_detector_ends_in_one(target: Target, tmp_path: Path) -> None:
    """It is one configuration a strategy, whatever detectors are compared on the encoders."""
    _, path = stored(tmp_path, "ssdlite320_mobilenet_v3_large")
    ranking = selector.rank(
        target, zoo=[spec("ssdlite320_mobilenet_v3_large", path, 160)], proxies=["knn"], precision="float32", measure_cost="never",
        history=False, store=tmp_path / "store", out=tmp_path / "run", confirm=True, decoder=["fasterrcnn", "fcos"],
        strategies=["frozen"], max_steps=1,
    )  # fmt: skip
    (model,) = ranking
    assert model.reason == ""
    assert [m.strategy for m in model.measurements if m.status == "ok"] == ["frozen"], model.measurements
    saved = selector.load_model(tmp_path / "run")
    saved.context["min_score"] = 0.0
    assert type(saved.module.detector).__name__ == "SSD"
    Image.fromarray(target.items[0]).save(tmp_path / "a.png")  # type: ignore[arg-type]
    assert all(one["label"] in CLASSES for one in saved.predict(tmp_path / "a.png").boxes[0])  # type: ignore[attr-defined]
