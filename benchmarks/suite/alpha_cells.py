"""The weight-spectrum exponent of every image encoder: a fact of its weights, which looks at no target.

    SELECTOR_ASSETS=... python -m benchmarks.suite.alpha_cells [--suite images] [--encoders ...]

Resumable: appends rows to ``../results/suite/alpha.csv``. Networks without a weight whose sides are both long enough have a
row that says so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.assets import assets_folder
from benchmarks.suite import encoders, suites, table
from selector.core.errors import ProxyError
from selector.features.weight_spectrum import weight_spectrum

COLUMNS = ("encoder", "alpha", "weighted", "layers", "seconds", "status", "reason")


def main(argv: Sequence[str] | None = None) -> int:
    """Compute the missing rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.alpha_cells", description=__doc__)
    suites.add_arguments(parser)
    parser.add_argument("--out", type=Path, help="the table; the suite's own when left out")
    args = parser.parse_args(argv)
    assets = assets_folder("models/")
    if assets is None:
        return 2
    suite = suites.find("images")
    out = args.out or suite.table("alpha")
    done = {row["encoder"] for row in table.whole_rows(out)}
    cards = encoders.cards(assets / "models")
    for name in suites.chosen(parser, "encoders", args.encoders, list(cards)):
        if name in done:
            continue
        weights = encoders.load(name, cards[name], assets / "models").module.state_dict()
        begun = time.process_time()
        row: dict[str, object] = {"encoder": name, "status": "ok"}
        try:
            found = weight_spectrum(weights)
        except ProxyError as error:
            row |= {"status": "not applicable", "reason": str(error)}
        else:
            row |= {
                "alpha": round(found.alpha, 4),
                "weighted": round(found.weighted, 4),
                "layers": len(found.layers),
                "seconds": round(time.process_time() - begun, 1),
            }
        table.append(out, row, COLUMNS)
        print(row, flush=True)
    return 0


def by_encoder(path: Path) -> dict[str, float]:
    """−alpha, where there is one: heavier tails go with better networks."""
    return {row["encoder"]: -float(row["alpha"]) for row in table.whole_rows(path) if row["status"] == "ok"}


if __name__ == "__main__":
    sys.exit(main())
