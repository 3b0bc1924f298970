"""The second stage as the package runs it, replayed on the tables: who gets a trial, the order that comes out, who is confirmed.

The package's own functions decide. Two things differ from a run: the table has no blocks of rows, so contenders are those of a
ranking without intervals (the first three by transferability, by scores alone, and the next by transferability), and every
contender has the whole trial, where a run at the usual price gives the smallest networks fewer steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.rows import unpacked
from benchmarks.suite.image_suite import SUITE
from benchmarks.suite.members import Cells
from selector.ranking.combination import contradicts
from selector.ranking.second_stage import (
    MARGIN,
    Z90,
    as_long_as,
    choose,
    combined,
    contenders,
    ended_well,
    pilot_value,
)
from selector.results import ModelResult, PilotCell, PriorCell
from selector.scan.dataset_view import ordered
from selector.tuning.pilot_runs import BATCH, STEPS

TOP_K = 3  # models that are confirmed without trials
TRAINING = SUITE.budget.steps * 32 / (STEPS * BATCH)  # what full fine-tuning in the suite costs, in trials
Trials = Mapping[tuple[str, str], Mapping[str, str]]
"""Rows of the table of trials by set and encoder."""


@dataclass(frozen=True)
class Stage:
    """What the second stage made of a set.

    Attributes:
        order: (encoders,) of the set, higher is earlier in the ranking.
        first: the models that would be confirmed without trials.
        values, errors, seconds: of those that had a trial: what orders them, half-widths, time of the trial.
    """

    order: np.ndarray
    first: tuple[str, ...]
    values: Mapping[str, float]
    errors: Mapping[str, float]
    seconds: Mapping[str, float]


def second_stage(
    name: str,
    cells: Cells,
    transferability: np.ndarray,
    scores: np.ndarray,
    trials: Trials,
    *,
    frozen_too: bool,
    prior_by_trials: bool = False,
) -> Stage:
    """Of one set; ``scores`` are the transferability without the prior.

    Args:
        frozen_too: strategies are frozen and full, as by default, in place of full alone.
        prior_by_trials: the prior is left out where the trials of the contenders order against it, which is not what ships.
    """
    models = ordered(
        [
            ModelResult(e, {}, transferability=t, normalized_score=s, prior=PriorCell(t - s, t - s, "facts"))
            for e, t, s in zip(cells.names, transferability.tolist(), scores.tolist(), strict=True)
        ]
    )
    tried = {m.name: cell_of(trials[name, m.name]) for m in contenders(models, TOP_K)}
    errors = half_widths(tried, trials, name, frozen_too=frozen_too)
    judged = {e: pilot_value(cell, frozen_too) for e, cell in ended_well(tried).items()}
    first = tuple(m.name for m in models[:TOP_K])
    shifts = {m.name: m.prior.shift for m in models if m.name in judged and m.prior is not None}
    if prior_by_trials and contradicts(shifts, judged):
        models = tuple(replace(m, transferability=m.normalized_score) for m in models)
    by_name = {m.name: m for m in models}
    values = combined({e: by_name[e].transferability or 0.0 for e in tried}, tried, errors, frozen_too=frozen_too)
    after = ordered(
        [
            replace(m, pilot=replace(tried[m.name], combined=values.get(m.name))) if m.name in tried else m
            for m in models
        ]
    )
    place = {m.name: i for i, m in enumerate(after)}
    return Stage(
        np.array([-float(place[e]) for e in cells.names]),
        first,
        values,
        errors,
        {e: float(trials[name, e]["trial_seconds"]) for e in tried},
    )


def cell_of(row: Mapping[str, str]) -> PilotCell:
    """A row of the table of trials as a run records it."""
    if row["status"] != "ok":
        return PilotCell(row["status"], row["reason"])
    return PilotCell("ok", before=float(row["before"]), after=float(row["after"]), seconds=float(row["trial_seconds"]))


def half_widths(
    tried: Mapping[str, PilotCell], trials: Trials, name: str, *, frozen_too: bool = False
) -> dict[str, float]:
    """Half of the 90% interval of each trial's paired difference to the best; unpaired where items were not kept.

    Of the values after the steps, whatever the best is judged by: the table has no items of the probe.
    """
    tried = ended_well(tried)
    best = max(tried, key=lambda e: pilot_value(tried[e], frozen_too))

    def right(encoder: str) -> np.ndarray | None:
        kept, count = trials[name, encoder].get("right") or "", int(trials[name, encoder]["held_out"])
        return unpacked(kept, count) if kept else None

    found = {}
    for encoder, cell in tried.items():
        count = int(trials[name, encoder]["held_out"])
        one, other = right(encoder), right(best)
        if one is not None and other is not None:
            variance = float(np.var(one - other)) / count
        else:
            variance = sum(p * (1 - p) for p in (cell.after or 0.0, tried[best].after or 0.0)) / count
        found[encoder] = 0.0 if encoder == best else Z90 * float(np.sqrt(variance))
    return found


def confirm(stage: Stage, cells: Cells, margin: float = MARGIN, *, limited: bool = True) -> dict[str, float]:
    """What is confirmed of the contenders: how many, the regret of the best of them in points, the seconds of trials and
    trainings; ``limited`` to the time that the first three would take, as under a budget."""
    allowed = np.inf
    if limited:
        allowed = as_long_as(stage.first, stage.seconds, sum(stage.seconds.values()), TRAINING, 1)
    chosen = choose(stage.values, stage.errors, stage.seconds, None, margin, allowed=allowed).names
    spent = sum(stage.seconds.values()) + TRAINING * sum(stage.seconds[e] for e in chosen)
    return confirmed(cells, chosen, spent)


def fixed(name: str, stage: Stage, cells: Cells, trials: Trials) -> dict[str, float]:
    """The first three by transferability, without a trial."""
    seconds = [float(trials[name, e]["trial_seconds"]) for e in stage.first]
    return confirmed(cells, stage.first, TRAINING * sum(seconds))


def confirmed(cells: Cells, chosen: Sequence[str], seconds: float) -> dict[str, float]:
    """Of these models."""
    best = max(cells.accuracy[cells.names.index(e)] for e in chosen)
    return {"models": len(chosen), "regret": round(float(cells.accuracy.max() - best), 2), "seconds": round(seconds, 1)}
