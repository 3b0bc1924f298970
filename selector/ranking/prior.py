"""What is known of the models before looking at the target: one prior score per model.

Three ways to make it compete, and the one that orders left-out targets best is used: *facts* (a
fixed formula over parameters, upstream accuracy and the like), *ridge* (the same facts, weighted
by what was measured on earlier targets) and *mean rank* (each model's own earlier ranks, drawn
towards the facts where they are few). The prior of a model depends on its own facts and on the
history, never on the other models of the pool, so adding a model reorders nothing.

A pure function of its arguments: it reads no file and no clock.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from selector.core.errors import ConfigError
from selector.ranking.agreement import weighted_tau
from selector.ranking.history import (
    FEWEST_MODELS,
    RANK_DEVIATION,
    SCORE_METRIC,
    PastColumn,
    Result,
    Trainability,
    columns_of,
    trained_beyond_scores,
)
from selector.tasks import metric_named

Method = Literal["facts", "ridge", "mean rank"]
METHODS: tuple[Method, ...] = ("facts", "ridge", "mean rank")  # the simplest first: it wins ties

WEIGHT_WITHOUT_HISTORY = 0.25
LARGEST_WEIGHT = 0.5
_EXPECTED_TAU = 0.3  # of a prior that was never tried, counted as _EXPECTED_TARGETS targets
_EXPECTED_TARGETS = 4
_FEWEST_TARGETS = 2  # leaving one out must leave one
_RIDGE_ROWS = 20.0  # the fixed weights count as much as this many measured models
_RANK_ROWS = 1.0  # a model's facts count as much as this many measured targets
OWN_RESULTS = "own results"  # what the reason begins with for which they were left out
FEWEST_OWN_TARGETS = 3  # unlike targets of this machine below which its own results do not enter
_DECISIVE = 0.25  # reliability from which a target counts among them


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a model that no target is needed for; None where unknown.

    Attributes:
        parameters: count.
        upstream_accuracy: ImageNet-1k top-1 in percent; accuracy on another set is no substitute.
        pretraining_images: count; 0 for a network that was never trained.
        flops: multiply-adds of a forward pass at the native input size.
        input_size: pixels a side.
    """

    parameters: float | None = None
    upstream_accuracy: float | None = None
    pretraining_images: float | None = None
    flops: float | None = None
    input_size: float | None = None

    def __post_init__(self) -> None:
        for name in _SCALES:
            value = getattr(self, name)
            lowest = 0 if name in ("pretraining_images", "upstream_accuracy") else 1
            if value is not None and not (math.isfinite(value) and value >= lowest):
                raise ConfigError(f"The {name!r} of a model must be a number >= {lowest} or None. Got {value!r}.")

    def known(self) -> tuple[str, ...]:
        """Names of the facts that are there."""
        return tuple(name for name in _SCALES if getattr(self, name) is not None)


@dataclass(frozen=True)
class _Scale:
    """Standardization of a fact, fixed so that the pool cannot move it, and its fixed weight in ranks."""

    center: float
    spread: float
    weight: float
    log10: bool = True

    def __call__(self, value: float) -> float:
        number = math.log10(max(value, 1.0)) if self.log10 else value
        return min(max((number - self.center) / self.spread, -3.0), 3.0)


_SCALES: Mapping[str, _Scale] = {
    "parameters": _Scale(7.2, 0.5, 0.10),
    "upstream_accuracy": _Scale(75.0, 5.0, 0.20, log10=False),
    "pretraining_images": _Scale(6.1, 1.0, 0.10),
    "flops": _Scale(9.4, 0.5, 0.0),
    "input_size": _Scale(2.35, 0.15, 0.0),
}
"""The weights of parameters and upstream accuracy are rounded least-squares coefficients on three published
tables (docs/benchmarks/published-tables.md). All their networks saw ImageNet, so the weight of the pretraining images is a
judgment; FLOPs and input size say little beside the parameters and count once a history teaches it."""
_FACTS = tuple(_SCALES)
_FIXED = np.array([scale.weight for scale in _SCALES.values()])
_UPSTREAM_PER_PARAMETERS = 0.57  # slope of one standardized fact on the other in the same tables


