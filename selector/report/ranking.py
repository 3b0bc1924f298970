"""``selector.Ranking``: the result of a run that can show itself."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING

from selector import results
from selector.report.frame import frame
from selector.report.table import render_html, render_text

if TYPE_CHECKING:
    import pandas


class Ranking(results.Ranking):
    """The result of ``selector.rank``, with a table in a terminal and a notebook; see ``results.Ranking``."""

    def to_dataframe(self, *, short: bool = False) -> pandas.DataFrame:
        """Everything that the report says of a model, one row a model, in rank order.

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
