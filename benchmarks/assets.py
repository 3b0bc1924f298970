"""Where the real models and datasets lie that benchmarks need."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def assets_folder(holding: str) -> Path:
    """The folder that ``SELECTOR_ASSETS`` names; the program ends, with a word on stderr, when it names none.

    Args:
        holding: what is needed of it, for the message.
    """
    named = os.environ.get("SELECTOR_ASSETS")
    if not named:
        sys.exit(f"SELECTOR_ASSETS is not set: it names the folder with {holding}. Nothing was done.")
    return Path(named)
