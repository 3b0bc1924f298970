"""What a reader should know before trusting a table: each a code, a sentence and the numbers in it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from selector import tasks
from selector.core.contracts import SPLITS, UNLABELED, Target, noun_of
from selector.core.stats import binomial_tail
from selector.core.units import format_duration
from selector.core.version import page
from selector.proxies.domain_measures import MISSES
from selector.ranking.agreement import calibration, spearman, weighted_tau
from selector.ranking.combination import AT_CHANCE, Transferability
from selector.results import Caveat, Measurement
from selector.scan.candidate import Candidate
from selector.scan.dataset_view import reads_maps
from selector.zoo import ModelSpec
from selector.zoo.spec import network_of

SHOWN = 6
FEWEST_ITEMS = 10  # of a class
FEWEST_MODELS = 5  # fewer are in any order by chance
DISAGREE, LEADERS_DISAGREE = 0.6, 0.3  # mean Spearman of members; judgments, as is the next
EXPLAINS = 0.9  # weighted tau of the prior with the normalized scores
MAJORITY = "no-better-than-majority"
SURE = 0.05  # one-sided: how likely an answer that is always the same may do as well
_HOPELESS = 100  # times as many items: then the models are as good as equal


def caveats(candidates: Sequence[Candidate], target: Target, rows: int) -> Iterator[Caveat]:
    """The caveats of a scan, most important first.

    Args:
        candidates: with their transferability.
        target: what they were ranked for.
        rows: of train and val that finished models were scored on.
    """
    good = [c for c in candidates if c.transferability is not None and c.running]
    transferability = {c.spec.name: c.transferability for c in good if c.transferability is not None}
    chance = no_signal(transferability)
    yield from (
        caveat
        for caveat in (
            chance,
            too_small(transferability, rows, settles=chance is None),
            proxies_disagree(transferability),
            static_explains(transferability),
            under_ranked(good, target),
            rare_classes(target),
            no_training(target),
            across_domains(good, target) or unlike_calibration(transferability, target, rows),
            _readings(good),
            _pruned(candidates, rows),
            _excluded(candidates),
            _failed(candidates),
        )
        if caveat is not None
    )


def no_signal(transferability: dict[str, Transferability]) -> Caveat | None:
    """Every model is at chance."""
    best = max((e.normalized_score for e in transferability.values()), default=1.0)
    if best >= AT_CHANCE:
        return None
    return Caveat(
        "no-signal",
        "no model is clearly better than chance: the labels may be wrong, or no model of this zoo fits the target.",
        {"best_normalized_score": best},
    )


def too_small(transferability: dict[str, Transferability], items: int, *, settles: bool = True) -> Caveat | None:
    """Several models are not significantly different, and how many items would settle which of the first two is better.

    The half-width of the paired interval shrinks with the root of the number of items.

    Args:
        settles: whether more items are worth a word; where every model is at chance they settle nothing.
    """
    if len(transferability) < 2:
        return None
    first, second = sorted(transferability.values(), key=lambda e: -e.value)[:2]
    half = max(e.half_to_first for e in transferability.values())  # 0: no intervals were computed
    tied = [
        name for name, e in transferability.items() if e.tied and (not half or first.value - e.value <= e.half_to_first)
    ]
    if len(tied) < 2:
        return None
    gap, half = first.value - second.value, second.half_to_first
    times = (half / gap) ** 2 if gap > 0 else math.inf
    numbers = {"models": len(tied), "items": items, "gap": gap, "half_width": half}
    text = f"{len(tied)} models are not significantly different (90%) on these {items} items: {_listed(tied)}."
    if half == 0 or not settles:  # no intervals were computed
        return Caveat("too-few-examples", text, numbers)
    if times > _HOPELESS:
        text += f" Even {_HOPELESS} times as many would not separate the first two: take the cheaper one, or fine-tune both."
        return Caveat("too-few-examples", text, {**numbers, "items_needed": None})
    needed = max(items + 1, math.ceil(items * times))
    if times <= 1:  # the first two differ; it is the others that are tied through their own noise
        return Caveat("too-few-examples", text, numbers)
    rounded = float(f"{needed:.2g}")
    return Caveat(
        "too-few-examples",
        f"{text} About {rounded:,.0f} items would settle which of the first two has the higher transferability.",
        {**numbers, "items_needed": needed},
    )


def proxies_disagree(transferability: dict[str, Transferability]) -> Caveat | None:
    """Members order the models differently: all of them, or the leading half."""
    if len(transferability) < FEWEST_MODELS:
        return None
    leading = sorted(transferability.values(), key=lambda e: -e.value)
    half = leading[: max(FEWEST_MODELS, len(leading) // 2)]
    everyone, leaders = _mean_correlation(leading), _mean_correlation(half)
    if math.isnan(everyone) or (everyone >= DISAGREE and not leaders < LEADERS_DISAGREE):
        return None
    whom, value = ("the models", everyone) if everyone < DISAGREE else (f"the {len(half)} leading models", leaders)
    firsts = {p: max(transferability, key=lambda m: transferability[m].members[p]) for p in leading[0].members}
    told = ", ".join(f"{proxy} {model}" for proxy, model in firsts.items())
    return Caveat(
        "proxies-disagree",
        f"the proxies order {whom} differently (mean rank correlation {value:.2f}; first by {told}): "
        "the transferability averages proxies that disagree, so fine-tune more models.",
        {"mean_spearman": everyone, "mean_spearman_leaders": leaders, "models": len(leading), "first": firsts},
    )


def static_explains(transferability: dict[str, Transferability]) -> Caveat | None:
    """The prior gives the same order as the rows do."""
    known = [e for e in transferability.values() if e.known is not None]
    if len(known) < FEWEST_MODELS:
        return None
    priors = [e.known.value for e in known if e.known is not None]
    tau = weighted_tau(priors, [e.normalized_score for e in known])
    if math.isnan(tau) or tau < EXPLAINS:
        return None
    return Caveat(
        "explained-by-prior",
        f"the prior alone (size, upstream accuracy, past results) gives almost the same order as the proxies "
        f"(weighted tau {tau:.2f}): these items add little to it.",
        {"weighted_tau": tau, "models": len(known)},
    )


def no_training(target: Target) -> Caveat | None:
    """Such labels can be ranked for, and that is all."""
    if tasks.task_for(target) is not None:
        return None
    return Caveat(
        "task-not-trainable",
        f"fine-tuning does not support {noun_of(target.modality)}s with {target.label_kind} labels and is skipped; "
        f"the ranking is complete. Tasks with fine-tuning: {', '.join(tasks.registry.names())}.",
        {"label_kind": str(target.label_kind)},
    )


def rare_classes(target: Target) -> Caveat | None:
    """Classes that few items show, or that a split lacks, by name."""
    if len(target.indices(UNLABELED)):  # held-out labels are read for the final metric only
        return None
    by_split = {split: target.items_of_classes(split) for split in SPLITS}
    total = np.sum(list(by_split.values()), axis=0)
    if not len(total):
        return None
    # what train lacks the target's own notes name
    order = [i for i in np.argsort(total, kind="stable").tolist() if by_split["train"][i]]
    few = {target.class_names[i]: int(total[i]) for i in order if total[i] < FEWEST_ITEMS}
    used = {split: counts for split, counts in by_split.items() if split != "train" and len(target.indices(split))}
    absent = {
        target.class_names[i]: [split for split, counts in used.items() if not counts[i]]
        for i in order
        if any(not counts[i] for counts in used.values())
    }
    told = []
    if few:
        listed = _listed([f"{name} ({count})" for name, count in few.items()])
        told.append(
            f"{_classes(len(few))} fewer than {FEWEST_ITEMS} {target.row_noun}s: {listed}. Their measured values are "
            "unreliable: label more, or merge or remove such classes"
        )
    if absent:
        listed = _listed([f"{name} ({', '.join(splits)})" for name, splits in absent.items()])
        told.append(f"{_classes(len(absent))} no {target.row_noun} in a split and is not evaluated there: {listed}")
    text = "; ".join(told)
    return Caveat("rare-classes", f"{text}.", {"few": few, "absent": absent}) if told else None


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def _classes(count: int) -> str:
    return "1 class has" if count == 1 else f"{count} classes have"


def majority(name: str, measured: Measurement, target: Target) -> Caveat | None:
    """The saved model is not shown to be better than always answering train's most frequent class.

    By a one-sided binomial test of its right answers, on test where that was read, else on val.
    """
    if measured.metric != "accuracy" or target.item_classes is None:
        return _no_better(name, measured, target)
    figures, split = (measured.val, "val") if math.isnan(measured.test_value) else (measured.test, "test")
    labels = target.labels[target.indices(split)].astype(int)
    classes = len(target.class_names)
    most = int(np.bincount(target.labels[target.indices("train")].astype(int), minlength=classes).argmax())
    share, count, accuracy = float((labels == most).mean()), len(labels), figures["accuracy"]
    if accuracy > share and binomial_tail(round(accuracy * count), count, share) <= SURE:
        return None
    others = {key: figures[key] for key in ("balanced_accuracy", "macro_f1") if key in figures}
    told = "".join(f", {key} {value:.3f}" for key, value in others.items())
    return Caveat(
        MAJORITY,
        f"{name} ({measured.strategy}) is not significantly better than always predicting {target.class_names[most]}, the "
        f"most frequent class of train: that is right for {100 * share:.1f}% of the {count} {split} items, and the model "
        f"has accuracy {accuracy:.3f}{told}. Select by another metric (--metric balanced_accuracy, macro_f1), or label "
        "more items of the other classes.",
        {"split": split, "items": count, "class": target.class_names[most], "share": share, "accuracy": accuracy}
        | others,
    )


def _no_better(name: str, measured: Measurement, target: Target) -> Caveat | None:
    """Its metric on test is no better than that of the task's trivial predictor."""
    value = measured.test_value
    task = None if math.isnan(value) else tasks.task_for(target)
    base = None if task is None else task.baseline(target, measured.metric)
    if task is None or base is None or task.metrics[measured.metric].better(value, base):
        return None
    return Caveat(
        MAJORITY,
        f"{name} ({measured.strategy}) is not better on test than a prediction that ignores the {noun_of(target.modality)}: "
        f"{measured.metric} {value:.3f} against {base:.3f}. Label more {noun_of(target.modality)}s, or check the labels.",
        {"split": "test", "metric": measured.metric, "value": value, "baseline": base},
    )


