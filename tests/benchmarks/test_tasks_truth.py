"""Ground truth of the coming tasks: its figures, its heads, its maps, its table."""

import json
from importlib import metadata

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, confusion_matrix, jaccard_score, r2_score
from torchvision.ops import box_iou

from benchmarks import architectures
from benchmarks.suite.encoders import Encoder
from benchmarks.tasks import cells, detection, ground_truth, maps, mask_sets, segmentation, vector_sets, vectors
from benchmarks.tasks.cells import Cell, Outcome
from benchmarks.tasks.vector_sets import MULTILABEL, REGRESSION


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ---------------------------------------------------------------------------- the table


def test_a_failed_cell_is_a_row_that_is_tried_again_and_a_finished_one_is_not(tmp_path):
    out, calls = tmp_path / "truth.csv", []
    good, bad = (Cell("regression", "houses", name, "linear", "full") for name in ("good", "bad"))

    def measure(cell):
        calls.append(cell.encoder)
        if cell is bad and calls.count("bad") == 1:
            raise ValueError("out of\nluck")
        return Outcome("r2", 0.25, 0.5, {"log_price": 0.75, "area": 0.25}, {"steps": 3, "rate": "0.01"})

    cells.run([good, bad], measure, out, threads=1)
    first = cells.read(out)
    assert first[bad]["status"] == "failed"
    assert "ValueError: out of | luck" in first[bad]["reason"]
    assert cells.finished(out) == {good}
    cells.run([good, bad], measure, out, threads=1)
    assert calls == ["good", "bad", "bad"]
    row = cells.read(out)[bad]
    assert (row["status"], row["test_value"], row["steps"], row["threads"]) == ("ok", "0.500000", "3", "1")
    assert cells.by_output(row) == {"log_price": 0.75, "area": 0.25}
    assert row["torch"] == metadata.version("torch")
    assert row["cpu"]


def test_names_of_outputs_may_hold_a_colon():
    assert cells.by_output({"test_by_output": "a:b:0.5;c:1.0;"}) == {"a:b": 0.5, "c": 1.0}


def test_every_set_has_cells_of_its_own_and_second_seeds_repeat_no_solved_head():
    for name in ground_truth.SETS:
        first, second = (ground_truth.cells_of(name, seed) for seed in (0, 1))
        assert {cell.set for cell in first} == {name}
        assert len(set(first)) == len(first)
        assert {cell.seed for cell in second} == {1}
        if name not in detection.SETS:
            assert {cell.strategy for cell in second} == {"full"}


# ---------------------------------------------------------------------------- vectors


def test_validation_is_a_fifth_of_train_and_test_stays_whole():
    splits = vector_sets.split(100, 30)
    assert [(splits == part).sum() for part in ("train", "val", "test")] == [80, 20, 30]
    assert (splits[100:] == "test").all()
    assert np.array_equal(splits, vector_sets.split(100, 30))


def test_labels_with_too_few_of_either_kind_are_left_out():
    labels = vector_sets.one_hot([[0, 2], {2}, [2, 0], [2], [], [0, 1, 2]], 3)
    assert labels.tolist() == [[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 1, 1]]
    assert vector_sets.frequent(labels, 2).tolist() == [True, False, False]


def test_measures_are_scikit_learns(rng):
    y, x = rng.standard_normal((50, 2)), rng.standard_normal((50, 2))
    found = vectors.measured(REGRESSION, x, y, ("a", "b"))
    assert list(found.values()) == pytest.approx(r2_score(y, x, multioutput="raw_values").tolist())
    labels = (y > 0).astype(np.float32)
    labels[:, 1] = 1
    assert vectors.measured(MULTILABEL, x, labels, ("a", "b")) == {
        "a": pytest.approx(average_precision_score(labels[:, 0], x[:, 0]))
    }


