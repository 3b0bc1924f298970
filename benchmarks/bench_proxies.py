"""How near are the proxies to the arithmetic that they cannot do without, and how far are others?

    python -m benchmarks.bench_proxies [--quick] [--out DIR] [--seed N] [--sizes S,M,L,W] [--threads 1,2]
                                       [--repeats 5] [--cases logme,...] [--logme PATH/LogME.py] [--device cuda]

Rows are memory-mapped float32 of the sizes S, M, L and W of ``tests/reference/features.py``. Every case
runs in a process of its own, which alternates the subject and its baseline after a warm-up; a ratio
is the median of the pairs. Baselines:

- ``floor``: float64 Gram matrix, its eigendecomposition, one product D × D × C: what LogME needs.
- ``kernel-floor``, for the four scores of a scan and ``rank_features`` (with intervals) on 5,000 × 30,000 (W): float64
  products N × N of the rows and their eigendecomposition.
- ``faiss.knn`` on rows that are normalized already; scikit-learn's ``LogisticRegression(C=1)``,
  ``LinearDiscriminantAnalysis`` at a fixed shrinkage.
- transformer-ranker, where it can be imported, and any LogME.py whose path is given, against the floor.

With one thread the ratio is of processor time, which other work on the machine disturbs little; with
two it is of wall time. ``busy_ratio`` is what the subject's wall time becomes when another program runs on every core,
over its time beside whatever ran already: 2 is a fair share of the cores, more is threads that wait for each other.
Cases with ``-interval`` add the 90% interval; they run at K, the first 1,200 rows of M. Memory is the anonymous memory (mapped rows do not count) that the subject
alone adds at its peak, sampled from outside by another process. On a GPU (``--device cuda``) the
floor is torch's, in float64 and float32, with the error that float32 makes in the value.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.rows import commit, options, other_programs, read_rows, write_rows
from selector.core.system import cpu_model

HERE = Path(__file__).resolve().parent
REFERENCE = HERE.parent / "tests" / "reference" / "features.py"
FIELDS = (
    "case", "size", "n", "d", "c", "threads", "subject_cpu_s", "subject_wall_s", "baseline", "baseline_cpu_s", "baseline_wall_s",
    "ratio", "target", "busy_ratio", "extra_mib", "value", "baseline_value", "repeats", "status", "device", "commit", "versions",
)  # fmt: skip
SHOWN = ("case", "size", "threads", "ratio", "target", "busy_ratio", "extra_mib", "status")
ONE_PASS = ("logme", "hscore", "lda", "ridge", "fisher")
# case -> (baseline, target ratio at L with one thread; probe: at M)
CASES: dict[str, tuple[str, float | None]] = {
    "logme": ("floor", 1.25),
    "five": ("floor", 2.5),
    "hscore": ("floor", None),
    "knn": ("faiss", 1.1),
    "probe": ("logistic", 5.0),
    "lda": ("sklearn-lda", None),
    "loo-ridge": ("logme-real", 1.5),
    "hscore-interval": ("floor", None),
    "ncti-interval": ("floor", None),
    "probe-interval": ("floor", None),
    "transformer-ranker-logme": ("floor", None),
    "transformer-ranker-hscore": ("floor", None),
    "logme-file": ("floor", None),
    "defaults": ("kernel-floor", 3.0),
    "rank-features": ("kernel-floor", 3.0),
}
SLOW_AT_L = {"knn", "transformer-ranker-logme", "logme-file"}  # once; minutes each
NOT_AT_L = {"probe", "lda", "loo-ridge"}
INTERVAL = "-interval"
WIDE = ("defaults", "rank-features")  # the scores of a scan together, on W alone
OTHERS = ("transformer-ranker-logme", "transformer-ranker-hscore", "logme-file")
REAL_COLUMNS, REAL_WIDTH = 20, 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases and write them into one CSV, over their earlier rows."""
    arguments = _parser().parse_args(argv)
    if arguments.child:
        return _child(json.loads(arguments.child))
    sizes = ["S"] if arguments.quick else arguments.sizes.split(",")
    threads = [1] if arguments.quick else [int(t) for t in arguments.threads.split(",")]
    repeats = 2 if arguments.quick else arguments.repeats
    chosen = arguments.cases.split(",") if arguments.cases else list(CASES)
    out = arguments.out / f"bench_proxies{'_' + arguments.device if arguments.device else ''}.csv"
    rows = {(row["case"], row["size"], row["threads"]): row for row in read_rows(out)}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            data = _make(size, Path(folder))
            for count in threads:
                for case in chosen:
                    if (size == "L" and case in NOT_AT_L) or (size == "K") != case.endswith(INTERVAL):
                        continue
                    if (size == "W") != (case in WIDE):
                        continue
                    turns = 1 if size == "W" or (size == "L" and case in SLOW_AT_L) else repeats
                    asked = {"case": case, "threads": count, "logme_file": arguments.logme, "device": arguments.device}
                    row = rows[case, size, str(count)] = _run({**data, **asked, "repeats": turns}, arguments.limit)
                    print({k: row[k] for k in SHOWN}, flush=True)
                    write_rows(out, list(rows.values()), FIELDS)
    print(f"wrote {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__, HERE / "results", "size S, two repeats, one thread")
    parser.add_argument("--sizes", default="S,M,K,L,W")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", default="")
    parser.add_argument("--logme", help="path of another LogME.py with a class LogME(regression).fit(f, y)")
    parser.add_argument("--device", help="cuda: the torch paths, against torch's floor")
    parser.add_argument("--limit", type=float, default=3600, help="seconds a case may take")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def _make(size: str, folder: Path) -> dict[str, Any]:
    import numpy as np

    features, labels = _module_of(REFERENCE).sized("M" if size == "K" else size)
    if size == "K":
        features, labels = features[:1200], labels[:1200]
    path = folder / f"{size}.f32"
    features.tofile(path)
    np.save(folder / f"{size}.npy", labels)
    n, d = features.shape
    places = {"rows": str(path), "labels": str(folder / f"{size}.npy")}
    return {"size": size, "n": n, "d": d, "c": int(labels.max()) + 1, **places}


def _module_of(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(spec: dict[str, Any], limit: float) -> dict[str, Any]:
    """Two processes: one for the memory of the subject alone, one for the times."""
    row = dict.fromkeys(FIELDS, "")
    row.update({k: spec[k] for k in ("case", "size", "n", "d", "c", "threads", "repeats")})
    row["baseline"], target = CASES[spec["case"]]
    if spec["threads"] == 1 and spec["size"] == (
        "W" if spec["case"] in WIDE else "M" if spec["case"] in ("probe", "loo-ridge") else "L"
    ):
        row["target"] = target
    row.update(device=spec["device"] or f"cpu: {cpu_model()}", commit=commit(), versions=_versions(), status="ok")
    slow = spec["size"] == "W" or (spec["size"] == "L" and spec["case"] in SLOW_AT_L)
    times, failure = _spawn({**spec, "mode": "times", "warm": not slow}, limit)
    if failure:
        return row | {"status": failure}
    memory = times
    if spec["size"] != "W":  # minutes each: there memory is that of the run that is timed
        memory, failure = _spawn({**spec, "mode": "memory"}, limit)
        if failure:
            return row | {"status": failure}
    row["extra_mib"] = round(memory["extra_mib"])
    clock = "cpu" if spec["threads"] == 1 and not spec["device"] else "wall"
    pairs = list(zip(times["subject"], times["baseline"], strict=True))
    row["ratio"] = round(statistics.median(s[clock] / b[clock] for s, b in pairs), 3)
    for who in ("subject", "baseline"):
        for kind in ("cpu", "wall"):
            row[f"{who}_{kind}_s"] = round(statistics.median(t[kind] for t in times[who]), 4)
    if spec["size"] not in ("L", "W") and spec["case"] not in OTHERS and not spec["device"]:
        busy, failure = _spawn({**spec, "mode": "busy"}, limit)
        if failure:
            return row | {"status": failure}
        row["busy_ratio"] = round(statistics.median(busy["busy"]) / statistics.median(busy["quiet"]), 2)
    return row | {"value": times["value"], "baseline_value": times["baseline_value"]}


def _spawn(spec: dict[str, Any], limit: float) -> tuple[dict[str, Any], str]:
    count = str(spec["threads"])
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), count)}
    command = [sys.executable, "-m", "benchmarks.bench_proxies", "--child", json.dumps(spec)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=HERE.parent
    )
    peak = {"before": 0.0, "most": 0.0}
    watcher = threading.Thread(target=_watch, args=(process, Path(spec["rows"] + ".go"), peak), daemon=True)
    watcher.start()
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {}, f"stopped after {limit:.0f} s"
    finally:
        Path(spec["rows"] + ".go").unlink(missing_ok=True)
    if process.returncode:
        return {}, (err.strip().splitlines() or ["failed"])[-1][:200]
    result = json.loads(out.strip().splitlines()[-1])
    return {**result, "extra_mib": peak["most"] - peak["before"]}, ""


