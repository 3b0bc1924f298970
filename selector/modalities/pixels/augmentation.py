"""Light augmentation of prepared images: geometry moves a picture and its annotation together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SCALE, RATIO = (0.7, 1.0), (0.9, 1.11)  # share of the area that a crop keeps, and its aspect


def augmented(batch: Any, annotations: Sequence[Any], mirror: bool = True) -> tuple[Any, list[Any]]:
    """A crop of 70-100% of each image's area, and, with ``mirror``, a mirror image of half of them.

    Args:
        batch: uint8 tensor (B, H, W, C).
        annotations: an entry an item, of any structure: in it ``tv_tensors`` (masks, boxes) move with their
            picture, everything else stays. Those of another size are first brought to that of the prepared
            picture, which then is the whole one, squashed.
    Draws from torch's global generator.
    """
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import Compose, RandomHorizontalFlip, RandomResizedCrop

    height, width = batch.shape[1:3]
    crop = RandomResizedCrop((height, width), SCALE, RATIO, antialias=True)
    change = Compose([crop, RandomHorizontalFlip(0.5)]) if mirror else crop
    images, moved = [], []
    for image, annotation in zip(batch.permute(0, 3, 1, 2), annotations, strict=True):
        # an annotation that is a plain tensor would be taken for a picture: only tv_tensors may move
        image, annotation = change(tv_tensors.Image(image), fitted(annotation, (height, width)))
        images.append(image.as_subclass(torch.Tensor))
        moved.append(annotation)
    return torch.stack(images).permute(0, 2, 3, 1), moved


def fitted(annotation: Any, size: tuple[int, int]) -> Any:
    """An annotation whose masks and boxes are those of the picture squashed to (height, width)."""
    from torch.utils._pytree import tree_map_only
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import get_size, resize

    kinds = (tv_tensors.Mask, tv_tensors.BoundingBoxes)

    def resized(part: Any) -> Any:
        if tuple(get_size(part)) == size:
            return part
        return resize(part, list(size), InterpolationMode.NEAREST_EXACT, antialias=False)

    return tree_map_only(kinds, resized, annotation)
