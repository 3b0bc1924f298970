"""Many proxies -> one score per model, with intervals, P(best) and the set that is not significantly different.

Every member is put on one scale that depends on the target alone, never on the other models, so
that adding a model reorders nothing: *normalized score*, 0 for a model that knows nothing about the labels
and 1 for one that knows them all. The transferability is the mean normalized score of the members, equal weights,
one member a family, moved by what was known of the model beforehand (``selector.ranking.prior``). Intervals
come from the same deleted blocks of rows for every model, so that errors which all models share
cancel in the differences.

The interval of a score is sampling noise: how it could change with other images of the same kind. The probabilities and
the set of ties are about the value after training: that noise, and what training may change (``selector.ranking.outlook``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from selector.core.contracts import LabelKind, Score
from selector.core.stats import t_quantile
from selector.features.labels import scored_columns
from selector.ranking.agreement import calibration, weighted_tau
from selector.ranking.outlook import Outlook
from selector.ranking.prior import Prior, PriorScore
from selector.results import PriorCell

DRAWS = 4000
BEHIND = 0.05  # P(ahead of the first) from which a model may be as good
OUT = 0.02  # P(among the first k) below which a model is pruned during a scan
AT_CHANCE = 0.05  # no model does clearly better than chance where the best normalized score is below
OVERLAP_DIMENSIONS = 64  # principal components that gbc looks at
JUDGED_FROM = 5  # models: fewer orders agree or disagree by chance
_MOST_DEVIATIONS = 2.0  # of rank that own results move a model by, mostly
_OPEN = math.inf  # without intervals nothing is known of what the target leaves open


@dataclass(frozen=True)
class Transferability:
    """The combined score of one model.

    Attributes:
        value: ``normalized_score`` moved by ``prior``: what orders the models.
        low, high: 90% interval; None, as the next three, when the members came without blocks.
        p_best, p_top_k: probability of being the first, or among the first k, of this pool after training; equal models
            share it. None also where every model is at chance.
        mean_rank: expected rank in this pool, from 1.
        tied: may be as good as the first model (is ahead of it with a probability of at least 5%; without blocks,
            the same value).
        half_to_first: half-width of the 90% interval of the paired difference of their scores, sampling noise alone; 0 when
            the members came without blocks.
        normalized_score: mean normalized score of the members; 0 is chance, 1 is perfect.
        prior: the prior of the model moves ``value`` by this much.
        known: the prior itself; None without one.
        members: normalized score by proxy.
        deviations: (blocks,) jackknife deviations of the normalized score, the same blocks for every model; their
            squares sum to its variance, and those of a difference of two models to the variance of that;
            no blocks when the members came without blocks.
        drawn: (draws,) values after training, the same draws for every model; none when the members came without blocks.
    """

    value: float
    low: float | None
    high: float | None
    p_best: float | None
    p_top_k: float | None
    tied: bool
    normalized_score: float
    half_to_first: float = 0.0
    mean_rank: float | None = None
    prior: float = 0.0
    known: PriorScore | None = None
    members: Mapping[str, float] = field(default_factory=dict)
    deviations: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    drawn: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    def fields(self) -> dict[str, Any]:
        """As the fields of ``results.ModelResult`` are called."""
        return {
            "transferability": self.value,
            "transferability_low": self.low,
            "transferability_high": self.high,
            "p_best": self.p_best,
            "p_top_k": self.p_top_k,
            "mean_rank": self.mean_rank,
            "tied": self.tied,
            "normalized_score": self.normalized_score,
            "members": dict(self.members),
            "prior": None if self.known is None else _prior_cell(self.prior, self.known),
        }


_NormalizedScore = Callable[[np.ndarray, "LabelFacts"], np.ndarray]


@dataclass(frozen=True)
class LabelFacts:
    """What the normalized score scale needs to know of the labels: it makes "chance" a number."""

    kind: LabelKind
    chance: float  # expected vote share of a label drawn from the priors
    entropy: float  # of the class priors, nats
    null_logme: float  # log evidence a row of a model that knows the class priors only
    overlap: float = 1.0  # of the classes, summed over ordered pairs (minus ``gbc``), of rows that do not know them
    members: tuple[str, ...] = ()  # proxies whose mean is the score; those of ``MEMBERS`` where none are named

    @classmethod
    def of(cls, labels: np.ndarray, kind: LabelKind, members: Sequence[str] = ()) -> LabelFacts:
        """From labels (N,), (N, L) or (N, T), NaN where unknown."""
        return cls(kind, *_FACTS[kind](labels), tuple(members))

    @property
    def scales(self) -> Mapping[str, _NormalizedScore]:
        """The members, and how the value of each becomes a normalized score."""
        if not self.members:
            return MEMBERS[self.kind]
        known = {**MEMBERS[self.kind], **_FURTHER[self.kind]}
        return {proxy: known[proxy] for proxy in self.members}


def _of_classes(labels: np.ndarray) -> tuple[float, float, float, float]:
    counts = np.bincount(labels.astype(int))
    counts = counts[counts > 0]
    shares = counts / len(labels)
    entropy = float(-(shares * np.log(shares)).sum())
    # two samples of one Gaussian differ as well: expected, by (1/n_i + 1/n_j)/4 in every dimension; 1.5 is what their
    # estimated variances cost
    few = 1 / np.maximum(counts - 1.5, 0.5)
    alike = np.exp(-OVERLAP_DIMENSIONS / 4 * (few[:, None] + few))
    overlap = float(alike.sum() - np.trace(alike))
    return float((shares**2).sum()), entropy, _null_logme(shares * (1 - shares)), max(overlap, 1e-12)


def _of_several(labels: np.ndarray) -> tuple[float, float, float, float]:
    columns = labels.reshape(len(labels), -1).astype(float)
    scored = scored_columns(columns, LabelKind.MULTILABEL)  # those that the proxies score
    rates = np.nanmean(columns[:, scored], axis=0)
    entropy = -(rates * np.log(rates) + (1 - rates) * np.log(1 - rates))
    return 0.0, float(entropy.mean()) if len(rates) else 0.0, _null_logme(rates * (1 - rates)), 1.0


def _of_values(labels: np.ndarray) -> tuple[float, float, float, float]:
    return 0.0, 0.0, _null_logme(np.ones(1)), 1.0  # proxies standardize real columns


_FACTS = {LabelKind.CLASSES: _of_classes, LabelKind.MULTILABEL: _of_several, LabelKind.REAL: _of_values}


def _null_logme(variances: np.ndarray) -> float:
    """Mean Gaussian log-likelihood a row of columns that are predicted by their mean."""
    if not len(variances):
        return 0.0
    return float(np.mean(-0.5 * np.log(2 * math.pi * np.maximum(variances, 1e-12)) - 0.5))


def _above_chance(share: np.ndarray, facts: LabelFacts) -> np.ndarray:
    return (share - facts.chance) / (1 - facts.chance)


def _entropy_explained(log_likelihood: np.ndarray, facts: LabelFacts) -> np.ndarray:
    # below chance it falls without end; one badly calibrated model must not drown the other members
    return np.maximum(1 + log_likelihood / max(facts.entropy, 1e-12), -1.0)


def _variance_explained(evidence: np.ndarray, facts: LabelFacts) -> np.ndarray:
    """For Gaussian columns a gain of g nats a row is the R² that 1 - exp(-2g) gives."""
    return 1 - np.exp(-2 * (evidence - facts.null_logme))


def _apart(score: np.ndarray, facts: LabelFacts) -> np.ndarray:
    """1 minus the overlap of the classes over that of rows that do not know them."""
    return 1 + score / facts.overlap


def _as_it_is(value: np.ndarray, facts: LabelFacts) -> np.ndarray:
    return value


def _bounded(normalized_score: _NormalizedScore) -> _NormalizedScore:
    """From 0, the label frequencies or the mean, to 1: what predicts worse than the mean would use the mean."""
    return lambda value, facts: np.clip(normalized_score(value, facts), 0.0, 1.0)


MEMBERS: Mapping[LabelKind, Mapping[str, _NormalizedScore]] = {
    LabelKind.CLASSES: {"knn": _above_chance, "probe": _entropy_explained, "logme": _variance_explained},
    LabelKind.MULTILABEL: {
        "knn": _bounded(_as_it_is),
        "probe": _bounded(_entropy_explained),
        "logme": _bounded(_variance_explained),
    },
    LabelKind.REAL: {
        "knn": _bounded(_as_it_is),
        "loo-ridge": _bounded(_as_it_is),
        "logme": _bounded(_variance_explained),
    },
}
"""One member a family. The H-score is shown but is no member: its value on permuted labels moves
with N, D and the spectrum, so it has no fixed zero (docs/explanation/transferability-score.md)."""

_FURTHER: Mapping[LabelKind, Mapping[str, _NormalizedScore]] = {
    LabelKind.CLASSES: {"lda": _above_chance, "gbc": _bounded(_apart)},
    LabelKind.MULTILABEL: {},
    LabelKind.REAL: {},
}
"""Proxies with a fixed zero that are members where a task says so (``Task.members``)."""

ACROSS_DOMAINS: Mapping[str, _NormalizedScore] = {"target-accuracy": _bounded(_above_chance)}
"""The one member where a target has no labels: what is predicted for the target, not how well the source is separated."""


def _prior_cell(moved: float, known: PriorScore) -> PriorCell:
    return PriorCell(moved, known.value, known.origin, known.targets, known.weight)


class _ScaledProxy(NamedTuple):
    """A proxy of one facet: the key of its scores, its scale, and its share of the mean."""

    key: str
    scale: _NormalizedScore
    facts: LabelFacts
    share: float


def score_key(facet: str, proxy: str, facets: int) -> str:
    """How a proxy's score on a facet is called: with the facet's name where a task has several.

    >>> score_key("class", "knn", 1), score_key("where", "logme", 2)
    ('knn', 'where:logme')
    """
    return proxy if facets == 1 else f"{facet}:{proxy}"


def _members(scores: Mapping[str, Mapping[str, Score]], facets: Mapping[str, LabelFacts]) -> list[_ScaledProxy]:
    """Members that every model has: each facet counts the same, and within it each of its members."""

    def had(facet: str, members: Mapping[str, _NormalizedScore]) -> list[tuple[str, _NormalizedScore]]:
        keys = ((score_key(facet, proxy, len(facets)), scale) for proxy, scale in members.items())
        return [(key, scale) for key, scale in keys if scores and all(key in own for own in scores.values())]

    found = {
        facet: had(facet, ACROSS_DOMAINS) or had(facet, facts.scales) or had(facet, MEMBERS[facts.kind])
        for facet, facts in facets.items()
    }
    found = {facet: members for facet, members in found.items() if members}
    return [
        _ScaledProxy(key, scale, facets[facet], 1 / (len(found) * len(members)))
        for facet, members in found.items()
        for key, scale in members
    ]


def combine(
    scores: Mapping[str, Mapping[str, Score]],
    facts: LabelFacts | Mapping[str, LabelFacts],
    *,
    prior: Prior | None = None,
    outlook: Outlook | None = None,
    top_k: int = 3,
    seed: int = 0,
) -> dict[str, Transferability]:
    """Transferability of every model that has at least one member's score.

    Args:
        scores: model -> proxy -> score; ``facet:proxy`` where there are several facets. Members that some
            model lacks are left out for all, since means over different members cannot be compared.
        facts: of the labels that the scores were computed with, by facet where there are several.
        prior: what was known of the models; those that it lacks count as average.
        outlook: what training may change; None where heads on the features are all that is trained.
        top_k: for ``p_top_k``.
        seed: of the draws behind the probabilities.
    Returns:
        model -> transferability; empty when no proxy of ``scores`` is a member for this label kind.
    Cost: O(models² + draws · models).
    """
    members = _members(scores, facts if isinstance(facts, Mapping) else {"": facts})
    if not members:
        return {}
    names = list(scores)
    normalized_scores = {
        m: {p.key: float(p.scale(np.asarray(scores[m][p.key].value), p.facts)) for p in members} for m in names
    }
    means = np.array([sum(p.share * normalized_scores[m][p.key] for p in members) for m in names])
    known: Mapping[str, PriorScore] = (
        {m: prior.scores[m] for m in names if m in prior.scores} if prior is not None else {}
    )
    known = agreeing(known, dict(zip(names, means, strict=True)))
    deviations = _deviations([[scores[m][p.key] for p in members] for m in names], members)
    quantile = t_quantile(deviations.shape[1] - 1)
    halves = quantile * np.sqrt((deviations**2).sum(axis=1)) if deviations.shape[1] else np.full(len(names), _OPEN)
    shifts = np.array([shift(known[m], half) if m in known else 0.0 for m, half in zip(names, halves, strict=True)])
    errors = np.array(
        [shift_error(known[m], half) if m in known else 0.0 for m, half in zip(names, halves, strict=True)]
    )
    values = means + shifts
    drawn = _draws(names, values, deviations, errors, outlook, seed)
    noise = _noise(values, deviations, errors, drawn, top_k)
    if means.max() < AT_CHANCE or len(names) < 2:  # which of several that know nothing, or of one, is no question
        noise = [n._replace(p_best=None, p_top_k=None) for n in noise]
    first = int(np.argmax(values))
    to_first = np.sqrt(((deviations - deviations[first]) ** 2).sum(axis=1) + _pair(errors, first))
    tied = (drawn >= drawn[:, [first]]).mean(axis=0) >= BEHIND if len(drawn) else values == values[first]
    return {
        name: Transferability(
            value=float(values[i]),
            **noise[i]._asdict(),
            tied=bool(tied[i]),
            normalized_score=float(means[i]),
            half_to_first=float(quantile * to_first[i]),
            prior=float(shifts[i]),
            known=known.get(name),
            members=normalized_scores[name],
            deviations=deviations[i],
            drawn=drawn[:, i],
        )
        for i, name in enumerate(names)
    }


def contradicts(known: Mapping[str, float], found: Mapping[str, float]) -> bool:
    """Whether what was known of the models orders them against what was found: a weighted tau below 0 over at least
    ``JUDGED_FROM`` models. With fewer it is neither confirmed nor refuted, nor where it orders nothing (tau is NaN)."""
    pairs = [(value, found[name]) for name, value in known.items()]
    return len(pairs) >= JUDGED_FROM and weighted_tau(*zip(*pairs, strict=True)) < 0


def agreeing(known: Mapping[str, PriorScore], normalized_scores: Mapping[str, float]) -> Mapping[str, PriorScore]:
    """The prior, at weight 0 where it orders the models against what the target's own scores say (``contradicts``)."""
    if not contradicts({m: prior.value for m, prior in known.items()}, normalized_scores):
        return known
    told = "left out, because it orders these models against the target's own scores"
    return {
        m: replace(p, weight=0.0, deviation=0.0, origin=f"{p.origin}; {told}", without_own=None)
        for m, p in known.items()  # what confirmations add (``trained``) stays: it has a bound of its own
    }


