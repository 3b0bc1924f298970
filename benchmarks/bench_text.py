"""Texts against transformer-ranker and against a bare forward loop: time, memory, and the second run.

Every row is measured in a process of its own, after its imports, and kept in the CSV file as soon as
it is there: the same command goes on where it stopped. The peer runs in an environment of its own:
``--peer`` is the Python of one with ``pip install transformer-ranker==0.2.0``.

    SELECTOR_ASSETS=... python -m benchmarks.bench_text --peer PEER/bin/python
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MODELS = ("minilm-l6", "minilm-l6-3-layers")
FIELDS = ("case", "texts", "models", "layers", "repeat", "seconds", "rows_per_second", "extra_mib", "status")

OURS = """
import json, resource, sys, threading, time
import numpy as np, psutil, torch, transformers
import selector
from selector import sources
from selector.zoo import load_zoo
task = json.loads(sys.argv[1])
texts, labels = json.load(open(task["data"]))
zoo = {m.name: m for m in load_zoo().models}
specs = [zoo[name] for name in task["models"]]
encoders = [sources.registry.get(s.source_name).load(s) for s in specs[:1]]  # what a loaded model takes
base, peak, stop = psutil.Process().memory_info().rss, [0], threading.Event()
del encoders
def watch():
    while not stop.wait(0.02):
        peak[0] = max(peak[0], psutil.Process().memory_info().rss)
threading.Thread(target=watch, daemon=True).start()
started = time.perf_counter()
ranking = selector.rank((texts, labels), zoo=specs, proxies=["logme"], intervals=False, drop="off", cost="off",
                        history=False, store=task["store"], precision=task.get("precision", "auto"))
seconds = time.perf_counter() - started
stop.set()
assert not ranking.failures, ranking.failures
print(json.dumps({"seconds": seconds, "extract": sum(m.extract_seconds for m in ranking),
                  "extra_mib": (peak[0] - base) / 2**20}))
"""

PEER = """
import json, sys, threading, time
import datasets, psutil, torch, transformers
from transformer_ranker import TransformerRanker
task = json.loads(sys.argv[1])
texts, labels = json.load(open(task["data"]))
data = datasets.Dataset.from_dict({"text": texts, "label": labels})
model = transformers.AutoModel.from_pretrained(task["folders"][0])
base, peak, stop = psutil.Process().memory_info().rss, [0], threading.Event()
del model
def watch():
    while not stop.wait(0.02):
        peak[0] = max(peak[0], psutil.Process().memory_info().rss)
threading.Thread(target=watch, daemon=True).start()
started = time.perf_counter()
ranker = TransformerRanker(data, text_column="text", label_column="label")
ranker.run(task["folders"], estimator="logme", layer_aggregator=task["aggregator"], device="cpu")
seconds = time.perf_counter() - started
stop.set()
print(json.dumps({"seconds": seconds, "extra_mib": (peak[0] - base) / 2**20}))
"""

BARE = """
import json, sys, time
import torch, transformers
from selector import sources
from selector.zoo import load_zoo
task = json.loads(sys.argv[1])
texts, _ = json.load(open(task["data"]))
(spec,) = [m for m in load_zoo().models if m.name == task["models"][0]]
encoder = sources.registry.get(spec.source_name).load(spec)
tokenizer = transformers.AutoTokenizer.from_pretrained(task["folders"][0])
network = encoder.module.backbone
if task["ours"]:
    from selector.extract.encode import Runner
    from selector.extract.decide import MAX_TEXTS, Decision
    from selector.extract.backends import open_backend
    from selector.extract.tokens import open_tokens
    from selector.texts import text_hash
    import numpy as np
    table, _ = open_tokens(texts, [text_hash(t) for t in texts], texts, encoder.preprocess)
    runner = Runner(encoder, "cpu", Decision("eager", "float32", MAX_TEXTS),
                    open_backend("eager", encoder, "cpu", "float32", MAX_TEXTS, None))
    list(runner.stream(table.batch(part) for part in table.cut(np.arange(200), MAX_TEXTS)))
    started = time.perf_counter()
    for rows in runner.stream(table.batch(part) for part in table.cut(np.arange(len(texts)), MAX_TEXTS)):
        pass
else:
    encoded = sorted(tokenizer(texts, truncation=True, max_length=256)["input_ids"], key=len, reverse=True)
    batches = [tokenizer.pad({"input_ids": encoded[i : i + 32]}, return_tensors="pt") for i in range(0, len(encoded), 32)]
    with torch.inference_mode():
        for batch in batches[:6]:
            network(**batch)
        started = time.perf_counter()
        for batch in batches:
            out = network(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None]
            (out * mask).sum(1) / mask.sum(1)
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "rows_per_second": len(texts) / seconds}))
"""


def data_of(name: str, count: int, folder: Path) -> Path:
    """The first ``count`` texts of a set of SELECTOR_ASSETS, repeated with a number where it has fewer."""
    import pyarrow.parquet as pq

    path = folder / f"{name}-{count}.json"
    table = pq.read_table(Path(os.environ["SELECTOR_ASSETS"]) / "text" / name / "train.parquet").to_pydict()
    texts, labels = table["text"], table["label"]
    order = [(i * 7919) % len(texts) for i in range(count)]
    again = [i // len(texts) for i in range(count)]
    found = [texts[k] + (f" ({n})" if n else "") for k, n in zip(order, again, strict=True)]
    path.write_text(json.dumps([found, [labels[k] for k in order]]))
    return path


def run(python: str, code: str, task: dict[str, Any]) -> dict[str, Any]:
    """What a measuring process prints, or its error as ``status``."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(
        [python, "-c", code, json.dumps(task)], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        return {"status": f"failed: {done.stderr.strip().splitlines()[-1:]}"}
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "status": "ok"}


