"""What the ranking table holds, apart from how it is drawn.

One place decides the columns, so that the terminal, the notebook and the report agree, and so
that predicted and measured figures are never in the same column.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from selector.core.costs import Cost
from selector.core.units import format_count, format_duration, format_latency, format_size
from selector.core.version import page
from selector.report.series import fronts
from selector.results import (
    BASELINE,
    Measurement,
    ModelResult,
    PilotCell,
    PriorCell,
    ScoreCell,
    StoredRanking,
    final_measurements,
)

Group = Literal["model", "measured", "predicted", "facts"]

REDUCED = "°"
"""Marks a metric measured at a smaller image size than the model's own."""

FRONT_MEASURED, FRONT_PREDICTED = "◆", "◇"
"""Mark costs at which no other model has a higher measured value, or higher transferability."""

UNSTEADY = "~"
"""Marks a latency whose passes lie far apart: the machine was busy."""

MOST_EXCLUDED = 10  # named below the table
MOST_ALIKE = 6  # named of those that failed for the same reason

TIED = "≈"
"""Marks models that may be as good as the first one after training."""

MARKS = frozenset({REDUCED, UNSTEADY, TIED, FRONT_MEASURED, FRONT_PREDICTED})
"""All of them; a note that begins with one explains it."""


@dataclass(frozen=True)
class Column:
    """One column: ``drop`` orders what goes first when a terminal is narrow (0 always stays)."""

    key: str
    title: str
    group: Group
    help: str = ""
    numeric: bool = True
    drop: int = 0


@dataclass(frozen=True)
class Cell:
    """What a cell shows, what it sorts by (None sorts last) and what explains it."""

    text: str
    sort: float | str | None = None
    title: str = ""


