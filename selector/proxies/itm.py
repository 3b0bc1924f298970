"""ITM-like: class posteriors after one implicit step of adaptation in feature space."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.core.errors import NotApplicable
from selector.core.stats import softmax
from selector.features import FeatureSet
from selector.proxies._proxy import INVARIANCES, proxy
from selector.proxies.probe import rows_without_training

DIMENSIONS = 64
_NO_SPREAD = 1e-12  # of the largest variance: less within classes is rounding, and the nearest mean is sure


@proxy(
    "itm",
    summary="Posterior of the held-out labels by distance to the class means, after the features moved towards them.",
    good="1 is perfect; the sum of the squared class shares is a model that knows nothing.",
    source="after Zheng et al., NeurIPS 2025, arXiv:2510.23145 (ITM)",
    cost="a projection N × D × 64 on top of logme, and five times N × 64 × (64 + C)",
    bounds=(0.0, 1.0),
    version=2,
    invariances=INVARIANCES,
    seeded=True,
    blocks="halfway",
    formula="PCA to 64. One step E ← (I − ηC)E + ηCÊ on the training rows of a fold, C = EEᵀ/(N·λ_max), Ê the class means, λ_max "
    "the largest variance. Rows outside the fold move by the same step, which is x ← x(I − ηW/λ_max), W the covariance "
    "within classes: directions that vary within classes shrink, the strong ones most. Score = mean p(label | row) by "
    "isotropic Gaussians about the moved means, with class shares as priors.",
    deviations="Verified is the step (as summarized for this project; the abstract confirms an implicit, batch-wise "
    "approximation of how embeddings evolve), not the published Θ, which is learned, its division into batches, nor the published "
    "score: here Θ are the embeddings themselves, all training rows are one batch, and the score is held out. Do not quote values "
    "as ITM's.",
    domain="Classes. Where rows of a class are all equal the nearest mean is sure; with one training row per class nothing is "
    "known of their spread. Rows of a class that lives in one fold count as a guess among all classes.",
)
def itm(features: FeatureSet, *, rate: float = 1.0, steps: int = 1) -> Score:
    """Cross-fitted mean posterior of the true class after adaptation.

    Args:
        features: class labels.
        rate: η in [0, 1]; 0 leaves the features as they are.
        steps: how many times the step is taken.
    Returns:
        Score in 0..1 with a contribution per row; ``details``: accuracy, and ``gain`` (value minus that at rate 0).
    Raises:
        NotApplicable: constant features, no class with two training rows, or fewer than two classes in two folds.
    """
    codes, folds = features.labels, features.folds
    rare = rows_without_training(codes, folds)
    z = features.coordinates(DIMENSIONS).astype(np.float64)
    if not z.shape[1]:
        raise NotApplicable("the features are constant")
    per_row, still = np.empty(len(z)), np.empty(len(z))
    right = np.zeros(len(z), dtype=bool)
    for fold in np.unique(folds):
        train, held = folds != fold, folds == fold
        posterior, plain = _posteriors(z[train], codes[train], z[held], len(features.classes), rate, steps)
        own = np.arange(int(held.sum())), codes[held]
        per_row[held], still[held] = posterior[own], plain[own]
        right[held] = posterior.argmax(axis=1) == codes[held]
    per_row[rare] = still[rare] = 1 / len(features.classes)
    details = {"accuracy": float(right.mean()), "gain": float(per_row.mean() - still.mean())}
    return Score(float(per_row.mean()), per_row=per_row, details=details)


def _posteriors(
    rows: np.ndarray, codes: np.ndarray, held: np.ndarray, classes: int, rate: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n, C) posteriors of held-out rows with the step, and without."""
    counts = np.bincount(codes, minlength=classes)
    present = np.flatnonzero(counts)
    mean = rows.mean(axis=0)
    centered, held = rows - mean, held - mean
    sums = np.zeros((classes, rows.shape[1]))
    np.add.at(sums, codes, centered)
    means = sums[present] / counts[present, None]
    apart = centered - (sums / np.maximum(counts, 1)[:, None])[codes]
    within = apart.T @ apart / len(rows)
    largest = float(np.linalg.eigvalsh(centered.T @ centered / len(rows))[-1])
    if counts.max() < 2:
        raise NotApplicable("each class has one training row: nothing is known of the spread within classes")
    step = np.linalg.matrix_power(np.eye(len(within)) - rate * within / largest, steps)
    found = []
    for moves in (step, np.eye(len(within))):
        variance = max(float(np.trace(moves.T @ within @ moves)) / len(within), _NO_SPREAD * largest)
        a, b = held @ moves, means @ moves
        squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
        logits = np.log(counts[present] / len(rows)) - squares / (2 * variance)
        full = np.zeros((len(held), classes))
        full[:, present] = softmax(logits)
        found.append(full)
    return found[0], found[1]
