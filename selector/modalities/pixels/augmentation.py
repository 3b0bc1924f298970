"""Random variations of training images; imports torch, so what trains imports it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import get_size, resize

SCALES = {"light": (0.7, 1.0), "standard": (0.5, 1.0), "strong": (0.35, 1.0)}
"""Share of the area that a crop keeps."""
RATIO = (0.9, 1.11)  # aspect of a crop
COLORS = {"standard": 0.2, "strong": 0.4}
"""How far brightness, contrast and saturation move where annotations have places in the image."""
MAGNITUDES = {"standard": 5, "strong": 9}
"""Of RandAugment, out of 30: at 9 it turns by 9 degrees and shears by 5."""
ERASED = 0.25  # probability that a rectangle is blanked, of strong augmentation
_PLACED = (tv_tensors.Mask, tv_tensors.BoundingBoxes)


def augmented(
    batch: torch.Tensor, annotations: Sequence[object], mirror: bool = True, level: str = "light"
) -> tuple[torch.Tensor, list[object]]:
    """A random variation of each image.

    Args:
        batch: uint8 tensor (B, H, W, C).
        annotations: an entry per item, of any structure: in it ``tv_tensors`` (masks, boxes) move with their
            image, everything else stays. Those of another size are first brought to that of the prepared
            image, which then is the whole one, squashed.
        mirror: mirror images of half of them.
        level: ``light``, a crop of 70-100% of the area; ``standard``, of 50-100%, and two operations of RandAugment;
            ``strong``, of 35-100%, stronger operations (TrivialAugment, where mirror images are alike) and erased
            rectangles. Images with masks or boxes change their colors instead: those operations would not move them along.

    Draws from torch's global generator.
    Source: Cubuk et al., arXiv:1909.13719 (RandAugment); Mueller and Hutter, arXiv:2103.10158 (TrivialAugment).
    """
    size = (batch.shape[1], batch.shape[2])
    images, moved = [], []
    changes: dict[bool, Callable[..., Any]] = {}
    for image, annotation in zip(batch.permute(0, 3, 1, 2), annotations, strict=True):
        placed = any(isinstance(part, _PLACED) for part in tree_leaves(annotation))
        if placed not in changes:
            changes[placed] = _change(size, mirror, level, placed)
        # an annotation that is a plain tensor would be taken for an image: only tv_tensors may move
        image, annotation = changes[placed](tv_tensors.Image(image), fitted(annotation, size))
        images.append(image.as_subclass(torch.Tensor))
        moved.append(annotation)
    return torch.stack(images).permute(0, 2, 3, 1), moved


def _change(size: tuple[int, int], mirror: bool, level: str, placed: bool) -> v2.Transform:
    steps: list[v2.Transform] = [v2.RandomResizedCrop(size, SCALES[level], RATIO, antialias=True)]
    if mirror:
        steps.append(v2.RandomHorizontalFlip(0.5))
    if level != "light":
        if placed:
            by = COLORS[level]
            steps.append(v2.ColorJitter(by, by, by, by / 4))
        elif level == "strong" and mirror:  # it turns by up to 135 degrees, which symbols do not stand either
            steps.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))
        else:
            steps.append(v2.RandAugment(2, MAGNITUDES[level], interpolation=InterpolationMode.BILINEAR))
        if level == "strong" and not placed:
            steps.append(v2.RandomErasing(ERASED))
    return v2.Compose(steps)


def fitted(annotation: object, size: tuple[int, int]) -> object:
    """An annotation whose masks and boxes are those of the image squashed to (height, width)."""

    def resized(part: object) -> object:
        if tuple(get_size(part)) == size:
            return part
        return resize(part, list(size), InterpolationMode.NEAREST_EXACT, antialias=False)

    return tree_map_only(_PLACED, resized, annotation)
