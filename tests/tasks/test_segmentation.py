"""Segmentation: the sampler by brute force, IoU against torchmetrics, decoders, training and what is handed over."""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchvision import tv_tensors
from typer.testing import CliRunner

import selector
from selector.cli import app
from selector.cli.guard import SOME_FAILED
from selector.core.contracts import Target
from selector.core.errors import ConfigError, SelectorError
from selector.core.prediction import Predictions
from selector.core.preprocess import Preprocess
from selector.core.task import NotFinite
from selector.data import load_target
from selector.deploy import export_onnx, load_model, save_model
from selector.extract.inputs import ready
from selector.extract.row_readers import registry as readers
from selector.modalities.pixels.augmentation import augmented
from selector.modalities.pixels.transform import prepare
from selector.sources import registry as registry_of_sources
from selector.tasks import registry
from selector.tasks.segmentation import (
    LIBRARY,
    Segmentation,
    SegmentationStats,
    decoders,
    estimated_iou,
    point_weights,
    points_of,
    relative,
)
from selector.tasks.segmentation.decoders import class_map, decoder_of
from selector.tasks.segmentation.mask_predictions import mask_png
from selector.tasks.segmentation.reading import IGNORE
from selector.tuning import FineTuningResult, TuningCandidate, run_fine_tuning
from tests.sources.samples import load, spec

task = Segmentation()
COLORS = np.array([[30, 60, 200], [200, 40, 40], [40, 200, 60]], np.uint8)


def opened(path: Path) -> Any:
    """A session of onnxruntime, which an installation for training may lack."""
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image whose classes have colors: background, and a disc and a bar where they fit; a void frame."""
    height, width = size
    mask = np.zeros(size, np.uint8)
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.integers(height // 4, 3 * height // 4), rng.integers(width // 4, 3 * width // 4)
    mask[(y - cy) ** 2 + (x - cx) ** 2 < (height // 4) ** 2] = 1
    mask[:, (at := int(rng.integers(2, width - 8))) : at + 5] = 2
    picture = np.clip(COLORS[mask] + rng.normal(0, 12, (*size, 3)), 0, 255).astype(np.uint8)
    mask[:2] = 255
    return picture, mask


def scenes_below(root: Path, counts: dict[str, int], sizes: Sequence[tuple[int, int]], seed: int = 0) -> Path:
    """A folder of images and masks by split, of these sizes in turn."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            for kind, array in zip(("images", "masks"), scene(rng, sizes[i % len(sizes)]), strict=True):
                Image.fromarray(array).save(root / split / kind / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = ((40, 52), (48, 64), (48, 64))
    root = scenes_below(tmp_path_factory.mktemp("scenes"), {"train": 12, "val": 6, "test": 6}, sizes)
    (root / "names.txt").write_text("background\ndisc\nbar\n")
    return root


@pytest.fixture(scope="module")
def scenes(folder: Path) -> Target:
    return load_target(folder, class_names=folder / "names.txt")


class Prepared:
    """The images of a target as a preprocessing wants them."""

    def __init__(self, target: Target, preprocess: Any) -> None:
        self.rows = prepare([target.items[i] for i in range(len(target))], preprocess)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.rows[np.asarray(indices)]


def pixels_for(target: Target) -> Any:
    return lambda preprocess: Prepared(target, preprocess)


def shares(sizes: dict[int, int], count: int) -> dict[int, int]:
    """Points a class, one at a time in turns from the smallest class: what an even share is."""
    taken = dict.fromkeys(sizes, 0)
    while sum(taken.values()) < count and any(taken[c] < sizes[c] for c in sizes):
        open_classes = [c for c in sizes if taken[c] < sizes[c]]
        least = min(taken[c] for c in open_classes)
        taken[max(c for c in open_classes if taken[c] == least)] += 1
    return taken


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([(1, 1), (7, 9), (16, 5)]))
def test_points_are_shared_evenly_and_lie_in_their_class(seed, count, size):
    rng = np.random.default_rng(seed)
    mask = rng.choice([0, 1, 2, 7, 255], size, p=[0.6, 0.25, 0.08, 0.02, 0.05]).astype(np.uint8)
    points = points_of(mask, count, 255, f"image {seed}")
    assert len({tuple(p) for p in points.tolist()}) == len(points)
    found = mask[points[:, 0], points[:, 1]]
    assert 255 not in found
    sizes = {int(c): int((mask == c).sum()) for c in np.unique(mask) if c != 255}
    expected = shares(sizes, count)
    got = {c: int((found == c).sum()) for c in sizes}
    assert sum(got.values()) == sum(expected.values())  # never fewer than there are
    assert sorted(got.values()) == pytest.approx(sorted(expected.values()), abs=1)
    np.testing.assert_array_equal(points, points_of(mask.copy(), count, 255, f"image {seed}"))
    more = points_of(mask, count + 5, 255, f"image {seed}")
    assert {tuple(p) for p in points.tolist()} <= {tuple(p) for p in more.tolist()}, "more points keep those before"


