"""How far the levels of augmentation go, and what they must leave alone."""

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
def test_masks_and_boxes_move_along(level: str) -> None:
    torch.manual_seed(0)
    images = scene(8)
    masks = [tv_tensors.Mask((image[..., 0] > 0).long()) for image in images]
    boxes = [tv_tensors.BoundingBoxes([[9, 8, 13, 24]], format="XYXY", canvas_size=(32, 32)) for _ in images]
    annotations = [{"mask": mask, "box": box} for mask, box in zip(masks, boxes, strict=True)]
    changed, moved = augmented(images, annotations, True, level)
    for image, found in zip(changed, moved, strict=True):
        there = image.float().mean(2) > image.float().mean(2).max() / 2  # the edge is blurred
        mask = found["mask"].bool()
        assert (there & mask).sum() >= 0.5 * (there | mask).sum()
        left, top, right, bottom = found["box"][0].tolist()
        rows, columns = torch.nonzero(mask, as_tuple=True)
        if len(columns):
            assert abs(left - int(columns.min())) <= 2
            assert abs(bottom - 1 - int(rows.max())) <= 2
            assert right > left
            assert bottom > top


def test_an_unplaced_annotation_may_change_colors_and_shape() -> None:
    torch.manual_seed(0)
    changed, _ = modalities.of("image").augment(scene(), [3] * 32, False, "strong")
    assert len({int(image.sum()) for image in changed}) > 20
