"""COCO's JSON of boxes: one file, a file per split, or a folder that holds them (perhaps in ``annotations/``)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selector.core.errors import TargetError
from selector.core.input_files import open_file
from selector.core.table import Table
from selector.data._class_names import read_mapping
from selector.data._tabular import picture_path
from selector.data._trees import Entry, is_folder, picture_table
from selector.data.reader import SPLIT_NAMES, Options, reader, split_rank
from selector.options.data import PathLike

_HEAD = 1 << 16  # bytes that are looked at to tell what a file is
_KEYS = (b'"images"', b'"annotations"', b'"categories"')


def _accepts(x: object, options: Options) -> bool:
    return isinstance(x, str | os.PathLike) and bool(_files(Path(x)))


def _files(path: Path) -> list[Path]:
    """The files that a path stands for, those of a folder in the order of their splits."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and _is_coco(path) else []
    if not is_folder(path):
        return []
    try:
        places = [path, path / "annotations", *sorted(p for p in path.iterdir() if p.name.lower() in SPLIT_NAMES)]
        found = [file for place in places for file in sorted(place.glob("*.json")) if _is_coco(file)]
    except OSError:
        return []
    files = [file for file in found if not re.match(r"(captions|person_keypoints|stuff|panoptic)_", file.name)]
    return sorted(files, key=lambda file: (split_rank(_split_of(file, path)), file.name))


def _is_coco(path: Path) -> bool:
    """Whether a file has the three lists of COCO, of which two may stand far behind."""
    try:
        with open_file(path) as file:
            head = file.read(_HEAD)
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _HEAD))
            tail = file.read()
    except OSError:
        return False
    found = sum(key in head or key in tail for key in _KEYS)
    return head.lstrip()[:1] == b"{" and found >= 2


def _split_of(file: Path, root: Path) -> str:
    """The split that a file's name, or its folder below the root, says."""
    for word in (
        *re.findall(r"[a-z]+", file.stem.lower()),
        *(part.lower() for part in file.relative_to(root).parts[:-1]),
    ):
        if word in SPLIT_NAMES:
            return SPLIT_NAMES[word]
    return ""


@dataclass
class _File:
    path: Path
    split: str
    content: Mapping[str, object]
    names: dict[int, str]


@reader("coco", "a COCO JSON file of boxes, or a folder of them", _accepts, rank=10)
def _read(x: PathLike, options: Options) -> Table:
    root = Path(x).absolute()
    files = [_open(file, _split_of(file, root) if root.is_dir() else "") for file in _files(root)]
    folder = root if root.is_dir() else root.parent
    ids = dict(sorted({number: name for file in files for number, name in file.names.items()}.items()))
    for file in files:
        strange = next((n for n, name in file.names.items() if ids[n] != name), None)
        if strange is not None:
            raise TargetError(
                f"{file.path}: category {strange} is '{file.names[strange]}', but '{ids[strange]}' in another file."
            )
    place = {number: index for index, number in enumerate(ids)}
    entries: list[Entry] = []
    cells: list[dict[str, object]] = []
    splits: list[str] = []
    seen: dict[str, str] = {}
    for file in files:
        rows: dict[Any, dict[str, Any]] = {}
        for number, image in enumerate(_list(file, "images")):
            where = f"{file.path}: images[{number}]"
            if (
                not isinstance(image, Mapping)
                or not isinstance(image.get("file_name"), str)
                or not _is_id(image.get("id"))
            ):
                raise TargetError(f"{where}: expected id and file_name. Got {str(image)[:80]}.")
            entry = picture_path(image["file_name"], where, options, folder, _places(file, folder))
            other = seen.setdefault(entry[0], where)
            if other != where or image["id"] in rows:
                what = f"'{image['file_name']}'" if other != where else f"the id {image['id']}"
                raise TargetError(f"{where}: {what} occurs twice; one image has one entry.")
            rows[image["id"]] = {"boxes": [], "labels": [], "crowd": [], "lines": []}
            entries.append(entry)
            cells.append(rows[image["id"]])
            splits.append(file.split)
        for number, one in enumerate(_list(file, "annotations")):
            where = f"{file.path}: annotations[{number}]"
            if not isinstance(one, Mapping) or "bbox" not in one or "image_id" not in one or "category_id" not in one:
                raise TargetError(f"{where}: expected image_id, category_id and bbox. Got {str(one)[:80]}.")
            if not _is_id(one["image_id"]) or one["image_id"] not in rows:
                raise TargetError(f"{where}: image_id {one['image_id']!r} is not an image of the file.")
            if not isinstance(one["category_id"], int) or one["category_id"] not in place:
                raise TargetError(
                    f"{where}: unknown category_id {one['category_id']!r}; expected one of the categories."
                )
            row = rows[one["image_id"]]
            row["boxes"].append(one["bbox"])
            row["labels"].append(place[one["category_id"]])
            row["crowd"].append(bool(one.get("iscrowd", 0)))
            row["lines"].append(where)
    kind = {"box_format": "xywh"}
    table = picture_table(root, entries, options, "boxes", cells, schema=kind, splits=splits, folder=folder)
    table.schema = {**table.schema, "names": list(ids.values())}
    return table


def _is_id(value: object) -> bool:
    return isinstance(value, int | str)


def _open(path: Path, split: str) -> _File:
    content = read_mapping(path)
    if not isinstance(content, Mapping):
        raise TargetError(f"{path}: found a {type(content).__name__}; expected images, annotations and categories.")
    file = _File(path, split, content, {})
    for number, one in enumerate(_list(file, "categories")):
        if not isinstance(one, Mapping) or not isinstance(one.get("id"), int) or not isinstance(one.get("name"), str):
            raise TargetError(f"{path}: categories[{number}]: expected id and name. Got {json.dumps(one)[:80]}.")
        if one["id"] in file.names:
            raise TargetError(f"{path}: categories[{number}]: the id {one['id']} occurs twice.")
        if not one["name"].strip() or one["name"] in file.names.values():
            what = f"the name '{one['name']}' occurs twice" if one["name"].strip() else "the name is empty"
            raise TargetError(f"{path}: categories[{number}]: {what}; give each category a name of its own.")
        file.names[one["id"]] = one["name"]
    return file


def _list(file: _File, key: str) -> list[object]:
    found = file.content.get(key)
    if not isinstance(found, list):
        raise TargetError(f"{file.path}: '{key}' is {type(found).__name__}; expected a list, as COCO has it.")
    return found


def _places(file: _File, folder: Path) -> list[Path]:
    """Where the images of a file may lie: beside it, in a folder named like its split, in ``images/``."""
    here = file.path.parent
    above = [here, here.parent] if here != folder and here.is_relative_to(folder) else [here]
    words = re.split(r"[_.\-]", file.path.stem)
    names = [
        "images",
        "JPEGImages",
        "data",
        *(f"images/{word}" for word in words),
        *words,
        file.split,
        f"images/{file.split}",
    ]
    return [place for base in above for place in (base, *(base / name for name in names if name))]
