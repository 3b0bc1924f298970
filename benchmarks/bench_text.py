"""Texts against transformer-ranker and against a bare forward loop: time, memory, and the second run.

    SELECTOR_ASSETS=... python -m benchmarks.bench_text --peer PEER/bin/python [--only CASES] [--quick]

The peer runs in an environment of its own: ``--peer`` is the Python of one with
``pip install transformer-ranker==0.2.0 psutil``. Every row is measured in a process of its own and
kept as soon as it is there: the same command goes on where it stopped. Cases:

* ``peer tuning``: the peer on a quarter of the texts with each batch size of ``PEER_BATCHES``, the
  only setting that its documentation offers for a CPU. Its other rows take the fastest.
* ``peer cold``, ``ours cold``: two encoders from local folders (``--base``: of the size of BERT-base, with
  random weights; the others are a fifth of that), an empty store, our default settings
  (several scores, intervals, costs, every layer kept). ``ours cold logme``: LogME alone, which is all
  that the peer computes; ``ours cold logme float32``: also in the peer's precision.
* ``ours warm``: the same command again.
* ``loops float32``, ``loops bfloat16``: our extraction and a bare forward loop, in one process.
* ``peer layers``, ``ours layers``, ``ours layers logme``: memory above the loaded model on ``--large``
  texts, all layers kept, for a network of six layers and for its first three.

``seconds`` is the whole process, imports and loading included, ``cpu_seconds`` its processor time;
``run_seconds`` is the call alone; ``extract_seconds`` is the peer's ``Embedder.embed``, ours from
texts to rows in the store. Every program gets ``--threads`` threads (one, so that other work on the
machine disturbs least), and of the repeats, which take turns, the quickest counts.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.assets import assets_folder

RESULTS = Path(__file__).parent / "results" / "bench_text.csv"
PROGRAMS = Path(__file__).parent / "text_programs"
MODELS = ("minilm-l6", "minilm-l6-3-layers")
BASE = {"random-base-12-layers": 12, "random-base-6-layers": 6}
"""The size that most people take: the shape of BERT-base, with random weights, on which no time depends."""
PEER_BATCHES = (8, 16, 32, 64)
TURNS = 5  # of each loop
FIELDS = (
    *("case", "data", "texts", "models", "setting", "repeat"),
    *(
        "seconds",
        "cpu_seconds",
        "run_seconds",
        "extract_seconds",
        "rows_per_second",
        "bare_rows_per_second",
        "extra_mib",
        "private_mib",
        "threads",
        "status",
    ),
    *("probe_s", "commit", "selector", "transformer_ranker", "torch", "transformers", "cpu", "cores"),
)
Row = dict[str, str]


@dataclass(frozen=True)
class Case:
    """One row to be measured."""

    name: str
    texts: int
    models: tuple[str, ...]
    repeat: int
    setting: str = ""

    def is_row(self, row: Row, data: str) -> bool:
        """Whether a row of the file is this one."""
        mine = (self.name, data, str(self.texts), " ".join(self.models), self.setting, str(self.repeat))
        return mine == tuple(row[k] for k in ("case", "data", "texts", "models", "setting", "repeat"))


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="Python of the environment with transformer-ranker")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="600 texts, one repeat")
    parser.add_argument("--large", type=int, default=20_000, help="texts of the memory rows")
    parser.add_argument("--data", default="trec", help="a set of SELECTOR_ASSETS/text")
    parser.add_argument("--base", action="store_true", help="encoders of the size of BERT-base")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="comma-separated cases")
    args = parser.parse_args(argv)
    assets = assets_folder("sets of texts")
    if assets is None:
        return 2
    small, large, repeats = (600, 800, 1) if args.quick else (2000, args.large, args.repeats)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(args.out, assets, args.data, args.peer, Path(temporary), args.threads)
        for case in plan(small, large, repeats, tuple(BASE) if args.base else MODELS):
            if not args.only or case.name in args.only.split(","):
                bench.add(case)
    for line in ratios([row for row in bench.rows if row["data"] == args.data and is_base(row) == args.base]):
        print(line)
    return 0


def is_base(row: Row) -> bool:
    """Whether a row is of encoders of the size of BERT-base."""
    return row["models"].split()[0] in BASE


def plan(small: int, large: int, repeats: int, models: tuple[str, ...] = MODELS) -> list[Case]:
    """All rows, in the order in which they are measured."""
    cases = [Case("peer tuning", small // 4, models, 0, f"batch {size}") for size in PEER_BATCHES]
    for repeat in range(repeats):
        for name in ("peer cold", "ours cold", "ours warm", "ours cold logme", "ours cold logme float32"):
            cases.append(Case(name, small, models, repeat))
    if models != MODELS:
        return cases
    cases += [Case(f"loops {precision}", small, MODELS[:1], 0) for precision in ("float32", "bfloat16")]
    for model in MODELS:  # six layers and three: memory should not tell them apart
        cases += [Case(f"{who} layers", large, (model,), 0) for who in ("peer", "ours")]
        cases.append(Case("ours layers logme", large, (model,), 0))
    return cases


class Bench:
    """Measures rows that the file does not have yet and writes each at once.

    Args:
        out: the CSV file.
        assets: folder of the sets of texts.
        data: the set.
        peer: Python of the peer's environment; None leaves its rows out.
        folder: for texts, stores and the truncated network.
        threads: of every program.
    """

    def __init__(self, out: Path, assets: Path, data: str, peer: str | None, folder: Path, threads: int) -> None:
        self.out, self.data, self.peer = out, data, peer
        self.rows: list[Row] = list(csv.DictReader(out.open())) if out.is_file() else []
        self._assets, self._folder, self._threads = assets, folder, threads
        self._folders: dict[str, str] = {}
        self._facts: Row = {}

    def add(self, case: Case) -> None:
        """Measure a case, unless it is there or its program is not."""
        peer = case.name.startswith("peer")
        if (peer and not self.peer) or any(case.is_row(row, self.data) for row in self.rows):
            return
        found = self._measure(case, self.peer if peer and self.peer else sys.executable)
        values = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in found.items()}
        row = {"case": case.name, "data": self.data, "texts": str(case.texts), "models": " ".join(case.models)}
        row |= {"setting": case.setting, "repeat": str(case.repeat), **values, **self._machine()}
        self.rows.append({name: row.get(name, "") for name in FIELDS})
        print({name: value for name, value in row.items() if name in FIELDS[:15]}, flush=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)

    def _measure(self, case: Case, python: str) -> dict[str, Any]:
        texts = self._texts(case.texts)
        task: dict[str, Any] = {"data": str(texts), "models": list(case.models), "memory": "layers" in case.name}
        task["threads"] = self._threads
        task["folders"] = [self._model_folder(name) for name in case.models]
        task["base"] = case.models[0] in BASE
        probe = probe_seconds()
        if case.name.startswith("loops"):
            found = run(python, "loops", task | {"precision": case.name.split()[1], "turns": TURNS})
        elif case.name.startswith("peer"):
            size = int(case.setting.split()[1]) if case.setting else self._peer_batch(case.models)
            aggregator = "bestlayer" if case.name == "peer layers" else "layermean"
            found = run(python, "peer", task | {"batch_size": size, "aggregator": aggregator})
        else:
            store = self._folder / f"store-{case.models[0]}-{case.repeat}"
            if case.name != "ours warm":
                shutil.rmtree(store, ignore_errors=True)
            precision = "float32" if case.name.endswith("float32") else "auto"
            task |= {"store": str(store), "precision": precision, "logme_alone": "logme" in case.name}
            if case.name == "ours warm" and not store.is_dir():
                run(python, "ours", task)
            found = run(python, "ours", task)
        if not task["memory"]:
            for name in ("extra_mib", "private_mib"):  # above the loaded model only where one was loaded before
                found.pop(name, None)
        return {"probe_s": probe, "threads": self._threads, **found}

    def _peer_batch(self, models: tuple[str, ...]) -> int:
        """The batch size with which the peer was fastest; its default where that was not measured."""
        wanted = ("peer tuning", self.data, "ok", is_base({"models": models[0]}))
        tuned = [r for r in self.rows if (r["case"], r["data"], r["status"], is_base(r)) == wanted]
        return int(min(tuned, key=lambda r: float(r["run_seconds"]))["setting"].split()[1]) if tuned else 32

    def _texts(self, count: int) -> Path:
        """A file of the first ``count`` texts of the set and their labels, repeated with a number where it has fewer."""
        import pyarrow.parquet as pq

        path = self._folder / f"{self.data}-{count}.json"
        if not path.is_file():
            table = pq.read_table(self._assets / "text" / self.data / "train.parquet").to_pydict()
            texts, labels = table["text"], table["label"]
            order = np.random.default_rng(0).permutation(len(texts))
            chosen = [(int(order[i % len(texts)]), i // len(texts)) for i in range(count)]
            found = [texts[k] + (f" ({again})" if again else "") for k, again in chosen]
            path.write_text(json.dumps([found, [labels[k] for k, _ in chosen]]), encoding="utf-8")
        return path

    def _model_folder(self, name: str) -> str:
        """A model of the zoo as a Hugging Face folder; truncated and random networks are written as one."""
        if name in BASE and name not in self._folders:
            import transformers

            transformers.set_seed(0)
            network = transformers.BertModel(transformers.BertConfig(num_hidden_layers=BASE[name]))
            network.save_pretrained(self._folder / name)
            copy_tokenizer(Path(self._model_folder(MODELS[0])), self._folder / name)
            self._folders[name] = str(self._folder / name)
        if name not in self._folders:
            from selector import sources
            from selector.zoo import load_zoo

            (spec,) = [model for model in load_zoo().models if model.name == name]
            whole = spec.weights.path().parent  # type: ignore[union-attr]
            if spec.kwargs:
                encoder: Any = sources.registry.get(spec.source_name).load(spec)
                encoder.module.backbone.save_pretrained(self._folder / name)
                copy_tokenizer(whole, self._folder / name)
                whole = self._folder / name
            self._folders[name] = str(whole)
        return self._folders[name]

    def _machine(self) -> Row:
        if not self._facts:
            from selector import __version__
            from selector.core.system import cpu_model

            commit = subprocess.run(
                ["git", "rev-parse", "--short", "HEAD"], cwd=PROGRAMS, capture_output=True, text=True, check=False
            ).stdout.strip()
            self._facts = {"commit": commit, "selector": __version__, "cpu": cpu_model() or platform.machine()}
            self._facts |= {"cores": str(os.cpu_count()), "transformer_ranker": _peer_version(self.peer)}
            self._facts |= {name: metadata.version(name) for name in ("torch", "transformers")}
        return self._facts


def copy_tokenizer(source: Path, folder: Path) -> None:
    """A network's tokenizer beside another network."""
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(source / file, folder / file)


