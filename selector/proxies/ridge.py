"""Ridge regression: generalized cross-validation from the spectrum, or exact leave-one-out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from selector.core.contracts import LabelKind, Score
from selector.core.errors import ConfigError, NotApplicable
from selector.features import FeatureSet, Spectrum
from selector.features.arrays import chunk_rows
from selector.features.threads import capped
from selector.proxies._proxy import INVARIANCES, proxy

STRENGTHS = tuple(10.0 ** (e / 2) for e in range(-8, 9))
"""Penalties, in units of the mean squared length of a centered row."""


@proxy(
    "ridge",
    summary="Share of the labels' variance that ridge regression predicts on unseen rows.",
    label_kinds=(LabelKind.CLASSES, LabelKind.MULTILABEL, LabelKind.REAL),
    good="1 is perfect, 0 is the mean; negative values mean that nothing was learned.",
    source="Golub, Heath and Wahba, Technometrics 1979; Allen, Technometrics 1974 (leave-one-out)",
    cost="nothing on top of logme; leave-one-out one more pass of N·D·min(N, D)",
    bounds=(-float("inf"), 1.0),
    invariances=INVARIANCES,
    formula="1 − GCV(λ)/GCV(∞) at the best of 17 penalties λ, GCV(λ) = N·RSS(λ)/(N − 1 − Σ S/(S + λ))²; free intercept. One λ "
    "for all classes (RSS summed over the one-hot columns), one for each label and each real target, whose values are averaged. "
    "Rows that occur several times count once: labels that agree on them would say that there is no noise.",
    version=3,
    deviations="In-sample least squares, as some codes have it, means nothing once D ≥ N.",
    domain="All label kinds, any N and D. GCV treats all rows alike; `method='loo'` leaves out each row exactly.",
)
def ridge(features: FeatureSet, *, method: str = "gcv") -> Score:
    """Predicted share of variance (R²) on unseen rows.

    Args:
        features: any label kind; classes as one-hot columns.
        method: ``gcv``, or ``loo`` for exact leave-one-out residuals at GCV's penalty.
    Returns:
        Score ≤ 1; ``details``: the penalty, in units of the mean squared length of a centered row.
    Raises:
        NotApplicable: constant features or labels, N < 3.
    """
    if method not in ("gcv", "loo"):
        raise ConfigError(f"ridge: method must be 'gcv' or 'loo'. Got {method!r}.")
    fits = [column_fits(part, method) for part in features.complete_parts()]
    errors, null, strengths = (np.concatenate(found) for found in zip(*fits, strict=True))
    return Score(
        mean_r2(errors, null, features.label_kind), details={"strength": float(np.exp(np.log(strengths).mean()))}
    )


def column_fits(features: FeatureSet, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(T,) squared errors of every column, those of its mean, and the strength that generalized
    cross-validation chose: one for all classes, one for each column otherwise."""
    spectrum = features.spectrum
    chosen = column_strengths(features)
    unit = spectrum.trace / spectrum.count
    strengths = np.array(STRENGTHS)[chosen]
    if method == "loo":
        return *leave_one_out(features, unit * strengths), strengths
    distinct = _of_distinct_rows(features)
    null = distinct.count * distinct.label_square / (distinct.count - 1) ** 2
    errors = np.empty(len(chosen))
    for number in np.unique(chosen):
        columns = chosen == number
        errors[columns] = gcv(distinct, unit * STRENGTHS[number])[columns]
    return errors, null, strengths


def column_strengths(features: FeatureSet) -> np.ndarray:
    """(T,) numbers in ``STRENGTHS`` that generalized cross-validation prefers.

    Raises:
        NotApplicable: constant features or labels, N < 3.
    """
    spectrum = features.spectrum
    unit = spectrum.trace / spectrum.count
    if unit <= 0 or not (spectrum.label_square > 1e-12 * spectrum.count).any() or spectrum.count < 3:
        raise NotApplicable("needs three rows, and features and labels that vary")
    distinct = _of_distinct_rows(features)
    values = np.array([gcv(distinct, unit * s) for s in STRENGTHS])  # (strengths, T)
    if features.label_kind is LabelKind.CLASSES:
        return np.full(values.shape[1], values.sum(axis=1).argmin())
    return np.asarray(values.argmin(axis=0))


def mean_r2(errors: np.ndarray, null: np.ndarray, kind: LabelKind) -> float:
    """R² of the one-hot columns together, else the mean over the columns' own."""
    if kind is LabelKind.CLASSES:
        return 1 - float(errors.sum() / null.sum())
    varying = null > 0
    return float(np.mean(1 - errors[varying] / null[varying]))


def gcv(spectrum: Spectrum, penalty: float) -> np.ndarray:
    """(T,) generalized cross-validation error of each column at a penalty."""
    shrink = penalty / (spectrum.values + penalty)
    rss = spectrum.residual + shrink**2 @ spectrum.energy
    free = spectrum.count - 1 - len(spectrum.values) + float(shrink.sum())  # N - 1 - Σ S/(S + λ), nothing cancels
    return np.asarray(spectrum.count * rss / max(free, 1e-12) ** 2)


def _of_distinct_rows(features: FeatureSet) -> Spectrum:
    """The spectrum without the contrasts between equal rows.

    No penalty can fit them, and where their labels agree they have no residual: generalized cross-validation takes that
    for the absence of noise. Four photographs that occurred twice among 374 gave an R² of 0.15 at a penalty whose
    leave-one-out R² is -0.75.
    """
    spectrum, groups = features.spectrum, features.equal_rows
    if groups is None:
        return spectrum
    labels = features.label_data.block(slice(None)) - spectrum.label_mean
    counts = np.bincount(groups)
    totals = np.stack([np.bincount(groups, column) for column in labels.T], axis=1)
    between = np.einsum("gt,gt,g->t", totals, totals, 1 / counts)
    return replace(spectrum, count=len(counts), label_square=np.minimum(between, spectrum.label_square))