def _watch(process: subprocess.Popen[str], go: Path, peak: dict[str, float]) -> None:
    """Anonymous memory from the moment that the child says go."""
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        anonymous = next(
            (int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0.0
        )
        if not go.exists():
            peak["before"] = peak["most"] = anonymous
        peak["most"] = max(peak["most"], anonymous)
        time.sleep(0.004)


# ---------------------------------------------------------------------------- inside the child


def _child(spec: dict[str, Any]) -> int:
    import numpy as np

    rows = np.memmap(spec["rows"], dtype=np.float32, mode="r", shape=(spec["n"], spec["d"]))
    labels = np.load(spec["labels"])
    subject = _subject(spec, rows, labels)
    subject_small = _subject(spec, rows[:600, :40], labels[:600] % 3)
    subject_small()  # imports and thread pools
    if spec["mode"] == "memory":
        time.sleep(0.05)
        Path(spec["rows"] + ".go").touch()
        subject()
        print(json.dumps({}))
        return 0
    if spec["mode"] == "busy":
        subject()
        found: dict[str, list[float]] = {"quiet": [], "busy": []}
        for _ in range(spec["repeats"]):
            for state in found:
                with other_programs((os.cpu_count() or 1) * (state == "busy")):
                    wall = time.perf_counter()
                    subject()
                    found[state].append(time.perf_counter() - wall)
        print(json.dumps(found))
        return 0
    baseline = _baseline(CASES[spec["case"]][0], spec, rows, labels)
    if spec["warm"]:
        subject()
        baseline()
    result: dict[str, Any] = {"subject": [], "baseline": []}
    for _ in range(spec["repeats"]):
        for name, function in (("baseline", baseline), ("subject", subject)):
            if name == "subject":
                Path(spec["rows"] + ".go").touch()
            wall, cpu = time.perf_counter(), time.process_time()
            value = function()
            result[name].append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})
            result["value" if name == "subject" else "baseline_value"] = value
    print(json.dumps(result))
    return 0


