"""A ``.npz`` file of ready features: one or several arrays (N, D) by name, and ``labels``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from selector.core.errors import TargetError
from selector.core.input_files import read_arrays
from selector.core.table import Table
from selector.data.reader import Options, reader
from selector.data.readers.arrays import features_table

LABELS = "labels"


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file by name; pickled objects are refused.

    Raises:
        TargetError: it is no such file, or one of its arrays holds objects.
    """
    try:
        found = read_arrays(path)
    except (OSError, ValueError) as error:
        raise TargetError(
            f"{path}: cannot be read as .npz ({getattr(error, 'strerror', None) or error}); write plain arrays with numpy.savez(path, "
            "clip=features, labels=labels)."
        ) from None
    if isinstance(found, np.ndarray):
        raise TargetError(
            f"{path}: holds one array {found.shape}; expected several by name, as numpy.savez(path, clip=features, "
            "labels=labels) writes them."
        )
    return dict(found)


def _accepts(x: object, options: Options) -> bool:
    return isinstance(x, str | os.PathLike) and Path(x).suffix.lower() == ".npz" and Path(x).is_file()


@reader(
    "npz",
    "a .npz file of ready features: arrays (N, D) by name, and labels (N,), (N, L) or (N, T)",
    _accepts,
    columns=True,
)
def _read(x: str | os.PathLike[str], options: Options) -> Table:
    path = Path(x)
    arrays = read_npz(path)
    column = options.one_label or LABELS
    if column not in arrays:
        raise TargetError(
            f"{path}: there is no array '{column}' of labels among {', '.join(arrays) or 'none'}; add it, or name it with "
            "label_column (--label-column)."
        )
    labels = arrays.pop(column)
    found = features_table(
        arrays,
        labels,
        replace(options, name=options.name or path.stem),
        {"path": os.path.abspath(path)},  # noqa: PTH100
    )
    return replace(found, where=str(path))