def shift(known: PriorScore, half: float = math.inf) -> float:
    """What a prior of weight w adds to a normalized score.

    (1 - w) · normalized score + w · s · prior, divided by 1 - w: the same order, and a model of which nothing is
    known keeps its normalized score. The prior is in deviations of rank; s puts it on the scale of the members:
    how far models lie apart in normalized score per deviation of rank, frozen, so that the pool cannot move it.

    Args:
        half: half-width of the normalized score's own 90% interval. What this machine's own results add stays within it:
            they decide between models that the target leaves open and never overturn what it says clearly.
    """
    scale = calibration().normalized_score_per_deviation
    others = known.effect if known.without_own is None else known.without_own
    # shrunk rather than only cut, so that two models that both exceed the bound keep their order
    own = _own_scale(half) * (known.effect - others + known.trained)
    return scale * others + float(np.clip(own, -half, half))


def shift_error(known: PriorScore, half: float = math.inf) -> float:
    """Standard error of a shift that rests on this machine's own results; ``half`` as for ``shift``."""
    of_rank = known.weight / (1 - known.weight) * known.deviation
    return _own_scale(half) * math.hypot(of_rank, known.trained_error)


def _own_scale(half: float) -> float:
    """Normalized score per deviation of rank of this machine's own results."""
    return min(calibration().normalized_score_per_deviation, half / _MOST_DEVIATIONS)


