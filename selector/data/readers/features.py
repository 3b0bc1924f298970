"""Ready features: ``(features, labels)`` with float features (N, D); there is nothing to extract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from selector.core.contracts import Modality
from selector.core.errors import TargetError
from selector.core.task import Table
from selector.data._columns import STRINGS
from selector.data._items import ListItems
from selector.data.reader import Found, Options, reader, refuse_masked
from selector.modalities.image import content_hash


def _accepts(x: Any, options: Options) -> bool:
    return (
        isinstance(x, tuple)
        and len(x) == 2
        and isinstance(x[0], np.ndarray)
        and x[0].ndim <= 2
        and x[0].dtype.kind not in STRINGS
    )


@reader(
    "features",
    "a tuple (float features (N, D), labels)",
    _accepts,
)
def _read(x: tuple[np.ndarray, Sequence[Any] | np.ndarray], options: Options) -> Table:
    features, labels = x
    where = options.name or "features"
    refuse_masked(features, "the features", where)
    if features.ndim != 2 or features.dtype.kind not in "fiu" or 0 in features.shape:
        raise TargetError(f"{where}: features are {features.dtype} {features.shape}; expected floats (N, D).")
    rows = np.ascontiguousarray(features, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise TargetError(
            f"{where}: features hold NaN or inf in {len(bad)} of {len(rows)} rows (first: row {bad[0]}); "
            f"remove these rows or repair what made them."
        )
    return Found(
        where=where,
        name=options.name or "features",
        items=ListItems([]),
        names=[f"row {i}" for i in range(len(rows))],
        labels=labels,
        hashes=[content_hash(row) for row in rows],
        features=rows,
        modality=Modality.ROWS,
    ).table(options)
