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


@dataclass(frozen=True)
class Decision:
    """What was handed over (model and strategy), and that it is settled: the key to the labels."""

    model: str
    strategy: str


class SealedLabels:
    """Class numbers (N,) of a target's items, ``UNKNOWN`` where there is none.

    They are read with a ``Decision`` and outside ``choosing`` only: every choice (order of models, strategies,
    settings, validators) runs inside, where reading raises whatever is offered for it.
    """

    def __init__(self, labels: np.ndarray) -> None:
        self.__labels = np.array(labels, dtype=np.int64)
        self.__choices = 0

    def __repr__(self) -> str:
        return f"SealedLabels({self.known} of {len(self)} items)"

    def __len__(self) -> int:
        return len(self.__labels)

    @property
    def known(self) -> int:
        """How many items have a label: all that may be known before the decision."""
        return int((self.__labels != UNKNOWN).sum())

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """For as long as something is chosen; may be nested."""
        self.__choices += 1
        try:
            yield
        finally:
            self.__choices -= 1

    def open(self, decision: Decision) -> np.ndarray:
        """The labels, once nothing is left to choose.

        Raises:
            LabelsSealed: something is being chosen, or there is no decision.
        """
        if self.__choices:
            raise LabelsSealed(
                "labels of the target were asked for while a choice is made; they are for the final metric."
            )
        if not isinstance(decision, Decision):
            raise LabelsSealed(
                f"labels of the target are read with the Decision that was made. Got {type(decision).__name__}."
            )
        return self.__labels.copy()

    def take(self, items: np.ndarray) -> SealedLabels:
        """Those of some items."""
        return SealedLabels(self.__labels[items])