def across_domains(good: Sequence[Candidate], target: Target) -> Caveat | None:
    """The order rests on accuracies that were predicted for a target without labels."""
    if not any("target-accuracy" in c.scores for c in good):
        return None
    name = noun_of(target.modality)
    return Caveat(
        "out-of-calibration",
        f"models are ordered by their predicted accuracy on {name}s without labels. On held-out pairs of domains this "
        f"prediction was within {100 * MISSES:.0f} percentage points in nine of ten cases. Run 'selector label' to "
        f"compare the adapted models on labels of a few {name}s.",
        {"misses": MISSES},
    )


def unlike_calibration(transferability: dict[str, Transferability], target: Target, rows: int) -> Caveat | None:
    """The target lies outside of everything that the default score was tried on."""
    frozen = calibration()
    outside_of = frozen.unlike(target.modality, target.label_kind)
    if outside_of:
        told = f"the default score was calibrated on images. On texts it was tested with six small encoders only: {page('benchmarks/text-classification')}."
        if "label_kind" in outside_of:
            what = f"{noun_of(target.modality)}s with {target.label_kind} labels"
            told = f"the default score was calibrated on classes only, not on {what}: this ranking is uncalibrated."
        return Caveat(
            "out-of-calibration",
            told,
            {"calibration": frozen.version, "modality": str(target.modality), "label_kind": str(target.label_kind)},
        )
    if not transferability or not frozen.sets:
        return None
    outside = []
    seen = {
        "classes": ([s.classes for s in frozen.sets.values()], float(len(target.class_names)), 2.0),
        "items": ([s.rows for s in frozen.sets.values()], float(rows), 4.0),
    }
    for name, (values, here, slack) in seen.items():
        if not min(values) / slack <= here <= max(values) * slack:
            outside.append(f"{here:.0f} {name} (calibrated: {min(values)} to {max(values)})")
    best, lowest = (
        max(e.normalized_score for e in transferability.values()),
        min(s.best_normalized_score for s in frozen.sets.values()),
    )
    if round(best, 2) < round(lowest, 2):  # as they are shown
        outside.append(f"a best normalized score of {best:.2f} (calibrated: {lowest:.2f} and more)")
    if not outside:
        return None
    return Caveat(
        "out-of-calibration",
        f"the target is outside the range of the {len(frozen.sets)} image datasets on which the default score was calibrated: "
        f"{', '.join(outside)}. How well the order agrees with fine-tuning is unknown here.",
        {
            "calibration": frozen.version,
            "classes": len(target.class_names),
            "items": rows,
            "best_normalized_score": best,
        },
    )


