"""What models cost on this machine: measured once, remembered in the store beside their entries."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from selector.core.costs import TEXT_TOKENS, Cost
from selector.core.errors import SourceError
from selector.core.system import cpu_model, graphics_cards, thread_setting
from selector.store import FeatureStore
from selector.store.entry import Entry

if TYPE_CHECKING:
    from selector.core.contracts import Encoder
    from selector.extract.encode import Runner
    from selector.extract.inputs import Batch

log = logging.getLogger(__name__)

CostMode = Literal["auto", "always", "never"]


class Costs:
    """Looks costs up, and measures those of networks that are loaded anyway.

    Costs belong to an entry (hence an encoder, backend and precision), a device and a machine;
    they are in no key of features or scores.

    Args:
        mode: ``auto`` measures what is not known yet when a network is loaded for its rows,
            ``again`` measures every model anew, ``off`` measures nothing.
    """

    def __init__(self, store: FeatureStore, device: str, mode: CostMode) -> None:
        self.mode = mode
        self._store = store
        self._machine = machine(device)
        self._fresh: set[str] = set()  # measured by this run

    def known(self, entry: Entry) -> Cost | None:
        """What was measured before, or None; imports nothing."""
        found = self._store.get("cost", self._key(entry))
        return None if found is None else Cost.from_dict(found)

    def wanted(self, entry: Entry) -> bool:
        """Whether this run asks for a network to be loaded for its cost alone."""
        return self.mode == "always" and entry.key not in self._fresh

    def measure(self, entries: Sequence[Entry], encoder: Encoder, runner: Runner, pixels: Batch) -> Cost | None:
        """Measure a loaded network unless its costs are known; None when it did not run for this.

        Args:
            entries: what its variants give rows to; one pass serves them all, so they cost the same.
        """
        known = self.known(entries[0])
        busy = known is not None and known.unsteady  # the network is loaded anyway: a busy moment is not kept for ever
        if self.mode == "never" or (known is not None and not busy and not self.wanted(entries[0])):
            return known
        from selector.extract.cost import measure_cost

        try:
            cost = measure_cost(encoder, runner, pixels)
        except (RuntimeError, NotImplementedError, SourceError) as error:
            # features may be had all the same, so this is no reason to give the model up
            log.warning("%s: what it costs could not be measured: %s", encoder.name, str(error).partition("\n")[0])
            return known
        for entry in entries:
            self._fresh.add(entry.key)
            self._store.put("cost", self._key(entry), cost.to_dict())
        return cost

    def _key(self, entry: Entry) -> Mapping[str, object]:
        reads_texts = "max_length" in entry.meta.get("preprocess", {})
        return {"entry": entry.key, **self._machine, **({"tokens": TEXT_TOKENS} if reads_texts else {})}


def machine(device: str) -> dict[str, object]:
    """What the costs on a device depend on, determined without torch.

    Args:
        device: as asked for; ``auto`` stays that, and the cards that it may mean are named.
    """
    place: dict[str, object] = {"device": device, "cpu": cpu_model(), "threads": thread_setting()}
    if device != "cpu":
        place["cards"] = graphics_cards()
        place["visible"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return place
