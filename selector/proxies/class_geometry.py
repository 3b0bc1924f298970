"""How far classes lie apart: Fisher ratio, Bhattacharyya coefficients, class means, silhouette, coding rate."""

from __future__ import annotations

import numpy as np

from selector.core.contracts import Score
from selector.core.errors import NotApplicable
from selector.features import FeatureSet
from selector.features.arrays import as_float
from selector.proxies._proxy import INVARIANCES, proxy


@proxy(
    "fisher",
    summary="Squared distance of the class means over squared distance of the rows from their class mean.",
    good="Higher is better; 0 when all classes have the same mean.",
    source="Fisher, Annals of Eugenics 1936 (traces)",
    cost="nothing on top of logme",
    bounds=(0.0, float("inf")),
    invariances=INVARIANCES,
    formula="tr(S_b)/tr(S_w), the scatters between and within classes.",
    domain="A cheap diagnostic: directions of large variance decide, whether they tell classes apart or not.",
)
def fisher(features: FeatureSet) -> float:
    """Trace ratio of the scatters between and within classes.

    Raises:
        NotApplicable: no spread within classes.
    """
    spectrum = features.spectrum
    between = float(((spectrum.response**2).sum(axis=0) / spectrum.label_counts).sum())
    within = spectrum.trace - between
    if within <= 1e-12 * spectrum.trace or spectrum.trace <= 0:
        raise NotApplicable("the rows of every class are equal (or each class has one row): no spread within classes")
    return between / within


DIMENSIONS = 64
FLOOR = 1e-4


@proxy(
    "gbc",
    summary="Minus the summed overlap of all pairs of classes, each a Gaussian with a diagonal covariance.",
    good="0 means no overlap, −C(C − 1) that all classes are the same.",
    source="Pándy et al., CVPR 2022, arXiv:2111.12780",
    cost="a projection N × D × 64 on top of logme, and C² pairs",
    bounds=(-float("inf"), 0.0),
    invariances=INVARIANCES - {"scale"},
    formula="−Σ_{i≠j} exp(−D_B), D_B = ⅛ Σ Δμ²/σ̄ + ½[Σ log σ̄ − ½ Σ log σ_i − ½ Σ log σ_j], σ̄ = (σ_i + σ_j)/2, after PCA to 64 "
    "dimensions; variances not below 1e-4.",
    deviations="PCA is exact, not randomized; variances divide by n_c. The floor is in the features' own units, so the score "
    "depends on their scale, as published.",
    domain="Classes. A class of one row has the floor as its variance and overlaps with nothing.",
)
def gbc(features: FeatureSet) -> float:
    """Minus the sum of Bhattacharyya coefficients over ordered pairs of classes."""
    means, variances = class_statistics(features, DIMENSIONS)
    variances = np.maximum(variances, FLOOR)
    half_log = 0.5 * np.log(variances).sum(axis=1)
    total = 0.0
    for i in range(len(means)):
        mixed = 0.5 * (variances[i] + variances)
        distance = 0.125 * ((means[i] - means) ** 2 / mixed).sum(axis=1)
        distance += 0.5 * (np.log(mixed).sum(axis=1) - half_log[i] - half_log)
        overlap = np.exp(-distance)
        total += float(overlap.sum() - overlap[i])
    return -total


