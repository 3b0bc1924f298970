"""A target without labels in the report: what chose, the validators side by side, both domains in one projection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from selector.report.error_analysis import picture_inside
from selector.report.svg import Axis, element, picture
from selector.results import Measurement, StoredRanking

WIDTH, HEIGHT = 600.0, 320.0
HUES = 10  # classes beyond share them
MEASURES = (
    "source_accuracy",
    "confidence",
    "thresholded_confidence",
    "pas",
    "a_distance",
    "mmd",
    "coral_distance",
    "label_shift",
)


@dataclass(frozen=True)
class SectionTable:
    """A table of the section: caption, heads, and rows of text whose first cell names them."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Uncertain:
    """An item whose class the model that is selected is least sure of."""

    name: str
    classes: str
    picture: str
    text: str


@dataclass(frozen=True)
class AdaptationView:
    """``notes`` are sentences on the choice; the rest is shown below them."""

    source: str
    notes: tuple[str, ...]
    tables: tuple[SectionTable, ...]
    uncertain: tuple[Uncertain, ...]
    projection: Markup | None


def adaptation(ranking: StoredRanking) -> AdaptationView | None:
    """The section; None where nothing was adapted and no domains were compared."""
    found = ranking.confirmation.get("adaptation") or {}
    measures = _measures(ranking)
    if not found and measures is None:
        return None
    tables = [*_labeled(found), *_validators(ranking, found), *([] if measures is None else [measures])]
    return AdaptationView(
        str(found.get("source") or ranking.settings.get("source_domain") or "the source domain"),
        tuple(str(note) for note in found.get("notes", ())),
        tuple(tables),
        tuple(_uncertain(item) for item in found.get("uncertain", ())),
        projection(ranking),
    )


def sure_of_choice(ranking: StoredRanking, measured: Measurement) -> Iterator[str]:
    """What is known of the model that is selected, for the first screen."""
    found: Mapping[str, Any] = ranking.confirmation["adaptation"]
    asked = found.get("labeled")
    chose = found.get("chosen_by") or next(iter(found["candidates"]))["validators"]
    yield (
        f"Chosen with {asked['labels']} labels of the target."
        if asked
        else f"Chosen without a label of the target, by the votes of {', '.join(chose)}."
    )
    yield f"On validation items of the source domain: {measured.metric} {measured.val_value:.3f}."
    if measured.test:
        yield f"Final metric, on labeled items of the target that chose nothing: {measured.metric} {measured.test_value:.3f}."
    yield from (_sentence(str(note)) for note in found.get("notes", ()))


def _sentence(note: str) -> str:
    """A note as a sentence of its own."""
    return f"{note[:1].upper()}{note[1:].removesuffix('.')}."


def _validators(ranking: StoredRanking, found: Mapping[str, Any]) -> Iterator[SectionTable]:
    candidates = found.get("candidates") or ()
    if not candidates:
        return
    names = list(candidates[0]["validators"])
    finals = {(model.name, m.strategy): m for model in ranking for m in model.measurements}
    weighted = any(c.get("effective_sample_size") is not None for c in candidates)
    measured = any(m.test for m in finals.values())
    rows = []
    for c in candidates:
        final = finals.get((c["model"], c["strategy"]))
        size = c.get("effective_sample_size")
        handed = list(found["selected"]) == [c["model"], c["strategy"]]
        rows.append(
            (
                f"{c['model']} {c['strategy']}{' ← selected' if handed else ''}",
                f"{c['combined']:.2f}",
                c.get("votes") or "–",
                *(f"{c['validators'][name]:.3f}" for name in names),
                *(["–" if size is None else f"{size:.0f} of {c['items']}"] if weighted else []),
                *(["–" if final is None or not final.test else f"{final.test_value:.3f}"] if measured else []),
            )
        )
    agreement = found.get("agreement")
    said = "" if agreement is None else f" Their mean rank correlation is {agreement:.2f}."
    meant = (
        "expected accuracy with the labels" if found.get("labeled") else "mean share of candidates that one is ahead of"
    )
    yield SectionTable(
        f"Validators side by side; higher is better, and combined is the {meant}.{said} "
        "Votes are for the adaptation against source-only of its model: those of the validators that choose, and whether "
        f"it suits the change between the domains.{' The last column was worked out after the choice.' if measured else ''}",
        (
            "candidate",
            "combined",
            "votes",
            *names,
            *(["effective sample size"] if weighted else []),
            *(["target accuracy"] if measured else []),
        ),
        tuple(rows),
    )


