"""A suite: encoders, sets and the tables that belong together. There is one for images and one for texts."""

from __future__ import annotations

import argparse
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.suite import saved
from benchmarks.suite.sets import LabeledSet
from benchmarks.suite.training import Learner
from selector.ranking.prior import ModelFacts

RESULTS = Path(__file__).parents[1] / "results" / "suite"
NAMES = ("images", "texts", "held_out")
Column = dict[str, float]  # encoder -> value, on one set
ByScore = Mapping[str, Mapping[str, Column]]  # score -> set -> column
Scope = Callable[[str, Column, ByScore], Sequence[str]]
"""Set, its column of accuracies, every score -> the encoders that are compared."""


@dataclass(frozen=True)
class Budget:
    """How much is spent on a cell."""

    max_train_val: int
    max_test: int
    steps: int


@dataclass(frozen=True)
class Facts:
    """What is known of an encoder without a target; ``depth`` in layers, where encoders of a suite differ by it."""

    model: ModelFacts
    depth: int | None = None


class Suite(ABC):
    """What differs between suites.

    Attributes:
        sets: names, in the order in which they are run.
        prefix: of the tables' names.
        library: builds the networks; its version stands in every row.
        needs: what the folder of assets must hold, for the message.
        budget, quick: of a cell; the second to see whether it runs.
        scopes: name -> which encoders are compared.
        source_is_target: set -> encoders that were trained on it.
        members: of the combined score, where they are not the usual ones.
    """

    sets: ClassVar[tuple[str, ...]]
    prefix: ClassVar[str]
    library: ClassVar[str]
    needs: ClassVar[str]
    budget: ClassVar[Budget]
    quick: ClassVar[Budget]
    scopes: ClassVar[Mapping[str, Scope]]
    source_is_target: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    members: ClassVar[tuple[str, ...]] = ()

    def table(self, what: str, quick: bool = False) -> Path:
        """``ground_truth``, ``scores``, ``labels`` and the like; those of a quick run lie in the cache."""
        return (saved.folder(quick) if quick else RESULTS) / f"{self.prefix}{what}.csv"

    @abstractmethod
    def encoders(self, assets: Path) -> dict[str, Facts]:
        """All of them, in the order in which they are run."""

    @abstractmethod
    def load_set(self, name: str, assets: Path, budget: Budget) -> LabeledSet: ...

    @abstractmethod
    def open(self, encoder: str, data: LabeledSet, assets: Path) -> Learner:
        """An encoder on a set that ``load_set`` gave."""


def find(name: str) -> Suite:
    """The suite of that name; its libraries are imported only now."""
    suite: Suite = importlib.import_module(f"benchmarks.suite.{name.removesuffix('s')}_suite").SUITE
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
