"""Linear probe: cross-validated log-likelihood of an L2 logistic regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import softmax

from selector.core.contracts import LabelKind, Score
from selector.core.errors import NotApplicable
from selector.features import NUM_FOLDS, FeatureSet
from selector.features.threads import capped, each
from selector.linear import STRENGTHS, best_strength, standardize
from selector.linear.logistic import Logistic, label_log_likelihood, log_likelihood
from selector.proxies._proxy import NAMES_OF_CLASSES, proxy, with_blocks

_TOLERANCES = ((5e8, 6e-5), (5e7, 6e-6), (0, 1e-6))
"""From which N·D·C on which predicted decrease of the loss a row will do: each leaves values some 3e-4 off,
8e-4 at most, on sets of 77 and 150 classes; smaller sets would be further off and take no time."""
_AGAIN = 2e-5  # of fits without some rows, from the solution with them


@proxy(
    "probe",
    summary="Log-likelihood of held-out labels under a logistic regression on the features.",
    label_kinds=(LabelKind.CLASSES, LabelKind.MULTILABEL),
    good="0 is perfect; minus the entropy of the class shares (−2.3 for ten equal classes) is a model that knows nothing.",
    source="Kornblith et al., CVPR 2019, arXiv:1805.08974 (protocol)",
    cost="O(N·D·min(N, D)) and about 40 products N × D × 5C, in float32",
    bounds=(-float("inf"), 0.0),
    invariances=NAMES_OF_CLASSES,
    seeded=True,
    blocks="own",
    version=5,
    formula="Mean over rows of log p(label | row) under the fold's model that did not see it: standardized columns, five "
    "stratified folds, one inverse penalty C for all folds, the best of C·D ∈ {0.1, 1, 10, 100, 1000}. "
    "Several labels: each against the rest, on the rows where it is known; mean over labels.",
    deviations="Solved to a tolerance instead of trained for some epochs, so the optimizer has no say in it. Columns are "
    "standardized over all rows, which looks at no label. The value is that of the best strength, a slight optimism that is "
    "the same for all models. Strengths are compared coarsely, from the second on, until one is 10% worse than the best (the first when the second won); those within 10% are solved to the end. Values are within 1e-3 of the exact minimum.",
    domain="Two classes with two rows each at least. Rows of a class that lives in one fold count as a guess among all "
    "classes. Costly for many classes times many features: ridge or lda stand in.",
    answers={
        "Is it a probability?": "The logarithm of one: exp(value) is the geometric mean of the probabilities given to the true "
        "classes of held-out rows.",
        "Can it exceed 1?": "It cannot exceed 0.",
        "Is 0.76 good?": "The accuracy beside it reads like any accuracy. Of the value itself, −0.27 means a geometric mean "
        "probability of 0.76.",
        "May widths differ?": "Yes; the penalty is chosen by held-out rows for every model.",
    },
)
def probe(features: FeatureSet, *, strengths: Sequence[float] | None = None, blocks: bool = False) -> Score:
    """Cross-validated mean log-likelihood of a logistic regression, in nats.

    Args:
        features: class labels, or several labels a row.
        strengths: inverse penalties C on standardized columns, as in scikit-learn;
            ``linear.STRENGTHS`` / D when not given.
        blocks: add the values with each block left out, fitted again from the solutions found.
    Returns:
        Score ≤ 0 with a contribution per row; ``details``: accuracy and miou (mean IoU of the classes) of
        rows that the fit did not see, strength; of several labels also ``map``. Rows of one item share a fold, so
        those of a mask are judged by fits on other images; each row counts the same, whatever it stands for.
    Raises:
        NotApplicable: fewer than two classes have rows in two folds.
    """
    problem, order, tolerance = _cross_validation(features)
    grid = [s / features.width for s in STRENGTHS] if strengths is None else sorted(float(s) for s in strengths)
    with capped(min(problem.z.shape)):
        solved, per_row = best_strength(problem.fits(), grid, problem.held_out, tolerance)
    strength, solution = solved.strength, solved.solution
    restored = np.empty_like(per_row)
    restored[order] = per_row
    details = {**problem.details(solution), "strength": strength}
    made = Score(float(per_row.mean()), per_row=restored, details=details)
    if not blocks:
        return made
    blocks_of_rows = features.blocks[order]

    def without(block: int) -> float:
        return problem.without(blocks_of_rows == block, strength, solution)

    return with_blocks(made, lambda: np.array(each(without, features.block_ids)))


def out_of_fold(features: FeatureSet, strength: float | None = None) -> np.ndarray:
    """(N, C) probabilities of the classes by the fold's regression that did not see the row, as ``probe`` fits it.

    Args:
        strength: the inverse penalty that ``probe`` found on these rows; searched for when not given.
    Returns:
        Columns in the order of ``features.classes``; NaN in rows whose class has no row outside their fold.
    Raises:
        NotApplicable: labels are not classes, or fewer than two have rows in two folds.
    """
    if features.label_kind is not LabelKind.CLASSES:
        raise NotApplicable("needs one class per row")
    problem, order, tolerance = _cross_validation(features)
    with capped(min(problem.z.shape)):
        if strength is None:
            grid = [s / features.width for s in STRENGTHS]
            solution = best_strength(problem.fits(), grid, problem.held_out, tolerance)[0].solution
        else:
            solution = problem.fits().solve(strength, tolerance).solution
    column = np.empty(len(features.classes), dtype=np.int64)  # of each class among those of the problem
    column[features.labels] = features.canonical[1]
    found = np.empty((len(features), len(column)))
    found[order] = problem.probabilities(solution)[:, column]
    return found


def _cross_validation(features: FeatureSet) -> tuple[_Problem, np.ndarray, float]:
    """The problem, the rows of the features in its order, and how exactly it is solved."""
    order, codes = features.canonical
    order = order[np.argsort(features.folds[order], kind="stable")]
    folds = features.folds[order]
    basis = standardize(features.rows, order)
    z, curvature = basis.own, basis.curvature
    cells = z.size * features.label_data.num_columns
    tolerance = next(value for size, value in _TOLERANCES if cells >= size)
    if features.label_kind is LabelKind.CLASSES:
        codes = codes[order]
        return _Problem(z, curvature, codes, folds, rows_without_training(codes, folds)), order, tolerance
    if len(np.unique(folds)) < 2:
        raise NotApplicable("needs rows in two folds")
    return _Labels(z, curvature, features.labels[order].astype(np.float32), folds), order, tolerance


class _Problem:
    """All folds of one cross-validation, rows sorted by fold."""

    loss = "softmax"
    likelihood: Callable[..., np.ndarray] = staticmethod(log_likelihood)

    def __init__(
        self,
        z: np.ndarray,
        curvature: np.ndarray,
        targets: np.ndarray,
        folds: np.ndarray,
        rare: np.ndarray | slice = slice(0),
    ) -> None:
        self.z, self.curvature, self.targets, self.rare = z, curvature, targets, rare
        held = np.unique(folds)
        self.parts = [np.flatnonzero(folds == f) for f in held]
        self.weights = (folds != held[:, None]).astype(np.float64)

    def fits(self, gone: np.ndarray | None = None) -> Logistic:
        """One logistic regression a fold, on the rows outside it."""
        weights = self.weights if gone is None else self.weights * ~gone
        return Logistic(self.z, self.curvature, self.targets, weights, self.loss)

    def logits(self, solution: np.ndarray) -> np.ndarray:
        """(N, outputs) of every row under the fold that did not see it."""
        return np.concatenate([self.z[rows] @ solution[:, f] for f, rows in enumerate(self.parts)])

    def likelihoods(self, solution: np.ndarray) -> np.ndarray:
        """(N, ...) likewise, the log-likelihoods of the labels."""
        folds = enumerate(self.parts)
        found = [self.likelihood(self.z[rows], solution[:, [f]], self.targets[rows])[0] for f, rows in folds]
        return np.concatenate(found)

    def held_out(self, solution: np.ndarray, kept: slice | np.ndarray = slice(None)) -> np.ndarray:
        """(N,) contributions of the rows that are kept to their mean log-likelihood."""
        per_row = self.likelihoods(solution)
        per_row[self.rare] = -np.log(solution.shape[2])
        return np.asarray(per_row[kept])

    def without(self, gone: np.ndarray, strength: float, solution: np.ndarray) -> float:
        """The value without some rows, at the strength found."""
        solved = self.fits(gone).solve(strength, _AGAIN, start=solution)
        return float(self.held_out(solved.solution, ~gone).mean())

    def probabilities(self, solution: np.ndarray) -> np.ndarray:
        """(N, C) of every row under the fold that did not see it; NaN where that fold knows nothing of its class."""
        found: np.ndarray = softmax(self.logits(solution), axis=1).astype(np.float64)
        found[self.rare] = np.nan
        return found

    def details(self, solution: np.ndarray) -> dict[str, float]:
        """The share of rows that are right, and the mean IoU of the classes over them."""
        predicted = self.logits(solution).argmax(axis=1)
        right = predicted == self.targets
        parts = (self.targets[right], self.targets, predicted)
        hit, truth, said = (np.bincount(part, minlength=solution.shape[2]) for part in parts)
        shown = truth + said > 0
        return {"accuracy": float(right.mean()), "miou": float((hit[shown] / (truth + said - hit)[shown]).mean())}


class _Labels(_Problem):
    """The same for several labels a row, each against the rest: one penalty for all of them."""

    loss = "sigmoid"
    likelihood = staticmethod(label_log_likelihood)

    def held_out(self, solution: np.ndarray, kept: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Contributions to the mean over labels of the mean over the rows where a label is known."""
        each_label = self.likelihoods(solution)[kept]
        known = (~np.isnan(each_label)).sum(axis=0)
        share = np.nansum(each_label[:, known > 0] / known[known > 0], axis=1)
        return np.asarray(share * (len(each_label) / int((known > 0).sum())))

    def details(self, solution: np.ndarray) -> dict[str, float]:
        """Average precision and share of right entries at one half, averaged over labels."""
        from sklearn.metrics import average_precision_score

        precision, right = [], []
        for said, label in zip(self.logits(solution).T, self.targets.T, strict=True):
            known = ~np.isnan(label)
            precision.append(average_precision_score(label[known], said[known]))
            right.append(((said[known] > 0) == (label[known] > 0)).mean())
        return {"accuracy": float(np.mean(right)), "map": float(np.mean(precision))}


def rows_without_training(codes: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(N,) rows whose class has no row outside their own fold.

    Raises:
        NotApplicable: fewer than two classes have one.
    """
    table = np.zeros((codes.max() + 1, NUM_FOLDS), dtype=np.int64)
    np.add.at(table, (codes, folds), 1)
    rare = np.asarray((table.sum(axis=1)[codes] - table[codes, folds]) == 0)
    if len(np.unique(codes[~rare])) < 2:
        raise NotApplicable("needs two classes with rows in two folds each")
    return rare
