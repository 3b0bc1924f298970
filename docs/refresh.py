"""Bring README.md up to date with a run of the demo: its table, and a picture of its report.

Run from the top of the repository after ``selector demo``: ``python -m docs.refresh runs/demo``.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from selector.report.html import write_report
from selector.report.table import render_text
from selector.results import load_ranking
from tests.report.browser import MISSING, browser

ROOT = Path(__file__).parent.parent
IMAGE = ROOT / "docs" / "images" / "report.png"
SIZE = (1420, 1000)


def main(run: str) -> None:
    """Write both; the picture only where there is a browser."""
    ranking = load_ranking(run)
    readme = ROOT / "README.md"
    table = render_text(ranking, width=150)
    block = re.compile(r"(<!-- output: demo -->\n```\n).*?(```)", re.S)
    readme.write_text(block.sub(lambda m: f"{m[1]}{table}\n{m[2]}", readme.read_text(encoding="utf-8")), encoding="utf-8")
    if MISSING:
        sys.exit(f"the picture was not made: {MISSING}")
    IMAGE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as driver:
        driver.set_window_size(*SIZE)
        driver.get(write_report(ranking).resolve().as_uri())
        IMAGE.write_bytes(driver.get_screenshot_as_png())


if __name__ == "__main__":
    main(sys.argv[1])
