"""One or several real values an item: squared error on standardized values, judged in the target's own units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import numpy as np

from selector.core.contracts import LabelKind, Target
from selector.core.errors import ConfigError, did_you_mean
from selector.core.stats import Metric, mean_ranks
from selector.core.table import RowPlan
from selector.core.task import BalanceOptions, Criterion, Probe, Section, Stats
from selector.tasks import task
from selector.tasks._linear import LinearTask, check_columns
from selector.tasks._read_regression import RegressionReading, quantiles

if TYPE_CHECKING:
    import torch

METRICS: Mapping[str, Metric] = {
    "r2": Metric(unit="", chance=0.0),
    "mae": Metric(sign=-1, unit="target", epsilon=0.0, format=".4g"),
    "rmse": Metric(sign=-1, unit="target", epsilon=0.0, format=".4g"),
    "spearman": Metric(unit=""),
}
LOSSES = ("mse", "huber")
COVERAGE = 0.9  # of the conformal intervals
_MOST_SAMPLES, _MOST_POINTS = 12, 600


class RegressionStats(Stats):
    """Of each item ``truth`` (N, T), NaN where unknown, and ``predicted`` (N, T), both in the target's units.

    ``summary`` holds ``mean`` and ``scale`` (T,) of the training values, and ``interval`` (T,), half-widths of the
    conformal intervals, where they were chosen.
    """

    def value(self, metric: str) -> float:
        """Any of ``METRICS``, the mean over the T values; of one that does not vary among these items none."""
        truth, predicted = self.arrays["truth"], self.arrays["predicted"]
        found = []
        for y, p in zip(truth.T, predicted.T, strict=True):
            known = ~np.isnan(y)
            value = _of_column(metric, y[known], p[known])
            if value == value:
                found.append(value)
        return float(np.mean(found)) if found else float("nan")

    def ratio(self, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The mean absolute error of one fully known value is a mean over items."""
        truth, predicted = self.arrays["truth"], self.arrays["predicted"]
        if metric != "mae" or truth.shape[1] != 1 or np.isnan(truth).any():
            return None
        return np.abs(truth - predicted)[:, 0], np.ones(len(truth))

    def coverage(self) -> float | None:
        """Share of known values inside their conformal interval; None where there is none."""
        half = self.summary.get("interval")
        if half is None:
            return None
        inside = np.abs(self.arrays["truth"] - self.arrays["predicted"]) <= np.asarray(half)
        known = ~np.isnan(self.arrays["truth"])
        return float(inside[known].mean()) if known.any() else None


