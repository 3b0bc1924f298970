"""Freed memory goes back to the system."""

import subprocess
import sys

import pytest

from selector.core.resources import _trim

BLOCKS = """
import psutil
from selector.core.resources import give_back
resident = psutil.Process().memory_info
blocks = [bytes(4000) for _ in range(20_000)]  # 80 MB in pieces that the allocator keeps
last = bytes(4000)  # holds the end of the heap, which would otherwise shrink by itself
blocks.clear()
before = resident().rss
give_back()
print((before - resident().rss) / 1e6)
"""


@pytest.mark.skipif(_trim() is None, reason="this C library cannot be asked to return memory")
def test_freed_blocks_are_returned() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 60
