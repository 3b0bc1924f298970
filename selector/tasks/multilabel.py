"""Several labels an item: binary cross-entropy a label, thresholds chosen on validation, mean average precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from selector.core.contracts import LabelKind, Target, noun_of
from selector.core.errors import TargetError
from selector.core.stats import Metric, mean_ranks
from selector.core.table import Table
from selector.core.task import Criterion, Section, Stats
from selector.tasks import task
from selector.tasks._error_analysis import rounded
from selector.tasks._linear import LinearTask, check_columns
from selector.tasks._read_labels import (
    ArrayAnnotations,
    check_length,
    check_names,
    declared_names,
    first_of,
    is_gap,
    kind_of,
    labels_of,
    numbered,
    position,
    rows_of_numbers,
)
from selector.tasks._read_regression import are_binary, binary, number_columns
from selector.tasks.classification import missing_label

if TYPE_CHECKING:
    import torch

SEPARATOR = "|"


class LabelSets(ArrayAnnotations):
    """0/1 (N, L): ints, or floats with NaN where an entry is unknown. ``strata`` counts unknown as 0."""

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """Labels that cannot be learned or judged, labels that are one, items without any.

        Raises:
            TargetError: no label has both a positive and a negative in training.
        """
        notes: list[str] = []
        lacking: list[str] = []
        train = self.labels[splits == "train"]
        unlearnable = np.zeros(len(self.class_names), bool)
        for value, word in ((1, "positive"), (0, "negative")):
            lack = ~(train == value).any(axis=0)
            unlearnable |= lack
            lacking += [f"'{self.class_names[i]}' (no {word})" for i in np.flatnonzero(lack)]
        if unlearnable.all():
            raise TargetError(
                f"{self.where}: no label has both positives and negatives in train: {first_of(lacking)}; there is nothing "
                "to learn."
            )
        if lacking:
            notes.append(
                f"{unlearnable.sum()} of {len(unlearnable)} labels cannot be learned, since train shows one side only: "
                f"{first_of(lacking)}"
            )
        for part in ("val", "test"):
            there = self.labels[splits == part]
            lack = ~unlearnable & ~((there == 1).any(axis=0) & (there == 0).any(axis=0))
            if lack.any():
                told = first_of(f"'{self.class_names[i]}'" for i in np.flatnonzero(lack))
                notes.append(
                    f"{lack.sum()} labels have no positive or no negative in {part}, so they count nowhere: {told}"
                )
        first: dict[bytes, int] = {}
        for place in range(self.labels.shape[1]):
            other = first.setdefault(np.ascontiguousarray(self.labels[:, place]).tobytes(), place)
            if other != place and not unlearnable[place]:
                a, b = self.class_names[other], self.class_names[place]
                notes.append(f"labels '{a}' and '{b}' are the same for every {self.noun}; remove one of them")
        none = np.flatnonzero(~(self.labels == 1).any(axis=1))
        if len(none):
            notes.append(f"{len(none)} {self.noun}s have no label, such as {names[none[0]]}; they count as negatives")
        gaps = int(np.isnan(self.labels).sum())
        if gaps:
            notes.append(f"{gaps} of {self.labels.size} entries are unknown and count nowhere")
        return notes


class MultilabelReading:
    """``Task.accepts`` and ``Task.read`` of several labels an item."""

    role: ClassVar[str] = "label"

    def accepts(self, table: Table) -> str | None:
        """Lists of names or numbers, rows or columns of 0 and 1, names with a separator between them."""
        if "label" not in table.roles:
            return missing_label(table)
        columns = table.roles["label"]
        if len(columns) > 1:
            return None if are_binary(table) else "the columns hold other values than 0 and 1"
        if _separator(table) is not None:
            return None
        kind = kind_of(labels_of(table), columns[0] in table.schema.get("class_names", {}))
        return None if kind is LabelKind.MULTILABEL else f"the labels look like {kind}"

    def read(self, table: Table) -> LabelSets:
        """0/1 with NaN where unknown.

        Raises:
            TargetError: an entry that is no 0, 1 or gap, a list that holds something else, one label only.
        """
        columns, notes = table.roles["label"], list[str]()
        if len(columns) > 1:
            matrix, names = number_columns(table, "0 or 1", binary), tuple(columns)
        else:
            matrix, names = self._of_one(table, notes)
        check_names(table.where, names, lambda code: table.names[int(np.flatnonzero(matrix[:, code] == 1)[0])])
        if not np.isnan(matrix).any():
            matrix = matrix.astype(np.int64)
        strata = np.nan_to_num(matrix).astype(np.int64)
        return LabelSets(matrix, names, strata, table.where, noun_of(table.modality), tuple(notes))

    @staticmethod
    def _of_one(table: Table, notes: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
        column = table.roles["label"][0]
        fixed = declared_names(table, column)
        separator = _separator(table)
        if separator is not None:
            cells = [str(cell or "") for cell in table.columns[column]]
            lists = [[part.strip() for part in cell.split(separator) if part.strip()] for cell in cells]
            if table.schema.get("separator") is None:
                notes.append(
                    f"the labels hold '{separator}', so each is read as several; if it belongs to the names, use "
                    "selector.load_target(..., task='classification')"
                )
            return _of_lists(table, lists, None, notes)
        raw = labels_of(table)
        array = raw if isinstance(raw, np.ndarray) else rows_of_numbers(raw) if fixed is None else None
        if array is not None and (isinstance(raw, np.ndarray) or _kind_is_rows(array)):
            if array.dtype.kind == "f" and not np.isnan(array).any() and table.schema.get("task") is None:
                notes.append(
                    "the labels are rows of 0.0 and 1.0 only, so they are read as several labels; if they are amounts, use "
                    "task='regression'"
                )
            return _of_rows(array, table)
        if not any(isinstance(row, list | tuple | set) for row in raw):
            kind = np.asarray(raw[:1]).dtype.kind if len(raw) else ""
            shown = f"{'text' if kind == 'U' else 'numbers'} ({len(raw)},)"
            raise TargetError(
                f"{table.where}: multilabel labels must be 0 or 1 in the shape (N, L), or lists of names; got {shown}."
            )
        return _of_lists(table, raw, fixed, notes)


def _kind_is_rows(array: np.ndarray) -> bool:
    known = array[~np.isnan(array)] if array.dtype.kind == "f" else array
    return bool(np.isin(known, (0, 1)).all())


def _separator(table: Table) -> str | None:
    """What stands between the labels of a cell: as asked for, or | where cells are combinations of fewer names."""
    separator: str | None = table.schema.get("separator")
    values: Any = table.columns[table.roles["label"][0]]
    if separator is not None:
        return separator if all(cell is None or isinstance(cell, str) for cell in values) else None
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OUST":
        return None
    if not all(cell is None or isinstance(cell, str) for cell in values):
        return None
    cells = {cell for cell in values if cell and SEPARATOR in cell}
    if not cells:
        return None
    parts = {part.strip() for cell in values if cell for part in cell.split(SEPARATOR)}
    whole = {cell for cell in values if cell}
    return SEPARATOR if table.schema.get("task") == "multilabel" or len(parts) < len(whole) else None


def _of_rows(array: np.ndarray, table: Table) -> tuple[np.ndarray, tuple[str, ...]]:
    where = table.where
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise TargetError(
            f"{where}: multilabel labels must be 0 or 1 in the shape (N, L); got {array.dtype} {array.shape}."
        )
    values = array.astype(np.float64)
    bad = ~(np.isnan(values) | (values == 0) | (values == 1))
    if bad.any():
        row, place = (int(i) for i in np.argwhere(bad)[0])
        raise TargetError(
            f"{where}: multilabel labels must be 0 or 1 in the shape (N, L); got {array.dtype} {array.shape}, and "
            f"{table.names[row]} holds {values[row, place]:g}."
        )
    fixed = declared_names(table, table.roles["label"][0])
    return values, tuple(fixed or (str(i) for i in range(array.shape[1])))


def _of_lists(
    table: Table, lists: Sequence[Any], fixed: Sequence[str] | None, notes: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    where = table.where
    rows: list[list[object]] = []
    for name, row in zip(table.names, lists, strict=True):
        if is_gap(row) or not isinstance(row, list | tuple | set):
            raise TargetError(
                f"{where}: {name} has {'no list' if is_gap(row) else f'{str(row)[:40]!r}'} as its labels; expected a list of "
                "names or numbers, empty where it has none."
            )
        cells = [int(c) if isinstance(c, float) and c.is_integer() else c for c in row]
        for cell in cells:
            if is_gap(cell) or not isinstance(cell, str | int | np.integer):
                raise TargetError(
                    f"{where}: {name} has {str(cell)[:40]!r} among its labels; expected names or numbers."
                )
            check_length(cell, where, name)
        rows.append([position(c, fixed, where, name) for c in cells] if fixed is not None else cells)
    used = {cell for row in rows for cell in row}
    number, names, left_out = numbered(used, fixed, f"labels have no {noun_of(table.modality)}")
    notes += left_out
    if len(names) < 2:
        found = f"'{names[0]}'" if names else "none"
        raise TargetError(f"{where}: found one label only ({found}); expected several, an item may have any of them.")
    matrix = np.zeros((len(rows), len(names)))
    for row, cells in enumerate(rows):
        matrix[row, [number[cell] for cell in cells]] = 1
    return matrix, names


METRICS: Mapping[str, Metric] = {
    "map": Metric(),
    "micro_f1": Metric(),
    "macro_f1": Metric(),
    "auroc": Metric(),
    "log_loss": Metric(sign=-1, unit="nats"),
}
MAX_WEIGHT = 10.0  # a label with one positive in a thousand items must not outweigh a batch
FEWEST_POSITIVES = 3  # on validation, below which a threshold is left at 0.5
_MOST_SAMPLES, _MOST_PAIRS, _SHOWN_LABELS = 12, 30, 6


class MultilabelStats(Stats):
    """Of each item ``truth`` (N, L) in int8, -1 where unknown, and ``probability`` (N, L).

    ``summary`` holds ``thresholds`` (L,), those of the evaluator's context or 0.5.
    """

    def value(self, metric: str) -> float:
        """Any of ``METRICS``; means are over labels that have both a positive and a negative among these items."""
        truth, probability = self.arrays["truth"], self.arrays["probability"]
        if metric == "log_loss":
            known = truth >= 0
            likelihood = np.where(truth == 1, probability, 1 - probability)[known]
            return float(-np.log(np.maximum(likelihood, 1e-15)).mean()) if known.any() else float("nan")
        if metric in ("micro_f1", "macro_f1"):
            hits, false, missed = self.counts()
            if metric == "micro_f1":
                return _f1(hits.sum(), false.sum(), missed.sum())
            used = self._judged()
            return float(
                np.mean([_f1(*c) for c in zip(hits[used], false[used], missed[used], strict=True)] or [np.nan])
            )
        score = {"map": average_precision, "auroc": _area}[metric]
        found = []
        for label in np.flatnonzero(self._judged()):
            known = truth[:, label] >= 0
            found.append(score(truth[known, label] == 1, probability[known, label]))
        return float(np.mean(found)) if found else float("nan")

    def _judged(self) -> np.ndarray:
        truth = self.arrays["truth"]
        return np.asarray((truth == 1).any(axis=0) & (truth == 0).any(axis=0))

    def chosen(self) -> np.ndarray:
        """bool (N, L): labels whose probability reaches their threshold."""
        return np.asarray(self.arrays["probability"] >= np.asarray(self.summary["thresholds"]))

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(right, false, missed) by label."""
        truth, chosen = self.arrays["truth"], self.chosen()
        return (
            (chosen & (truth == 1)).sum(axis=0),
            (chosen & (truth == 0)).sum(axis=0),
            (~chosen & (truth == 1)).sum(axis=0),
        )


