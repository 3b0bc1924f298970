"""The lines of a model card, run as a reader would run them."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path


def run_card(folder: Path, check: str) -> None:
    """Execute the card's snippet where this package cannot be imported, then ``check``."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code is not None
    block = "import sys; sys.modules['selector'] = None\n" + code[1] + textwrap.dedent(check)
    done = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
