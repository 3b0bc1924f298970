"""Rows of the tables on confirmation: where they go, what stands in each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from selector.core.system import versions

OUT = Path(__file__).parent / "results"


def one_thread_count() -> None:
    """Let torch use as many threads as OMP_NUM_THREADS says (2 without it), and no more."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def environment() -> dict[str, Any]:
    """Versions and hardware of this run."""
    found = versions()
    return {
        "selector": found["selector"],
        "torch": found.get("torch"),
        "timm": found.get("timm"),
        "cpu": found["cpu"],
        "threads": torch.get_num_threads(),
    }
