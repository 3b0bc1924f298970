"""Pairs for domain adaptation: the recipes, and that no source item leaks into the target."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks import da_pairs

EMOTIONS = ["anger", "joy", "optimism", "sadness"]


def write(path, column, items, labels, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"info": {"features": {"label": {"names": names}}}}
    table = pa.table({column: items, "label": pa.array(labels, pa.int64())})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), path)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": "x.png"}


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """A folder of the assets' form with a few random images and texts."""
    folder = tmp_path_factory.mktemp("assets")
    rng = np.random.default_rng(3)
    shapes = {"mnist": (28, 28), "cifar10": (32, 32, 3), "flowers": (32, 32, 3), "dtd10": (40, 32, 3)}
    for name, shape in shapes.items():
        for split, count in (("train", 80), ("test", 40)):
            images = [png(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(count)]
            path = folder / "data" / name / f"{split}.parquet"
            write(path, "image", images, np.arange(count) % 10, list("abcdefghij"))
    photos = [png(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(3)]
    write(folder / "data" / "imagenet_val256" / "test.parquet", "image", photos, [0, 1, 2], list("abc"))
    for split in ("train", "test"):
        write(folder / "text" / "sst2" / f"{split}.parquet", "text", ["good", "bad"], [1, 0], ["negative", "positive"])
        words = [f"{split} {name}" for name in EMOTIONS]
        write(folder / "text" / "emotion" / f"{split}.parquet", "text", words, list(range(4)), EMOTIONS)
        for name, intents in (("clinc150", list(da_pairs.INTENTS)), ("banking77", list(da_pairs.INTENTS.values()))):
            names = sorted([*intents, "other"])
            asked = [f"{split} {name} {intent}" for intent in names]
            write(folder / "text" / name / f"{split}.parquet", "text", asked, list(range(len(names))), names)
    return folder


def parts(pair):
    return pair.source, pair.target, pair.target_test


def content(part):
    return [item if isinstance(item, str) else item.tobytes() for item in part.items]


def test_intents_of_the_two_sets_meet_by_their_meaning(assets):
    pair = da_pairs.load("clinc150-banking77", assets)
    source, target = (
        {text: pair.classes[label] for text, label in zip(part.items, part.labels, strict=True)}
        for part in (pair.source, pair.target)
    )
    assert source == {f"train clinc150 {intent}": intent for intent in da_pairs.INTENTS}
    assert target == {f"train banking77 {theirs}": intent for intent, theirs in da_pairs.INTENTS.items()}


@pytest.mark.parametrize("name", da_pairs.NAMES)
def test_a_pair_is_the_same_twice_and_its_domains_share_no_item(assets, name):
    first, second = (da_pairs.load(name, assets) for _ in range(2))
    for one, other in zip(parts(first), parts(second), strict=True):
        assert content(one) == content(other)
        assert np.array_equal(one.labels, other.labels)
        assert len(one.items) == len(one.labels) > 0
        assert set(one.labels.tolist()) <= set(range(len(first.classes)))
    source, target, held = (set(content(part)) for part in parts(first))
    assert not source & target
    assert not (source | target) & held


def test_corrupted_images_keep_their_labels_and_come_from_the_half_that_is_no_source(assets):
    pair = da_pairs.load("cifar10-blur", assets)
    originals, _ = da_pairs._images(assets, "cifar10")
    made_of = {da_pairs.blurred(image, None).tobytes(): row for row, image in enumerate(originals.items)}
    used = [made_of[blurred] for blurred in content(pair.target)]
    assert originals.labels[used].tolist() == pair.target.labels.tolist()
    assert len(set(used)) == len(pair.target)
    assert not {originals.items[row].tobytes() for row in used} & set(content(pair.source))


def test_blend_is_the_absolute_difference_without_wrapping():
    digit, patch = np.array([[[0] * 3, [255] * 3]], np.uint8), np.array([[[7, 8, 9], [255, 0, 100]]], np.uint8)
    assert da_pairs.blend(digit, patch).tolist() == [[[7, 8, 9], [0, 255, 155]]]


def test_recovering_the_digit_from_mnistm(assets):
    """|digit - patch| with a black digit is the patch itself: the image of a photograph."""
    photo = np.arange(40 * 60 * 3, dtype=np.int64).reshape(40, 60, 3).astype(np.uint8)
    patch = da_pairs.patch_of(photo, 28, np.random.default_rng(0))
    assert patch.shape == (28, 28, 3)
    assert any(np.array_equal(patch, photo[i : i + 28, j : j + 28]) for i in range(13) for j in range(33))


def test_noise_has_its_deviation_and_blur_is_scipys():
    rng = np.random.default_rng(0)
    gray = np.full((64, 64, 3), 128, np.uint8)
    assert np.std(da_pairs.noisy(gray, rng).astype(float)) == pytest.approx(25.5, rel=0.05)
    image = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
    expected = np.stack([gaussian_filter(image[..., c].astype(float), 2.0, mode="nearest") for c in range(3)], axis=-1)
    inside = np.s_[10:-10, 10:-10]
    assert np.abs(da_pairs.blurred(image, rng).astype(float) - expected)[inside].mean() < 3


def test_fog_brightens_black_by_its_share_and_leaves_white():
    rng = np.random.default_rng(1)
    black = da_pairs.fogged(np.zeros((32, 32, 3), np.uint8), rng)
    assert (black.min(), black.max()) == (pytest.approx(0.4 * 255, abs=1), pytest.approx(0.8 * 255, abs=1))
    assert (da_pairs.fogged(np.full((32, 32, 3), 255, np.uint8), rng) == 255).all()


def test_label_shift_falls_geometrically():
    labels = np.repeat(np.arange(4), 100)
    counts = np.bincount(labels[da_pairs.shifted(labels, 8.0, np.random.default_rng(0))])
    assert counts.tolist() == [100, 50, 25, 12]
    with pytest.raises(ValueError, match=r"ratio must be >= 1\. Got 0\.5\."):
        da_pairs.shifted(labels, 0.5, np.random.default_rng(0))


def test_emotions_become_polarity(assets):
    pair = da_pairs.load("sst2-emotion", assets)
    found = dict(zip(pair.target.items, pair.target.labels.tolist(), strict=True))
    assert found == {"train anger": 0, "train joy": 1, "train optimism": 1, "train sadness": 0}
    assert pair.classes == ("negative", "positive")


def test_an_unknown_pair_is_named_with_those_that_exist(assets):
    with pytest.raises(ValueError, match=r"no pair is called 'usps'; there are mnist-digits, digits-mnist,"):
        da_pairs.load("usps", assets)
