"""Object detection: rows, matches against pycocotools, detectors, training, use."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou

import selector
from selector.core.contracts import LabelKind, Target
from selector.core.errors import ConfigError
from selector.core.task import NotFinite
from selector.data import load_target
from selector.modalities.pixels.augmentation import augmented
from selector.report.view import table_view
from selector.sources import registry as sources
from selector.tasks import registry, task_of
from selector.tasks.detection import BACKGROUND, DetectionStats, stats_of
from selector.tasks.detection.box_predictions import match
from selector.tasks.detection.box_rows import offsets, rows_of
from tests.sources.samples import load, spec

SMALL = {"preprocess": {"input_size": [3, 64, 64]}}
TINY = [spec(f"timm:test_{name}", name=name, **SMALL) for name in ("resnet", "vit")]
FAST: dict[str, Any] = {
    "zoo": TINY,
    "proxies": ["logme", "loo-ridge"],
    "precision": "float32",
    "measure_cost": "never",
    "history": False,
}
CLASSES = ("disc", "square")


@pytest.fixture(scope="module", autouse=True)
def _small() -> Any:
    """Images are read at their own size, and detectors are narrow: the code is the same, and quicker."""
    from selector.modalities.pixels import maps
    from selector.tasks.detection import detectors as _detector

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "LEAST_SIDE", 64)
        patch.setattr(_detector, "WIDTH", 64)  # FCOS normalizes 32 groups of channels
        patch.setattr(_detector, "HIDDEN", 32)
        yield


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs and squares on gray; every seventh image has none. COCO JSON beside them."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(36):
        picture = Image.fromarray(rng.integers(90, 130, (96, 128, 3), dtype=np.uint8))
        draw = ImageDraw.Draw(picture)
        for slot in range(0 if number % 7 == 6 else int(rng.integers(1, 4))):
            side, kind = int(rng.integers(16, 36)), int(rng.integers(0, 2))
            left, top = 42 * slot + int(rng.integers(0, 42 - side)), int(rng.integers(0, 96 - side))
            box = (left, top, left + side, top + side)
            (draw.ellipse if kind == 0 else draw.rectangle)(box, fill=((220, 40, 40), (40, 60, 220))[kind])
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": kind + 1,
                 "bbox": [left, top, side, side], "area": side * side, "iscrowd": 0}
            )  # fmt: skip
        picture.save(root / f"{number:02}.png")
        images.append({"id": number, "file_name": f"{number:02}.png", "width": 128, "height": 96})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def target(shapes: Path) -> Target:
    found = load_target(shapes / "annotations.json")
    assert found.task == "detection"
    return found


def test_rows_are_true_jittered_and_background_boxes(target: Target) -> None:
    task = task_of(target)
    plan = task.rows(target, np.arange(len(target)))
    what, where = plan.facets["what"], plan.facets["where"]
    assert what.kind is LabelKind.CLASSES
    assert where.kind is LabelKind.REAL
    assert what.class_names == (*CLASSES, BACKGROUND)
    assert plan.place is not None
    assert plan.place.min() >= 0
    assert plan.place.max() <= 1
    moved = ~np.isnan(where.labels).any(axis=1)
    for index in range(len(target)):
        known = target.annotations[index]
        own = plan.item == index
        true = torch.from_numpy(known.xyxy / np.array([128, 96, 128, 96], np.float32)).reshape(-1, 4)
        overlap = box_iou(torch.from_numpy(plan.place[own]), true).numpy()
        behind = what.labels[own] == len(CLASSES)
        assert not (overlap[behind] >= 0.3).any()
        assert (~behind).sum() == 2 * len(known)
        assert behind.any()
        for row in np.flatnonzero(~behind):
            best = overlap[row].argmax()
            assert what.labels[own][row] == known.labels[best]
            if not moved[own][row]:
                assert overlap[row, best] == pytest.approx(1, abs=1e-5)
        for row in np.flatnonzero(moved[own]):  # the offset leads back to the true box
            x0, y0, x1, y1 = plan.place[own][row]
            dx, dy, dw, dh = where.labels[own][row]
            w, h = (x1 - x0), (y1 - y0)
            cx, cy, nw, nh = (x0 + x1) / 2 + dx * w, (y0 + y1) / 2 + dy * h, w * np.exp(dw), h * np.exp(dh)
            back = torch.tensor([[cx - nw / 2, cy - nh / 2, cx + nw / 2, cy + nh / 2]], dtype=torch.float32)
            assert float(box_iou(back, true).max()) == pytest.approx(1, abs=1e-3)
    assert moved.sum() == sum(len(target.annotations[i]) for i in range(len(target)))


def test_rows_are_the_same_whatever_else_is_read(target: Target) -> None:
    task = task_of(target)
    whole, few = task.rows(target, np.arange(len(target))), task.rows(target, np.array([3, 8]))
    known = dict(zip(whole.addresses(target.hashes), whole.facets["what"].labels, strict=True))
    for address, label in zip(few.addresses(target.hashes), few.facets["what"].labels, strict=True):
        assert known[address] == label
    other = task.rows(target, np.array([3, 8]), seed=1)
    assert set(other.addresses(target.hashes)) != set(few.addresses(target.hashes))
    limited = task.rows(target, np.arange(len(target)), limit=60)
    assert 0 < len(limited) <= 60
    items = target.indices("train", "val")
    every, first = (task.rows(target, some, limit=4 * len(items)) for some in (items, items[:4]))
    assert set(first.addresses(target.hashes)) <= set(every.addresses(target.hashes))  # a scan looks at these first
    one = target.annotations[0]
    swapped = rows_of(one.xyxy[::-1], one.labels[::-1], one.size, 2, 20, target.hashes[0])
    own = whole.place[whole.item == 0]
    true = ~np.isnan(swapped.offset).any(axis=1) | (swapped.labels < 2)
    assert {tuple(p) for p in swapped.place[true]} <= {tuple(p) for p in own}


def test_classes_that_a_split_lacks_are_noted(shapes: Path, target: Target) -> None:
    task = registry.get("detection")
    assert not task.notes(target)
    document = json.loads((shapes / "annotations.json").read_text())
    first = [int(Path(target.names[i]).stem) for i in target.indices("train")][:4]
    for one in document["annotations"]:
        if one["image_id"] in first:
            one["category_id"] = 3
    document["categories"].append({"id": 3, "name": "blob"})
    (shapes / "more.json").write_text(json.dumps(document))
    more = load_target(shapes / "more.json")
    lacking = [split for split in ("val", "test") if not task.shows(more, more.indices(split))[2]]
    told = "1 of 3 classes have no box in {}, such as 'blob': the mean is over the others."
    assert lacking
    assert task.notes(more) == [told.format(split) for split in lacking]


def test_offsets_are_relative_to_the_box_that_is_read() -> None:
    small, large = (offsets(np.array([0, 0, s, s]), np.array([s / 2, 0, 2.5 * s, s])) for s in (0.1, 0.3))
    assert small == pytest.approx(large)
    assert small == pytest.approx([1.0, 0.0, np.log(2), 0.0])


def test_what_is_computed_unasked_serves_both_facets() -> None:
    from selector.proxies import default_proxies

    assert set(registry.get("detection").proxies) == set(default_proxies(LabelKind.CLASSES, LabelKind.REAL))


def test_both_facets_are_scored(target: Target, tmp_path: Path) -> None:
    ranking = selector.rank(target, **FAST, store=tmp_path)
    assert [m.status for m in ranking] == ["ok", "ok"], [m.reason for m in ranking]
    assert ranking.proxies == ["what:logme", "where:logme", "where:loo-ridge"]
    for model in ranking:
        assert set(ranking.proxies) <= set(model.scores)
    assert {column.key for column in table_view(ranking).columns} >= {f"proxy:{name}" for name in ranking.proxies}
    frame = ranking.to_dataframe()
    assert (frame["where:loo-ridge_low"] <= frame["where:loo-ridge"]).all()
    assert (frame["where:loo-ridge"] <= frame["where:loo-ridge_high"]).all()


def drawn(case: int) -> tuple[int, list[dict[str, np.ndarray]]]:
    """(classes, images with true boxes and predicted ones), ties of scores and doubles included."""
    rng = np.random.default_rng(case)
    classes = int(rng.integers(1, 5))
    pictures = []
    for _ in range(int(rng.integers(1, 10))):
        count, copies = int(rng.integers(0, 9)), int(rng.integers(0, 5))
        corner, side = rng.uniform(0, 200, (count, 2)), np.exp(rng.uniform(np.log(5), np.log(200), (count, 2)))
        true = np.concatenate([corner, corner + side], 1).astype(np.float32)
        labels = rng.integers(0, classes, count)
        noise = rng.uniform(0, 100, (int(rng.integers(0, 150)), 4))
        boxes = np.concatenate([np.repeat(true, copies, 0), noise])
        boxes = boxes + rng.normal(0, 6 * rng.uniform(), boxes.shape)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        scores = rng.uniform(size=len(boxes)).round(1 if case % 3 == 0 else 6).astype(np.float32)
        said = np.concatenate([np.repeat(labels, copies), rng.integers(0, classes, len(noise))])
        pictures.append({"true": true, "labels": labels, "boxes": boxes, "scores": scores, "said": said})
    return classes, pictures


def pycocotools_values(classes: int, pictures: list[dict[str, np.ndarray]]) -> tuple[list[float], np.ndarray] | None:
    """Metrics, and precision (C, 101) at an IoU of 0.5."""
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, one in enumerate(pictures, start=1):
        for box, label in zip(one["true"].astype(float), one["labels"], strict=True):
            xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": int(label) + 1, "iscrowd": 0}
            annotations.append({**entry, "bbox": xywh, "area": xywh[2] * xywh[3]})
        for box, score, label in zip(one["boxes"], one["scores"], one["said"], strict=True):
            xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            found.append({"image_id": number, "category_id": int(label) + 1, "bbox": xywh, "score": float(score)})
    if not annotations or not found:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i + 1} for i in range(len(pictures))],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": str(i)} for i in range(classes)],
        }
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(found), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    stats, curves = (  # -1 where there are no boxes of a class
        np.where(found < 0, np.nan, found) for found in (judged.stats[:6], judged.eval["precision"][0, :, :, 0, -1].T)
    )
    return stats.tolist(), curves


METRICS = ("map", "map50", "map75", "map_small", "map_medium", "map_large")


def of_pictures(classes: int, pictures: list[dict[str, np.ndarray]]) -> DetectionStats:
    return stats_of([match(p["true"], p["labels"], p["boxes"], p["scores"], p["said"], classes) for p in pictures])


def test_every_metric_is_that_of_pycocotools_on_50_cases_and_on_resamples() -> None:
    compared = 0
    for case in range(50):
        classes, pictures = drawn(case)
        stats = of_pictures(classes, pictures)
        again = np.random.default_rng(case).integers(0, len(pictures), len(pictures))
        for own, some in ((stats, pictures), (stats[again], [pictures[i] for i in again]))[: 1 + case % 2]:
            expected = pycocotools_values(classes, some)
            if expected is not None:
                assert [own.value(name) for name in METRICS] == pytest.approx(expected[0], abs=1e-6, nan_ok=True), case
                np.testing.assert_allclose(own.curves()[:, :, 0], expected[1], atol=1e-6)
                compared += 1
    assert compared > 65


def test_the_report_draws_precision_by_recall() -> None:
    from selector.report.figures import figures
    from tests.report import samples

    classes, pictures = drawn(4)
    stats, names = of_pictures(classes, pictures), [f"class {i}" for i in range(classes)]
    section = registry.get("detection").report(stats, names).to_dict()
    kept = section["figures"]["precision by recall"]
    for name, points in kept.items():
        wanted = stats.curves()[names.index(name), :, 0]
        assert [y for _, y in points] == pytest.approx([wanted[round(100 * x)] for x, _ in points], abs=1e-4)
    best = samples.measurement(0.9, extra={"error_analysis": {"split": "test", **section, "samples": []}})
    ranking = samples.ranking((samples.model(0, measurements=(best,)),))
    (figure,) = [figure for figure in figures(ranking) if figure.key == "precision"]
    assert all(name in figure.svg for name in kept)
    assert len(kept) > 1


def test_no_boxes_at_all_is_a_value_and_not_a_crash() -> None:
    nothing = {"boxes": np.empty((0, 4)), "scores": np.empty(0, np.float32), "said": np.empty(0, np.int64)}
    one = {"true": np.array([[0, 0, 9, 9]], np.float32), "labels": np.array([0]), **nothing}
    assert of_pictures(1, [one]).value("map") == 0.0
    empty = {"true": np.empty((0, 4), np.float32), "labels": np.empty(0, np.int64), **nothing}
    assert np.isnan(of_pictures(1, [empty]).value("map"))
    bad = {**one, "boxes": np.array([[0, 0, np.nan, 1.0]]), "scores": np.ones(1), "said": np.zeros(1, int)}
    with pytest.raises(NotFinite, match="must be finite"):
        of_pictures(1, [bad])


def test_the_least_score_is_where_f1_is_highest() -> None:
    classes, pictures = drawn(4)
    stats = of_pictures(classes, pictures)
    least, f1 = stats.best_f1()

    def f1_at(score: float) -> float:
        found, missed, false = (sum(part) for part in zip(*stats.hits(score), strict=True))
        return 2 * found / (2 * found + missed + false)

    assert f1_at(least) == pytest.approx(f1)
    assert f1 == pytest.approx(max(f1_at(float(score)) for score in np.unique(stats.arrays["score"])))


def test_statistics_survive_the_journal(tmp_path: Path) -> None:
    from selector.tuning.journal import Journal, Record

    classes, pictures = drawn(2)
    stats = of_pictures(classes, pictures)
    journal = Journal(tmp_path, DetectionStats)
    journal.write("a", Record({"status": "ok"}, stats))
    back = journal.read("a")
    assert back is not None
    assert back.stats is not None
    assert back.stats.value("map") == stats.value("map")


def test_boxes_move_with_their_pictures_and_what_left_is_dropped(target: Target) -> None:
    task = task_of(target)
    picture = torch.zeros((1, 96, 128, 3), dtype=torch.uint8)
    (known,) = task.annotations(target, np.array([int(np.argmax([len(target.annotations[i]) for i in range(36)]))]))
    for number, box in enumerate(known["boxes"].int().tolist()):
        picture[0, box[1] : box[3], box[0] : box[2]] = 40 * (number + 1)
    torch.manual_seed(3)
    for _ in range(20):
        moved, (after,) = task.augment(*augmented(picture, [known]))
        assert len(after["labels"]) == len(after["boxes"])
        for box in after["boxes"].tolist():
            assert box[2] - box[0] >= 2
            assert box[3] - box[1] >= 2
            x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
            assert moved[0, y, x].max() > 0  # still on what was drawn
        lit = (moved[0, :, :, 0] > 20).any().item()
        assert lit == bool(len(after["boxes"])) or len(after["boxes"]) < len(known["boxes"])


@pytest.mark.parametrize(("asked", "meant"), [("ssd, fastrcnn", "fasterrcnn"), (["ssd", "fcoss"], "fcos")])
def test_a_mistyped_detector_ends_the_call(target: Target, tmp_path: Path, asked: Any, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown detector '.*'; did you mean '{meant}'"):
        selector.rank(target, **FAST, store=tmp_path, confirm=True, decoder=asked)
    assert not list(tmp_path.rglob("*.*")), "nothing was extracted, and no run was begun"


def encoder_of(name: str, target: Target) -> Any:
    return task_of(target).prepared(load(spec(f"timm:{name}", **SMALL)), target)


@pytest.mark.parametrize(
    ("head", "backbone"),
    [
        ("fasterrcnn", "test_resnet"),
        ("retinanet", "test_vit"),
        ("ssd", "test_resnet"),
        ("fcos", "cs3darknet_s"),
        pytest.param("fcos", "darknet53", marks=pytest.mark.slow),
        pytest.param("retinanet", "cspdarknet53", marks=pytest.mark.slow),
    ],
)
def test_detectors_learn_and_are_built_again(head: str, backbone: str, target: Target) -> None:
    task = registry.get("detection").configured(decoder=head)
    encoder = encoder_of(backbone, target)
    learner: Any = task.learner(encoder, target)
    size = encoder.image_preprocess.input_size[1:]
    items = np.array([0, 1, 6])  # the last one has no box
    known = task.annotations(target, items)
    batch = torch.randn((3, 3, *size), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    loss = learner.train().loss(batch, known)
    assert torch.isfinite(loss)
    loss.backward()
    moved = [n for n, p in learner.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any(name.startswith(learner.new) for name in moved)
    assert any(not name.startswith(learner.new) for name in moved)
    learner.eval()
    with torch.inference_mode():
        found = learner.predict(batch)
        rebuilt = task.rebuild(task.recipe(encoder, target), sources.get("timm").build)
        rebuilt.load_state_dict(learner.network.state_dict())
        again = task.output(rebuilt, batch)
    assert len(found) == 3
    for one, other in zip(found, again, strict=True):
        assert np.array_equal(one["boxes"], other["boxes"])
        assert set(one["labels"]) <= {0, 1}
    evaluator = task.evaluator(target)
    evaluator.update(found, items)
    assert 0 <= evaluator.stats().value("map") <= 1


def test_perfect_boxes_have_a_map_of_one(target: Target) -> None:
    evaluator = task_of(target).evaluator(target)
    for index in range(len(target)):
        known = target.annotations[index]
        boxes = known.xyxy / np.array([128, 96, 128, 96], np.float32)
        outputs = [{"boxes": boxes, "labels": known.labels, "scores": np.linspace(0.9, 0.8, len(known))}]
        evaluator.update(outputs, np.array([index]))
    assert evaluator.stats().value("map") == pytest.approx(1)


@pytest.fixture(scope="module")
def confirmed(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A scan to a trained detector, of few steps: the way is tested, not the figure."""
    root = tmp_path_factory.mktemp("confirmed")
    settings: dict[str, Any] = {**FAST, "zoo": TINY[:1], "proxies": ["knn"]}
    return selector.rank(
        target, **settings, store=root / "store", out=root / "run", confirm=True, strategies=["frozen"],
        max_steps=2, top_k=1,
    )  # fmt: skip


