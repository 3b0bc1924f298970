"""Saved models of ready features: arrays and files of them to predict."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import TextIOBase
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from selector.core.documents import checked
from selector.core.errors import ConfigError, first_line
from selector.core.input_files import read_arrays
from selector.core.preprocess import RowsPreprocess
from selector.deploy.serializers import serializer
from selector.deploy.serializers._serializer import AGAIN, Keep, Run, Serializer, cell

_EXPECTED = "an array (N, D) of features, or .npy and .npz files of them"


class _Saved(BaseModel):
    width: int = Field(gt=0)
    name: str = ""


@serializer("rows")
class RowsSerializer(Serializer[RowsPreprocess]):
    """See ``Serializer``."""

    def checked(self, preprocess: Mapping[str, object], path: Path) -> dict[str, object]:
        """See ``Serializer``."""
        return checked(_Saved, preprocess, path, AGAIN, "preprocess").model_dump()

    def read(self, folder: Path, data: Mapping[str, object]) -> RowsPreprocess:
        """See ``Serializer``."""
        return RowsPreprocess.from_dict(data)

    def shape(self, preprocess: RowsPreprocess) -> tuple[int, ...]:
        """See ``Serializer``."""
        return (preprocess.width,)

    def noun(self, preprocess: RowsPreprocess) -> str:
        """See ``Serializer``."""
        return "row"

    def collect(
        self, given: Any, preprocess: RowsPreprocess, pairs: bool | None, columns: Sequence[str]
    ) -> list[tuple[str, object]]:
        """See ``Serializer``."""
        if columns:
            raise ConfigError(
                f"text_column={', '.join(columns)} was given, but the model reads features; leave it out."
            )
        if isinstance(given, str | os.PathLike):
            given = [given]
        several = isinstance(given, list | tuple) and all(isinstance(x, str | os.PathLike | TextIOBase) for x in given)
        arrays = [_from_file(path, preprocess) for path in given] if several and given else [("", given)]
        return [
            (f"{file}: row {i}" if file else f"row {i}", row)
            for file, rows in arrays
            for i, row in enumerate(_matrix(rows, file or "features", preprocess))
        ]

    def outputs(
        self, run: Run, items: Sequence[Any], preprocess: RowsPreprocess, batch_size: int, device: str, keep: Keep
    ) -> tuple[list[object | None], list[str]]:
        """See ``Serializer``."""
        import torch

        fine = [bool(np.isfinite(row).all()) for row in items]
        good = [row for row, ok in zip(items, fine, strict=True) if ok]
        found: list[Any] = []
        for start in range(0, len(good), max(batch_size, 1024)):
            block = run(torch.from_numpy(np.stack(good[start : start + max(batch_size, 1024)])))
            found += [block[i : i + 1] for i in range(len(block))]
        own = iter(found)
        outputs = [keep(next(own), item) if ok else None for item, ok in zip(items, fine, strict=True)]
        return outputs, ["" if ok else "holds NaN or inf" for ok in fine]

    def example(self, pairs: bool) -> str:
        """See ``Serializer``."""
        return '"features.npy"'

    def pipeline(self, preprocess: RowsPreprocess, task: str, *, of_maps: bool) -> str:
        """See ``Serializer``."""
        return f"tabular-{'regression' if task == 'regression' else 'classification'}"

    def facts(self, preprocess: RowsPreprocess, pairs: bool) -> str:
        """See ``Serializer``."""
        return f"| input | rows of {preprocess.width} ready features, {cell(preprocess.name)} |"

    def tensor(self, preprocess: RowsPreprocess) -> str:
        """See ``Serializer``."""
        return (
            f"The input is a float tensor (B, {preprocess.width}): features of the encoder that made those it was fitted on, "
            "as they are."
        )


def _from_file(path: Any, preprocess: RowsPreprocess) -> tuple[str, np.ndarray]:
    """(name, array) of a .npy file, or of the array of a .npz file that the model was fitted on."""
    if isinstance(path, TextIOBase):
        raise ConfigError(f"standard input holds no features; give {_EXPECTED}.")
    name = os.fspath(path)
    try:
        found = read_arrays(name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(f"{name}: cannot be read ({reason}); give {_EXPECTED}.") from None
    if isinstance(found, np.ndarray):
        return name, found
    if preprocess.name not in found:
        raise ConfigError(
            f"{name}: there is no array '{preprocess.name}', which the model reads, among {', '.join(found)}."
        )
    return name, found[preprocess.name]


def _matrix(rows: object, where: str, preprocess: RowsPreprocess) -> np.ndarray:
    """float32 (N, width).

    Raises:
        ConfigError: another shape or type.
    """
    try:
        found = np.asarray(rows.detach().cpu().float() if hasattr(rows, "detach") else rows)
    except ValueError:
        found = np.empty(0, object)
    if found.ndim != 2 or found.dtype.kind not in "fiu" or not len(found):
        raise ConfigError(f"{where}: expected {_EXPECTED}. Got {found.dtype} of shape {found.shape}.")
    if found.shape[1] != preprocess.width:
        raise ConfigError(
            f"{where}: rows have {found.shape[1]} features, and the model reads {preprocess.width}; give those of the "
            "encoder that it was fitted on."
        )
    return np.ascontiguousarray(found, dtype=np.float32)
