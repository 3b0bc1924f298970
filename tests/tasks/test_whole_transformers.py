"""transformers' whole detectors as candidates: what is kept, what is learned, and the way to a saved model and ONNX."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

import selector
from selector import sources
from selector.deploy.export import export_onnx
from selector.tasks import registry
from selector.zoo import ModelSpec
from tests.support.vision_models import DETECTORS, detector
from tests.tasks.test_whole_detectors import CLASSES, check_learned_and_rebuilt, target

__all__ = ["target"]


def spec(folder: Path) -> ModelSpec:
    return ModelSpec.model_validate({"source": f"vision:{folder}", "name": folder.name})


@pytest.fixture(params=DETECTORS)
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return sources.registry.get("vision").load(spec(detector(tmp_path, request.param)))


def test_boxes_are_those_of_transformers_itself(encoder):
    from transformers import RTDetrImageProcessor

    module, base = encoder.module, type(encoder.module).__bases__[1]
    batch = torch.rand((2, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = module(batch)
        processor = RTDetrImageProcessor()
        wanted = processor.post_process_object_detection(
            base.forward(module, batch), threshold=0.0, target_sizes=[(96, 96)] * 2
        )
    for one, other in zip(found, wanted, strict=True):
        count = len(other["scores"])  # as many as there are queries
        torch.testing.assert_close(one["scores"][:count], other["scores"])
        torch.testing.assert_close(one["boxes"][:count], other["boxes"].clamp(0, 96))
        assert torch.equal(one["labels"][:count], other["labels"])


def test_all_but_the_class_layers_is_kept_and_learns(encoder, target):
    task, before = registry.get("detection"), encoder.module.state_dict()
    learner: Any = task.learner(encoder, target)
    kept = learner.network.detector.state_dict()
    new = {key for key, value in kept.items() if not torch.equal(value, before[key])}
    assert new
    assert all("class_embed" in key or "enc_score_head" in key for key in new), sorted(new)
    known = [dict(one) for one in task.annotations(target, np.array([0, 1, 2]))]
    boxes, none = known[2]["boxes"], known[2]["labels"][:0]
    known[2] = {"boxes": tv_tensors.wrap(boxes[:0], like=boxes), "labels": none}  # nothing is on the last image
    batch = torch.rand((3, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    learner.train()
    optimizer, losses = torch.optim.AdamW(learner.parameters(), 1e-3), []
    for _ in range(12):
        loss = learner.loss(batch, known)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    check_learned_and_rebuilt(task, encoder, target, learner, batch, "vision")


@pytest.mark.parametrize(
    "kind", ["rt_detr", *(pytest.param(k, marks=pytest.mark.slow) for k in ("rt_detr_v2", "d_fine"))]
)
def test_a_scan_ends_in_a_saved_detector_and_its_onnx_file(kind, target, tmp_path):
    import onnxruntime

    ranking = selector.rank(
        target, zoo=[spec(detector(tmp_path / "model", kind))], proxies=["knn"], precision="float32", measure_cost="never",
        history=False, store=tmp_path / "store", out=tmp_path / "run", confirm=True, strategies=["full"], max_steps=2,
    )  # fmt: skip
    (model,) = ranking
    assert model.reason == ""
    assert model.scores["what:knn"].value is not None
    assert [m.strategy for m in model.measurements if m.status == "ok"] == ["full"], model.measurements
    saved = selector.load_model(tmp_path / "run")
    saved.context["min_score"] = 0.0
    Image.fromarray(target.items[0]).save(tmp_path / "a.png")  # type: ignore[arg-type]
    found = saved.predict(tmp_path / "a.png").boxes[0]  # type: ignore[attr-defined]
    assert found
    assert all(one["label"] in CLASSES for one in found)
    torch.manual_seed(0)
    for weight in saved.module.parameters():  # a start that was hardly trained takes all queries for the same
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    session = onnxruntime.InferenceSession(str(export_onnx(saved, tmp_path / "model.onnx")))
    assert [output.name for output in session.get_outputs()] == ["boxes", "labels", "scores"]