def leave_one_out(features: FeatureSet, penalties: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) sums of squared residuals without the row itself, each column at its penalty, and those of the mean."""
    errors, null = np.zeros(len(penalties)), np.zeros(len(penalties))
    for _, residual, alone in held_out_residuals(features, penalties):
        errors += np.einsum("nt,nt->t", residual, residual)
        null += np.einsum("nt,nt->t", alone, alone)
    return errors, null


def held_out_residuals(
    features: FeatureSet, penalties: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Chunks of (coordinates (n, k), residuals (n, T) without the row itself, deviations (n, T) from the mean of
    the others), each column at its penalty. Coordinates are overwritten by those of the next chunk.

    Rows of one unit are left out together: a box says much about the next box of its image. Exact in closed
    form: the residuals of rows u without u are (I - H_uu)⁻¹ times those with u.
    Cost: one more product N·D·min(N, D) in the rows' own precision, in chunks.
    """
    spectrum, n = features.spectrum, len(features)
    strengths, of_column = np.unique(penalties, return_inverse=True)
    targets = features.label_data.block(slice(None)) - spectrum.label_mean
    # coordinates u√S of the rows along directions of positive eigenvalue, and their regression on the labels
    positive = spectrum.values > 0
    values = spectrum.values[positive]
    shrunk = 1 / (values[:, None] + strengths)  # (k, strengths)
    solution = shrunk[:, of_column] * spectrum.response[positive]
    groups = None if features.groups is None else np.unique(features.groups, return_inverse=True)[1].ravel()
    order = np.arange(n) if groups is None else np.argsort(groups, kind="stable")
    of_row = np.empty((0, 0))
    for rows, z in _coordinates(features, order, groups, positive):
        residual = targets[rows] - z @ solution.astype(z.dtype)
        if groups is None:
            of_row = _room(of_row, z)
            leverage = 1 / n + np.multiply(z, z, out=of_row) @ shrunk.astype(z.dtype)
            residual = residual / np.maximum(1 - leverage, 1e-12)[:, of_column]
            alone = targets[rows] * (n / (n - 1))
        else:
            residual, alone = _without_groups(z, residual, targets[rows], groups[rows], shrunk, of_column, n)
        yield z, residual, alone


def _without_groups(
    z: np.ndarray,
    residual: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray,
    shrunk: np.ndarray,
    of_column: np.ndarray,
    n: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Residuals of whole groups (neighboring rows) and deviations from the mean, both without their unit."""
    found, alone = np.empty_like(targets), np.empty_like(targets)
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    for start, stop in zip(starts, [*starts[1:], len(groups)], strict=True):
        part, m = slice(start, stop), stop - start
        if m == n:
            raise NotApplicable("needs rows of two items")
        # the mean of the other rows: y_u - (Σy - Σy_u)/(n - m), of centered columns
        alone[part] = targets[part] + targets[part].sum(axis=0) / (n - m)
        rows = z[part].astype(np.float64)
        for number in range(shrunk.shape[1]):
            columns = of_column == number
            system = np.eye(m) - 1 / n - (rows * shrunk[:, number]) @ rows.T
            system[np.diag_indices(m)] += 1e-12
            found[part, columns] = np.linalg.solve(system, residual[part][:, columns])
    return found, alone


def _coordinates(
    features: FeatureSet, order: np.ndarray, groups: np.ndarray | None, positive: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, coordinates (n, k)) in chunks that hold whole groups."""
    if features.uses_kernel:
        values = features.spectrum.values[positive]
        whole = features.directions[:, positive] * np.sqrt(values)
        yield order, whole[order]
        return
    rows = features.rows
    precision = np.float64 if rows.dtype == np.float64 else np.float32
    basis = features.directions[:, positive].astype(precision)
    # V is a whole basis: the mean comes back from the spectrum without another pass over the rows
    mean = (features.directions @ (features.spectrum.offset / np.sqrt(len(features)))).astype(precision)
    size, start = chunk_rows(rows), 0
    # one array for all chunks: fresh ones of this size come page by page from the system, which costs as much as a
    # third of the product
    centered, z = np.empty((0, 0)), np.empty((0, 0))
    with capped(features.width):
        while start < len(order):
            stop = min(start + size, len(order))
            if groups is not None:
                while stop < len(order) and groups[order[stop]] == groups[order[stop - 1]]:
                    stop += 1
            part = order[start:stop]
            chunk = rows[start:stop] if groups is None else rows[part]
            centered = _room(centered, chunk, precision)
            np.subtract(chunk, mean, out=centered, dtype=precision)
            z = _room(z, centered, columns=basis.shape[1])
            yield part, np.matmul(centered, basis, out=z)
            start = stop


def _room(last: np.ndarray, like: np.ndarray, precision: Any = None, columns: int | None = None) -> np.ndarray:
    """An array of the shape and type of ``like``, in the memory of the last one where that is large enough."""
    shape = len(like), like.shape[1] if columns is None else columns
    wanted = np.dtype(precision or like.dtype)
    if last.dtype == wanted and last.shape[1] == shape[1] and len(last) >= len(like):
        return last[: len(like)]
    return np.empty(shape, wanted)
