"""Sets whose items carry a vector: several real values, or several labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite.image_sets import ImageSet, decode
from benchmarks.suite.sets import SPLIT_SEED
from benchmarks.suite.text_sets import TextSet

REGRESSION, MULTILABEL = "regression", "multilabel"
FEWEST_POSITIVES = 10  # in train, val and test together (a label with fewer says nothing)
VAL_SHARE = 0.2


@dataclass(frozen=True)
class VectorImages(ImageSet):
    """``labels`` is float32 (N, outputs): 0 and 1, or values in their own units; ``outputs`` names its columns."""

    outputs: tuple[str, ...] = ()
    kind: str = REGRESSION

    @property
    def mirrored(self) -> bool:
        """None of these targets changes in a mirror."""
        return True


@dataclass(frozen=True)
class VectorTexts(TextSet):
    """As ``VectorImages``."""

    outputs: tuple[str, ...] = ()
    kind: str = MULTILABEL

    @property
    def classes(self) -> int:
        """Outputs of the head: the text learner builds as many."""
        return len(self.outputs)


def houses(data: Path) -> VectorImages:
    """Logarithm of the price in dollars, and area in square feet, from one photograph."""
    parts = tables(data / "houses")
    values = [np.array([[row["log_price"], row["area"]] for row in part], np.float32) for part in parts]
    return _images("houses", parts, values, ("log_price", "area"), REGRESSION)


def bccd_cells(data: Path) -> VectorImages:
    """Number of red cells in the image."""
    parts = tables(data / "bccd")
    values = [np.array([[row["red_cells"]] for row in part], np.float32) for part in parts]
    return _images("bccd_cells", parts, values, ("red_cells",), REGRESSION)


def coco128_super(data: Path) -> VectorImages:
    """Which of COCO's supercategories occur in the photograph."""
    parts = tables(data / "coco128")
    names = info(data / "coco128" / "train.parquet")["supercategories"]
    values = [one_hot([row["supercategories"] for row in part], len(names)) for part in parts]
    kept = frequent(np.concatenate(values))
    chosen = tuple(name for name, keep in zip(names, kept, strict=True) if keep)
    return _images("coco128_super", parts, [v[:, kept] for v in values], chosen, MULTILABEL)


def atis_slots(text: Path, max_train_val: int = 1000, max_test: int = 500) -> VectorTexts:
    """Which kinds of slot an utterance about flights fills (``B-`` tags of the token labels)."""
    tags = info(text / "atis_slots" / "train.parquet")["tags"]["feature"]["names"]
    starts = {i: tag[2:] for i, tag in enumerate(tags) if tag.startswith("B-")}
    names = sorted(set(starts.values()))
    place = {name: i for i, name in enumerate(names)}
    parts = []
    for part, most in zip(tables(text / "atis_slots"), (max_train_val, max_test), strict=True):
        drawn = np.sort(np.random.default_rng(SPLIT_SEED).permutation(len(part))[:most])
        parts.append([part[i] for i in drawn])
    values = [
        one_hot([{place[starts[t]] for t in row["tags"] if t in starts} for row in part], len(names)) for part in parts
    ]
    kept = frequent(np.concatenate(values), 30) & (np.concatenate(values).mean(axis=0) < 0.9)
    texts = [" ".join(row["tokens"]) for part in parts for row in part]
    chosen = tuple(name for name, keep in zip(names, kept, strict=True) if keep)
    labels = np.concatenate(values)[:, kept]
    return VectorTexts("atis_slots", labels, split(len(parts[0]), len(parts[1])), texts, outputs=chosen)


IMAGES = {"houses": houses, "bccd_cells": bccd_cells, "coco128_super": coco128_super}


def one_hot(lists: list[Any], width: int) -> np.ndarray:
    """float32 (N, width) from a collection of positions an item."""
    found = np.zeros((len(lists), width), np.float32)
    for i, positions in enumerate(lists):
        found[i, list(positions)] = 1
    return found


def frequent(labels: np.ndarray, fewest: int = FEWEST_POSITIVES) -> np.ndarray:
    """(L,) bool: labels with enough positives and negatives to be measured."""
    positives = labels.sum(axis=0)
    return np.asarray(np.minimum(positives, len(labels) - positives) >= fewest)


def split(n_train: int, n_test: int) -> np.ndarray:
    """Train rows first: a fifth of them, drawn with a fixed seed, is validation; then the set's own test."""
    splits = np.repeat(["train", "test"], [n_train, n_test]).astype("<U5")
    order = np.random.default_rng(SPLIT_SEED).permutation(n_train)
    splits[order[: round(VAL_SHARE * n_train)]] = "val"
    return splits


def info(path: Path) -> dict[str, Any]:
    """What the schema's Hugging Face metadata says of the columns."""
    import pyarrow.parquet as pq

    found: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
    return found


def tables(folder: Path) -> list[list[dict[str, Any]]]:
    """Rows of train and of test."""
    import pyarrow.parquet as pq

    return [pq.read_table(folder / f"{part}.parquet").to_pylist() for part in ("train", "test")]


def _images(
    name: str, parts: list[list[dict[str, Any]]], values: list[np.ndarray], outputs: tuple[str, ...], kind: str
) -> VectorImages:
    images = [decode(row["image"]["bytes"]) for part in parts for row in part]
    splits = split(len(parts[0]), len(parts[1]))
    return VectorImages(name, np.concatenate(values), splits, images, outputs=outputs, kind=kind)