def _subject(spec: dict[str, Any], rows: Any, labels: Any) -> Callable[[], float]:
    from selector import proxies
    from selector.features import FeatureSet

    case = spec["case"]
    if case in ("transformer-ranker-logme", "transformer-ranker-hscore"):
        import torch
        from transformer_ranker.estimators import HScore, LogME

        kind = LogME if case.endswith("logme") else HScore
        return lambda: float(kind().fit(torch.from_numpy(rows.copy()), torch.from_numpy(labels)))
    if case == "logme-file":
        if not spec["logme_file"]:
            raise SystemExit("no --logme PATH given")
        module = _module_of(Path(spec["logme_file"]))
        return lambda: float(module.LogME(regression=False).fit(rows.copy(), labels))

    if case == "loo-ridge":
        return _real("loo-ridge", rows)
    if case == "rank-features":
        from selector import rank_features

        return lambda: float(next(iter(rank_features({"wide": rows}, labels, out=False))).scores["logme"].value or 0.0)

    def run() -> float:
        features = FeatureSet(rows, labels, device=spec["device"])
        several = {"five": ONE_PASS, "defaults": proxies.DEFAULT_PROXIES}
        names = several.get(case, (case.removesuffix(INTERVAL),))
        values = [proxies.evaluate(features, name, intervals=case.endswith(INTERVAL)).value for name in names]
        return values[0]

    return run