def class_statistics(features: FeatureSet, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (C, k) of every class in the leading principal components."""
    z = features.coordinates(dimensions).astype(np.float64)
    counts = features.class_counts[:, None]
    means = features.label_data.sums(z, slice(None)) / counts
    apart = z - means[features.labels]
    return means, features.label_data.sums(apart**2, slice(None)) / counts


@proxy(
    "nearest-class-mean",
    summary="How often the nearest class mean is that of the row's class, the row left out of it.",
    good="An accuracy: 1 is perfect, 1/C is chance for equal classes.",
    source="Mensink et al., PAMI 2013 (Euclidean); leave-one-out in closed form",
    cost="a product N × D × C on top of the class sums",
    bounds=(0.0, 1.0),
    invariances=INVARIANCES,
    formula="Share of rows with ‖x − μ_y⁻‖ < ‖x − μ_c‖ for every other class c, μ_y⁻ the mean without the row: ‖x − μ_y⁻‖ = "
    "n_y/(n_y − 1)·‖x − μ_y‖.",
    domain="A diagnostic. The only row of a class counts as wrong.",
)
def nearest_class_mean(features: FeatureSet) -> Score:
    """Leave-one-out accuracy of the nearest class mean; a contribution per row."""
    codes, counts = features.labels, features.class_counts
    center = features.mean
    sums = np.zeros((len(counts), features.width))
    for start, chunk in features.chunks():
        z = np.subtract(chunk, center, dtype=np.float64)
        sums += features.label_data.sums(z, slice(start, start + len(chunk)))
    means = sums / counts[:, None]
    squares = np.einsum("cd,cd->c", means, means)
    per_row = np.empty(len(codes))
    for start, chunk in features.chunks():
        z = np.subtract(chunk, center, dtype=np.float64)
        own, index = codes[start : start + len(z)], np.arange(len(z))
        distance = np.einsum("ij,ij->i", z, z)[:, None] - 2 * z @ means.T + squares
        n = counts[own].astype(float)
        mine = np.where(n > 1, np.maximum(distance[index, own], 0) * (n / np.maximum(n - 1, 1)) ** 2, np.inf)
        distance[index, own] = np.inf
        # at equal distance the row counts as wrong
        per_row[start : start + len(z)] = mine < distance.min(axis=1)
    return Score(float(per_row.mean()), per_row=per_row)


MAX_ROWS = 4000


@proxy(
    "silhouette",
    summary="Whether rows lie nearer to their own class than to the next one.",
    good="Between −1 and 1; above 0 rows are nearer to their own class on average.",
    source="Rousseeuw, J. Comput. Appl. Math. 1987 (Euclidean)",
    cost="min(N, 4000)²·D",
    bounds=(-1.0, 1.0),
    invariances=INVARIANCES,
    seeded=True,
    blocks="recompute",
    formula="Mean of (b − a)/max(a, b): a the mean distance to the other rows of the class, b the smallest mean distance to "
    "another class; 0 for the only row of a class.",
    domain="A diagnostic: classes of several modes score low though a probe separates them. More than 4,000 rows are a stratified "
    "subsample drawn from hashes.",
)
def silhouette(features: FeatureSet) -> Score | float:
    """Mean silhouette width.

    Raises:
        NotApplicable: as many classes as rows.
    """
    rows = features.sample(MAX_ROWS)
    classes, codes = np.unique(features.labels[rows], return_inverse=True)
    counts = np.bincount(codes)
    if len(classes) < 2 or len(classes) == len(rows):
        raise NotApplicable("needs two classes, and a class of two rows")
    x = np.subtract(as_float(features.rows[rows]), features.mean, dtype=np.float64)
    norms = np.einsum("ij,ij->i", x, x)
    one_hot = np.eye(len(classes))[codes]
    widths = np.zeros(len(rows))
    for start in range(0, len(x), 512):
        part = slice(start, start + 512)
        square = norms[part, None] + norms - 2 * x[part] @ x.T
        square[np.arange(len(square)), np.arange(start, start + len(square))] = 0
        sums = np.sqrt(np.maximum(square, 0)) @ one_hot
        own = codes[part]
        index = np.arange(len(own))
        a = sums[index, own] / np.maximum(counts[own] - 1, 1)
        means = sums / counts
        means[index, own] = np.inf
        b = means.min(axis=1)
        top = np.maximum(a, b)
        widths[part] = np.divide(b - a, top, out=np.zeros_like(a), where=(top > 0) & (counts[own] > 1))
    if len(rows) < len(features):
        return float(widths.mean())
    return Score(float(widths.mean()), per_row=widths[np.argsort(rows)])


@proxy(
    "transrate",
    summary="Bits needed to code all rows, minus those needed once the class is known.",
    good="Higher is better; 0 when the classes look alike. Grows with the number of directions that separate classes.",
    source="Huang et al., ICML 2022, arXiv:2106.09362",
    cost="one pass over the rows on top of logme, and a determinant of min(n_c, D) a class",
    invariances=INVARIANCES - {"zero padding"},
    formula="R(Z) − Σ_c n_c/n·R(Z_c), R(Z) = ½ log det(I + ZᵀZ/(nε)), ε = 1e-4, Z centered and scaled so that its covariance has "
    "trace D.",
    deviations="The public code leaves the scale as it is, so that multiplying features by ten changes the ranking, and weights "
    "classes equally; here the trace is fixed and classes weigh by their rows. Determinants come from the smaller Gram "
    "matrix.",
    domain="Classes. Dominated by the number of directions when D is large against n_c.",
)
def transrate(features: FeatureSet, *, eps: float = 1e-4) -> float:
    """Difference of coding rates, in nats.

    Raises:
        NotApplicable: constant features.
    """
    spectrum, n, width = features.spectrum, len(features), features.width
    if spectrum.trace <= 0:
        raise NotApplicable("the features are constant")
    scale = width * n / spectrum.trace  # makes the trace of the covariance D
    whole = 0.5 * float(np.log1p(scale * spectrum.values / (n * eps)).sum())
    rows = features.coordinates() if features.uses_kernel else None
    mean = 0.0 if rows is not None else features.mean
    known = 0.0
    for code, count in enumerate(features.class_counts):
        index = np.flatnonzero(features.labels == code)
        z = rows[index] if rows is not None else np.subtract(as_float(features.rows[index]), mean, dtype=np.float64)
        gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
        gram *= scale / (count * eps)
        gram[np.diag_indices_from(gram)] += 1
        known += count / n * 0.5 * float(np.linalg.slogdet(gram)[1])
    return whole - known
