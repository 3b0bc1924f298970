"""SFDA: Fisher discriminants, made harder once by mixing rows towards other classes."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet, accumulate
from selector.features.threads import capped
from selector.proxies._discriminant import Discriminant, Space, class_means, fit, within_scatter
from selector.proxies._proxy import INVARIANCES, proxy


@proxy(
    "sfda",
    summary="Posterior of the true class in a shrunk Fisher space, after rows were mixed towards other classes.",
    good="Between 0 and 1; 1/C knows nothing. In-sample: values of small targets and wide models are too good.",
    source="Shao et al., ECCV 2022, arXiv:2207.03036",
    cost="two Cholesky factorizations, one more pass of N·D·min(N, D) and a copy of the rows",
    bounds=(0.0, 1.0),
    blocks="recompute",
    invariances=INVARIANCES - {"scale", "zero padding"},
    formula="Discriminants with shrinkage s = exp(−5 λ_max(S_w)); their softmax, taken twice, gives p; x becomes p·x + (1 − p)·mean "
    "of the other classes; mean posterior of discriminants with the same s on the mixed rows.",
    deviations="λ_max is exact instead of three power iterations; the rows given are not changed, which the public code does. Like "
    "that code it averages posteriors, where the paper has their logarithm.",
    domain="Classes with spread within them. In-sample and scale-dependent (through λ_max). lda is its honest first stage.",
)
def sfda(features: FeatureSet) -> Score:
    """Mean posterior of the true class in the self-challenging Fisher space; a contribution per row.

    Raises:
        NotApplicable: no spread within classes.
    """
    from scipy.linalg import eigh

    space = Space.of(features)
    codes, counts = features.labels, features.class_counts.astype(np.float64)
    n, total = len(codes), space.whole()
    means = class_means(total)
    scatter = within_scatter(total, means)
    order = len(scatter)
    with capped(order):
        largest = eigh(scatter, eigvals_only=True, subset_by_index=(order - 1, order - 1), check_finite=False)[0] / n
    shrinkage = max(float(np.exp(-5 * largest)), 1e-10)
    model = fit(scatter, means, counts, shrinkage, space.width)

    outer = (counts @ means - counts[:, None] * means) / (n - counts)[:, None]
    mixed: np.ndarray = np.empty((n, order), dtype=space.precision(1))
    for start, z in space.chunks():
        own = codes[start : start + len(z)]
        trust = _twice_softmax(model, z, own)[:, None]
        mixed[start : start + len(z)] = trust * z + (1 - trust) * outer[own]
    harder = accumulate(mixed, features.label_data, shift=np.zeros(order))[0]
    means = class_means(harder)
    model = fit(within_scatter(harder, means), means, counts, shrinkage, space.width)
    per_row = np.concatenate(
        [
            np.exp(model.log_posterior(mixed[s : s + 4096].astype(np.float64)))[
                np.arange(len(codes[s : s + 4096])), codes[s : s + 4096]
            ]
            for s in range(0, n, 4096)
        ]
    )
    return Score(float(per_row.mean()), per_row=per_row, details={"shrinkage": shrinkage})


def _twice_softmax(model: Discriminant, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    again = np.exp(np.exp(model.log_posterior(rows)))
    return np.asarray(again[np.arange(len(rows)), own] / again.sum(axis=1))