def _real(name: str, rows: Any) -> Callable[[], float]:
    """A score of twenty real columns on up to 1,024 features."""
    import numpy as np

    from selector import proxies
    from selector.features import FeatureSet

    rng = np.random.default_rng(0)
    x = np.ascontiguousarray(rows[:, :REAL_WIDTH])
    columns = min(REAL_COLUMNS, x.shape[1])
    targets = x[:, :columns] @ rng.standard_normal((columns, REAL_COLUMNS)) + rng.standard_normal(
        (len(x), REAL_COLUMNS)
    )
    return lambda: proxies.evaluate(FeatureSet(x, targets), name).value


def _baseline(name: str, spec: dict[str, Any], rows: Any, labels: Any) -> Callable[[], float]:
    import numpy as np

    classes = spec["c"]
    if name == "floor" and spec["device"]:
        return _device_floor(rows, labels, classes, spec["device"])
    if name == "floor":

        def floor() -> float:
            x = rows.astype(np.float64)
            _, vectors = np.linalg.eigh(x.T @ x)
            return float((vectors.T @ np.ones((x.shape[1], classes)))[0, 0])

        return floor
    if name == "kernel-floor":

        def kernel_floor() -> float:
            x = rows.astype(np.float64)
            inner = x @ x.T
            del x
            return float(np.linalg.eigh(inner)[0][-1])

        return kernel_floor
    if name == "logme-real":
        return _real("logme", rows)
    if name == "faiss":
        from selector.features.threads import processor_named

        with processor_named():
            import faiss

        unit = np.array(rows)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        return lambda: float(faiss.knn(unit, unit, 22, metric=faiss.METRIC_INNER_PRODUCT)[0][0, 1])
    if name == "logistic":
        from sklearn.linear_model import LogisticRegression

        x = np.array(rows)
        return lambda: float(LogisticRegression(C=1, tol=1e-4, max_iter=1000).fit(x, labels).n_iter_[0])
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x = np.array(rows)
    return lambda: float(
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(x, labels).score(x[:100], labels[:100])
    )


def _device_floor(rows: Any, labels: Any, classes: int, device: str) -> Callable[[], float]:
    import torch

    def floor() -> float:
        x = torch.as_tensor(rows.copy(), device=device).double()
        _, vectors = torch.linalg.eigh(x.T @ x)
        product = vectors.T @ torch.ones(x.shape[1], classes, dtype=x.dtype, device=device)
        return float(product[0, 0])

    return floor


# ---------------------------------------------------------------------------- facts of the run


def _versions() -> str:
    from importlib.metadata import distributions

    names = ("numpy", "scipy", "scikit-learn", "faiss-cpu", "torch", "transformer-ranker")
    installed = {dist.name.lower().replace("_", "-"): dist.version for dist in distributions()}
    told = [f"{name} {installed[name]}" for name in names if name in installed]
    return "; ".join([f"python {platform.python_version()}", *told])


if __name__ == "__main__":
    sys.exit(main())
