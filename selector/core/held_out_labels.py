"""Labels of a target that nothing may choose by: they are there for the final metric alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from selector.core.errors import SelectorError

UNKNOWN = -1
"""The class number of an item without a label."""


class LabelsSealed(SelectorError):
    """Something that chooses asked for labels of the target."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What was handed over (model and strategy), and that it is settled: the key to the labels.

    One is made by ``Choice.settle``; any other, whatever it says, opens nothing.
    """

    model: str
    strategy: str


@dataclass
class _Seal:
    """What sealed labels and all pieces taken from them have in common."""

    choices: int = 0
    settled: Decision | None = None


class Choice:
    """A choice that is being made: what ``SealedLabels.choosing`` gives."""

    def __init__(self, seal: _Seal) -> None:
        self._seal = seal

    def settle(self, model: str, strategy: str) -> Decision:
        """Say what was chosen: with this the labels are read, once, when the choice is over."""
        self._seal.settled = Decision(model, strategy)
        return self._seal.settled


class SealedLabels:
    """Class numbers (N,) of a target's items, ``UNKNOWN`` where there is none.

    They are sealed from the time on that the target is loaded: proxies, the order of models, strategies, settings and
    validators run before anything is settled, and reading raises whatever is offered for it. A choice that was made in
    ``choosing`` and is over gives the one ``Decision`` that opens them; reading seals them again. Pieces (``take``)
    are under the same seal. It keeps a mistake from reading labels; code that stages a choice of its own is not stopped.
    """

    def __init__(self, labels: np.ndarray) -> None:
        self.__labels = np.array(labels, dtype=np.int64)
        self.__seal = _Seal()

    def __repr__(self) -> str:
        return f"SealedLabels({self.known} of {len(self)} items)"

    def __len__(self) -> int:
        return len(self.__labels)

    @property
    def known(self) -> int:
        """How many items have a label: all that may be known before the decision."""
        return int((self.__labels != UNKNOWN).sum())

    @contextmanager
    def choosing(self) -> Iterator[Choice]:
        """For as long as something is chosen; may be nested. What was settled before is void."""
        seal = self.__seal
        seal.choices, seal.settled = seal.choices + 1, None
        try:
            yield Choice(seal)
        except BaseException:
            seal.settled = None
            raise
        finally:
            seal.choices -= 1
            if seal.choices:  # what was chosen within another choice settles nothing of that
                seal.settled = None

    def open(self, decision: Decision) -> np.ndarray:
        """The labels, once nothing is left to choose.

        Raises:
            LabelsSealed: something is or was not yet chosen, this is not what was settled, or they were read already.
        """
        if self.__seal.choices:
            raise LabelsSealed(
                "labels of the target were requested while a choice is made; they are for the final metric."
            )
        if self.__seal.settled is None:
            raise LabelsSealed(
                "labels of the target were asked for, and nothing is settled; they are read once, with the Decision that "
                "'choosing()' ended with, for the final metric."
            )
        if decision is not self.__seal.settled:
            raise LabelsSealed(
                "labels of the target are read with the Decision that was made. Got "
                f"{'another one' if isinstance(decision, Decision) else type(decision).__name__}."
            )
        self.__seal.settled = None
        return self.__labels.copy()

    def take(self, items: np.ndarray) -> SealedLabels:
        """Those of some items, under the same seal."""
        part = SealedLabels(self.__labels[items])
        part.__seal = self.__seal
        return part
