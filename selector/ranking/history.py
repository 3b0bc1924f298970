"""Past results of this machine: one SQLite file that runs add to and the prior reads.

A row is one figure of one model on one target: *measured* by fine-tuning, or *predicted* by the
transferability of a scan. Only measured ones ever enter a prior (``selector.ranking.prior``); predicted ones are
kept so that predictions can be compared with what was measured later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import numpy as np
import platformdirs
from filelock import FileLock
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, create_model

from selector.core.atomic import replacing
from selector.core.errors import ConfigError, HistoryError, did_you_mean
from selector.core.old_names import translate_metric
from selector.core.stats import mean_ranks
from selector.ranking.agreement import weighted_tau

log = logging.getLogger(__name__)

VERSION = 2
Kind = Literal["measured", "predicted"]
KINDS: tuple[Kind, ...] = ("measured", "predicted")
SCORE_METRIC = "normalized_score:"
"""Metric of the predicted rows: this, and the members that the normalized score is the mean of."""
_VARIABLE = "SELECTOR_HISTORY"
_BUSY_SECONDS = 30.0
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_Found = TypeVar("_Found")


_Number = Annotated[float, Field(allow_inf_nan=False)]
_Text = Annotated[str, Field(description="text")]
_Named = Annotated[str, Field(min_length=1, description="text, and not be empty")]
_Facts = Annotated[
    Mapping[str, _Number],
    BeforeValidator(lambda value: dict(value) if isinstance(value, Mapping) else value),
    Field(description="finite numbers by name"),
]


@dataclass(frozen=True)
class Result:
    """One value of one model on one target.

    Attributes:
        target: fingerprint of the target.
        model: name in the zoo.
        metric: what ``value`` is (accuracy, macro_f1, ...; for predicted rows transferability or a proxy).
        value: finite; higher is better except where the metric says loss or error.
        kind: ``measured`` or ``predicted``.
        strategy: frozen, partial, full, lora; empty for predicted rows.
        source: as the zoo names it, such as ``timm:resnet18``; two zoos may give one name to two models.
        target_name: for people, and to recognize a published dataset.
        origin: ``run``, or ``published`` for values of a fact table.
        run: which run wrote it; the same run writes a value once, a second time replaces it.
        when: UTC, ISO 8601; filled in when the row is added.
        facts: what was known of the model without the target (parameters, upstream accuracy, ...),
            so that facts can be weighted by what was measured, whichever models a later run looks at.
        items: validation items behind ``value``; 0 where unknown. A few items decide little.
    """

    target: _Named
    model: _Named
    metric: _Named
    value: Annotated[_Number, Field(description="a finite number")]
    kind: Annotated[Kind, Field(description=f"one of {', '.join(KINDS)}")] = "measured"
    strategy: _Text = ""
    source: _Text = ""
    target_name: _Text = ""
    origin: _Text = "run"
    run: _Text = ""
    when: _Text = ""
    facts: _Facts = field(default_factory=dict)
    items: Annotated[int, Field(ge=0, description="an int >= 0")] = 0

    def __post_init__(self) -> None:
        try:
            _Row.model_validate(vars(self))
        except ValidationError as error:
            first = error.errors()[0]
            name, found = str(first["loc"][0]), first["input"]
            needed = _Row.model_fields[name].description
            if name == "facts":
                found = dict(self.facts) if isinstance(self.facts, Mapping) else self.facts
            raise ConfigError(f"The {name!r} of a result must be {needed}. Got {found!r}.") from None


_Row = create_model(
    "_Row",
    __config__=ConfigDict(strict=True),
    **{name: (hint, ...) for name, hint in get_type_hints(Result, include_extras=True).items()},  # type: ignore[call-overload]
)
"""Checks a result, whoever wrote it: a run, a file of others, a damaged database."""

_COLUMNS = tuple(column.name for column in fields(Result))
_NAMES = ", ".join(f'"{name}"' for name in _COLUMNS)
_KEY = ("target", "model", "source", "strategy", "metric", "kind", "run")
_TYPES = {"value": "REAL", "items": "INTEGER"}
_ASSUMED_ITEMS = 30  # of rows of format 1, which did not say: few, so that they decide little
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS results ("
    + ", ".join(f'"{name}" {_TYPES.get(name, "TEXT")} NOT NULL' for name in _COLUMNS)
    + ", UNIQUE ("
    + ", ".join(_KEY)
    + "))"
)
_INSERT = f"INSERT OR REPLACE INTO results ({_NAMES}) VALUES ({', '.join('?' * len(_COLUMNS))})"


def default_path() -> Path:
    """``SELECTOR_HISTORY``, or ``history.sqlite`` in the user's data folder."""
    named = os.environ.get(_VARIABLE)
    return Path(named) if named else Path(platformdirs.user_data_dir("selector")) / "history.sqlite"


