"""Labelled texts: CSV, TSV, JSONL or parquet files, a ``datasets.Dataset``, a ``pandas.DataFrame``, or lists in
memory.

Columns are those that were named, or the only ones with a usual name; where two could be meant, the
message asks. Two text columns make pairs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selector.core.contracts import Modality, RawText
from selector.core.errors import TargetError
from selector.core.task import Table
from selector.data._columns import TEXT_COLUMNS, is_dataset, is_frame, of_type, reads_text, rows_of, text_tables
from selector.data._files import files_of
from selector.data._items import ListItems
from selector.data._tables import (
    Columns,
    column_of,
    of_dataset,
    of_files,
    of_frame,
    of_parquet,
    splits_of,
    usual_of,
)
from selector.data._words import takes_words
from selector.data.reader import Found, Options, reader
from selector.data.readers.parquet import is_text_file
from selector.modalities.text import text_hash

LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "intent", "class_name")

# ---------------------------------------------------------------------------- which inputs


def _accepts(x: Any, options: Options) -> bool:
    if takes_words(x, options):
        return False
    if isinstance(x, tuple) and len(x) == 2:
        return _is_texts(x[0])
    if is_frame(x):
        return True
    if is_dataset(x):
        return reads_text(list(x.features), options, of_type(x.features, "Image"))
    if not isinstance(x, str | os.PathLike):
        return False
    files = files_of(Path(x))
    return is_text_file(files[0], options) if files else bool(text_tables(Path(x), options))


def _is_texts(x: Any) -> bool:
    rows = rows_of(x)
    return rows is not None and (not rows or any(isinstance(row, str) or _is_pair(row) for row in rows))


def _is_pair(x: Any) -> bool:
    return isinstance(x, tuple | list) and len(x) == 2 and all(isinstance(part, str) for part in x)


# ---------------------------------------------------------------------------- reading


@reader(
    "text",
    "a table of texts and labels (CSV, TSV, JSONL, parquet, a folder of them, datasets.Dataset, pandas.DataFrame), or (texts, labels)",
    _accepts,
)
def _read(x: Any, options: Options) -> Table:
    if isinstance(x, tuple):
        return _of_lists(x, options)
    if is_dataset(x) or is_frame(x):
        return _draft(of_dataset(x, options) if is_dataset(x) else of_frame(x, options), options)
    path = Path(x).absolute()
    files = text_tables(path, options)
    table = of_files(path, files) if files else of_parquet(path)
    table.origin = {"path": str(path)}
    return _draft(table, options)


def _draft(table: Columns, options: Options) -> Table:
    texts = [options.text_column] if isinstance(options.text_column, str) else list(options.text_column or ())
    where, known = table.where, list(table.columns)
    if len(texts) == 1 and texts[0] not in known:  # as on the command line
        texts = [name.strip() for name in texts[0].split(",")]
    if len(texts) > 2:
        raise TargetError(f"{where}: text_column names {len(texts)} columns; give one, or two for pairs.")
    taken = [column_of(where, "text", name, known, (), "text_column") for name in texts]
    if len(set(taken)) < len(taken):
        raise TargetError(f"{where}: text_column names '{taken[0]}' twice; give it once, or two columns for pairs.")
    if not taken:
        taken = [column_of(where, "text", None, known, usual_of(known, TEXT_COLUMNS), "text_column")]
    others = [name for name in known if name not in taken]
    usual = list(table.declared_labels) or usual_of(others, LABEL_COLUMNS)
    label = column_of(where, "label", options.one_label, known, usual, "label_column")
    items = _texts(table, taken)
    return Found(
        where=where,
        name=options.name or table.name,
        items=ListItems(items),
        names=table.names,
        labels=list(table.columns[label]),
        written=table.written,
        hashes=[text_hash(text) for text in items],
        splits=splits_of(table, [name for name in others if name != label]),
        class_names=table.class_names(label),
        origin=table.origin,
        modality=Modality.TEXT,
    ).table(options)


def _texts(table: Columns, columns: Sequence[str]) -> list[RawText]:
    found: list[RawText] = []
    for row, parts in enumerate(zip(*(table.columns[name] for name in columns), strict=True)):
        cells = ["" if part is None else part for part in parts]
        for name, cell in zip(columns, cells, strict=True):
            if not isinstance(cell, str):
                raise TargetError(
                    f"{table.where}: {table.names[row]}: column '{name}' holds {type(cell).__name__} ({str(cell)[:40]}); "
                    "expected text."
                )
        found.append(cells[0] if len(cells) == 1 else (cells[0], cells[1]))
    return found


def _of_lists(x: tuple[Any, Any], options: Options) -> Table:
    texts: list[RawText] = []
    where = options.name or "texts"
    for row, text in enumerate(rows_of(x[0]) or ()):
        if isinstance(text, str):
            texts.append(str(text))
        elif _is_pair(text):
            texts.append((text[0], text[1]))
        else:
            raise TargetError(f"{where}: row {row} is a {type(text).__name__}; expected a text or a pair of texts.")
    if len({isinstance(text, str) for text in texts}) > 1:
        raise TargetError(f"{where}: some rows are texts and some are pairs; give all of one kind.")
    return Found(
        where=where,
        name=where,
        items=ListItems(texts),
        names=[f"row {i}" for i in range(len(texts))],
        labels=x[1],
        hashes=[text_hash(text) for text in texts],
        modality=Modality.TEXT,
    ).table(options)
