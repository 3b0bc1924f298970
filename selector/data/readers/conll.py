"""CoNLL files: a word per line with its columns, a blank line between sentences.

Columns stand apart by tabs where the first line has one, else by blanks. The label is the last column
and the word the first unless they are named, by number (from 1; negative ones from the end) or, in
CoNLL-U files, by name. ``-DOCSTART-`` lines are left out, and so are comments before a sentence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selector.core.errors import TargetError, did_you_mean
from selector.core.table import Table
from selector.data._files import conll_files, files_of, holds_conll, split_of
from selector.data._sentences import words_table
from selector.data._text_rows import read_utf8
from selector.data.reader import Options, reader

_UNIVERSAL = (".conllu", ".conllup")  # comments, numbered words, named columns
_NAMES = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_GLOBAL = "# global.columns ="
_COMMENT = re.compile(r"# [A-Za-z][\w.:-]* =(\s|$)")
_START = "-DOCSTART-"


@dataclass
class _Sentence:
    """Lines of one sentence: the number of the first one, and the cells of each."""

    line: int
    rows: list[list[str]] = field(default_factory=list)


def _accepts(x: object, options: Options) -> bool:
    if not isinstance(x, str | os.PathLike):
        return False
    path = Path(x)
    return (holds_conll(path) and not files_of(path)) if path.is_dir() else bool(conll_files(path))


@reader(
    "conll",
    "a CoNLL file (a word and its label a line, blank lines between sentences), or a folder of them",
    _accepts,
    rank=40,
    columns=True,
)
def _read(x: str | os.PathLike[str], options: Options) -> Table:
    root = Path(x).absolute()
    words: list[list[str]] = []
    labels: list[list[str]] = []
    names: list[str] = []
    splits: list[str] = []
    if options.text_column is not None and not isinstance(options.text_column, str):
        raise TargetError(f"{root}: text_column names several columns; the words must be in one.")
    for path in conll_files(root):
        header, sentences = _sentences(path)
        if not sentences:
            raise TargetError(
                f"{path}: no sentences found; expected one word per line with its label, and blank lines."
            )
        width = len(sentences[0].rows[0])
        word = _place(path, "text_column", options.text_column, 1 if "FORM" in header else 0, width, header)
        label = _place(path, "label_column", options.one_label, width - 1, width, header)
        if word == label:
            raise TargetError(
                f"{path}: column {word + 1} of {width} would hold both words and labels; name the other one with "
                "text_column or label_column (--text-column, --label-column)."
            )
        for sentence in sentences:
            words.append([row[word] for row in sentence.rows])
            labels.append([row[label] for row in sentence.rows])
            names.append(f"{path.name}:{sentence.line}" if root.is_dir() else f"line {sentence.line}")
            splits.append(split_of(path))
    name = root.name if root.is_dir() else root.stem
    said, origin = splits if any(splits) else None, {"path": str(root)}
    return words_table(name, str(root), names, words, labels, options, splits=said, origin=origin)


def _place(path: Path, option: str, wanted: str | None, usual: int, width: int, header: Sequence[str]) -> int:
    """Which column plays a role, from 0."""
    if wanted is None:
        return usual
    if wanted in header:
        return header.index(wanted)
    number = wanted.strip().removeprefix("-")
    place = int(wanted) if number.isdigit() else 0
    if not 1 <= abs(place) <= width:
        known = f"{did_you_mean(wanted, header) or '.'} Columns: {', '.join(header)}." if header else "."
        raise TargetError(
            f"{path}: {option} '{wanted}' is not one of its {width} columns; give a number in 1..{width}, or -1 for the "
            f"last{known}"
        )
    return place - 1 if place > 0 else width + place


def _sentences(path: Path) -> tuple[list[str], list[_Sentence]]:
    """Names of the columns where the file has some, and its sentences.

    Raises:
        TargetError: a line with another number of columns, or with one only; with the line.
    """
    text = read_utf8(path)
    universal = path.suffix.lower() in _UNIVERSAL
    first = text.partition("\n")[0]
    header = list(_NAMES) if universal else []
    if universal and first.startswith(_GLOBAL):
        header = first.removeprefix(_GLOBAL).split()
    found: list[_Sentence] = []
    current: _Sentence | None = None
    known: tuple[int, int] | None = None  # the first line with words, and its number of columns
    width = next(
        (len(cells) for _, line, cells in _lines(text, universal) if cells and not line.startswith("# ")), None
    )
    for number, line, cells in _lines(text, universal):
        if not cells:
            current = None
            continue
        # '#' may be a word as well: what is as wide as the other rows is one, unless it says "# key = value"
        if current is None and line.startswith("# ") and width and (len(cells) != width or _COMMENT.match(line)):
            continue
        if known is None:
            known = number, len(cells)
            if len(cells) < 2:
                raise TargetError(
                    f"{path}:{number}: found one column ('{cells[0][:40]}'); expected a word and its label, with blanks "
                    "or a tab between them, on each line."
                )
        if len(cells) != known[1]:
            raise TargetError(
                f"{path}:{number}: found {len(cells)} columns; expected {known[1]} as on line {known[0]}: every word "
                "needs its label."
            )
        if current is None:
            current = _Sentence(number)
            found.append(current)
        current.rows.append(cells)
    return header, found


def _lines(text: str, universal: bool) -> Iterator[tuple[int, str, list[str]]]:
    """(number, line, cells) of each line that counts; no cells between sentences."""
    lines = text.split("\n")
    tabs = any("\t" in line for line in lines[:1000] if not line.startswith("#"))
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(_START):
            yield number, line, []
        elif universal and (line.startswith("#") or not line.partition("\t")[0].isdigit()):
            continue  # a comment; words that others are made of (3-4), or that are not in the text (5.1)
        else:
            cells = [cell.strip() for cell in line.split("\t")] if tabs else line.split()
            yield number, line, cells
