"""Adaptation to a target without labels, from top to bottom: heads and networks, validators, the choice, figures.

Everything up to the decision runs where labels of the target cannot be read (``core.sealed``); where some exist, each
candidate's final metric is worked out afterwards.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from selector.core.contracts import UNLABELED, Progress, ProgressCallback, Target, no_progress
from selector.core.errors import StoreError
from selector.core.held_out_labels import UNKNOWN, Decision, SealedLabels
from selector.core.stats import softmax
from selector.core.task import Learner
from selector.results import Measurement
from selector.run.executor import InProcess
from selector.tasks.adaptation import Adaptation, DomainLabels
from selector.tuning import strategies
from selector.tuning.clock import BETWEEN, seconds_by_part
from selector.tuning.domains import AdaptedHead, Domains, beyond_class_shares
from selector.tuning.labeling import Labeling
from selector.tuning.model_selection import COMBINED, Chosen, View, choose, expected_to_win, suited
from selector.tuning.strategies.adapted_heads import HeadStrategy
from selector.tuning.types import Trained, TuningCandidate
from selector.tuning.verdict import error_analysis
from selector.tuning.workbench import Loaded, Workbench

Key = tuple[str, str]
OnRecord = Callable[[TuningCandidate], contextlib.AbstractContextManager[None]]
POINTS = 400  # of each domain in the projection
UNCERTAIN = 12
SHOWN = "val of the source domain"
PARTS = ("features and adapted heads", BETWEEN, "choice and final metrics")


@dataclass(frozen=True)
class Adapted:
    """A model adapted by one strategy, and what it says of both domains' items."""

    head: AdaptedHead
    val: np.ndarray
    target: np.ndarray
    context: Mapping[str, Any]
    view: View
    seconds: float = 0.0
    module: Any = None  # the learner, where the whole network was trained


@dataclass(frozen=True)
class AdaptationResult:
    """What came of it.

    Attributes:
        measurements: by model, one a strategy: ``val`` of the source's validation items, ``test`` of the target's sealed
            labels where there are some; ``extra`` holds the validators, their combination and the strategy's facts.
        best: the model that is selected; None when nothing could be adapted.
        chosen: how it was chosen; None likewise.
        notes: what a reader should know.
        section: what the report shows, as plain JSON.
        probabilities: (K, M, C) float32 of the target's items, by ``keys``.
        merits: (K,) likewise, what the validators combined say of each, before any label.
        seconds: by part; together the time that the adaptation took.
    """

    measurements: Mapping[str, tuple[Measurement, ...]]
    best: Trained | None
    chosen: Chosen | None
    notes: tuple[str, ...]
    section: Mapping[str, Any]
    keys: tuple[Key, ...] = ()
    probabilities: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), dtype=np.float32))
    merits: np.ndarray = field(default_factory=lambda: np.empty(0))
    seconds: Mapping[str, float] = field(default_factory=dict)