def test_the_ridge_head_is_scikit_learns_on_raw_features(rng):
    x = (5 + 3 * rng.standard_normal((60, 8))).astype(np.float32)
    y = (x @ rng.standard_normal((8, 2)) + rng.standard_normal((60, 2))).astype(np.float32)
    train, val = np.arange(40), np.arange(40, 60)
    head = vectors.solve(REGRESSION, x, y, train, val)
    rows = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    fits = [Ridge(alpha=p * 40).fit(rows[train], y[train]).predict(rows) for p in vectors.PENALTIES]
    best = min(fits, key=lambda fit: np.mean((fit[val] - y[val]) ** 2))
    assert head.logits(x).numpy() == pytest.approx(best, abs=1e-3)


def test_a_label_without_positives_in_train_gets_its_smoothed_frequency(rng):
    x = rng.standard_normal((30, 4)).astype(np.float32)
    y = np.stack([x[:, 0] > 0, np.zeros(30)], axis=1).astype(np.float32)
    outputs = vectors.solve(MULTILABEL, x, y, np.arange(20), np.arange(20, 30)).logits(x).numpy()
    assert 1 / (1 + np.exp(-outputs[:, 1])) == pytest.approx(0.5 / 21)
    assert average_precision_score(y[20:, 0], outputs[20:, 0]) > 0.9


# ---------------------------------------------------------------------------- maps


def network(module, name="net", native=224):
    card = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, native, native]}
    return maps.MapNetwork(Encoder(name, module.eval(), card, 96))


def test_the_last_map_is_that_of_the_network_and_strides_double():
    torch.manual_seed(0)
    module = architectures.mobilenet_v1(0.25, 0)
    found = network(module)
    assert found.strides == [4, 8, 16, 32]
    pixels = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(found(pixels)[-1], module.forward_features((pixels - 0.5) / 0.5))


@pytest.mark.parametrize(
    ("build", "native", "strides"),
    [
        (lambda: architectures.mobilenet_edgetpu_075(0), 224, [4, 8, 16, 32]),
        (lambda: architectures.open_nsfw(0), 224, [4, 8, 16, 32]),
        (lambda: architectures.cifar_resnet(20, 0), 32, [2, 4, 8]),
        (lambda: architectures.resnet8(0), 32, [2, 4, 8]),
        (lambda: architectures.tiniest(0), 32, [2, 4]),
    ],
)
def test_maps_of_networks_that_timm_lacks(build, native, strides):
    found = network(build(), native=native)
    assert found.strides == strides
    assert [m.shape[1] for m in found(torch.rand(1, 3, 64, 64))] == found.channels


def test_batch_norm_of_the_encoder_stays_as_it_is_in_training():
    found = network(architectures.cifar_resnet(20, 0), native=32).train()
    before = found.body.bn1.running_mean.clone()
    found(torch.rand(2, 3, 32, 32))
    assert torch.equal(found.body.bn1.running_mean, before)
    assert found.training


# ---------------------------------------------------------------------------- segmentation


def test_confusion_and_iou_are_scikit_learns_without_ignored_pixels(rng):
    truth, predicted = (torch.from_numpy(rng.integers(0, 4, (3, 20, 20))) for _ in range(2))
    truth[0, :10] = 7
    matrix = segmentation.confusion(predicted, truth, 4, ignore=7)
    seen = truth != 7
    assert np.array_equal(matrix, confusion_matrix(truth[seen], predicted[seen]))
    assert segmentation.ious(matrix) == pytest.approx(jaccard_score(truth[seen], predicted[seen], average=None))
    assert np.isnan(segmentation.ious(np.diag([3, 0]))).tolist() == [False, True]


def test_points_are_drawn_evenly_by_class_and_never_from_ignored_pixels(rng):
    mask = np.full((20, 20), 9, np.uint8)
    mask[:10], mask[10, :5], mask[11:14] = 0, 1, 2
    places = segmentation.draw_points(mask, 45, 9, rng)
    assert np.bincount(mask[places[:, 0], places[:, 1]]).tolist() == [20, 5, 20]
    assert len(np.unique(places, axis=0)) == 45
    assert segmentation.draw_points(np.full((4, 4), 9, np.uint8), 5, 9, rng).shape == (0, 2)