def _labeled(found: Mapping[str, Any]) -> Iterator[SectionTable]:
    asked = found.get("labeled")
    if asked:
        rows = tuple(
            (f"{row['model']} {row['strategy']}", f"{row['accuracy']:.3f}", f"{row['p_best']:.2f}")
            for row in asked["standing"][:12]
        )
        yield SectionTable(
            f"With {asked['labels']} labels of the target: expected accuracy and P(best).",
            ("candidate", "expected accuracy", "P(best)"),
            rows,
        )


def _measures(ranking: StoredRanking) -> SectionTable | None:
    rows = []
    for model in ranking:
        cell = model.scores.get("target-accuracy")
        if cell is None or cell.value is None:
            continue
        low, high = cell.details.get("low"), cell.details.get("high")
        interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
        details = (cell.details.get(name) for name in MEASURES)
        rows.append((model.name, f"{cell.value:.3f}{interval}", *("–" if v is None else f"{v:.3f}" for v in details)))
    if not rows:
        return None
    heads = ("model", "predicted target accuracy (90% interval)", *(name.replace("_", " ") for name in MEASURES))
    return SectionTable(
        "Before adaptation: accuracy that the source's head is expected to have on the target, and what it rests on. "
        "Distances are negative, so that higher is better throughout; 90% of what the prediction missed on pairs of domains "
        "that it had not seen lies within the interval.",
        heads,
        tuple(rows),
    )


def _uncertain(item: Mapping[str, Any]) -> Uncertain:
    classes = ", ".join(f"{name} {share:.2f}" for name, share in item["classes"])
    return Uncertain(str(item["name"]), classes, picture_inside(item.get("thumbnail")), str(item.get("text") or ""))


def projection(ranking: StoredRanking) -> Markup | None:
    """Both domains on the first two principal components: circles are the source, crosses the target; a color per class."""
    found = (ranking.confirmation.get("adaptation") or {}).get("projection")
    if not found or not found["target"]:
        return None
    points = [*found["source"], *found["target"]]
    x = Axis.over([p[0] for p in points], 12, WIDTH - 12)
    y = Axis.over([p[1] for p in points], HEIGHT - 30, 12)
    names = list(ranking.target.get("class_names", ()))
    parts = []
    for kind, shown in (("source", found["source"]), ("target", found["target"])):
        for px, py, label in shown:
            name = names[label] if label < len(names) else str(label)
            told = f"{kind}: {name}{' (predicted)' if kind == 'target' else ''}"
            where, hue = (x(px), y(py)), f"hue-{label % HUES}"
            if kind == "source":
                parts.append(
                    element("circle", element("title", told), cx=where[0], cy=where[1], r=3.0, class_=f"domain {hue}")
                )
            else:
                cross = f"M{where[0] - 3:.1f} {where[1] - 3:.1f}l6 6m0 -6l-6 6"
                parts.append(element("path", element("title", told), d=cross, class_=f"domain {hue}"))
    shares = found["shares"]
    line = f"first two principal components ({100 * shares[0]:.0f} and {100 * shares[1]:.0f}% of the variance); ○ source, × target"
    parts.append(element("text", line, x=WIDTH / 2, y=HEIGHT - 6, class_="axis", text_anchor="middle"))
    return picture(WIDTH, HEIGHT, "Both domains in one projection", *parts)
