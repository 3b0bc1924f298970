"""Which candidate is selected where the target has no labels: ranks of validators combined, doubt told.

No function here sees a label of the target: a candidate is a ``View``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from selector.core.stats import mean_ranks
from selector.tuning import strategies
from selector.tuning.domains import MOST_WEIGHT, log_density_ratios


@dataclass(frozen=True)
class View:
    """What may be looked at of one candidate: never a label of the target.

    Attributes:
        target: (M, C) probabilities of the target's items, at the temperature that fits the source's validation items.
        features: (M, D) what the head read of them.
        val, val_labels: (V, C) and (V,) of the source's validation items; ``val_features`` (V, D).
        train_features: (N, D) of the source's training items.
        pool: (M, C) mean probabilities of all candidates.
        seed: of whatever is drawn.
    """

    target: np.ndarray
    features: np.ndarray
    val: np.ndarray
    val_labels: np.ndarray
    val_features: np.ndarray
    train_features: np.ndarray
    pool: np.ndarray | None = None
    seed: int = 0

    @cached_property
    def predicted(self) -> np.ndarray:
        """(M,) classes."""
        return np.asarray(self.target.argmax(axis=1))

    @cached_property
    def val_weights(self) -> np.ndarray:
        """(V,) how much likelier the validation items are in the target, ``MOST_WEIGHT`` times at most. Their mean is what
        ``dev`` corrects by, so it is not brought to 1."""
        found = log_density_ratios(self.train_features, self.features, self.val_features, self.seed)
        return np.asarray(np.exp(np.minimum(found, np.log(MOST_WEIGHT))))

    @cached_property
    def clusters(self) -> np.ndarray:
        """(M,) k-means clusters of the target's features, as many as there are classes."""
        from sklearn.cluster import KMeans

        found = KMeans(self.target.shape[1], n_init=3, random_state=self.seed).fit_predict(self.features)
        return np.asarray(found)

    def some(self, kept: np.ndarray) -> View:
        """The same of some of the target's items; clusters stay those of all."""
        pool = None if self.pool is None else self.pool[kept]
        found = replace(self, target=self.target[kept], features=self.features[kept], pool=pool)
        found.__dict__["clusters"] = self.clusters[kept]
        return found

    def beside(self, pool: np.ndarray) -> View:
        """The same, knowing the mean probabilities of the pool."""
        found = replace(self, pool=pool)
        found.__dict__["clusters"] = self.clusters
        return found


Validator = Callable[[View], float]


def bnm(view: View) -> float:
    """‖P‖_* / M of the predictions P (M, C) (Cui et al., CVPR 2020, arXiv:2003.12237)."""
    return float(np.linalg.norm(view.target, ord="nuc") / len(view.target))


def class_ami(view: View) -> float:
    """Adjusted mutual information of predictions and k-means clusters, as many as there are classes; 1 is equal
    (Musgrave et al., arXiv:2208.07360)."""
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(view.predicted, view.clusters))


def dev(view: View) -> float:
    """Minus the risk mean(w·ℓ) + η·mean(w) − η, η = −cov(w·ℓ, w)/var(w), of the cross-entropy ℓ on the source's
    validation items with density ratios w (You et al., ICML 2019)."""
    likelihood = view.val[np.arange(len(view.val)), view.val_labels]
    return -weighted_risk(-np.log(np.maximum(likelihood, 1e-12)), view.val_weights)


def weighted_risk(loss: np.ndarray, weights: np.ndarray) -> float:
    """The risk of losses (V,) with weights (V,)."""
    weighted = weights * loss
    variance = float(np.var(weights, ddof=1))
    eta = -float(np.cov(weighted, weights)[0, 1]) / variance if variance > 0 else 0.0
    return float(weighted.mean() + eta * weights.mean() - eta)


def ensv(view: View) -> float:
    """Share of items predicted as the mean of all candidates does (EnsV; a pool that is wrong together is not noticed)."""
    assert view.pool is not None
    return float((view.predicted == view.pool.argmax(axis=1)).mean())


def im(view: View) -> float:
    """Entropy of the mean prediction minus mean entropy, nats; 0..log C (Krause et al., NeurIPS 2010)."""
    return float(_entropy(view.target.mean(axis=0, keepdims=True))[0] - _entropy(view.target).mean())


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(-(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1))