def test_points_are_read_where_enlarged_maps_have_them():
    torch.manual_seed(0)
    layers = [torch.rand(1, 2, 6, 8), torch.rand(1, 3, 3, 4)]
    whole = torch.cat([F.interpolate(m, size=(12, 16), mode="bilinear") for m in layers], dim=1)[0]
    places = torch.cartesian_prod(torch.arange(12), torch.arange(16))
    found = segmentation.read_points(layers, places, (12, 16))
    assert torch.allclose(found, whole[:, places[:, 0], places[:, 1]].T, atol=1e-6)


def test_the_linear_decoder_is_the_probe_on_maps_side_by_side(rng):
    torch.manual_seed(0)
    layers = [torch.rand(2, 3, 6, 8), torch.rand(2, 5, 3, 4)]
    probe = segmentation.Probe(*(rng.standard_normal(s).astype(np.float32) for s in ((4, 8), 4, 8)))
    decoder = segmentation.Linear([3, 5], 4)
    decoder.set(probe)
    whole = torch.cat([layers[0], F.interpolate(layers[1], size=(6, 8), mode="bilinear")], dim=1)
    expected = (whole.permute(0, 2, 3, 1).numpy() * probe.scale) @ probe.weight.T + probe.bias
    assert decoder(layers).detach().permute(0, 2, 3, 1).numpy() == pytest.approx(expected, abs=1e-5)


def test_picture_and_mask_are_moved_alike():
    """An image whose gray says the class keeps saying it, away from borders between classes."""
    masks = torch.zeros(4, 60, 80, dtype=torch.uint8)
    masks[:, 20:40, 10:50] = 1
    masks[:, 40:, 60:] = 2
    pixels = (masks[:, None] * 100).repeat(1, 3, 1, 1)
    moved, labels = segmentation.augment(pixels, masks, torch.Generator().manual_seed(5))
    assert moved.shape == (4, 3, 60, 80)
    assert len({labels[i].numpy().tobytes() for i in range(4)}) == 2  # mirrored and not
    agree = (moved[:, 0] / 100 - labels).abs() < 0.01
    assert agree.float().mean() > 0.93


def test_a_mosaic_shows_in_each_region_a_photograph_of_the_class_that_its_mask_names(rng):
    """Photographs of one gray a class: brightness is drawn a piece, so what is asked is one value a class."""
    photos = [[Image.new("RGB", (70, 50), (40 + 20 * c,) * 3) for _ in range(2)] for c in range(10)]
    image, mask = mask_sets.mosaic(photos, rng)
    assert image.shape == (180, 240, 3)
    shown = np.unique(mask)
    assert 3 <= len(shown) <= 6
    for label in shown:
        gray = (40 + 20 * int(label)) * np.array([0.7, 1.3])
        values = np.unique(image[mask == label])
        assert len(values) == 1
        assert gray[0] - 1 <= values[0] <= gray[1]
    again = mask_sets.mosaic(photos, np.random.default_rng(0))
    assert np.array_equal(again[1], mask)
    assert not np.array_equal(mask_sets.mosaic(photos, rng)[1], mask)


def test_every_set_with_masks_has_its_own_cells():
    names = {cell.set for name in mask_sets.SETS for cell in ground_truth.cells_of(name, 0)}
    assert names == {"camvid", "dtd10_mosaics"}
    assert {c.head for c in ground_truth.cells_of("dtd10_mosaics", 0)} == {"linear", "deeplabv3"}


# ---------------------------------------------------------------------------- detection


def test_boxes_become_corners_inside_the_picture_and_empty_ones_go():
    boxes = torch.tensor([[10.0, 20, 30, 40], [-5, 0, 10, 10], [90, 90, 50, 50], [5, 5, 0.5, 9], [200, 5, 10, 10]])
    found, kept = detection.corners(boxes, 100, 100)
    assert kept.tolist() == [True, True, True, False, False]
    assert found.tolist() == [[10, 20, 40, 60], [0, 0, 5, 10], [90, 90, 100, 100]]