@task("regression")
class Regression(RegressionReading, LinearTask):
    """See ``core.task.Task``. Networks give standardized values; what validation chooses is the half-width of a split
    conformal interval (Vovk et al. 2005), which covers 90% of exchangeable items whatever the model."""

    name = "regression"
    label_kind = LabelKind.REAL
    facet = "values"
    class_noun = "values"
    metrics = METRICS
    stats_type: ClassVar[type[RegressionStats]] = RegressionStats

    def labels(self, annotations: np.ndarray) -> np.ndarray:
        """float32 (N, T), NaN where unknown."""
        values = annotations.astype(np.float32)
        return values[:, None] if values.ndim == 1 else values

    def strata(self, target: Target) -> np.ndarray | None:
        """Quantiles of a single value."""
        values = self.labels(target.labels)
        return quantiles(values[:, 0]) if values.shape[1] == 1 else None

    def num_outputs(self, target: Target) -> int:
        """T, the number of values."""
        return 1 if target.labels.ndim == 1 else int(target.labels.shape[1])

    loss: str = "mse"

    def configured(
        self, *, decoder: str | None = None, loss: str | None = None, **options: Unpack[BalanceOptions]
    ) -> Self:
        """The task with another loss.

        Raises:
            ConfigError: there is no such loss, or a decoder is named.
        """
        other = super().configured(decoder=decoder, **options)
        if loss not in (None, *LOSSES):
            raise ConfigError(
                f"unknown loss '{loss}'{did_you_mean(str(loss), LOSSES) or '.'} Known: {', '.join(LOSSES)}."
            )
        other.loss = loss or self.loss
        return other

    @property
    def address(self) -> str:
        """With the loss, where it is not the usual one."""
        return self.name if self.loss == "mse" else f"{self.name} {self.loss}"

    def criterion(self, target: Target) -> Criterion:
        """Mean over known, standardized values: their squared error, or Huber's loss, which is linear beyond one
        deviation (on the scale of the squared error below it)."""
        import torch

        mean, scale = (torch.from_numpy(part.astype(np.float32)) for part in self.standard(target))

        def criterion(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            known = ~labels.isnan()
            wanted = (labels.nan_to_num() - mean.to(outputs.device)) / scale.to(outputs.device)
            if self.loss == "huber":
                each = 2 * torch.nn.functional.huber_loss(outputs, wanted, reduction="none")
            else:
                each = (outputs - wanted) ** 2
            return (each * known).sum() / known.sum().clamp(min=1)

        return criterion

    def standard(self, target: Target) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (T,) of the training values."""
        values = self.labels(target.labels_of(target.indices("train"))).astype(np.float64)
        deviation = np.nanstd(values, axis=0)
        return np.nanmean(values, axis=0), np.where(deviation > 0, deviation, 1.0)

    def probe(
        self,
        target: Target,
        train: tuple[RowPlan, np.ndarray],
        val: tuple[RowPlan, np.ndarray],
        strengths: Sequence[float] | None = None,
    ) -> Probe | None:
        """Ridge on standardized values; see ``linear.solve_head``."""
        mean, scale = self.standard(target)

        def standardized(part: tuple[RowPlan, np.ndarray]) -> tuple[RowPlan, np.ndarray]:
            plan, rows = part
            facet = plan.facets[self.facet]
            labels = ((self.labels(facet.labels) - mean) / scale).astype(np.float32)
            return replace(plan, facets={self.facet: replace(facet, labels=labels)}), rows

        return super().probe(target, standardized(train), standardized(val), strengths)

    def judged(
        self, outputs: np.ndarray, target: Target, items: np.ndarray, context: Mapping[str, Any] | None = None
    ) -> RegressionStats:
        """See ``LinearTask``; outputs are standardized."""
        labels = self.labels(target.labels_of(items))
        return self.stats(outputs, labels, *self.standard(target), (context or {}).get("interval"))

    def stats(
        self,
        outputs: np.ndarray,
        labels: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        interval: Sequence[float] | None = None,
    ) -> RegressionStats:
        """Statistics of standardized outputs (N, T) and values (N, T), NaN where unknown.

        Raises:
            TargetError: shapes that do not fit.
            NotFinite: outputs that are no numbers.
        """
        check_columns(outputs, labels, "values must have one shape (N, T)")
        summary: dict[str, object] = {"mean": [float(m) for m in mean], "scale": [float(s) for s in scale]}
        if interval is not None:
            summary["interval"] = [float(half) for half in interval]
        arrays = {"truth": labels.astype(np.float64), "predicted": outputs.astype(np.float64) * scale + mean}
        return self.stats_type(arrays, summary)

    def calibrate(self, stats: Stats) -> dict[str, object]:
        """The scale of the outputs, and half-widths of 90% intervals from the residuals."""
        residuals = np.abs(stats.arrays["truth"] - stats.arrays["predicted"])
        halves = [conformal_half(column[~np.isnan(column)]) for column in residuals.T]
        kept = {name: stats.summary[name] for name in ("mean", "scale")}
        return {**kept, "interval": halves} if all(math.isfinite(half) for half in halves) else kept

    def trivial(self, target: Target, items: np.ndarray) -> RegressionStats:
        """Always the mean of train + val."""
        known = np.nanmean(self.labels(target.labels_of(target.indices("train", "val"))), axis=0)
        labels = self.labels(target.labels_of(items))
        return self.stats(np.zeros(labels.shape), labels, known, np.ones(len(known)))

    def predictions(
        self, outputs: object, class_names: Sequence[str], context: Mapping[str, Any]
    ) -> list[dict[str, object]]:
        """``value`` in the target's units (of several their names), with the ends of its 90% interval."""
        values = np.asarray(outputs, dtype=np.float64) * np.asarray(context["scale"]) + np.asarray(context["mean"])
        names = list(class_names) or (
            ["value"] if values.shape[1] == 1 else [f"value_{i}" for i in range(values.shape[1])]
        )
        halves = context.get("interval")
        found = []
        for row in values:
            cells: dict[str, object] = {}
            for i, (name, value) in enumerate(zip(names, row, strict=True)):
                cells[name] = float(value)
                if halves is not None:
                    cells |= {f"{name}_low": float(value - halves[i]), f"{name}_high": float(value + halves[i])}
            found.append(cells)
        return found

    def activation(self, outputs: torch.Tensor, context: Mapping[str, Any]) -> tuple[str, torch.Tensor]:
        """Values in the target's units."""
        scale, mean = (outputs.new_tensor(context[name]) for name in ("scale", "mean"))
        return "values", outputs * scale + mean

    def meaning(self, class_names: Sequence[str], context: Mapping[str, Any]) -> tuple[str, str]:
        """How outputs become values, and the half-widths of their intervals."""
        scale, mean = (", ".join(f"{value:.6g}" for value in context[name]) for name in ("scale", "mean"))
        halves = context.get("interval")
        told = "" if halves is None else f"; 90% intervals (split conformal) ± {', '.join(f'{h:.4g}' for h in halves)}"
        return "values", f"outputs · [{scale}] + [{mean}]{told}"

    def report(self, stats: Stats, class_names: Sequence[str]) -> Section:
        """Results by value, predicted against true values, and the largest errors."""
        assert isinstance(stats, RegressionStats)
        truth, predicted = stats.arrays["truth"], stats.arrays["predicted"]
        names = list(class_names) or (
            ["value"] if truth.shape[1] == 1 else [f"value {i}" for i in range(truth.shape[1])]
        )
        half = stats.summary.get("interval")
        rows = []
        for i, name in enumerate(names):
            known = ~np.isnan(truth[:, i])
            row: dict[str, object] = {"value": name, "items": int(known.sum())}
            row |= {m: _rounded(_of_column(m, truth[known, i], predicted[known, i])) for m in METRICS}
            if half is not None:
                inside = np.abs(truth[known, i] - predicted[known, i]) <= half[i]
                row |= {"90% interval ±": _rounded(float(half[i])), "coverage": _rounded(float(inside.mean()))}
            rows.append(row)
        step = max(1, len(truth) // _MOST_POINTS)
        points = {
            name: [
                [_rounded(float(y)), _rounded(float(p))]
                for y, p in zip(truth[::step, i], predicted[::step, i], strict=True)
                if y == y
            ]
            for i, name in enumerate(names)
        }
        return Section({"values": rows}, self._samples(stats, names), {"predicted against true": points})

    @staticmethod
    def _samples(stats: RegressionStats, names: Sequence[str]) -> list[dict[str, object]]:
        """The largest errors, in deviations of the training values."""
        truth, predicted = stats.arrays["truth"], stats.arrays["predicted"]
        error = np.nan_to_num(np.abs(truth - predicted) / np.asarray(stats.summary["scale"]), nan=-1.0)
        found = []
        for row in np.argsort(-error.max(axis=1), kind="stable")[:_MOST_SAMPLES]:
            worst = int(error[row].argmax())
            prefix = f"{names[worst]} " if len(names) > 1 else ""
            found.append(
                {
                    "row": int(row),
                    "label": f"{prefix}{truth[row, worst]:.5g}",
                    "predicted": f"{prefix}{predicted[row, worst]:.5g}",
                }
            )
        return found


def conformal_half(residuals: np.ndarray, coverage: float = COVERAGE) -> float:
    """Half-width of the split conformal interval: the ⌈(n + 1) · coverage⌉-th smallest absolute residual; infinite
    with too few of them.

    >>> conformal_half(np.arange(1.0, 20.0)), conformal_half(np.ones(5))
    (18.0, inf)
    """
    place = math.ceil((len(residuals) + 1) * coverage)
    return float(np.sort(residuals)[place - 1]) if place <= len(residuals) else math.inf


def _of_column(metric: str, truth: np.ndarray, predicted: np.ndarray) -> float:
    if not len(truth):
        return float("nan")
    error = truth - predicted
    if metric == "mae":
        return float(np.abs(error).mean())
    if metric == "rmse":
        return float(np.sqrt((error**2).mean()))
    if np.ptp(truth) == 0:
        return float("nan")
    if metric == "r2":
        return float(1 - (error**2).sum() / ((truth - truth.mean()) ** 2).sum())
    if np.ptp(predicted) == 0:
        return 0.0  # no order is worth a random one
    return float(np.corrcoef(mean_ranks(truth), mean_ranks(predicted))[0, 1])


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
