"""Images: decoded and resized once for all encoders that share a size; geometry moves masks and boxes along."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from selector import modalities
from selector.core.contracts import Items, ProgressCallback, no_progress
from selector.core.errors import BadImagesError
from selector.core.modality import Inputs, Modality
from selector.core.preprocess import Preprocess
from selector.modalities.pixels.decode import (
    TOO_LARGE,
    UnreadableImage,
    canvas_of,
    check_image_file,
    content_hash,
    data_uri,
    pil_to_array,
    pixel_limit,
    read_image,
    read_image_file,
    thumbnail,
    upright_size,
)
from selector.modalities.pixels.formats import IMAGE_SUFFIXES, begins_as_image, count_lacking, is_image_name

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = [
    "IMAGE_SUFFIXES",
    "TOO_LARGE",
    "UnreadableImage",
    "begins_as_image",
    "canvas_of",
    "check_image_file",
    "content_hash",
    "data_uri",
    "is_image_name",
    "pil_to_array",
    "pixel_limit",
    "read_image",
    "read_image_file",
    "upright_size",
]

log = logging.getLogger(__name__)

_OPERATIONS = (40.0, 350.0)
"""Multiply-adds a parameter and image of 224 x 224 pixels: MobileNets below 50, ResNets and ViTs 150 to 200, DenseNets 350."""


@modalities.modality("image")
class ImageModality(Modality["NDArray[np.uint8]", "Tensor", Preprocess]):
    """See ``core.modality``. Batches are uint8 (B, H, W, 3)."""

    kind = "image"
    stage = "decode"
    fixed_shape = True
    resizable = True
    own_is_last = True
    prepare_seconds = (0.002, 0.03)

    def bad_items(self, bad: Mapping[int, str], names: Sequence[str]) -> BadImagesError:
        """See ``core.modality``."""
        from selector.modalities.pixels.prepared import bad_images

        return bad_images(bad, names)

    def lacking_decoders(self, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        """See ``core.modality``; by the suffixes of files."""
        return count_lacking(names)

    def preview(self, items: Items, index: int, name: str, part: slice | None = None) -> dict[str, object]:
        """A thumbnail."""
        try:
            return {"thumbnail": thumbnail(items[index])}
        except (OSError, UnreadableImage) as error:  # moved or deleted since: the report does without
            log.warning("no thumbnail of %s: %s", name, error)
            return {"thumbnail": ""}

    def key(self, preprocess: Preprocess) -> str:
        """See ``core.modality``."""
        return preprocess.pixels_key()

    def prepare(
        self, items: Items, hashes: Sequence[str], names: Sequence[str], preprocesses: Sequence[Preprocess], *,
        folder: Path | None, max_size: int | None = None, device: str = "cpu", on_invalid: Literal["raise", "skip"] = "raise",
        progress: ProgressCallback = no_progress,
    ) -> tuple[dict[str, Inputs], dict[int, str]]:  # fmt: skip
        """See ``core.modality``; each image is decoded once for all sizes."""
        from selector.modalities.pixels.prepared import DEFAULT_MAX_SIZE, open_pixels_many

        opened, bad = open_pixels_many(
            items,
            hashes,
            names,
            preprocesses,
            folder=folder,
            on_invalid=on_invalid,
            progress=progress,
            max_size=DEFAULT_MAX_SIZE if max_size is None else max_size,
        )
        return dict(opened), bad

    def owns(self, batch: object) -> bool:
        """Arrays, and image tensors."""
        return isinstance(batch, np.ndarray) or hasattr(batch, "is_cuda")

    def staged(self, batch: NDArray[np.uint8], device: torch.device) -> Tensor:
        """As a tensor; page-locked for a GPU, so that the copy runs beside the computation."""
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(batch))
        return tensor.pin_memory() if device.type == "cuda" else tensor

    def ready(
        self,
        batch: NDArray[np.uint8] | Tensor,
        preprocess: Preprocess,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Normalized (B, C, H, W)."""
        from selector.modalities.pixels.transform import normalize

        return normalize(batch, preprocess, device, dtype)

    def filled(self, batch: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        """The first image is repeated."""
        lacking = size - len(batch)
        return np.concatenate([batch, np.repeat(batch[:1], lacking, axis=0)]) if lacking else batch

    def repeated(self, batch: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        """See ``core.modality``."""
        return np.resize(batch, (size, *batch.shape[1:])) if len(batch) < size else batch[:size]

    def operations(self, parameters: int, input_size: Sequence[int] | None) -> tuple[float, float]:
        """See ``core.modality``."""
        height, width = _side(input_size)
        low, high = (parameters * each * height * width / 224**2 for each in _OPERATIONS)
        return low, high

    def kept_bytes(self, input_size: Sequence[int] | None) -> int:
        """Decoded, three bytes a pixel."""
        height, width = _side(input_size)
        return 3 * height * width

    def described(self, preprocess: Preprocess) -> str:
        """See ``core.modality``."""
        return f"image of {preprocess.input_size}; free memory, or set a smaller preprocess.input_size."

    def augment(
        self, batch: Tensor, annotations: Sequence[object], mirror: bool = True, level: str = "light"
    ) -> tuple[Tensor, list[object]]:
        """See ``core.modality``; uint8 (B, H, W, C) as a tensor."""
        from selector.modalities.pixels.augmentation import augmented

        return augmented(batch, annotations, mirror, level)

    def mirrored(self, batch: Tensor) -> Tensor:
        """See ``core.modality``; uint8 (B, H, W, C) as a tensor."""
        return batch.flip(2)


def _side(input_size: Sequence[int] | None) -> tuple[int, int]:
    return (224, 224) if input_size is None else (input_size[1], input_size[2])
