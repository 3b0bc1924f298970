"""A folder with one folder of images for each class, with or without train/, val/ and test/ above them."""

from __future__ import annotations

import os
from pathlib import Path

from selector.core.errors import TargetError
from selector.core.table import Table
from selector.data._files import TABLES
from selector.data._hashing import walk_files
from selector.data._trees import is_folder, picture_table
from selector.data.reader import SPLIT_NAMES, Options, reader
from selector.modalities.image import is_image_name


def _accepts(x: object, options: Options) -> bool:
    return is_folder(x)


@reader("folder", "a folder with one folder of images per class", _accepts, rank=90)
def _read(x: str | os.PathLike[str], options: Options) -> Table:
    root = Path(x).absolute()
    skipped: list[str] = []
    found = sorted(walk_files(str(root), is_image_name, skipped.append), key=lambda entry: entry[0])
    parts = [path.split("/") for path, _ in found]
    split_of = _split_folders(parts)
    depth = 1 if split_of else 0
    rows = [i for i, part in enumerate(parts) if len(part) > depth + 1 and (not split_of or part[0] in split_of)]
    if not rows:
        raise TargetError(
            f"{root}: found {len(found)} images but no class folders with images in them; expected one folder per class, "
            f"such as {root.name}/cat/1.jpg, or {root.name}/train/cat/1.jpg.{_about_tables(root)}"
        )
    notes = []
    if len(rows) < len(found):
        strays = sorted(set(range(len(found))) - set(rows))
        notes.append(f"{len(strays)} images outside class folders were left out, such as {found[strays[0]][0]}")
    if skipped:
        notes.append(f"{len(skipped)} files that are not images were left out, such as {min(skipped)}")
    splits = [split_of[parts[i][0]] for i in rows] if split_of else []
    labels = [parts[i][depth] for i in rows]
    return picture_table(root, [found[i] for i in rows], options, "label", labels, splits=splits, notes=notes)


def _about_tables(root: Path) -> str:
    tables = sorted(path.name for path in root.iterdir() if path.suffix.lower() in TABLES)
    if not tables:
        return ""
    return (
        f" Of the tables in it ({', '.join(tables[:3])}{', ...' if len(tables) > 3 else ''}) give the one that is meant, or a "
        "dict of split and file to selector.load_target; a folder is read as texts when it holds nothing but train.csv, "
        "val.csv and test.csv (or .tsv, .jsonl) with a column of texts."
    )


def _split_folders(parts: list[list[str]]) -> dict[str, str]:
    """Top folders that are splits; empty when they are classes.

    They are splits when one of them is called train and holds class folders, and either another
    split stands beside it or nothing else does: a class may be called ``train``, too.
    """
    tops = {part[0] for part in parts if len(part) > 1}
    nested = {part[0] for part in parts if len(part) > 2}
    named = {top: SPLIT_NAMES[top.lower()] for top in sorted(tops & nested) if top.lower() in SPLIT_NAMES}
    if "train" not in named.values() or (len(named) == 1 and tops != set(named)):
        return {}
    return named
