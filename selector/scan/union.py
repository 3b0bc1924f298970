"""The items of several targets as one: a network is loaded once and reads them all, what they share once.

Rows are addressed by the content of their items, so what is extracted here is found by each target's own scan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from selector.core.contracts import Target
from selector.data._items import ConcatItems, SubsetItems
from selector.run.job import Failure
from selector.scan.candidate import Candidate
from selector.scan.dataset_view import Rows
from selector.scan.extraction import Extraction
from selector.scan.model_job import ToScore
from selector.scan.variants import by_network
from selector.zoo import ModelSpec
from selector.zoo.variants import network_of

WHOLE_ITEMS = "pooled"
"""The row reader of targets that are joined."""


@dataclass(frozen=True)
class Wanted:
    """What one target wants of a round: its rows, and the variants whose rows are read."""

    extraction: Extraction
    specs: Sequence[ModelSpec]


@dataclass
class Brought:
    """What a joined extraction found.

    Attributes:
        failed: why networks failed, by ``network_of``, so that no target loads them again.
        seconds: that a network took, a target.
        bad: reasons by content hash, of items that cannot be used.
    """

    failed: dict[str, Failure] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bad: Mapping[str, str] = field(default_factory=dict)


def joinable(extraction: Extraction) -> bool:
    """Whether rows of a target are whole items: words of texts and places in images are read target by target."""
    return extraction.job_settings.reader == WHOLE_ITEMS


def joined(targets: Sequence[Target]) -> Target:
    """The distinct items of several targets of one modality, without labels."""
    hashes: dict[str, int] = {}
    everything = [content for target in targets for content in target.hashes]
    for position, content in enumerate(everything):
        hashes.setdefault(content, position)
    keep = np.fromiter(hashes.values(), np.int64, len(hashes))
    names = [name for target in targets for name in target.names]
    fingerprints = xxhash.xxh3_128_hexdigest("+".join(target.fingerprint for target in targets).encode())
    return Target(
        name="+".join(target.name for target in targets[:3]) + ("…" if len(targets) > 3 else ""),
        modality=targets[0].modality,
        label_kind=targets[0].label_kind,
        items=SubsetItems(ConcatItems([target.items for target in targets]), keep),
        names=[names[i] for i in keep.tolist()],
        labels=np.zeros(len(keep)),
        class_names=(),
        splits=np.full(len(keep), "train"),
        split_origin="given",
        hashes=tuple(hashes),
        fingerprint=fingerprints,
        task="none",  # items are read and nothing is learned from them
    )


class JoinedExtraction(Extraction):
    """Extraction for several targets at once, of one round.

    What ``rows`` and the like take for the share of a round are here the numbers of the targets that want a network.
    """

    def __init__(self, wanted: Sequence[Wanted], share: float) -> None:
        first = wanted[0].extraction
        settings = first.job_settings
        super().__init__(
            joined([each.extraction.target for each in wanted]), first.store, settings.device, settings.precision,
            settings.backend, settings.on_invalid, settings.trusted, first.notify, settings.limits, settings.cost,
            executor=first.executor, isolation=first.isolation,
        )  # fmt: skip
        self._wanted, self._share = wanted, share
        self._chosen: dict[Any, Rows] = {}

    def bring(self) -> Brought:
        """Extract what the targets want of this round."""
        wanting: dict[str, set[int]] = {}
        specs: dict[str, ModelSpec] = {}
        for number, each in enumerate(self._wanted):
            for spec in each.specs:
                wanting.setdefault(network_of(spec), set()).add(number)
                specs.setdefault(spec.name, spec)
        by_targets: dict[frozenset[int], list[ModelSpec]] = {}
        for spec in specs.values():
            by_targets.setdefault(frozenset(wanting[network_of(spec)]), []).append(spec)
        found = Brought(bad=self.work.prepared.bad)
        for numbers, models in by_targets.items():
            networks = by_network(Candidate(spec) for spec in models)
            self.run(networks, numbers)  # type: ignore[arg-type]  # what names a round is passed on as it is
            for network in networks:
                name = network_of(network.members[0].spec)
                if all(member.failure for member in network.members) and (why := network.members[0].failure):
                    found.failed[name] = why
                elif not all(member.cached for member in network.members):
                    found.seconds[name] = sum(member.seconds for member in network.members) / len(numbers)
        return found

    def rows(self, share: Any = 1.0) -> Rows:
        """Items that some targets see in this round."""
        known = self._chosen.get(share)
        if known is None or known.target is not self.target:
            place = {content: i for i, content in enumerate(self.target.hashes)}
            wanted = (self._wanted[number].extraction.rows(self._share) for number in sorted(share))
            hashes = {rows.target.hashes[i] for rows in wanted for i in rows.every_item}
            found = {place[content] for content in hashes if content in place}
            known = self._chosen[share] = Rows(self.target, np.array(sorted(found), np.int64))
        return known

    def scored(self, share: Any) -> tuple[ToScore, ...]:
        """What the targets that want a network score of it."""
        return tuple(each for number in sorted(share) for each in self._wanted[number].extraction.scored(self._share))