@dataclass(frozen=True)
class PriorScore:
    """The prior of one model.

    Attributes:
        value: standard deviations of rank above the average model; higher is better. 0 where
            nothing is known. In a mean rank the part that rests on facts is already discounted to
            what facts weigh.
        origin: how it was made, for a person.
        targets: earlier targets on which this model was measured.
        weight: share that this value deserves in a combined score, 0..0.5. It depends on what the
            value rests on, the model's own results or its facts, and on nothing of the pool.
        deviation: standard error of ``value`` where it rests on this machine's own results, else 0.
        without_own: weight / (1 - weight) · value as it is without this machine's own results; None where they
            do not enter. What they add is bounded by what the target itself leaves open (``combination``).
        trained: what this machine's confirmations add to a normalized score, in deviations of rank: how much better the
            model trained than its score there promised (``trainability``). Bounded in the same way.
        trained_error: its standard error.
    """

    value: float
    origin: str
    targets: int = 0
    weight: float = 0.0
    deviation: float = 0.0
    without_own: float | None = None
    trained: float = 0.0
    trained_error: float = 0.0

    @property
    def effect(self) -> float:
        """What ``value`` adds to a normalized score, in deviations of rank."""
        return self.weight / (1 - self.weight) * self.value


@dataclass(frozen=True)
class Prior:
    """The prior of a pool of models.

    Attributes:
        scores: by model.
        method: the way that won.
        weight: share that values by the winning method deserve in a combined score, 0..0.5.
        facts_weight: the same for models that were never measured, when the mean rank won: facts are
            all that is known of them. Published tables do not count for it, because the fixed
            weights of the facts were fitted on them.
        trained_weight: share that ``Trainability`` deserves.
        agreement: mean weighted tau on left-out targets, by method; empty when there were too few
            targets to try.
        targets, rows: of the history that entered.
        left_out: how many rows did not enter, by reason.
        coefficients: weight of each standardized fact in ``facts`` or ``ridge``.
    """

    scores: Mapping[str, PriorScore]
    method: Method
    weight: float
    facts_weight: float = 0.0
    trained_weight: float = 0.0
    agreement: Mapping[str, float] = field(default_factory=dict)
    targets: int = 0
    rows: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    coefficients: Mapping[str, float] = field(default_factory=dict)


