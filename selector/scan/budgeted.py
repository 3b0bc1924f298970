"""Rounds within a budget for the scan itself: which models are looked at, at how many rows, and when that is enough.

Successive rounds over models, as the others are over rows: the first looks at as many models as half of the budget
allows, by prior and price, at about a hundred rows or more; each next one doubles the rows of the leading models that what
is left can pay for. Models stop by their paired intervals as ever. A round that half of what is left does not pay for is
paid with all of it; one that could not pay for the first k even so is not begun, and the rounds end when the leading
models stay the same.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from selector.core.units import format_duration
from selector.scan.past import Knowledge
from selector.scan.rounds import Rounds
from selector.scan.variants import SameNetwork, by_network

log = logging.getLogger(__name__)

FIRST_ROWS = 100  # of the first round, at least: fewer tell hardly anything
FIRST_SHARE = 0.25  # at most
BREADTH = 0.5  # of what is left: spent on a round while another follows
DEAR = 0.25  # of what a first round may spend: a network that takes more waits until the others are chosen
_DECADE = 0.5  # deviations of the prior that a network must be better by to cost ten times as much


@dataclass(frozen=True)
class ScanBudget:
    """What a scan may take: seconds, or a share of what all models on all rows would take.

    >>> ScanBudget(seconds=90).told, ScanBudget(share=0.25).told
    ('1 min 30 s', '25% of the full scan')
    """

    seconds: float | None = None
    share: float | None = None

    @property
    def told(self) -> str:
        """For messages."""
        if self.seconds is not None:
            return format_duration(self.seconds)
        return f"{100 * (self.share or 0):g}% of the full scan"


class BudgetedRounds(Rounds):
    """The rounds of one target within a budget."""

    def __init__(
        self, *args: Any, budget: ScanBudget, clock: Callable[[], float] = time.monotonic, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self._budget, self._clock = budget, clock
        self._prices = self.extraction.prices
        self._specs = [network.members[0].spec for network in by_network(self.candidates)]
        self._read = dict.fromkeys((spec.name for spec in self._specs), 0)  # items, by the network's first variant
        self._items = len(self.extraction.rows().every_item)
        self._begun = clock()
        # of its own: what a network turns out to be is not known yet, and the ranking's prior is made when it is
        self._expected = Knowledge(self._knowledge.history, self._knowledge.target)

    def run(self) -> None:
        """All rounds that the budget allows and the result needs."""
        self._begun = self._clock()
        shares = self._shares()
        before: tuple[frozenset[str], frozenset[str]] | None = None
        for number, share in enumerate(shares):
            last = number == len(shares) - 1
            chosen = self._affordable(share, self._left() * (1.0 if last else BREADTH), first=number == 0)
            if not chosen and not last:
                chosen = self._affordable(share, self._left(), first=False)
            if not chosen:
                log.info("%s: the scan budget of %s is spent", self.extraction.target.name, self._budget.told)
                return
            self._bring(chosen, share, 0.0 if last or number else self._left() * (1 - BREADTH))
            self.judge(share)
            leading = self._leading()
            if leading == before:
                log.info("%s: the leading models stay the same", self.extraction.target.name)
                return
            before = leading

    def _shares(self) -> list[float]:
        """Of the rows, a round each: the first such that half of the budget pays for all models, within bounds."""
        prices = self._prices(self._specs)
        whole = sum(prices.values()) * self._items
        part = self._left() / whole if whole else 1.0
        share = min(1.0, max(min(FIRST_SHARE, part * BREADTH), FIRST_ROWS / max(1, self._items)))
        shares = [share]
        while shares[-1] < 1:
            shares.append(min(1.0, 2 * shares[-1]))
        return shares

    # ---------------------------------------------------------------- money

    def _left(self) -> float:
        """Seconds; of a share those that prices say, as they are known by now."""
        if self._budget.seconds is not None:
            return self._budget.seconds - (self._clock() - self._begun)
        prices = self._prices(self._specs)
        whole = sum(prices.values()) * self._items
        return (self._budget.share or 0.0) * whole - sum(prices[name] * n for name, n in self._read.items())

    def _affordable(self, share: float, allotted: float, *, first: bool) -> list[SameNetwork]:
        """The networks of a round, in order; the others stop, or none where it cannot pay for the first k."""
        running = by_network(self.running)
        prices = self._prices(self._specs)
        items = len(self.extraction.rows(share).every_item)
        order = sorted(running, key=(lambda n: self._promise(n, prices)) if first else self._merit, reverse=True)
        if first:  # whatever the budget, there is something to compare
            least = {n.name for n in sorted(running, key=lambda n: prices[n.name])[: self._top_k]}
            # what is known before a target is seen says too little to leave several unseen for a single one
            order.sort(key=lambda n: prices[n.name] * items > DEAR * allotted)
        chosen: list[SameNetwork] = []
        for network in order:
            price = prices[network.name] * max(0, items - self._read[network.name])
            if first and self._budget.seconds is not None:
                price = 0.0  # a guess as yet: the clock ends the round
            if price <= allotted or (first and network.name in least):
                chosen.append(network)
                allotted -= price
        if not first and len(chosen) < min(self._top_k, len(running)):
            return []
        for network in running:
            if network not in chosen:
                self._stop(network)
        return chosen

    def _bring(self, chosen: Sequence[SameNetwork], share: float, kept: float) -> None:
        """Extract a round, a few networks at a time, so that a budget of time ends it when ``kept`` seconds are left."""
        width = self.extraction.executor.width
        for at in range(0, len(chosen), width):
            batch = chosen[at : at + width]
            if at >= self._top_k and self._budget.seconds is not None and self._left() <= kept:
                for network in chosen[at:]:
                    self._stop(network)
                return
            self.extraction.run(batch, share)
            for network in batch:
                self._read[network.name] = len(self.extraction.rows(share).every_item)

    def _stop(self, network: SameNetwork) -> None:
        rows = self._read[network.name]
        when = f"pruned after {network.members[0].rows} rows" if rows else "not looked at"
        for candidate in network.members:
            if candidate.running:
                candidate.pruned = (
                    f"{when}: the scan budget of {self._budget.told} went to models that promise more for their price"
                )
                candidate.spared = self.extraction.estimate(candidate.spec, self._items - rows)

    # ---------------------------------------------------------------- order

    def _promise(self, network: SameNetwork, prices: dict[str, float]) -> float:
        """Before anything is seen of the target: what is known of a network, less what it costs."""
        known = self._expected.prior(self.candidates)
        value = 0.0 if known is None else max(known.scores[c.spec.name].value for c in network.members)
        return value - _DECADE * math.log10(max(prices[network.name], 1e-9))

    def _merit(self, network: SameNetwork) -> float:
        """The upper end of its interval: what it may turn out to be worth."""
        found = [c.transferability for c in network.members if c.transferability is not None]
        return max((t.value if t.high is None else t.high for t in found), default=-math.inf)

    def _leading(self) -> tuple[frozenset[str], frozenset[str]]:
        """The first k networks, and the models that are not significantly different from the best."""
        known = [c for c in self.running if c.transferability is not None]

        def value(network: SameNetwork) -> float:
            return max((c.transferability.value for c in network.members if c.transferability), default=-math.inf)

        ordered = sorted(by_network(known), key=value, reverse=True)
        tied = frozenset(c.spec.name for c in known if c.transferability is not None and c.transferability.tied)
        return frozenset(network.name for network in ordered[: self._top_k]), tied
