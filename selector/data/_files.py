"""Files that stand for a dataset: parquet files, CoNLL files or tables of a folder, files named by split."""

from __future__ import annotations

import re
from pathlib import Path

from selector.data.reader import SPLIT_NAMES, split_rank

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", *JSON_LINES)
CONLL = (".conll", ".conllu", ".conllup", ".conll03", ".iob", ".iob2", ".bio", ".bioes", ".txt")


def files_of(path: Path) -> list[Path]:
    """The parquet files that a path stands for: itself, or those in a folder or in its ``data`` folder."""
    if not path.is_dir():
        return [path] if path.suffix.lower() == ".parquet" and path.is_file() else []
    try:
        for place in (path, path / "data"):
            found = sorted(p for p in place.glob("*.parquet") if not p.name.startswith("."))
            if found:
                return found
    except OSError:
        return []  # unreadable: reading it as an image folder says so
    return []


def split_of(path: Path) -> str:
    """The split that a file name begins with; empty where it does not."""
    match = re.match(r"[A-Za-z]+", path.stem)
    return SPLIT_NAMES.get(match[0].lower(), "") if match else ""


def holds_conll(folder: Path) -> bool:
    """Whether a folder is a dataset in CoNLL files, named by split, of which one is for training."""
    return any(split_of(path) == "train" for path in conll_files(folder))


def conll_files(path: Path) -> list[Path]:
    """The CoNLL files that a path stands for: itself, or those of a folder that are named by split, in that order.

    A ``train.txt`` beside other folders, which may be classes of images, is a list of files as often as not.
    """
    found = _by_split(path, CONLL)
    return [p for p in found if p.suffix.lower() != ".txt"] if found and _has_folders(path) else found


def table_files(path: Path) -> list[Path]:
    """The CSV, TSV or JSONL files that a path stands for: itself, or those of a folder, as ``conll_files``.

    None of a folder that holds others, which may be classes of images, or files of another kind.
    """
    found = _by_split(path, TABLES)
    if not path.is_dir() or not found:
        return found
    if files_of(path) or holds_conll(path) or all(split_of(p) != "train" for p in found):
        return []
    return [] if _has_folders(path) else found


def _has_folders(path: Path) -> bool:
    return path.is_dir() and any(p.is_dir() and not p.name.startswith(".") for p in path.iterdir())


def _by_split(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not path.is_dir():
        return [path] if path.suffix.lower() in suffixes and path.is_file() else []
    try:
        found = [p for p in path.iterdir() if p.suffix.lower() in suffixes and p.is_file() and split_of(p)]
    except OSError:
        return []  # unreadable: reading it as an image folder says so
    return sorted(found, key=lambda p: (split_rank(split_of(p)), p.name))
