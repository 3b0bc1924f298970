"""What extraction jobs of one process share, prepared items among it; it changes how long a job takes and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from selector import data as targets
from selector import modalities, sources
from selector.core.contracts import Encoder, Progress, ProgressCallback, Target, no_progress
from selector.core.costs import Cost
from selector.core.modality import Inputs
from selector.core.preprocess import AnyPreprocess, Preprocess
from selector.extract.job import ExtractSettings, wanted_of
from selector.extract.known_costs import Costs
from selector.extract.prefetch_model import KEPT, LoadAhead
from selector.modalities.image import TOO_LARGE
from selector.run.executor import keeping_settings
from selector.run.worker import report
from selector.store import FeatureStore
from selector.store.entry import Entry
from selector.zoo import ModelSpec, check_trusted
from selector.zoo.spec import network_of

if TYPE_CHECKING:
    from selector.modalities.pixels.prepared import Pixels

ToCome: TypeAlias = Callable[[], Iterable[Preprocess]]


class Prepared:
    """Images decoded and texts tokenized, once for all networks that read them alike.

    Attributes:
        target: what is left of it: items that turn out to be unusable leave it, for every model.
        bad: content hash -> reason, of the items that left it.
        seconds: time spent, by stage.
    """

    def __init__(
        self,
        target: Target,
        store: FeatureStore,
        device: str,
        on_invalid: Literal["raise", "skip"],
        notify: ProgressCallback,
    ) -> None:
        self.target = target
        self.bad: dict[str, str] = {}
        self.seconds: dict[str, float] = {"decode": 0.0}
        self._store, self._device, self._on_bad, self._notify = store, device, on_invalid, notify
        self._inputs: dict[str, Inputs] = {}

    @property
    def smallest_pixels(self) -> Pixels | None:
        """Of the images that were decoded the smallest; None when none were."""
        pictures = (found for found in self._inputs.values() if (found.shape or ()))
        return min(pictures, key=lambda found: found.shape or (), default=None)  # type: ignore[return-value]

    def inputs(self, preprocess: AnyPreprocess, to_come: ToCome = tuple) -> Inputs:
        """Every item as an encoder reads it, prepared once for all encoders that share the preparation.

        Args:
            to_come: what later models will probably ask for: other sizes are made of the same decoded
                images, as far as there is room. A wrong guess costs some decoding.
        """
        from selector.extract.encode import resolve_device

        items = modalities.of(preprocess)
        key = items.key(preprocess)
        while key not in self._inputs:
            started = time.perf_counter()
            opened, bad = items.prepare(
                self.target.items,
                self.target.hashes,
                self.target.names,
                [preprocess, *self._with_room(preprocess, to_come)],
                folder=self._store.pixels_folder,
                max_size=self._store.pixels_ceiling,
                device=resolve_device(self._device),
                on_invalid=self._on_bad,
                progress=self._notify,
            )
            self.seconds[items.stage] = self.seconds.get(items.stage, 0.0) + time.perf_counter() - started
            if bad:
                self._leave_out(bad)
                continue
            self._inputs |= opened
            self._remember_cut(preprocess, opened[key])
        return self._inputs[key]

    def _with_room(self, preprocess: AnyPreprocess, to_come: ToCome) -> list[Preprocess]:
        from selector.modalities.pixels.prepared import DEFAULT_MAX_SIZE

        known: dict[str, Preprocess] = {}
        room = DEFAULT_MAX_SIZE / 4
        items = modalities.of(preprocess)
        for expected in to_come():
            if modalities.of(expected) is not items:
                continue
            if expected.pixels_key() in {items.key(preprocess), *self._inputs, *known}:
                continue
            room -= len(self.target) * 3 * expected.input_size[1] * expected.input_size[2]
            if room < 0:
                break
            known[expected.pixels_key()] = expected
        return list(known.values())

    def texts_cut(self, preprocess: Mapping[str, object]) -> int:
        """How many texts are longer than a model reads, as was found when they were tokenized, for whichever target."""
        cut = self._known_cut(preprocess)
        return sum(content in cut for content in self.target.hashes)

    def _known_cut(self, preprocess: Mapping[str, object]) -> set[str]:
        return set((self._store.get("cut", {"preprocess": dict(preprocess)}) or {"hashes": []})["hashes"])

    def _remember_cut(self, preprocess: AnyPreprocess, prepared: Inputs) -> None:
        """By content, so that another target with some of these texts counts them without tokenizing."""
        if prepared.cut_off is None:
            return
        key = {"preprocess": preprocess.to_dict()}
        found = {self.target.hashes[i] for i in np.flatnonzero(prepared.cut_off > 0)}
        with self._store.lock(json.dumps({"cut": key}, sort_keys=True)):
            known = self._known_cut(key["preprocess"])
            if not found <= known:
                self._store.put("cut", key, {"hashes": sorted(found | known)})

    def leave_out(self, bad: Mapping[str, str]) -> None:
        """Take items that cannot be used (content hash -> reason) out of the target; what was prepared of it
        is prepared anew."""
        found = {i: bad[content] for i, content in enumerate(self.target.hashes) if content in bad}
        if found:
            self._leave_out(found)

    def _leave_out(self, bad: Mapping[int, str]) -> None:
        reasons = {self.target.hashes[i]: reason for i, reason in bad.items()}
        # what is too large under this run's limit may be wanted under the next one's
        self._store.add_bad_images({h: why for h, why in reasons.items() if not why.startswith(TOO_LARGE)})
        self.bad |= reasons
        self.target = targets.without(self.target, bad)
        self._inputs.clear()


class Workspace:
    """What jobs of one process share: the open store, prepared items, the network that loads ahead.

    Args:
        target: whose items are prepared.
        store: where rows go.
        kept: parameters of the networks that stay loaded for the next round.
    """

    def __init__(
        self, target: Target, store: FeatureStore, settings: ExtractSettings, notify: ProgressCallback = no_progress,
        kept: int = KEPT,
    ) -> None:  # fmt: skip
        self.store = store
        self.settings = settings
        self.notify = notify
        self.prepared = Prepared(target, store, settings.device, settings.on_invalid, notify)
        self.costs = Costs(store, settings.device, settings.cost)
        self.ahead = LoadAhead(self._load, kept)
        self._asked: dict[str, dict[str, object]] = {}
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
        """(height, width) that whole images of the target are squashed to for a network of this native side."""
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

    def needed_memory(self, spec: ModelSpec) -> Cost | None:
        """What a pass of one item takes (``cost.needed_memory``), where it was measured before."""
        found = self.store.get("memory", self._of_memory(spec))
        return None if found is None else Cost.from_dict(found)

    def remember_memory(self, spec: ModelSpec, found: Cost) -> None:
        """Keep what a pass of one item takes: a model that is too large is not loaded again."""
        self.store.put("memory", self._of_memory(spec), found.to_dict())

    def _of_memory(self, spec: ModelSpec) -> dict[str, object]:
        settings = self.settings
        return {"network": network_of(spec), "reading": settings.reading, "device": settings.device}

    def _load(self, spec: ModelSpec) -> Encoder:
        check_trusted(spec, self.settings.trusted)
        # whoever comes second finds the weights on this machine
        with self.store.lock(json.dumps({"load": network_of(spec)})), keeping_settings():
            return sources.registry.get(spec.source_name).load(spec)


_OWN: dict[str, Workspace] = {}
"""Of a worker process: the workspace of the target that it saw last."""


def workspace_of(target: Target, store: str, settings: ExtractSettings) -> Workspace:
    """The workspace of this worker process for a target and a store, made anew for another one."""
    key = json.dumps([store, target.fingerprint, repr(settings)])
    if key not in _OWN:
        _OWN.clear()
        _OWN[key] = Workspace(target, FeatureStore(store), settings, report, kept=0)
    return _OWN[key]
