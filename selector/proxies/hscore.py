"""H-score with Ledoit-Wolf shrinkage, from the spectrum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selector.core.contracts import Score
from selector.features import FeatureSet
from selector.features.jackknife import Deletion, without_blocks
from selector.proxies._proxy import INVARIANCES, proxy, with_blocks


@proxy(
    "hscore",
    summary="How far the class means lie apart, in units of the features' own shrunk covariance.",
    good="Between 0 and C − 1. Read it next to `chance`, its exact mean over permuted labels, which can be "
    "most of the value when N is not large against D.",
    source="Ibrahim et al., ECML PKDD 2022, arXiv:2110.06893; unshrunk: Bao et al., ICIP 2019",
    cost="O(N·D·min(N, D)) multiplications in float64; nothing on top of logme",
    bounds=(0.0, float("inf")),
    invariances=INVARIANCES - {"zero padding"},
    blocks="own",
    formula="tr(Σ_a⁻¹ (1 − a) Σ_g): Σ_a = (1 − a) Σ + a·tr(Σ)/D·I of centered rows, a by Ledoit-Wolf, Σ_g the covariance of "
    "the class means placed at each row; every covariance divides by N.",
    deviations="One public version multiplies elementwise inside the trace and gives thousands where the bound is C − 1. "
    "`shrinkage=0` gives the plain score through a pseudo-inverse.",
    domain="Classes. The plain score equals its bound on pure noise once N ≤ D. Zero padding changes the shrinkage target "
    "and so the value.",
)
def hscore(features: FeatureSet, *, shrinkage: float | None = None, blocks: bool = False) -> Score:
    """Class separation in shrunk covariance units.

    Args:
        features: class labels.
        shrinkage: in [0, 1]; Ledoit-Wolf's when not given, 0 for the plain H-score.
        blocks: add the values with each block left out.
    Returns:
        Score in [0, C - 1]; ``details``: the shrinkage, ``chance`` (the exact mean of the score over
        all permutations of the labels) and ``excess`` (value - chance).
    """
    s = features.spectrum
    n, classes = s.count, len(s.label_counts)
    own = s.values / n
    a = shrinkage
    if a is None:
        a = shrinkage_from(float(own.sum()), float(own @ own), features.centered_norm4, n, s.width)
    variances = (1 - a) * s.values / n + a * s.trace / n / s.width
    inverse = np.zeros_like(variances)
    np.divide(1.0, variances, out=inverse, where=(s.values > 0))
    between = (s.response**2 / s.label_counts).sum(axis=1)  # N times the diagonal of Σ_g in the eigenbasis
    value = (1 - a) * float(between @ inverse) / n
    chance = (1 - a) * (classes - 1) / (n * (n - 1)) * float(s.values @ inverse)
    made = Score(value, details={"shrinkage": a, "chance": chance, "excess": value - chance})
    if not blocks or shrinkage is not None:
        return made
    return with_blocks(made, lambda: without_blocks(features, lambda left: _of_rest(left, s.width)))


def _of_rest(deletions: Sequence[Deletion], width: int) -> float:
    """The score of the rows that are left without a block."""
    (left,) = deletions  # classes are known of every row
    n, trace = left.count, left.trace
    a = shrinkage_from(trace / n, left.square / n**2, left.norm4, n, width)
    if not 0 < a < 1:
        raise np.linalg.LinAlgError(f"a shrinkage of {a}")  # each block by its own spectrum
    shown = left.label_counts > 0.5
    squares = left.ridge(a * trace / (1 - a) / width).quadratic(left.response[:, shown])
    return float((squares / left.label_counts[shown]).sum())


def shrinkage_from(trace: float, square: float, norm4: float, count: int, width: int) -> float:
    """Ledoit and Wolf's shrinkage towards a multiple of the identity, as in scikit-learn.

    Args:
        trace: of the covariance, which divides by N; ``square``: its squared Frobenius norm.
        norm4: Σ‖x - mean‖⁴.
        count: N; ``width``: D.
    Returns:
        In [0, 1]; 0 for constant features.
    """
    distance = square - trace**2 / width
    noise = min((norm4 / count - square) / count, distance)
    return 0.0 if noise <= 0 or distance <= 0 else noise / distance
