"""A scan and a confirmation from beginning to end."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selector import data as targets
from selector.config import ConfirmConfig, ScanConfig
from selector.core.contracts import Progress, ProgressCallback, Target
from selector.core.errors import ConfigError, OptionError, SourceError, TargetError, first_line
from selector.core.progress import listening
from selector.core.units import words
from selector.loggers import ExperimentLog, registry
from selector.options.training import TOP_K
from selector.report import plot
from selector.report.html import write_report
from selector.report.overview import Rankings
from selector.report.ranking import Ranking, load_ranking
from selector.scan import dataset_view
from selector.scan.adapting import Asked, ask, take
from selector.scan.caveats import no_training
from selector.scan.checks import (
    check_for_target,
    check_strategies,
    default_run_folder,
    load_target,
    open_executor,
    open_store,
    run_folder,
)
from selector.scan.confirmation import leading
from selector.scan.fine_tuning import fine_tune
from selector.scan.many import listed, rank_many
from selector.scan.precomputed import extraction_for
from selector.scan.target_scan import TargetScan, isolation_of
from selector.store import FeatureStore
from selector.zoo import ModelSpec, check_trusted
from selector.zoo.spec import network_of

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

    def _metric(self, name: str, value: object, step: int) -> None:
        if isinstance(value, int | float) and math.isfinite(value):
            self._each("metric", "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name).strip(), value, step)

    def _each(self, method: str, *given: object) -> None:
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


def _plain(value: object) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else "" if value is None else str(value)


def rank(target: object, config: ScanConfig) -> Ranking | Rankings:
    """Rank pretrained models for a labeled target, or for several; see ``selector.rank``."""
    several = listed(target, config)
    with listening(config.progress) as tell, open_logs(config.log, _name(target)) as logs:
        notify = logs.listening(tell)
        try:
            if several is None:
                found = _rank(target, config, notify)
                logs.finish(found)
                return found
            return rank_many(several, config, notify)
        finally:
            open_store(config.store).trim()


def confirm(ranking: Ranking | str | os.PathLike[str], config: ConfirmConfig) -> Ranking:
    """Fine-tune the leading models of a ranking; see ``selector.confirm``."""
    name = str(ranking.target.get("name")) if isinstance(ranking, Ranking) else Path(ranking).name
    with listening(config.progress) as notify, open_logs(config.log, name) as logs:
        found = _confirm(ranking, config, logs.listening(notify))
        logs.finish(found)
        return found


def _name(target: object) -> str:
    """Of a logged run, before the target is loaded."""
    return Path(target).stem if isinstance(target, str | os.PathLike) else str(getattr(target, "name", "selector"))


def label(
    ranking: Ranking | str | os.PathLike[str],
    count: int,
    answers: str | os.PathLike[str] | None,
    trust_zoo: bool,
    target: object,
    progress: ProgressCallback | bool | None,
) -> Asked:
    """Few labels of a target that has none; see ``selector.label``."""
    if not isinstance(ranking, Ranking):
        ranking = load_ranking(ranking)
    if answers is not None:
        take(ranking, Path(answers))
        ranking = confirm(ranking, _as_confirmed(ranking, trust_zoo, target, progress))
        write_report(ranking)  # that of before names another choice
    made = ScanConfig.from_record(ranking.settings)
    return ask(ranking, _target_of(ranking, target, made, open_store(made.store)), count)


def _as_confirmed(
    ranking: Ranking, trust_zoo: bool, target: object, progress: ProgressCallback | bool | None
) -> ConfirmConfig:
    """The options of the run's confirmation, for the same once more."""
    kept = ranking.settings.get("confirm")
    known = ConfirmConfig().training_record()  # where it runs and whom it tells is no matter of a file
    recorded = ConfirmConfig.from_record({k: kept[k] for k in known if k in kept} if isinstance(kept, dict) else {})
    asked = {"trust_zoo": trust_zoo, "target": target, "progress": progress, "overwrite": True}
    return recorded.model_copy(update=asked)