@dataclass(frozen=True)
class Row:
    """One model: its cells in column order."""

    model: ModelResult
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class TableView:
    """The whole table; ``notes`` explain marks, failures and warnings, one line each."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def table_view(ranking: StoredRanking) -> TableView:
    """Gather the table of a ranking: models in rank order, failed ones last."""
    columns = tuple(_columns(ranking))
    several = sum(model.tied for model in ranking.models) > 1  # the first is always tied with itself
    best = fronts(ranking)
    rows = tuple(
        Row(
            model,
            tuple(
                _marked(_cell(model, column, tied=several and model.tied), model, column, best) for column in columns
            ),
        )
        for model in ranking.models
    )
    return TableView(title(ranking), columns, rows, tuple(_notes(ranking)))


_K = re.compile(r"\D")  # of "P(top 3)"
_LEGEND = {
    "transferability": "predicted from the proxies and the prior (0 chance, 1 perfect)",
    "interval": "range of the transferability on other items of the same kind",
    "p_best": "probability of being the best after training",
    "p_top_k": "probability of being among the first {k}",
    "pilot": "metric after a few steps of fine-tuning",
    "expected": "expected metric of models that were not fine-tuned",
    "prior": "what model facts and past results add to the transferability",
}


def legend(columns: Sequence[Column]) -> str:
    """One line that says what the less usual of these columns mean; empty without any."""
    told = [
        f"{column.title}: {_LEGEND[column.key].format(k=_K.sub('', column.title))}"
        for column in columns
        if column.key in _LEGEND
    ]
    if any(column.key.startswith("proxy:") for column in columns):
        told.append("further predicted columns: proxy scores, higher is better")
    return f"Legend: {'; '.join(told)}. All columns: {page('reference/result-columns')}" if told else ""


def groups(view: TableView) -> list[tuple[str, int]]:
    """The first header line: a heading and how many columns it spans; facts have no heading."""
    spans = [
        (group, sum(1 for _ in columns)) for group, columns in itertools.groupby(view.columns, key=lambda c: c.group)
    ]
    return [(group if group in ("measured", "predicted") else "", span) for group, span in spans]


def title(ranking: StoredRanking) -> str:
    """One line: the target and how large it is."""
    target = ranking.target
    parts = [str(target.get("name") or "target")]
    if target.get("items"):
        counts = {**(target.get("splits") or {}), "without labels": target.get("unlabeled")}
        splits = " / ".join(f"{count} {split}" for split, count in counts.items() if count)
        parts.append(f"{target['items']} items" + (f" ({splits})" if splits else ""))
    if target.get("classes"):
        parts.append(f"{target['classes']} {target.get('class_noun') or 'classes'}")
    return ", ".join(parts)


_PROMPT_SHOWN = 30  # characters
_WITHOUT_STEPS = {"zero-shot": "class names alone, a baseline that moves no model"}
_STRATEGIES = {"frozen": "linear probe", "partial": "partly fine-tuned", "full": "fine-tuned", "lora": "LoRA"}


def strategy_title(strategy: str) -> str:
    """A strategy as a column is titled.

    >>> strategy_title("full"), strategy_title("fcos/full"), strategy_title("dann")
    ('fine-tuned', 'fcos, fine-tuned', 'dann')
    """
    decoder, _, name = strategy.rpartition("/")
    return ", ".join(part for part in (decoder, _STRATEGIES.get(name, name)) if part)


def strategies(ranking: StoredRanking) -> list[str]:
    """Strategies that were measured, in order of appearance."""
    return list(dict.fromkeys(m.strategy for model in ranking.models for m in model.measurements))


def measured_by(ranking: StoredRanking) -> str:
    """What the measured values come from: linear probes, fine-tuning, or both; empty where nothing was measured."""
    measured = {m.steps > 0 for model in ranking.models for m in model.measurements if m.status == "ok"}
    kinds = {False: "linear probes on frozen features", True: "fine-tuning"}
    return " and ".join(kinds[trained] for trained in sorted(measured))


def _columns(ranking: StoredRanking) -> Iterator[Column]:
    yield Column("rank", "#", "model", "Rank: measured models first, by what was measured")
    yield Column("model", "model", "model", "Name in the zoo", numeric=False)
    if any(model.status != "ok" for model in ranking.models):
        yield Column("status", "status", "model", "Whether the model finished", numeric=False)
    finals = [final_measurements(model) for model in ranking.models]
    metric = next((m.metric for by in finals for m in by.values()), "")
    for strategy in strategies(ranking):
        trained = any(by[strategy].steps for by in finals if strategy in by)
        how = "fine-tuning" if trained else _WITHOUT_STEPS.get(strategy, "a linear probe")
        told = f"Measured by {how} ({strategy}): {metric} on"
        yield Column(f"{strategy}:val", f"{strategy_title(strategy)} (val)", "measured", f"{told} the validation split")
        if any(not math.isnan(by[strategy].test_value) for by in finals if strategy in by):
            yield Column(
                f"{strategy}:test",
                f"{strategy_title(strategy)} (test)",
                "measured",
                f"{told} the test split, read once",
            )
    if any(model.transferability is not None for model in ranking.models):
        yield Column(
            "transferability",
            "transferability",
            "predicted",
            "Mean normalized score of the proxies (0 is chance, 1 is perfect) moved by the prior; predicted",
        )
    if any(model.transferability_low is not None for model in ranking.models):
        told = "90% interval of the transferability: how far other items of the same kind could move it"
        yield Column("interval", "90% CI", "predicted", told, drop=1)
    if any(model.p_best is not None for model in ranking.models):
        yield Column("p_best", "P(best)", "predicted", "Probability of being the best of all after training", drop=1)
        k = ranking.settings.get("top_k", "k")
        yield Column(
            "p_top_k", f"P(top {k})", "predicted", f"Probability of being among the first {k} after training", drop=2
        )
    if tried := next((model.pilot for model in ranking.models if model.pilot is not None and model.pilot.metric), None):
        told = (
            f"{tried.metric} after a pilot run: a few steps of fine-tuning at a low resolution, judged on {tried.held_out} "
            "validation items; with the transferability it chose what was confirmed: "
            + page("explanation/fine-tuning-stage")
        )
        yield Column("pilot", "pilot run", "predicted", told, drop=1)
    if expected := next((model.predicted for model in ranking.models if model.predicted is not None), None):
        told = (
            f"{expected.metric} that fine-tuning ({expected.strategy}) should reach, with its 90% interval; predicted "
            f"from {expected.pairs} confirmed models on {expected.targets} target(s), for models not measured"
        )
        yield Column(
            "expected", f"{strategy_title(expected.strategy)} {expected.metric}, predicted", "predicted", told, drop=2
        )
    if any(model.prior is not None and (model.prior.value or model.prior.shift) for model in ranking.models):
        told = "The prior: what facts and past results add to its transferability, " + page(
            "explanation/prior-and-history"
        )
        yield Column("prior", "prior", "predicted", told, drop=2)
    proxies = ranking.proxies or list(dict.fromkeys(name for model in ranking.models for name in model.scores))
    for proxy in proxies:
        yield Column(f"proxy:{proxy}", proxy, "predicted", f"Proxy {proxy}; predicted, higher is better", drop=2)
    if any(model.num_parameters is not None for model in ranking.models):
        yield Column("parameters", "params", "facts", "Parameters of the network without its source head", drop=3)
    yield from _cost_columns(ranking)
    if any("training_bytes" in model.fit for model in ranking.models):
        told = "Memory that full fine-tuning adds at its peak, with batch and side in pixels; forecast from the architecture"
        yield Column("training", "memory to train", "facts", told, drop=4)
    if any(model.num_features is not None for model in ranking.models):
        yield Column("features", "feature dim", "facts", "Dimension of the features", drop=5)
    if any(model.prompt for model in ranking.models):
        told = "What is put before each text, in extraction, training and prediction"
        yield Column("prompt", "prompt", "facts", told, numeric=False, drop=3)
    if any(model.texts_cut for model in ranking.models):
        told = "Texts that are longer than the model reads: what does not fit is cut off"
        yield Column("texts_cut", "texts cut", "facts", told, drop=3)
    if any(model.spec.get("license") for model in ranking.models):
        yield Column("license", "license", "facts", "License of the weights", numeric=False, drop=6)
    yield Column(
        "seconds",
        "extraction time",
        "facts",
        "Time of loading, choosing a backend and extraction; 'store' when nothing was missing",
        drop=4,
    )


def _cost_columns(ranking: StoredRanking) -> Iterator[Column]:
    noun = ranking.noun
    size = " at the model's own size" if noun == "image" else ""
    told = {
        "flops": ("FLOPs", f"Multiply-adds of one {noun}{size}", 5),
        "latency": ("latency", f"Median time for a single {noun} on this device, in torch", 4),
        "rate": ("throughput", f"{noun.capitalize()}s per second at the fastest of the batch sizes that were tried", 5),
        "memory": ("memory", f"Peak of a forward pass of one {noun}: weights and activations", 4),
        "disk": ("weights size", "Size of the weights file", 6),
    }
    for key, (name, help_, drop) in told.items():
        field = "image_seconds" if key == "rate" else key
        if any(model.cost is not None and getattr(model.cost, field) is not None for model in ranking.models):
            yield Column(key, name, "facts", help_, drop=drop)


def _cost_cell(cost: Cost | None, key: str) -> Cell:
    if cost is None:
        return Cell("–", None, "not measured on this machine (--measure-cost always measures it)")
    match key:
        case "flops" if cost.flops is not None:
            return Cell(format_count(cost.flops), cost.flops, f"{cost.flops:,}")
        case "latency" if cost.latency is not None:
            mark = UNSTEADY if cost.unsteady else ""
            low, high = cost.latency_low or cost.latency, cost.latency_high or cost.latency
            spread = f"{format_latency(low)} to {format_latency(high)} in {cost.runs} passes"
            return Cell(mark + format_latency(cost.latency), cost.latency, f"{spread}; {cost.device}, {cost.precision}")
        case "rate" if cost.image_seconds:
            rate = 1 / cost.image_seconds
            mark = UNSTEADY if cost.unsteady else ""
            return Cell(f"{mark}{rate:.3g}/s", rate, f"in batches of {cost.batch_size}, {cost.backend}")
        case "memory" if cost.memory is not None:
            return Cell(format_size(cost.memory), cost.memory, "without what the libraries themselves take")
        case "disk" if cost.disk is not None:
            return Cell(format_size(cost.disk), cost.disk)
    return Cell("–", None, "not known for this kind of network")


def _marked(cell: Cell, model: ModelResult, column: Column, best: Mapping[tuple[str, str], set[str]]) -> Cell:
    """A cost with the marks of the fronts that the model lies on."""
    kinds = {"measured": FRONT_MEASURED, "predicted": FRONT_PREDICTED}
    on = [kind for kind in kinds if model.name in best.get((column.key, kind), ())]
    if not on:
        return cell
    told = f"no model of equal or lower {column.title} is better by what was {' and '.join(on)}"
    return Cell(cell.text + "".join(kinds[kind] for kind in on), cell.sort, f"{told}; {cell.title}".rstrip("; "))


def _cell(model: ModelResult, column: Column, *, tied: bool) -> Cell:
    kind, _, name = column.key.partition(":")
    match kind:
        case "rank":
            return Cell("–", None) if model.rank is None else Cell(str(model.rank), model.rank)
        case "model":
            return Cell(model.name, model.name, str(model.spec.get("source", "")))
        case "transferability":
            cell = _number(model.transferability)
            return (
                Cell(cell.text + TIED, cell.sort, "may be as good as the first after training (5% or more)")
                if tied
                else cell
            )
        case "interval":
            low, high = model.transferability_low, model.transferability_high
            return Cell("–") if low is None or high is None else Cell(f"{_figures(low)}–{_figures(high)}", low)
        case "p_best":
            told = "" if model.mean_rank is None else f"expected rank {model.mean_rank:.1f}"
            return replace(_share(model.p_best), title=told)
        case "p_top_k":
            return _share(model.p_top_k)
        case "prior":
            return _prior(model.prior)
        case "pilot":
            return _pilot(model.pilot)
        case "expected":
            p = model.predicted
            return (
                Cell("–") if p is None else Cell(f"{_figures(p.value)} ({_figures(p.low)}–{_figures(p.high)})", p.value)
            )
        case "proxy":
            return _score(model.scores.get(name))
        case "parameters":
            count = model.num_parameters
            return Cell("–") if count is None else Cell(format_count(count), count, f"{count:,}")
        case "flops" | "latency" | "rate" | "memory" | "disk":
            return _cost_cell(model.cost, kind)
        case "training":
            return _training(model.fit)
        case "features":
            return Cell("–") if model.num_features is None else Cell(str(model.num_features), model.num_features)
        case "prompt":
            one_line = " ".join(model.prompt.split())
            shown = one_line if len(one_line) <= _PROMPT_SHOWN else one_line[: _PROMPT_SHOWN - 1] + "…"
            return Cell(shown or "–", one_line, repr(model.prompt) if model.prompt else "")
        case "texts_cut":
            return Cell(str(model.texts_cut), model.texts_cut)
        case "license":
            return Cell(str(model.spec.get("license") or "–"), str(model.spec.get("license") or ""))
        case "seconds":
            if model.status in ("failed", "excluded") and not model.extract_seconds:
                return Cell("–")
            shown = "store" if model.cached else format_duration(model.extract_seconds)
            return Cell(shown, 0.0 if model.cached else model.extract_seconds)
        case "status":
            return Cell(model.status, model.status, model.why)
        case _:
            return _measured(final_measurements(model).get(kind), name)


def _training(fit: Mapping[str, Any]) -> Cell:
    if not fit.get("training_bytes"):
        return Cell("–", None, "not looked at; selector scan --dry-run does")
    told = f"in pieces of {fit['training_batch']}" + (
        f" at {fit['training_side']} pixels" if fit["training_side"] else ""
    )
    too_much = " ✗" if fit["fits"] else ""
    return Cell(
        format_size(fit["training_bytes"]) + too_much, fit["training_bytes"], f"{told}; {fit['fits'] or 'it fits'}"
    )


def _prior(prior: PriorCell | None) -> Cell:
    if prior is None:
        return Cell("–")
    told = f"{prior.origin}; {prior.value:+.2f} deviations of rank, weight {100 * prior.weight:.0f}%"
    return Cell(f"{prior.shift:+.3f}" if round(prior.shift, 3) else "0.000", prior.shift, told)


def _pilot(pilot: PilotCell | None) -> Cell:
    if pilot is None:
        return Cell("–")
    if pilot.after is None or pilot.before is None:
        return Cell(pilot.status, None, pilot.reason)
    size = "" if pilot.resolution is None else f", {pilot.resolution[0]} × {pilot.resolution[1]} pixels"
    told = f"{_figures(pilot.before)} before; {pilot.steps} steps{size}"
    if pilot.losses:
        quarter = math.ceil(len(pilot.losses) / 4)
        first, last = (_figures(sum(part) / quarter) for part in (pilot.losses[:quarter], pilot.losses[-quarter:]))
        told += f"; loss of training batches before their steps {first} in the first quarter, {last} in the last"
    return Cell(_figures(pilot.after), pilot.after, told)


def _score(cell: ScoreCell | None) -> Cell:
    if cell is None:
        return Cell("–")
    if cell.value is None or not math.isfinite(cell.value):
        return Cell("–", None, cell.reason or "")
    details = [f"{name} {value:.4g}" for name, value in cell.details.items() if isinstance(value, int | float)]
    if cell.low is not None and cell.high is not None:
        details.insert(0, f"90% interval {cell.low:.4g} to {cell.high:.4g}")
    return Cell(_figures(cell.value), cell.value, ", ".join(details))


def _measured(m: Measurement | None, split: str) -> Cell:
    if m is None:
        return Cell("–")
    value = m.val_value if split == "val" else m.test_value
    if m.status not in ("ok", BASELINE):
        return Cell(m.status if split == "val" else "–", None, m.note)
    if math.isnan(value):
        return Cell("–")
    told = [f"{name} {number:.4g}" for name, number in (m.val if split == "val" else m.test).items()]
    told.append(f"{m.steps} steps")
    if m.resolution:
        told.append(f"{m.resolution[0]} × {m.resolution[1]} pixels")
    if m.note:
        told.append(m.note)
    return Cell(_figures(value) + (REDUCED if m.reduced else ""), value, ", ".join(told))


def _number(value: float | None) -> Cell:
    return Cell("–") if value is None or not math.isfinite(value) else Cell(_figures(value), value)


def _share(value: float | None) -> Cell:
    return Cell("–") if value is None or not math.isfinite(value) else Cell(f"{100 * value:.0f}%", value)


def _figures(value: float) -> str:
    """Three decimals where they matter; no ``-0.000``."""
    if abs(value) >= 10_000:
        return f"{value:.4g}"
    digits = 3 if abs(value) < 100 else 1
    return f"{value + 0.0 if round(value, digits) else 0.0:.{digits}f}"


def _notes(ranking: StoredRanking) -> Iterator[str]:
    finals = [m for model in ranking.models for m in final_measurements(model).values()]
    if told := tie(ranking):
        yield f"{TIED} {told}"
    if any(model.prior is not None and model.prior.weight for model in ranking.models):
        yield _prior_note(ranking)
    if any(m.reduced for m in finals):
        sizes = sorted({m.resolution for m in finals if m.reduced and m.resolution})
        at = " or ".join(f"{height} × {width}" for height, width in sizes)
        yield f"{REDUCED} trained at reduced size{f' ({at} pixels)' if at else ''}: compare such values only with each other."
    yield from front_notes(ranking)
    for warning in warnings(ranking):
        if warning != told:
            yield f"Note: {warning}"
    excluded = [model for model in ranking.models if model.status == "excluded"]
    for model in excluded[:MOST_EXCLUDED]:
        yield f"Excluded: {model.name}: {model.why}"
    if len(excluded) > MOST_EXCLUDED:
        yield f"… and {len(excluded) - MOST_EXCLUDED} more excluded models; their rows say why."
    yield from _failures(ranking.failures)


def _failures(failed: Sequence[ModelResult]) -> Iterator[str]:
    """A reason each, but once where it is the same for several but for what they are called."""
    alike: dict[str, list[ModelResult]] = {}
    for model in failed:
        own = str(model.spec.get("source", "")).partition(":")[2]
        alike.setdefault(model.why.replace(own, "") if own else model.why, []).append(model)
    for first, *others in alike.values():
        yield f"Failed: {first.name}: {first.why or 'no reason was recorded'}"
        if others:
            more = f" and {len(others) - MOST_ALIKE} more" if len(others) > MOST_ALIKE else ""
            yield f"Failed likewise: {', '.join(model.name for model in others[:MOST_ALIKE])}{more}"


def warnings(ranking: StoredRanking) -> list[str]:
    """Those of a ranking, without the one that lists failed models: they are shown with their reasons."""
    failed = {caveat.text for caveat in ranking.caveats if caveat.code == "failed"}
    return [warning for warning in ranking.warnings if warning not in failed]


NO_CAVEAT = "may be as good as the first after training (probability of 5% or more)."


def tie(ranking: StoredRanking) -> str:
    """That several models are not significantly different: the caveat where there is one; empty where none are."""
    if sum(model.tied for model in ranking.models) < 2:
        return ""
    found = next((caveat.text for caveat in ranking.caveats if caveat.code == "too-few-examples"), "")
    return found or NO_CAVEAT


def front_notes(ranking: StoredRanking) -> Iterator[str]:
    """What the marks of costs mean, those that are there."""
    kinds = {kind for _, kind in fronts(ranking)}
    for kind, mark, value in (
        ("measured", FRONT_MEASURED, "a higher measured value"),
        ("predicted", FRONT_PREDICTED, "higher transferability"),
    ):
        if kind in kinds:
            yield f"{mark} no model of equal or lower cost has {value}."
    if any(model.cost is not None and model.cost.unsteady for model in ranking.models):
        yield (
            f"{UNSTEADY} the machine was busy while this was measured; scan again with --measure-cost always when it is idle."
        )


def _prior_note(ranking: StoredRanking) -> str:
    """One line on the prior and how much it counts."""
    made = ranking.prior
    weights = sorted({round(100 * m.prior.weight) for m in ranking if m.prior is not None and m.prior.weight})
    share = f"{weights[0]}%" if len(weights) == 1 else f"{weights[0]} to {weights[-1]}%"
    measured = sum(m.prior.targets > 0 for m in ranking if m.prior is not None)
    own = made.get("own", (made.get("history") or {}).get("rows", 0))  # older runs say how many there were only
    rests = f"{measured} of {len(ranking)} models were measured on other targets" if measured else "facts of the models"
    past = f"; {own} past result{'s' * (own > 1)} of this machine entered" if own else ""
    return f"The prior ({rests}{past}) is {share} of the transferability: {page('explanation/prior-and-history')}."
