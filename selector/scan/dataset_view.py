"""The target as a scan uses it: cleared of known bad images, in a stratified order; as runs record and reports show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

from selector import data as targets
from selector import modalities, tasks
from selector.core.contracts import UNLABELED, Target
from selector.core.resources import environment
from selector.core.table import Facet, RowPlan
from selector.extract.row_readers import OF_ITEMS
from selector.results import Measurement, ModelResult
from selector.store import FeatureStore
from selector.tasks import task_for


def without_known_bad(target: Target, store: FeatureStore, on_invalid: str) -> Target:
    """Leave out items that are known to be unusable, so that a warm scan, which decodes nothing, says the same as a cold one.

    Of images those that an earlier scan could not decode; texts are looked at.

    Raises:
        BadImagesError: there are some, and ``on_invalid`` is ``fail``.
    """
    known = store.bad_images()
    bad = {i: known[h] for i, h in enumerate(target.hashes) if h in known}
    items = modalities.of(target)
    bad |= items.unusable(target.items)
    if not bad:
        return target
    if on_invalid != "skip":
        raise items.bad_items(bad, target.names)
    return targets.without(target, bad)


def reader_of(target: Target) -> str:
    """How rows of a target are read off a network: the name of a row reader."""
    task = tasks.task_for(target)
    return "pooled" if task is None else task.reader


def reads_maps(target: Target) -> bool:
    """Whether its rows are read off feature maps of whole images."""
    return reader_of(target) not in OF_ITEMS


class Rows:
    """The rows of some items of a target, as every model of a round sees them: worked out once, not once a model.

    Attributes:
        target: whose items.
        indices: (n,) positions of the items in it.
        plan: the rows that the task makes of them.
        hashes: what addresses the rows in the store.
        facets: row problems by name; see ``core.task.Facet``.
        groups: (rows,) which item a row belongs to, by content; None where an item is a row.
        beside: (M,) positions of the items without labels that are read with them, and ``hashes_beside`` their rows'.
    """

    def __init__(
        self, target: Target, indices: np.ndarray, limit: int | None = None, beside: np.ndarray | None = None
    ) -> None:
        self.target = target
        self.indices = indices
        self.beside = target.indices(UNLABELED) if beside is None else beside
        self.hashes_beside = target.row_hashes(self.beside)
        task = tasks.task_for(target)
        if task is None:  # labels that are scored and that nothing trains on yet
            self.plan = RowPlan(indices, {"label": Facet(target.label_kind, target.labels_of(indices))})
        else:
            self.plan = task.rows(target, indices, task.most_rows if limit is None else limit, target.seed)
        self.hashes = self.plan.addresses(target.hashes)
        self.facets: Mapping[str, Facet] = self.plan.facets
        self.groups: np.ndarray | None = None
        if self.plan.place is not None:
            # copies of an item are one unit, so that they never fall into different folds
            self.groups = np.unique([target.hashes[i] for i in self.plan.item], return_inverse=True)[1]

    @property
    def labels(self) -> np.ndarray:
        """(rows,), (rows, L) or (rows, T); of the first facet."""
        return next(iter(self.facets.values())).labels

    def __len__(self) -> int:
        return len(self.plan)

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: _digest(facet, self.hashes, self.hashes_beside) for name, facet in self.facets.items()}

    @property
    def digest(self) -> str:
        """What addresses the scores of these rows on their first facet."""
        return next(iter(self._digests.values()))

    def digest_of(self, facet: str) -> str:
        """What addresses the scores of these rows: their content and labels, in any order."""
        return self._digests[facet]

    @property
    def every_item(self) -> np.ndarray:
        """Positions of all items that are read, ascending."""
        return np.union1d(self.indices, self.beside)


def count_items(rows: np.ndarray, groups: np.ndarray | None) -> int:
    """How many items some rows belong to; without ``groups`` a row is an item."""
    return len(rows) if groups is None else len(np.unique(groups[rows]))


def _digest(facet: Facet, hashes: Sequence[str], beside: Sequence[str] = ()) -> str:
    digest = xxhash.xxh3_128(str(facet.kind).encode())
    known = ((content, np.ascontiguousarray(row).tobytes()) for content, row in zip(hashes, facet.labels, strict=True))
    for content, label in sorted(known):
        digest.update(content.encode())
        digest.update(label)
    for content in sorted(beside):
        digest.update(content.encode())
    return digest.hexdigest()


def stratified(target: Target, indices: np.ndarray) -> np.ndarray:
    """``indices`` so ordered that every prefix has the classes in proportion (by content, not position)."""
    by_content = indices[np.argsort([target.hashes[i] for i in indices], kind="stable")]
    task = tasks.task_for(target)
    strata = None if task is None else task.strata(target)
    if strata is None:
        return by_content
    groups = strata[by_content]
    position = np.zeros(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return by_content[np.argsort(position, kind="stable")]


def offline_hub(offline: bool) -> AbstractContextManager[None]:
    """Hub libraries read this variable on every call; it is set for the length of the run only."""
    return environment({"HF_HUB_OFFLINE": "1"} if offline else {})


def illustrated(measurements: Sequence[Measurement], target: Target) -> tuple[Measurement, ...]:
    """The measurements with a thumbnail for each sample of an outcome, or the text or words that it is about."""
    return tuple(_illustrated(m, target) if "error_analysis" in m.extra else m for m in measurements)


def _illustrated(measurement: Measurement, target: Target) -> Measurement:
    outcome = measurement.extra["error_analysis"]
    samples = previewed(outcome.get("samples", ()), target)
    return replace(measurement, extra={**measurement.extra, "error_analysis": {**outcome, "samples": samples}})


def previewed(samples: Sequence[Mapping[str, object]], target: Target) -> list[dict[str, object]]:
    """Samples, which name their item by ``index``, each with its thumbnail or text; ready features have nothing to show."""
    items = modalities.of(target)
    if not items.has_models:
        return [dict(sample) for sample in samples]

    def shown(sample: Mapping[str, Any]) -> dict[str, Any]:
        index, begin = sample["index"], sample.get("begin")
        part = None if begin is None else slice(int(begin), int(begin) + len(sample["label"]))
        return dict(items.preview(target.items, index, str(target.names[index]), part))

    return [{**sample, **shown(sample)} for sample in samples]


def ordered(models: Sequence[ModelResult], first: str | None = None) -> tuple[ModelResult, ...]:
    """Measured models by what was measured, then those with a pilot run by both, then finished ones by transferability, those
    that a pilot run could not train behind them, then pruned, excluded, failed.

    ``first`` names the model that comes first among those that measured the same: the saved one.
    """

    def key(model: ModelResult) -> tuple[float, ...]:
        measured = model.best_measurement()
        transferability = -np.inf if model.transferability is None else model.transferability
        group = {"failed": 4.0, "excluded": 3.0, "pruned": 2.0, "ok": 1.0 if measured is None else 0.0}[model.status]
        # pruned models of different N are ordered by how far they came, never by score across N
        merit = -measured.merit if measured else 0.0
        pilot = np.inf if model.pilot is None or model.pilot.combined is None else -float(model.pilot.combined)
        untrainable = model.pilot is not None and model.pilot.untrainable
        rows = -model.rows if group == 2.0 else 0.0
        return (group, merit, model.name != first, rows, untrainable, pilot, -transferability)

    in_order = sorted(models, key=key)
    return tuple(replace(m, rank=None if m.status in ("failed", "excluded") else i + 1) for i, m in enumerate(in_order))


def summarize(target: Target) -> dict[str, object]:
    """The target as plain JSON: what the run records and the report shows."""
    counts = {name: int(n) for name, n in zip(target.class_names, target.class_counts(), strict=False)}
    return {
        "name": target.name,
        "fingerprint": target.fingerprint,
        "identity": target.identity,
        "modality": str(target.modality),
        "label_kind": str(target.label_kind),
        "items": len(target),
        **({"words": len(target.labels)} if target.of_words else {}),
        **modalities.of(target).facts(target.items),
        "task": target.task,
        "classes": len(target.class_names),
        "class_noun": "classes" if (task := task_for(target)) is None else task.class_noun,
        "class_names": list(target.class_names),
        "class_counts": counts,
        "splits": target.counts(),
        **({UNLABELED: len(found)} if len(found := target.indices(UNLABELED)) else {}),
        "split_origin": target.split_origin,
        "origin": target.origin,
    }
