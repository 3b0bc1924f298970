"""A dict of split name -> any other kind of input, such as a ``datasets.DatasetDict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from selector.core.errors import TargetError, did_you_mean
from selector.core.table import Table
from selector.data._items import ConcatItems
from selector.data.reader import SPLIT_NAMES, Options, reader, reader_of, split_rank
from selector.tasks._read_labels import as_numbers, plain


def _accepts(x: object, options: Options) -> bool:
    return isinstance(x, Mapping)


@reader("splits", "a dict of split name and data, such as a datasets.DatasetDict", _accepts, columns=True)
def _read(x: Mapping[str, object], options: Options) -> Table:
    where = options.name or "dict of splits"
    if not x:
        raise TargetError(f"{where}: the dict is empty; expected train and perhaps val and test.")
    parts: list[tuple[str, Table]] = []
    for key, value in x.items():
        split = SPLIT_NAMES.get(str(key).lower())
        if split is None:
            raise TargetError(
                f"{where}: unknown split '{key}'{did_you_mean(str(key).lower(), SPLIT_NAMES) or '.'} Expected train, val or test."
            )
        parts.append((split, reader_of(value, options)[1].read(value, options)))
    parts.sort(key=lambda part: split_rank(part[0]))
    first = parts[0][1]
    for split, part in parts[1:]:
        if _shape(part) != _shape(first):
            raise TargetError(
                f"{where}: {split} has different classes or a different kind of items from {parts[0][0]}."
            )
    features = [part.features for _, part in parts if part.features is not None]
    if len({rows.shape[1] for rows in features}) > 1:
        raise TargetError(
            f"{where}: features of the splits differ in width ({', '.join(str(f.shape[1]) for f in features)})."
        )
    for split, part in parts[1:]:
        if part.feature_widths != first.feature_widths:
            raise TargetError(
                f"{where}: {split} has the arrays {dict(part.feature_widths)}, {parts[0][0]} {dict(first.feature_widths)}; "
                "give the same in all splits."
            )
    for split, part in parts:
        for role in part.roles.values():
            for column in role:
                if len(part.columns[column]) != len(part):
                    raise TargetError(
                        f"{where}: {split} has {len(part)} items but {len(part.columns[column])} labels; give one label "
                        "an item."
                    )
    written = all(part.schema.get("written") for _, part in parts)
    columns = {name: _joined([p for _, p in parts], name, written) for name in first.columns}
    return Table(
        where=where,
        name=options.name or first.name,
        modality=first.modality,
        items=ConcatItems([part.items for _, part in parts]),
        names=[f"{split}: {name}" for split, part in parts for name in part.names],
        hashes=[value for _, part in parts for value in part.hashes],
        columns=columns,
        roles=first.roles,
        schema={**first.schema, "written": written},
        splits=[split for split, part in parts for _ in part.hashes],
        notes=[note for _, part in parts for note in part.notes],
        features=np.concatenate(features) if features else None,
        feature_widths=first.feature_widths,
    )


def _shape(table: Table) -> tuple[object, ...]:
    """What all splits share: names of classes, what an item is and what is known of it."""
    named = table.schema.get("class_names") or None, table.schema.get("names")
    return named, table.modality, dict(table.roles)


def _joined(parts: Sequence[Table], name: str, written: bool) -> object:
    """One column of all parts: lists where it is one, else still read lazily."""
    columns = [part.columns[name] for part in parts]
    if not all(isinstance(column, list | tuple | np.ndarray) or hasattr(column, "tolist") for column in columns):
        return ConcatItems(columns)
    joined: list[object] = []
    for part, column in zip(parts, columns, strict=True):
        labels = name in part.roles.get("label", ())
        values = as_numbers(column) if labels and part.schema.get("written") and not written else plain(column)
        joined += list(values)
    return joined
