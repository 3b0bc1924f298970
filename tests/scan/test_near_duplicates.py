"""Frames of a video that a split has parted are found; numbers that mean nothing are not taken for a video."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from selector.scan.data_quality import alike_neighbors, likeness_of, numbered, report_frames

FRAMES = 120


def video(seed: int = 0) -> np.ndarray:
    """Thumbnails of a camera that drifts over a landscape, a fifth of the image a frame."""
    rng = np.random.default_rng(seed)
    land = np.kron(rng.normal(size=(8, FRAMES + 8)), np.ones((4, 4)))
    frames = np.stack([land[:, 6 * i // 4 : 6 * i // 4 + 32] for i in range(FRAMES)]) + rng.normal(
        0, 0.3, (FRAMES, 32, 32)
    )
    return np.clip(128 + 40 * frames, 0, 255).astype(np.uint8)


def target(names: list[str], splits: np.ndarray, classes: np.ndarray | None = None) -> SimpleNamespace:
    return SimpleNamespace(names=names, splits=splits, item_classes=classes)


def drawn(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(["train", "val", "test"], FRAMES, p=[0.6, 0.2, 0.2])


def test_frames_that_a_random_split_parted_are_found_and_told():
    frames = target([f"{split}/images/drive_{30 * i:05}.png" for i, split in enumerate(drawn())], drawn())
    pairs, checked = alike_neighbors(frames, partial(likeness_of, video()))
    held_out = {i for i in range(FRAMES) if drawn()[i] != "train"}
    assert {p.held_out for p in pairs} <= held_out
    assert checked <= len(held_out)
    assert len(pairs) > 0.8 * checked
    assert all(abs(p.held_out - p.other) == 1 and drawn()[p.held_out] != drawn()[p.other] for p in pairs)
    caveat = report_frames(pairs, checked, frames)
    assert caveat.code == "neighboring-frames"
    assert caveat.text.startswith(
        f"{len(pairs)} of {checked} held-out images whose neighbor by number is in another split resemble it"
    )
    first = caveat.numbers["listed"][0]
    assert f"such as {first['held_out']} ({first['split']}) and {first['like']} ({first['like_split']})" in caveat.text
    assert len(caveat.numbers["listed"]) == 20
    assert first["similarity"] == max(one["similarity"] for one in caveat.numbers["listed"])


@pytest.mark.parametrize("what", ["numbers that mean nothing", "split by recording", "no numbers", "one split"])
def test_other_targets_are_not_told(what: str):
    splits, order = drawn(), np.arange(FRAMES)
    if what == "numbers that mean nothing":
        order = np.random.default_rng(1).permutation(FRAMES)
    if what == "split by recording":
        splits = np.array(["train"] * 80 + ["val"] * 20 + ["test"] * 20)
    if what == "one split":
        splits = np.array(["train"] * FRAMES)
    names = [f"drive_{order[i]:05}.png" for i in range(FRAMES)]
    if what == "no numbers":
        names = ["".join(chr(97 + int(digit)) for digit in str(i)) + ".png" for i in range(FRAMES)]
    pairs, checked = alike_neighbors(target(names, splits), partial(likeness_of, video()))
    assert not pairs
    assert report_frames(pairs, checked, target(names, splits)) is None


def test_a_sequence_is_of_one_name_and_of_one_class_in_the_order_of_its_numbers():
    names = ["train/a_10.png", "test/a_9.png", "b_1.png", "b.png", "a_11.png", "b_2.png"]
    assert [order.tolist() for order in numbered(target(names, np.array(["train"] * 6)))] == [[1, 0, 4], [2, 5]]
    classes = np.array([0, 0, 1, 1, 1, 1])
    assert [order.tolist() for order in numbered(target(names, np.array(["train"] * 6), classes))] == [[1, 0], [2, 5]]


def test_pictures_sorted_by_class_are_compared_within_their_class():
    """Neighbors in the order are of one class and so alike; within a class numbers mean nothing."""
    rng = np.random.default_rng(3)
    kinds = np.kron(rng.normal(size=(6, 4, 4)), np.ones((8, 8)))
    classes = np.arange(FRAMES) // 20
    pictures = np.clip(128 + 40 * (kinds[classes] + rng.normal(size=(FRAMES, 32, 32))), 0, 255).astype(np.uint8)
    names = [f"{i:04}.png" for i in range(FRAMES)]
    assert alike_neighbors(target(names, drawn()), partial(likeness_of, pictures))[0]
    assert not alike_neighbors(target(names, drawn(), classes), partial(likeness_of, pictures))[0]