def test_points_depend_on_picture_and_seed_and_stand_at_pixel_centers():
    mask = np.zeros((20, 30), np.uint8)
    first, other, seeded = (points_of(mask, 10, 255, *drawn) for drawn in (("a", 0), ("b", 0), ("a", 1)))
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, seeded)
    place = relative(np.array([[0, 0], [19, 29]]), (20, 30))
    np.testing.assert_allclose(place, [[0.5 / 30, 0.5 / 20], [29.5 / 30, 19.5 / 20]])
    # read off a map of the image's own size, a row is its pixel
    picture = np.arange(600, dtype=np.float32).reshape(1, 1, 20, 30)
    rows = readers.get("point").read(
        [(1, torch.from_numpy(picture))], torch.zeros(10, dtype=torch.int64),
        torch.from_numpy(relative(first, (20, 30))), "last",
    )  # fmt: skip
    np.testing.assert_allclose(rows[:, 0].numpy(), picture[0, 0][first[:, 0], first[:, 1]], atol=1e-3)


def test_a_plan_is_balanced_bounded_and_the_same_every_time(scenes):
    items = scenes.indices("train", "val")
    plan = task.rows(scenes, items)
    assert (plan.reader, len(plan)) == ("point", 77 * len(items))  # of 18 images, 1,400 at most
    assert np.array_equal(plan.item, np.sort(plan.item))
    labels = plan.facets["class"].labels
    assert np.bincount(labels).min() > 0.9 * len(plan) / 3
    assert scenes.annotations is not None
    for row in range(0, len(plan), 97):  # labels are those of the masks
        mask = scenes.annotations[int(plan.item[row])]
        x, y = plan.place[row] * [mask.shape[1], mask.shape[0]]  # type: ignore[index]
        assert mask[int(y), int(x)] == labels[row] != IGNORE
    few = task.rows(scenes, items, limit=90)
    assert len(few) == 90
    assert set(few.addresses(scenes.hashes)) <= set(plan.addresses(scenes.hashes))
    least = task.rows(scenes, items, limit=7)
    assert len(np.unique(least.item)) == 7
    assert set(task.rows(scenes, items[:4]).addresses(scenes.hashes)) <= set(plan.addresses(scenes.hashes))


def test_more_pictures_show_fewer_points_each(scenes, monkeypatch):
    """As few of a part of them as of all, so that what the first round of a scan stores serves the last one."""
    monkeypatch.setattr("selector.tasks.segmentation.ENOUGH_ROWS", 30 * 18)
    items = scenes.indices("train", "val")
    assert len(items) == 18
    with monkeypatch.context() as most:  # memory and neighbors do not grow with the images without end
        most.setattr("selector.tasks.segmentation.MOST_ROWS", 18 * 4)
        assert (len(task.rows(scenes, items)), len(task.probe_plan(scenes, items))) == (18 * 4, 18 * 100)
    plan = task.rows(scenes, items)
    assert len(plan) == 30 * 18
    part = task.rows(scenes, items[:5])
    assert len(part) == 30 * 5
    assert set(part.addresses(scenes.hashes)) <= set(plan.addresses(scenes.hashes))
    monkeypatch.setattr("selector.tasks.segmentation.ENOUGH_ROWS", 18)
    few = task.rows(scenes, items)
    assert len(few) == 7 * 18
    probe = task.probe_plan(scenes, items)  # what a decoder starts as learns from more
    assert len(probe) == 100 * 18
    assert set(few.addresses(scenes.hashes)) <= set(probe.addresses(scenes.hashes))