def _rank(target: object, config: ScanConfig, notify: ProgressCallback) -> Ranking:
    with open_executor(config, notify, config) as executor:
        scan = TargetScan(target, config, executor, notify)
        if scan.rounds is not None:
            scan.rounds.run()
        return scan.finish()


def _confirm(ranking: Ranking | str | os.PathLike[str], config: ConfirmConfig, notify: ProgressCallback) -> Ranking:
    if not isinstance(ranking, Ranking):
        ranking = load_ranking(ranking)
    specs = [ModelSpec(**m.spec) for m in ranking if m.status == "ok"]
    if not specs:
        raise ConfigError("no model of this run finished, so there is none to confirm; its report says why.")
    if config.models is not None:
        specs = _named(specs, words(config.models))
    networks = len({network_of(spec) for spec in specs})
    usual = networks if config.models is not None else min(TOP_K, networks)
    top_k = usual if config.top_k is None else config.top_k
    if top_k > networks:
        raise OptionError(
            f"top_k must be an int in the range [1, {networks}], the number of models that finished. Got {top_k}.",
            "top_k",
        )
    made = ScanConfig.from_record(ranking.settings)
    if config.seed is None:
        config = config.model_copy(update={"seed": made.seed})
    check_strategies(config)
    trusted = config.trust_zoo or ranking.trusted
    _check_trust(ranking, specs, top_k, trusted)
    with open_executor(config, notify, made) as executor:
        features_store = open_store(config.store or made.store)
        data = _target_of(ranking, config.target, made, features_store)
        check_for_target(config, data)
        if untrained := no_training(data):
            raise ConfigError(untrained.text)
        if config.out or ranking.path is None:
            ranking = ranking.save(run_folder(config, data, confirming=True) or default_run_folder(data))
        extraction = extraction_for(data, features_store, made, config, trusted, notify, isolation_of(made), executor)
        return fine_tune(ranking, extraction, specs, config, top_k)


def _named(specs: Sequence[ModelSpec], patterns: Sequence[str]) -> list[ModelSpec]:
    """The models that finished and are named.

    Raises:
        OptionError: a pattern names none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(spec.name, pattern) for spec in specs):
            finished = ", ".join(spec.name for spec in specs[:5])
            raise OptionError(
                f"models must name models of this run that finished ({finished}). Got '{pattern}'.", "models"
            )
    return [spec for spec in specs if any(fnmatchcase(spec.name, pattern) for pattern in patterns)]


def _check_trust(ranking: Ranking, specs: Sequence[ModelSpec], top_k: int, trusted: bool) -> None:
    """Refuse before anything is loaded what would be refused when its turn comes.

    Raises:
        ConfigError: one of the models to fine-tune runs code, and nobody trusts it on this call.
    """
    for spec in leading(ranking, specs, top_k):
        try:
            check_trusted(spec, trusted)
        except SourceError as error:
            raise OptionError(f"trust_zoo: {error}", "trust_zoo") from None


def _target_of(ranking: Ranking, target: object, made: ScanConfig, store: FeatureStore) -> Target:
    """The target that a ranking was made from, checked to be unchanged."""
    data = ranking.loaded_target
    if target is not None or data is None:
        origin = ranking.target.get("origin")
        if target is None and origin is None:
            raise ConfigError(
                "this run was made from objects in memory; pass the data again: confirm(run, target=...)."
            )
        whole = made.model_copy(update={"max_samples": None})
        loaded = targets.load_origin(origin) if target is None else load_target(target, whole, again=True)
        # the run knows which items cannot be used, also where this store does not
        data = load_target(targets.repeated(loaded, (origin or {}).get("steps", ())), made, again=True)
        data = dataset_view.without_known_bad(data, store, made.on_invalid)
    if data.fingerprint != ranking.target["fingerprint"]:
        raise TargetError(
            f"the target has changed since this run: its fingerprint is {data.fingerprint[:12]}, the run's is "
            f"{str(ranking.target['fingerprint'])[:12]}; scan it again (unchanged images are not extracted again)."
        )
    return data
