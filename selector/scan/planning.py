"""What a scan would do and cost, before it does it (``--dry-run``)."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selector import modalities, tasks
from selector.config import ScanConfig
from selector.core.contracts import UNLABELED, Target
from selector.core.costs import Cost
from selector.core.errors import MALFORMED
from selector.core.preprocess import Preprocess
from selector.core.system import visible_cards
from selector.core.units import format_duration
from selector.extract.job import wanted_of
from selector.extract.known_costs import Costs
from selector.modalities.image import pixel_limit
from selector.run.job import Failure
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
from selector.scan.dataset_view import count_items, offline_hub
from selector.scan.extraction import operations_of
from selector.scan.many import listed
from selector.scan.memory_fit import FIT, Machine, Room, footprint_of
from selector.scan.target_scan import SCAN_SHARE
from selector.sources import _weights, noting_fetches
from selector.store import FeatureStore
from selector.store.entry import Entry
from selector.tuning import plan as plans
from selector.zoo import ModelSpec, check_trusted
from selector.zoo.limits import Limits, OverLimit
from selector.zoo.spec import network_of

EFFICIENCY = (0.1, 0.8)  # share of the rate of a plain matrix product that networks reach on a processor
ASKED = 200  # models, up to which a plan asks the hub about each
LOOKING = (
    30.0  # seconds that the memory of models is looked at for; what was found is remembered, the next plan goes on
)
LOADING = (0.5, 5.0)  # seconds until a network runs: building, weights, choice of a backend


@dataclass(frozen=True)
class Plan:
    """What a scan would do; nothing was extracted to find out.

    Attributes:
        models: one mapping per model with name, source, params, cached and missing (rows), note; and how it fits this
            machine (``memory_fit``): ``scan_bytes`` and ``scan_batch``, ``training_bytes``, ``training_batch``,
            ``training_side`` (pixels; None for texts), ``training_precision`` and ``training_epochs`` (of the budget), and
            ``fits``: why it does not, empty where it does. None where the architecture is not known without its weights.
        images: rows that each is read at, whatever they are: ``noun`` is what one is called.
        free_bytes, device_bytes: memory that is free now, of the machine and of its GPU; None where no model was looked at.
        decoded: items of all splits that are prepared, each content once: test is read at the end.
        disk_bytes: of the rows, when all are stored.
        pixel_bytes, compiled_bytes: of decoded images and compiled networks beside them, caches that the store
            keeps below a ceiling.
        fetch_bytes: of weights that are not on this machine.
        seconds: where every model that lacks rows has run here before; None otherwise.
        seconds_low, seconds_high: the range that holds in any case; from measured rates where there are, else from
            the networks' operations and this processor's rate. None on a graphics card that no network has run on.
        unusable: names of models that will give no rows, by reason.
        notes: what else to know.
    """

    models: tuple[Mapping[str, Any], ...]
    images: int
    disk_bytes: int
    seconds: float | None
    notes: tuple[str, ...] = ()
    noun: str = "image"
    seconds_low: float | None = None
    seconds_high: float | None = None
    pixel_bytes: int = 0
    compiled_bytes: int = 0
    fetch_bytes: int = 0
    unusable: Mapping[str, tuple[str, ...]] | None = None
    decoded: int = 0
    free_bytes: int | None = None
    device_bytes: int | None = None


def plan(target: object, config: ScanConfig) -> Plan | list[Plan]:
    """Which models a scan would look at, what is cached, and what the rest costs; see ``selector.plan``.

    One a target where the call names several; what they share is counted for each.
    """
    several = listed(target, config)
    return _plan(target, config) if several is None else [_plan(each, config) for each in several]


def _plan(target: object, config: ScanConfig) -> Plan:
    check_names(config)
    with offline_hub(config.offline), pixel_limit(config.pixels):
        store = open_store(config.store)
        data = load_target(target, config)
        check_for_target(config, data)
        specs, trusted = choose_specs(data, config)
        settled_top_k(config, specs, config.confirm)
        run_folder(config, data, confirming=config.confirm)
        indices = data.indices("train", "val", UNLABELED)
        hashes, groups = data.row_hashes(indices), data.groups_of(indices)
        costs = Costs(store, config.device, config.measure_cost)
        # of so many models one by one the hub is not asked what it has: that takes longer than a plan may
        ask = len(specs) <= ASKED or _weights.offline()
        looked = [_look(spec, trusted, config, store, costs, limits_of(config), hashes, groups, ask) for spec in specs]
        low, high, exact = _seconds(looked, data, config)
        unusable: dict[str, tuple[str, ...]] = {}
        for found in looked:
            if found.note:
                reason = _general(found.note, found.spec)
                unusable[reason] = (*unusable.get(reason, ()), found.spec.name)
        lacking = [found for found in looked if found.missing]
        left = _after_scan(config, high)
        machine, fits = _fits(looked, data, left, store)
        return Plan(
            tuple({**found.row(), **fit} for found, fit in zip(looked, fits, strict=True)),
            len(hashes),
            sum(found.missing * found.width * 4 for found in looked),
            exact,
            (*_notes(lacking, low, config, fits), *(_training(looked, data, left) if config.confirm else ())),
            data.row_noun,
            low,
            high,
            _prepared_bytes(lacking, data, len(indices)),
            _compiled(lacking, config),
            sum(found.fetch for found in looked),
            unusable,
            len(set(data.hashes)),
            None if machine is None else machine.memory,
            None if machine is None else machine.device,
        )


@dataclass(frozen=True)
class _Found:
    """What is known of one model without loading it."""

    spec: ModelSpec
    cached: int = 0
    missing: int = 0
    items: int = 0  # that rows are missing of
    note: str = ""
    unread: int = 0  # rows that a model which cannot be used would have
    width: int = 1024
    rate: float | None = None  # items a second, as measured here
    cost: Cost | None = None
    parameters: int | None = None
    preprocess: Preprocess | None = None
    fetch: int = 0

    def row(self) -> dict[str, object]:
        """As the plan hands it over."""
        return {
            "name": self.spec.name,
            "source": self.spec.source,
            "params": self.spec.params,
            "cached": self.cached,
            "missing": self.missing or self.unread,
            "note": self.note,
        }


def _look(
    spec: ModelSpec,
    trusted: bool,
    config: ScanConfig,
    store: FeatureStore,
    costs: Costs,
    limits: Limits,
    hashes: Sequence[str],
    groups: np.ndarray | None,
    ask: bool,
) -> _Found:
    entry: Entry | None = None
    cost: Cost | None = None
    items = count_items(np.arange(len(hashes)), groups)
    facts = store.get("rate", {"network": network_of(spec)}) or {}
    try:
        limits.check_facts(spec)
        check_trusted(spec, trusted)  # a source imports packages to say what such an entry is
        if not (ask or facts) and spec.weights is None:  # never ran here: what the zoo and tables say is enough
            missing = len(hashes)
            return _Found(spec, missing=missing, items=items, parameters=spec.params, fetch=4 * (spec.params or 0))
        with noting_fetches() as lacking:
            entry = store.resolve(wanted_of(spec, config.device, config.precision, config.backend))
        if entry is not None:
            limits.check_facts(spec, entry.meta.get("num_parameters"))
            if (cost := costs.known(entry)) is not None:
                limits.check_cost(cost)
    except OverLimit as error:
        return _Found(spec, note=f"excluded: {error}")
    except MALFORMED as error:
        return _Found(spec, note=Failure.of(error).reason, unread=len(hashes))
    missing = len(hashes)
    if entry is not None:
        rows = entry.missing(hashes)
        missing, items = len(rows), count_items(rows, groups)
    remembered = store.get("preprocess", {"network": network_of(spec)})
    parameters = spec.params or (entry.meta.get("num_parameters") if entry is not None else None)
    return _Found(
        spec,
        cached=len(hashes) - missing,
        missing=missing,
        items=items,
        width=facts.get("num_features") or (entry.num_features if entry is not None else None) or 1024,
        rate=facts.get("rows_per_second"),
        cost=cost,
        parameters=parameters,
        preprocess=Preprocess.from_dict(remembered) if remembered is not None else None,
        fetch=sum(4 * (parameters or 0) if size is None else size for size in lacking) if missing else 0,
    )


# ---------------------------------------------------------------------------- time


def _after_scan(config: ScanConfig, scan: float | None) -> ScanConfig:
    """The options with what the scan, at its longest, leaves of a budget for the whole call."""
    if config.budget is None or config.seconds is None:
        return config
    share = SCAN_SHARE * config.seconds
    return config.model_copy(update={"budget": config.seconds - min(share if scan is None else scan, share)})


def _seconds(
    looked: Sequence[_Found], data: Target, config: ScanConfig
) -> tuple[float | None, float | None, float | None]:
    """(shortest, longest, as measured): one forward pass serves all variants of a network."""
    networks: dict[str, _Found] = {}
    for found in looked:
        if found.missing:
            known = networks.setdefault(network_of(found.spec), found)
            if found.items > known.items:
                networks[network_of(found.spec)] = found
    lacking = list(networks.values())
    if all(found.rate for found in lacking):
        exact = sum(found.items / (found.rate or 1.0) for found in lacking)
        return exact / 1.3, exact * 1.5, exact
    on_card = config.device.startswith(("cuda", "mps")) or (config.device == "auto" and bool(visible_cards()))
    unknown = [found for found in lacking if not found.rate and found.cost is None]
    if on_card or any(_operations(found, data) is None for found in unknown):
        return None, None, None
    rate = arithmetic_rate()
    low, high = 0.0, 0.0
    for found in lacking:
        quick, slow = _of_network(found, data, rate)
        low, high = low + quick, high + slow
    items = max((found.items for found in lacking), default=0)
    quick, slow = modalities.of(data).prepare_seconds
    return low + items * quick, high + items * slow, None


def _of_network(found: _Found, data: Target, rate: float) -> tuple[float, float]:
    if found.rate:
        return found.items / found.rate / 1.3, found.items / found.rate * 1.5
    if found.cost is not None and found.cost.image_seconds:
        return found.items * found.cost.image_seconds / 1.3, found.items * found.cost.image_seconds * 1.5
    fewest, most = _operations(found, data) or (0.0, 0.0)
    return (
        LOADING[0] + found.items * fewest / (rate * EFFICIENCY[1]),
        LOADING[1] + found.items * most / (rate * EFFICIENCY[0]),
    )


def _operations(found: _Found, data: Target) -> tuple[float, float] | None:
    """Multiply-adds an item, at least and at most; None where nothing tells."""
    if found.cost is not None and found.cost.flops:
        return float(found.cost.flops), float(found.cost.flops)
    return operations_of(found.spec, data, found.parameters, _size(found))


def _training(looked: Sequence[_Found], data: Target, config: ScanConfig) -> tuple[str, ...]:
    """What the budget will train, by the passes of the quickest models: which of them lead, the scan says first."""
    known = sorted(
        (seconds, found.spec.name, _size(found))
        for found in looked
        if (seconds := _pass(found, data, config.resolution))
    )
    if not known or config.seconds is None or config.source_domain is not None:
        return ()
    names = known[: config.top_k or 3]
    trained = [name for name in config.strategies if name != "frozen"] or ["frozen"]
    found, least = _foreseen([seconds for seconds, _, _ in names for _ in trained], data, config, config.seconds)
    told = f"the smallest budget that fine-tunes {names[0][1]} is about {format_duration(least)}."
    budget = format_duration(config.seconds)
    if found is None:
        return (f"{budget} will train: the head of frozen models; {told}",)
    models = ", ".join(name for _, name, _ in names[: math.ceil(found.configurations / len(trained))])
    size = names[0][2]
    side = config.resolution or (
        size and (min(size[1:]) if min(size[1:]) <= 64 else max(64, round(found.factor * min(size[1:]) / 32) * 32))
    )
    at = f" at {side} px" if side else ""
    strategies = " and ".join(dict.fromkeys(["frozen", *trained]))
    return (f"{budget} will train, if they lead: {models}, {strategies}{at}, about {found.epochs:.0f} epochs; {told}",)


def _foreseen(
    passes: Sequence[float], data: Target, config: ScanConfig, budget: float
) -> tuple[plans.Forecast | None, float]:
    """What a budget leaves configurations whose forward pass of an item takes so many seconds, and the least budget that
    fine-tunes the first one."""
    train, val, test = (len(data.indices(split)) for split in ("train", "val", "test"))
    batch = tasks.task_of(data).batch(train)
    an_epoch = max(1, train // batch)
    costs = [plans.StrategyCost.of_passes(seconds, batch, val) for seconds in passes]
    reserve = 3.0 + test * passes[0]
    found = plans.foresee(
        costs,
        budget=budget - reserve,
        max_steps=config.max_steps or plans.usual_steps(an_epoch),
        steps_an_epoch=an_epoch,
        reduced=config.resolution is None,
        again=(train + val) / train if config.refit else 0.0,
    )
    return found, plans.least_budget(costs[0], an_epoch, reduced=config.resolution is None) + reserve


def _pass(found: _Found, data: Target, resolution: int | None) -> float | None:
    """Seconds an item of a forward pass, as measured here or from the operations, at the resolution that the training is
    given; None where nothing tells."""
    if found.note:
        return None
    if found.rate:
        seconds = 1 / found.rate
    elif found.cost is not None and found.cost.image_seconds:
        seconds = found.cost.image_seconds
    elif (operations := _operations(found, data)) is not None:
        share = math.sqrt(EFFICIENCY[0] * EFFICIENCY[1])
        seconds = math.sqrt(operations[0] * operations[1]) / (arithmetic_rate() * share)
    else:
        return None
    size = _size(found)
    return seconds * (1.0 if size is None or resolution is None else (resolution / min(size[1:])) ** 2)


@functools.cache
def arithmetic_rate() -> float:
    """Multiply-adds a second of a matrix product in float32 on this processor; takes some hundredths of a second."""
    side = 768
    matrix = np.ones((side, side), np.float32)
    quickest = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        matrix @ matrix
        quickest = min(quickest, time.perf_counter() - started)
    return float(side**3 / max(quickest, 1e-9))


# ---------------------------------------------------------------------------- memory


def _fits(
    looked: Sequence[_Found], data: Target, config: ScanConfig, store: FeatureStore
) -> tuple[Machine | None, list[dict[str, object]]]:
    """This machine, and how each model fits it and the budget; see ``Plan.models``."""
    if not modalities.of(data).has_models:
        return None, [dict.fromkeys(FIT) for _ in looked]
    room = Room.of(data, config)
    until = time.process_time() + LOOKING
    found = []
    for each in looked:
        shape = None
        if not each.note:
            shape = footprint_of(
                each.spec, store, room.device, looks=len(looked) <= ASKED and time.process_time() < until
            )
        if shape is None:
            found.append(dict.fromkeys(FIT))
        else:
            each = replace(each, parameters=each.parameters or shape.weights // 4)
            factor, epochs = _budgeted(each, data, config) if room.trains else (1.0, None)
            found.append(room.fit(shape, _size(each), factor, epochs))
    return room.machine, found


def _budgeted(found: _Found, data: Target, config: ScanConfig) -> tuple[float, float | None]:
    """(share of its own side, epochs) that the budget leaves a model that is trained alone; no epochs are None where its
    speed is not known, and 0 where the budget is too short."""
    seconds = _pass(found, data, config.resolution)
    if seconds is None or config.seconds is None:
        return 1.0, None
    told, _ = _foreseen([seconds], data, config, config.seconds)
    return (1.0, 0.0) if told is None else (told.factor, told.epochs)


# ---------------------------------------------------------------------------- disk


def _size(found: _Found) -> tuple[int, int, int] | None:
    return found.preprocess.input_size if found.preprocess is not None else found.spec.preprocess.input_size


def _prepared_bytes(lacking: Sequence[_Found], data: Target, items: int) -> int:
    """Prepared items (decoded images), once a size."""
    sizes = {_size(found) for found in lacking}
    return sum(modalities.of(data).kept_bytes(size) * items for size in sizes)


def _compiled(lacking: Sequence[_Found], config: ScanConfig) -> int:
    """What a backend that compiles keeps: about the weights again."""
    if config.backend == "eager":
        return 0
    return sum(4 * (found.parameters or 0) for found in {network_of(f.spec): f for f in lacking}.values())


# ---------------------------------------------------------------------------- words


def _general(note: str, spec: ModelSpec) -> str:
    """A reason without what is this model's own, so that equal ones can be counted."""
    for own in sorted({spec.name, spec.source, spec.model_id}, key=len, reverse=True):
        note = note.replace(f"{own}: ", "", 1) if note.startswith(f"{own}: ") else note.replace(own, "…")
    return note


def _notes(
    lacking: Sequence[_Found], low: float | None, config: ScanConfig, fits: Sequence[Mapping[str, object]]
) -> tuple[str, ...]:
    notes = []
    if unknown := sum(fit["scan_bytes"] is None for fit in fits):
        notes.append(
            f"{unknown} model(s) whose memory is not known before they run: no torch architecture, or many models."
        )
    new = [found for found in lacking if not found.rate]
    if low is None and new:
        notes.append(f"{len(new)} model(s) have not run on this machine yet, so their time cannot be predicted.")
    if config.confirm:
        limit = (
            "no limit (--budget sets one)" if config.seconds is None else f"at most {format_duration(config.seconds)}"
        )
        both = config.budget is not None
        notes.append(f"{'scan and fine-tuning together' if both else 'fine-tuning comes on top'}: {limit}.")
    return tuple(notes)