TEMPERATURE = 0.05
MOST = 4000  # items


def snd(view: View) -> float:
    """Mean entropy of each row's softmax over cosines to all others / 0.05, nats (Saito et al., ICCV 2021,
    arXiv:2108.10860). Fooled by a model that says one class of everything."""
    rows = view.target.astype(np.float64)
    if len(rows) > MOST:
        rows = rows[np.random.default_rng(view.seed).permutation(len(rows))[:MOST]]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    logits = rows @ rows.T / TEMPERATURE
    np.fill_diagonal(logits, -np.inf)
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    total = weights.sum(axis=1)
    np.fill_diagonal(logits, 0.0)  # its weight is 0
    return float((np.log(total) - (weights * logits).sum(axis=1) / total).mean())


def source_validation(view: View) -> float:
    """The accuracy; blind to what differs in the target, and rarely far off where little does."""
    return float((view.val.argmax(axis=1) == view.val_labels).mean())


VALIDATORS: dict[str, Validator] = {
    "bnm": bnm,
    "class-ami": class_ami,
    "dev": dev,
    "ensv": ensv,
    "im": im,
    "snd": snd,
    "source-validation": source_validation,
}
"""By name; all are worked out, ``COMBINED`` choose. None is reliable alone (Musgrave et al., arXiv:2208.07360)."""


SOURCE_ONLY = "source-only"
COMBINED = ("class-ami", "im")
"""Validators whose ranks are combined, chosen on seven pairs of ``benchmarks/results/da.csv``; the others are shown. On
those pairs the density of neighborhoods (snd) orders candidates the wrong way round."""
AGREE = 0.2
"""Mean rank correlation between validators below which they are said to disagree."""


BLOCKS = 10
_SUITED = "the change between the domains, which it is made for"
BEYOND = 2.0
"""Times that the target's mean is farther from every mixture of the source's classes than chance has it, from which on
more than class shares is said to differ (``domains.beyond_class_shares``): 0.5 to 1.4 where shares alone do, on 16
(pair, model) of ``benchmarks/results/da.csv``, and mostly above 10 elsewhere."""


@dataclass(frozen=True)
class Chosen:
    """What was chosen and why.

    Attributes:
        name: (model, strategy) that is selected.
        first: (model, strategy) that the combined ranks put first.
        values: (candidate, validator) -> value; higher is better.
        combined: candidate -> mean share of candidates that it is ahead of, 0..1.
        votes: candidate -> votes for it against source-only of its model, of one more than there are validators that
            choose; none for source-only.
        agreement: mean Spearman correlation of the validators' orders; NaN for a single candidate.
        notes: sentences for a reader: disagreement, and that adaptation is not expected to help.
    """

    name: tuple[str, str]
    first: tuple[str, str]
    values: Mapping[tuple[str, str], Mapping[str, float]]
    combined: Mapping[tuple[str, str], float]
    votes: Mapping[tuple[str, str], int]
    agreement: float
    notes: tuple[str, ...]


def choose(
    candidates: Mapping[tuple[str, str], View], shifts: Mapping[str, float], names: Sequence[str] = COMBINED
) -> Chosen:
    """Of each model the adaptation that is expected to beat source-only, or source-only; of these the best mean rank.

    Args:
        candidates: by (model, strategy).
        shifts: by model, ``domains.beyond_class_shares``.
        names: of the validators that choose; all are worked out.
    """
    known = list(candidates)
    pool = np.mean([view.target for view in candidates.values()], axis=0)
    views = {key: view.beside(pool) for key, view in candidates.items()}
    every = sorted(VALIDATORS)
    values = {key: {name: VALIDATORS[name](view) for name in every} for key, view in views.items()}
    table = np.array([[values[key][name] for name in names] for key in known])
    combined = dict(zip(known, combined_ranks(table), strict=True))
    voters = {
        key: (*preferring(views[key], views[key[0], SOURCE_ONLY], names), *([_SUITED] if suited(key[1], shifts[key[0]]) else []))
        for key in known
        if key[1] != SOURCE_ONLY
    }  # fmt: skip
    votes = {key: len(found) for key, found in voters.items()}
    name, first = decided(known, table, votes)
    agreement = agreement_of(table)
    notes: list[str] = []
    safe = (first[0], SOURCE_ONLY)
    if agreement < AGREE and len(known) > 1:
        leaders = {validator: known[int(np.argmax(table[:, i]))] for i, validator in enumerate(names)}
        listed = "; ".join(f"{validator} {' '.join(key)}" for validator, key in leaders.items())
        notes.append(
            f"the validators disagree (mean rank correlation {agreement:.2f}); each would take: {listed}. "
            f"'selector label' settles it with few labels; the safer choice until then is {' '.join(safe)}."
        )
    if first in votes and not _majority(votes[first], len(names)):
        notes.append(
            f"{' '.join(first)} leads by its ranks but is not expected to beat {' '.join(safe)}: {votes[first]} of "
            f"{len(names) + 1} votes are for it; {' '.join(name)} is selected."
        )
    if name in votes:
        notes.append(
            f"{votes[name]} of {len(names) + 1} votes prefer {' '.join(name)} to {name[0]} {SOURCE_ONLY}: "
            f"{', '.join(voters[name][:-1])} and {voters[name][-1]}."
        )
    if name != first == (name[0], SOURCE_ONLY):
        notes.append(f"by the ranks of {' and '.join(names)} {' '.join(first)} leads; within a model the votes decide.")
    return Chosen(name, first, values, combined, votes, agreement, tuple(notes))


