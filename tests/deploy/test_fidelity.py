"""The reported figures are those of what ``predict`` hands over, counted by other libraries."""

import contextlib
import io
import json

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import confusion_matrix
from typer.testing import CliRunner

import selector
from selector.cli import app
from selector.data import load_origin
from tests.support.cards import run_card
from tests.tasks import test_detection_scans as boxes
from tests.tasks import test_segmentation_scans as masks

folder = masks.folder


@pytest.fixture(autouse=True)
def mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training in bfloat16, as on machines that multiply in it."""
    monkeypatch.setattr("selector.tuning.workbench.bf16_helps", lambda device: True)
    monkeypatch.setattr("selector.tuning.strategies._parts.is_depthwise", lambda module: False)


def test_the_reported_miou_is_that_of_the_masks(folder, tmp_path):
    options = {**masks.OPTIONS, "max_steps": 6}
    selector.rank(folder, zoo=masks.zoo()[:1], store=tmp_path / "store", out=tmp_path / "run", **options)
    saved = selector.load_model(tmp_path / "run")
    files = sorted((folder / "test" / "images").glob("*.png"))
    said = saved.predict(list(files)).masks  # type: ignore[attr-defined]
    true = [np.asarray(Image.open(folder / "test" / "masks" / file.name)) for file in files]
    known, found = np.concatenate([t.ravel() for t in true]), np.concatenate([s.ravel() for s in said])
    pairs = confusion_matrix(known[known != 255], found[known != 255])
    hit = np.diag(pairs)
    counted = (hit / (pairs.sum(0) + pairs.sum(1) - hit)).mean()
    assert counted == pytest.approx(saved.config["measured"]["test"]["miou"], abs=1e-4)


def test_the_reported_map_is_that_of_the_boxes(tmp_path):
    path = boxes.scenes(tmp_path)
    options = {**boxes.OPTIONS, "decoder": ["retinanet"], "max_steps": 30}
    ranking = selector.rank(path, zoo=boxes.zoo(), store=tmp_path / "store", out=tmp_path / "run", **options)
    saved = selector.load_model(tmp_path / "run")
    reported = saved.config["measured"]["test"]
    target = load_origin(ranking.target["origin"])
    tested = {target.names[i] for i in target.indices("test")}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        shown = [image for image in truth.dataset["images"] if image["file_name"] in tested]
        files = [str(tmp_path / image["file_name"]) for image in shown]
        found = saved.predict(files, min_score=0.0).to_coco()  # type: ignore[attr-defined]
        number = {image["id"]: own["id"] for image, own in zip(found["images"], shown, strict=True)}
        category = {i + 1: i for i in range(3)}
        results = [
            {**a, "image_id": number[a["image_id"]], "category_id": category[a["category_id"]]}
            for a in found["annotations"]
        ]
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.imgIds = [image["id"] for image in shown]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert len(shown) == len(tested) > 0
    assert reported["map50"] > 0
    assert evaluation.stats[0] == pytest.approx(reported["map"], abs=0.005)
    assert evaluation.stats[1] == pytest.approx(reported["map50"], abs=0.005)


def test_a_segmenters_onnx_file_says_all_it_takes_to_use_it(folder, tmp_path):
    """The lines of its card give the masks of ``predict`` without this package, and the card says how near they come."""
    options = {**masks.OPTIONS, "max_steps": 2}
    run = tmp_path / "run"
    selector.rank(folder, zoo=masks.zoo()[:1], store=tmp_path / "store", out=run, **options)
    told = CliRunner().invoke(app, ["export", str(run), "--onnx", str(run / "best" / "model.onnx"), "--json"])
    assert told.exit_code == 0, told.output
    measured = json.loads(told.stdout)["measured"]
    card = (run / "best" / "README.md").read_text()
    assert measured["items"] == 4
    assert f"its miou is {measured['onnx']:.4f}, that of `predict` {measured['predict']:.4f}" in card
    assert measured["onnx"] == pytest.approx(measured["predict"], abs=0.02)
    session = onnxruntime.InferenceSession(str(run / "best" / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert all(output.shape[0] == "batch" for output in session.get_outputs())
    assert not [axis for one in session.get_outputs() for axis in one.shape if str(axis).startswith("s")]
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["task"] == "segmentation"
    assert json.loads(facts["class_values"]) == [0, 1, 2]
    assert json.loads(facts["class_names"]) == ["background", "disc", "bar"]
    assert set(json.loads(facts["normalization"])) == {"scale", "mean", "std"}
    picture = sorted((folder / "test" / "images").glob("*.png"))[0]
    expected = selector.load_model(run).predict([picture]).masks[0]  # type: ignore[attr-defined]
    assert "import selector" not in card
    np.save(run / "expected.npy", expected)
    run_card(
        run / "best",
        f"""
        found = model(Image.open({str(picture)!r}))
        expected = np.load({str(run / "expected.npy")!r})
        assert found.shape == expected.shape and (found == expected).mean() > 0.97, (found == expected).mean()
        """,
    )
