"""Sequences of items: files, in memory, a part of another, several one after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from selector.core.contracts import Items, RawImage, RawText, Words
from selector.modalities.image import read_image_file


class ListItems:
    """Items that lie in memory already (a list of bytes, arrays or texts, or one array over all)."""

    def __init__(self, items: Sequence[RawImage] | Sequence[RawText] | Sequence[Words] | np.ndarray) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int, /) -> Any:
        return self._items[index]


class FileItems:
    """Files below a folder, read when asked for."""

    def __init__(self, root: str, relative: list[str]) -> None:
        self._root, self._relative = root, relative

    def __len__(self) -> int:
        return len(self._relative)

    def __getitem__(self, index: int, /) -> RawImage:
        return read_image_file(os.path.join(self._root, self._relative[index]))  # noqa: PTH118


class SubsetItems:
    """Some items of another sequence, still read lazily."""

    def __init__(self, items: Items, indices: np.ndarray) -> None:
        self.items, self.indices = items, indices
        if isinstance(items, SubsetItems):  # a subset of a subset stays one step from the items
            self.items, self.indices = items.items, items.indices[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Any:
        return self.items[int(self.indices[index])]


class MappedItems:
    """What a function makes of other items, when they are asked for."""

    def __init__(self, items: Any, make: Callable[[Any], Any]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int, /) -> Any:
        return self._make(self._items[index])


class ConcatItems:
    """Several sequences of items, one after another."""

    def __init__(self, parts: Sequence[Items]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._parts) else 0

    def __getitem__(self, index: int, /) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - (int(self._ends[part - 1]) if part else 0)]


def is_tensor(x: object) -> bool:
    """Whether this is a torch tensor; by name, which costs no import."""
    return type(x).__module__.partition(".")[0] == "torch" and hasattr(x, "detach")


def plain_mask(mask: Any) -> Any:
    """A mask in memory as tasks read it: an array, or the image that it is."""
    return mask.detach().cpu().numpy() if is_tensor(mask) else mask


def is_picture(x: Any) -> bool:
    """Whether a row is an image: an array or tensor of two or three axes, or a Pillow image."""
    return isinstance(x, Image.Image) or ((isinstance(x, np.ndarray) or is_tensor(x)) and x.ndim in (2, 3))
