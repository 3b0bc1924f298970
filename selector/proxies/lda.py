"""Linear discriminant analysis: cross-fitted posterior of the true class."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.features.threads import capped
from selector.proxies._discriminant import Space, class_means, fit, frobenius_square, within_scatter
from selector.proxies._proxy import INVARIANCES, proxy
from selector.proxies.hscore import shrinkage_from
from selector.proxies.probe import rows_without_training

_FLOAT64_CELLS = 2e7  # N·D up to which distances to the class means are computed in float64


@proxy(
    "lda",
    summary="Mean posterior of the held-out labels under Gaussian classes with one shared covariance.",
    good="1 is perfect; the sum of the squared class shares is a model that knows nothing.",
    source="Fisher 1936; Ledoit and Wolf 2004; first stage of Shao et al., ECCV 2022, and of Gholami et al., ICCV 2023",
    cost="five Cholesky factorizations and a product N × D × C on top of logme's moments",
    bounds=(0.0, 1.0),
    invariances=INVARIANCES - {"zero padding"},
    seeded=True,
    version=2,
    blocks="halfway",
    formula="Mean over rows of p(label | row): class means and the pooled covariance within classes from the other four "
    "folds, shrunk to a multiple of the identity by Ledoit-Wolf on rows centered by class; priors are class shares.",
    deviations="The mean of p, not of log p: Gaussian posteriors of wide models are far too sure of themselves, and "
    "a few rows that they are wrong about would decide the mean logarithm (it is in the details). Public codes score the rows they were fitted on, which is optimistic, most of all for wide models. "
    "scikit-learn's shrinkage='auto' shrinks every class apart (C matrices of D × D) and gives other values; at the same "
    "number the two agree.",
    domain="Classes with spread within them. Rows of a class that lives in one fold count as a guess among all classes.",
)
def lda(features: FeatureSet, *, shrinkage: float | None = None) -> Score:
    """Cross-fitted mean posterior of the true class.

    Args:
        features: class labels.
        shrinkage: in [0, 1], the same in all folds; Ledoit-Wolf's of each fold when not given.
    Returns:
        Score in 0..1 with a contribution per row; ``details``: accuracy, the mean log posterior
            (nats), and the mean shrinkage.
    Raises:
        NotApplicable: no spread within classes, fewer than two classes in two folds, or a singular
            covariance at the shrinkage given.
    """
    codes, folds = features.labels, features.folds
    rare = rows_without_training(codes, folds)
    space = Space.of(features)
    held = np.unique(folds).tolist()
    norm4 = _norm4(space, codes, folds, held) if shrinkage is None else {}
    precision = space.precision(len(features.classes))
    models, used = {}, []
    for fold in held:
        moments = space.training(fold)
        mean, n = class_means(moments), moments.count
        with capped(len(mean[0])):
            scatter = within_scatter(moments, mean, overwrite=True)
        del moments
        a = shrinkage
        if a is None:
            trace, square = float(np.trace(scatter)) / n, frobenius_square(scatter) / n**2
            a = shrinkage_from(trace, square, norm4[fold], n, space.width)
        counts = np.bincount(codes[folds != fold], minlength=len(features.classes)).astype(np.float64)
        models[fold] = fit(scatter, mean, counts, a, space.width, precision)
        del scatter
        used.append(a)
    per_row = np.empty(len(codes))
    right = 0
    for start, z in space.chunks(precision):
        inside = folds[start : start + len(z)]
        for fold, model in models.items():
            rows = np.flatnonzero(inside == fold)
            if len(rows):
                posterior = model.log_posterior(z[rows])
                own = codes[start + rows]
                per_row[start + rows] = posterior[np.arange(len(rows)), own]
                right += int((posterior.argmax(axis=1) == own).sum())
    per_row[rare] = -np.log(len(features.classes))
    posteriors = np.exp(per_row)
    return Score(
        float(posteriors.mean()),
        per_row=posteriors,
        details={
            "accuracy": right / len(codes),
            "log_likelihood": float(per_row.mean()),
            "shrinkage": float(np.mean(used)),
        },
    )


def _norm4(space: Space, codes: np.ndarray, folds: np.ndarray, held: list[int]) -> dict[int, float]:
    """Σ‖x - class mean‖⁴ over the training rows of every fold: the one sum that needs the rows again."""
    total = dict.fromkeys(held, 0.0)
    precision = np.float64 if space.rows.size <= _FLOAT64_CELLS else np.float32
    means: dict[int, np.ndarray] = {fold: class_means(space.training(fold)).astype(precision) for fold in held}
    for start, z in space.chunks(precision):
        inside = folds[start : start + len(z)]
        for fold, mean in means.items():
            rows = np.flatnonzero(inside != fold)
            apart = z[rows]
            apart -= mean[codes[start + rows]]
            norms = np.einsum("ij,ij->i", apart, apart).astype(np.float64)
            total[fold] += float(norms @ norms)
    return total
