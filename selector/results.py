"""What a run found: ``StoredRanking`` with one ``ModelResult`` per model; JSON, save and load.

Predicted (``scores``, ``transferability``) and measured (``measurements``) figures are kept apart, here
and wherever they are shown.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, TypeAdapter

from selector import modalities
from selector.core.atomic import write_atomic
from selector.core.contracts import noun_of
from selector.core.costs import Cost
from selector.core.documents import checked, plain, read_document, read_json
from selector.core.errors import ConfigError
from selector.core.old_names import translate_run
from selector.core.stats import LEGACY

if TYPE_CHECKING:
    from selector.core.contracts import Target

FORMAT = 3  # earlier ones had other names, which are translated
_READABLE = (1, 2, FORMAT)
RUN_FILE = "run.json"
BEST = "best"
"""Folder of a run's best model."""

BASELINE: Final = "baseline"
"""Status of a measurement that nothing was trained for: it moves no model and is never saved."""

Status = Literal["ok", "failed", "pruned", "excluded"]
"""``pruned`` models could no longer reach the top k, ``excluded`` ones exceed a limit that was asked for."""


Number: TypeAlias = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number that JSON may not hold: NaN and infinity are written as null."""


@dataclass(frozen=True)
class ScoreCell:
    """One proxy of one model: a value, or the reason why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    details: Mapping[str, Number] = field(default_factory=dict)
    seconds: Number = 0.0
    reason: str | None = None


@dataclass(frozen=True)
class PriorCell:
    """What was known of a model before its target was looked at.

    Attributes:
        shift: what it adds to the model's normalized score in the transferability.
        value: standard deviations of rank above the average model.
        origin: what that rests on, for a person.
        targets: earlier targets on which the model was measured.
        weight: share of this member in the transferability, 0..0.5.
    """

    shift: Number
    value: Number
    origin: str
    targets: int = 0
    weight: Number = 0.0


@dataclass(frozen=True)
class PilotCell:
    """A pilot run: a few steps of real fine-tuning, before the confirmation.

    Attributes:
        status: ok, diverged, failed or not run; ``reason`` says why.
        metric: that decides the confirmation; ``before`` and ``after`` the steps, on the same held-out items for every
            model.
        items: that were trained on; ``held_out`` that judged.
        resolution: (height, width); None for texts.
        losses: of each training batch before its step: a learning curve.
        combined: with the transferability: what orders the models that had a pilot run; None of one that diverged or failed.
    """

    status: str
    reason: str = ""
    metric: str = ""
    before: Number | None = None
    after: Number | None = None
    steps: int = 0
    items: int = 0
    held_out: int = 0
    resolution: tuple[int, int] | None = None
    seconds: Number = 0.0
    combined: Number | None = None
    losses: tuple[Number, ...] = ()

    @property
    def untrainable(self) -> bool:
        """The model could not be trained: it comes last."""
        return self.status in ("diverged", "failed")


@dataclass(frozen=True)
class PredictedValue:
    """A measured metric as it is expected, calibrated on confirmed pairs; never shown among measured values.

    Attributes:
        value: in the unit of the metric.
        low: lower end of its 90% interval, from the residuals of the pairs.
        high: its upper end.
        metric: what is predicted.
        strategy: of the training that it is predicted for.
        pairs: confirmed models that it was calibrated on.
        targets: that these were confirmed on.
    """

    value: Number
    low: Number
    high: Number
    metric: str
    strategy: str
    pairs: int
    targets: int