def static_prior(
    facts: Mapping[str, ModelFacts],
    history: Iterable[Result] = (),
    *,
    target: str = "",
    target_name: str = "",
    fewest_own: int = 0,
) -> Prior:
    """Prior scores of the models in ``facts``, and how they were made.

    Args:
        facts: of every model of the pool; ``ModelFacts()`` where nothing is known.
        history: results of earlier runs, none of the same target. A measured one that has the score of that time
            (a predicted row) beside it says how the model trained for its score; the others are ranks.
        target: fingerprint of the target that is about to be ranked.
        target_name: its name; published results of a dataset that it may mean are left out as well,
            since a fact table has no fingerprint.
        fewest_own: unlike, decisive targets of this machine below which its own results do not enter.
    Returns:
        One score per model of ``facts``, in the same order.
    Raises:
        ConfigError: ``facts`` is empty.
    Cost: O(targets · models³) for the mean rank, over all models of the history.
    """
    if not facts:
        raise ConfigError("A prior needs at least one model. Got none.")
    history = list(history)
    measured, left_out = _usable(history, target, target_name)
    predicted = _predicted(history)
    scored = [(m, row) for m, row in measured if row.origin != "published" and (row.target, m) in predicted]
    usable = [(m, row) for m, row in measured if row.origin == "published" or (row.target, m) not in predicted]
    columns, past, confirmed = columns_of(usable), _past_facts(usable), columns_of(scored, predicted)
    alike = {row.target: row.target_name or row.target for _, row in measured}
    own = {alike[c.target] for c in (*columns, *confirmed) if not c.published and c.reliability >= _DECISIVE}
    base: Prior | None = None
    if len(own) < fewest_own:
        few = sum(row.origin != "published" for _, row in measured)
        if few:
            left_out[f"{OWN_RESULTS}: fewer than {fewest_own} unlike, decisive targets"] = few
        columns, confirmed = [c for c in columns if c.published], []
        usable = [(model, row) for model, row in usable if row.origin == "published"]
        past = _past_facts(usable)
    elif any(not c.published for c in columns):
        published = [row for _, row in usable if row.origin == "published"]
        base = static_prior(facts, published, target=target, target_name=target_name)
    agreement = _left_out_agreement(past, columns)
    method: Method = max(METHODS, key=lambda m: agreement[m]) if agreement else "facts"
    values = _predict(method, facts, past, columns, list(facts))
    weights = {"facts": _FIXED, "ridge": _ridge(past, columns)}.get(method, ())
    counts = {m: len({c.target for c in columns if m in c.models}) for m in facts}
    judged = [c for c in columns if not c.published]
    by_facts = _left_out_agreement(past, columns, judged=judged)
    facts_weight = _weight(by_facts.get("ridge" if method == "ridge" else "facts"), _tried(judged))
    weight = _weight(agreement.get(method), _tried(columns)) if method == "mean rank" else facts_weight
    if method == "mean rank" and weight > 0:
        # a mean rank is linear in the facts that it is drawn towards and in the ranks; having been measured
        # once vouches for no fact, so the part that rests on them counts as it does for other models
        ranks = _predict(method, {}, {}, columns, list(facts))
        discount = facts_weight * (1 - weight) / ((1 - facts_weight) * weight)
        was_measured = np.array([counts[m] > 0 for m in facts])
        values = np.where(was_measured, ranks + discount * (values - ranks), values)
    errors = _mean_rank_errors(columns, list(facts)) if method == "mean rank" else [0.0] * len(facts)
    trained = trained_beyond_scores(confirmed)
    trained_weight = _weight(trained.agreement, trained.tried) if confirmed else 0.0
    counted = trained_weight / (1 - trained_weight)
    scores = {
        model: PriorScore(
            float(value / RANK_DEVIATION),
            _origin(method, facts[model], counts[model]) + _trained_origin(trained, model),
            max(counts[model], trained.targets.get(model, 0)),
            0.0 if not value else weight if counts[model] else facts_weight,
            deviation if base is not None and counts[model] and method == "mean rank" else 0.0,
            None if base is None else base.scores[model].effect,
            trained=counted * trained.values.get(model, 0.0),
            trained_error=counted * trained.errors.get(model, 0.0),
        )
        for (model, value), deviation in zip(zip(facts, values, strict=True), errors, strict=True)
    }
    return Prior(
        scores=scores,
        method=method,
        weight=max(score.weight for score in scores.values()),
        facts_weight=facts_weight,
        trained_weight=trained_weight,
        agreement=agreement if trained.agreement is None else {**agreement, "beyond scores": trained.agreement},
        targets=len({c.target for c in (*columns, *confirmed)}),
        rows=sum(len(c.models) for c in (*columns, *confirmed)),
        left_out=left_out,
        coefficients=dict(zip(_FACTS, map(float, weights), strict=False)),
    )


_PRETRAINING: Mapping[str, float] = {
    "in1k": 1.28e6, "in12k": 1.2e7, "in21k": 1.42e7, "in22k": 1.42e7, "openai": 4e8, "laion400m": 4e8,
    "laion2b": 2.3e9, "datacompxl": 1.4e9, "dfn2b": 2e9, "dfn5b": 5e9, "webli": 1e10, "lvd142m": 1.42e8,
    "lvd1689m": 1.689e9, "merged2b": 2e9, "yfcc15m": 1.5e7, "datacomp1b": 1.4e9, "wit400m": 4e8,
    "jft300m": 3e8, "instagram1b": 9.4e8, "instagram3.6b": 3.6e9, "cifar10": 5e4, "mnist": 6e4, "svhn": 6e5,
    "usps": 7e3, "none": 0.0,
}  # fmt: skip


def pretraining_images(tag: str) -> float | None:
    """Images that a pretrained tag in timm's manner, or a zoo's words, name: the largest of several.

    None when nothing known is named.

    >>> pretraining_images("augreg_in21k_ft_in1k"), pretraining_images("unheard")
    (14200000.0, None)
    >>> pretraining_images("CLIP, LAION-2B, then ImageNet-12k and -1k"), pretraining_images("none, a control")
    (2300000000.0, 0.0)
    """
    words = re.sub(r"imagenet-?(?=\d)", "in", tag.lower())
    # "LAION-2B" is one name here and "laion2b_s34b" holds one; so both readings of a hyphen count
    tokens = {*re.split(r"[._\-\s,;()]+", words), *re.split(r"[\s,;()]+", words.replace("-", ""))}
    return max((_PRETRAINING[token] for token in tokens if token in _PRETRAINING), default=None)


