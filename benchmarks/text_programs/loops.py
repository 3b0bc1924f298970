"""One network over one set of texts: our extraction, and the bare forward loop over batches sorted by length.

Both in one process, in turns, so that they meet the same machine; neither loads or tokenizes within
the time. Ours puts batches together, pools and gives numpy rows; the bare loop has its batches ready.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from selector import sources
from selector.extract.backend_choice import MAX_TEXTS, BackendDecision
from selector.extract.backends import open_backend
from selector.extract.backends.eager import DTYPES
from selector.extract.encode import Runner
from selector.modalities.text import text_hash
from selector.modalities.tokens.table import open_tokens
from selector.zoo import load_zoo

WARM_UP = 200  # texts
BARE_BATCHES = (32, 64, 128)  # the fastest of them counts


def main() -> None:
    """See the module."""
    task = json.loads(sys.argv[1])
    texts, _ = json.loads(Path(task["data"]).read_text(encoding="utf-8"))
    (spec,) = [m for m in load_zoo().models if m.name == task["models"][0]]
    encoder: Any = sources.registry.get(spec.source_name).load(spec)
    loops = {"ours": ours(encoder, texts, task["precision"])}
    for size in BARE_BATCHES:
        loops[f"bare {size}"] = bare(encoder, texts, task["folders"][0], task["precision"], size)
    spent: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(task["turns"]):
        for name, loop in loops.items():
            started = time.perf_counter()
            loop()
            spent[name].append(time.perf_counter() - started)
    rates = {name: len(texts) / min(times) for name, times in spent.items()}
    fastest = max((name for name in rates if name != "ours"), key=rates.__getitem__)
    print(json.dumps({"rows_per_second": rates["ours"], "bare_rows_per_second": rates[fastest], "bare": fastest}))


def ours(encoder: Any, texts: list[str], precision: str) -> Callable[[], None]:
    """What a scan does between the tokens and the store."""
    table, _ = open_tokens(texts, [text_hash(text) for text in texts], texts, encoder.preprocess)
    backend = open_backend("eager", encoder, "cpu", precision, MAX_TEXTS, None)
    runner = Runner(encoder, "cpu", BackendDecision("eager", precision, MAX_TEXTS), backend)

    def run(count: int = len(texts)) -> None:
        for _ in runner.stream(table.batch(part) for part in table.cut(np.arange(count), MAX_TEXTS)):
            pass

    run(WARM_UP)
    return run


def bare(encoder: Any, texts: list[str], folder: str, precision: str, size: int) -> Callable[[], None]:
    """The network alone on padded batches of texts sorted by length, and the mean over tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = copy.deepcopy(encoder.module.backbone).to(DTYPES[precision])
    ids = tokenizer(texts, truncation=True, max_length=encoder.preprocess.max_length)["input_ids"]
    ids.sort(key=len, reverse=True)
    batches = [tokenizer.pad({"input_ids": ids[i : i + size]}, return_tensors="pt") for i in range(0, len(ids), size)]

    def run(count: int = len(batches)) -> None:
        with torch.inference_mode():
            for batch in batches[:count]:
                states = network(**batch).last_hidden_state
                mask = batch["attention_mask"][:, :, None].to(states.dtype)
                (states * mask).sum(1) / mask.sum(1)

    run(-(-WARM_UP // size))
    return run


if __name__ == "__main__":
    main()
