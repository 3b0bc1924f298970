"""Files of rows: which files stand for a dataset, and their columns one file after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selector.core.contracts import Items
from selector.core.errors import TargetError
from selector.core.input_files import FileRefused
from selector.data._files import split_of
from selector.data._hashing import hash_files
from selector.data._items import FileItems
from selector.data.columns import PATH_COLUMNS, Columns
from selector.data.reader import Options
from selector.modalities.image import check_image_file

_PICTURE_LABELS = ("label", "class", "target", "category", "class_name", "labels")


def of_files(
    root: Path,
    files: Sequence[Path],
    read: Callable[[Path], tuple[dict[str, list[Any]], list[int]]],
    options: Options,
    *,
    written: bool,
) -> Columns:
    """The columns of a file, or of those of a folder that are named by split.

    Args:
        read: cells by column, and the line of each row.
        written: columns are those of the first file, and every other has them; else a cell that lacks is None.

    Raises:
        TargetError: files of several kinds, or with other columns than the first.
    """
    other = next((path.name for path in files if path.suffix != files[0].suffix), None)
    if other is not None:
        raise TargetError(
            f"{root}: found {files[0].name} and {other}; keep files of one kind, since two of them may hold the same."
        )
    parts = [read(path) for path in files]
    first = parts[0][0]
    for path, (columns, _) in zip(files, parts, strict=True):
        if written and set(columns) != set(first):
            raise other_columns(path, list(columns), list(first), files[0])
    known = list(dict.fromkeys(name for columns, _ in parts for name in columns))
    joined = {name: [c for columns, lines in parts for c in columns.get(name, [None] * len(lines))] for name in known}
    several = len(files) > 1
    where = str(root) if several else str(files[0])
    folder = root if root.is_dir() else root.parent
    places = [f"{path}:{line}" for path, (_, lines) in zip(files, parts, strict=True) for line in lines]

    def pictures_of(
        column: str, rows: Sequence[int] | None = None, *, masks: bool = False
    ) -> tuple[Items, Sequence[str], list[str]]:
        return path_pictures(joined[column], rows, places, root, folder, options)

    return Columns(
        where=where,
        name=root.name if root.is_dir() else root.stem,
        columns=joined,
        names=[
            f"{path.name}, line {line}" if several else f"line {line}"
            for path, (_, lines) in zip(files, parts, strict=True)
            for line in lines
        ],
        places=places,
        splits=[split_of(p) for p, (_, lines) in zip(files, parts, strict=True) for _ in lines] if several else None,
        written=written,
        origin={"path": str(root)},
        pictures_of=pictures_of,
        picture_columns=PATH_COLUMNS,
        picture_role="path",
        label_columns=_PICTURE_LABELS,
        values_tell=True,
        **shape_of({name: next((c for c in joined[name] if c is not None), None) for name in known}),
    )


def shape_of(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of lists, and of lists of strings, by a cell of each."""
    lists = [
        name for name, cell in cells.items() if hasattr(cell, "__len__") and not isinstance(cell, str | bytes | dict)
    ]
    lists = [name for name in lists if getattr(cells[name], "ndim", 1) == 1]
    return {"lists": lists, "words": [name for name in lists if all(isinstance(word, str) for word in cells[name])]}


def other_columns(path: Path, found: Sequence[str], expected: Sequence[str], first: Path) -> TargetError:
    """The error about a file that lacks columns of the first one."""
    return TargetError(
        f"{path}: columns {', '.join(found)}; expected {', '.join(expected)} as in {first.name}. Keep the files of one "
        "dataset in a folder."
    )


def path_pictures(
    cells: Sequence[object],
    rows: Sequence[int] | None,
    places: Sequence[str],
    root: Path | None,
    folder: Path,
    options: Options,
) -> tuple[Items, Sequence[str], list[str]]:
    """Images that a column names by their paths.

    Args:
        rows: those that are read; all when not given.
        places: where each row stands.
        root: under whose name hashes are remembered; ``folder``: what paths are relative to.

    Raises:
        TargetError: the first path that leads nowhere, and how many more.
    """
    relative, statuses, shown = [], [], []
    failed: list[TargetError] = []
    for row in range(len(cells)) if rows is None else rows:
        value = cells[row]
        try:
            path, status = picture_path("" if value is None else str(value), places[row], options, folder)
        except TargetError as error:
            failed.append(error)
            continue
        relative.append(path)
        statuses.append(status)
        shown.append(str(value).strip() if path.startswith("..") else path)
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        first, _, advice = str(failed[0]).partition("; ")
        raise TargetError(f"{first}{more}; {advice}")
    hashes = hash_files(str(root or folder), relative, statuses, options.hash_mode, folder=str(folder))
    return FileItems(str(folder), relative), shown, hashes


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
