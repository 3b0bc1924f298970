"""What a scan would do and cost, before it does it (``--dry-run``)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from selector.core.errors import SourceError
from selector.extract.job import wanted_of
from selector.extract.known_costs import CostMode, Costs
from selector.scan.dataset_view import load, offline_hub
from selector.scan.selection import choose_models
from selector.scan.variants import expand, reading_rows_of
from selector.store import FeatureStore
from selector.zoo import ModelSpec, Zoo, check_trusted, licences
from selector.zoo.limits import Limits, OverLimit
from selector.zoo.variants import network_of


@dataclass(frozen=True)
class Plan:
    """What a scan would do; nothing was extracted to find out.

    ``models``: one mapping a model with name, source, params, cached and missing (rows). ``images``
    are the rows that each is read at, whatever they are: ``noun`` is what one is called. ``seconds``
    is None when no rate has been measured on this machine.
    """

    models: tuple[Mapping[str, Any], ...]
    images: int
    disk_bytes: int
    seconds: float | None
    notes: tuple[str, ...] = ()
    noun: str = "image"


def plan(
    target: Any,
    *,
    zoo: str | os.PathLike[str] | Zoo | Sequence[ModelSpec | str] | None = None,
    models: str | Sequence[str] | None = None,
    tags: str | Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    pooling: str | Sequence[str] | None = None,
    max_samples: int | None = None,
    text_column: str | Sequence[str] | None = None,
    label_column: str | int | None = None,
    store: str | os.PathLike[str] | FeatureStore | None = None,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    seed: int = 0,
    offline: bool = False,
    trust_zoo: bool = False,
    max_params: str | float | None = None,
    max_latency: str | float | None = None,
    max_memory: str | float | None = None,
    licence: str | Sequence[str] | None = None,
    cost: CostMode = "auto",
    trust: Literal["stat", "content"] = "stat",
) -> Plan:
    """Which models ``rank`` would look at, what is cached, and what the rest costs; arguments as for ``rank``."""
    limits = Limits.of(max_params, max_latency, max_memory, licence)
    with offline_hub(offline):
        features_store = store if isinstance(store, FeatureStore) else FeatureStore(store)
        data = load(target, max_samples, seed, trust, text_column, label_column)
        chosen, trusted = choose_models(zoo, models, tags, trust_zoo=trust_zoo, modality=data.modality)
        licences.check(limits.licence, [spec.licence for spec in chosen if spec.licence])
        specs = expand(reading_rows_of(chosen, data), layers, pooling)
        costs = Costs(features_store, device, cost)
        indices = data.indices("train", "val")
        hashes, units = data.row_hashes(indices), data.units_of(indices)
        rows: list[dict[str, Any]] = []
        seconds: dict[str, float] = {}  # by network: one pass serves all of its readings
        unknown = 0
        disk = 0
        for spec in specs:
            row: dict[str, Any] = {
                "name": spec.name,
                "source": spec.source,
                "params": spec.params,
                "cached": 0,
                "missing": len(hashes),
                "note": "",
            }
            items = len(indices)
            try:
                limits.check_facts(spec)
                check_trusted(spec, trusted)  # a source imports packages to say what such an entry is
                entry = features_store.resolve(wanted_of(spec, device, precision, backend))
                if entry is not None:
                    limits.check_facts(spec, entry.meta.get("num_parameters"))
                    if (known := costs.known(entry)) is not None:
                        limits.check_cost(known)
            except OverLimit as error:
                row |= {"missing": 0, "note": f"excluded: {error}"}
                rows.append(row)
                continue
            except (SourceError, OSError) as error:
                entry, row["note"] = None, str(error)
            facts = features_store.get("rate", {"source": spec.source}) or {}
            if entry is not None:
                lacking = entry.missing(hashes)
                items = len(lacking) if units is None else len(np.unique(units[lacking]))
                row |= {"missing": len(lacking), "cached": len(hashes) - len(lacking)}
            width = facts.get("num_features") or (entry.num_features if entry is not None else None) or 1024
            disk += int(row["missing"] * width * 4)
            if row["missing"] and "rows_per_second" in facts:
                network = network_of(spec)
                seconds[network] = max(seconds.get(network, 0.0), items / facts["rows_per_second"])
            elif row["missing"]:
                unknown += 1
            rows.append(row)
        notes = (
            [f"{unknown} model(s) have never run on this machine; their time is not in the estimate."]
            if unknown and seconds
            else []
        )
        return Plan(
            tuple(rows),
            len(hashes),
            disk,
            sum(seconds.values()) if seconds or not unknown else None,
            tuple(notes),
            data.row_noun,
        )