def _readings(good: Sequence[Candidate]) -> Caveat | None:
    networks = {network_of(c.spec) for c in good}
    if len(networks) == len(good):
        return None
    return Caveat(
        "multiple-variants",
        f"{len(good)} rows are feature variants of {_models(len(networks))}: the best variant is chosen on these items, "
        "so its transferability is slightly optimistic. Each model is fine-tuned once, as its leading variant: "
        "the model up to that layer, with its pooling.",
        {"rows": len(good), "models": len(networks)},
    )


def _excluded(candidates: Sequence[Candidate]) -> Caveat | None:
    excluded = [c.spec.name for c in candidates if c.excluded]
    if not excluded:
        return None
    text = f"{_models(len(excluded))} {_be(len(excluded))} not ranked because of the limits; the rows show which limit."
    return Caveat("excluded", text, {"models": excluded})


def _failed(candidates: Sequence[Candidate]) -> Caveat | None:
    failed = [c.spec.name for c in candidates if c.failure]
    if not failed:
        return None
    return Caveat(
        "failed",
        f"{_models(len(failed))} failed and {_be(len(failed))} not ranked: {_listed(failed)}.",
        {"models": failed},
    )


def _mean_correlation(models: Sequence[Transferability]) -> float:
    """Mean Spearman over pairs of members; NaN with one member or constant ones."""
    columns = [np.array([e.members[proxy] for e in models]) for proxy in models[0].members]
    varied = [column for column in columns if np.ptp(column) > 0]
    found = [spearman(a, b) for a, b in itertools.combinations(varied, 2)]
    return float(np.mean(found)) if found else math.nan


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"


