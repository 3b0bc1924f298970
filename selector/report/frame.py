"""The ranking as a DataFrame: everything that the report says of a model, one row a model."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from selector.report.series import COST_AXES, fronts
from selector.results import Measurement, ModelResult, Ranking, ScoreCell, final_measurements

if TYPE_CHECKING:
    import pandas


def frame(ranking: Ranking, *, short: bool = False) -> pandas.DataFrame:
    """See ``Ranking.to_dataframe``."""
    import pandas as pd

    on_front = fronts(ranking)
    rows = []
    for model in ranking:
        row = _row(model, ranking.proxies)
        for axis in COST_AXES:
            for kind in ("predicted", "measured"):
                if (axis.key, kind) in on_front:
                    row[f"front_{kind}_{axis.key}"] = model.name in on_front[axis.key, kind]
        rows.append(row)
    found = pd.DataFrame(rows)
    if not short:
        return found
    measured = [name for name in found if re.fullmatch(r"measured_[a-z0-9]+_(val|test)", str(name))]
    wanted = [*_SHORT, *measured, "parameters"]
    return found[[name for name in wanted if name in found and bool(found[name].notna().any())]]


def _row(model: ModelResult, proxies: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "rank": model.rank,
        "model": model.name,
        "source": model.spec.get("source"),
        "status": model.status,
        "reason": model.reason,
        "traceback": model.traceback,
        "transferability": model.transferability,
        "transferability_low": model.transferability_low,
        "transferability_high": model.transferability_high,
        "p_best": model.p_best,
        "p_top_k": model.p_top_k,
        "mean_rank": model.mean_rank,
        "tied": model.tied,
        "normalized_score": model.normalized_score,
    }
    if model.prior is not None:
        row |= {
            "prior": model.prior.shift,
            "prior_weight": model.prior.weight,
            "prior_value": model.prior.value,
            "prior_origin": model.prior.origin,
        }
    if model.predicted is not None:
        told = f"predicted_{model.predicted.strategy}_{model.predicted.metric}"
        row |= {told: model.predicted.value, f"{told}_low": model.predicted.low, f"{told}_high": model.predicted.high}
    for proxy in proxies or model.scores:
        cell = model.scores.get(proxy, ScoreCell(None))
        row[proxy] = cell.value
        if cell.low is not None:
            row[f"{proxy}_low"], row[f"{proxy}_high"] = cell.low, cell.high
        if cell.reason:
            row[f"{proxy}_reason"] = cell.reason
        row.update({f"{proxy}_{name}": value for name, value in cell.details.items()})
    for strategy, m in final_measurements(model).items():
        row.update({f"measured_{strategy}_{name}": value for name, value in _measured(m).items()})
    cost = model.cost
    return row | {
        "features": model.num_features,
        "rows": model.rows,
        "parameters": model.num_parameters,
        **({} if cost is None else {name: value for name, value in cost.to_dict().items() if name not in _ELSEWHERE}),
        **({} if cost is None else {"batch_backend": cost.backend}),
        "backend": model.backend,
        "precision": model.precision,
        "extract_seconds": model.extract_seconds,
        "cached": model.cached,
        "license": model.spec.get("license"),
        "tags": ",".join(model.spec.get("tags", ())),
    }


_SHORT = ("rank", "model", "status", "transferability", "transferability_low", "transferability_high", "p_best", "tied")
_ELSEWHERE = ("backend", "precision")  # of the extraction, under the same names


def _measured(m: Measurement) -> dict[str, Any]:
    """A training: the deciding metric as ``val`` and ``test``, all metrics by name, and how it was trained."""
    height, width = m.resolution or (None, None)
    return {
        "val": m.val_value,
        "test": m.test_value,
        **{f"val_{name}": math.nan if value is None else value for name, value in m.val.items()},
        **{f"test_{name}": math.nan if value is None else value for name, value in m.test.items()},
        "metric": m.metric,
        "status": m.status,
        "note": m.note,
        "reduced": m.reduced,
        "height": height,
        "width": width,
        "steps": m.steps,
        "rate": m.learning_rate,
        "seed": m.seed,
        "round": m.round + 1,
        "seconds": m.seconds,
        "trained_parameters": m.trained_parameters,
    }