def test_mirroring_twice_gives_back_picture_and_boxes():
    image, boxes = torch.rand(3, 8, 10), torch.tensor([[1.0, 2, 4, 6]])
    flipped, moved = detection.mirrored(image, boxes)
    assert moved.tolist() == [[6, 2, 9, 6]]
    assert torch.equal(flipped[:, 2:6, 6:9], image[:, 2:6, 1:4].flip(-1))
    again = detection.mirrored(flipped, moved)
    assert torch.equal(again[0], image)
    assert torch.equal(again[1], boxes)


def test_offsets_lead_from_the_jittered_box_to_the_true_one():
    boxes = torch.tensor([[10.0, 20, 50, 80], [0, 0, 30, 12]]).repeat(50, 1)
    moved = detection.jittered(boxes, torch.Generator().manual_seed(0))
    size = moved[:, 2:] - moved[:, :2]
    step = detection.offsets(moved, boxes)
    center = (moved[:, :2] + moved[:, 2:]) / 2 + step[:, :2] * size
    true = size * torch.exp(step[:, 2:])
    assert torch.allclose(torch.cat([center - true / 2, center + true / 2], dim=1), boxes, atol=1e-4)
    assert box_iou(moved, boxes).diagonal().min() > 0.3
    assert step.abs().amax() < 0.5


def test_background_hardly_overlaps_true_boxes():
    boxes = torch.tensor([[10.0, 10, 60, 60], [70, 20, 95, 90]])
    found = detection.background(boxes, 5, 200, 150, torch.Generator().manual_seed(0))
    assert 1 <= len(found) <= 5
    assert box_iou(found, boxes).max() < 0.3
    assert found.min() >= 0
    assert (found.amax(dim=0)[2:] <= torch.tensor([200, 150])).all()
    assert len(detection.background(torch.zeros(0, 4), 5, 200, 150, torch.Generator())) == 0


@pytest.mark.parametrize(
    ("strides", "chosen"),
    [([4, 8, 16, 32], [1, 2, 3]), ([2, 4, 8], [2, 2, 2]), ([13.7] * 4, [3, 3, 3]), ([4.2, 8.7, 21.3, 48], [1, 1, 2])],
)
def test_a_level_reads_the_deepest_map_that_is_fine_enough(strides, chosen):
    assert [detection.choose(strides, level) for level in detection.LEVELS] == chosen


def test_coco_classes_fall_into_twelve_supercategories():
    places = detection.supercategories()
    assert len(places) == 80
    assert [places[i] for i in (0, 2, 9, 16, 24, 32, 39, 53, 56, 63, 72, 73)] == list(
        range(12)
    )  # person, car, light, dog, ...


@pytest.mark.parametrize("frozen", [True, False])
def test_only_a_trained_encoder_moves_and_the_pyramid_sees_one_scale(frozen):
    torch.manual_seed(0)
    body = network(architectures.mobilenet_v1(0.25, 0))
    images = [torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8) for _ in range(10)]
    boxes = [torch.tensor([[10.0, 10, 60, 60]])] * 10
    data = detection.BoxSet(images, boxes, [torch.tensor([1])] * 10, np.array(["train"] * 9 + ["test"]), ("a", "b"))
    model = detection.build(body, 2, frozen)
    before = body.body.stem.weight.clone()
    head = model.head.classification_head.cls_logits.weight.clone()
    detection.fit(model, data, 1e-3, steps=2, seed=0)
    assert torch.equal(before, body.body.stem.weight) is frozen
    assert not torch.equal(head, model.head.classification_head.cls_logits.weight)
    assert set(detection.evaluate(model, data, "test")) == {"map", "map50", "b"}


def test_names_of_classes_come_from_the_schema(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    about = {b"huggingface": json.dumps({"info": {"features": {"classes": ["a", "b"]}}}).encode()}
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(about), tmp_path / "x.parquet")
    assert vector_sets.info(tmp_path / "x.parquet")["classes"] == ["a", "b"]
