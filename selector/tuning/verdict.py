"""What the fine-tuning stage found: the best model, its test metrics, the set that is as good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from selector.core.contracts import Target
from selector.core.task import Learner, Stats, Task
from selector.ranking.outlook import expected_gain, spread
from selector.ranking.second_stage import Z90
from selector.results import Measurement
from selector.tuning.compare import Standing, advise
from selector.tuning.field import Configuration, Field, Run, stats_of
from selector.tuning.heads import frozen_module, frozen_stats, refit
from selector.tuning.journal import Record
from selector.tuning.rounds import train_on_all
from selector.tuning.strategies._loop import predict
from selector.tuning.trial import final_stats, has_final_stats, module_of, optimizer_of
from selector.tuning.types import EpsilonMember, FineTuningResult, Trained
from selector.tuning.workbench import Loaded

REFITTED = (
    "the saved head was solved again on train and validation items together, at the strength that validation chose; the "
    "validation value is of the head before, the test value of the saved one"
)
TRAINED_AGAIN = (
    "the saved model was trained once more, for {steps} steps on train and validation items together; the validation value is "
    "of the training before, the test value of the saved one"
)
ENOUGH_EPOCHS = 2  # less is no training that could tell against its strategy
ENOUGH_STEPS = 50  # likewise, for it to gain what trainings usually gain


def verdict(field: Field) -> FineTuningResult:
    """Compare everything that was measured, read the test split for the finalists, build the best model."""
    entered = [configuration for configuration in field.configurations if configuration.best is not None]
    entrants: dict[str, list[Stats]] = {}
    for loaded in field.loaded.values():
        if loaded.frozen is not None and loaded.frozen.stats is not None:
            entrants[f"{loaded.name} frozen"] = [loaded.frozen.stats]
    for configuration in entered:
        entrants[configuration.label] = [stats_of(run) for run in configuration.runs]
    if not entrants:
        return FineTuningResult(_measurements(field, {}, {}), None, notes=tuple(field.notes))
    incomplete = {configuration.label for configuration in entered if field.incomplete(configuration)}
    if len(incomplete) == len(entrants):  # better than no model
        incomplete = set()
    table = field.standings({label: runs for label, runs in entrants.items() if label not in incomplete})
    table = {label: replace(found, merit=_merit(field, table, label, entrants)) for label, found in table.items()}
    best_label = _best_label(field, table)
    complete = [configuration for configuration in entered if configuration.label not in incomplete]
    tests, best, analysis = _test(field, table, best_label, complete)
    epsilon_best = tuple(_epsilon_best(field, table))
    advice = advise(
        {name: loaded.frozen.facts["curve"] for name, loaded in field.loaded.items() if loaded.frozen},
        {
            name: [configuration.strategy for configuration in entered if configuration.loaded.name == name]
            for name, loaded in field.loaded.items()
            if loaded.frozen
        },
        entrants,
        field.metric,
        field.declared,
        field.epsilon,
        field.seed,
        {name: _sizes(loaded) for name, loaded in field.loaded.items() if loaded.reduced},
        {configuration.label: reason for configuration in entered if (reason := _short_training(field, configuration))},
        {label: found.merit for label, found in table.items()},
    )
    field.clock.finish()
    _tidy(field, best_label)
    return FineTuningResult(
        measurements=_with_error_analysis(_measurements(field, table, tests), best_label, analysis),
        best=best,
        epsilon_best=epsilon_best,
        history=tuple(field.history),
        notes=tuple(dict.fromkeys(field.notes)),
        tuning_log=tuple(field.clock.tuning_log),
        advice=tuple(advice),
        p_best=table[best_label].p_best,
        settled=field.settled,
    )


def _short_training(field: Field, configuration: Configuration) -> str:
    """Why a training cannot speak against its strategy; empty where it can."""
    assert configuration.best is not None
    done = configuration.best.taken
    epochs = done * field.bench.batch_size / len(field.bench.indices["train"])
    if epochs < ENOUGH_EPOCHS:
        return f"ran for {done} steps only ({epochs:.1f} epochs)"
    return "was trained below its own size" if configuration.loaded.reduced else ""


def _sizes(loaded: Loaded) -> str:
    height, width = loaded.size
    own_height, own_width = loaded.encoder.image_preprocess.input_size[1:]
    return f"It was trained at {height} x {width} pixels; the frozen metric is of {own_height} x {own_width}."


def _merit(field: Field, table: Mapping[str, Standing], label: str, entrants: Mapping[str, Sequence[Stats]]) -> float:
    """The value on validation, more being better. Of a complete training whose gain over its frozen network these items cannot
    measure well, a mean of it and of what training gained on other datasets: texts nearly always gain, and 18 items do not
    show it."""
    value = field.declared.sign * table[label].value
    name, _, strategy = label.rpartition(" ")
    frozen = f"{name} frozen"
    configuration = next((one for one in field.configurations if one.label == label), None)
    kind = (str(field.bench.target.modality), str(field.bench.target.label_kind))
    if configuration is None or configuration.best is None or frozen not in table or strategy != "full":
        return value
    if field.metric != "accuracy" or kind not in spread().seen:
        return value
    if _short_training(field, configuration) or configuration.best.taken < ENOUGH_STEPS:
        return value
    pair = field.standings({one: entrants[one] for one in (label, frozen)})
    error = max(one.high - one.low for one in pair.values()) / (2 * Z90)
    before = field.declared.sign * table[frozen].value
    return before + expected_gain(value - before, error, kind[0], 1 - before)


def _best_label(field: Field, table: Mapping[str, Standing]) -> str:
    """The first by merit; among equals the one that was found with fewer trained parameters."""
    trainable = {f"{name} frozen" for name, loaded in field.loaded.items() if loaded.encoder.module is not None}
    trainable |= {configuration.label for configuration in field.configurations}
    labels = [label for label in table if label in trainable] or list(table)
    return max(labels, key=lambda label: (table[label].merit, label.endswith(" frozen")))


def _test(
    field: Field, table: Mapping[str, Standing], best_label: str, entered: Sequence[Configuration]
) -> tuple[dict[str, dict[str, float]], Trained | None, dict[str, Any]]:
    """The test split is read here, once, for the finalists; the best model first.

    Returns:
        Test metrics by label, the best model, and its error analysis.
    """
    analysis: dict[str, Any] = {}
    tests: dict[str, dict[str, float]] = {}
    bench = field.bench
    tested = len(bench.indices["test"]) > 0
    if not tested:
        field.notes.append(
            "there is no test split: the validation values, on which the model was chosen, are optimistic."
        )
    finalists = [configuration for configuration in entered if configuration.alive or configuration.label == best_label]
    models = {configuration.loaded.name for configuration in finalists} | {best_label.rpartition(" ")[0]}
    if not entered:
        ranked = sorted(table, key=lambda label: table[label].merit, reverse=True)
        models |= {label.rpartition(" ")[0] for label in ranked[:2]}
    best: Trained | None = None
    order = sorted(
        [(configuration.label, configuration) for configuration in finalists]
        + [(f"{name} frozen", None) for name, loaded in field.loaded.items() if name in models and loaded.frozen],
        key=lambda pair: (pair[0] != best_label, -table[pair[0]].merit),
    )
    for label, configuration in order:
        loaded = field.loaded[label.rpartition(" ")[0]]
        left = math.inf if field.clock.budget is None else field.clock.budget - field.clock.spent
        if label != best_label and field.test_seconds(loaded) > left:
            field.notes.append("the budget ended before every finalist's test metric was read.")
            break
        run = None if configuration is None else _leading(field, configuration)
        with bench.working_on(loaded.candidate):
            context = _context(field, loaded.frozen if run is None else run.record)
            if (
                label != best_label
                and run is not None
                and tested
                and not has_final_stats(bench, loaded, run.trial, run.steps, "test", context)
            ):
                # an earlier call kept the weights of its best model only
                field.notes.append(f"the test metric of {label} was not read: its weights were not kept.")
                continue
            if label == best_label and tested and field.settings["refit"]:
                # what was chosen learns from all labels before the test items are read
                if run is None and refit(bench, loaded):
                    field.refitted[label] = REFITTED
                elif (
                    run is not None and configuration is not None and (more := train_on_all(field, configuration, run))
                ):
                    run, field.refitted[label] = more, TRAINED_AGAIN.format(steps=more.taken)
            if label == best_label and loaded.encoder.module is not None:
                module = None if run is None else module_of(bench, loaded, run.trial, run.steps)
                best = _trained(field, loaded, run, module, context)
            if tested:
                stats = _final(field, loaded, run, "test", context, saved=label == best_label)
                tests[label] = stats.values(bench.task.metrics)
            if label == best_label:
                split = "test" if tested else "val"
                if not tested:
                    stats = _final(field, loaded, run, "val", context, saved=True)
                analysis = error_analysis(bench.task, bench.target, bench.indices[split], stats, split)
                if bench.task.draws and loaded.encoder.module is not None:
                    _draw(field, loaded, run, module, analysis["samples"], context)
    return tests, best, analysis


def _final(
    field: Field, loaded: Loaded, run: Run | None, split: str, context: Mapping[str, object], *, saved: bool
) -> Stats:
    if run is None:
        return frozen_stats(field.bench, loaded, split, context, saved=saved)
    return final_stats(field.bench, loaded, run.trial, run.steps, split, context)


def error_analysis(task: Task, target: Target, items: np.ndarray, stats: Stats, split: str) -> dict[str, Any]:
    """The error analysis of a model on the items of a ``split``, as plain JSON; its samples name their items."""
    found = task.report(stats, target.class_names).to_dict()
    for sample in found["samples"]:
        sample["index"] = int(items[sample.pop("row")])
        sample["name"] = str(target.names[sample["index"]])
    return {"split": split, **found}


def _draw(
    field: Field,
    loaded: Loaded,
    run: Run | None,
    module: Any,
    samples: Sequence[dict[str, Any]],
    context: Mapping[str, Any],
) -> None:
    """What the task draws of the samples, by the best model once more: outputs of whole splits are never kept."""
    bench = field.bench
    learner = frozen_module(bench, loaded) if run is None else module
    feed = bench.feed(loaded.encoder.preprocess if run is None else loaded.preprocess)
    items = np.array([sample["index"] for sample in samples], dtype=np.int64)
    outputs: list[Any] = []
    predict(learner, feed, items, lambda found, _: outputs.extend(found), device=bench.device, batch_size=4)
    for sample, more in zip(samples, bench.task.drawn(outputs, bench.target, items, context), strict=True):
        sample.update(more)


def _with_error_analysis(
    measurements: dict[str, tuple[Measurement, ...]], best_label: str, analysis: Mapping[str, object]
) -> dict[str, tuple[Measurement, ...]]:
    """The error analysis goes into the record of the measurement that it belongs to."""
    name, _, strategy = best_label.rpartition(" ")
    if analysis:
        measurements[name] = tuple(
            replace(m, extra={**m.extra, "error_analysis": analysis}) if m.strategy == strategy else m
            for m in measurements[name]
        )
    return measurements


def _tidy(field: Field, best_label: str) -> None:
    """Keep the weights of the best model only; what was measured of the others is in their records."""
    for configuration in field.configurations:
        for run in configuration.runs if configuration.label != best_label else ():
            field.bench.journal.forget_weights(field.key(configuration, run))
    field.bench.journal.tidy()


def _trained(field: Field, loaded: Loaded, run: Run | None, module: object, context: Mapping[str, object]) -> Trained:
    size = loaded.resized if run is not None else None
    task = field.bench.task_for(run.trial.strategy if run else "")
    recipe = task.recipe(loaded.encoder, field.bench.target, size)
    learner = cast(Learner, module if module is not None else frozen_module(field.bench, loaded))
    return Trained(
        name=loaded.name,
        strategy=run.trial.strategy if run else "frozen",
        module=learner.network.cpu().eval(),
        source=str(recipe["source"]),
        recipe=recipe,
        preprocess=loaded.preprocess if run else loaded.encoder.preprocess,
        class_names=tuple(field.bench.target.class_names),
        context=dict(context),
        task=field.bench.task.name,
        learning_rate=run.trial.rate if run else None,
        seed=run.trial.seed if run else field.seed,
        steps=run.taken if run else 0,
    )


def _context(field: Field, record: Record | None) -> dict[str, Any]:
    """What the validation items choose: a temperature, thresholds."""
    return {} if record is None or record.stats is None else field.bench.task.calibrate(record.stats)


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
                    loaded.candidate.latency,
                )
            )
    return sorted(members, key=lambda m: (math.inf if m.latency is None else m.latency, m.parameters, m.difference))


def _measurements(
    field: Field, table: Mapping[str, Standing], tests: Mapping[str, Mapping[str, float]]
) -> dict[str, tuple[Measurement, ...]]:
    found: dict[str, list[Measurement]] = {name: [] for name in [*field.loaded, *field.failed, *field.not_run]}
    for name, reason in field.failed.items():
        found[name].append(Measurement("frozen", field.metric, {}, status="failed", note=reason))
    for name, reason in field.not_run.items():
        found[name].append(Measurement("frozen", field.metric, {}, status="not run", note=reason))
    for name, loaded in field.loaded.items():
        label = f"{name} frozen"
        if loaded.frozen is not None and label in table:
            found[name].append(_frozen_measurement(field, loaded, table[label], tests.get(label, {})))
    for configuration in [*field.configurations, *field.dead]:
        found[configuration.loaded.name].append(
            _configuration_measurement(
                field, configuration, table.get(configuration.label), tests.get(configuration.label, {})
            )
        )
    return {name: tuple(measurements) for name, measurements in found.items()}


def _frozen_measurement(field: Field, loaded: Loaded, standing: Standing, test: Mapping[str, float]) -> Measurement:
    record = loaded.frozen
    assert record is not None
    assert record.stats is not None
    native = None if loaded.resolution is None else loaded.encoder.image_preprocess.input_size[1:]
    return Measurement(
        "frozen",
        field.metric,
        sign=field.declared.sign,
        val=record.stats.values(field.bench.task.metrics),
        test=test,
        seed=field.seed,
        seconds=float(record.facts["seconds"]),
        resolution=native,
        trained_parameters=int(record.facts["trained_parameters"]),
        note=field.refitted.get(f"{loaded.name} frozen", ""),
        extra={
            **_compared(field, standing),
            "learning_curve": record.facts["curve"],
            **{name: float(part) for name, part in record.arrays.items() if not part.ndim},
            "context": _context(field, record),
        },
    )


def _configuration_measurement(
    field: Field, configuration: Configuration, standing: Standing | None, test: Mapping[str, float]
) -> Measurement:
    found = Measurement(configuration.strategy, field.metric, {}, seconds=configuration.seconds)
    if configuration.best is None:
        status: Any = configuration.status if configuration.status != "ok" else "not run"
        note = "; ".join(configuration.notes) or "the budget ended before it was measured"
        return replace(found, status=status, note=note)
    run = configuration.best if standing is None else _leading(field, configuration)
    found = replace(
        found,
        sign=field.declared.sign,
        seed=run.trial.seed,
        steps=run.taken,
        learning_rate=run.trial.rate,
        resolution=configuration.loaded.resolution,
        reduced=configuration.loaded.reduced,
        round=configuration.round,
    )
    if standing is None:
        reason = f"{run.taken} steps are less than one epoch, too few to judge it"
        return replace(found, status="incomplete", note="; ".join([reason, *configuration.notes]))
    return replace(
        found,
        val=stats_of(run).values(field.bench.task.metrics),
        test=test,
        trained_parameters=int(run.record.facts["trained_parameters"]),
        note="; ".join([*configuration.notes, *filter(None, [field.refitted.get(configuration.label)])]),
        extra={
            **_compared(field, standing),
            "context": _context(field, run.record),
            "seed_values": [field.value(r.record) for r in configuration.runs],
            "optimizer": optimizer_of(configuration.loaded, configuration.strategy),
            "memory_bytes": run.record.facts["memory_bytes"],
            "batch_size": field.bench.batch_size,
        },
    )


def _leading(field: Field, configuration: Configuration) -> Run:
    """The best of its seeds."""
    return max(configuration.runs, key=field.order)


def _compared(field: Field, standing: Standing) -> dict[str, Any]:
    return {
        "difference": standing.difference,
        "difference_low": standing.low,
        "difference_high": standing.high,
        "p_best": standing.p_best,
        "epsilon_best": standing.low <= field.epsilon,
        **({} if standing.merit == field.declared.sign * standing.value else {"merit": standing.merit}),
    }
