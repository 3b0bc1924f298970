"""Between ranking and confirmation: pilot runs of the models that the rows cannot tell from the k-th."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from selector.config import ConfirmConfig
from selector.core.task import Task
from selector.ranking.second_stage import (
    AGAINST_PILOTS,
    Scale,
    as_long_as,
    choose,
    combined,
    contenders,
    ended_well,
    pilot_value,
    without_prior_against,
)
from selector.report.ranking import Ranking
from selector.results import ModelResult, PilotCell
from selector.scan.extraction import Extraction
from selector.scan.summary import ordered
from selector.zoo import ModelSpec

if TYPE_CHECKING:
    from selector.tuning import TuningCandidate

FIRST_ROUND_ITEMS = 3 * 10 * 32  # three rates, ten steps, a batch of 32
PILOT_SHARE = 0.25  # of the budget, at most; readers of texts took all of two minutes and half as much again


def second_stage(
    ranking: Ranking,
    leading: Callable[[Ranking, int], list[ModelSpec]],
    extraction: Extraction,
    task: Task,
    config: ConfirmConfig,
    candidates: Callable[[Sequence[ModelSpec]], list[TuningCandidate]],
    top_k: int,
) -> tuple[Ranking, list[ModelSpec], list[str]]:
    """The ranking with pilots, ordered by both; the models to confirm; and what to tell of it.

    Args:
        leading: the first models of a ranking, a network once.
        candidates: how they are loaded for training.
        top_k: of the ranking; how many are confirmed where the user fixed it or no pilot run could be run.
    """
    from selector.tuning.plan import usual_steps
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
    cells, errors = _tried(
        extraction, task, metric, config, [s for s in every if s.name in tried], candidates, frozen_too
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
        steps = config.max_steps or usual_steps(len(extraction.target.indices("train")) // task.batch_size)
        usual = [spec.name for spec in every[:top_k]]
        allowed = as_long_as(usual, rounds, spent, task.batch_size * steps * sum(trained), FIRST_ROUND_ITEMS)
    choice = choose(values, {n: scale.width(e) for n, e in errors.items()}, rounds, config.seconds, allowed=allowed)
    count = len(choice.names)
    chosen = {spec.name: spec for spec in leading(ranking, len(ranking)) if spec.name in choice.names}
    # what probes rank too low is confirmed beside those that scores and pilots chose
    chosen |= {spec.name: spec for spec in leading(ranking, count)[count:]}
    return ranking, list(chosen.values()), [*told, choice.why]


def _tried(
    extraction: Extraction,
    task: Task,
    metric: str,
    config: ConfirmConfig,
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
        budget_seconds=None if config.seconds is None else PILOT_SHARE * config.seconds,
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
