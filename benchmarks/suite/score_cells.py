"""Score the saved features of every cell and keep the scores as a table.

    python -m benchmarks.suite.score_cells [--suite images|texts] [--sets ...] [--encoders ...] [--scores ...]
    SELECTOR_ASSETS=... python -m benchmarks.suite.score_cells --extract    # features that are not saved as well

Resumable: a score is computed once a version of its proxy, and a row of another version than the code's counts as
missing, for readers as well: figures of two versions are never mixed. What is read later is the table alone, so that
agreement figures can be made without the features, which are too large to commit.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.assets import assets_folder
from benchmarks.rows import options
from benchmarks.suite import suites, table
from benchmarks.suite.suites import Suite
from selector.core.contracts import LabelKind
from selector.core.errors import NotApplicable, SelectorError
from selector.features import FeatureSet
from selector.proxies import evaluate, registry
from selector.ranking.combination import LabelFacts

COLUMNS = (
    "set", "encoder", "score", "value", "error", "seconds", "version", "rows", "width", "size", "status", "reason",
)  # fmt: skip
LABEL_COLUMNS = ("set", "rows", "classes", "chance", "entropy", "null_logme", "overlap", "status")
SAME_VALUES = {("probe", "5"): "4"}
"""Versions whose rows need not be computed again: on the features of 40 cells (digits, pneumoniamnist) versions 4 and 5 differ by
at most 1.1e-5."""
WITH_ERROR = ("knn", "probe", "logme", "lda")  # whose sampling error is wanted; for others it may cost minutes


def main(argv: Sequence[str] | None = None) -> int:
    """Score what is missing, set by set."""
    # no --out: the suite's own table, with --quick one in the cache
    parser = options(__doc__, quick="the few features that a quick ground truth saved")
    suites.add_arguments(parser)
    parser.add_argument("--scores", nargs="+", default=registry.names(), choices=registry.names())
    parser.add_argument("--extract", action="store_true", help="extract features that are not saved; no training")
    args = parser.parse_args(argv)
    suite = suites.find(args.suite)
    out = args.out or suite.table("scores", args.quick)
    for set_name in suites.chosen(parser, "sets", args.sets, suite.sets):
        folder = suites.features_folder(args.quick) / set_name
        if args.extract:
            extract(suite, set_name, args.encoders, folder, args.scores, out, args.quick)
        for file in sorted(folder.glob("*.npz")):
            if not args.encoders or file.stem in args.encoders:
                score_cell(set_name, file, args.scores, out, args.seed)
    return 0


def labels_table(scores: Path) -> Path:
    """The table of labels beside a table of scores."""
    return scores.with_name(scores.name.replace("scores", "labels"))


def score_cell(set_name: str, file: Path, names: Sequence[str], out: Path, seed: int) -> None:
    """Append the scores of one encoder on one set that the table lacks."""
    missing = lacking(set_name, file.stem, names, out)
    if not missing:
        return
    with np.load(file) as arrays:
        labels, size = arrays["labels"], int(arrays["size"])
        features = FeatureSet(arrays["features"], labels, source_logits=arrays.get("source_logits"), seed=seed)
    write_labels(labels_table(out), set_name, labels)
    for name in missing:
        row: dict[str, object] = {
            "set": set_name, "encoder": file.stem, "score": name, "version": registry.get(name).version,
            "rows": len(features), "width": features.width, "size": size,
        }  # fmt: skip
        try:
            score = evaluate(features, name, intervals=name in WITH_ERROR)
        except NotApplicable as error:
            row |= {"status": "not applicable", "reason": str(error)}
        except SelectorError as error:
            row |= {"status": "failed", "reason": str(error)}
        else:
            row |= {"value": repr(score.value), "seconds": f"{score.seconds:.3f}", "status": "ok"}
            if score.blocks is not None:  # jackknife standard error
                left_out = np.asarray(score.blocks)
                spread = math.sqrt((len(left_out) - 1) * float(left_out.var()))
                row["error"] = f"{spread:.6g}"
        table.append(out, row, COLUMNS)
    print(f"scored {set_name} {file.stem}: {len(missing)}", flush=True)


def lacking(set_name: str, encoder: str, names: Sequence[str], out: Path) -> list[str]:
    """Those of the scores that the table does not hold of this cell in the version of the code."""
    rows = table.whole_rows(out)
    known = {r["score"] for r in rows if (r["set"], r["encoder"]) == (set_name, encoder) and is_current(r)}
    return [name for name in names if name not in known]


def is_current(row: Mapping[str, str]) -> bool:
    """Whether a row is of the version that its proxy has in the code, or of one with the same values."""
    if row["score"] not in registry.names():
        return False
    version = str(registry.get(row["score"]).version)
    return row["version"] in (version, SAME_VALUES.get((row["score"], version)))


def write_labels(path: Path, set_name: str, labels: np.ndarray) -> None:
    """What the normalized score scale needs to know of a set's labels, once."""
    if any(row["set"] == set_name for row in table.whole_rows(path)):
        return
    facts = LabelFacts.of(labels, LabelKind.CLASSES)
    row = {
        "set": set_name, "rows": len(labels), "classes": len(np.unique(labels)), "chance": repr(facts.chance),
        "entropy": repr(facts.entropy), "null_logme": repr(facts.null_logme),
        "overlap": repr(facts.overlap), "status": "ok",
    }  # fmt: skip
    table.append(path, row, LABEL_COLUMNS)