class History:
    """The results of earlier runs; safe with several processes, which wait for each other.

    Args:
        path: the SQLite file; ``default_path()`` when left out. It is made by the first ``add``.
    Raises (every method):
        HistoryError: the file is damaged (it is set aside and the next call starts a new one),
            was written by a newer version, or cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = default_path() if path is None else Path(path)

    def add(self, results: Iterable[Result]) -> int:
        """Keep results, all or none; returns how many were not known before."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [_values(r if r.when else replace(r, when=now)) for r in results]
        if not rows:
            return 0

        def write(connection: sqlite3.Connection) -> int:
            before = _count(connection)
            connection.executemany(_INSERT, rows)
            return _count(connection) - before

        return self._transaction(write)

    def results(self, *, target: str = "", model: str = "", kind: str = "", run: str = "") -> list[Result]:
        """Results, oldest first; each named value narrows them. Empty when nothing was ever added."""
        where, values = _where({"target": target, "model": model, "kind": kind, "run": run})
        order = ", ".join(f'"{name}"' for name in ("when", *_KEY))
        query = f"SELECT {_NAMES} FROM results{where} ORDER BY {order}"
        if not self.path.exists():
            return []
        rows = self._transaction(lambda connection: connection.execute(query, values).fetchall(), write=False)
        return self._sound(rows)

    def column_of(self, shown: str) -> str:
        """Which column an id that ``selector history list`` shows is of: ``run``, or ``target``, whose start is enough.

        Raises:
            ConfigError: no result has it, or it is both.
        """
        results = self.results()
        found = {
            "run": any(r.run == shown for r in results),
            "target": any(r.target.startswith(shown) for r in results),
        }
        columns = [column for column, there in found.items() if there and shown]
        if len(columns) != 1:
            fault = (
                f"'{shown}' is a run and begins a target" if columns else f"no result is of a run or target '{shown}'"
            )
            then = "say --run or --target" if columns else "'selector history list' shows both"
            raise ConfigError(f"{fault}; {then}.")
        return columns[0]

    def forget(self, *, target: str = "", model: str = "", run: str = "", everything: bool = False) -> int:
        """Delete results that match all named values; returns how many.

        Args:
            target: its fingerprint, or its first characters, as ``selector history list`` shows them.
        Raises:
            ConfigError: nothing is named and ``everything`` is False, or several targets begin like that.
        """
        if target:
            begun = sorted({r.target for r in self.results() if r.target.startswith(target)})
            if len(begun) > 1 and target not in begun:
                raise ConfigError(
                    f"target: '{target}' begins the fingerprints of {len(begun)} targets; give more of it: "
                    f"{', '.join(name[:16] for name in begun[:5])}."
                )
            target = begun[0] if len(begun) == 1 else target
        where, values = _where({"target": target, "model": model, "run": run})
        if not where and not everything:
            raise ConfigError("forget needs a target, a model or a run; everything=True forgets all results.")
        if not self.path.exists():
            return 0
        return self._transaction(lambda connection: connection.execute(f"DELETE FROM results{where}", values).rowcount)

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write all results as JSON lines, whole or not at all; returns how many."""
        rows, file = self.results(), Path(path)
        try:
            with replacing(file) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in dump(rows)), encoding="utf-8")
        except OSError as error:
            raise HistoryError(f"{file} cannot be written: {error}; name another file.") from error
        return len(rows)

    def import_(self, path: str | os.PathLike[str]) -> int:
        """Add the results of an exported file, all or none; returns how many were not known before.

        Raises:
            ConfigError: the file cannot be read or a line is no result; it names the line.
        """
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} cannot be read: {error}; give a file that 'history export' wrote.") from error
        return self.add(parse(text.split("\n"), str(file)))

    def _sound(self, rows: Sequence[Sequence[object]]) -> list[Result]:
        """The rows that can be read; a damaged one is left out with a warning, and a run goes on without it."""
        found, reasons = [], []
        for row in rows:
            try:
                found.append(_from_row(row))
            except (ConfigError, ValueError, TypeError, RecursionError) as error:
                reasons.append(str(error))
        if reasons:
            log.warning(
                "%d of %d rows of the history %s are damaged and left out (%s)",
                len(reasons), len(rows), self.path, reasons[0],
            )  # fmt: skip
        return found

    def _transaction(self, action: Callable[[sqlite3.Connection], _Found], *, write: bool = True) -> _Found:
        """Run one action whole or not at all; a writer waits until the others are done."""
        try:
            if write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)) as c:
                c.text_factory = _text
                c.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    self._prepare(c)
                    found = action(c)
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):  # the first error is the one to report
                        c.execute("ROLLBACK")
                    raise
                c.execute("COMMIT")
                return found
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
                raise self._set_aside(error) from error
            raise HistoryError(
                f"The history {self.path} cannot be used: {error}; free it, or name another file in {_VARIABLE}."
            ) from error
        except UnicodeDecodeError as error:
            raise HistoryError(
                f"The history {self.path} is damaged ({error}); move it away, the next run starts a new one. Results that "
                "were exported come back with 'selector history import FILE'."
            ) from error
        except OSError as error:
            raise HistoryError(
                f"The history {self.path} cannot be used: {error}; name another file in {_VARIABLE}."
            ) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Tables of a new file; a file of a newer version is left as it is."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise HistoryError(
                f"The history {self.path} has format {version}, this version of selector reads {VERSION}; "
                f"update selector, or name another file in {_VARIABLE}."
            )
        if version == 0:
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        elif version == 1:
            connection.execute(f'ALTER TABLE results ADD COLUMN "items" INTEGER NOT NULL DEFAULT {_ASSUMED_ITEMS}')
            connection.execute(f"PRAGMA user_version = {VERSION}")

    def _set_aside(self, error: sqlite3.Error) -> HistoryError:
        """Rename the damaged file once, whichever of several processes sees it first."""
        with FileLock(f"{self.path}.lock"):
            if not _damaged(self.path):
                return HistoryError(
                    f"The history {self.path} was damaged ({error}) and another process has set it aside; try again."
                )
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
            aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}-{uuid.uuid4().hex[:6]}")
            self.path.replace(aside)
            # a journal belongs to the file it was written for; left here it would be played into the new one
            journal = Path(f"{self.path}-journal")
            if journal.exists():
                journal.replace(f"{aside}-journal")
        return HistoryError(
            f"The history {self.path} is damaged ({error}); it was set aside as {aside.name} and the next run "
            "starts a new one. Results that were exported come back with 'selector history import FILE'."
        )


def dump(results: Iterable[Result]) -> Iterator[str]:
    """One JSON document a result."""
    for result in results:
        yield json.dumps(asdict(result), ensure_ascii=False)


def parse(lines: Iterable[str], where: str) -> list[Result]:
    """The inverse of ``dump``; empty lines are skipped.

    Raises:
        ConfigError: names the line and what is wrong with it.
    """
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:  # no JSON, a number of 5,000 digits, nested too deeply
            raise ConfigError(f"{where}:{number}: expected one JSON object per line. Got {error}.") from None
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}:{number}: expected a JSON object. Got {type(entry).__name__}.")
        found.append(_result(entry, f"{where}:{number}"))
    return found


def snapshot(results: Iterable[Result]) -> dict[str, object]:
    """What a run records of the history it used: how many rows, until when, and a digest of them.

    >>> snapshot([])["rows"]
    0
    """
    lines = sorted(dump(results))
    latest = max((json.loads(line)["when"] for line in lines), default="")
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return {"rows": len(lines), "latest": latest, "digest": digest}


def _result(entry: Mapping[str, Any], where: str) -> Result:
    for key in entry:
        if key not in _COLUMNS:
            raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(key, _COLUMNS)}.")
    missing = [name for name in ("target", "model", "metric", "value") if name not in entry]
    if missing:
        raise ConfigError(f"{where}: a result needs {', '.join(missing)}.")
    try:
        return _renamed(Result(**entry))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _renamed(result: Result) -> Result:
    """A predicted row of an earlier version under the metric's name of today."""
    metric = translate_metric(result.metric, SCORE_METRIC) if result.kind == "predicted" else result.metric
    return result if metric == result.metric else replace(result, metric=metric)


