"""What the tournament found: the best model, the test figures, the set that is as good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from selector.core.contracts import metric_sign
from selector.results import Measurement
from selector.tuning.advice import advise
from selector.tuning.compare import Standing
from selector.tuning.field import Field, Lane, Run, logits_of
from selector.tuning.heads import frozen_module, frozen_test
from selector.tuning.journal import Record
from selector.tuning.loaded import Loaded
from selector.tuning.types import EpsilonMember, TournamentResult, Trained


def verdict(field: Field) -> TournamentResult:
    """Compare everything that was measured, read the test split for the finalists, build the best model."""
    entered = [lane for lane in field.lanes if lane.best is not None]
    entrants: dict[str, list[np.ndarray]] = {}
    for loaded in field.loaded.values():
        assert loaded.frozen is not None
        assert loaded.frozen.logits is not None
        entrants[f"{loaded.name} frozen"] = [loaded.frozen.logits]
    for lane in entered:
        entrants[lane.label] = [logits_of(run) for run in [lane.best, *lane.repeats] if run is not None]
    if not entrants:
        return TournamentResult(_measurements(field, {}, {}), None, notes=tuple(field.notes))
    table = field.standings(entrants)
    best_label = _best_label(field, table)
    tests, best, outcome = _test(field, table, best_label, entered)
    epsilon_best = tuple(_epsilon_best(field, table))
    advice = advise(
        {name: loaded.frozen.facts["curve"] for name, loaded in field.loaded.items() if loaded.frozen},
        {name: [lane.strategy for lane in entered if lane.loaded.name == name] for name in field.loaded},
        entrants,
        field.bench.labels["val"],
        field.bench.task,
        field.metric,
        field.epsilon,
        field.seed,
        field.bench.units["val"],
        {name: _sizes(loaded) for name, loaded in field.loaded.items() if loaded.reduced},
    )
    field.clock.finish()
    _tidy(field, best_label)
    return TournamentResult(
        measurements=_with_outcome(_measurements(field, table, tests), best_label, outcome),
        best=best,
        epsilon_best=epsilon_best,
        history=tuple(field.history),
        notes=tuple(dict.fromkeys(field.notes)),
        course=tuple(field.clock.course),
        advice=tuple(advice),
        p_best=table[best_label].p_best,
        settled=field.settled,
    )


def _sizes(loaded: Loaded) -> str:
    height, width = loaded.size
    own_height, own_width = loaded.encoder.image_preprocess.input_size[1:]
    return f"It was trained at {height} x {width} pixels; the frozen figure is of {own_height} x {own_width}."


def _best_label(field: Field, table: Mapping[str, Standing]) -> str:
    """The first by value; among equals the one that was found with fewer trained parameters."""
    trainable = {f"{name} frozen" for name, loaded in field.loaded.items() if loaded.encoder.module is not None}
    trainable |= {lane.label for lane in field.lanes}
    labels = [label for label in table if label in trainable] or list(table)
    return max(labels, key=lambda label: (metric_sign(field.metric) * table[label].value, label.endswith(" frozen")))


def _test(
    field: Field, table: Mapping[str, Standing], best_label: str, entered: Sequence[Lane]
) -> tuple[dict[str, dict[str, float]], Trained | None, dict[str, Any]]:
    """The test split is read here, once, for the finalists; the best model first.

    Returns:
        Test figures by label, the best model, and its outcome (what it gets right and wrong).
    """
    outcome: dict[str, Any] = {}
    tests: dict[str, dict[str, float]] = {}
    if not len(field.bench.indices["test"]):
        field.notes.append("there is no test split: the validation figures chose the model and are optimistic.")
    finalists = [lane for lane in entered if lane.alive or lane.label == best_label]
    models = {lane.loaded.name for lane in finalists} | {best_label.rpartition(" ")[0]}
    if not entered:
        ranked = sorted(table, key=lambda label: metric_sign(field.metric) * table[label].value, reverse=True)
        models |= {label.rpartition(" ")[0] for label in ranked[:2]}
    best: Trained | None = None
    order = sorted(
        [(lane.label, lane) for lane in finalists]
        + [(f"{name} frozen", None) for name in field.loaded if name in models],
        key=lambda pair: (pair[0] != best_label, -metric_sign(field.metric) * table[pair[0]].value),
    )
    for label, lane in order:
        if label != best_label and field.clock.budget is not None and field.clock.spent > 1.05 * field.clock.budget:
            field.notes.append("the budget ended before every finalist's test figure was read.")
            break
        loaded = field.loaded[label.rpartition(" ")[0]]
        if lane is None:
            record = loaded.frozen
            temperature = _temperature(field, record)
            logits = frozen_test(field.bench, loaded) if len(field.bench.indices["test"]) else None
            if label == best_label and loaded.encoder.module is not None:
                best = _trained(field, loaded, None, None, temperature)
        else:
            run = max([r for r in [lane.best, *lane.repeats] if r is not None], key=field.order)
            record = run.record
            temperature = _temperature(field, record)
            if label == best_label:
                best = _trained(
                    field, loaded, run, field.bench.module_of(loaded, run.candidate, run.steps), temperature
                )
            logits = (
                field.bench.test_outputs(loaded, run.candidate, run.steps) if len(field.bench.indices["test"]) else None
            )
        if logits is not None:
            tests[label] = field.bench.metrics(logits / temperature, "test")
        if label == best_label:
            outcome = _outcome(field, logits, record, temperature)
    return tests, best, outcome


def _outcome(field: Field, test: np.ndarray | None, record: Record | None, temperature: float) -> dict[str, Any]:
    """What the best model gets right and wrong, on test where there is one; empty for tasks that do not say."""
    tell = getattr(field.bench.task, "outcome", None)
    split, logits = ("val", record.logits if record else None) if test is None else ("test", test)
    if tell is None or logits is None:
        return {}
    target, rows = field.bench.target, field.bench.indices[split]
    found: dict[str, Any] = tell(
        logits, field.bench.labels[split], target.class_names, temperature, field.bench.units[split]
    )
    for sample in found.get("samples", ()):
        sample["index"] = int(rows[sample.pop("row")])
        sample["name"] = str(target.names[sample["index"]])
    return {"split": split, **found}


def _with_outcome(
    measurements: dict[str, tuple[Measurement, ...]], best_label: str, outcome: Mapping[str, Any]
) -> dict[str, tuple[Measurement, ...]]:
    """The outcome goes into the record of the measurement that it belongs to."""
    name, _, strategy = best_label.rpartition(" ")
    if outcome:
        measurements[name] = tuple(
            replace(m, extra={**m.extra, "outcome": outcome}) if m.strategy == strategy else m
            for m in measurements[name]
        )
    return measurements


def _tidy(field: Field, best_label: str) -> None:
    """Keep the weights of the best model only; what was measured of the others is in their records."""
    for lane in field.lanes:
        for run in [lane.best, *lane.repeats]:
            if run is not None and lane.label != best_label:
                field.bench.journal.forget_weights(field.key(lane, run))
    field.bench.journal.tidy()


def _trained(field: Field, loaded: Loaded, run: Run | None, module: Any, temperature: float) -> Trained:
    size = loaded.size if run is not None and loaded.reduced else None
    recipe = loaded.encoder.recipe(field.bench.outputs, size)
    return Trained(
        name=loaded.name,
        strategy=run.candidate.strategy if run else "frozen",
        module=(module if module is not None else frozen_module(field.bench, loaded)).cpu().eval(),
        source=str(recipe["source"]),
        recipe=recipe,
        preprocess=loaded.preprocess if run else loaded.encoder.preprocess,
        class_names=tuple(field.bench.target.class_names),
        temperature=temperature,
        task=field.bench.task.name,
        learning_rate=run.candidate.rate if run else None,
        seed=run.candidate.seed if run else field.seed,
        steps=run.steps if run else 0,
    )


def _temperature(field: Field, record: Record | None) -> float:
    fit = getattr(field.bench.task, "temperature", None)
    if fit is None or record is None or record.logits is None:
        return 1.0
    return float(fit(record.logits, field.bench.labels["val"]))


def _epsilon_best(field: Field, table: Mapping[str, Standing]) -> list[EpsilonMember]:
    members = []
    for label, standing in table.items():
        name, _, strategy = label.rpartition(" ")
        if standing.low <= field.epsilon:
            loaded = field.loaded[name]
            members.append(
                EpsilonMember(
                    name,
                    strategy,
                    standing.value,
                    standing.difference,
                    standing.low,
                    standing.high,
                    loaded.encoder.num_parameters,
                    loaded.contestant.latency,
                )
            )
    return sorted(members, key=lambda m: (math.inf if m.latency is None else m.latency, m.parameters, m.difference))


def _measurements(
    field: Field, table: Mapping[str, Standing], tests: Mapping[str, Mapping[str, float]]
) -> dict[str, tuple[Measurement, ...]]:
    found: dict[str, list[Measurement]] = {name: [] for name in [*field.loaded, *field.failed]}
    for name, reason in field.failed.items():
        found[name].append(Measurement("frozen", field.metric, {}, status="failed", note=reason))
    for name, loaded in field.loaded.items():
        label = f"{name} frozen"
        if loaded.frozen is not None and label in table:
            found[name].append(_frozen_measurement(field, loaded, table[label], tests.get(label, {})))
    for lane in [*field.lanes, *field.dead]:
        found[lane.loaded.name].append(_lane_measurement(field, lane, table.get(lane.label), tests.get(lane.label, {})))
    return {name: tuple(measurements) for name, measurements in found.items()}


def _frozen_measurement(field: Field, loaded: Loaded, standing: Standing, test: Mapping[str, float]) -> Measurement:
    record = loaded.frozen
    assert record is not None
    assert record.logits is not None
    native = None if loaded.resolution is None else loaded.encoder.image_preprocess.input_size[1:]
    return Measurement(
        "frozen",
        field.metric,
        val=field.bench.metrics(record.logits, "val"),
        test=test,
        seed=field.seed,
        seconds=float(record.facts["seconds"]),
        resolution=native,
        trained_parameters=int(record.facts["trained_parameters"]),
        extra={
            **_compared(field, standing),
            "learning_curve": record.facts["curve"],
            "strength": record.facts["strength"],
            "temperature": _temperature(field, record),
        },
    )


def _lane_measurement(field: Field, lane: Lane, standing: Standing | None, test: Mapping[str, float]) -> Measurement:
    if lane.best is None or standing is None:
        status: Any = lane.status if lane.status != "ok" else "not run"
        note = "; ".join(lane.notes) or "the budget ended before it was measured"
        return Measurement(lane.strategy, field.metric, {}, status=status, note=note, seconds=lane.seconds)
    run = max([lane.best, *lane.repeats], key=field.order)
    assert run.record.logits is not None
    return Measurement(
        lane.strategy,
        field.metric,
        val=field.bench.metrics(run.record.logits, "val"),
        test=test,
        seed=run.candidate.seed,
        steps=run.steps,
        learning_rate=run.candidate.rate,
        seconds=lane.seconds,
        resolution=lane.loaded.resolution,
        reduced=lane.loaded.reduced,
        trained_parameters=int(run.record.facts["trained_parameters"]),
        note="; ".join(lane.notes),
        rung=lane.rung,
        extra={
            **_compared(field, standing),
            "temperature": _temperature(field, run.record),
            "seed_values": [field.value(r.record) for r in [lane.best, *lane.repeats]],
            "optimiser": field.bench.optimiser(lane.loaded, lane.strategy),
            "memory_bytes": run.record.facts["memory_bytes"],
            "batch_size": field.bench.batch_size,
        },
    )


def _compared(field: Field, standing: Standing) -> dict[str, Any]:
    return {
        "difference": standing.difference,
        "difference_low": standing.low,
        "difference_high": standing.high,
        "p_best": standing.p_best,
        "epsilon_best": standing.low <= field.epsilon,
    }
