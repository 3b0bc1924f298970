"""A dict of split name -> any other kind of input, such as a ``datasets.DatasetDict``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from selector.core.errors import TargetError, did_you_mean
from selector.data._build import Draft
from selector.data._items import ConcatItems
from selector.data._kinds import KINDS, SPLIT_NAMES, Kind, Options, kind_of, split_rank
from selector.data._labels import as_numbers, plain


def _accepts(x: Any, options: Options) -> bool:
    return isinstance(x, Mapping)


def _read(x: Mapping[str, Any], options: Options) -> Draft:
    where = options.name or "dict of splits"
    if not x:
        raise TargetError(f"{where}: the dict is empty; expected train and perhaps val and test.")
    parts: list[tuple[str, Draft]] = []
    for key, value in x.items():
        split = SPLIT_NAMES.get(str(key).lower())
        if split is None:
            raise TargetError(
                f"{where}: unknown split '{key}'{did_you_mean(str(key).lower(), SPLIT_NAMES) or '.'} Expected train, val or test."
            )
        parts.append((split, kind_of(value, options)[1].read(value, options)))
    parts.sort(key=lambda part: split_rank(part[0]))
    first = parts[0][1]
    for split, part in parts[1:]:
        same = (part.class_names, part.modality, part.counts is None)
        if same != (first.class_names, first.modality, first.counts is None):
            raise TargetError(f"{where}: {split} has other classes or another kind of items than {parts[0][0]}.")
    features = [part.features for _, part in parts if part.features is not None]
    if len({rows.shape[1] for rows in features}) > 1:
        raise TargetError(
            f"{where}: features of the splits differ in width ({', '.join(str(f.shape[1]) for f in features)})."
        )
    for split, part in parts:
        if len(part.labels) != part.rows:
            raise TargetError(
                f"{where}: {split} has {len(part.hashes)} items but {len(part.labels)} labels; give one label an item."
            )
    written = all(part.written for _, part in parts)
    labels = [as_numbers(p.labels) if p.written and not written else plain(p.labels) for _, p in parts]
    return Draft(
        where=where,
        name=options.name or first.name,
        items=ConcatItems([part.items for _, part in parts]),
        names=[f"{split}: {name}" for split, part in parts for name in part.names],
        labels=[label for part in labels for label in part],
        written=written,
        hashes=[value for _, part in parts for value in part.hashes],
        splits=[split for split, part in parts for _ in part.hashes],
        class_names=first.class_names,
        notes=[note for _, part in parts for note in part.notes or ()],
        features=np.concatenate(features) if features else None,
        modality=first.modality,
        counts=None if first.counts is None else [count for _, part in parts for count in part.counts or ()],
    )


KINDS.register("splits")(Kind("a dict of split name and data, such as a datasets.DatasetDict", _accepts, _read))
