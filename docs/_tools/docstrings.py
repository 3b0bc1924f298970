"""What a Google-style docstring says of each attribute or parameter."""

from __future__ import annotations

import inspect
import re


def summary(doc: str | None) -> str:
    """The first paragraph on one line, as Markdown."""
    return markdown(inspect.cleandoc(doc or "").split("\n\n")[0])


def entries(doc: str | None, section: str) -> dict[str, str]:
    """Name -> text of one section (``Args``, ``Attributes``); an entry for several names counts for each."""
    lines = inspect.cleandoc(doc or "").splitlines()
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in lines:
        if re.fullmatch(r"\w[\w ]*:", line):
            inside = line == f"{section}:"
        elif inside and (start := re.match(r"    (\*{0,2}\w+(?:, *\*{0,2}\w+)*)(?: \([^)]*\))?: *(.*)", line)):
            names = [name.strip(" *") for name in start[1].split(",")]
            found |= dict.fromkeys(names, start[2])
        elif inside and line.startswith("     "):
            for name in names:
                found[name] = f"{found[name]} {line.strip()}".strip()
    return {name: markdown(text) for name, text in found.items()}


def markdown(text: str) -> str:
    """reStructuredText's double backticks as single ones, on one line that a table cell can hold."""
    return re.sub(r"\s+", " ", text).replace("``", "`").replace("|", "\\|").strip()
