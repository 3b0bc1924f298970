"""What a scan would do and cost, before it does it (``--dry-run``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from selector.config import ScanConfig
from selector.core.errors import SourceError
from selector.extract.job import wanted_of
from selector.extract.known_costs import Costs
from selector.scan.checks import (
    check_for_target,
    check_names,
    choose_specs,
    limits_of,
    load_target,
    open_store,
    run_folder,
    settled_top_k,
)
from selector.scan.dataset_view import offline_hub
from selector.zoo import check_trusted
from selector.zoo.limits import OverLimit
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


def plan(target: Any, config: ScanConfig) -> Plan:
    """Which models a scan would look at, what is cached, and what the rest costs; see ``selector.plan``."""
    limits = limits_of(config)
    check_names(config)
    with offline_hub(config.offline):
        features_store = open_store(config.store)
        data = load_target(target, config)
        check_for_target(config, data)
        specs, trusted = choose_specs(data, config)
        settled_top_k(config, specs, config.confirm)
        run_folder(config, data, confirming=config.confirm)
        costs = Costs(features_store, config.device, config.cost)
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
                entry = features_store.resolve(wanted_of(spec, config.device, config.precision, config.backend))
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
