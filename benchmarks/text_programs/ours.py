"""``selector.rank`` on models of the shipped zoo or on folders, with its default settings or with LogME alone, as the peer."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import selector
from benchmarks.stored import seconds_to_memory
from benchmarks.text_programs.watch import Memory, touch
from selector import sources
from selector.zoo import ModelSpec, load_zoo

LOGME_ALONE: dict[str, Any] = {"proxies": ["logme"], "intervals": False, "measure_cost": "never"}


def main() -> None:
    """See the module."""
    task = json.loads(sys.argv[1])
    texts, labels = json.loads(Path(task["data"]).read_text(encoding="utf-8"))
    zoo = {model.name: model for model in load_zoo().models}
    named = zip(task["models"], task["folders"], strict=True)
    specs = [ModelSpec(name=n, source=f"transformers:{f}") if task["base"] else zoo[n] for n, f in named]
    loaded = sources.registry.get(specs[0].source_name).load(specs[0]) if task["memory"] else None
    if loaded is not None:
        touch(loaded.module)
    settings = LOGME_ALONE if task["logme_alone"] else {}
    with Memory() as memory:
        del loaded  # as for the peer
        started = time.perf_counter()
        ranking = selector.rank(
            (texts, labels), zoo=specs, history=False, store=task["store"], precision=task["precision"], **settings
        )
        seconds = time.perf_counter() - started
    assert not ranking.failures, ranking.failures
    assert len(ranking) == len(specs)
    extract = sum(value for stage, value in ranking.seconds.items() if stage in ("tokenize", "extract"))
    if all(model.cached for model in ranking):
        extract = seconds_to_memory((texts, labels), specs, task["store"])
    print(
        json.dumps(
            {
                "run_seconds": seconds,
                "extract_seconds": extract,
                "extra_mib": memory.extra,
                "private_mib": memory.private,
                "stages": dict(ranking.seconds),
            }
        )
    )


if __name__ == "__main__":
    main()