def test_classes_that_a_split_lacks_are_noted(folder, scenes, tmp_path):
    (balance,) = task.notes(scenes)
    assert balance.startswith("classes differ in size by a factor of 9: the loss is weighted by class")
    shutil.copytree(folder, tmp_path / "scenes")
    for path in (tmp_path / "scenes" / "test" / "masks").iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask == 2, 0, mask).astype(np.uint8)).save(path)
    (tmp_path / "names.txt").write_text("background\ndisc\n{bar}\n")
    assert task.notes(load_target(tmp_path / "scenes", class_names=tmp_path / "names.txt")) == [
        "1 of 3 classes have no pixel in test, such as '{bar}': their IoU there is 0 once a pixel is predicted as them, "
        "and else left out of the mean.",
        balance,
    ]


def test_weights_of_points_add_up_to_the_pixels(scenes):
    plan = task.rows(scenes, scenes.indices("val"))
    weights, labels = point_weights(scenes.annotations, plan), plan.facets["class"].labels  # type: ignore[arg-type]
    pixels = scenes.annotations.pixels[scenes.indices("val")].sum(axis=0)  # type: ignore[union-attr]
    np.testing.assert_allclose(np.bincount(labels, weights), pixels)
    assert estimated_iou(labels, labels, weights, 3) == 1.0


def evaluated(target: Target, logits: torch.Tensor, items: np.ndarray) -> SegmentationStats:
    evaluator = task.evaluator(target)
    for begin in range(0, len(items), 4):
        evaluator.update(logits[begin : begin + 4], items[begin : begin + 4])
    found = evaluator.stats()
    assert isinstance(found, SegmentationStats)
    return found


def test_metrics_are_those_of_torchmetrics(scenes):
    items = scenes.indices("val", "test")
    logits = torch.randn((len(items), 3, 12, 16), generator=torch.Generator().manual_seed(0))
    stats = evaluated(scenes, logits, items)
    iou = MulticlassJaccardIndex(3, average="macro", ignore_index=IGNORE)
    each = MulticlassJaccardIndex(3, average="none", ignore_index=IGNORE)
    accuracy = MulticlassAccuracy(3, average="micro", ignore_index=IGNORE)
    for row, item in zip(logits, items, strict=True):
        mask = torch.from_numpy(scenes.annotations[int(item)]).long()  # type: ignore[index]
        said = functional.interpolate(row[None], tuple(mask.shape), mode="bilinear").argmax(1)[0]
        for metric in (iou, each, accuracy):
            metric.update(said[None], mask[None])
    assert stats.value("miou") == pytest.approx(float(iou.compute()), abs=1e-6)
    assert stats.value("pixel_accuracy") == pytest.approx(float(accuracy.compute()), abs=1e-6)
    table = task.report(stats, scenes.class_names).tables["results by class"]
    np.testing.assert_allclose([line["IoU"] for line in table], each.compute().numpy(), atol=1e-4)
    some = np.array([0, 0, 3])
    parts, wholes = stats.ratio("pixel_accuracy")  # type: ignore[misc]
    assert stats[some].value("pixel_accuracy") == pytest.approx(parts[some].sum() / wholes[some].sum())
    assert stats[np.array([2])].value("miou") == pytest.approx(stats.of_each()[2])
    assert "confusion" not in stats[some].summary


def test_absent_classes_and_empty_masks_do_not_count():
    zero = np.zeros((2, 3), np.int64)
    hit, truth, said = (zero.copy() for _ in range(3))
    truth[0], hit[0], said[0] = [10, 0, 0], [5, 0, 0], [5, 5, 0]
    stats = SegmentationStats({"hit": hit, "truth": truth, "said": said})
    assert stats.value("miou") == pytest.approx((0.5 + 0) / 2)  # class 2 is neither there nor predicted
    assert np.isnan(stats[np.array([1])].value("miou"))
    assert np.isnan(stats.of_each()[1])


def test_outputs_that_are_no_numbers_are_told(scenes):
    logits = torch.zeros((1, 3, 4, 4))
    logits[0, 1, 2, 2] = torch.nan
    with pytest.raises(NotFinite, match="logits must be finite"):
        task.evaluator(scenes).update(logits, scenes.indices("val")[:1])


def test_many_classes_are_read_in_pieces():
    logits = torch.randn((37, 5, 6), generator=torch.Generator().manual_seed(1))
    for size in ((200, 180), (1400, 1400)):  # at once, and 34 classes a piece
        whole = functional.interpolate(logits[None], size, mode="bilinear")[0].argmax(0)
        assert torch.equal(class_map(logits, size), whole)