def _pair(errors: np.ndarray, other: int) -> np.ndarray:
    """Variances of the priors' differences to one model; 0 for itself."""
    found: np.ndarray = errors**2 + errors[other] ** 2
    found[other] = 0.0
    return found


def out_of_reach(
    transferability: Mapping[str, Transferability], top_k: int, networks: Mapping[str, str] | None = None
) -> list[str]:
    """Models that are hardly among the first ``top_k`` after training: with a probability below ``OUT``.

    Args:
        networks: model -> network, where several models are variants of one: the best variant counts
            for its network, and only whole networks are out.
    """
    network = {name: (networks or {}).get(name, name) for name in transferability}
    names = list(transferability)
    if not names or not all(len(transferability[name].drawn) for name in names):
        return []  # without intervals any lead may be noise
    drawn = np.stack([transferability[name].drawn for name in names], axis=1)
    found = list(dict.fromkeys(network.values()))
    if top_k >= len(found):
        return []
    best = np.stack([drawn[:, [network[n] == one for n in names]].max(axis=1) for one in found], axis=1)
    last = len(found) - top_k  # where the k-th largest of a draw stands
    among = (best >= np.partition(best, last, axis=1)[:, last, None]).mean(axis=0)
    lost = {one for one, share in zip(found, among, strict=True) if share < OUT}
    return [name for name in names if network[name] in lost]


