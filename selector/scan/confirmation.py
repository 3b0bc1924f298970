"""Pilot runs of the models that rows cannot tell apart, then fine-tunes the leading ones and saves the best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from selector import tasks
from selector.config import ConfirmConfig, HistoryLike
from selector.core.contracts import Target
from selector.core.documents import plain
from selector.core.errors import HistoryError
from selector.core.task import Task
from selector.core.units import format_duration
from selector.ranking.forecast import of_metric
from selector.ranking.second_stage import (
    AGAINST_PILOTS,
    Scale,
    as_long_as,
    choose,
    combined,
    contenders,
    ended_well,
    pilot_value,
    seconds_for_pilots,
    without_prior_against,
)
from selector.report.ranking import Ranking
from selector.results import BEST, Caveat, Measurement, ModelResult, PilotCell, baselines, final_measurements
from selector.run.worker import working_on
from selector.scan.caveats import MAJORITY, MASKED, majority
from selector.scan.checks import save_run
from selector.scan.dataset_view import illustrated, ordered
from selector.scan.extraction import Extraction
from selector.scan.past import confirmed_results, open_history, predicted, written_history
from selector.tuning.plan import GOOD_EPOCHS, StrategyCost, least_budget, usual_steps
from selector.zoo import ModelSpec
from selector.zoo.spec import network_of

if TYPE_CHECKING:
    from selector.tuning import FineTuningResult, TuningCandidate

UNTRAINED = "no model was measured"


def confirm_leading(
    ranking: Ranking,
    extraction: Extraction,
    specs: Sequence[ModelSpec],
    config: ConfirmConfig,
    top_k: int,
    scanned: float = 0.0,
) -> Ranking:
    """The saved ranking with pilot runs and with measurements of its leading models; ``best`` in its folder holds the best.

    Args:
        scanned: seconds of the budget that the scan of the same call took.
    """
    from selector.deploy import save_model
    from selector.tuning import TuningCandidate, run_fine_tuning

    started = time.perf_counter()
    folder = ranking.path
    assert folder is not None
    target = extraction.target
    decoders = config.decoders
    task = tasks.task_of(target).configured(
        decoder=decoders[0] if decoders else None,
        loss=config.loss,
        balance=config.balance,
        label_smoothing=config.label_smoothing,
    )

    def candidates(some: Sequence[ModelSpec]) -> list[TuningCandidate]:
        return [
            TuningCandidate(
                spec.name,
                load=partial(extraction.load, extraction.trained(spec)),
                identity=spec.feature_settings(),
                latency=_latency(ranking[spec.name]),
                rounded=ranking[spec.name].precision not in ("", "float32"),
            )
            for spec in some
        ]

    ranking, chosen, told = second_stage(
        ranking, lambda found, k: leading(found, specs, k), extraction, task, config, candidates, top_k, scanned
    )
    if not chosen:
        return ranking
    by_name = {spec.name: spec for spec in chosen}
    spent = time.perf_counter() - started
    result = run_fine_tuning(
        candidates(chosen),
        target,
        task,
        extraction.inputs,
        strategies=config.strategies,
        decoders=decoders if len(decoders) > 1 else (),
        budget_seconds=config.seconds,
        spent_seconds=scanned + (spent if told else 0.0),
        max_steps=config.max_steps,
        metric=config.metric,
        rates=_rates_before(ranking) if config.models is not None else {},
        resolution=config.resolution,
        augment=config.augment,
        averaging=config.averaging,
        refit=config.refit,
        device=extraction.settings["device"],
        seed=config.seed or 0,
        features_for=None
        if extraction.reads_maps  # a decoder reads them anew, at the size it is trained at
        else lambda name, indices: extraction.features(by_name[name], indices),
        cache=extraction.store,
        # in the store, so that another run of the same target trains nothing again
        checkpoint_folder=extraction.store.trainings_folder,
        progress=extraction.notify,
        executor=extraction.executor,
        given_up=extraction.given_up,
        supplies=extraction.supplies(chosen),
    )
    if config.models is not None and (saved := _still_best(ranking, result, config.metric or task.default_metric)):
        return save_run(_with_longer_trainings(ranking, result, target, saved), folder)
    confirmed = replace(
        ranking,
        models=ordered(
            [
                replace(m, measurements=(*illustrated(result.measurements[m.name], target), *baselines(m)))
                if m.name in result.measurements
                else m
                for m in ranking
            ],
            first=result.best.name if result.best else None,
        ),
        warnings=tuple(dict.fromkeys((*ranking.warnings, *result.notes, *_untrained(result.measurements)))),
        seconds={**ranking.seconds, "pilot": spent, "confirm": time.perf_counter() - started},
        settings={
            **ranking.settings,
            "confirm": {**config.training_record(), "top_k": top_k, "confirmed": len(chosen)},
        },
        confirmation=plain(
            {
                "metric": config.metric or task.default_metric,
                "tuning_log": [*told, *result.tuning_log, *_time_line(spent if told else 0.0, result.seconds)],
                "history": result.history,
                "epsilon_best": [asdict(member) for member in result.epsilon_best],
                "advice": result.advice,
                "p_best": result.p_best,
                "settled": result.settled,
                "seconds": {**({"pilot runs": spent} if told else {}), **result.seconds},
            }
        ),
    )
    if result.best is not None:
        best = confirmed[result.best.name]
        handed = _handed_over(best.measurements, result.best.strategy)
        confirmed = with_caveat(confirmed, majority(best.name, handed, target))
        with working_on(best.name):
            save_model(folder / BEST, result.best, confirmed.target, best.measurements, best.spec)
    return save_run(remembered(confirmed, config.history), folder)


def _rates_before(ranking: Ranking) -> dict[str, float]:
    """The learning rate at which each model was measured before, by ``model strategy``."""
    return {
        f"{model.name} {m.strategy}": m.learning_rate
        for model in ranking
        for m in final_measurements(model).values()
        if m.status == "ok" and m.learning_rate is not None
    }


def _handed_over(measurements: Sequence[Measurement], strategy: str) -> Measurement:
    """The measurement of the model that a fine-tuning stage hands over."""
    return next(m for m in measurements if m.strategy == strategy and m.status == "ok")


def _still_best(ranking: Ranking, result: FineTuningResult, metric: str) -> tuple[str, Measurement] | None:
    """The model that was saved before, and its measurement, where it stays; None where a new one is better on
    validation, or nothing was saved."""
    before = [
        (m.merit, model.name, m)
        for model in ranking
        for m in model.measurements
        if m.status == "ok" and m.metric == metric
    ]
    if not before or ranking.path is None or not (ranking.path / BEST).is_dir():
        return None
    merit, name, old = max(before, key=lambda found: found[0])
    if result.best is not None:
        new = _handed_over(result.measurements[result.best.name], result.best.strategy)
        if new.merit > merit:
            return None
    return name, old


def _with_longer_trainings(
    ranking: Ranking, result: FineTuningResult, target: Target, saved: tuple[str, Measurement]
) -> Ranking:
    """The ranking with what a call trained longer than the calls before it; the saved model and what is known of it stay."""
    name, old = saved
    stays = f"{name} {old.strategy} ({old.metric} {old.val_value:.3f}) stays the saved model"
    models, told, replaced = [], [], set()
    for model in ranking:
        before = final_measurements(model)
        longer = {
            m.strategy: m
            for m in illustrated(result.measurements.get(model.name, ()), target)
            if m.status == "ok"
            and m.steps > (before[m.strategy].steps if m.strategy in before else 0)
            and (model.name, m.strategy) != (name, old.strategy)
        }
        replaced |= {(model.name, strategy) for strategy in longer}
        kept = (m for m in model.measurements if m.strategy not in longer)
        models.append(replace(model, measurements=(*kept, *longer.values())))
        told += [
            f"{model.name} {m.strategy} has {m.metric} {m.val_value:.3f} on validation after {m.steps} steps; {stays}."
            for m in result.measurements.get(model.name, ())
            if m.status == "ok" and m.steps
        ]
    told = told or [f"no training finished, so {stays}."]
    as_good = ranking.confirmation.get("epsilon_best", ())
    about = tuple(f"{trained}:" for trained in result.measurements)
    advice = [line for line in ranking.confirmation.get("advice", ()) if not line.startswith(about)]
    return replace(
        ranking,
        models=ordered(models, first=name),
        warnings=tuple(dict.fromkeys((*ranking.warnings, *told))),
        confirmation=plain({
            **ranking.confirmation,
            "advice": [*advice, *result.advice],
            "epsilon_best": [one for one in as_good if (one["name"], one["strategy"]) not in replaced],
            "tuning_log": [*ranking.confirmation.get("tuning_log", ()), *result.tuning_log],
        }),
    )  # fmt: skip


def _time_line(spent: float, parts: Mapping[str, float]) -> list[str]:
    """Where the time of a confirmation went, in a sentence."""
    every = {"pilot runs": spent, **parts}
    total = sum(every.values())
    shown = ", ".join(
        f"{name} {format_duration(seconds)} ({seconds / total:.0%})"
        for name, seconds in every.items()
        if seconds >= 0.05
    )
    return [f"Time: {format_duration(total)}, of which {shown}."] if shown else []


def leading(ranking: Ranking, specs: Sequence[ModelSpec], top_k: int) -> list[ModelSpec]:
    """The first models of a ranking, each once: a network is trained as its leading variant.

    Where probes rank some models too low (``scan.caveats``), the first of those is added.
    """
    by_name = {spec.name: spec for spec in specs}
    first: dict[str, ModelSpec] = {}
    for model in ranking:
        if model.status == "ok" and model.name in by_name:
            first.setdefault(network_of(by_name[model.name]), by_name[model.name])
    chosen = list(first.values())[:top_k]
    doubted = {name for caveat in ranking.caveats if caveat.code == MASKED for name in caveat.numbers["models"]}
    if not any(spec.name in doubted for spec in chosen):
        chosen += [spec for spec in first.values() if spec.name in doubted][:1]
    return chosen


def with_caveat(ranking: Ranking, caveat: Caveat | None) -> Ranking:
    """The ranking with this caveat first, and without the one that an earlier confirmation gave."""
    old = {c.text for c in ranking.caveats if c.code == MAJORITY}
    caveats = [c for c in ranking.caveats if c.code != MAJORITY]
    warnings = [text for text in ranking.warnings if text not in old]
    if caveat is not None:
        caveats, warnings = [caveat, *caveats], [caveat.text, *warnings]
    return replace(ranking, caveats=tuple(caveats), warnings=tuple(warnings))


def remembered(confirmed: Ranking, history: HistoryLike) -> Ranking:
    """Adds what was measured to the history where that was asked for, and predicts the models that were not measured
    where enough was.

    A history that cannot be written is a warning, not the end.
    """
    results = confirmed_results(confirmed)
    warnings = confirmed.warnings
    known, added = open_history(history), written_history(history)
    if known is not None:
        try:
            if added is not None:
                added.add(results)
                results = known.results()
            else:
                results = [*known.results(), *results]
        except HistoryError as error:
            warnings = (*warnings, f"nothing was added to the history: {error}")
    results = of_metric(results, confirmed.confirmation["metric"])
    fingerprint = str(confirmed.target["fingerprint"])
    return replace(confirmed, models=predicted(confirmed.models, fingerprint, results), warnings=warnings)


def _untrained(measurements: Mapping[str, Sequence[Measurement]]) -> list[str]:
    """Why a confirmation measured nothing; nothing when it did."""
    if any(m.status == "ok" for found in measurements.values() for m in found):
        return []
    reasons = {name: next((m.note for m in found if m.note), "") for name, found in measurements.items()}
    told = "; ".join(
        f"{name}: {reason.removeprefix(f'{name}: ') or 'no reason given'}" for name, reason in reasons.items()
    )
    ended = all(m.status == "not run" for found in measurements.values() for m in found)
    return [f"{UNTRAINED}, {'the budget ended first' if ended else 'all trainings failed'}: {told}"]


def _latency(model: ModelResult) -> float | None:
    """Seconds for a single image, where this machine has measured it."""
    return None if model.cost is None else model.cost.latency


FIRST_ROUND_ITEMS = 3 * 10 * 32  # three rates, ten steps, a batch of 32


def second_stage(
    ranking: Ranking,
    leading: Callable[[Ranking, int], list[ModelSpec]],
    extraction: Extraction,
    task: Task,
    config: ConfirmConfig,
    candidates: Callable[[Sequence[ModelSpec]], list[TuningCandidate]],
    top_k: int,
    scanned: float = 0.0,
) -> tuple[Ranking, list[ModelSpec], list[str]]:
    """The ranking with pilots, ordered by both; the models to confirm; and what to tell of it.

    Args:
        leading: the first models of a ranking, a network once.
        candidates: how they are loaded for training.
        top_k: of the ranking; how many are confirmed where the user fixed it or no pilot run could be run.
        scanned: seconds of the budget that the scan of the same call took.
    """
    from selector.tuning.strategies import plan_of  # imports torch

    every = leading(ranking, len(ranking))
    tried = [m.name for m in contenders([ranking[spec.name] for spec in every], top_k)]
    fixed = config.top_k is not None
    trained = [plan_of(name).trains for name in config.strategies]
    metric = config.metric or task.default_metric
    scale = Scale.of(task.metrics[metric], task.baseline(extraction.target, metric, "val"))
    needless = not any(trained) or len(tried) <= (top_k if fixed else 1) or len(every) <= top_k
    if needless or not config.pilot_cost or scale is None or task.probe_rows == 0:
        return ranking, leading(ranking, top_k), []
    frozen_too = not all(trained)
    left = None if config.seconds is None else max(0.0, config.seconds - scanned)
    allotted = None
    if left is not None:
        allotted = seconds_for_pilots(left, _whole_training(extraction, task, every[0], sum(trained)))
    cells, errors = _tried(
        extraction, task, metric, config, allotted, [s for s in every if s.name in tried], candidates, frozen_too
    )
    judged = {n: pilot_value(cell, frozen_too, scale) for n, cell in ended_well(cells).items()}
    if not judged:
        reasons = "; ".join(dict.fromkeys(f"{n}: {cell.reason}" for n, cell in cells.items()))
        told = [f"No pilot run could be run, so the first {top_k} are confirmed ({reasons})."]
        # where all failed it is for a reason of the machine: none is the worse for it
        if not all(cell.untrainable for cell in cells.values()):
            ranking = replace(ranking, models=ordered([_with_trial(m, cells.get(m.name), None) for m in ranking]))
        return ranking, leading(ranking, top_k), told
    told = []
    if (models := without_prior_against(ranking.models, judged)) is not None:
        told = [f"The prior is {AGAINST_PILOTS}; probabilities of ranks are those of the scan, with it."]
        ranking = replace(ranking, models=tuple(models), warnings=(*ranking.warnings, *told))
    known = {n: ranking[n].transferability or 0.0 for n in tried}
    values = combined(known, cells, errors, frozen_too=frozen_too, scale=scale)
    ranking = replace(ranking, models=ordered([_with_trial(m, cells.get(m.name), values.get(m.name)) for m in ranking]))
    spent = sum(cell.seconds for cell in cells.values())
    told = [f"Pilot runs of {len(cells)} models took {spent:.0f} s.", *told]
    if fixed:
        return ranking, leading(ranking, top_k), told
    rounds = {n: cell.seconds * FIRST_ROUND_ITEMS / cell.items for n, cell in cells.items() if cell.items}
    allowed = math.inf
    if config.seconds is not None:  # else the clock decides nothing, so that a repeated run confirms the same models
        train = len(extraction.target.indices("train"))
        batch = task.batch(train)
        steps = config.max_steps or usual_steps(train // batch)
        usual = [spec.name for spec in every[:top_k]]
        allowed = as_long_as(usual, rounds, spent, batch * steps * sum(trained), FIRST_ROUND_ITEMS)
    choice = choose(values, {n: scale.width(e) for n, e in errors.items()}, rounds, left, allowed=allowed)
    count = len(choice.names)
    chosen = {spec.name: spec for spec in leading(ranking, len(ranking)) if spec.name in choice.names}
    # what probes rank too low is confirmed beside those that scores and pilots chose
    chosen |= {spec.name: spec for spec in leading(ranking, count)[count:]}
    return ranking, list(chosen.values()), [*told, choice.why]


def _whole_training(extraction: Extraction, task: Task, spec: ModelSpec, strategies: int) -> float | None:
    """Seconds of a training at the model's own size that is worth its name, by what its extraction took; None where
    that is not known."""
    train, val = (len(extraction.target.indices(split)) for split in ("train", "val"))
    batch = task.batch(train)
    if (seconds := extraction.estimate(spec, 1)) is None:
        return None
    cost = StrategyCost.of_passes(seconds, batch, val)
    return strategies * least_budget(cost, max(1, train // batch), reduced=False, epochs=GOOD_EPOCHS)


def _tried(
    extraction: Extraction,
    task: Task,
    metric: str,
    config: ConfirmConfig,
    allotted: float | None,
    specs: Sequence[ModelSpec],
    candidates: Callable[[Sequence[ModelSpec]], list[TuningCandidate]],
    frozen_too: bool,
) -> tuple[dict[str, PilotCell], dict[str, float]]:
    """The pilots by model, and the half-width of the paired difference of what each one counts to the best of them."""
    from selector.tuning.compare import standings
    from selector.tuning.pilot_runs import BATCH, pilot_runs

    by_name = {spec.name: spec for spec in specs}
    pilots = pilot_runs(
        candidates(specs), extraction.target, task, extraction.inputs, metric=metric, share=config.pilot_cost,
        budget_seconds=allotted,
        seed=config.seed or 0, device=extraction.settings["device"], folder=extraction.store.trainings_folder,
        features_for=None if extraction.reads_maps else lambda name, items: extraction.features(by_name[name], items),
        progress=extraction.notify, executor=extraction.executor, given_up=extraction.given_up, supplies=extraction.supplies(specs),
    )  # fmt: skip
    cells = {
        t.name: PilotCell(
            t.status,
            t.reason,
            metric,
            t.before,
            t.after,
            t.steps,
            t.steps * BATCH,
            t.held_out,
            t.size,
            t.seconds,
            losses=t.losses,
        )
        for t in pilots
    }
    judged = {t.name: t.judged(probe_too=frozen_too) for t in pilots if t.after is not None}
    if len(judged) < 2:
        return cells, {}
    table = standings(judged, metric, task.metrics[metric], config.seed or 0, repeats=False)
    return cells, {name: (standing.high - standing.low) / 2 for name, standing in table.items()}


def _with_trial(model: ModelResult, cell: PilotCell | None, value: float | None) -> ModelResult:
    return model if cell is None else replace(model, pilot=replace(cell, combined=value))