def test_the_baseline_is_the_most_frequent_class(scenes):
    masks = [scenes.annotations[int(i)] for i in scenes.indices("test")]  # type: ignore[index]
    known = np.concatenate([m[m != IGNORE] for m in masks])
    assert task.baseline(scenes, "pixel_accuracy") == pytest.approx((known == 0).mean())
    assert task.baseline(scenes, "miou") == pytest.approx((known == 0).mean() / 3)


def test_masks_move_with_their_pictures(scenes):
    """An image that shows its mask still shows it after augmentation, whatever size the mask had."""
    items = scenes.indices("train")[:6]
    masks = task.annotations(scenes, items)
    assert {tuple(m.shape) for m in masks} == {(48, 64), (40, 52)}
    pictures = torch.stack(
        [functional.interpolate(m[None, None].float(), (96, 128), mode="nearest-exact")[0, 0] for m in masks]
    )
    batch = pictures.to(torch.uint8)[..., None].repeat(1, 1, 1, 3)
    torch.manual_seed(0)
    moved, after = augmented(batch, masks)
    for picture, mask, before in zip(moved, after, pictures, strict=True):
        assert isinstance(mask, tv_tensors.Mask)
        assert tuple(mask.shape) == (96, 128)
        assert (picture[..., 0] == mask).float().mean() > 0.9  # bilinear edges apart
        assert not torch.equal(mask, before.to(torch.uint8))


def prepared(target: Target, name: str = "timm:test_resnet", **more: Any) -> Any:
    return task.prepared(load(spec(name, **more)), target)


SMALL = {"preprocess": {"input_size": [3, 64, 64]}}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are read at their own size, and decoders are narrow: the code is the same, and quicker."""
    monkeypatch.setattr("selector.modalities.pixels.maps.LEAST_SIDE", 64)
    monkeypatch.setattr(decoders, "_WIDEST", 64)
    monkeypatch.setattr(decoders, "_DPT_NARROWEST", 16)


def test_the_linear_decoder_starts_as_the_probe(scenes):
    """Its logits at a point are the probe's outputs on the row of that point."""
    encoder = prepared(scenes)
    learner: Any = task.learner(encoder, scenes)
    items = scenes.indices("train")
    pixels = pixels_for(scenes)(encoder.preprocess).batch(items)
    batch = ready(pixels, encoder.preprocess)
    plan = task.rows(scenes, items)
    with torch.no_grad():
        rows = learner.eval().rows(batch, [plan.place[plan.item == i] for i in items]).numpy()
    assert rows.shape == (len(plan), task.width(encoder))
    probe = task.probe(scenes, (plan, rows), (plan, rows))
    assert probe is not None
    started: Any = task.learner(encoder, scenes, probe).eval()
    with torch.no_grad():
        maps = started.network.encoder(batch)
        coarse = started.network.decoder(maps)
    # where all maps have a cell's middle at the same place there is nothing to interpolate: compare as maps
    upsampled = torch.cat([functional.interpolate(m, maps[0].shape[2:], mode="bilinear") for m in maps], 1)
    expected = torch.einsum("bdhw,kd->bkhw", upsampled, torch.from_numpy(probe["weight"])) + torch.from_numpy(
        probe["bias"]
    ).reshape(1, -1, 1, 1)
    torch.testing.assert_close(coarse, expected, atol=1e-3, rtol=1e-3)
    labels = plan.facets["class"].labels
    accuracy = ((rows @ probe["weight"].T + probe["bias"]).argmax(1) == labels).mean()
    assert accuracy > 0.8


