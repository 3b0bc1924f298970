"""How far the levels of augmentation go, and what they must leave alone."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from selector import modalities
from selector.modalities.pixels.augmentation import SCALES, augmented

LEVELS = sorted(SCALES)


def scene(count: int = 32) -> torch.Tensor:
    """Black images with a gray bar that lies left of the middle."""
    images = torch.zeros(count, 32, 32, 3, dtype=torch.uint8)
    images[:, 8:24, 9:13] = 120
    return images


def left_of_middle(images: torch.Tensor) -> list[bool]:
    weights = images.float().mean(3)
    across = (weights.sum(1) * torch.arange(32)).sum(1) / weights.sum((1, 2)).clamp(min=1)
    return (across < 15.5).tolist()


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_keeps_size_and_type_and_follows_the_seed(level: str) -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        changed, known = augmented(scene(), list(range(32)), True, level)
        assert (changed.shape, changed.dtype, known) == ((32, 32, 32, 3), torch.uint8, list(range(32)))
        made.append(changed)
    assert torch.equal(*made)
    assert not torch.equal(made[0], scene())


def test_a_stronger_level_changes_more() -> None:
    torch.manual_seed(0)
    photos = (torch.rand(64, 4, 4, 3).repeat_interleave(8, 1).repeat_interleave(8, 2) * 255).to(torch.uint8)
    moved = [
        float((augmented(photos, [0] * 64, False, level)[0].float() - photos.float()).abs().mean()) for level in SCALES
    ]
    assert moved == sorted(moved)


@pytest.mark.parametrize("level", LEVELS)
def test_digits_are_not_mirrored(level: str) -> None:
    torch.manual_seed(0)
    changed = augmented(scene(64), [0] * 64, False, level)[0]
    shown = changed.float().amax((1, 2, 3)) > 60  # a crop or an erased rectangle may leave nothing of the bar
    placed = [left for left, there in zip(left_of_middle(changed), shown, strict=True) if there]
    if level == "light":
        assert all(placed)
    assert sum(placed) > 0.85 * len(placed)  # a crop may lie so that the bar is right of its middle
    mirrored = left_of_middle(augmented(scene(64), [0] * 64, True, "light")[0])
    assert 0.2 < sum(mirrored) / 64 < 0.8


@pytest.mark.parametrize("level", LEVELS)
def test_masks_and_boxes_move_with_the_picture(level: str) -> None:
    rng, side = np.random.default_rng(0), 64
    pictures, known = torch.zeros((12, side, side, 3), dtype=torch.uint8), []
    for picture in pictures:
        x, y, w, h = (int(v) for v in rng.integers(8, 24, 4))
        picture[y : y + h, x : x + w] = 120
        mask = tv_tensors.Mask((picture[..., 0] > 0).long())
        corners = torch.tensor([[x, y, x + w, y + h]]).float()
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(side, side))
        known.append({"mask": mask, "boxes": boxes, "count": 1})
    torch.manual_seed(1)
    changed, told = modalities.of("image").augment(pictures, known, True, level)
    assert changed.shape == pictures.shape
    assert sum(bool((a != b).any()) for a, b in zip(changed, pictures, strict=True)) >= 10
    for picture, one in zip(changed, told, strict=True):
        inside = picture[..., 0] > picture.max() // 2
        assert (inside != one["mask"].bool()).float().mean() < 0.03  # one is bilinear, the other nearest
        assert one["count"] == 1
        rows, columns = torch.nonzero(inside.any(1))[:, 0], torch.nonzero(inside.any(0))[:, 0]
        if len(rows):  # a crop may leave nothing of it
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(one["boxes"][0], [float(v) for v in found], atol=1.6)


def test_an_unplaced_annotation_may_change_colors_and_shape() -> None:
    torch.manual_seed(0)
    changed, _ = modalities.of("image").augment(scene(), [3] * 32, False, "strong")
    assert len({int(image.sum()) for image in changed}) > 20