def run_adaptation(
    candidates: Sequence[TuningCandidate],
    target: Target,
    task: Adaptation,
    features_for: Callable[[str, np.ndarray], np.ndarray],
    *,
    names: Sequence[str],
    bench: Workbench | None = None,
    budget_seconds: float | None = None,
    max_steps: int | None = None,
    labels: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: ProgressCallback = no_progress,
) -> AdaptationResult:
    """Adapt every model by every strategy, choose one without a label of the target, measure where there are labels.

    Args:
        candidates: the models.
        target: both domains.
        features_for: (model, positions) -> features (n, D).
        names: of the strategies; source-only is always among them.
        bench: what trains networks, for strategies that do; heads on frozen features need none.
        budget_seconds: kept by the trainings, heads on frozen features included; what is left is shared out evenly.
        max_steps: of a training at most.
        labels: class numbers by content that a person gave for the choice; the figures leave these items out.
        seed: of whatever is drawn.
    Returns:
        The result; a model that fails is a failed measurement.
    Cost: a head per model and strategy, and the validators: seconds each.
    """
    task.check(target)
    moment: Callable[[], tuple[float, Mapping[str, float]]] = (
        (lambda: (time.perf_counter(), {})) if bench is None else bench.moment
    )
    moments = [moment()]
    ends = math.inf if budget_seconds is None else moments[0][0] + budget_seconds
    on_record: OnRecord = bench.working_on if bench is not None else lambda *_: contextlib.nullcontext()
    sealed = task.hidden(target)
    items = target.indices(UNLABELED)
    given = {i: labels[target.hashes[k]] for i, k in enumerate(items) if labels and target.hashes[k] in labels}
    with sealed.choosing() as choice:
        pool = _heads(candidates, target, task, features_for, names, seed, progress, on_record)
        moments.append(moment())
        if bench is not None:
            _train_networks(pool, candidates, names, task, bench, ends, max_steps, seed)
        moments.append(moment())
        if not pool.made:
            return AdaptationResult({c.name: _failed(c, pool, task) for c in candidates}, None, None, (), {})
        chosen = choose({key: adapted.view for key, adapted in pool.made.items()}, pool.shifts)
        merits = np.array([chosen.combined[key] for key in pool.made])
        labeled: dict[str, object] = {}
        if given:
            chosen, labeled = _by_labels(chosen, pool.made, merits, given, [target.hashes[k] for k in items])
        with on_record(next(c for c in candidates if c.name == chosen.name[0])):
            best, trouble = _trained(candidates, chosen, pool.made, target, task, seed)
        decision = choice.settle(*chosen.name)
    finals = _finals(pool.made, target, task, sealed, decision, given)
    measured = {
        key: _measurement(key, adapted, chosen, target, task, finals.get(key, {})) for key, adapted in pool.made.items()
    }
    measurements = {
        c.name: (*(m for key, m in measured.items() if key[0] == c.name), *_failed(c, pool, task)) for c in candidates
    }
    return AdaptationResult(
        measurements, best, chosen, (*trouble, *_cut(pool.made), *chosen.notes),
        {**_section(pool.made, chosen, pool.domains[chosen.name[0]], target), **labeled}, tuple(pool.made),
        np.stack([adapted.view.target for adapted in pool.made.values()]).astype(np.float32), merits,
        seconds_by_part(PARTS, [*moments, moment()]),
    )  # fmt: skip


# ---------------------------------------------------------------------------- before the decision


@dataclass
class _Pool:
    """What was adapted so far, the features that it rests on, and why the others were not."""

    made: dict[Key, Adapted] = field(default_factory=dict)
    domains: dict[str, Domains] = field(default_factory=dict)
    shifts: dict[str, float] = field(default_factory=dict)  # by model, beyond class shares
    failed: dict[str, str] = field(default_factory=dict)  # models
    lost: dict[Key, str] = field(default_factory=dict)  # trainings


def _heads(
    candidates: Sequence[TuningCandidate],
    target: Target,
    task: Adaptation,
    features_for: Callable[[str, np.ndarray], np.ndarray],
    names: Sequence[str],
    seed: int,
    progress: ProgressCallback,
    on_record: OnRecord,
) -> _Pool:
    """Every model with a head by every strategy of frozen features."""
    wanted = [n for n in dict.fromkeys(["source-only", *names]) if not strategies.registry.get(n).trains]
    pool = _Pool()

    def adapt(candidate: TuningCandidate) -> None:
        progress(Progress("train", 0, len(wanted), "strategies", candidate.name))
        with on_record(candidate):  # one that runs died of later on has no head either
            pool.domains[candidate.name] = found = _domains(candidate.name, target, task, features_for, seed)
        pool.shifts[candidate.name] = beyond_class_shares(found)
        for done, name in enumerate(wanted):
            pool.made[candidate.name, name] = adapted_by(name, found, task)
            progress(Progress("train", done + 1, len(wanted), "strategies", candidate.name, name))

    for result in InProcess().map(adapt, candidates, fatal=(StoreError,)):
        if result.failure:
            pool.failed[result.job.name] = result.failure.reason
    return pool


