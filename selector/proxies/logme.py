"""LogME, exact for every N and D, all label columns at once from one eigendecomposition."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selector.core.contracts import LabelKind, Score
from selector.core.errors import ProxyError
from selector.features import FeatureSet, Spectrum
from selector.features.jackknife import Deletion, gram, grouped, without_blocks
from selector.features.threads import capped
from selector.proxies._proxy import INVARIANCES, proxy, with_blocks

log = logging.getLogger(__name__)

EPS = 1e-5  # of the paper's code; the reason why the score is not invariant to scale
TOLERANCE = 1e-8
MAX_ITERATIONS = 1000
_TILE = 64  # label columns worked on together, so that their arrays stay in the cache
_PENALTIES = 8  # groups of columns of similar α/β, for which blocks are left out together


@proxy(
    "logme",
    summary="Log evidence of a Bayesian linear model of the labels on the features, per row.",
    label_kinds=(LabelKind.CLASSES, LabelKind.MULTILABEL, LabelKind.REAL),
    good="Compare it with other models on the same rows only; the absolute value says little.",
    source="You et al., ICML 2021, arXiv:2102.11005",
    cost="O(N·D·min(N, D)) multiplications in float64; one eigendecomposition",
    invariances=INVARIANCES - {"offset", "scale"},
    formula="For every label column y: D/2·log α + N/2·log β − ½·log det(αI + βXᵀX) − β/2·‖y − Xw‖² − α/2·‖w‖² − "
    "N/2·log 2π, at the α and β that maximize it (fixed point from α = β = 1, ε = 1e-5), divided by N; mean over columns. "
    "Real columns are standardized, 0/1 columns are as they are; a column is scored on the rows where it is known.",
    blocks="own",
    version=2,
    deviations="The (D − k)·log α term of the determinant, k = min(N, D), is missing in widely copied code: for N < D its "
    "values explode with D and wide models win for no reason. Iterated to 1e-8 instead of eleven steps, which can be "
    "1.7e-3 off.",
    domain="Any N ≥ 2 and D, low rank included. Values of different N, or of rescaled features, are not comparable. Weak on "
    "fine-grained targets and on models of one family.",
    answers={
        "Is it a probability?": "No. It is the logarithm of a density of the labels, divided by the number of rows.",
        "Can it exceed 1?": "Yes. A density has no upper bound: the better the labels are explained and the rarer a class "
        "is (its 0/1 column varies less), the higher the value. Negative values are as normal.",
        "Is 0.76 good?": "That cannot be said of one value: it depends on the number of classes and their balance. Compare "
        "models on the same rows, and look at the interval.",
        "May widths differ?": "Yes. The evidence charges every model for its own width, so 512 and 2048 features compare "
        "fairly, also with fewer rows than features.",
        "Does it hold for full fine-tuning?": "It describes a linear head on frozen features; full fine-tuning can rank "
        "models differently. Confirm the leading ones.",
    },
)
def logme(features: FeatureSet, *, intercept: bool = False, blocks: bool = False) -> Score:
    """Log evidence of a Bayesian linear model on frozen features, per row.

    Args:
        features: any scale; N < D and low rank included.
        intercept: add an unpenalized intercept (centered rows and columns); the paper has none.
        blocks: add the values with each block left out: at the α/β of all rows, where the evidence is highest, so that
            another one would hardly change it, and at the best β.
    Returns:
        Mean log evidence a row, in nats; unbounded. ``details``: iterations of the slowest column.
    Raises:
        ProxyError: see ``FeatureSet``.
    """
    parts = features.complete_parts()
    standardize = features.label_kind is LabelKind.REAL
    found = [
        column_evidence(part.spectrum.standardized() if standardize else part.spectrum, intercept=intercept)
        for part in parts
    ]
    evidence, converged = (np.concatenate([one[i] for one in found]) for i in (0, 2))
    iterations = max(one[1] for one in found)
    if not converged.all():
        log.warning(
            "logme: %d of %d label columns did not settle within %d steps; their values are those of the last step",
            int((~converged).sum()),
            len(converged),
            MAX_ITERATIONS,
        )
    made = Score(float(evidence.mean()), details={"iterations": float(iterations)})
    if not blocks or intercept:
        return made
    sets = [_LeftOut(one[0], one[3], standardize) for one in found]

    def value(left: Sequence[Deletion]) -> float:
        return float(np.nanmean(np.concatenate([one.of_rest(rest) for one, rest in zip(sets, left, strict=True)])))

    return with_blocks(made, lambda: without_blocks(features, value))


def column_evidence(spectrum: Spectrum, *, intercept: bool = False) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Evidence a row of every label column (T,), the most iterations, which columns settled, and α/β (T,)."""
    n_columns = len(spectrum.label_square)
    evidence, ratio = np.empty(n_columns), np.empty(n_columns)
    converged = np.empty(n_columns, dtype=bool)
    most = 0
    with capped(0):
        for start in range(0, n_columns, _TILE):
            tile = slice(start, start + _TILE)
            column = _Columns(spectrum, tile, intercept)
            evidence[tile], iterations, converged[tile], ratio[tile] = column.maximize()
            most = max(most, iterations)
    return evidence, most, converged, ratio