def _values(result: Result) -> tuple[object, ...]:
    row = {name: getattr(result, name) for name in _COLUMNS}
    return tuple({**row, "facts": json.dumps(dict(result.facts), sort_keys=True)}.values())


def _from_row(row: Sequence[Any]) -> Result:
    entry = dict(zip(_COLUMNS, row, strict=True))
    return _renamed(Result(**{**entry, "facts": json.loads(entry["facts"])}))


def _text(content: bytes) -> str:
    """Bytes that are no UTF-8 make one row unreadable, and not the whole file."""
    return content.decode("utf-8", "surrogateescape")


def _where(named: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Only our own column names enter the text of a query; values are bound."""
    given = {name: value for name, value in named.items() if value}
    clause = " AND ".join(f'"{name}" = ?' for name in given)
    return (f" WHERE {clause}" if clause else ""), tuple(given.values())


def _count(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT COUNT(*) FROM results").fetchone()
    return int(count)


def _damaged(path: Path) -> bool:
    if not path.exists():
        return False
    with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
        try:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
    return bool(answer != "ok")


ORIGIN = "published"


@lru_cache(maxsize=1)
def published_results() -> tuple[Result, ...]:
    """One result a network and dataset; the network under the name that its source gives it.

    ``target`` and ``target_name`` name the dataset, ``run`` the table; accuracy is in points.
    """
    data = json.loads((files("selector.ranking") / "published.json").read_text(encoding="utf-8"))
    return tuple(
        Result(
            target=f"{ORIGIN}:{data_set}",
            target_name=data_set,
            model=model,
            source=model,
            strategy=table["strategy"],
            metric="mean_average_precision" if data_set == "voc2007" else "accuracy",
            value=value,
            origin=ORIGIN,
            run=table["name"],
            facts=entry["facts"],
        )
        for table in data["tables"]
        for model, entry in table["models"].items()
        for data_set, value in zip(table["sets"], entry["accuracy"], strict=True)
    )


FEWEST_MODELS = 3  # a left-out target with two models is right or wrong by chance
RANK_DEVIATION = 1 / math.sqrt(12)  # of a uniform rank in 0..1


@dataclass(frozen=True)
class PastColumn:
    """Centered ranks of the models that were measured in the same way on one target."""

    target: str
    models: tuple[str, ...]
    ranks: np.ndarray
    published: bool = False
    reliability: float = 1.0


def columns_of(
    rows: Sequence[tuple[str, Result]], predicted: Mapping[tuple[str, str], float] | None = None
) -> list[PastColumn]:
    """Ranks by target, strategy and metric; columns that order nothing are left out.

    Args:
        rows: (model, row).
        predicted: (target, model) -> the score that it had there. With it a rank is how many places a model ended
            above the place of its score; models without a score are left out.
    """
    cells: dict[tuple[str, str, str, str], dict[str, list[float]]] = {}
    items: dict[tuple[str, str, str, str], int] = {}
    for model, row in rows:
        if predicted is not None and (row.target, model) not in predicted:
            continue
        # two published tables of one dataset were measured in different ways; runs of this machine in one
        table = row.run if row.origin == "published" else ""
        key = (row.target, row.strategy, row.metric, table)
        cells.setdefault(key, {}).setdefault(model, []).append(row.value)
        if row.origin != "published" and row.items:
            items[key] = min(row.items, items.get(key, row.items))
    published = {row.target for _, row in rows if row.origin == "published"}
    columns = []
    for key, by_model in sorted(cells.items()):
        target = key[0]
        models = tuple(sorted(by_model))
        values = np.array([np.mean(by_model[m]) for m in models])
        if len(set(values.tolist())) > 1:
            ranks = _places(values)
            if predicted is not None:
                ranks = ranks - _places(np.array([predicted[target, m] for m in models]))
            reliability = _reliability(values, items[key]) if key in items else 1.0
            if reliability > 0:
                columns.append(PastColumn(target, models, ranks, target in published, reliability))
    return columns


def _places(values: np.ndarray) -> np.ndarray:
    """Expected places of n uniform draws, centered: a small pool spreads less than a large one."""
    return np.asarray(mean_ranks(values) / (len(values) + 1) - 0.5)


def _reliability(values: np.ndarray, items: int) -> float:
    """Share of the variance between models that is not sampling noise of so many validation items, 0..1.

    Six items that give 6/6 and 5/6 say nothing; 300 items that lie ten points apart say nearly all. The error of a
    share is Agresti and Coull's, so that 6/6 is not taken for certain; of other metrics that of a share of a half.
    """
    shares = values if ((values >= 0) & (values <= 1)).all() else np.full(len(values), 0.5)
    centered = (shares * items + 2) / (items + 4)
    noise = float((centered * (1 - centered) / (items + 4)).mean())
    spread = float(values.var(ddof=1))
    if shares is not values:
        noise *= spread * 4  # in the metric's own unit: an item decides as much as it does of a share
    return max(0.0, 1.0 - noise / spread) if spread > 0 else 0.0


_TARGETS = 1.0  # a model of which nothing is known counts as much as this many targets where it trained as it scored


@dataclass(frozen=True)
class Trainability:
    """What earlier targets say of the models that were confirmed there.

    Attributes:
        values: deviations of rank above the place of the score, by model; drawn towards 0 where targets are few.
        errors: standard errors of ``values``.
        targets: on which each model was measured.
        agreement: mean weighted tau of values with those of a left-out target; None with fewer than two to leave out.
        tried: targets that were left out.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    targets: Mapping[str, int] = field(default_factory=dict)
    agreement: float | None = None
    tried: int = 0


def trained_beyond_scores(columns: Sequence[PastColumn]) -> Trainability:
    """From columns whose ranks are places above those of the scores (``columns_of`` with ``predicted``).

    Cost: O(targets · rows).
    """
    tried = sorted({c.target for c in columns if len(c.models) >= FEWEST_MODELS})
    taus = []
    for target in tried if len(tried) > 1 else ():
        known = _means([c for c in columns if c.target != target])[0]
        for column in columns:
            if column.target == target and len(column.models) >= FEWEST_MODELS:
                tau = weighted_tau([known.get(m, 0.0) for m in column.models], column.ranks)
                taus.append(0.0 if math.isnan(tau) else tau)  # no order is worth a random one
    values, errors = _means(columns)
    counts = {m: len({c.target for c in columns if m in c.models}) for m in values}
    return Trainability(values, errors, counts, float(np.mean(taus)) if taus else None, len(tried) if taus else 0)


def _means(columns: Sequence[PastColumn]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean place above the score by model, in deviations, drawn towards 0, and its standard error."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for column in columns:
        for model, rank in zip(column.models, column.ranks, strict=True):
            sums[model] = sums.get(model, 0.0) + column.reliability * float(rank)
            weights[model] = weights.get(model, 0.0) + column.reliability
    means = {m: total / (_TARGETS + weights[m]) / RANK_DEVIATION for m, total in sums.items()}
    return means, {m: 1 / math.sqrt(_TARGETS + w) for m, w in weights.items()}