@dataclass(frozen=True)
class Caveat:
    """Something a reader should know before trusting the table: a code for programs, a sentence, the numbers in it."""

    code: str
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """One fine-tuned model, measured.

    Attributes:
        strategy: frozen, partial, full, lora, or zero-shot.
        metric: name of the deciding metric; ``val`` and ``test`` hold all of them by name. ``val``
            chose, ``test`` was read once at the end and is empty where it was not read.
        resolution: (height, width) it was trained at; ``reduced`` says that it is below native.
        status: ok, diverged, failed, not run where the budget ended before, or incomplete where it was trained for less
            than an epoch, so that its values have no share in any choice; ``note`` says why, or what was cut to fit the
            budget. A ``baseline`` has no share in any choice either.
        extra: further facts as plain JSON, among them: the paired difference to the
            best, values by seed, memory, and for the saved model its error analysis
            (``error_analysis``; its parts are those of ``core.task.Section``).
        sign: 1 where more of the deciding metric is better, -1 where less is; None in runs that were written
            before metrics were declared.
    """

    strategy: str
    metric: str
    val: Mapping[str, Number]
    test: Mapping[str, Number] = field(default_factory=dict)
    seed: int = 0
    steps: int = 0
    learning_rate: float | None = None
    seconds: Number = 0.0
    resolution: tuple[int, int] | None = None
    reduced: bool = False
    trained_parameters: int = 0
    status: Literal["ok", "incomplete", "diverged", "failed", "not run", "baseline"] = "ok"
    note: str = ""
    round: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    sign: int | None = None

    @property
    def val_value(self) -> float:
        """The deciding metric on the validation split (NaN when it failed)."""
        return _number(self.val.get(self.metric))

    @property
    def test_value(self) -> float:
        """The deciding metric on the test split (NaN when it was not read)."""
        return _number(self.test.get(self.metric))

    @property
    def merit(self) -> float:
        """What orders measurements: the deciding metric on val, the mean over seeds where it was
        trained with several, negated where less is better; NaN when it failed. Where something else chose (validators,
        of a target without labels), its value: ``extra["merit"]``."""
        if self.status == "ok" and self.extra.get("merit") is not None:
            return float(self.extra["merit"])
        by_seed = [v for v in self.extra.get("seed_values", ()) if v is not None]
        sign = LEGACY.get(self.metric, 1) if self.sign is None else self.sign
        return sign * (sum(by_seed) / len(by_seed) if by_seed else self.val_value)


@dataclass(frozen=True)
class ModelResult:
    """Everything that a run knows of one model.

    ``spec`` is the frozen zoo entry, ``rank`` starts at 1 and is None for a failed or excluded model.
    ``transferability`` is the combined score that ranks unmeasured models, with its 90% interval, the
    probabilities of being the best and among the best k, the expected rank, and ``tied`` for models that
    may be as good as the first. The interval is the sampling noise of the score; the probabilities, the rank and ties are
    about the value after training (``ranking.outlook``).
    It is ``normalized_score`` (the mean of ``members``, by proxy) plus ``prior.shift``. ``facts`` are what was
    known of the model without the target, by the names of ``prior.ModelFacts``.
    ``pilot`` is its pilot run, where it had one before a confirmation: models with one stand by its ``combined``.
    ``cost`` is what was measured on this machine, None where nothing was.
    ``fit`` says at which batch size and resolution scan and training fit the machine's memory (``scan.memory_fit``); empty
    where that was not looked at.
    ``prompt`` is what was put before each text, and ``texts_cut`` how many of them the model did not read to their end.
    ``layers`` is the 5-nearest-neighbor accuracy of each layer, for networks that are read at all of them.
    """

    name: str
    spec: Mapping[str, Any]
    status: Status = "ok"
    reason: str = ""
    traceback: str = ""
    rank: int | None = None
    transferability: float | None = None
    transferability_low: float | None = None
    transferability_high: float | None = None
    p_best: float | None = None
    p_top_k: float | None = None
    mean_rank: float | None = None
    tied: bool = False
    normalized_score: float | None = None
    members: Mapping[str, Number] = field(default_factory=dict)
    prior: PriorCell | None = None
    predicted: PredictedValue | None = None
    pilot: PilotCell | None = None
    facts: Mapping[str, Number] = field(default_factory=dict)
    scores: Mapping[str, ScoreCell] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    num_features: int | None = None
    num_parameters: int | None = None
    rows: int = 0
    layers: Mapping[str, Number] = field(default_factory=dict)
    backend: str = ""
    precision: str = ""
    extract_seconds: Number = 0.0
    cached: bool = False
    cost: Cost | None = None
    fit: Mapping[str, object] = field(default_factory=dict)
    prompt: str = ""
    texts_cut: int = 0

    def __repr__(self) -> str:
        rank = self.status if self.rank is None else f"rank {self.rank}"
        best = self.best_measurement()
        measured = "" if best is None else f", {best.strategy} {best.metric} {best.val_value:.3f} on val"
        return f"ModelResult({self.name}: {rank}{measured})"

    @property
    def why(self) -> str:
        """``reason`` for a place that names the model anyway; sources begin theirs with its name, or its network's."""
        network = self.name.rpartition("@")[0]
        return self.reason.removeprefix(f"{self.name}: ").removeprefix(f"{network}: ")

    def best_measurement(self) -> Measurement | None:
        """The measurement that is best on validation, among those that did not fail."""
        good = [m for m in self.measurements if m.status == "ok" and not math.isnan(m.val_value)]
        return max(good, key=lambda m: m.merit, default=None)