@dataclass(frozen=True)
class _LeftOut:
    """Evidence of label columns without a block, each at the α/β of all rows.

    With t = α/β fixed, the block's rows X_B and their residuals e change the penalized residual E = ‖y - Xw‖² + t‖w‖² by
    -eᵀG⁻¹e and log det(XᵀX + tI) by log det G, G = I - X_B(XᵀX + tI)⁻¹X_Bᵀ; the best β is N/E.
    """

    evidence: np.ndarray
    ratio: np.ndarray
    standardize: bool

    def of_rest(self, left: Deletion) -> np.ndarray:
        """(T,) evidence a row; NaN for a class that has no row left."""
        spectrum = left.every.spectrum
        scale = np.ones(len(self.ratio))
        if self.standardize:
            scale = np.sqrt(spectrum.label_square / spectrum.count)
            scale = np.where(scale > 0, scale, 1.0)
            spectrum = spectrum.standardized()
        values = self.evidence.copy()
        for penalty, columns in grouped(self.ratio, _PENALTIES):
            values[columns] += self._change(left, spectrum, penalty, columns, scale[columns])
        if self.standardize:  # by the deviation of the rows left
            deviation = np.sqrt(np.maximum(left.label_square, 1e-300) / left.count)
            values += np.where(left.label_square > 0, np.log(deviation / scale), 0.0)
        elif left.every.is_classes:
            values[left.label_counts <= 0.5] = np.nan
        return values

    def _change(
        self, left: Deletion, spectrum: Spectrum, penalty: float, columns: np.ndarray, scale: np.ndarray
    ) -> np.ndarray:
        from scipy.linalg import cho_factor, cho_solve

        live, n = left.every.live, spectrum.count
        inverse = 1 / (left.every.values + penalty)
        m, response = spectrum.offset[live], spectrum.response[live][:, columns]
        level = math.sqrt(n) * spectrum.label_mean[columns]
        outside = spectrum.offset_outside**2 + float(
            np.delete(spectrum.offset, live) @ np.delete(spectrum.offset, live)
        )
        about_mean = float(m**2 @ inverse) + outside / penalty
        q = 1 + about_mean
        rows = left.rows * inverse
        along = rows @ m + about_mean / math.sqrt(n)
        # X_B(XᵀX + tI)⁻¹X_Bᵀ in terms of centered rows, X = Z + 1mᵀ/√N
        half = along - about_mean / (2 * math.sqrt(n))
        core = -gram(left.rows * np.sqrt(inverse)) - (half[:, None] + half) / math.sqrt(n) + np.outer(along, along) / q
        core[np.diag_indices_from(core)] += 1
        shrunk = m @ (inverse[:, None] * response)
        fitted = rows @ response + shrunk / math.sqrt(n)
        fitted += np.outer(along, level - (shrunk + about_mean * level) / q)
        error = left.labels[:, columns] / scale + spectrum.label_mean[columns] - fitted
        factor = cho_factor(core, lower=True, overwrite_a=True, check_finite=False)
        whole = _Columns(spectrum, slice(None), False).keep(columns)
        t = np.full(len(columns), penalty)
        _, _, norm, residual = whole.at(t)
        energy, log_det = residual + penalty * norm, whole.log_det(t)
        gone = np.einsum("bt,bt->t", error, cho_solve(factor, error, check_finite=False))
        det = 2 * float(np.log(np.diagonal(factor[0])).sum())
        after = _profile(left.count, spectrum.width, penalty, energy - gone, log_det + det)
        return np.asarray(after - _profile(n, spectrum.width, penalty, energy, log_det))


