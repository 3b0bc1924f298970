"""What extraction jobs of one process share; it changes how long a job takes and nothing else."""

from __future__ import annotations

import json
from typing import Any

from selector import sources
from selector.core.contracts import Encoder, Preprocess, Progress, ProgressCallback, Target, no_progress
from selector.extract.job import Settings, wanted_of
from selector.extract.known_costs import Costs
from selector.extract.prefetch import LoadAhead
from selector.extract.prepare import Prepared
from selector.run.executor import keeping_settings
from selector.run.worker import report
from selector.store import Entry, FeatureStore
from selector.zoo import ModelSpec, check_trusted
from selector.zoo.variants import network_of


class Workspace:
    """What jobs of one process share: the open store, prepared items, the network that loads ahead.

    Args:
        target: whose items are prepared.
        store: where rows go.
    """

    def __init__(
        self, target: Target, store: FeatureStore, settings: Settings, notify: ProgressCallback = no_progress
    ) -> None:
        self.store = store
        self.settings = settings
        self.notify = notify
        self.prepared = Prepared(target, store, settings.device, settings.on_invalid, notify)
        self.costs = Costs(store, settings.device, settings.cost)
        self.ahead = LoadAhead(self._load)
        self._asked: dict[str, dict[str, Any]] = {}
        self._canvases: dict[int, tuple[int, int]] = {}

    def wanted(self, spec: ModelSpec) -> dict[str, Any]:
        """``wanted_of``, asked once a spec: a source may ask the hub."""
        key = json.dumps([spec.feature_settings(), spec.base], sort_keys=True)
        if key not in self._asked:
            self._asked[key] = wanted_of(spec, **self.settings.of_features, reading=self.settings.reading)
        return self._asked[key]

    def entry(self, spec: ModelSpec) -> Entry | None:
        """What the store has of a spec."""
        return self.store.resolve(self.wanted(spec))

    def load(self, spec: ModelSpec) -> Encoder:
        """The encoder of a spec."""
        self.notify(Progress("load", 0, 1, "models", spec.name))
        return self.ahead.take(spec)

    def canvas(self, short_side: int) -> tuple[int, int]:
        """(height, width) that whole pictures of the target are squashed to for a network of this native side."""
        from selector.modalities.image import canvas_of

        if short_side not in self._canvases:
            self._canvases[short_side] = canvas_of(self.prepared.target.items, short_side)
        return self._canvases[short_side]

    def expected(self, spec: ModelSpec) -> Preprocess | None:
        """What a network will read, as the zoo or an earlier scan says."""
        remembered = self.store.get("preprocess", {"network": network_of(spec)})
        if remembered is not None:
            return Preprocess.from_dict(remembered)
        said = spec.preprocess.changes()
        return Preprocess().overridden(said) if {"input_size", "interpolation", "crop_pct"} <= set(said) else None

    def _load(self, spec: ModelSpec) -> Encoder:
        check_trusted(spec, self.settings.trusted)
        # whoever comes second finds the weights on this machine
        with self.store.lock(json.dumps({"load": network_of(spec)})), keeping_settings():
            return sources.registry.get(spec.source_name).load(spec)


_OWN: dict[str, Workspace] = {}
"""Of a worker process: the workspace of the target that it saw last."""


def workspace_of(target: Target, store: str, settings: Settings) -> Workspace:
    """The workspace of this worker process for a target and a store, made anew for another one."""
    key = json.dumps([store, target.fingerprint, repr(settings)])
    if key not in _OWN:
        _OWN.clear()
        _OWN[key] = Workspace(target, FeatureStore(store), settings, report)
    return _OWN[key]