def _usable(
    history: Sequence[Result], target: str, target_name: str
) -> tuple[list[tuple[str, Result]], dict[str, int]]:
    """(model, row) of the rows that may enter, and how many may not, by reason."""
    usable: list[tuple[str, Result]] = []
    left_out: dict[str, int] = {}
    known = {(row.target, row.model) for row in history if row.kind == "measured"}
    for row in history:
        if row.kind == "predicted" and (row.target, row.model) in known:
            continue  # stands beside what was measured
        reason = _reason_against(row, target, target_name)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            usable.append((row.model, row))
    return usable, left_out


def _reason_against(row: Result, target: str, target_name: str) -> str:
    if row.kind != "measured":
        return "predicted, not measured"
    if metric_named(row.metric).sign < 0:
        return "lower is better"
    if target and row.target == target:
        return "same target"
    if row.origin == "published" and _names(target_name, row.target_name or row.target):
        return "same target"
    return ""


def _predicted(history: Sequence[Result]) -> dict[tuple[str, str], float]:
    """(target, model) -> normalized score of that time; over the members that most models of the target have, since
    others cannot be compared."""
    by_members: dict[str, dict[str, dict[str, float]]] = {}
    for row in sorted((r for r in history if r.kind == "predicted"), key=lambda r: r.when):
        if row.metric.startswith(SCORE_METRIC):
            by_members.setdefault(row.target, {}).setdefault(row.metric, {})[row.model] = row.value
    most = {target: max(found.values(), key=len) for target, found in by_members.items()}
    return {(target, model): value for target, found in most.items() for model, value in found.items()}


def _names(target_name: str, data_set: str) -> bool:
    """Whether a target's name may mean a published dataset: ``Flowers-102 (train)`` means flowers.

    One name too many costs a few rows of history; one too few would show the answer to the prior.
    """
    target, published = (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (target_name, data_set))
    more = r"(?!\d)" if published[-1:].isdigit() else ""  # CIFAR-10 is not CIFAR-100
    return bool(published) and re.search(re.escape(published) + more, target) is not None


def _past_facts(rows: Sequence[tuple[str, Result]]) -> dict[str, ModelFacts]:
    """Facts that were written beside the results; the latest row decides.

    Learning reads these and never the facts of the pool: otherwise the pool would decide which
    rows teach something, and a model that joins it could reorder the others.
    """
    return {
        model: ModelFacts(**{name: value for name, value in row.facts.items() if name in _FACTS})
        for model, row in sorted(rows, key=lambda pair: pair[1].when)
        if row.facts
    }


def _predict(
    method: Method,
    facts: Mapping[str, ModelFacts],
    past: Mapping[str, ModelFacts],
    columns: Sequence[PastColumn],
    models: Sequence[str],
) -> np.ndarray:
    """Expected centered rank of the models by one method."""
    if method == "facts":
        return np.asarray(_standardized(facts, models) @ _FIXED)
    if method == "ridge":
        return np.asarray(_standardized(facts, models) @ _ridge(past, columns))
    measured = {model for column in columns for model in column.models}
    others = {model: known for model, known in facts.items() if model not in measured}
    return _mean_rank({**others, **past}, columns, models)


def _ridge(facts: Mapping[str, ModelFacts], columns: Sequence[PastColumn]) -> np.ndarray:
    """Weights of the facts: least squares within targets, drawn towards the fixed weights."""
    gram = _RIDGE_ROWS * np.eye(len(_FACTS))
    moment = _RIDGE_ROWS * _FIXED
    for column in columns:
        rows = _standardized(facts, column.models)
        rows = rows - rows.mean(axis=0)  # every target has its own level
        gram += column.reliability * rows.T @ rows
        moment += column.reliability * rows.T @ column.ranks
    return np.asarray(np.linalg.solve(gram, moment))