def extract(
    suite: Suite,
    set_name: str,
    names: Sequence[str] | None,
    folder: Path,
    scores: Sequence[str],
    out: Path,
    quick: bool = False,
) -> None:
    """Save the features of a set that are not saved yet and whose cells lack one of the scores."""
    assets = assets_folder(suite.needs)
    asked = [n for n in suite.encoders(assets) if not names or n in names]
    missing = [n for n in asked if not (folder / f"{n}.npz").exists() and lacking(set_name, n, scores, out)]
    if not missing:
        return
    data = suite.load_set(set_name, assets, *(suite.quick if quick else suite.items))
    for name in missing:
        suites.save_features(folder / f"{name}.npz", data, suite.extract(name, data, assets))
        print(f"extracted {set_name} {name}", flush=True)


@dataclass(frozen=True)
class Scored:
    """The table as read back.

    Attributes:
        values: score -> set -> encoder -> value.
        errors: the same, jackknife standard errors where they were computed.
        seconds: score -> set -> encoder -> time.
        missing: (set, score, encoder) -> why there is no value.
        labels: set -> facts of its labels; ``classes`` and ``rows`` by set.
    """

    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    errors: Mapping[str, Mapping[str, Mapping[str, float]]]
    seconds: Mapping[str, Mapping[str, Mapping[str, float]]]
    missing: Mapping[tuple[str, str, str], str]
    labels: Mapping[str, LabelFacts]
    classes: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)


def read(path: Path, members: tuple[str, ...] = (), *, earlier: bool = False) -> Scored:
    """The last row of every score and cell in the code's version; the table of labels lies beside it.

    Rows of other versions count as missing, with that reason, and a line on stderr says how many there are of which score.

    Args:
        members: of the combined score; the usual ones when left out.
        earlier: take rows of earlier versions as well, where how far models lie apart is asked and not each value.
    """
    values: dict[str, dict[str, dict[str, float]]] = {}
    errors: dict[str, dict[str, dict[str, float]]] = {}
    seconds: dict[str, dict[str, dict[str, float]]] = {}
    missing: dict[tuple[str, str, str], str] = {}
    whole = table.whole_rows(path)
    by_key = [{(r["set"], r["encoder"], r["score"]): r for r in some} for some in (whole, filter(is_current, whole))]
    rows = by_key[0] | by_key[1]
    others = {} if earlier else {key: row for key, row in rows.items() if not is_current(row)}
    say_ignored(path, others)
    for (set_name, encoder, score), row in others.items():
        missing[set_name, score, encoder] = f"stale: computed by version {row['version']}, which is not the code's"
    for (set_name, encoder, score), row in rows.items():
        if (set_name, encoder, score) in others:
            continue
        if row["status"] != "ok":
            missing[set_name, score, encoder] = f"{row['status']}: {row['reason']}"
            continue
        for store, column in ((values, "value"), (errors, "error"), (seconds, "seconds")):
            if row[column]:
                store.setdefault(score, {}).setdefault(set_name, {})[encoder] = float(row[column])
    of_sets = table.whole_rows(labels_table(path))
    columns = ("chance", "entropy", "null_logme", "overlap")
    facts = {r["set"]: LabelFacts(LabelKind.CLASSES, *(float(r[c]) for c in columns), members) for r in of_sets}
    classes, counts = ({row["set"]: int(row[column]) for row in of_sets} for column in ("classes", "rows"))
    return Scored(values, errors, seconds, missing, facts, classes, counts)


def say_ignored(path: Path, rows: Mapping[tuple[str, str, str], Mapping[str, str]]) -> None:
    """One line on stderr about rows that a reader leaves out."""
    if not rows:
        return
    counts = Counter((score, rows[set_name, e, score]["version"]) for set_name, e, score in rows)
    told = ", ".join(
        f"{score} version {version} ({n} cells; "
        + (f"the code has {registry.get(score).version})" if score in registry.names() else "not registered)")
        for (score, version), n in sorted(counts.items())
    )
    print(
        f"{path.name}: ignored rows of other versions: {told}. "
        "Compute them again with python -m benchmarks.suite.score_cells --extract",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