@task("multilabel")
class Multilabel(MultilabelReading, LinearTask):
    """See ``core.task.Task``; what validation chooses is a threshold a label (best F1)."""

    name = "multilabel"
    label_kind = LabelKind.MULTILABEL
    facet = "labels"
    class_noun = "labels"
    metrics = METRICS
    stats_type: ClassVar[type[MultilabelStats]] = MultilabelStats
    tie_breaker = "log_loss"
    balances = ("weights",)
    smooths = True

    @property
    def address(self) -> str:
        """2: the F1 of validation is that of the thresholds that are chosen there."""
        return f"{self.name} 2{self.address_suffix}"

    def labels(self, annotations: np.ndarray) -> np.ndarray:
        """0, 1, or NaN where unknown."""
        return annotations.astype(np.float32)

    def notes(self, target: Target) -> list[str]:
        """How much more a rare label weighs."""
        most = positive_weights(self.labels(target.labels_of(target.indices("train")))).max()
        if self.balance == "none" or most <= 1:
            return []
        return [
            f"items with a rare label weigh up to {most:.1f} times as much in the loss (--balance none: all alike)."
        ]

    def criterion(self, target: Target) -> Criterion:
        """Binary cross-entropy over known entries; positives weigh (a root of) negatives over positives in train."""
        import torch
        from torch.nn import functional

        smoothing = self.label_smoothing
        weight = torch.from_numpy(positive_weights(self.labels(target.labels_of(target.indices("train")))))
        if self.balance == "none":
            weight = torch.ones_like(weight)

        def cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            known = ~labels.isnan()
            wanted = labels.nan_to_num() * (1 - smoothing) + smoothing / 2
            losses = functional.binary_cross_entropy_with_logits(
                outputs, wanted, pos_weight=weight.to(outputs.device), reduction="none"
            )
            return (losses * known).sum() / known.sum().clamp(min=1)

        return cross_entropy

    def judged(
        self, outputs: np.ndarray, target: Target, items: np.ndarray, context: Mapping[str, object] | None = None
    ) -> MultilabelStats:
        """See ``LinearTask``; without a context thresholds are chosen here, so that F1 decides on the model as it is used."""
        stats = self.stats(outputs, self.labels(target.labels_of(items)), thresholds_of(context))
        if thresholds_of(context) is None:
            stats.summary |= self.calibrate(stats)
        return stats

    def stats(
        self, outputs: np.ndarray, labels: np.ndarray, thresholds: Sequence[float] | None = None
    ) -> MultilabelStats:
        """Statistics of outputs (N, L) and labels (N, L), NaN where unknown.

        Raises:
            TargetError: shapes that do not fit.
            NotFinite: outputs that are no numbers.
        """
        check_columns(outputs, labels, "labels must have one shape (N, L)")
        truth = np.where(np.isnan(labels), -1, labels).astype(np.int8)
        chosen = [0.5] * outputs.shape[1] if thresholds is None else [float(t) for t in thresholds]
        return self.stats_type({"truth": truth, "probability": _sigmoid(outputs)}, {"thresholds": chosen})

    def calibrate(self, stats: Stats) -> dict[str, object]:
        """The threshold of each label that gives the best F1; 0.5 where there are too few positives to choose by."""
        truth, probability = stats.arrays["truth"], stats.arrays["probability"]
        return {
            "thresholds": [
                best_threshold(truth[truth[:, i] >= 0, i] == 1, probability[truth[:, i] >= 0, i])
                for i in range(truth.shape[1])
            ]
        }

    def trivial(self, target: Target, items: np.ndarray) -> MultilabelStats:
        """Every label at its frequency in train + val."""
        known = self.labels(target.labels_of(target.indices("train", "val")))
        shares = np.clip(np.nan_to_num(np.nanmean(known, axis=0)), 1e-6, 1 - 1e-6)
        return self.judged(np.tile(np.log(shares / (1 - shares)), (len(items), 1)), target, items)

    def predictions(
        self, outputs: object, class_names: Sequence[str], context: Mapping[str, object]
    ) -> list[dict[str, object]]:
        """``labels`` whose probability reaches their threshold, and ``probabilities`` (L,) of all."""
        probabilities = _sigmoid(np.asarray(outputs))
        thresholds = np.asarray(thresholds_of(context) or [0.5] * probabilities.shape[1])
        return [
            {"labels": [class_names[int(i)] for i in np.flatnonzero(row >= thresholds)], "probabilities": row}
            for row in probabilities
        ]

    def activation(self, outputs: torch.Tensor, context: Mapping[str, object]) -> tuple[str, torch.Tensor]:
        """Probabilities."""
        return "probabilities", outputs.sigmoid()

    def meaning(self, class_names: Sequence[str], context: Mapping[str, object]) -> tuple[str, str]:
        """Sigmoids, and the threshold of each label."""
        chosen = thresholds_of(context) or [0.5] * len(class_names)
        told = ", ".join(f"{name} {value:.3g}" for name, value in zip(class_names, chosen, strict=True))
        return "probabilities", f"sigmoid(outputs); a label is given from its threshold on: {told}"

    def report(self, stats: Stats, class_names: Sequence[str]) -> Section:
        """Results by label, labels that are taken for each other, and the most confident errors."""
        assert isinstance(stats, MultilabelStats)
        truth, probability, chosen = stats.arrays["truth"], stats.arrays["probability"], stats.chosen()
        hits, false, missed = stats.counts()
        positives = hits + missed
        rows = []
        for i, name in enumerate(class_names):
            known = truth[:, i] >= 0
            both = 0 < positives[i] < known.sum()
            area = average_precision(truth[known, i] == 1, probability[known, i]) if both else np.nan
            rows.append(
                {
                    "label": name,
                    "items": int(positives[i]),
                    "average precision": rounded(area),
                    "precision": rounded(hits[i] / (hits[i] + false[i]) if hits[i] + false[i] else np.nan),
                    "recall": rounded(hits[i] / positives[i] if positives[i] else np.nan),
                    "F1": rounded(_f1(hits[i], false[i], missed[i]) if positives[i] else np.nan),
                    "threshold": rounded(stats.summary["thresholds"][i]),
                }
            )
        tables = {"labels": rows, "missed, and another label predicted instead": _confused(truth, chosen, class_names)}
        return Section({t: r for t, r in tables.items() if r}, _samples(truth, probability, chosen, class_names))


