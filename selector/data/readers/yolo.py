"""YOLO's text files: ``labels/NAME.txt`` beside ``images/NAME.jpg``, a line a box (class, center, size as shares).

Class names stand in ``data.yaml`` or ``classes.txt``. Splits are folders within ``images/`` or around it, or what
``data.yaml`` says. An image without a file, or with an empty one, has no boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from selector.core.errors import TargetError
from selector.core.table import Table
from selector.data._class_names import class_schema, read_mapping, usual_file
from selector.data._text_rows import read_utf8
from selector.data._trees import (
    Entry,
    by_stem,
    first_missing,
    is_folder,
    listed,
    picture_table,
    split_among,
    without_suffix,
)
from selector.data.reader import Options, reader
from selector.modalities.image import is_image_name
from selector.options.data import PathLike

_YAML = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def _accepts(x: object, options: Options) -> bool:
    if not is_folder(x):
        return isinstance(x, str | Path) and Path(x).name.lower() in _YAML and Path(x).is_file()
    root = Path(x)
    if (
        not any((root / name).is_file() for name in (*_YAML, "classes.txt", "obj.names"))
        and options.class_names is None
    ):
        return False
    return bool(_labels(root))


def _labels(root: Path) -> list[Entry]:
    """Text files in a folder called labels, or beside images."""
    files = [(path, s) for path, s in listed(root, lambda name: name.lower().endswith(".txt")) if "/" in path]
    inside = [(path, s) for path, s in files if "labels" in path.lower().split("/")[:-1]]
    if inside:
        return inside
    there = {without_suffix(path) for path, _ in listed(root, is_image_name)}
    return [(path, s) for path, s in files if without_suffix(path) in there]


@reader("yolo", "a folder of YOLO text files (images/, labels/ and data.yaml or classes.txt)", _accepts, rank=15)
def _read(x: PathLike, options: Options) -> Table:
    given = Path(x).absolute()
    root = given if given.is_dir() else given.parent
    spec = next((root / name for name in _YAML if (root / name).is_file()), None)
    said = read_mapping(spec) if spec is not None else None
    if said is not None and not isinstance(said, Mapping):
        raise TargetError(f"{spec}: found a {type(said).__name__}; expected names, train and val.")
    labels = by_stem(_labels(root), _key, str(root), "annotations")
    images = listed(root, is_image_name)
    keys = by_stem(images, _key, str(root), "files")
    lost = [path for key, (path, _) in labels.items() if key not in keys]
    if lost:
        raise TargetError(f"{root}: no image for {first_missing(sorted(lost))}; add it or remove the file.")
    names = [path for path, _ in images]
    splits = [split_among(path.split("/")[:-1]) or _split_said(path, said) for path in names]
    if len(set(splits)) > 1 and "" in splits:
        splits = []
    return picture_table(
        root,
        images,
        options,
        "boxes",
        [_boxes(root / labels[key][0]) if key in labels else None for key in map(_key, names)],
        schema={"box_format": "cxcywhn", **_names(root, spec, said)},
        splits=splits,
        path=given,
    )


def _key(path: str) -> str:
    """A path without its suffix and its folder ``images`` or ``labels``, which an image and its file differ by."""
    parts = without_suffix(path).split("/")
    return "/".join(part for part in parts[:-1] if part.lower() not in ("images", "labels")) + "/" + parts[-1]


def _names(root: Path, spec: Path | None, said: object) -> dict[str, object]:
    if isinstance(said, Mapping) and "names" in said:
        return class_schema(said["names"]) if isinstance(said["names"], list | Mapping) else {}
    known = usual_file(root)
    return {} if known is None else class_schema(known)


def _split_said(path: str, said: object) -> str:
    """The split whose folder in data.yaml an image lies in."""
    if not isinstance(said, Mapping):
        return ""
    base = str(said.get("path") or "")
    for split in ("train", "val", "test"):
        folder = said.get(split)
        if isinstance(folder, str):
            inside = PurePosixPath(folder.replace(base, "", 1) if base and folder.startswith(base) else folder)
            parts = [part for part in inside.parts if part not in (".", "..", "/")]
            if parts and path.split("/")[: len(parts)] == parts:
                return split
    return ""


def _boxes(path: Path) -> dict[str, object]:
    boxes: list[list[float]] = []
    labels: list[int] = []
    lines: list[str] = []
    for number, line in enumerate(read_utf8(path).splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        try:
            label, values = int(cells[0]), [float(cell) for cell in cells[1:]]
        except ValueError:
            label, values = -1, []
        if len(values) > 4 and len(values) % 2 == 0:  # a polygon: its box
            xs, ys = values[::2], values[1::2]
            left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
            values = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        if len(values) != 4 or label < 0:
            raise TargetError(
                f"{path}:{number}: found {line.strip()[:60]!r}; expected a class number and four shares (center x, center y, "
                "width, height)."
            )
        boxes.append(values)
        labels.append(label)
        lines.append(f"{path}:{number}")
    return {"boxes": boxes, "labels": labels, "lines": lines}