def _profile(count: int, width: int, t: float, energy: np.ndarray, log_det: np.ndarray) -> np.ndarray:
    """(T,) evidence a row at α/β = t and the β that is best for it, but for a constant."""
    if (energy <= 0).any():
        raise np.linalg.LinAlgError("nothing is left to explain")
    return np.asarray(width / 2 * math.log(t) + count / 2 * np.log(count / energy) - 0.5 * log_det) / count


class _Columns:
    """The fixed point for a few label columns.

    With A = XᵀX + tI, t = α/β, in the eigenbasis of the centered rows XᵀX is diag(S) + mmᵀ, m being
    √N times the mean: A⁻¹ follows by Sherman-Morrison, w = 1/(S + t), q = 1 + Σm²w. The residual and
    the trace are written as sums of positive terms, so that nothing cancels when t is tiny.
    """

    def __init__(self, spectrum: Spectrum, tile: slice, intercept: bool) -> None:
        self.n, self.width = spectrum.count, spectrum.width
        self.values = spectrum.values
        self.explained = spectrum.energy[:, tile]  # (uᵀy)², centered
        self.outside = spectrum.residual[tile]
        m = np.zeros_like(spectrum.offset) if intercept else spectrum.offset
        self.m2 = m * m
        self.m2_outside = 0.0 if intercept else spectrum.offset_outside**2
        self.along = spectrum.response[:, tile] * m[:, None]
        self.level = np.zeros_like(self.outside) if intercept else math.sqrt(self.n) * spectrum.label_mean[tile]

    def keep(self, columns: np.ndarray) -> _Columns:
        part = _Columns.__new__(_Columns)
        part.__dict__.update(self.__dict__)
        part.explained, part.along = self.explained[:, columns], self.along[:, columns]
        part.outside, part.level = self.outside[columns], self.level[columns]
        return part

    def maximize(self) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """Evidence a row, steps taken, whether each column settled, and its α/β."""
        count = len(self.outside)
        alpha, beta = np.ones(count), np.ones(count)
        active, work, steps = np.arange(count), self, 0
        while len(active) and steps < MAX_ITERATIONS:
            steps += 1
            t = alpha[active] / beta[active]
            gamma, rest, norm, residual = work.at(t)
            alpha[active] = gamma / (norm + EPS)
            beta[active] = rest / (residual + EPS)
            moved = np.abs(alpha[active] / beta[active] - t) > TOLERANCE * t
            if not moved.all():
                active, work = active[moved], work.keep(moved)
        converged = np.ones(count, dtype=bool)
        converged[active] = False
        t = alpha / beta
        _, _, norm, residual = self.at(t)
        total = (
            self.width / 2 * np.log(alpha)
            + self.n / 2 * np.log(beta)
            - 0.5 * (self.width * np.log(beta) + self.log_det(t))
            - beta * residual / 2
            - alpha * norm / 2
            - self.n / 2 * math.log(2 * math.pi)
        )
        if not np.isfinite(total).all():
            raise ProxyError("logme has no finite value: a label column is explained exactly, or not at all.")
        return total / self.n, steps, converged, t

    def at(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """γ, N - γ, ‖w‖² and ‖y - Xw‖² at the given t, each (columns,)."""
        s, m2 = self.values, self.m2
        w = 1.0 / (s[:, None] + t)
        first = np.stack([s, m2]) @ w
        shift = (self.level - np.einsum("kc,kc->c", w, self.along)) / (q := 1 + first[1] + self.m2_outside / t)
        trace_t = t * w.sum(axis=0)
        w *= w
        m2w2, sm2w2 = np.stack([m2, s * m2]) @ w
        m2w2 += self.m2_outside / t**2
        cross = np.einsum("kc,kc->c", w, self.along)
        w *= self.explained
        norm = s @ w + 2 * shift * cross + shift**2 * m2w2
        residual = self.outside + t**2 * w.sum(axis=0) - 2 * t * shift * cross + shift**2 * (1 + sm2w2)
        gamma = first[0] + t * m2w2 / q
        rest = (self.n - 1 - len(s)) + trace_t + (1 + sm2w2) / q
        return gamma, rest, norm, residual

    def log_det(self, t: np.ndarray) -> np.ndarray:
        """log det(XᵀX + tI)."""
        w = self.values[:, None] + t
        q = 1 + self.m2 @ (1.0 / w) + self.m2_outside / t
        return np.asarray(np.log(w).sum(axis=0) + (self.width - len(self.values)) * np.log(t) + np.log(q))
