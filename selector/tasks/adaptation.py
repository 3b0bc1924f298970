"""One class per item, learned from one domain for another whose items have no labels.

Items of the source domain have the splits train, val and test; those of the target domain have the split
``contracts.UNLABELED`` and the class number ``sealed.UNKNOWN``, whether or not labels of theirs exist: those lie
in ``DomainLabels.sealed``, for the final metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from selector.core.contracts import UNLABELED, Target, noun_of
from selector.core.errors import ConfigError, TargetError
from selector.core.held_out_labels import UNKNOWN, SealedLabels
from selector.core.table import Table
from selector.tasks import task
from selector.tasks.classification import Classification, ClassLabels

NEEDED = "the labeled dataset that it is adapted from is lacking; give source_domain (--source-domain)"


@dataclass(frozen=True)
class DomainLabels(ClassLabels):
    """Class numbers (N,) of both domains, ``UNKNOWN`` throughout the target.

    Attributes:
        sealed: labels of all items that the target came with, in the same order; ``UNKNOWN`` for those of the source.
        source: name of the source domain.
        few: (N,) True for items of the target that are among those to learn from, with their labels.
    """

    sealed: SealedLabels = field(default_factory=lambda: SealedLabels(np.empty(0)))
    source: str = ""
    few: np.ndarray = field(default_factory=lambda: np.empty(0, bool))

    def take(self, indices: np.ndarray) -> DomainLabels:
        """Those of some items."""
        return replace(super().take(indices), sealed=self.sealed.take(indices), few=self.few[indices])

    def review(self, splits: np.ndarray, names: object) -> list[str]:
        """Nothing: the source domain was reviewed by itself."""
        return []


@task("adaptation")
class Adaptation(Classification):
    """See ``core.task.Task``; what is learned and measured is that of classification."""

    name = "adaptation"
    strategies = ("source-only", "coral", "reweight", "label-shift")
    proxies = ("target-accuracy", "pas", "a-distance", "mmd", "coral-distance", "label-shift", "probe")
    members: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # the score is of the target: ``ACROSS_DOMAINS``
    adapts = True
    balances = ()
    smooths = False
    reads_tables = False

    def accepts(self, table: Table) -> str | None:
        """No table alone: two are put together by ``data.domains``."""
        return NEEDED

    def read(self, table: Table) -> ClassLabels:
        """Always an error."""
        raise ConfigError(f"{table.where}: {NEEDED}.")

    def strata(self, target: Target) -> np.ndarray | None:
        """The classes; the items without labels are one stratum."""
        return self.labels(target.labels)

    def check(self, target: Target) -> None:
        """Also: there is something to adapt to."""
        super().check(target)
        if not len(target.indices(UNLABELED)):
            raise TargetError(f"target '{target.name}' has no {noun_of(target.modality)}s without labels to adapt to.")

    def hidden(self, target: Target) -> SealedLabels:
        """Labels for the final metric, of all items of the target."""
        assert isinstance(target.annotations, DomainLabels)
        return target.annotations.sealed

    def few(self, target: Target) -> np.ndarray:
        """(N,) True for the items of the target whose labels are learned from."""
        assert isinstance(target.annotations, DomainLabels)
        return target.annotations.few


__all__ = ["NEEDED", "UNKNOWN", "Adaptation", "DomainLabels"]