def test_several_detectors_are_compared_in_one_confirmation(confirmed: Any, target: Target, tmp_path: Path) -> None:
    again = selector.confirm(
        confirmed.path, target=target, store=confirmed.path.parent / "store", out=tmp_path / "run", history=False,
        decoder="fasterrcnn,ssd", strategies=["full"], max_steps=1, top_k=1,
    )  # fmt: skip
    (model,) = again
    wanted = {"fasterrcnn/full", "ssd/full"}
    assert {m.strategy for m in model.measurements if m.status == "ok"} == wanted
    saved = selector.load_model(again.path)
    assert saved.config["strategy"] in wanted
    assert saved.config["recipe"]["decoder"] == saved.config["strategy"].partition("/")[0]
    assert saved.predict(np.zeros((96, 128, 3), np.uint8)).boxes is not None
    assert again.settings["confirm"]["decoder"] == ["fasterrcnn", "ssd"]


def test_a_scan_ends_in_a_detector_that_reads_pictures(confirmed: Any, shapes: Path, tmp_path: Path) -> None:
    (model,) = confirmed
    assert {m.strategy for m in model.measurements if m.status == "ok"} == {"frozen"}
    saved = selector.load_model(confirmed.path)
    assert 0 <= saved.context["min_score"] <= 1
    saved.context["min_score"] = 0.0  # hardly trained: whatever it sees
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found: Any = saved.predict([shapes / "00.png", shapes / "01.png", tmp_path / "broken.png"])
    assert found[2].error
    assert found.boxes[2] == []
    assert any(found.boxes[:2])
    for one in found.boxes[0] + found.boxes[1]:
        left, top, right, bottom = one["box"]
        assert 0 <= left < right <= 128
        assert 0 <= top < bottom <= 96
        assert one["label"] in CLASSES
    found.write(tmp_path / "out", overlay=True)
    with contextlib.redirect_stdout(io.StringIO()):
        document = COCO(tmp_path / "out" / "boxes.json")
        results = document.loadRes(document.dataset["annotations"])
    assert len(results.anns) == sum(len(boxes) for boxes in found.boxes)
    lines = (tmp_path / "out" / "boxes.csv").read_text().splitlines()
    assert lines[0] == "item,label,score,left,top,right,bottom,error"
    assert len(lines) == 1 + sum(max(1, len(boxes)) for boxes in found.boxes)
    with Image.open(tmp_path / "out" / "overlays" / "00.jpg") as drawn:
        assert drawn.size == (128, 96)


