"""The same question for texts, without a network: which library does this sentence describe?

The texts are the first paragraphs of docstrings of four libraries that are installed anyway, read
from their source files without importing them; names of the libraries are taken out. The zoo is
everything that the shipped zoo tags ``offline-text``.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from selector.api import rank
from selector.core.errors import ConfigError
from selector.data import load_target
from selector.report.html import write_report

if TYPE_CHECKING:
    from selector.core.contracts import ProgressCallback, Target
    from selector.report.ranking import Ranking

LIBRARIES = {"numpy": "numpy", "pandas": "pandas", "scipy": "scipy", "scikit-learn": "sklearn"}
TAG = "offline-text"
A_LIBRARY = 250  # texts

TOP_K = 2
BUDGET = 120.0
MAX_STEPS = 60

QUESTIONS = (
    "Return the eigenvalues of a symmetric matrix",
    "Group the rows of a table by the values of a column",
    "Fit a random forest to the training data and predict classes",
)

_NAMES = re.compile(r"\b(numpy|np|pandas|pd|scipy|sp|scikit-learn|sklearn|ndarrays?|dataframes?|estimators?)\b", re.I)
_SHORTEST, _LONGEST = 6, 60  # words


@dataclass(frozen=True)
class TextDemo:
    """What the demo made: the ranking, where the report lies, and (text, class, probability) of new texts."""

    ranking: Ranking
    report: Path
    used: tuple[tuple[str, str, float], ...]


def texts(a_library: int = A_LIBRARY) -> tuple[list[str], list[str]]:
    """(texts, library of each); the same on every machine with the same versions of the libraries.

    Raises:
        ConfigError: a library is not installed.
    """
    found: list[str] = []
    labels: list[str] = []
    for label, package in LIBRARIES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigError(f"the demo reads the docstrings of {package}, which is not installed.")
        paragraphs = dict.fromkeys(_paragraphs(Path(spec.origin).parent))
        step = max(1, len(paragraphs) // a_library)  # from all over the library
        chosen = [text for text in list(paragraphs)[::step] if text not in found][:a_library]
        found += chosen
        labels += [label] * len(chosen)
    return found, labels


def run(
    out: str | os.PathLike[str] = Path("runs") / "demo-text",
    *,
    store: str | os.PathLike[str] | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> TextDemo:
    """Rank, confirm, report, save and use a model.

    Cost: minutes on two cores the first time, seconds afterwards.
    """
    from selector.deploy import load_model

    target: Target = replace(load_target(texts(), seed=seed), name="docstrings")
    ranking = rank(
        target,
        tags=TAG,
        confirm=True,
        top_k=TOP_K,
        budget=BUDGET,
        scan_budget="100%",
        max_steps=MAX_STEPS,
        offline=True,
        store=store,
        device=device,
        seed=seed,
        out=out,
        progress=progress,
    )
    assert ranking.path is not None
    said = load_model(ranking.path).predict(list(QUESTIONS))
    used = tuple(
        (text, str(row.label), float(row.probability or 0.0)) for text, row in zip(QUESTIONS, said, strict=True)
    )
    return TextDemo(ranking, write_report(ranking), used)


def _paragraphs(package: Path) -> Iterator[str]:
    """First paragraphs of the docstrings below a folder, tests left out, without names of libraries."""
    for path in sorted(package.rglob("*.py")):
        if {"tests", "testing", "_vendor", "externals", "_lib"} & set(path.relative_to(package).parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in the source of others
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # not for this version of Python
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                first = (ast.get_docstring(node) or "").partition("\n\n")[0]
                text = " ".join(_NAMES.sub("", first).split())
                if _SHORTEST <= len(text.split()) <= _LONGEST:
                    yield text