def suited(strategy: str, shift: float, beyond: float = BEYOND) -> bool:
    """Whether a strategy is made for the change that there is: of class shares alone, or of the items too."""
    mends = strategies.registry.get(strategy).mends
    return mends is not None and (mends == "items") == (shift > beyond)


def decided(
    known: Sequence[tuple[str, str]], table: np.ndarray, votes: Mapping[tuple[str, str], int]
) -> tuple[tuple[str, str], tuple[str, str]]:
    """(selected, first by the ranks) of values (K, V).

    Args:
        votes: of each adaptation against source-only of its model: the validators that prefer it, and one more where the
            strategy suits the change between the domains. Validators tell models apart better than they tell what one
            model gains: where ``coral`` lost, they preferred it as often as where it won.
    """
    ranks = combined_ranks(table)
    finalists = []
    for model in dict.fromkeys(key[0] for key in known):
        own = [i for i, key in enumerate(known) if key[0] == model and _majority(votes.get(key, 0), table.shape[1])]
        finalists.append(max(own or [known.index((model, SOURCE_ONLY))], key=lambda i: ranks[i]))
    last = combined_ranks(table[finalists])
    return known[finalists[int(np.argmax(last))]], known[int(np.argmax(ranks))]


def preferring(view: View, safe: View, names: Sequence[str] = COMBINED) -> tuple[str, ...]:
    """The validators that prefer a candidate to another of the same model by more than their error.

    The error of the difference is that of a jackknife over ``BLOCKS`` parts of the target's items: on two classes of
    texts both validators preferred what lost 8 points, by a hundredth of what they differ by chance.
    """
    part = np.arange(len(view.target)) % BLOCKS
    found = []
    for name in names:
        value = VALIDATORS[name]
        gain = value(view) - value(safe)
        if gain > 0:
            left = [value(view.some(part != k)) - value(safe.some(part != k)) for k in range(min(BLOCKS, len(part)))]
            if gain > np.sqrt((len(left) - 1) * np.var(left)):
                found.append(name)
    return tuple(found)


def expected_to_win(view: View, safe: View, suits: bool) -> bool:
    """Whether a candidate has the majority of the votes against another of the same model."""
    return _majority(len(preferring(view, safe)) + suits, len(COMBINED))


def _majority(votes: int, judges: int) -> bool:
    return 2 * votes > judges + 1


def combined_ranks(table: np.ndarray) -> np.ndarray:
    """(K,) mean over the columns of (K, V) of the share of the other rows that a row exceeds, ties half."""
    count = len(table)
    if count == 1:
        return np.ones(1)
    return np.asarray(np.mean([(mean_ranks(column) - 1) / (count - 1) for column in table.T], axis=0))


def agreement_of(table: np.ndarray) -> float:
    """Mean Spearman correlation of the columns of (K, V), of two rows 1 or −1; columns that tell nothing apart are left
    out."""
    ranks = [mean_ranks(column) for column in table.T if np.ptp(column) > 0]
    if len(ranks) < 2:
        return float("nan")
    correlations = np.corrcoef(np.array(ranks))
    return float(correlations[np.triu_indices(len(ranks), 1)].mean())