def baselines(model: ModelResult) -> list[Measurement]:
    """Measurements that nothing was trained for."""
    return [m for m in model.measurements if m.status == BASELINE]


def final_measurements(model: ModelResult) -> dict[str, Measurement]:
    """The measurement that counts, by strategy: of the last round, the best on validation."""
    chosen: dict[str, Measurement] = {}
    for m in model.measurements:
        old = chosen.get(m.strategy)
        if old is None or _finality(m) > _finality(old):
            chosen[m.strategy] = m
    return chosen


def _finality(m: Measurement) -> tuple[bool, int, float]:
    return m.status == "ok", m.round, -math.inf if math.isnan(m.merit) else m.merit


@dataclass(frozen=True)
class StoredRanking:
    """The result of ``selector.rank``: models from the best to the worst, failed ones last.

    Attributes:
        target: name, fingerprint, counts, class names and origin of the target (plain JSON).
        settings: what the run was asked for; enough to run it again.
        versions: of the libraries and the machine.
        models: in rank order.
        warnings: what a reader should know before trusting the table, in words.
        caveats: those of the warnings that come with a code and numbers.
        prior: how the prior was made and what of the history entered, as plain JSON: method, weight,
            agreement on left-out targets, history (a snapshot), published; empty without a prior.
        label_quality: of one class per item, what a linear probe says of the labels, as plain JSON: model, method, judged,
            suspects, and items, the most doubtful first: name, split, label, predicted, probability, of_label.
        seconds: by stage.
        confirmation: how the fine-tuning stage went, as plain JSON: metric, tuning_log (the plan and what became
            of it), history (every training of every round), epsilon_best, advice, p_best, settled;
            empty before a confirmation.
        path: the run's folder once it is saved.
        loaded_target: the target, in the process that made the ranking; not written.
        trusted: whether its zoo may run code, in that process; not written.
    """

    target: Mapping[str, Any]
    settings: Mapping[str, Any]
    versions: Mapping[str, object]
    models: tuple[ModelResult, ...]
    warnings: tuple[str, ...] = ()
    seconds: Mapping[str, Number] = field(default_factory=dict)
    confirmation: Mapping[str, Any] = field(default_factory=dict)
    caveats: tuple[Caveat, ...] = ()
    prior: Mapping[str, Any] = field(default_factory=dict)
    label_quality: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    loaded_target: Target | None = field(default=None, repr=False, compare=False)
    trusted: bool = field(default=False, repr=False, compare=False)

    def __iter__(self) -> Iterator[ModelResult]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, name: str) -> ModelResult:
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)

    @property
    def best(self) -> ModelResult:
        """The first model.

        Raises:
            SelectorError: every model failed.
        """
        first = next((m for m in self.models if m.status == "ok"), None)
        if first is None:
            excluded = sum(m.status == "excluded" for m in self.models)
            raise ConfigError(
                "no model of this run finished; ranking.failures says why"
                + (f", and {excluded} model(s) were excluded by the limits." if excluded else ".")
            )
        return first

    @property
    def failures(self) -> tuple[ModelResult, ...]:
        """Models without a result, each with its reason."""
        return tuple(m for m in self.models if m.status == "failed")

    @property
    def noun(self) -> str:
        """What an item of the target is called: image, text, row."""
        return noun_of(str(self.target.get("modality", "image")))

    @property
    def proxies(self) -> list[str]:
        """Names of the proxies in the table, each with its facet where the task has several: ``what:logme``."""
        scored = dict.fromkeys(name for model in self.models for name in model.scores)
        found: list[str] = []
        for asked in self.settings.get("proxies", ()):
            found += [name for name in scored if name == asked or name.endswith(f":{asked}")] or [asked]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``load_ranking`` reads them back."""
        data = {"format": FORMAT, **asdict(replace(self, loaded_target=None))}
        del data["loaded_target"], data["trusted"]
        data["path"] = None if self.path is None else str(self.path)
        result: dict[str, Any] = plain(data)
        return result

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def save(self, path: str | os.PathLike[str]) -> Self:
        """Write ``run.json`` into a folder (made when missing) and return the saved ranking."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        saved = replace(self, path=folder)
        write_atomic(
            folder / RUN_FILE, saved.to_json().encode("utf-8", "backslashreplace")
        )  # half a character: as JSON escapes it
        return saved

    def __repr__(self) -> str:
        found = [m.name for m in self.models if m.status == "ok"]
        first = f", first {found[0]}" if found else ", none ranked"
        return (
            f"Ranking({self.target.get('name', '?')}: {self.target.get('items', '?')} items, "
            f"{len(self.models)} models{first}{', measured' if self.confirmation else ''})"
        )


