"""What a scan of texts tells beyond the ranking: which texts were cut, and which layer transfers best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from selector import proxies
from selector.core.errors import ProxyError
from selector.extract.job import layer_specs
from selector.scan.scoring import feature_set
from selector.store import Entry, RowsMissing

if TYPE_CHECKING:
    from selector.scan.candidate import Candidate
    from selector.scan.extraction import Extraction

CURVE_PROXY, CURVE_DETAIL = "knn", "accuracy@5"  # scale-free, so that layers compare, and easily read
CURVE_ROWS = 2000


def cut_notes(candidates: Sequence[Candidate], extraction: Extraction) -> Iterator[str]:
    """A sentence for each model that did not read all of every text."""
    for candidate in candidates:
        preprocess = {} if candidate.entry is None else candidate.entry.meta.get("preprocess", {})
        longest = preprocess.get("max_length")
        if longest and (count := extraction.work.prepared.texts_cut(preprocess)):
            of = f"{candidate.spec.name}: {count} of {len(extraction.target)}"
            if preprocess.get("long_texts") == "window":
                yield f"{of} pairs hold two long texts: the shorter one was cut to half of {longest} tokens."
            else:
                yield (
                    f"{of} texts have more than {longest} tokens and were cut ('long_texts: window' in the zoo reads "
                    "all of them)."
                )


def add_layer_curves(candidates: Sequence[Candidate], extraction: Extraction) -> None:
    """Give each candidate the 5-nearest-neighbor accuracy of every layer whose rows are stored.

    Cost: one neighbor search of at most 2,000 rows a layer; kept in the store.
    """
    share = min(1.0, CURVE_ROWS / max(1, len(extraction.rows(1.0))))
    rows = extraction.rows(share)
    for candidate in candidates:
        if candidate.failure or candidate.pruned or candidate.excluded:
            continue
        for spec in layer_specs(candidate.spec):
            entry = extraction.stored(spec)
            if entry is None or len(entry.missing(rows.hashes)):
                continue
            key = {"entry": entry.key, "rows": rows.digest, "version": proxies.registry.get(CURVE_PROXY).version}
            known = extraction.store.get("layer", key)
            if known is None:
                known = {"value": _accuracy(entry, rows)}
                extraction.store.put("layer", key, known)
            if known["value"] is not None:
                candidate.layers[str(spec.layer)] = float(known["value"])


def _accuracy(entry: Entry, rows: Any) -> float | None:
    try:
        features = feature_set(entry, rows)
        value = proxies.evaluate(features, CURVE_PROXY, intervals=False, seed=0).details.get(CURVE_DETAIL)
    except (ProxyError, RowsMissing):
        return None  # no classes, or a damaged chunk: the curve has a gap
    return None if value is None else float(value)