def test_the_loss_is_weighted_cross_entropy_over_known_pixels(scenes):
    encoder = prepared(scenes)
    learner: Any = task.learner(encoder, scenes)
    size = encoder.preprocess.input_size[1:]
    batch = torch.randn((3, 3, *size), generator=torch.Generator().manual_seed(0))
    masks = [tv_tensors.Mask(torch.randint(0, 4, size, generator=torch.Generator().manual_seed(i))) for i in range(3)]
    masks = [tv_tensors.Mask(torch.where(m == 3, IGNORE, m)) for m in masks]
    learner.eval()
    counts = scenes.annotations.pixels[scenes.indices("train")].sum(axis=0)  # type: ignore[union-attr]
    weights = 1 / np.sqrt(counts)
    assert learner._weights.numpy() / learner._weights[0].item() == pytest.approx(weights / weights[0], rel=1e-4)
    with torch.no_grad():
        logits = learner.network(batch)
        assert logits.shape == (3, 3, *size)
        expected = functional.cross_entropy(logits, torch.stack(masks).long(), learner._weights, ignore_index=IGNORE)
        whole = learner.loss(batch, masks)
        assert float(whole) == pytest.approx(float(expected), rel=1e-5)
        # pieces of a batch add up by their weights
        parts = [(learner.loss(batch[s], masks[s]), learner.weight(masks[s])) for s in (slice(0, 1), slice(1, 3))]
        total = sum(float(loss) * weight for loss, weight in parts) / learner.weight(masks)
        assert total == pytest.approx(float(expected), rel=1e-5)
        nothing = [tv_tensors.Mask(torch.full(size, IGNORE)) for _ in range(3)]
        assert float(learner.loss(batch, nothing)) == 0.0
    assert learner.weight(nothing) == 0.0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("decoder", Segmentation.decoders)
@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit"])
def test_decoders_learn_and_are_built_again(scenes, name, decoder):
    own = task.configured(decoder=decoder)
    encoder = prepared(scenes, name, **SMALL)
    learner: Any = own.learner(encoder, scenes)
    items = scenes.indices("train")[:4]
    batch = ready(pixels_for(scenes)(encoder.preprocess).batch(items), encoder.preprocess)
    masks = own.annotations(scenes, items)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-3 if decoder in LIBRARY else 1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = learner.train().loss(batch, masks)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    new = [n for n, _ in learner.named_parameters() if n.startswith(learner.new)]
    assert new == [n for n, _ in learner.named_parameters() if n.startswith("network.decoder.")]
    recipe = own.recipe(encoder, scenes)
    again: Any = Segmentation().rebuild(recipe, registry_of_sources.get(recipe["source"]).build)
    again.load_state_dict(learner.network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(batch), learner.eval().network(batch))


def test_decoders_are_checked():
    with pytest.raises(ConfigError, match="the task 'classification' has no decoder"):
        registry.get("classification").configured(decoder="fcn")
    assert {task.configured(decoder=d).address for d in ("linear", "fcn")} == {"segmentation", "segmentation fcn"}


