"""Trees of images: listed once, split by folder, paired with the file that annotates each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TypeGuard

from selector.core.errors import TargetError
from selector.core.table import Table
from selector.data._class_names import class_schema, usual_file
from selector.data._hashing import hash_files, walk_files
from selector.data._items import FileItems
from selector.data.reader import SPLIT_NAMES, Options

_LOOKED_AT = 1000  # entries of a folder, to tell what it is

Entry = tuple[str, os.stat_result]


def is_folder(x: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether an input is a path of a folder."""
    return isinstance(x, str | os.PathLike) and Path(x).is_dir()


def listed(root: Path, keep: Callable[[str], bool], below: str = "") -> list[Entry]:
    """Files below a folder, or below one in it, sorted: path with / relative to it, and status; hidden ones are left out."""
    before = f"{below}/" if below else ""
    return sorted((before + path, status) for path, status in walk_files(str(root / below), keep))


def without_suffix(path: str) -> str:
    """A path up to the suffix, by which an image and the file that annotates it are paired."""
    return str(PurePosixPath(path).with_suffix(""))


def holds(root: Path, keep: Callable[[str], bool], depth: int = 3) -> Path | None:
    """A file that ``keep`` takes by its name, in a folder or at most ``depth`` below; few entries of each are looked at."""
    try:
        with os.scandir(root) as entries:
            some = sorted(islice(entries, _LOOKED_AT), key=lambda entry: entry.name)
        some = [entry for entry in some if not entry.name.startswith(".")]
        found = next((Path(entry.path) for entry in some if keep(entry.name) and entry.is_file()), None)
        some = [entry for entry in some if entry.is_dir()]
    except OSError:
        return None  # reading it says why
    if found is not None or not depth:
        return found
    below = (holds(Path(entry.path), keep, depth - 1) for entry in some)
    return next((path for path in below if path is not None), None)


def subfolders(root: Path) -> list[str]:
    """Names of the folders directly in one; none where it cannot be read."""
    try:
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []  # reading it says why


def split_among(parts: Sequence[str]) -> str:
    """The split that one of the folders of a path names; empty where none does."""
    return next((SPLIT_NAMES[part.lower()] for part in parts if part.lower() in SPLIT_NAMES), "")


def by_stem(entries: Sequence[Entry], key: Callable[[str], str], where: str, what: str) -> dict[str, Entry]:
    """Files by a key of their path.

    Raises:
        TargetError: two have the same; names both.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        other = found.setdefault(key(entry[0]), entry)
        if other is not entry:
            raise TargetError(f"{where}: {other[0]} and {entry[0]} are two {what} of one image; keep one of them.")
    return found


def picture_table(
    root: Path,
    entries: Sequence[Entry],
    options: Options,
    role: str,
    column: object,
    *,
    schema: Mapping[str, object] = MappingProxyType({}),
    splits: Sequence[str] = (),
    notes: Sequence[str] = (),
    folder: Path | None = None,
    path: Path | None = None,
) -> Table:
    """The table of images with one annotation each.

    Args:
        entries: the images; ``column`` their annotations, an entry per image.
        role: of the column, which is its name as well.
        schema: what the input says of the annotation; what the caller says of it (``options``) comes before that.
        splits: of each image; empty where no folder and no file says one.
        folder: that the images are named relative to, where that is not the root.
        path: what reads it again, where that is not the root.
    """
    names, where = [name for name, _ in entries], str(folder or root)
    return Table(
        where=str(root),
        name=options.name or (root.name if root.is_dir() else root.stem),
        modality="image",
        items=FileItems(where, names),
        names=names,
        hashes=hash_files(str(root), names, [status for _, status in entries], options.hash_mode, folder=where),
        columns={role: column},
        roles={role: (role,)},
        schema={**schema, **options.schema()},
        splits=splits if any(splits) else None,
        notes=list(notes),
        origin={"path": str(path or root)},
    )


def mask_table(
    root: Path,
    entries: Sequence[Entry],
    masks: list[str],
    options: Options,
    *,
    schema: Mapping[str, object] | None = None,
    splits: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Table:
    """``picture_table`` with a mask file per image, named relative to the folder.

    Args:
        schema: what the layout says of the classes; None where a file of class names in the folder does.
    """
    known = {"mask_names": masks, **(named_classes(root, options) if schema is None else schema)}
    files = FileItems(str(root), masks)
    return picture_table(root, entries, options, "mask", files, schema=known, splits=splits, notes=notes)


def named_classes(root: Path, options: Options) -> dict[str, object]:
    """What a file of class names that lies in the folder says, unless the caller names them."""
    known = usual_file(root)
    return {} if known is None or options.class_names is not None else class_schema(known)


def first_missing(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
