"""The lines of a model card, run as a reader would run them."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path


def run_card(folder: Path, check: str) -> None:
    """Execute the card's snippet where this package cannot be imported, then ``check``."""
    run_cards((folder, check))


def run_cards(*cards: tuple[Path, str]) -> None:
    """Several one after the other, each with names of its own, in one process: its imports take the time."""
    block = "import os, sys\nsys.modules['selector'] = None\n"
    for folder, check in cards:
        code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        assert code is not None
        lines = code[1] + textwrap.dedent(check)
        block += f"os.chdir({str(folder)!r})\nexec(compile({lines!r}, {str(folder)!r}, 'exec'), {{}})\n"
    path = os.pathsep.join(filter(None, sys.path))  # a card may name the code that its network was made with
    done = subprocess.run(
        [sys.executable, "-c", block],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
