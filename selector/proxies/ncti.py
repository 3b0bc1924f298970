"""Neural-collapse terms on a scale that does not depend on the pool."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.core.errors import NotApplicable
from selector.features import FeatureSet, accumulate
from selector.proxies._discriminant import class_means, fit, frobenius_square, within_scatter
from selector.proxies._proxy import INVARIANCES, proxy
from selector.proxies.hscore import shrinkage_from

DIMENSIONS = 64


@proxy(
    "ncti",
    summary="How near the features are to the collapsed state that fine-tuning ends in.",
    good="Between −1 and 2: separation (0 to 1) plus posterior (0 to 1) minus spread of the predictions (0 to 1).",
    source="after Wang et al., ICCV 2023 (NCTI)",
    cost="a projection N × D × 64 on top of logme, and a small decomposition per class",
    bounds=(-1.0, 2.0),
    invariances=INVARIANCES,
    formula="PCA to 64. seli = 1 − 1/g, g the mean over the discriminants of √(1 + r), r the variance between "
    "classes over the shrunk variance within (without shrinkage: the nuclear norm of the centered discriminant features over "
    "√N·(number of discriminants)); "
    "ncc = mean posterior of the true class; vc = log Σ_c ‖P_c‖_* of the posteriors of every class, scaled from its value for "
    "uniform posteriors (0) to its largest possible one (1). Score = seli + ncc − vc.",
    deviations="The published score normalizes the three terms to the minimum and maximum over the pool, so a model's score changes "
    "when another joins. Here the terms have fixed ends. The covariance is shrunk by Ledoit-Wolf instead of exp(−variance), which "
    "depends on the features' scale.",
    domain="Classes with spread within them. In-sample.",
)
def ncti(features: FeatureSet) -> Score:
    """Sum of the collapse terms; ``details``: seli, ncc, vc.

    Raises:
        NotApplicable: no spread within classes, or constant features.
    """
    from scipy.linalg import eigh

    z = features.coordinates(DIMENSIONS).astype(np.float64)
    codes, counts = features.labels, features.class_counts.astype(np.float64)
    n, width, classes = len(z), z.shape[1], len(counts)
    if width == 0:
        raise NotApplicable("the features are constant")
    moments = accumulate(z, features.label_data, shift=np.zeros(width))[0]
    means = class_means(moments)
    scatter = within_scatter(moments, means)
    apart = z - means[codes]
    norms = np.einsum("ij,ij->i", apart, apart)
    trace = float(np.trace(scatter)) / n
    shrinkage = shrinkage_from(trace, frobenius_square(scatter) / n**2, float(norms @ norms), n, width)
    model = fit(scatter.copy(), means, counts, shrinkage, width)

    within = np.tril(scatter) + np.tril(scatter, -1).T
    within = (1 - shrinkage) * within / n + shrinkage * trace / width * np.eye(width)
    between = (means.T * counts) @ means / n
    ratios = eigh(between, within, eigvals_only=True, check_finite=False)[::-1][: min(classes - 1, width)]
    g = float(
        np.sqrt(1 + np.maximum(ratios, 0)).mean()
    )  # 1 + ratio: the variance along a discriminant, both parts shrunk
    posterior = np.exp(model.log_posterior(z))
    ncc = float(posterior[np.arange(n), codes].mean())
    nuclear = sum(_nuclear(posterior[codes == c]) for c in range(classes))
    low = np.log(np.sqrt(counts / classes).sum())
    high = np.log(np.sqrt(counts * np.minimum(counts, classes)).sum())
    vc = float((np.log(nuclear) - low) / (high - low))
    seli = 1 - 1 / g
    return Score(seli + ncc - vc, details={"seli": seli, "ncc": ncc, "vc": vc})


def _nuclear(matrix: np.ndarray) -> float:
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0)).sum())