def _train_networks(
    pool: _Pool,
    candidates: Sequence[TuningCandidate],
    names: Sequence[str],
    task: Adaptation,
    bench: Workbench,
    ends: float,
    max_steps: int | None,
    seed: int,
) -> None:
    """Add a candidate to the pool for every network that could be trained."""
    training = [n for n in names if strategies.registry.get(n).trains]
    jobs = [(c, name) for c in candidates if c.name in pool.domains for name in training]
    if not jobs:
        return
    from selector.tuning.adapted_networks import started, steps_of

    loaded: dict[str, Loaded] = {}

    def work(job: tuple[int, tuple[TuningCandidate, str]]) -> None:
        done, (candidate, name) = job
        begun = bench.now()
        if candidate.name not in loaded:
            with bench.working_on(candidate):
                loaded[candidate.name] = started(bench, candidate)
        share = begun + (ends - begun) / (len(jobs) - done)
        domains, shift = pool.domains[candidate.name], pool.shifts[candidate.name]
        with bench.working_on(candidate):
            heads = network_heads(
                bench, loaded[candidate.name], name, domains, task, steps_of(bench, max_steps), share, seed
            )
        pool.made[candidate.name, name] = replace(better_head(*heads, shift), seconds=bench.now() - begun)

    for result in InProcess().map(work, list(enumerate(jobs)), fatal=(StoreError,)):
        if result.failure:
            candidate, name = result.job[1]
            pool.lost[candidate.name, name] = result.failure.reason


def network_heads(
    bench: Workbench,
    loaded: Loaded,
    name: str,
    domains: Domains,
    task: Adaptation,
    steps: int,
    deadline: float,
    seed: int,
) -> tuple[Adapted, Adapted]:
    """The network trained by one strategy, with the head that it was trained with and with the one that ``coral`` solves
    on its features: a training of few steps brings the domains nearer, and not together.

    Args:
        domains: of its features before.
        deadline: of the bench's clock.
    Raises:
        TrainingError: it failed, diverged, or the budget ended before its first step.
    """
    from selector.tuning.adapted_networks import network_outputs

    module, head, outputs, features = network_outputs(bench, loaded, name, steps, deadline, seed)
    seen = domains_of(bench.target, task, features, domains.seed)
    trained = _looked_at(head, seen, outputs["val"], outputs[UNLABELED], task)
    moved = adapted_by("coral", seen, task)
    facts = {**moved.head.facts, **head.facts, "coral_head": 1.0}
    return replace(trained, module=module), replace(
        moved, head=replace(moved.head, facts=facts, note=head.note), module=module
    )


def better_head(trained: Adapted, moved: Adapted, shift: float) -> Adapted:
    """One of ``network_heads``, whose module has that head then.

    Args:
        shift: ``domains.beyond_class_shares`` of the features before the training.
    """
    if not expected_to_win(moved.view, trained.view, suited("coral", shift)):
        return trained
    cast(Any, moved.module).start_from(moved.head.weight, moved.head.bias)
    return moved


def _domains(
    name: str, target: Target, task: Adaptation, features_for: Callable[[str, np.ndarray], np.ndarray], seed: int
) -> Domains:
    splits = ("train", "val", UNLABELED)
    rows = {split: np.asarray(features_for(name, target.indices(split)), dtype=np.float32) for split in splits}
    return domains_of(target, task, rows, seed)


def domains_of(target: Target, task: Adaptation, rows: Mapping[str, np.ndarray], seed: int = 0) -> Domains:
    """The features of a target's items by split, with the labels that are learned from; few-shot items apart.

    Args:
        rows: (N, D) of ``train`` and ``val``, (M, D) of ``UNLABELED``, in the order of the target.
    """
    labels = {split: task.labels(target.labels_of(target.indices(split))) for split in ("train", "val")}
    few = task.few(target)[target.indices("train")]
    shots = (rows["train"][few], labels["train"][few]) if few.any() else (None, None)
    return Domains(
        rows["train"][~few], labels["train"][~few], rows["val"], labels["val"], rows[UNLABELED],
        len(target.class_names), seed, *shots,
    )  # fmt: skip


def adapted_by(name: str, domains: Domains, task: Adaptation) -> Adapted:
    """A head by one strategy, calibrated on the source's validation items, moved as those that it was solved on."""
    begun = time.perf_counter()
    head = cast(HeadStrategy, strategies.registry.get(name)).solve(domains)
    train, val = head.source or (domains.train, domains.val)
    found = _looked_at(
        head, replace(domains, train=train, val=val), head.outputs(val), head.outputs(domains.target), task
    )
    return replace(found, seconds=time.perf_counter() - begun)