@contextlib.contextmanager
def showing(ranking: StoredRanking) -> Iterator[None]:
    """Draw a run that was read: its free parts (settings, tuning log, facts) may hold anything.

    Raises:
        ConfigError: something in it cannot be drawn; the message names the file. A ranking that was never saved
            raises what it raises.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if ranking.path is None:
            raise
        raise ConfigError(
            f"{ranking.path / RUN_FILE} cannot be shown ({type(error).__name__}: {error}): it holds a value that selector "
            f"does not write; {_AGAIN}."
        ) from error


def load_ranking(path: str | os.PathLike[str]) -> StoredRanking:
    """Read a run's folder (or its ``run.json``).

    Raises:
        ConfigError: there is no run, or it was written by a newer version.
    """
    folder = Path(path)
    file = folder if folder.is_file() else folder / RUN_FILE
    try:
        data = read_document(file, _AGAIN)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{folder} is not a run: it has no {RUN_FILE}; give the folder that 'selector scan' named."
        ) from None
    if data.get("format") not in _READABLE:
        raise ConfigError(
            f"{file} has another format than this version of selector reads (expected {FORMAT} or older, "
            f"found {data.get('format')!r}); update selector, or {_AGAIN}."
        )
    data = translate_run(data, data["format"])
    form = _form()
    for own in ("format", "loaded_target", "trusted"):  # trust is given on a call and never read
        data.pop(own, None)
    checked(_RunTarget, data.get("target"), file, _AGAIN, "target")
    ranking = replace(checked(form, {**data, "path": None}, file, _AGAIN), path=file.parent)
    for number, model in enumerate(ranking.models):
        if not model.name.isprintable():  # escape sequences would reach the terminal
            raise ConfigError(
                f"{file}: models.{number}.name: expected printable characters, found {model.name!a}; {_AGAIN}."
            )
    return ranking


_AGAIN = "run the scan again, its features are kept"


class _RunTarget(BaseModel):
    """What every reader of a run relies on; further keys are facts for people."""

    name: str
    fingerprint: str
    modality: Annotated[str, AfterValidator(modalities.check)] = "image"
    items: int = 0
    classes: int = 0
    class_names: list[str] = []
    splits: dict[str, int] | None = None
    class_counts: dict[str, int] | None = None
    origin: dict[str, object] | None = None


@functools.cache
def _form() -> TypeAdapter[StoredRanking]:
    """Made when the first run is read: building it takes milliseconds that most calls need not spend."""
    adapter: TypeAdapter[StoredRanking] = TypeAdapter(StoredRanking, config=None)
    adapter.rebuild(_types_namespace={**globals(), "Target": Any})
    return adapter


def best_folder(ranking: StoredRanking) -> Path | None:
    """The folder of the model that this run's confirmation saved; None where there is none, or it is of another run."""
    if ranking.path is None or not ranking.confirmation:
        return None
    folder = ranking.path / BEST
    try:
        config = read_json(folder / "config.json")
        saved = (config["target"]["fingerprint"], config["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    first = next((model.name for model in ranking if model.best_measurement() is not None), None)
    return folder if saved == (ranking.target.get("fingerprint"), first) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value  # JSON has no NaN