def test_pictures_are_read_whole(scenes):
    encoder = prepared(scenes)
    preprocess: Preprocess = encoder.preprocess
    assert (preprocess.crop_mode, preprocess.crop_pct) == ("squash", 1.0)
    height, width = preprocess.input_size[1:]
    assert height < width
    assert width / height == pytest.approx(64 / 48, abs=0.15)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("decoder", "encoder"), [("unet", "test_resnet"), ("segformer", "test_vit"), ("dpt", "test_vit")]
)
def test_library_decoders_go_the_whole_way(scenes, tmp_path, decoder, encoder):
    ranking = selector.rank(
        scenes, zoo=[spec(f"timm:{encoder}", name="tiny", **SMALL)], store=tmp_path / "store", out=tmp_path / "run",
        confirm=True, decoder=decoder, strategies=("full",), max_steps=12, measure_cost="never",
    )  # fmt: skip
    (measured,) = ranking["tiny"].measurements
    assert measured.status == "ok", measured.note
    assert ranking["tiny"].transferability is not None
    model = selector.load_model(tmp_path / "run")
    assert model.config["recipe"]["decoder"] == decoder
    picture, _ = scene(np.random.default_rng(5), (48, 64))
    found = model.predict([picture])
    assert found.masks[0].shape == (48, 64)  # type: ignore[attr-defined]
    session = opened(export_onnx(tmp_path / "run", tmp_path / "model.onnx"))
    batch = torch.randn((1, *model.preprocess.input_size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.module(batch)
    logits = session.run(["logits"], {session.get_inputs()[0].name: batch.numpy()})[0]
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-3)


def test_dpt_fuses_maps_of_any_patch_and_size():
    for strides, size in (((14, 14, 14, 14), (15, 13)), ((4, 8, 16, 32), (19, 26))):
        decoder = decoder_of("dpt", (8, 8, 8, 8), strides, 3)
        maps = [torch.randn(2, 8, -(-size[0] * strides[0] // s), -(-size[1] * strides[0] // s)) for s in strides]
        factor = 8 if strides[0] == 14 else 2
        assert decoder(maps).shape == (2, 3, factor * size[0], factor * size[1])


def test_a_decoder_that_is_not_installed_says_its_extra(monkeypatch):
    monkeypatch.setattr("selector.tasks.segmentation.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"needs the extra 'decoders'; run: pip install 'zoo-selector\[decoders\]'"):
        task.configured(decoder="dpt")


@pytest.fixture(scope="module")
def tuned(scenes: Target, tmp_path_factory: pytest.TempPathFactory) -> FineTuningResult:
    """A tiny network, frozen from the probe and trained a little: it draws well enough."""
    return run_fine_tuning(
        [TuningCandidate("tiny", lambda: load(spec("timm:test_resnet")))],
        scenes, task, pixels_for(scenes), strategies=("frozen", "full"), max_steps=6, device="cpu",
        checkpoint_folder=tmp_path_factory.mktemp("journal"), repeats=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def saved(tuned: FineTuningResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert tuned.best is not None
    folder = tmp_path_factory.mktemp("saved") / "best"
    return save_model(folder, tuned.best, {"name": "scenes"}, tuned.measurements["tiny"], {"license": "mit"})


def test_a_stage_finds_a_network_that_draws(tuned):
    """Frozen from the probe, full not far from it, and the report shows the worst, median and best images."""
    frozen, full = tuned.measurements["tiny"]
    assert (frozen.strategy, full.strategy, full.status) == ("frozen", "full", "ok"), full.note
    assert frozen.val["miou"] > 0.5
    assert full.val["miou"] > frozen.val["miou"] - 0.1
    assert frozen.extra["prior"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert tuned.best.context == {"values": [0, 1, 2]}
    outcome = next(m.extra["error_analysis"] for m in (frozen, full) if "error_analysis" in m.extra)
    groups = [f"The {which} images" for which in ("worst", "worst", "median", "median", "best", "best")]
    assert [s["group"] for s in outcome["samples"]] == groups
    assert [line["class"] for line in outcome["tables"]["results by class"]] == ["background", "disc", "bar"]
    for sample in outcome["samples"]:
        assert [p["title"] for p in sample["pictures"]] == ["picture", "truth", "predicted"]
        assert all(p["uri"].startswith("data:image/jpeg;base64,") for p in sample["pictures"])


def test_masks_are_predicted_at_the_size_of_each_picture(saved, scenes, tmp_path):
    model = load_model(saved)
    rng = np.random.default_rng(5)
    named = {}
    for i, size in enumerate([(48, 64), (96, 131), (61, 40)]):
        picture, named[f"{i}.png"] = scene(rng, size)
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    found = model.predict([str(tmp_path / "*.png"), scene(rng, (50, 50))[0]])
    assert [m.shape for m in found.masks] == [(48, 64), (96, 131), (61, 40), (50, 50)]  # type: ignore[attr-defined]
    hits = [(row.mask == named[Path(row.item).name])[2:].mean() for row in list(found)[:2]]
    assert min(hits) > 0.7
    shares = found[0].values["classes"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["disc"] == pytest.approx((found[0].mask == 1).mean())
    frame = found.to_dataframe()
    assert list(frame.columns) == ["item", "mask", "background", "disc", "bar", "error"]


def test_masks_are_written_as_the_target_writes_them(scenes, tmp_path):
    """Values of the target's own files, in an indexed PNG with a palette; an overlay on request; names that clash."""
    pictures = [scene(np.random.default_rng(i), (48, 64))[0] for i in range(2)]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(pictures[0]).save(tmp_path / folder / "same.png")
    names, context = ("background", "disc", "bar"), {"values": [3, 7, 40]}
    logits = torch.randn((1, 3, 6, 8), generator=torch.Generator().manual_seed(0)).numpy()
    paths = [str(tmp_path / "a" / "same.png"), str(tmp_path / "b" / "same.png")]
    outputs = [task.condensed(logits, path, names, context) for path in paths]
    items = [(p, p) for p in paths] + [("bad", None)]
    found = task.predicted(items, [*outputs, None], ["", "", "is empty"], names, context)
    written = found.write(tmp_path / "out", overlay=True)
    made = sorted(p.name for p in (tmp_path / "out").rglob("*.*"))
    assert made == ["same-2.jpg", "same-2.png", "same.jpg", "same.png"]
    image = Image.open(tmp_path / "out" / "same.png")
    assert image.mode == "P"
    expected = functional.interpolate(torch.from_numpy(logits), (48, 64), mode="bilinear").argmax(1)[0].numpy()
    np.testing.assert_array_equal(np.asarray(image), np.array([3, 7, 40])[expected])
    assert [row.error for row in written] == [None, None, "is empty"]
    assert written.to_dicts()[0]["mask"] == str(tmp_path / "out" / "same.png")
    assert written.table(2)[1][2] == ["bad", "is empty", ""]
    (tmp_path / "names.txt").write_text("")
    with pytest.raises(SelectorError, match=r"masks cannot be written to .*names.txt .*; name another folder"):
        found.write(tmp_path / "names.txt")


def test_values_beyond_a_byte_are_written_in_sixteen_bits():
    png = mask_png(np.array([[0, 1]]), [5, 60000])
    assert np.asarray(Image.open(io.BytesIO(png))).tolist() == [[5, 60000]]


def test_predictions_that_are_no_files_say_so(tmp_path):
    with pytest.raises(ConfigError, match="these predictions are no images, so there is nothing to write"):
        Predictions([], np.empty((0, 2)), ("a", "b")).write(tmp_path)


def test_predict_on_the_command_line(saved, tmp_path):
    for i in range(2):
        Image.fromarray(scene(np.random.default_rng(i), (40, 60))[0]).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    told = CliRunner().invoke(
        app, ["predict", str(saved), str(tmp_path), "--out", str(tmp_path / "masks"), "--overlay", "--json"]
    )
    assert told.exit_code == SOME_FAILED
    rows = json.loads(told.stdout)
    assert [Path(row["mask"]).name if row["mask"] else row["error"] for row in rows][:2] == ["0.png", "1.png"]
    assert rows[2]["error"]
    assert Image.open(tmp_path / "masks" / "0.png").size == (60, 40)
    assert (tmp_path / "masks" / "overlays" / "1.jpg").is_file()


def test_the_exported_network_takes_pictures_of_any_size(saved, tmp_path):
    path = export_onnx(saved, tmp_path / "model.onnx")
    session = opened(path)
    assert session.get_modelmeta().custom_metadata_map["free_size"] == "true"
    network = load_model(saved).module
    for size in ((128, 160), (96, 224), (70, 101)):
        images = torch.randn((3, 3, *size), generator=torch.Generator().manual_seed(0))
        logits, probabilities = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = network(images)
        assert logits.shape == (3, 3, *size)
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-3)
        np.testing.assert_allclose(probabilities, expected.softmax(1).numpy(), atol=1e-4)


class Same(torch.nn.Module):
    """Layers with TensorFlow's 'SAME' padding: even and odd kernels, strides, groups, a pool."""

    def __init__(self) -> None:
        from timm.layers import Conv2dSame
        from timm.layers.pool2d_same import MaxPool2dSame

        super().__init__()
        self.layers = torch.nn.Sequential(
            Conv2dSame(3, 8, 3, stride=2, bias=True), torch.nn.ReLU(), Conv2dSame(8, 8, 5, stride=2, groups=8),
            MaxPool2dSame(3, stride=2), Conv2dSame(8, 2, 2, stride=1),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = torch.nn.functional.interpolate(self.layers(images), size=images.shape[2:], mode="bilinear")
        return maps, maps.softmax(1)


def test_padding_by_the_size_is_left_to_operators_of_onnx(tmp_path):
    from timm.layers import AvgPool2dSame, Conv2dSame

    from selector.deploy.export import _export, _Form, padding_in_the_graph, why_not

    network, path = Same().eval(), tmp_path / "model.onnx"
    axes = {0: torch.export.Dim("batch", min=1), 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    picture = torch.randn((2, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    assert not why_not(network)
    with padding_in_the_graph(network):
        _export(_Form(network, ("images",), [((picture,), ())], ("logits", "probabilities"), (axes,), True), path)
    session = opened(path)
    for size in ((64, 96), (63, 101), (128, 33), (37, 64)):
        images = torch.randn((3, 3, *size), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = network(images)[0].numpy()
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, atol=1e-5)
    assert "0 is dilated" in why_not(torch.nn.Sequential(Conv2dSame(3, 4, 3, dilation=2)))
    assert "0 is a AvgPool2dSame" in why_not(torch.nn.Sequential(AvgPool2dSame(2)))


class Padded(torch.nn.Module):
    """A convolution whose input is padded by code: by as much everywhere, or up to the next even size."""

    def __init__(self, by_size: bool) -> None:
        super().__init__()
        self.layer, self.by_size = torch.nn.Conv2d(3, 2, 3, stride=2), by_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        more = (0, images.shape[3] % 2, 0, images.shape[2] % 2) if self.by_size else (0, 1, 0, 1)
        return self.layer(functional.pad(images, pad=more))


def test_code_that_pads_by_the_size_is_found_before_the_exporter_follows_it():
    """It took minutes without an end; layers that ONNX has operators for are no reason."""
    from selector.deploy.export import pads_by_size

    assert pads_by_size(Padded(True), (3, 64, 96)) == "its code pads by the size of the images"
    assert not pads_by_size(Padded(False), (3, 64, 96))
    assert not pads_by_size(Same().eval(), (3, 64, 96))


def test_a_network_that_refuses_other_sizes_is_exported_at_its_own(saved, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("selector.deploy.export.why_not", lambda module: "stem is dilated")
    path = export_onnx(saved, tmp_path / "model.onnx")
    session = opened(path)
    assert session.get_modelmeta().custom_metadata_map["free_size"] == "false"
    assert "takes images of its own size only (stem is dilated)" in caplog.text


def test_several_decoders_are_compared_in_one_confirmation(folder, tmp_path):
    """A configuration is (model, decoder, strategy): one table, one tuning log, one winner with its decoder.

    From a folder to a saved model that draws: rows are points, classes are counted by the images that show them.
    """
    ranking = selector.rank(
        folder, class_names=folder / "names.txt", zoo=[spec("timm:test_resnet", name="tiny")], proxies=["knn"],
        precision="float32", measure_cost="never", history=False, store=tmp_path / "store", out=tmp_path / "run", confirm=True,
        max_steps=2, strategies=["frozen", "full"], decoder="linear, fcn",
    )  # fmt: skip
    found = {m.strategy: m for m in ranking["tiny"].measurements}
    assert set(found) == {"frozen", "linear/full", "fcn/frozen", "fcn/full"}
    assert all(m.status == "ok" and 0 <= m.val["miou"] <= 1 for m in found.values())
    assert ranking.target["class_counts"] == {"background": 24, "disc": 24, "bar": 24}
    assert found["frozen"].val["miou"] > 0.4
    assert load_model(tmp_path / "run").predict(str(folder / "test" / "images" / "0.png")).masks[0].shape == (40, 52)  # type: ignore[attr-defined, union-attr]
    assert found["fcn/frozen"].steps > 0, "a deep decoder has no probe: frozen trains it"
    trials = {(t["model"], t["strategy"]) for t in ranking.confirmation["history"]}
    assert trials == {("tiny", name) for name in found if name != "frozen"}
    best = max(found.values(), key=lambda m: m.val["miou"])
    config = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    assert config["recipe"]["decoder"] == (best.strategy.partition("/")[0] if "/" in best.strategy else "linear")
    assert "error_analysis" in best.extra


def test_a_whole_segmenter_is_a_candidate_and_is_built_again(scenes, tmp_path):
    """The linear decoder on its maps is a new last layer; all else, its own decoder included, came pretrained."""
    source = spec("torchvision:lraspp_mobilenet_v3_large", weights="none", preprocess={"input_size": [3, 64, 64]})
    encoder = task.prepared(load(source), scenes)
    learner = task.learner(encoder, scenes)
    names = [name for name, _ in learner.named_parameters()]
    assert any(name.startswith("network.encoder.network.classifier.cbr") for name in names)
    assert {name for name in names if name.startswith(learner.new)} == {
        name for name in names if name.startswith("network.decoder.parts")
    }
    batch = torch.randn(1, 3, 64, 96)
    rebuilt = task.rebuild(task.recipe(encoder, scenes), registry_of_sources.get("torchvision").build)
    rebuilt.load_state_dict(learner.network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(batch), learner.eval().network(batch))


@pytest.mark.parametrize("names", [[], ["disc"]])
def test_masks_of_a_model_whose_names_are_gone_are_refused(saved, tmp_path, names):
    """What is kept of a mask while others are predicted needs the names: it raised a raw error."""
    folder = tmp_path / "best"
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"class_names": names}))
    with pytest.raises(ConfigError, match=r"config\.json: class_names"):
        load_model(folder).predict([np.zeros((40, 50, 3), np.uint8)])