def _looked_at(head: AdaptedHead, domains: Domains, val: np.ndarray, target: np.ndarray, task: Adaptation) -> Adapted:
    """A candidate from its outputs, calibrated on the source's validation items."""
    context = task.calibrate(task.stats(val, domains.val_labels))
    temperature = float(context["temperature"])
    view = View(
        softmax(target, temperature), domains.target, softmax(val, temperature), domains.val_labels,
        domains.val, domains.train, seed=domains.seed,
    )  # fmt: skip
    return Adapted(head, val, target, context, view)


def _trained(
    candidates: Sequence[TuningCandidate],
    chosen: Chosen,
    made: Mapping[Key, Adapted],
    target: Target,
    task: Adaptation,
    seed: int,
) -> tuple[Trained | None, list[str]]:
    """The chosen model as a network, ready to be saved; None where its encoder is no torch network."""
    model, strategy = chosen.name
    encoder = task.prepared(next(c for c in candidates if c.name == model).load(), target)
    if encoder.module is None:
        return None, [f"{model} is no torch network: its features were adapted, and no model is saved."]
    adapted = made[chosen.name]
    probe = {"weight": adapted.head.weight, "bias": adapted.head.bias}
    learner = cast(Learner, task.learner(encoder, target, probe) if adapted.module is None else adapted.module)
    recipe = task.recipe(encoder, target)
    return Trained(
        model, strategy, learner.network.cpu().eval(), str(recipe["source"]), recipe, encoder.preprocess,
        tuple(target.class_names), adapted.context, task.name, seed=seed,
    ), []  # fmt: skip


def _by_labels(
    chosen: Chosen, made: Mapping[Key, Adapted], merits: np.ndarray, given: Mapping[int, int], contents: Sequence[str]
) -> tuple[Chosen, dict[str, object]]:
    """The choice with labels that a person gave: see ``labeling.Standing.leader``."""
    keys = list(made)
    probabilities = np.stack([adapted.view.target for adapted in made.values()])
    labeling = Labeling(probabilities, merits, first=keys.index(chosen.name), contents=contents)
    for item, label in given.items():
        labeling.label(item, label)
    standing = labeling.standing()
    name = keys[standing.leader]
    stays = standing.leader != int(standing.accuracy.argmax())
    note = (
        f"{labeling.answers} labels of the target {'are too few to leave what was chosen without them' if stays else 'decide'}: "
        f"{' '.join(name)} {'stays' if stays else 'leads'}, P(best) {standing.p_best[standing.leader]:.2f}, "
        f"expected to be {100 * standing.regret:.1f} points behind the best."
    )
    rows = [dict(zip(("model", "strategy", "accuracy", "p_best"), row, strict=True)) for row in standing.rows(keys)]
    shown = {"labels": labeling.answers, "standing": rows, "regret": standing.regret, "voted": list(chosen.name)}
    combined = dict(zip(keys, map(float, standing.accuracy), strict=True))
    return replace(chosen, name=name, combined=combined, notes=(note,)), {"labeled": shown}


# ---------------------------------------------------------------------------- after it


def _finals(
    made: Mapping[Key, Adapted],
    target: Target,
    task: Adaptation,
    sealed: SealedLabels,
    decision: Decision,
    given: Mapping[int, int],
) -> dict[Key, dict[str, float]]:
    """Metrics of every candidate on the target's labeled items, read once nothing is left to choose."""
    if not sealed.known:
        return {}
    labels = sealed.open(decision)[target.indices(UNLABELED)]
    known = labels != UNKNOWN
    known[list(given)] = False  # they have chosen
    if not known.any():
        return {}
    return {
        key: task.stats(a.target[known], labels[known], float(a.context["temperature"])).values(task.metrics)
        for key, a in made.items()
    }


