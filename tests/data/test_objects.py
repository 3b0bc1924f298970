"""Arrays, torch datasets and dicts of splits."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from selector.core.errors import TargetError
from selector.data import load_target
from tests.support.tables import Pairs

IMAGES = np.random.default_rng(0).integers(0, 255, (18, 6, 5, 3), dtype=np.uint8)
LABELS = [i % 3 for i in range(18)]


def test_arrays():
    target = load_target((IMAGES, np.array(LABELS)), name="mine")
    assert (target.name, target.modality) == ("mine", "image")
    assert target.counts() == {"train": 12, "val": 3, "test": 3}
    assert np.array_equal(target.items[4], IMAGES[4])
    assert target.origin is None
    assert load_target((list(IMAGES), LABELS)).fingerprint == target.fingerprint
    assert load_target((IMAGES[..., 0], LABELS)).items[0].shape == (6, 5)


def test_a_target_is_handed_back():
    target = load_target((IMAGES, LABELS))
    assert load_target(target) is target
    assert len(load_target(target, max_samples=9)) == 9


@pytest.mark.parametrize(
    "convert",
    [
        Image.fromarray,
        lambda image: image,
        lambda image: torch.from_numpy(image).permute(2, 0, 1),
        lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255,
        lambda image: (image / 255).astype(np.float32),
    ],
    ids=["pillow", "array", "uint8 tensor", "float tensor", "float array"],
)
def test_torch_dataset_gives_the_same_items_whatever_the_image_is(convert):
    data = Pairs([(convert(image), label) for image, label in zip(IMAGES, LABELS, strict=True)], ["a", "b", "c"])
    target = load_target(data)
    arrays = load_target((IMAGES, LABELS))
    assert (target.hashes, target.class_names) == (arrays.hashes, ("a", "b", "c"))
    assert np.array_equal(target.items[7], IMAGES[7])
    assert load_target(Subset(data, list(range(9)))).class_names == ("a", "b", "c")
    unnamed = Pairs([(image, torch.tensor(label)) for image, label in data.pairs])
    assert load_target(unnamed).class_names == ("0", "1", "2")


class Endless(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(IMAGES[0], 0)])


class Augmented(Pairs):
    def __getitem__(self, index: int) -> Any:
        image, label = self.pairs[index]
        return np.random.default_rng().integers(0, 255, image.shape, dtype=np.uint8), label


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Pairs([1, 2]), r"Pairs: item 0 is a int; expected a pair \(image, label\)"),
        (Pairs([("x", 1)]), r"Pairs: item 0: the image is a str; expected a Pillow image, an array or a tensor"),
        (Pairs([(torch.randn(3, 4, 4) * 3, 1)]), r"item 0: values from -[\d.]+ to [\d.]+; expected 0\.\.1"),
        (Pairs([(torch.full((3, 4, 4), torch.nan), 1)]), r"item 0: values from nan to nan; expected 0\.\.1"),
        (Pairs([(np.zeros((4, 4), np.int32), 1)]), r"item 0: the image has values of int32; expected uint8"),
        (Augmented(list(zip(IMAGES, LABELS, strict=True))), r"item 0 differs each time it is read; leave random"),
        (Pairs([]), r"Pairs: no items found"),
        (Endless(), r"Endless has no length; expected a map-style Dataset"),
    ],
)
def test_torch_dataset_bad_input(data, message):
    with pytest.raises(TargetError, match=message):
        load_target(data)


def test_dict_of_splits():
    target = load_target({"test": (IMAGES[12:], LABELS[12:]), "train": (IMAGES[:12], LABELS[:12])})
    assert (target.counts(), target.names[0]) == ({"train": 9, "val": 3, "test": 6}, "train: row 0")
    assert np.array_equal(target.items[13], IMAGES[13])
    features = IMAGES.reshape(18, -1) / 255
    rows = load_target({"train": (features[:12], LABELS[:12]), "test": (features[12:], LABELS[12:])})
    assert rows.modality == "rows"
    assert rows.features is not None
    assert rows.features.shape == (18, 90)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, r"dict of splits: the dict is empty; expected train"),
        ({"tran": (IMAGES, LABELS)}, r"unknown split 'tran'; did you mean 'train'\?"),
        ({"train": (IMAGES, LABELS), "test": (IMAGES, LABELS[:3])}, r"test has 18 items but 3 labels"),
        (
            {"train": (IMAGES, LABELS), "test": (np.eye(3), [0, 1, 2])},
            r"test has different classes or a different kind",
        ),
        ({"train": (np.eye(3), LABELS[:3]), "test": (np.eye(4), LABELS[:4])}, r"differ in width \(3, 4\)"),
    ],
)
def test_dict_of_splits_bad_input(data, message):
    with pytest.raises(TargetError, match=message):
        load_target(data)


def test_masked_arrays_are_not_read_beneath_their_mask():
    labels = np.ma.masked_equal(LABELS, 2)
    with pytest.raises(TargetError, match="row 2 has no label"):
        load_target((IMAGES, labels))
    images = np.ma.masked_array(IMAGES, mask=np.zeros(IMAGES.shape, bool))
    images.mask[3, 0, 0, 0] = True
    with pytest.raises(TargetError, match=r"a masked array in which 1 values are masked \(first: row 3\)"):
        load_target((images, LABELS))
    with pytest.raises(TargetError, match="the features are a masked array"):
        load_target((np.ma.masked_invalid(np.array([[1.0, np.nan]] * 18)), LABELS))
    whole = load_target((IMAGES, np.ma.masked_array(LABELS, mask=False)))
    assert whole.counts() == {"train": 12, "val": 3, "test": 3}


def test_images_in_memory_of_every_kind(tmp_path):
    expected = load_target((IMAGES, LABELS))
    paths = []
    for i, image in enumerate(IMAGES):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    channels_first = IMAGES.transpose(0, 3, 1, 2)
    same = [
        load_target(([Image.fromarray(image) for image in IMAGES], LABELS)),
        load_target((channels_first, LABELS)),
        load_target((torch.from_numpy(channels_first), torch.tensor(LABELS))),
        load_target((torch.from_numpy(channels_first) / 255, LABELS)),
        load_target([{"image": image, "label": label} for image, label in zip(IMAGES, LABELS, strict=True)]),
        load_target(pd.DataFrame({"image": list(IMAGES), "label": LABELS})),
        load_target(pd.DataFrame({"image": [Image.fromarray(i) for i in IMAGES], "y": LABELS}), label_column="y"),
        load_target(DataLoader(Pairs(list(zip(IMAGES, LABELS, strict=True))), batch_size=4, shuffle=True)),
        load_target(Pairs([{"image": i, "label": k} for i, k in zip(IMAGES, LABELS, strict=True)])),
    ]
    for target in same:
        assert target.hashes == expected.hashes
        assert target.labels.tolist() == expected.labels.tolist()
    for target in (
        load_target(([str(path) for path in paths], LABELS)),
        load_target((paths, np.array(LABELS))),
        load_target(pd.DataFrame({"path": [str(path) for path in paths], "label": LABELS})),
        load_target(pd.DataFrame({"file_name": [p.name for p in paths], "label": LABELS}), image_root=tmp_path),
    ):
        assert target.items[3] == paths[3].read_bytes()
        assert target.labels.tolist() == LABELS
    with pytest.raises(TargetError, match=r"paths: row 2: image '.*no\.png' does not exist in .*--image-root"):
        load_target(([*map(str, paths[:2]), str(tmp_path / "no.png")], LABELS[:3]))
    with pytest.raises(TargetError, match=r"table: row 0: the image is a int; expected a Pillow image, an array"):
        load_target(pd.DataFrame({"image": [1, 2], "label": [0, 1]}))
