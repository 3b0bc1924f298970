"""The layout of Pascal VOC: ``JPEGImages/`` with ``SegmentationClass/`` or ``Annotations/`` (XML), ``ImageSets/`` for splits.

A folder of XML files with or beside their images is read likewise. Where both masks and boxes are there, ``task``
says which are meant: ``segmentation`` or ``detection`` (masks when not given).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from selector.core.errors import TargetError
from selector.core.input_files import open_file, read_file
from selector.core.table import Table
from selector.data._text_rows import read_utf8
from selector.data._trees import (
    Entry,
    by_stem,
    first_missing,
    holds,
    is_folder,
    listed,
    mask_table,
    named_classes,
    picture_table,
    split_among,
    without_suffix,
)
from selector.data.reader import SPLIT_NAMES, Options, reader, split_rank
from selector.modalities.image import is_image_name
from selector.options.data import PathLike

_PICTURES, _MASKS, _BOXES, _SETS = "JPEGImages", "SegmentationClass", "Annotations", "ImageSets"
_LONGEST, _DEEPEST = 1 << 20, 32  # bytes of an XML file, and levels


def _accepts(x: object, options: Options) -> bool:
    if not is_folder(x):
        return False
    root = Path(x)
    if (root / _PICTURES).is_dir():
        return (root / _MASKS).is_dir() or (root / _BOXES).is_dir()
    found = holds(root, _is_xml) if options.task in (None, "detection") else None
    return found is not None and _begins_as_annotation(found)


@reader(
    "voc",
    "a folder in the layout of Pascal VOC (JPEGImages/ with SegmentationClass/ or Annotations/), or of its XML files",
    _accepts,
    rank=10,
)
def _read(x: PathLike, options: Options) -> Table:
    root = Path(x).absolute()
    masks = (root / _PICTURES).is_dir() and (root / _MASKS).is_dir() and options.task != "detection"
    return _of_masks(root, options) if masks else _of_boxes(root, options)


def _begins_as_annotation(path: Path) -> bool:
    try:
        with open_file(path, _LONGEST) as file:
            return b"<annotation" in file.read(4096)
    except OSError:
        return False


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


# ---------------------------------------------------------------------------- splits


def _sets(root: Path, kind: str) -> dict[str, str]:
    """Split by stem, from ``ImageSets/KIND/SPLIT.txt``; ``trainval`` only where there is no train.

    Raises:
        TargetError: an image that stands in two of them.
    """
    folder = root / _SETS / kind
    if not folder.is_dir():
        folder = root / _SETS / "Main"
    files = {path.stem.lower(): path for path in sorted(folder.glob("*.txt"))} if folder.is_dir() else {}
    named = {SPLIT_NAMES[stem]: path for stem, path in files.items() if stem in SPLIT_NAMES}
    if "train" not in named and "trainval" in files:
        named["train"] = files["trainval"]
    found: dict[str, str] = {}
    for split in sorted(named, key=split_rank):
        for number, line in enumerate(read_utf8(named[split]).splitlines(), 1):
            if not line.strip():
                continue
            stem = line.split()[0]
            other = found.setdefault(stem, split)
            if other != split:
                raise TargetError(f"{named[split]}:{number}: {stem} is in {other} as well; keep it in one of them.")
    return found


# ---------------------------------------------------------------------------- masks


def _of_masks(root: Path, options: Options) -> Table:
    images = by_stem(listed(root / _PICTURES, is_image_name), without_suffix, str(root), "files")
    masks = by_stem(listed(root / _MASKS, is_image_name), without_suffix, str(root), "masks")
    sets = _sets(root, "Segmentation")
    stems = sorted(sets or masks)
    lost = [f"{_PICTURES}/{stem}.jpg" for stem in stems if stem not in images]
    if lost:
        raise TargetError(
            f"{root}: no image {first_missing(lost)}; add it or remove its mask and its line in {_SETS}/."
        )
    bare = [f"{_MASKS}/{stem}.png" for stem in stems if stem not in masks]
    if bare and len(bare) < len(stems):
        stems = [stem for stem in stems if stem in masks or sets.get(stem) != "test"]  # a test set without truth
    lacking = [f"{_MASKS}/{stem}.png" for stem in stems if stem not in masks]
    if lacking:
        raise TargetError(f"{root}: no mask {first_missing(lacking)}; add it or remove its line in {_SETS}/.")
    kept: list[Entry] = [(f"{_PICTURES}/{images[stem][0]}", images[stem][1]) for stem in stems]
    return mask_table(
        root,
        kept,
        [f"{_MASKS}/{masks[stem][0]}" for stem in stems],
        options,
        splits=[sets.get(stem, "") for stem in stems] if sets else (),
        notes=[f"{len(bare)} images of the test split have no mask and were left out"] if bare else [],
    )


# ---------------------------------------------------------------------------- boxes


def _of_boxes(root: Path, options: Options) -> Table:
    inside = (root / _PICTURES).is_dir()
    files = [path for path, _ in listed(root, _is_xml, _BOXES if inside else "")]
    images = dict(listed(root, is_image_name, _PICTURES if inside else ""))
    by_name: dict[str, list[str]] = {}
    for path in images:
        by_name.setdefault(PurePosixPath(path).stem, []).append(path)
    sets = _sets(root, "Main") if inside else {}
    cells: dict[str, tuple[str, dict[str, Any]]] = {}
    lowest = 1.0
    for path in files:
        cell, filename = _of_xml(root / path)
        stem = PurePosixPath(path).stem
        if sets and stem not in sets:
            continue
        image = _picture_of(path, filename, by_name, str(root))
        other = cells.setdefault(image, (path, cell))
        if other[0] != path:
            raise TargetError(f"{root}: {other[0]} and {path} are two annotations of {image}; keep one of them.")
        lowest = min([lowest, *(value for box in cell["boxes"] for value in box[:2])])
    chosen = [path for path in images if path in cells or (not sets or PurePosixPath(path).stem in sets)]
    return picture_table(
        root,
        [(path, images[path]) for path in chosen],
        options,
        "boxes",
        [cells[path][1] if path in cells else None for path in chosen],
        # VOC counts pixels from 1; who writes 0 does not
        schema={"box_format": "xyxy", "box_offset": 1 if lowest >= 1 else 0, **named_classes(root, options)},
        splits=[sets.get(PurePosixPath(path).stem, "") or split_among(path.split("/")[:-1]) for path in chosen],
    )


def _picture_of(path: str, filename: str, by_name: dict[str, list[str]], where: str) -> str:
    """The image of an XML file: of the same name, else the one it names; of several the nearest."""
    for stem in (PurePosixPath(path).stem, PurePosixPath(filename).stem):
        found = by_name.get(stem, [])
        if len(found) > 1:
            own = path.split("/")[:-1]
            found = sorted(found, key=lambda p: -sum(a == b for a, b in zip(own, p.split("/"), strict=False)))
        if found:
            return found[0]
    raise TargetError(f"{where}: {path}: its image '{filename or PurePosixPath(path).stem}' does not exist; add it.")


def _of_xml(path: Path) -> tuple[dict[str, Any], str]:
    """Boxes of one file, and the name of its image.

    Raises:
        TargetError: not XML, an object without a name or a box; with the line.
    """
    root = _parse(path)
    boxes: list[Sequence[float]] = []
    labels: list[str] = []
    lines: list[str] = []
    for one in root.iter("object"):
        line = f"{path}:{one.get('line')}"
        name, box = one.findtext("name"), one.find("bndbox")
        if not (name or "").strip() or box is None:
            raise TargetError(f"{line}: an object without a {'box' if name else 'name'}; expected name and bndbox.")
        cells = [box.findtext(side) for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            boxes.append([float(cell or "") for cell in cells])
        except ValueError:
            raise TargetError(f"{line}: the box is {cells}; expected numbers in xmin, ymin, xmax and ymax.") from None
        labels.append(str(name).strip())
        lines.append(line)
    return {"boxes": boxes, "labels": labels, "lines": lines}, (root.findtext("filename") or "").strip()


def _parse(path: Path) -> ElementTree.Element:
    """An XML tree whose elements know their line; no entities, which can make a small file a huge one."""
    try:
        data = read_file(path, _LONGEST, "expected the XML of one image")
    except OSError as error:
        raise TargetError(f"{path} cannot be read ({error.strerror}); make it readable.") from None
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise TargetError(f"{path}:{parser.CurrentLineNumber}: holds an entity declaration; remove it.")

    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise TargetError(
                f"{path}:{parser.CurrentLineNumber}: nested more than {_DEEPEST} levels deep; expected the XML of one "
                "image, which has four."
            )
        builder.start(tag, {**attributes, "line": str(parser.CurrentLineNumber)})

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        root = builder.close()
    except (expat.ExpatError, AssertionError) as error:
        raise TargetError(f"{path}: not readable as XML ({error}).") from None
    if root.tag != "annotation":
        raise TargetError(f"{path}: its root is <{root.tag[:40]}>; expected <annotation>.")
    return root
