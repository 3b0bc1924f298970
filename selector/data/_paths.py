"""Paths of images that a file names: where they lie, and how far they may lead."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from selector.core.errors import TargetError
from selector.core.input_files import FileRefused
from selector.data.reader import Options
from selector.modalities.image import check_image_file


def picture_path(
    value: str, where: str, options: Options, folder: Path, places: Sequence[Path] = ()
) -> tuple[str, os.stat_result]:
    """The path of an image relative to ``folder``, and its status.

    The file that names it was given by the user, and so are the paths in it: they may be absolute or lead anywhere.

    Args:
        value: as the file says it; relative to ``image_root``, or to the first of ``places`` (``folder`` when none are
            given) in which there is such a file.

    Raises:
        TargetError: it is empty, holds what no path can hold, or there is no such file.
    """
    text = value.strip()
    if not text:
        raise TargetError(f"{where}: the path is empty; name an image file.")
    if "\0" in text:
        raise TargetError(f"{where}: the path {text[:60]!r} holds a NUL character; correct it.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise TargetError(f"{where}: the path {text[:60]!a} holds half of a character (a surrogate); correct it.")
    roots = [Path(options.image_root)] if options.image_root is not None else list(places) or [folder]
    for root in roots:
        path = os.path.normpath(root / text)
        try:
            status = os.stat(path)  # noqa: PTH116
            check_image_file(status, text)
        except FileRefused as error:
            raise TargetError(f"{where}: image '{text}' is not read: {error.strerror}.") from None
        except OSError:
            continue
        return Path(os.path.relpath(path, folder)).as_posix(), status
    raise TargetError(
        f"{where}: image '{text}' does not exist in {roots[0]}; correct the path, add the file, or name the folder of the "
        "images with image_root (--image-root)."
    )