def _pruned(candidates: Sequence[Candidate], rows: int) -> Caveat | None:
    """Which models pruned when, and what that saved."""
    pruned = [c for c in candidates if c.pruned]
    if not pruned:
        return None
    rounds = sorted({c.rows for c in pruned})
    when = "; ".join(
        f"{f'after {n} rows' if n else 'unseen'} {', '.join(c.spec.name for c in pruned if c.rows == n)}"
        for n in rounds
    )
    spent = " or the scan budget was spent" if any(c.over_budget for c in pruned) else ""
    left_out = {network_of(c.spec): c for c in pruned}.values()  # readings share their forward passes
    networks = len({network_of(c.spec) for c in candidates if c.running or c.pruned})
    share = sum(rows - c.rows for c in left_out) / (rows * networks)
    spared = [c.spared for c in left_out if c.spared is not None]
    time = f", about {format_duration(sum(spared))}" if spared else ""
    return Caveat(
        "pruned",
        f"{_models(len(pruned))} {'was' if len(pruned) == 1 else 'were'} pruned because the intervals could not reach the top{spent}: {when}. "
        f"That saved {100 * share:.0f}% of the forward passes{time}.",
        {"models": len(pruned), "share": share, "seconds": sum(spared) if spared else None},
    )


MASKED = "masked-pretraining"
_SAID = re.compile(r"\bmask")
_LATER = re.compile(r"supervised|fine-tuned")  # a masked start that labels have followed
_TAG = re.compile(r"\.((fc)?mae|mim|[a-z]*_?mim)(_|$)")  # of timm's weights


def learned_masked(spec: ModelSpec) -> bool:
    """Whether the weights come from masked image modeling alone.

    By what the zoo says of its pretraining; of models that the zoo does not describe by the tag of timm's weights.
    """
    said = (spec.pretraining or "").lower()
    if said:
        return bool(_SAID.search(said)) and not _LATER.search(said.replace("self-supervised", ""))
    return bool(_TAG.search(spec.model_id)) and "_ft" not in spec.model_id


def under_ranked(candidates: Sequence[Candidate], target: Target) -> Caveat | None:
    """Where rows are read off frozen maps: the models whose place says less than that of others, the first of them first."""
    if not reads_maps(target):
        return None
    ranked = sorted(candidates, key=lambda c: -c.transferability.value if c.transferability else 0.0)
    names = [c.spec.name for c in ranked if learned_masked(c.spec)]
    if not names or len(names) == len(ranked):
        return None
    whom = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return Caveat(
        MASKED,
        f"{whom} learned by masked image modeling, which probes on frozen maps rank too low (arXiv:2404.12172): a "
        "confirmation trains the first of them even where it is not among the leading models.",
        {"models": names},
    )