def _deviations(scores: Sequence[Sequence[Score]], members: Sequence[_ScaledProxy]) -> np.ndarray:
    """(models, blocks) jackknife deviations of the mean normalized score: their squares sum to its variance.

    A score without blocks counts as exact beside others; all blocks of a pool come from the same rows.
    No blocks where no score has any.
    """
    counts = {len(s.blocks) for row in scores for s in row if s.blocks is not None}
    if len(counts) != 1:
        return np.zeros((len(scores), 0))
    (count,) = counts
    result = np.zeros((len(scores), count))
    for i, row in enumerate(scores):
        for score, member in zip(row, members, strict=True):
            if score.blocks is not None:
                left_out = member.scale(np.asarray(score.blocks, dtype=float), member.facts)
                result[i] += (left_out - left_out.mean()) * math.sqrt((count - 1) / count) * member.share
    return result


class _Noise(NamedTuple):
    """What the blocks tell of one model, by the names of ``Transferability``; nothing without blocks."""

    low: float | None = None
    high: float | None = None
    p_best: float | None = None
    p_top_k: float | None = None
    mean_rank: float | None = None


def _noise(
    values: np.ndarray, deviations: np.ndarray, errors: np.ndarray, drawn: np.ndarray, top_k: int
) -> list[_Noise]:
    if not deviations.shape[1]:
        return [_Noise()] * len(values)
    half = t_quantile(deviations.shape[1] - 1) * np.sqrt((deviations**2).sum(axis=1) + errors**2)
    columns = (values - half, values + half, *_probabilities(drawn, top_k))
    return [_Noise(*map(float, row)) for row in zip(*columns, strict=True)]