def _mean_rank(facts: Mapping[str, ModelFacts], columns: Sequence[PastColumn], models: Sequence[str]) -> np.ndarray:
    """Mean rank over the targets where a model was measured, drawn towards its facts.

    Least squares with a level per target: the third of a pool of strong models is not taken for a
    weak one. Where all models were measured everywhere this orders them by their mean rank.
    """
    everyone = list(dict.fromkeys([*models, *(m for column in columns for m in column.models)]))
    at = {model: i for i, model in enumerate(everyone)}
    gram = _RANK_ROWS * np.eye(len(everyone))
    moment = _RANK_ROWS * (_standardized(facts, everyone) @ _FIXED)
    for column in columns:
        where = np.array([at[m] for m in column.models])
        gram[where, where] += column.reliability
        gram[np.ix_(where, where)] -= column.reliability / len(where)
        moment[where] += column.reliability * column.ranks
    return np.asarray(np.linalg.solve(gram, moment)[: len(models)])


def _mean_rank_errors(columns: Sequence[PastColumn], models: Sequence[str]) -> list[float]:
    """Standard errors of ``_mean_rank``, in deviations of rank: they shrink with the targets a model was measured on."""
    counts = {model: sum(c.reliability for c in columns if model in c.models) for model in models}
    return [1 / math.sqrt(_RANK_ROWS + counts[model]) for model in models]


def _standardized(facts: Mapping[str, ModelFacts], models: Sequence[str]) -> np.ndarray:
    """(models, facts); an absent fact counts as average, upstream accuracy as the parameters suggest."""
    nothing = ModelFacts()
    rows = np.zeros((len(models), len(_FACTS)))
    for row, model in zip(rows, models, strict=True):
        of_model = facts.get(model, nothing)
        for i, (name, scale) in enumerate(_SCALES.items()):
            value = getattr(of_model, name)
            if value is not None:
                row[i] = scale(value)
        if of_model.upstream_accuracy is None:
            row[_FACTS.index("upstream_accuracy")] = _UPSTREAM_PER_PARAMETERS * row[_FACTS.index("parameters")]
    return rows


def _left_out_agreement(
    past: Mapping[str, ModelFacts], columns: Sequence[PastColumn], judged: Sequence[PastColumn] | None = None
) -> dict[str, float]:
    """Mean weighted tau of every method on targets that it has not seen; empty with too few of them.

    ``judged`` are the columns that count; all of them when left out.
    """
    judged = columns if judged is None else judged
    if _tried(judged) < _FEWEST_TARGETS:
        return {}
    taus: dict[str, list[float]] = {method: [] for method in METHODS}
    for target in sorted({c.target for c in judged}):
        rest = [c for c in columns if c.target != target]
        for column in judged:
            if column.target == target and len(column.models) >= FEWEST_MODELS:
                for method in METHODS:
                    tau = weighted_tau(_predict(method, past, past, rest, column.models), column.ranks)
                    taus[method].append(0.0 if math.isnan(tau) else tau)  # no order is worth a random one
    return {method: float(np.mean(values)) for method, values in taus.items()}


def _tried(columns: Sequence[PastColumn]) -> int:
    """Targets that can be left out and judged."""
    return len({c.target for c in columns if len(c.models) >= FEWEST_MODELS})


def _weight(tau: float | None, targets: int) -> float:
    """Grows with the agreement on left-out targets, and the faster the more of them there are."""
    seen = 0.0 if tau is None else tau * targets
    expected = (_EXPECTED_TARGETS * _EXPECTED_TAU + seen) / (_EXPECTED_TARGETS + (0 if tau is None else targets))
    return float(np.clip(WEIGHT_WITHOUT_HISTORY * expected / _EXPECTED_TAU, 0.0, LARGEST_WEIGHT))


def _origin(method: Method, facts: ModelFacts, targets: int) -> str:
    known = ", ".join(name.replace("_", " ") for name in facts.known())
    if method == "mean rank" and targets:
        return f"mean rank on {targets} earlier target{'s' if targets > 1 else ''}"
    if not known:
        return "nothing known: counts as average"
    return f"{known}, weighted by earlier targets" if method == "ridge" else known


def _trained_origin(trained: Trainability, model: str) -> str:
    count = trained.targets.get(model, 0)
    if not count:
        return ""
    how = "better" if trained.values[model] > 0 else "worse" if trained.values[model] < 0 else "as well"
    than = "as its score says" if how == "as well" else "than its score says"
    return f"; trained {how} {than} on {count} earlier target{'s' if count > 1 else ''}"
