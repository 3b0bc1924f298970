"""Bring README.md and the figures of a run up to date: ``python -m _tools.demo RUN`` from docs/, after ``selector demo``.

The table of the README and the picture of its report come from one run; ``docs/images/report.json`` says which.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
IMAGE = DOCS / "images" / "report.png"
RECORD = DOCS / "images" / "report.json"
SIZE = (1420, 1000)
WIDTH = 150
BLOCK = re.compile(r"(<!-- output: demo -->\n```\n).*?(```)", re.S)


def digest(data: bytes) -> str:
    """What tells two files apart."""
    return hashlib.sha256(data).hexdigest()[:16]


def table(run: str | Path) -> str:
    """The table of a run without the notes below it."""
    from selector.report.table import render_text
    from selector.results import load_ranking

    lines = render_text(load_ranking(run), width=WIDTH).splitlines()
    last = next(k for k, line in enumerate(lines) if line.startswith(("Hidden columns", "Legend")))
    return "\n".join(line.rstrip() for line in lines[:last]).strip()


def main(run: str) -> None:
    """Write table, picture and record.

    Args:
        run: the run's folder.
    """
    sys.path.insert(0, str(ROOT))
    from selector.report.html import write_report
    from selector.results import load_ranking
    from tests.report.browser import MISSING, browser

    readme = ROOT / "README.md"
    shown = table(run)
    readme.write_text(
        BLOCK.sub(lambda m: f"{m[1]}{shown}\n{m[2]}", readme.read_text(encoding="utf-8")), encoding="utf-8"
    )
    if MISSING:
        sys.exit(f"the picture was not made: {MISSING}")
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as driver:
        driver.set_window_size(*SIZE)
        driver.get(write_report(load_ranking(run)).resolve().as_uri())
        IMAGE.write_bytes(driver.get_screenshot_as_png())
    record = {
        "run": digest((Path(run) / "run.json").read_bytes()),
        "table": digest(shown.encode()),
        "picture": digest(IMAGE.read_bytes()),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