def thresholds_of(context: Mapping[str, Any] | None) -> list[float] | None:
    """Those that validation chose; None where none were."""
    found = (context or {}).get("thresholds")
    return None if found is None else [float(value) for value in found]


def positive_weights(labels: np.ndarray) -> np.ndarray:
    """float32 (L,): the root of negatives over positives, at most 10 and at least 1; full balancing gives a handful
    of items gradients that a fine-tuned network memorizes.

    >>> positive_weights(np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, np.nan]]))
    array([1.2247449, 1.7320508], dtype=float32)
    """
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    weights = np.sqrt(negatives / np.maximum(positives, 1))
    result: np.ndarray = np.clip(weights, 1.0, MAX_WEIGHT).astype(np.float32)
    return result


def average_precision(truth: np.ndarray, score: np.ndarray) -> float:
    """Sum over thresholds of precision times the gain in recall, ties together: scikit-learn's
    ``average_precision_score``, which checks its input anew for each of the thousands of resamples.

    >>> average_precision(np.array([True, False, True, False]), np.array([0.9, 0.8, 0.3, 0.1]))
    0.8333333333333333
    """
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    precision, gained = hits[ends] / (ends + 1), np.diff(hits[ends], prepend=0)
    return float((precision * gained).sum() / hits[-1]) if hits[-1] else float("nan")


