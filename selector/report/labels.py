"""The page on which few items are labeled: thumbnails or texts, a choice each, and a table to save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from selector.core.units import printable
from selector.report.html import environment, policy_of, template_part


def render_page(
    name: str, class_names: Sequence[str], items: Sequence[Mapping[str, Any]], header: Sequence[str]
) -> str:
    """One HTML file that stands alone; its only script puts the answers into a CSV file.

    Args:
        items: ``id`` and ``name`` each, and a ``thumbnail`` (a ``data:`` URI) or a ``text``.
        header: columns of the CSV file: name, label and id.
    """
    style, script = template_part("report.css"), template_part("label.js")
    shown = [
        {**item, "thumbnail": _picture(item.get("thumbnail")), "text": str(item.get("text") or "")} for item in items
    ]
    return printable(
        environment()
        .get_template("label.html.j2")
        .render(
            classes=list(class_names), header=",".join(header), items=shown, name=name,
            policy=policy_of(style, script), script=Markup(script), style=Markup(style),
        )
    )  # fmt: skip


def _picture(uri: object) -> str:
    text = str(uri or "")
    return text if text.startswith("data:image/") else ""