def _measurement(
    key: Key, adapted: Adapted, chosen: Chosen, target: Target, task: Adaptation, final: Mapping[str, float]
) -> Measurement:
    items = target.indices("val")  # the only ones whose labels may be shown before a figure
    stats = task.stats(adapted.val, task.labels(target.labels_of(items)), float(adapted.context["temperature"]))
    handed = key == chosen.name
    return Measurement(
        key[1],
        task.default_metric,
        stats.values(task.metrics),
        dict(final),
        seconds=adapted.seconds,
        note=adapted.head.note,
        steps=int(adapted.head.facts.get("steps", 0)),
        learning_rate=adapted.head.facts.get("learning_rate"),
        trained_parameters=sum(p.numel() for p in adapted.module.parameters())
        if adapted.module is not None
        else adapted.head.weight.size + adapted.head.bias.size,
        sign=1,
        extra={
            "merit": max(chosen.combined.values()) if handed else chosen.combined[key],
            "validators": dict(chosen.values[key]),
            "context": dict(adapted.context),
            **adapted.head.facts,
            **({"error_analysis": error_analysis(task, target, items, stats, SHOWN)} if handed else {}),
        },
    )


def _cut(made: Mapping[Key, Adapted]) -> list[str]:
    """What the budget cut short."""
    return [f"{' '.join(key)}: {a.head.note}." for key, a in made.items() if a.head.note]


def _failed(candidate: TuningCandidate, pool: _Pool, task: Adaptation) -> tuple[Measurement, ...]:
    """Measurements of what a model could not do."""
    lost = {strategy: why for (model, strategy), why in pool.lost.items() if model == candidate.name}
    if (reason := pool.failed.get(candidate.name)) is not None:
        lost["source-only"] = reason.removeprefix(f"{candidate.name}: ")
    return tuple(Measurement(name, task.default_metric, {}, status="failed", note=why) for name, why in lost.items())


def _section(made: Mapping[Key, Adapted], chosen: Chosen, domains: Domains, target: Target) -> dict[str, Any]:
    """What the report shows: validators side by side, both domains in one projection, the most uncertain items."""
    items = target.indices(UNLABELED)
    shown = made[chosen.name].view.target
    ordered = np.sort(shown, axis=1)
    doubt = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")[:UNCERTAIN]
    annotations = target.annotations
    assert isinstance(annotations, DomainLabels)
    return {
        "source": annotations.source,
        "selected": list(chosen.name),
        "first": list(chosen.first),
        "chosen_by": [*COMBINED, "the change between the domains"],
        "agreement": None if np.isnan(chosen.agreement) else chosen.agreement,
        "candidates": [
            {
                "model": key[0], "strategy": key[1], "combined": chosen.combined[key], "validators": dict(chosen.values[key]),
                "votes": None if key not in chosen.votes else f"{chosen.votes[key]} of {len(COMBINED) + 1}",
                "effective_sample_size": adapted.head.facts.get("effective_sample_size"), "items": len(domains.train),
            }
            for key, adapted in sorted(made.items(), key=lambda pair: -chosen.combined[pair[0]])
        ],
        "projection": projection(domains, shown.argmax(axis=1)),
        "uncertain": [
            {
                "index": int(items[i]), "name": str(target.names[items[i]]),
                "classes": [[target.class_names[c], float(shown[i, c])] for c in np.argsort(-shown[i])[:3]],
            }
            for i in doubt
        ],
    }  # fmt: skip


def projection(domains: Domains, predicted: np.ndarray) -> dict[str, Any]:
    """The first two principal components of both domains together: [x, y, class] a point; of the target the class is
    the predicted one."""
    rng = np.random.default_rng(domains.seed)
    parts = [(domains.train, domains.labels), (domains.target, predicted)]
    drawn = [np.sort(rng.permutation(len(rows))[:POINTS]) for rows, _ in parts]
    rows = np.concatenate([part[0][some] for part, some in zip(parts, drawn, strict=True)]).astype(np.float64)
    rows -= rows.mean(axis=0)
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    flat = rows @ axes[:2].T
    classes = np.concatenate([part[1][some] for part, some in zip(parts, drawn, strict=True)])
    points = [[float(x), float(y), int(c)] for (x, y), c in zip(flat, classes, strict=True)]
    shares = (values**2 / max(float((values**2).sum()), 1e-300))[:2]
    return {
        "source": points[: len(drawn[0])], "target": points[len(drawn[0]) :], "shares": [float(s) for s in shares],
    }  # fmt: skip
