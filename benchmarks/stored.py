"""How long a scan takes to have its rows when all of them are stored."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from selector.core.contracts import no_progress
from selector.data import load_target
from selector.scan.candidate import Candidate
from selector.scan.extraction import Extraction
from selector.scan.selection import by_network
from selector.store import FeatureStore
from selector.zoo import ModelSpec

_TURNS = 5


def seconds_to_memory(target: Any, specs: Sequence[ModelSpec], store: str | os.PathLike[str]) -> float:
    """Seconds until the rows of every model are in memory, when all of them are stored: the best of five turns."""
    return min(_turn(target, specs, store) for _ in range(_TURNS))


def _turn(target: Any, specs: Sequence[ModelSpec], store: str | os.PathLike[str]) -> float:
    extraction = Extraction(load_target(target), FeatureStore(store), "auto", "auto", "auto", "fail", True, no_progress)
    candidates = [Candidate(spec) for spec in specs]
    hashes = extraction.rows().hashes  # a target is loaded, in any scan, before extraction begins
    started = time.perf_counter()
    extraction.run(by_network(candidates), 1.0)
    for candidate in candidates:
        assert candidate.cached
        assert candidate.entry is not None
        candidate.entry.rows(hashes)
    return time.perf_counter() - started