def main(argv: list[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="Python of the environment with transformer-ranker")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="200 texts, one repeat")
    parser.add_argument("--large", type=int, default=20_000, help="texts of the memory rows")
    parser.add_argument("--data", default="trec")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="comma-separated cases")
    args = parser.parse_args(argv)
    if not os.environ.get("SELECTOR_ASSETS"):
        raise SystemExit("SELECTOR_ASSETS is not set to a folder of real texts; nothing was measured.")
    from selector.system import cpu_model
    from selector.zoo import load_zoo

    zoo = {model.name: model for model in load_zoo().models}
    out = args.out or RESULTS / f"text-torch{metadata.version('torch').partition('+')[0]}-cpu.csv"
    rows = list(csv.DictReader(out.open())) if out.is_file() else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        short = folder / "three"  # the peer takes folders: the truncated network is written as one
        _write_truncated(zoo["minilm-l6-3-layers"], short)
        whole = zoo["minilm-l6"].weights.path().parent  # type: ignore[union-attr]
        folders = {"minilm-l6": str(whole), "minilm-l6-3-layers": str(short)}
        small = 200 if args.quick else 2000
        plan: list[tuple[str, int, tuple[str, ...], str]] = []
        for repeat in range(1 if args.quick else args.repeats):
            for case in ("peer cold", "ours cold", "ours warm"):
                plan.append((case, small, MODELS, str(repeat)))
            for case in ("bare loop", "ours loop"):
                plan.append((case, small, MODELS[:1], str(repeat)))
        large = 400 if args.quick else args.large
        for model in MODELS:  # six layers and three: memory should not tell them apart
            plan += [("peer all layers", large, (model,), "0"), ("ours all layers", large, (model,), "0")]
        done = {(r["case"], int(r["texts"]), r["models"], r["repeat"]) for r in rows}
        for case, count, models, repeat in plan:
            key = (case, count, " ".join(models), repeat)
            if key in done or (args.only and case not in args.only.split(",")):
                continue
            store = folder / f"store-{repeat}-{count}-{len(models)}-{models[0]}"
            task = {"data": str(data_of(args.data, count, folder)), "models": list(models), "store": str(store)}
            task |= {
                "folders": [folders[name] for name in models],
                "aggregator": "layermean",
                "ours": case == "ours loop",
            }
            if case.startswith("peer"):
                if not args.peer:
                    continue
                task["aggregator"] = "bestlayer" if "layers" in case else "layermean"
                found = run(args.peer, PEER, task)
            elif case.endswith("loop"):
                found = run(sys.executable, BARE, task)
            else:
                if case == "ours warm" and not store.is_dir():
                    run(sys.executable, OURS, task)
                found = run(sys.executable, OURS, task)
            row = {"case": case, "texts": count, "models": " ".join(models), "repeat": repeat}
            row |= {"layers": "6" if "minilm-l6" in models else "3"}
            row |= {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in found.items() if k in FIELDS}
            rows.append(row)
            print(row, flush=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(rows)
    print(f"{cpu_model()}, torch {metadata.version('torch')}, transformers {metadata.version('transformers')}")
    for line in ratios(rows):
        print(line)


def _write_truncated(spec: Any, folder: Path) -> None:
    import shutil

    from selector import sources

    encoder = sources.registry.get(spec.source_name).load(spec)
    encoder.module.backbone.save_pretrained(folder)
    source = spec.weights.path().parent
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(source / name, folder / name)


def ratios(rows: list[dict[str, Any]]) -> list[str]:
    """The figures that the targets are about: medians over the repeats of one run."""
    from statistics import median

    def middle(case: str, column: str, models: str | None = None) -> float:
        found = [
            float(r[column]) for r in rows if r["case"] == case and r.get(column) and models in (None, r["models"])
        ]
        return median(found) if found else float("nan")

    lines = [
        f"cold: {middle('peer cold', 'seconds') / middle('ours cold', 'seconds'):.2f} x as fast as the peer (target 3)",
        f"warm: {middle('peer cold', 'seconds') / middle('ours warm', 'seconds'):.0f} x as fast as the peer",
        f"loop: {middle('ours loop', 'rows_per_second') / middle('bare loop', 'rows_per_second'):.2f} x the bare loop (target 0.9)",
    ]
    for model in MODELS:
        peer, ours = (middle(f"{who} all layers", "extra_mib", model) for who in ("peer", "ours"))
        lines.append(
            f"memory, {model}: {ours:.0f} MiB above the loaded model, the peer {peer:.0f} ({ours / peer:.2f}; target 0.33)"
        )
    return lines


if __name__ == "__main__":
    main()