def best_threshold(truth: np.ndarray, probability: np.ndarray) -> float:
    """The probability from which a label is chosen for the best F1, between two neighbors; of equal ones the nearest
    to 0.5.

    >>> round(best_threshold(np.array([True, True, True, False]), np.array([0.9, 0.4, 0.35, 0.1])), 3)
    0.225
    """
    positives = int(truth.sum())
    if positives < FEWEST_POSITIVES or positives == len(truth):
        return 0.5
    order = np.argsort(-probability, kind="stable")
    sorted_probability = probability[order].astype(np.float64)
    hits = np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(sorted_probability)), len(truth) - 1)
    f1 = 2 * hits[ends] / (ends + 1 + positives)
    following = np.append(sorted_probability, 0.0)[ends + 1]
    between = (sorted_probability[ends] + following) / 2
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(between[best[np.argmin(np.abs(between[best] - 0.5))]])


def _area(truth: np.ndarray, score: np.ndarray) -> float:
    positives = int(truth.sum())
    ranks = mean_ranks(score)[truth].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


def _f1(hits: float, false: float, missed: float) -> float:
    below = 2 * hits + false + missed
    return float(2 * hits / below) if below else 0.0


def _sigmoid(outputs: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(expit(outputs.astype(np.float64)), dtype=np.float32)


def _confused(truth: np.ndarray, chosen: np.ndarray, class_names: Sequence[str]) -> list[dict[str, object]]:
    """Pairs (label that was missed, label that was predicted though absent) by the items where both happened."""
    pairs: Counter[tuple[int, int]] = Counter()
    for known, said in zip(truth, chosen, strict=True):
        for missed in np.flatnonzero((known == 1) & ~said):
            pairs.update((int(missed), int(false)) for false in np.flatnonzero((known == 0) & said))
    return [
        {"missed": class_names[a], "predicted": class_names[b], "items": count}
        for (a, b), count in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_PAIRS]
    ]


def _samples(
    truth: np.ndarray, probability: np.ndarray, chosen: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, object]]:
    """Items with the most confident errors, each by its worst label."""
    wrong = (truth >= 0) & (chosen != (truth == 1))
    error = np.where(wrong, np.abs(probability - (truth == 1)), -1.0)
    order = np.argsort(-error.max(axis=1), kind="stable")[:_MOST_SAMPLES]
    return [
        {
            "row": int(row),
            "label": _named(truth[row] == 1, class_names),
            "predicted": _named(chosen[row], class_names),
            "probability": rounded(probability[row, error[row].argmax()]),
            "note": f"{'missed' if truth[row, error[row].argmax()] == 1 else 'false'}: "
            f"{class_names[int(error[row].argmax())]}",
        }
        for row in order
        if wrong[row].any()
    ]


def _named(which: np.ndarray, class_names: Sequence[str]) -> str:
    names = [class_names[int(i)] for i in np.flatnonzero(which)]
    more = f" and {len(names) - _SHOWN_LABELS} more" if len(names) > _SHOWN_LABELS else ""
    return (", ".join(names[:_SHOWN_LABELS]) + more) or "no label"
