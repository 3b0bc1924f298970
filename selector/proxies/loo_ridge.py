"""Exact leave-one-out R² of ridge regression, from the one spectrum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selector.core.contracts import LabelKind, Score
from selector.features import FeatureSet
from selector.features.jackknife import Deletion, without_blocks
from selector.features.threads import each
from selector.proxies._proxy import INVARIANCES, proxy, with_blocks
from selector.proxies.ridge import STRENGTHS, column_fits, column_strengths, mean_r2

_NAMED = 20  # columns whose own value is in the details


@proxy(
    "loo-ridge",
    summary="Share of each column's variance that ridge regression predicts with the item itself left out.",
    label_kinds=(LabelKind.MULTILABEL, LabelKind.REAL),
    good="1 is perfect, 0 is the mean (the label frequencies); negative values mean that nothing was learned.",
    source="Allen, Technometrics 1974 (PRESS); Golub, Heath and Wahba, Technometrics 1979; out of sample in place of the "
    "in-sample error of Nguyen et al., UAI 2023, arXiv:2312.00656",
    cost="a product N × D × min(N, D) on top of logme, in the rows' own precision; a spectrum for every pattern of unknown "
    "labels",
    bounds=(-float("inf"), 1.0),
    invariances=INVARIANCES,
    blocks="own",
    version=2,
    formula="1 − Σ e_i²/Σ (y_i − mean without i)², e_i = (y − ŷ)_i/(1 − h_ii), the penalty of each column by generalized "
    "cross-validation over 17 strengths (those of `ridge`), free intercept; mean over columns. Rows of one item are left out together: "
    "e_u = (I − H_uu)⁻¹ (y − ŷ)_u.",
    deviations="In-sample least squares, as in the published Linear MSE, means nothing once D ≥ N. The penalty has seen the "
    "row that is left out, as in every GCV.",
    domain="Labels and real values, N ≥ 3. Centers are those of all rows, which the closed form accounts for.",
)
def loo_ridge(features: FeatureSet, *, blocks: bool = False) -> Score:
    """Leave-one-out R², averaged over columns.

    Args:
        features: multi-label or real; a column is scored on the rows where it is known.
        blocks: add the values with each block left out: generalized cross-validation without the block at the strengths
            of all rows, moved by what exact leave-one-out differs from it on all rows.
    Returns:
        Score ≤ 1; ``details``: ``strength`` (geometric mean, in units of the mean squared length of a centered
        row) and ``r2:NAME`` of the first 20 columns.
    Raises:
        NotApplicable: constant features, fewer than three rows, or rows of one item only.
    """
    parts = features.complete_parts()
    fits = [column_fits(part, "loo") for part in parts]
    errors, null, strengths = (np.concatenate(found) for found in zip(*fits, strict=True))
    names = [name for part in parts for name in part.label_data.names]
    by_column = dict(zip(names, 1 - errors / np.where(null > 0, null, 1.0), strict=True))
    details = {"strength": float(np.exp(np.log(strengths).mean()))}
    details |= {f"r2:{name}": float(by_column[name]) for name in features.label_data.names[:_NAMED]}
    made = Score(mean_r2(errors, null, features.label_kind), details=details)
    return with_blocks(made, lambda: _left_out(made.value, features)) if blocks else made


def _left_out(value: float, features: FeatureSet) -> np.ndarray:
    left_out = _from_spectra(features)
    if left_out is None:
        left_out = np.array(each(lambda block: _gcv(features.without(block)), features.block_ids.tolist()))
    return value + left_out - _gcv(features)


def _gcv(features: FeatureSet) -> float:
    fits = [column_fits(part, "gcv") for part in features.complete_parts()]
    errors, null, _ = (np.concatenate(found) for found in zip(*fits, strict=True))
    return mean_r2(errors, null, features.label_kind)


def _from_spectra(features: FeatureSet) -> np.ndarray | None:
    """(blocks,) generalized cross-validation without each block, at the strengths of all rows; None where
    ``without_blocks`` gives none, or rows occur several times."""
    parts = features.complete_parts()
    if any(part.equal_rows is not None for part in parts):
        return None
    strengths = [np.array(STRENGTHS)[column_strengths(part)] for part in parts]

    def value(left: Sequence[Deletion]) -> float:
        fits = [_fit_of_rest(one, own) for one, own in zip(left, strengths, strict=True)]
        errors, null = (np.concatenate(found) for found in zip(*fits, strict=True))
        return mean_r2(errors, null, features.label_kind)

    return without_blocks(features, value)


def _fit_of_rest(left: Deletion, strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) errors of generalized cross-validation of the rows left, and those of their mean."""
    n, unit = left.count, left.trace / left.count
    errors = np.empty(len(strengths))
    for strength in np.unique(strengths):
        columns, penalty = strengths == strength, unit * strength
        ridge = left.ridge(penalty)
        response = left.response[:, columns]
        weights = ridge.solve(response)
        rss = left.label_square[columns] - (weights * (response + penalty * weights)).sum(axis=0)
        free = n - 1 - len(ridge.inverse) + penalty * ridge.trace
        errors[columns] = n * np.maximum(rss, 0) / max(free, 1e-12) ** 2
    return errors, n * left.label_square / (n - 1) ** 2
