"""Saved models that read images: files, folders, globs, arrays and Pillow images to predict, and their outputs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from io import TextIOBase
from pathlib import Path
from typing import Any

import numpy as np

from selector.core.documents import checked
from selector.core.errors import ConfigError
from selector.core.preprocess import Preprocess
from selector.core.resources import thread_limit, threads_for
from selector.deploy.serializers import serializer
from selector.deploy.serializers._serializer import AGAIN, Keep, Run, Serializer, listed
from selector.modalities.image import IMAGE_SUFFIXES, UnreadableImage, is_image_name
from selector.zoo import PreprocessOverrides

Images = Any
"""A path, a glob, a folder, bytes, a uint8 array or a Pillow image, or a sequence of them."""


@serializer("image")
class ImageSerializer(Serializer[Preprocess]):
    """See ``Serializer``."""

    def checked(self, preprocess: Mapping[str, object], path: Path) -> dict[str, object]:
        """See ``Serializer``."""
        found = checked(PreprocessOverrides, preprocess, path, AGAIN, "preprocess").changes()
        for name, value in preprocess.items():
            if value is None:
                raise ConfigError(f"{path}: preprocess.{name}: expected a value, found None; {AGAIN}.")
        return found

    def read(self, folder: Path, data: Mapping[str, object]) -> Preprocess:
        """See ``Serializer``."""
        return Preprocess.from_dict(data)

    def shape(self, preprocess: Preprocess) -> tuple[int, ...]:
        """See ``Serializer``."""
        return preprocess.input_size

    def noun(self, preprocess: Preprocess) -> str:
        """See ``Serializer``."""
        return "image"

    def collect(
        self, given: object, preprocess: Preprocess, pairs: bool | None, columns: Sequence[str]
    ) -> list[tuple[str, object]]:
        """See ``Serializer``."""
        if columns:
            raise ConfigError(f"text_column={', '.join(columns)} was given, but the model reads images; leave it out.")
        return list(_expand(given))

    def outputs(
        self, run: Run, items: Sequence[Any], preprocess: Preprocess, batch_size: int, device: str, keep: Keep
    ) -> tuple[list[object | None], list[str]]:
        """See ``Serializer``; images are read by several threads."""
        from selector.modalities.pixels.transform import normalize

        outputs: list[object | None] = []
        reasons = []
        with threads_for(min(batch_size, thread_limit()), "decode") as pool:
            for start in range(0, len(items), batch_size):
                part = items[start : start + batch_size]
                read = list(pool.map(lambda image: _read(image, preprocess), part))
                pixels = [one for one in read if not isinstance(one, str)]
                block: Any = run(normalize(np.stack(pixels), preprocess, device)) if pixels else []
                own = iter([block[i : i + 1] for i in range(len(pixels))])
                outputs += [
                    None if isinstance(one, str) else keep(next(own), item)
                    for one, item in zip(read, part, strict=True)
                ]
                reasons += [one if isinstance(one, str) else "" for one in read]
        return outputs, reasons

    def example(self, pairs: bool) -> str:
        """See ``Serializer``."""
        return '"a.jpg"'

    def pipeline(self, preprocess: Preprocess, task: str, *, of_maps: bool) -> str:
        """See ``Serializer``."""
        return f"image-{task}" if of_maps else "image-classification"

    def facts(self, preprocess: Preprocess, pairs: bool) -> str:
        """See ``Serializer``."""
        height, width = preprocess.input_size[1:]
        return (
            f"| input | {height} × {width} RGB, values / 255, mean {list(preprocess.mean)}, std {list(preprocess.std)} |\n"
            f"| resize | {preprocess.interpolation}, crop {preprocess.crop_pct:g} ({preprocess.crop_mode}) |"
        )

    def tensor(self, preprocess: Preprocess) -> str:
        """See ``Serializer``."""
        size = ", ".join(map(str, preprocess.input_size))
        return f"The input is a float tensor (B, {size}), prepared as in the table above."


def _read(image: Any, preprocess: Preprocess) -> np.ndarray | str:
    """uint8 pixels, or why there are none."""
    from selector.modalities.pixels.transform import prepare

    try:
        pixels: np.ndarray = prepare([image], preprocess)[0]
        return pixels
    except UnreadableImage as error:
        text = str(error)
        prefix = f"image {os.fspath(image)} " if isinstance(image, str | os.PathLike) else "\0"
        return text.removeprefix(prefix)


def _expand(images: Images) -> Iterator[tuple[str, object]]:
    """(name, image) of everything that ``images`` stands for."""
    if isinstance(images, str | os.PathLike):
        yield from _files(os.fspath(images))
        return
    if isinstance(images, bytes | np.ndarray) or hasattr(images, "convert"):
        several = isinstance(images, np.ndarray) and images.ndim == 4
        for i, image in enumerate(images if several else [images]):
            yield f"image {i}", image
        return
    if isinstance(images, TextIOBase):
        images = [line.strip() for line in images if line.strip()]
    given = listed(images, "files, folders, globs or images")
    if not given:
        raise ConfigError("there are no images to predict; give files, folders, globs or arrays.")
    for i, image in enumerate(given):
        if isinstance(image, TextIOBase):
            yield from _expand(image)
        elif isinstance(image, str | os.PathLike):
            yield from _files(os.fspath(image))
        else:
            yield f"image {i}", image


def _files(text: str) -> Iterator[tuple[str, str]]:
    path = Path(text)
    if path.is_file():
        yield text, text
        return
    if path.is_dir():
        found = sorted(str(p) for p in path.rglob("*") if is_image_name(p) and p.is_file())
        if not found:
            raise ConfigError(f"folder {text} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    else:
        found = sorted(p for p in glob.glob(text, recursive=True) if Path(p).is_file())  # noqa: PTH207 - may be absolute
        if not found:
            raise ConfigError(f"no image matches '{text}'; give an existing file, a folder or a glob.")
    yield from ((name, name) for name in found)
