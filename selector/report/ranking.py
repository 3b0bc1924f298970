"""``selector.Ranking``: the result of a run that can show itself."""

from __future__ import annotations

import math
import os
import re
from dataclasses import fields
from typing import TYPE_CHECKING

from selector import results
from selector.report.series import COST_AXES, fronts
from selector.report.table import render_html, render_text
from selector.results import Measurement, ModelResult, ScoreCell, final_measurements

if TYPE_CHECKING:
    import pandas


def frame(ranking: results.StoredRanking, *, short: bool = False) -> pandas.DataFrame:
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
    measured = [name for name in found if re.fullmatch(r"measured_[^_]+_(val|test)", str(name))]
    wanted = [*_SHORT, *measured, "parameters"]
    return found[[name for name in wanted if name in found and bool(found[name].notna().any())]]


def _row(model: ModelResult, proxies: list[str]) -> dict[str, object]:
    row: dict[str, object] = {"rank": model.rank, "model": model.name, "source": model.spec.get("source")}
    row |= {name: getattr(model, name) for name in _AS_THEY_ARE}
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
        **({"prompt": model.prompt} if model.prompt else {}),
        **({"texts_cut": model.texts_cut} if model.texts_cut else {}),
        "license": model.spec.get("license"),
        "tags": ",".join(model.spec.get("tags", ())),
    }


_AS_THEY_ARE = (
    *("status", "reason", "traceback", "transferability", "transferability_low", "transferability_high"),
    *("p_best", "p_top_k", "mean_rank", "tied", "normalized_score"),
)
_SHORT = ("rank", "model", "status", "transferability", "transferability_low", "transferability_high", "p_best", "tied")
_ELSEWHERE = ("backend", "precision")  # of the extraction, under the same names


def _measured(m: Measurement) -> dict[str, object]:
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


class Ranking(results.StoredRanking):
    """The result of ``selector.rank``, with a table in a terminal and a notebook; see ``results.Ranking``."""

    def to_dataframe(self, *, short: bool = False) -> pandas.DataFrame:
        """Everything that the report says of a model, one row per model, in rank order.

        Args:
            short: only what ranks the models and what was measured of them.

        Columns: rank, model, source, status, reason, transferability, normalized_score, prior, one a proxy with
        ``_low`` and ``_high`` where intervals were computed, ``measured_<strategy>_val|test`` with
        the other metrics and settings of that training, what the model costs, and
        ``front_<predicted|measured>_<parameters|latency|memory>`` for the best trade-offs.
        """
        return frame(self, short=short)

    def __str__(self) -> str:
        with results.showing(self):
            return render_text(self)

    def _repr_html_(self) -> str:
        with results.showing(self):
            return render_html(self)


def load_ranking(path: str | os.PathLike[str]) -> Ranking:
    """Read a run's folder (or its ``run.json``).

    Raises:
        ConfigError: there is no run, or it was written by a newer version.
    """
    run = results.load_ranking(path)
    return Ranking(**{field.name: getattr(run, field.name) for field in fields(run)})
