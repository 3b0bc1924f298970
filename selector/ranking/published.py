"""Published accuracies that the package carries, as results of a history.

The file beside this one holds fact tables with their sources; ``benchmarks/reproduce`` writes it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files

from selector.ranking.history import Result

ORIGIN = "published"


@lru_cache(maxsize=1)
def published_results() -> tuple[Result, ...]:
    """One result a network and data set; the network under the name that its source gives it.

    ``target`` and ``target_name`` name the data set, ``run`` the table; accuracy is in points.
    """
    data = json.loads((files("selector.ranking") / "published.json").read_text(encoding="utf-8"))
    return tuple(
        Result(
            target=f"{ORIGIN}:{data_set}",
            target_name=data_set,
            model=model,
            source=model,
            strategy=table["strategy"],
            metric="mean_average_precision" if data_set == "voc2007" else "accuracy",
            value=value,
            origin=ORIGIN,
            run=table["name"],
            facts=entry["facts"],
        )
        for table in data["tables"]
        for model, entry in table["models"].items()
        for data_set, value in zip(table["sets"], entry["accuracy"], strict=True)
    )
