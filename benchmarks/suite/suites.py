"""A suite: encoders, sets and the tables that belong together. There are two for images and one for texts."""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from sklearn.model_selection import train_test_split

from selector.ranking.prior import ModelFacts

RESULTS = Path(__file__).parents[1] / "results" / "suite"
MODULES = {"images": "image_suite", "texts": "text_suite", "held_out": "image_suite"}
NAMES = tuple(MODULES)
SPLIT_SEED = 0  # splits are one and the same in every run
Column = dict[str, float]  # encoder -> value, on one set
ByScore = Mapping[str, Mapping[str, Column]]  # score -> set -> column
Scope = Callable[[str, Column, ByScore], Sequence[str]]
"""Set, its column of accuracies, every score -> the encoders that are compared."""


@dataclass(frozen=True)
class LabeledSet:
    """Labels 0..C-1 (N,) and splits ``train``, ``val`` and ``test`` (N,) of as many items."""

    name: str
    labels: np.ndarray
    splits: np.ndarray

    def rows(self, *splits: str) -> np.ndarray:
        return np.flatnonzero(np.isin(self.splits, splits))


def draw(
    labels: np.ndarray, is_test: np.ndarray, val_share: float, max_train_val: int, max_test: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and the split of each: at most so many, drawn evenly by class; a share of those not in test becomes val."""
    rest = _at_most(max_train_val, np.flatnonzero(~is_test), labels)
    test = _at_most(max_test, np.flatnonzero(is_test), labels)
    train, val = train_test_split(rest, test_size=val_share, stratify=labels[rest], random_state=SPLIT_SEED)
    rows = np.concatenate([np.sort(train), np.sort(val), np.sort(test)])
    return rows, np.repeat(["train", "val", "test"], [len(train), len(val), len(test)])


def _at_most(count: int, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if len(rows) <= count:
        return rows
    kept, _ = train_test_split(rows, train_size=count, stratify=labels[rows], random_state=SPLIT_SEED)
    return kept


@dataclass(frozen=True)
class Facts:
    """What is known of an encoder without a target; ``depth`` in layers, where encoders of a suite differ by it."""

    model: ModelFacts
    depth: int | None = None


@dataclass(frozen=True)
class Extracted:
    """Frozen features (N, D), the logits of the source task (N, C_s) where there are any, and the size they were read at."""

    features: np.ndarray
    source_logits: np.ndarray | None
    size: int


class Suite(ABC):
    """What differs between suites.

    Attributes:
        sets: names, in the order in which they are run.
        prefix: of the tables' names.
        needs: what the folder of assets must hold, for the message.
        items, quick: train + val and test items of a set at most; the second to see whether it runs.
        scopes: name -> which encoders are compared.
        source_is_target: set -> encoders that were trained on it.
        members: of the combined score, where they are not the usual ones.
    """

    sets: ClassVar[tuple[str, ...]]
    prefix: ClassVar[str]
    needs: ClassVar[str]
    items: ClassVar[tuple[int, int]]
    quick: ClassVar[tuple[int, int]]
    scopes: ClassVar[Mapping[str, Scope]]
    source_is_target: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    members: ClassVar[tuple[str, ...]] = ()

    def table(self, what: str, quick: bool = False) -> Path:
        """``ground_truth``, ``scores``, ``labels`` and the like; those of a quick run lie in the cache."""
        return (features_folder(quick) if quick else RESULTS) / f"{self.prefix}{what}.csv"

    @abstractmethod
    def encoders(self, assets: Path) -> dict[str, Facts]:
        """All of them, in the order in which they are run."""

    @abstractmethod
    def load_set(self, name: str, assets: Path, max_train_val: int, max_test: int) -> LabeledSet: ...

    @abstractmethod
    def extract(self, encoder: str, data: LabeledSet, assets: Path) -> Extracted:
        """What an encoder gives for a set that ``load_set`` made."""


def find(name: str) -> Suite:
    """The suite of that name; its libraries are imported only now."""
    suite: Suite = importlib.import_module(f"benchmarks.suite.{MODULES[name]}").SUITES[name]
    return suite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which suite, and how much of it."""
    parser.add_argument("--suite", choices=NAMES, default=NAMES[0])
    parser.add_argument("--sets", nargs="+", help="all when left out")
    parser.add_argument("--encoders", nargs="+", help="all when left out")


def chosen(
    parser: argparse.ArgumentParser, option: str, wanted: Sequence[str] | None, known: Sequence[str]
) -> list[str]:
    """Those that were asked for, in the order in which they are known; an unknown one ends the program."""
    if unknown := sorted(set(wanted or ()) - set(known)):
        parser.error(f"--{option}: unknown {unknown}; known are {', '.join(known)}")
    return [name for name in known if not wanted or name in wanted]


def features_folder(quick: bool = False) -> Path:
    """Where features ``<set>/<encoder>.npz`` are kept: too large to commit. Those of a quick run lie apart."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / ("selector-suite-quick" if quick else "selector-suite")


def save_features(path: Path, data: LabeledSet, found: Extracted) -> None:
    """Of train and val: the test split is left out, since no proxy may see it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = data.rows("train", "val")
    arrays = {"features": found.features[rows], "labels": data.labels[rows], "splits": data.splits[rows]}
    if found.source_logits is not None:
        arrays["source_logits"] = found.source_logits[rows]
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, **arrays, size=found.size)
    Path(file.name).replace(path)
