"""Write what the package carries of the image suite: sizes and normalized scores of every set, and how far encoders lie apart.

    python -m benchmarks.suite.calibration

Reads the scores; writes ``selector/ranking/calibration.json``, whose version grows where anything changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

import selector
from benchmarks.suite import score_cells
from benchmarks.suite.image_suite import SUITE
from selector.core.contracts import LabelKind
from selector.ranking.combination import MEMBERS, LabelFacts

FROZEN = Path(selector.__file__).parent / "ranking" / "calibration.json"
WHOLE = 15  # encoders that a set must have to say how far encoders lie apart


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file."""
    argparse.ArgumentParser(prog="python -m benchmarks.suite.calibration", description=__doc__).parse_args(argv)
    FROZEN.write_text(frozen(score_cells.read(SUITE.table("scores"))), encoding="utf-8")
    print(f"wrote {FROZEN}", file=sys.stderr)
    return 0


def frozen(scored: score_cells.Scored) -> str:
    """The text of the file."""
    sets, slopes = {}, []
    for name, facts in scored.labels.items():
        normalized_score = mean_normalized_score(scored, name, facts)
        if len(normalized_score) < WHOLE:
            continue
        deviations = (rankdata(normalized_score) / (len(normalized_score) + 1) - 0.5) * np.sqrt(12)
        slopes.append(float(np.polyfit(deviations, normalized_score, 1)[0]))
        sets[name] = {
            "rows": scored.rows[name],
            "classes": scored.classes[name],
            "encoders": len(normalized_score),
            "best_normalized_score": round(float(normalized_score.max()), 4),
            "median_normalized_score": round(float(np.median(normalized_score)), 4),
        }
    made = {"normalized_score_per_deviation": round(float(np.mean(slopes)), 3), "sets": sets}
    before = json.loads(FROZEN.read_text(encoding="utf-8"))
    same = made == {k: v for k, v in before.items() if k != "version"}
    return json.dumps({"version": before["version"] + (not same), **made}, indent=1) + "\n"


def mean_normalized_score(scored: score_cells.Scored, name: str, facts: LabelFacts) -> np.ndarray:
    """Of the default members, for the encoders that have all of them."""
    members = MEMBERS[LabelKind.CLASSES]
    by_member = [scored.values.get(m, {}).get(name, {}) for m in members]
    shared = [e for e in by_member[0] if all(e in values for values in by_member)]
    columns = [
        scale(np.array([values[e] for e in shared]), facts)
        for scale, values in zip(members.values(), by_member, strict=True)
    ]
    return np.asarray(np.mean(columns, axis=0))


if __name__ == "__main__":
    sys.exit(main())
