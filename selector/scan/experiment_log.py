"""Reports a run to experiment loggers: losses while it trains, then its settings, metrics, figures, table and report."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selector.core.contracts import Progress, ProgressCallback
from selector.core.errors import ConfigError, first_line
from selector.core.units import words
from selector.loggers import ExperimentLog, registry
from selector.report import plot
from selector.report.html import write_report
from selector.report.ranking import Ranking

log = logging.getLogger(__name__)


class Logs:
    """Reports to several loggers. One that fails is left out from then on: a run does not end for its log."""

    def __init__(self, loggers: Sequence[ExperimentLog]) -> None:
        self._loggers = list(loggers)

    def listening(self, notify: ProgressCallback) -> ProgressCallback:
        """A listener that hands events on and logs the values that they carry."""
        if not self._loggers:
            return notify

        def listen(event: Progress) -> None:
            notify(event)
            for name, value in event.values.items():  # a configuration trains once a round, each time for longer
                what = f"{event.stage}/{name}/{event.model} {event.note}, {event.total} {event.unit}"
                self._metric(what, value, event.done)

        return listen

    def finish(self, ranking: Ranking) -> None:
        """Settings, final metrics, rounds, pilot runs, figures, the table and the report."""
        if not self._loggers:
            return
        settings = {f"target.{key}": ranking.target.get(key) for key in ("name", "items", "classes", "fingerprint")}
        self._each("params", {key: _plain(value) for key, value in {**settings, **ranking.settings}.items()})
        for entry in ranking.confirmation.get("history", ()):
            if entry.get("value") is not None:
                name = f"rounds/{ranking.confirmation['metric']}/{entry['model']} {entry['strategy']}"
                self._metric(name, entry["value"], int(entry.get("steps_done") or entry.get("steps") or 0))
        for model in ranking:
            if model.transferability is not None:
                self._metric(f"transferability/{model.name}", model.transferability, 0)
            if model.pilot is not None and model.pilot.after is not None:
                self._metric(f"pilot/{model.pilot.metric}/{model.name}", model.pilot.after, model.pilot.steps)
            for m in model.measurements:
                for split, values in (("val", m.val), ("test", m.test)):
                    for name, value in values.items():
                        self._metric(f"{split}/{name}/{model.name} {m.strategy}", value, m.steps)
        self._figures(ranking)
        with TemporaryDirectory() as folder:
            table = Path(folder) / "ranking.csv"
            ranking.to_dataframe().to_csv(table, index=False)
            files = [] if ranking.path is None else [write_report(ranking), ranking.path / "run.json"]
            for path in (table, *files):
                self._each("artifact", path)

    def close(self) -> None:
        """End all of them."""
        self._each("close")
        self._loggers.clear()

    def _figures(self, ranking: Ranking) -> None:
        for name in ("intervals", "agreement", "history"):
            try:
                figure = getattr(plot, name)(ranking)
            except ConfigError:  # matplotlib is missing, or there is nothing to draw
                continue
            self._each("figure", name, figure)

    def _metric(self, name: str, value: Any, step: int) -> None:
        if isinstance(value, int | float) and math.isfinite(value):
            self._each("metric", "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name).strip(), value, step)

    def _each(self, method: str, *given: Any) -> None:
        for one in tuple(self._loggers):
            try:
                getattr(one, method)(*given)
            except Exception as error:  # noqa: BLE001 - servers and files of loggers fail in ways of their own
                self._loggers.remove(one)
                log.warning("%s fails and is left out: %s", type(one).__name__, first_line(error))


@contextmanager
def open_logs(asked: Any, name: str) -> Iterator[Logs]:
    """The loggers of a call.

    Args:
        asked: names, comma-separated, such as ``tensorboard:runs/tb,mlflow``; loggers; a sequence of both; None.
        name: of the run.
    Raises:
        ConfigError: an unknown name, an object that is no logger, or a package that is missing.
    """
    given = [asked] if isinstance(asked, ExperimentLog) else words(asked)
    loggers: list[ExperimentLog] = []
    for one in given:
        if isinstance(one, str):
            kind, _, place = one.partition(":")
            make = registry.get(kind)
            try:
                loggers.append(make(name, place))
            except ImportError as error:
                raise ConfigError(
                    f"log '{kind}' needs a package that is missing ({error}); run: pip install 'zoo-selector[{kind}]'"
                ) from None
            except Exception as error:
                # servers, accounts and folders are refused by errors of each library's own
                raise ConfigError(
                    f"log '{one}' cannot be opened ({type(error).__name__}: {first_line(error)}); give another place, or leave it out."
                ) from error
        elif isinstance(one, ExperimentLog):
            loggers.append(one)
        else:
            raise ConfigError(
                f"log must hold names ({', '.join(registry.names())}) or loggers (selector.loggers.ExperimentLog). "
                f"Got {type(one).__name__}."
            )
    logs = Logs(loggers)
    try:
        yield logs
    finally:
        logs.close()


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else "" if value is None else str(value)