def test_boxes_are_returned_from_a_score_on(confirmed: Any, shapes: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from selector.cli import app

    saved: Any = selector.load_model(confirmed.path)
    every = saved.predict(shapes / "00.png", min_score=0.0).boxes[0]
    scores = sorted(one["score"] for one in every)
    middle = scores[len(scores) // 2]
    some = saved.predict(shapes / "00.png", min_score=middle - 1e-4).boxes[0]
    assert 0 < len(some) < len(every)
    assert all(one["score"] >= middle - 2e-4 for one in some)
    with pytest.raises(ConfigError, match=r"min_score must be a number in the range \[0, 1\]\. Got 2"):
        saved.predict(shapes / "00.png", min_score=2)
    words = ["predict", str(confirmed.path), str(shapes / "00.png"), "--out", str(tmp_path / "found"), "--csv"]
    said = CliRunner().invoke(app, [*words, "--min-score", "0", "--overlay"])
    assert said.exit_code == 0, said.output
    assert len(json.loads((tmp_path / "found" / "boxes.json").read_text())["annotations"]) == len(every)
    assert (tmp_path / "found" / "overlays" / "00.jpg").is_file()


def test_the_report_counts_and_draws_from_the_score_that_validation_chose() -> None:
    classes, pictures = drawn(4)
    stats = of_pictures(classes, pictures)
    task, names = registry.get("detection"), [str(i) for i in range(classes)]
    chosen = DetectionStats(stats.arrays, {"min_score": 0.9})
    (title,) = [title for title in task.report(chosen, names).tables if title.startswith("boxes by size")]
    assert "at a score of 0.90 or more" in title
    found, missed, false = (sum(part) for part in zip(*stats.hits(0.9), strict=True))
    rows = task.report(chosen, names).tables["AP a class"]
    assert [sum(row[name] for row in rows) for name in ("found", "missed", "false")] == [found, missed, false]
    output = {
        "boxes": np.array([[0, 0, 0.5, 0.5]] * 2, np.float32), "labels": np.zeros(2, int), "scores": np.array([0.4, 0.2])
    }  # fmt: skip
    pictures_of = [np.full((32, 32, 3), 10 * i, np.uint8) for i in range(9)]
    known = load_target((pictures_of, [{"boxes": [[1, 1, 9, 9]], "labels": ["a"]}] * 9))
    one, two, none = (
        task.drawn([output], known, np.array([0]), {"min_score": least})[0]["pictures"] for least in (0.3, 0.1, 0.5)
    )
    uris = [part[1]["uri"] for part in (one, two, none)]
    assert uris[0] == uris[1] != uris[2]  # two boxes lie on each other; from 0.5 on there is none


def test_the_report_draws_truth_and_prediction(confirmed: Any) -> None:
    from selector.report.error_analysis import error_analysis

    shown = error_analysis(confirmed)
    assert shown is not None
    assert [title for title, _ in shown.drawn][:1] == ["The worst images"]
    pictures = shown.drawn[0][1][0].pictures
    assert [title for title, _ in pictures] == ["truth", "predicted"]
    assert all(uri.startswith("data:image/jpeg;base64,") for _, uri in pictures)
    titles = [table.title for table in shown.tables]
    assert titles[0] == "AP a class"
    assert titles[1].startswith("boxes by size")


def test_onnx_finds_what_torch_finds(confirmed: Any, shapes: Path, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    from selector.deploy import export_onnx
    from selector.modalities.pixels.transform import normalize, prepare

    saved = selector.load_model(confirmed.path)
    path = export_onnx(saved, tmp_path / "model.onnx")
    facts = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    assert json.loads(facts["class_names"]) == list(CLASSES)
    assert float(facts["min_score"]) == saved.context["min_score"]
    saved.context["min_score"] = 0.0  # hardly trained: whatever it sees
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for name in ("00.png", "06.png"):
        given = normalize(prepare([str(shapes / name)], saved.preprocess), saved.preprocess, "cpu").numpy()
        boxes, labels, scores = session.run(["boxes", "labels", "scores"], {"images": given})
        wanted = saved.predict([shapes / name]).boxes[0]
        assert len(wanted) == len(scores) > 0
        near = sorted(scores.tolist(), reverse=True)
        assert [one["score"] for one in wanted] == pytest.approx(near, abs=1e-3)
        rows = {(one["label"], *(round(v) for v in one["box"])) for one in wanted}
        own = (boxes.clip(0, 1) * np.array([128, 96, 128, 96])).round().astype(int).tolist()
        found = {(CLASSES[label], *box) for label, box in zip(labels.tolist(), own, strict=True)}
        assert len(rows & found) >= 0.9 * len(rows)  # a coordinate at one half may round either way


@pytest.mark.parametrize(("head", "shift"), [("retinanet", 0), ("fcos", 0), ("ssd", 1)])
def test_every_head_is_exported(head: str, shift: int, target: Target, tmp_path: Path) -> None:
    """Images on which nothing is found included: lengths are followed, not those of the traced image kept."""
    import onnxruntime

    from selector.deploy.export import _export, _traced_form
    from selector.tasks.detection.detectors import LEAST_SCORE, OnePicture, network_of, unlike

    encoder = encoder_of("test_resnet", target)
    torch.manual_seed(0)
    network = network_of(head, encoder.map_module(), 2).eval()
    task = registry.get("detection")
    for layer in network.detector.head.classification_head.modules():
        if isinstance(layer, torch.nn.Conv2d):  # scores that differ: the order of equal ones is free
            torch.nn.init.kaiming_normal_(layer.weight)
    nothing = torch.zeros((1, *encoder.image_preprocess.input_size))
    with torch.inference_mode():
        (faint,) = network(nothing)
    network.detector.score_thresh = 1.01 * max([LEAST_SCORE, *faint["scores"].tolist()])
    form = _traced_form(task.traced(network, {"min_score": 0.25}), encoder.image_preprocess)
    assert form.names == ("images",)
    _export(form, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for (picture,), expected in form.batches:
        found = session.run(None, {"images": picture.numpy()})
        wanted = [value.numpy() for value in expected]
        assert len(wanted[2]) > 5
        assert unlike(found, wanted) == ""
        assert unlike([found[0] + 0.01, *found[1:]], wanted).startswith(f"of {len(wanted[2])} boxes")
        assert unlike([found[0], found[1] + 1, found[2]], wanted)
        assert unlike([part[:1] for part in found], wanted)
    boxes, labels, scores = session.run(None, {"images": nothing.numpy()})
    assert (boxes.shape, labels.shape, scores.shape) == ((0, 4), (0,), (0,))
    assert isinstance(OnePicture(network)(nothing)[1], torch.Tensor)
    assert network.shift == shift