def _places(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many in its row (B, M) are above each value, and how many are equal to it, itself included."""
    order = np.argsort(-values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    place = np.arange(values.shape[1])
    edge = np.ones((len(values), 1), dtype=bool)
    changes = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(np.hstack([edge, changes]), place, 0), axis=1)
    last = np.where(np.hstack([changes, edge]), place, place[-1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    above, tied = np.empty_like(order), np.empty_like(order)
    np.put_along_axis(above, order, first, axis=1)
    np.put_along_axis(tied, order, last - first + 1, axis=1)
    return above, tied


def _draws(
    names: Sequence[str],
    values: np.ndarray,
    deviations: np.ndarray,
    errors: np.ndarray,
    outlook: Outlook | None,
    seed: int,
) -> np.ndarray:
    """(draws, models) values after training, over draws of the rows and of what training may change; none without
    blocks."""
    blocks = deviations.shape[1]
    if not blocks:
        return np.zeros((0, len(values)))
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal((DRAWS, blocks)) @ deviations.T
    if blocks > 1:  # t with blocks - 1 degrees of freedom, as the intervals
        draws /= np.sqrt(rng.chisquare(blocks - 1, (DRAWS, 1)) / (blocks - 1))
    if errors.any():
        draws += rng.standard_normal(draws.shape) * errors
    if outlook is not None:
        draws += outlook.draws(names, DRAWS, rng)
    # equal models share their places; the products of equal rows may differ in the last digit
    return np.asarray(np.round(values + draws, 10))


def _probabilities(drawn: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(best), P(top k) and the mean rank of every model, over draws."""
    above, tied = _places(drawn)
    best = ((above == 0) / tied).mean(axis=0)
    top = np.clip((top_k - above) / tied, 0, 1).mean(axis=0)
    return best, top, (1 + above + (tied - 1) / 2).mean(axis=0)