def run(python: str, program: str, task: dict[str, Any]) -> dict[str, Any]:
    """What a measuring process prints with its time as a whole, or its error as ``status``."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    environment |= {name: str(task["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    command = (
        [python, str(PROGRAMS / "peer.py")]
        if program == "peer"
        else [python, "-m", f"benchmarks.text_programs.{program}"]
    )
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*command, json.dumps(task)], capture_output=True, text=True, env=environment, check=False)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode:
        return {"status": f"failed: {' '.join(done.stderr.strip().splitlines()[-1:])}"}
    return {
        **json.loads(done.stdout.strip().splitlines()[-1]),
        "seconds": seconds,
        "cpu_seconds": spent,
        "status": "ok",
    }


def probe_seconds() -> float:
    """Time of a fixed piece of work, which tells a busy machine."""
    square = np.ones((800, 800), np.float32)
    started = time.perf_counter()
    for _ in range(20):
        square @ square
    return time.perf_counter() - started


def ratios(rows: Sequence[Row]) -> list[str]:
    """The figures that the aims are about: of the repeats the quickest."""

    def least(case: str, column: str, models: str | None = None) -> float:
        found = [float(r[column]) for r in rows if r["case"] == case and r[column] and models in (None, r["models"])]
        return min(found, default=float("nan"))

    def against(case: str) -> str:
        whole, spent, call = (
            least("peer cold", name) / least(case, name) for name in ("seconds", "cpu_seconds", "run_seconds")
        )
        return f"{whole:.2f} x as fast ({spent:.2f} x in processor time, the call alone {call:.2f} x; aim 3)"

    embed, warm = least("peer cold", "extract_seconds"), least("ours warm", "run_seconds")
    lines = [f"peer cold: {least('peer cold', 'seconds'):.1f} s, of which {embed:.1f} s embedding"]
    for case in ("ours cold", "ours cold logme", "ours cold logme float32"):
        lines.append(f"{case}: {least(case, 'seconds'):.1f} s, {against(case)}")
    stage = least("ours warm", "extract_seconds")
    lines.append(
        f"ours warm: rows in memory after {1000 * stage:.0f} ms, the peer's embedding takes {embed / stage:.0f} x as long "
        f"(aim 50); the whole call {warm:.2f} s, {embed / warm:.0f} x"
    )
    for precision in ("float32", "bfloat16"):
        ours, bare = (least(f"loops {precision}", name) for name in ("rows_per_second", "bare_rows_per_second"))
        lines.append(f"loop in {precision}: {ours:.0f} texts/s, {ours / bare:.2f} x the bare loop (aim 0.9)")
    for model in MODELS:
        for case in ("ours layers", "ours layers logme"):
            for column, kind in (("extra_mib", "resident"), ("private_mib", "of which no file backs")):
                theirs, own = (least(name, column, model) for name in ("peer layers", case))
                told = f"memory, {model}, {case}, {kind}: {own:.0f} MiB, the peer {theirs:.0f}"
                lines.append(f"{told} ({own / theirs:.2f}; aim 0.33)")
    return lines


def _peer_version(python: str | None) -> str:
    if python is None:
        return ""
    code = "from importlib.metadata import version; print(version('transformer-ranker'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
