"""Features of both domains of one model, what strategies solve on them, and how far a weighted source carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from selector.linear import solve_head

MOST_WEIGHT = 20.0
"""Times the mean: a larger importance weight is cut down to it, or few items decide everything."""
SHOT_WEIGHT = 4.0
"""Of a labeled item of the target beside one of the source's: with 10, 30 and 100 of them on five pairs no other weight was
better everywhere (``benchmarks/results/da_few.csv``)."""


@dataclass(frozen=True)
class Domains:
    """Features of one network on the labeled source and on the target.

    Attributes:
        train, val: (N, D) and (V, D) of the source; ``labels`` and ``val_labels`` their classes.
        target: (M, D); of it no label is known.
        classes: C.
        seed: of whatever is drawn.
        shots, shot_labels: (K, D) and (K,) of the few items of the target whose labels are learned from. A head learns
            from them as they are; nothing that compares the domains takes them for the source's.
        shot_weight: of each of them beside an item of the source.
    """

    train: np.ndarray
    labels: np.ndarray
    val: np.ndarray
    val_labels: np.ndarray
    target: np.ndarray
    classes: int
    seed: int = 0
    shots: np.ndarray | None = None
    shot_labels: np.ndarray | None = None
    shot_weight: float = SHOT_WEIGHT


@dataclass(frozen=True)
class AdaptedHead:
    """A linear head for rows of the target as they are: outputs are ``features @ weight.T + bias``.

    Attributes:
        weight, bias: (C, D) and (C,) float32.
        facts: what should be known of how it came about: strength, effective sample size.
        source: rows of train and val as the head was solved on them: a head for source rows that were moved to the
            target is not one for source rows as they are, and says nothing sensible of them. None for as they are.
        note: what was cut of the training that it comes of.
    """

    weight: np.ndarray
    bias: np.ndarray
    facts: Mapping[str, float] = field(default_factory=dict)
    source: tuple[np.ndarray, np.ndarray] | None = None
    note: str = ""

    def outputs(self, rows: np.ndarray) -> np.ndarray:
        """(N, C) float32."""
        return np.asarray((rows @ self.weight.T + self.bias).astype(np.float32))


def solved(
    domains: Domains,
    train: np.ndarray,
    val: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray] | None = None,
    **facts: float,
) -> AdaptedHead:
    """A head on source rows (moved, or weighted: ``weights`` of train and val) and on the target's few labeled ones as
    they are, whose penalty the validation rows choose."""
    rows, labels, own = train, domains.labels, None if weights is None else weights[0]
    if domains.shots is not None and domains.shot_labels is not None:
        rows, labels = np.concatenate([train, domains.shots]), np.concatenate([labels, domains.shot_labels])
        own = np.concatenate(
            [np.ones(len(train)) if own is None else own, np.full(len(domains.shots), domains.shot_weight)]
        )
    head = solve_head(
        rows, labels, val, domains.val_labels, domains.classes,
        weights=own, val_weights=None if weights is None else weights[1],
    )  # fmt: skip
    return AdaptedHead(head.weight, head.bias, {"strength": head.strength, **facts}, (train, val))


def log_density_ratios(source: np.ndarray, target: np.ndarray, others: np.ndarray, seed: int = 0) -> np.ndarray:
    """(K,) log of how much likelier rows are in the target than in the source, by a logistic regression that tells them
    apart.

    Args:
        source, target: (N, D) and (M, D) that the classifier is fitted on; a fifth of each chooses its penalty.
        others: (K, D) rows that are weighted.
    Source: Bickel et al., ICML 2007: w = (N/M)·p(target|x)/p(source|x).
    """
    rng = np.random.default_rng(seed)
    held = [rng.permutation(len(rows)) < len(rows) // 5 for rows in (source, target)]
    fitted = [rows[~out] for rows, out in zip((source, target), held, strict=True)]
    rest = [rows[out] for rows, out in zip((source, target), held, strict=True)]
    head = solve_head(
        np.concatenate(fitted), np.repeat([0, 1], [len(rows) for rows in fitted]),
        np.concatenate(rest), np.repeat([0, 1], [len(rows) for rows in rest]), 2,
    )  # fmt: skip
    logits = others @ head.weight.T.astype(np.float64) + head.bias
    return np.asarray(logits[:, 1] - logits[:, 0] + np.log(len(fitted[0]) / len(fitted[1])))


def density_ratios(source: np.ndarray, target: np.ndarray, others: np.ndarray, seed: int = 0) -> np.ndarray:
    """Of ``log_density_ratios`` weights with a mean of 1 of which none exceeds ``MOST_WEIGHT``."""
    log_ratio = log_density_ratios(source, target, others, seed)
    return clipped(np.exp(log_ratio - log_ratio.max()))


def beyond_class_shares(domains: Domains) -> float:
    """How much farther the target's mean is from every mixture of the source's classes than chance has it.

    Where only class shares differ, the mean of the target is a mixture of the class means of the source. What the
    nearest mixture leaves over, in units of the spread within classes and of its own standard error, is compared with
    what it leaves over of the source's own validation rows: about 1 where shares explain all, 1000 for digits of another
    hand. A ratio and no p-value: with as many columns as rows the spread is not known well enough for one.

    Cost: a covariance D × D and its eigenvectors.
    """
    from sklearn.covariance import ledoit_wolf

    present = np.flatnonzero(np.bincount(domains.labels, minlength=domains.classes))
    rows, codes = domains.train.astype(np.float64), np.searchsorted(present, domains.labels)
    counts = np.bincount(codes)
    means = np.stack([rows[codes == c].mean(axis=0) for c in range(len(present))])
    values, vectors = np.linalg.eigh(ledoit_wolf(rows - means[codes])[0])
    whitened = vectors / np.sqrt(np.maximum(values, 1e-9 * max(float(values[-1]), 1e-300)))

    def left_over(some: np.ndarray) -> float:
        shares, rest = _nearest_mixture(means @ whitened, some.mean(axis=0, dtype=np.float64) @ whitened)
        return float(rest @ rest / (1 / len(some) + (shares**2 / counts).sum()))

    return left_over(domains.target) / max(left_over(domains.val), 1e-12)


def _nearest_mixture(corners: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares (C,) of corners (C, D) whose mixture is nearest to a point (D,), and what is left over (D,)."""
    from scipy.optimize import nnls

    weight = 1e3 * max(float(np.abs(corners).max()), 1e-12)  # shares that sum to 1, as one more equation
    shares, _ = nnls(np.vstack([corners.T, np.full(len(corners), weight)]), np.append(point, weight))
    return shares, point - shares @ corners


def clipped(weights: np.ndarray) -> np.ndarray:
    """Weights with a mean of 1 of which none exceeds ``MOST_WEIGHT``."""
    found = weights / weights.mean()
    for _ in range(20):  # cutting lowers the mean, which raises what is left
        if found.max() <= MOST_WEIGHT * (1 + 1e-9):
            break
        found = np.minimum(found, MOST_WEIGHT)
        found /= found.mean()
    return np.asarray(np.minimum(found, MOST_WEIGHT))


def effective_sample_size(weights: np.ndarray) -> float:
    """Items of equal weight that would tell as much: (Σw)²/Σw² (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())
