"""What generic code asks of a modality: augmentation that moves annotations along, previews, batches."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from selector import modalities
from selector.core.contracts import Words
from selector.core.errors import TargetError
from selector.core.preprocess import Preprocess, TextPreprocess
from selector.modalities.tokens import TokenizedText, Tokens

IMAGE, TEXT = modalities.of("image"), modalities.of("text")


def test_masks_and_boxes_move_with_the_picture() -> None:
    rng, side = np.random.default_rng(0), 64
    pictures, known = torch.zeros((12, side, side, 3), dtype=torch.uint8), []
    for picture in pictures:
        x, y, w, h = (int(v) for v in rng.integers(8, 24, 4))
        picture[y : y + h, x : x + w] = 200
        mask = tv_tensors.Mask((picture[..., 0] > 0).long())
        boxes = tv_tensors.BoundingBoxes(
            torch.tensor([[x, y, x + w, y + h]]).float(), format="XYXY", canvas_size=(side, side)
        )
        known.append({"mask": mask, "boxes": boxes, "count": 1})
    torch.manual_seed(1)
    changed, told = IMAGE.augment(pictures, known)
    assert changed.shape == pictures.shape
    assert sum(bool((a != b).any()) for a, b in zip(changed, pictures, strict=True)) >= 10
    for picture, one in zip(changed, told, strict=True):
        inside = picture[..., 0] > 100
        assert (inside != one["mask"].bool()).float().mean() < 0.03  # one is bilinear, the other nearest
        assert one["count"] == 1
        rows, columns = torch.nonzero(inside.any(1))[:, 0], torch.nonzero(inside.any(0))[:, 0]
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(one["boxes"][0], [float(v) for v in found], atol=1.6)
    texts = tokens(2, 3)
    assert TEXT.augment(texts, [1, 2]) == (texts, [1, 2])


def test_without_mirror_images_left_stays_left() -> None:
    pictures = torch.zeros((16, 32, 32, 3), dtype=torch.uint8)
    pictures[:, :, :12] = 200  # crops keep 70% of the area: the left edge is bright in some, the right one in none

    def sides(batch: torch.Tensor) -> list[bool]:
        return [bool(p[:, :6].sum() > p[:, -6:].sum()) for p in batch]

    torch.manual_seed(1)
    assert all(sides(IMAGE.augment(pictures, [0] * 16, mirror=False)[0]))
    assert 0 < sum(sides(IMAGE.augment(pictures, [0] * 16)[0])) < 16
    assert not any(sides(IMAGE.mirrored(pictures)))
    assert TEXT.mirrored(tokens(2, 3)) is None


def tokens(*lengths: int) -> Tokens:
    rows = [TokenizedText((np.arange(1, n + 1, dtype=np.int32),), (np.zeros(n, np.uint8),)) for n in lengths]
    return Tokens.of(rows, 0)


def test_batches_are_told_apart_and_filled_up() -> None:
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert modalities.of_batch(pixels) is modalities.of_batch(torch.zeros(1)) is IMAGE
    assert modalities.of_batch(tokens(3, 5)) is TEXT
    with pytest.raises(TypeError, match="a batch is pixels or tokens; got list"):
        modalities.of_batch([1])
    np.testing.assert_array_equal(IMAGE.filled(pixels, 4), pixels[[0, 1, 0, 0]])
    np.testing.assert_array_equal(IMAGE.repeated(pixels, 3), pixels[[0, 1, 0]])
    assert TEXT.filled(batch := tokens(3, 5), 4) is batch
    assert len(TEXT.repeated(batch, 5)) == 5
    assert (IMAGE.rows_of(pixels), TEXT.rows_of(batch)) == (2, 2)


def test_a_modality_is_found_by_what_has_one() -> None:
    assert modalities.of(Preprocess()) is IMAGE
    assert modalities.of(TextPreprocess("{}", 8)) is TEXT
    assert modalities.registry.names() == ["image", "rows", "text"]
    with pytest.raises(TargetError, match="ready features holds rows, which no network reads"):
        modalities.of("rows").prepare([], [], [], [], folder=None)


def test_previews() -> None:
    assert TEXT.preview([("a  b", "c" * 300)], 0, "x") == {"text": f"a b | {'c' * 200}…"}
    assert TEXT.preview([Words(("a", "b", "c"))], 0, "x", slice(1, 3)) == {"words": ["b", "c"]}
    assert TEXT.unusable([" ", "a"]) == {0: "is only whitespace"}
    assert IMAGE.preview([b"no picture"], 0, "x") == {"thumbnail": ""}
    assert IMAGE.preview([np.zeros((4, 4, 3), np.uint8)], 0, "x")["thumbnail"].startswith("data:image/jpeg")
    assert (TEXT.facts(["a"]), TEXT.facts([("a", "b")]), TEXT.facts([Words(("a",))])) == (
        {"pairs": False},
        {"pairs": True},
        {},
    )
