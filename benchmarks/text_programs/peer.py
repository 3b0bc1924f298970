"""transformer-ranker on local folders; runs in an environment of its own, without this package."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # run as a file: the other environment has no benchmarks package

import datasets
import transformers
from transformer_ranker import TransformerRanker
from transformer_ranker.embedder import Embedder
from watch import Memory, touch


def main() -> None:
    """See the module."""
    task = json.loads(sys.argv[1])
    texts, labels = json.loads(Path(task["data"]).read_text(encoding="utf-8"))
    loaded = transformers.AutoModel.from_pretrained(task["folders"][0]) if task["memory"] else None
    if loaded is not None:
        touch(loaded)
    embedding = _timed(Embedder)
    with Memory() as memory:
        del loaded  # what counts is above the loaded model, which the run loads again
        started = time.perf_counter()
        data = datasets.Dataset.from_dict({"text": texts, "label": labels})
        ranker = TransformerRanker(data, text_column="text", label_column="label")
        found = ranker.run(
            task["folders"],
            estimator="logme",
            layer_aggregator=task["aggregator"],
            batch_size=task["batch_size"],
            device="cpu",
        )
        seconds = time.perf_counter() - started
    assert len(found.scores) == len(set(task["folders"])), found
    extra = {"extra_mib": memory.extra, "private_mib": memory.private}
    print(json.dumps({"run_seconds": seconds, "extract_seconds": sum(embedding), **extra}))


def _timed(embedder: Any) -> list[float]:
    """The seconds of each call of ``embed``, in a list that fills up."""
    spent: list[float] = []
    plain = embedder.embed

    def embed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = plain(*args, **kwargs)
        spent.append(time.perf_counter() - started)
        return found

    embedder.embed = embed
    return spent


if __name__ == "__main__":
    main()
