"""The report: one HTML file that stands alone.

Nothing is fetched: style, script and figures are inside, and a content security policy with the
hashes of the only style and the only script lets a browser refuse everything else. Every value
goes through jinja's escaping.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from selector.config import IN_MEMORY, ScanConfig
from selector.core.atomic import write_atomic
from selector.core.errors import ConfigError
from selector.core.options import cli_default
from selector.core.units import format_duration, printable
from selector.report.adaptation import adaptation
from selector.report.advice import advice
from selector.report.compare import HEADERS, Comparison, table
from selector.report.error_analysis import error_analysis, picture_inside, read_sample
from selector.report.figures import figures
from selector.report.view import REDUCED, front_notes, groups, measured_by, table_view, tie, warnings
from selector.results import BASELINE, Measurement, StoredRanking, showing

REPORT_FILE = "report.html"
UNSET = "–"
MOST_DOUBTED = 24  # labels that are shown; label-issues.csv has the others


def write_report(ranking: StoredRanking, path: Path | None = None) -> Path:
    """Write the report and return where it lies.

    Args:
        ranking: what to report.
        path: the file; ``report.html`` in the run's folder when not given.

    Raises:
        ConfigError: no path, and the ranking has no folder because it was never saved.
    """
    if path is None:
        if ranking.path is None:
            raise ConfigError("this ranking has no folder yet; call ranking.save(folder) first or give a path.")
        path = ranking.path / REPORT_FILE
    with showing(ranking):
        text = render_report(ranking)
    write_atomic(path, text.encode("utf-8", "backslashreplace"))  # a file name need not be UTF-8
    return path


def render_report(ranking: StoredRanking) -> str:
    """The whole file as text."""
    view, measured = table_view(ranking), list(_measurements(ranking))
    return render_page(
        "report.html.j2",
        "report.js",
        adaptation=adaptation(ranking),
        advice=advice(ranking),
        columns=view.columns,
        command=command(ranking),
        tuning_log=[str(line) for line in ranking.confirmation.get("tuning_log", ())],
        facts=list(_target_facts(ranking.target)),
        excluded=[model for model in ranking if model.status == "excluded"],
        failures=ranking.failures,
        figures=figures(ranking),
        groups=groups(view),
        measurements=measured,
        measured_by=measured_by(ranking),
        analysis=error_analysis(ranking),
        quality=ranking.label_quality,
        doubted=[read_sample(item) for item in ranking.label_quality.get("items", ())[:MOST_DOUBTED]],
        marks="; ".join(note.rstrip(".") for note in front_notes(ranking)),
        reduced=REDUCED if any(m.reduced for model in ranking for m in model.measurements) else "",
        rows=view.rows,
        seconds=[
            (stage, format_duration(value))
            for stage, value in (
                *ranking.seconds.items(),
                *((f"of it {part}", part_of) for part, part_of in ranking.confirmation.get("seconds", {}).items()),
            )
        ],
        settings=[
            (key.replace("_", " "), text) for key, value in ranking.settings.items() if (text := _shown(value)) != UNSET
        ],
        target=ranking.target,
        title=view.title,
        versions=[(key, _shown(value)) for key, value in ranking.versions.items()],
        warnings=[text for text in warnings(ranking) if measured or text != tie(ranking)],
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write a comparison as one HTML file that stands alone; returns its path."""
    summary = list(comparison.summary())
    text = render_page(
        "compare.html.j2", comparison=comparison, headers=HEADERS, rows=table(comparison), summary=summary
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return path


def render_label_page(
    name: str, class_names: Sequence[str], items: Sequence[Mapping[str, object]], header: Sequence[str]
) -> str:
    """The page on which few items are labeled: one HTML file; its only script puts the answers into a CSV file.

    Args:
        items: ``id`` and ``name`` each, and a ``thumbnail`` (a ``data:`` URI) or a ``text``.
        header: columns of the CSV file: name, label and id.
    """
    shown = [
        {**item, "thumbnail": picture_inside(item.get("thumbnail")), "text": str(item.get("text") or "")}
        for item in items
    ]
    return render_page(
        "label.html.j2", "label.js", classes=list(class_names), header=",".join(header), items=shown, name=name
    )


def render_page(template: str, script: str = "", **values: object) -> str:
    """A page of which every value is escaped.

    Its content security policy lets its own style through, and with a ``script`` of the templates that one and images
    inside the file.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("selector.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = template_part("report.css")
    allowed = ["default-src 'none'", f"style-src '{_hash(style)}'", "base-uri 'none'", "form-action 'none'"]
    if script:
        values["script"] = Markup(template_part(script))
        allowed[1:2] = ["img-src data:", allowed[1], f"script-src '{_hash(str(values['script']))}'"]
    return printable(templates.get_template(template).render(style=Markup(style), policy="; ".join(allowed), **values))


def template_part(name: str) -> str:
    """A style or script of the templates."""
    return (files("selector.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@dataclass(frozen=True)
class _MeasuredTrial:
    """One training for the table of measurements."""

    model: str
    measurement: Measurement
    figures: str
    test: str
    learning_rate: str
    size: str
    seconds: str


def _measurements(ranking: StoredRanking) -> Iterator[_MeasuredTrial]:
    for model in ranking:
        for m in model.measurements:
            yield _MeasuredTrial(
                model.name,
                m,
                _metrics(m.val),
                _metrics(m.test),
                "–" if m.learning_rate is None else f"{m.learning_rate:.3g}",
                f"{m.resolution[0]} × {m.resolution[1]}{REDUCED if m.reduced else ''}" if m.resolution else "–",
                format_duration(m.seconds),
            )


def _metrics(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None) or "–"


def _target_facts(target: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = {
        "label_kind": "labels",
        "split_origin": "splits were",
        "items": "items",
        "words": "words",
        "fingerprint": "fingerprint",
    }
    for key, title in names.items():
        if target.get(key):
            yield title, str(target[key])
    if target.get("splits"):
        yield "splits", ", ".join(f"{split} {count}" for split, count in target["splits"].items())
    if target.get("class_counts"):
        counts = list(target["class_counts"].items())
        told = ", ".join(f"{name} {count}" for name, count in counts[:30])
        yield "classes", told + (f" and {len(counts) - 30} more" if len(counts) > 30 else "")
    if target.get("origin"):
        yield "origin", _origin(target["origin"])


def _origin(origin: Mapping[str, Any]) -> str:
    """Where the data lie and how they were read, in words; what was drawn from them or left out is counted."""
    options = {key: value for key, value in (origin.get("options") or {}).items() if value not in (None, [], {}, "")}
    told = [f"{str(key).replace('_', ' ')} {_shown(value)}" for key, value in options.items()]
    if steps := origin.get("steps"):
        told.append(f"{len(steps)} later selection{'s' * (len(steps) > 1)} of items")
    read = f" ({str(origin['kind']).replace('_', ' ')})" if origin.get("kind") else ""
    return "; ".join([f"{origin.get('path', UNSET)}{read}", *told])


def _shown(value: object) -> str:
    if value is None:
        return UNSET
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(part, str | int | float) for part in value):
        return ", ".join(str(part) for part in value)
    if isinstance(value, Mapping):
        parts = [f"{str(key).replace('_', ' ')}: {_shown(part)}" for key, part in value.items() if part is not None]
        return "; ".join(parts) or UNSET
    return json.dumps(value, ensure_ascii=False, default=str)


def command(ranking: StoredRanking, config: type[ScanConfig] = ScanConfig) -> str | None:
    """``selector scan ...`` with the settings of the run; None when its target or zoo was in memory only.

    Args:
        config: whose fields are the options; those that the run does not record, or that have the
            command's own defaults, are left out.
    """
    origin = ranking.target.get("origin")
    place = str(origin["path"]) if isinstance(origin, Mapping) and origin.get("path") else None
    settings = _flat(ranking)
    if place is None or IN_MEMORY in (settings.get("zoo"), settings.get("models")):
        return None
    words = ["selector", "scan", place]
    for name, about in config.options():
        value = settings.get(about.key) if about.key is not None else None
        if about.cli and about.rerun and value is not None and value != "":
            usual = (cli_default(config.model_fields[name]), about.usual)
            option = about.words(name, value)
            if option not in [about.words(name, each) for each in usual if each is not None]:
                words += option
    if all(m.status == BASELINE for model in ranking for m in model.measurements):
        words.append("--no-confirm")
    if ranking.path is not None:
        words += ["--out", str(ranking.path)]
    return shlex.join(words)


def _flat(ranking: StoredRanking) -> dict[str, object]:
    """Settings of the confirmation beside those of the scan; columns and task as the target was loaded with."""
    origin = ranking.target["origin"] if isinstance(ranking.target.get("origin"), Mapping) else {}
    settings = {**ranking.settings, **(ranking.settings.get("confirm") or {})}
    return {**settings, **{k: v for k, v in (origin.get("options") or {}).items() if v is not None}}
