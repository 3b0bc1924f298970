"""The pages of the manual, and the words on them."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MANUAL = ("index.md", "installation.md", "citing.md", "tutorials", "how-to", "explanation")
"""What a user reads; reference, benchmarks and contributing are apart."""


def manual() -> list[Path]:
    """Pages of the user manual."""
    return sorted(p for name in MANUAL for p in ([DOCS / name] if name.endswith(".md") else _pages(DOCS / name)))


def by_hand() -> list[Path]:
    """Every page that is written by hand."""
    more = [p for name in ("benchmarks", "contributing") for p in _pages(DOCS / name) if "tables" not in p.parts]
    return [*manual(), DOCS / "reference" / "glossary.md", DOCS / "reference" / "index.md", *more]


def _pages(folder: Path) -> list[Path]:
    return sorted([*folder.rglob("*.md"), *folder.rglob("*.ipynb")])


def markdown(path: Path) -> str:
    """The Markdown of a page; of a notebook that of its text cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")


def prose(path: Path) -> str:
    """The running text: no code, tables, directives, headings, comments or link targets."""
    text = re.sub(r"<!--.*?-->", "", markdown(path), flags=re.S)
    text = re.sub(r"^(`{3,}|:{3,}\{toctree).*?^(`{3,}|:{3,})[ ]*$", "", text, flags=re.M | re.S)
    lines = [line for line in text.splitlines() if not re.match(r"\s*(\||#|:{3}|:\w|!\[|```)", line)]
    text = re.sub(r"!?\[([^\]]*)\](\([^)]*\)|\{[^}]*\})", r"\1", "\n".join(lines))
    return re.sub(r"\{\w+\}`([^`<]*)[^`]*`", r"\1", text)


def words(path: Path) -> int:
    """How many words a page has, tables included, code left out."""
    text = re.sub(r"^`{3,}.*?^`{3,}[ ]*$", "", markdown(path), flags=re.M | re.S)
    return len(
        re.findall(r"[A-Za-z][\w'’-]*", re.sub(r"\]\([^)]*\)", "]", re.sub(r"<!--.*?-->", "", text, flags=re.S)))
    )
