"""The text sets of the suite: their own train and test, with a fixed stratified validation split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.suite.sets import LabeledSet, draw

NAMES = ("trec", "banking77", "sst2", "emotion", "clinc150", "r8")  # r8 has the longest texts and comes last
VAL_SHARE = 0.2


@dataclass(frozen=True)
class TextSet(LabeledSet):
    """Labeled texts."""

    texts: list[str]


def load(name: str, folder: Path, max_train_val: int, max_test: int) -> TextSet:
    """One set of ``<folder>/<name>/{train,test}.parquet``, at most so many texts, drawn evenly by class."""
    import pyarrow.parquet as pq

    own = {split: pq.read_table(folder / name / f"{split}.parquet").to_pydict() for split in ("train", "test")}
    texts = [*own["train"]["text"], *own["test"]["text"]]
    labels = np.asarray([*own["train"]["label"], *own["test"]["label"]])
    is_test = np.repeat([False, True], [len(own["train"]["text"]), len(own["test"]["text"])])
    rows, splits = draw(labels, is_test, VAL_SHARE, max_train_val, max_test)
    return TextSet(name, labels[rows], splits, [texts[i] for i in rows])
