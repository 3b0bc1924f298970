"""Equal time, same encoder, same items: this package against what users would run instead.

    python -m benchmarks.head_to_head.run --seconds 120 --sets dtd10 trec --items 500 --peers PYTHON --autogluon PYTHON

Each contender gets the labeled items and decides by itself how to validate; test is read once, at its end, and does not
count. It runs alone on one core (``--core``), in its own environment: ``--peers`` with fastai, transformers and setfit,
``--autogluon`` with autogluon.multimodal. Rows are appended as they come; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from sklearn.model_selection import train_test_split

from benchmarks.suite import encoders, image_sets
from benchmarks.suite.suites import LabeledSet, draw
from benchmarks.suite.table import append, whole_rows
from selector.core.system import cpu_model
from selector.zoo import load_zoo

HERE = Path(__file__).parent
TABLE = HERE.parent / "results" / "head_to_head.csv"
COLUMNS = (
    "set", "items", "test_items", "encoder", "budget_s", "contender", "test_accuracy", "seconds", "facts", "version",
    "cpu", "torch", "status", "reason",
)  # fmt: skip
MIRRORED = ("flowers", "dtd10", "cifar10", "textile", "coco128_crops")  # a mirrored digit or chest is another thing
ENCODERS = {"images": "efflite0", "texts": "minilm-l6"}
CONTENDERS: dict[str, dict[str, tuple[str, str, str]]] = {
    "images": {
        "selector": ("ours", "ours.py", "zoo-selector"),
        "selector, no refit": ("ours", "ours.py no-refit", "zoo-selector"),
        "linear probe": ("ours", "probe.py", "scikit-learn"),
        "plain script": ("ours", "script.py", "torch"),
        "torchvision recipe": ("peers", "recipes.py torchvision", "torchvision"),
        "timm recipe": ("peers", "recipes.py timm", "timm"),
        "fastai fine_tune": ("peers", "with_fastai.py", "fastai"),
        "autogluon": ("autogluon", "with_autogluon.py medium_quality", "autogluon.multimodal"),
    },
    "texts": {
        "selector": ("ours", "ours.py", "zoo-selector"),
        "selector, no refit": ("ours", "ours.py no-refit", "zoo-selector"),
        "linear probe": ("peers", "probe.py", "scikit-learn"),
        "trainer": ("peers", "with_trainer.py default", "transformers"),
        "trainer, 20 epochs": ("peers", "with_trainer.py long", "transformers"),
        "setfit": ("peers", "with_setfit.py", "setfit"),
        "autogluon": ("autogluon", "with_autogluon.py medium_quality", "autogluon.multimodal"),
    },
}
"""By kind of items: the environment, the script with its first argument, and the package whose version counts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--sets", nargs="+", default=["dtd10", "flowers", "digits", "trec"])
    parser.add_argument("--items", nargs="+", type=int, default=[500])
    parser.add_argument("--contenders", nargs="+", help="of those of the kind; all where not given")
    parser.add_argument("--peers", help="a Python with fastai, timm, transformers and setfit")
    parser.add_argument("--autogluon", help="a Python with autogluon.multimodal")
    parser.add_argument("--core", type=int, help="the one core that contenders run on")
    parser.add_argument("--assets", type=Path, default=Path(os.environ.get("SELECTOR_ASSETS", ".")))
    parser.add_argument("--table", type=Path, default=TABLE)
    given = parser.parse_args(argv)
    pythons = {"ours": sys.executable, "peers": given.peers, "autogluon": given.autogluon}
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.sets:
            for items in given.items:
                kind = "texts" if (given.assets / "text" / name).is_dir() else "images"
                folder: Path | None = None
                for contender, (where, script, package) in CONTENDERS[kind].items():
                    key = (name, str(items), f"{given.seconds:g}", contender)
                    if (given.contenders and contender not in given.contenders) or key in _done(given.table):
                        continue
                    if (python := pythons[where]) is None:
                        continue
                    if folder is None:
                        folder = prepare(Path(temporary), kind, name, items, given.assets)
                    row = ran(python, script, folder, given.seconds, given.core)
                    row |= dict(zip(("set", "items", "budget_s", "contender"), key, strict=True))
                    row |= {"encoder": ENCODERS[kind], "cpu": cpu_model(), **versions(python, package)}
                    row["test_items"] = json.loads((folder / "cell.json").read_text("utf-8"))["test_items"]
                    append(given.table, row, COLUMNS)
                    print(
                        name, items, contender, row.get("test_accuracy"), row.get("seconds"), row["reason"], flush=True
                    )
    return 0


def _done(table: Path) -> set[tuple[str, ...]]:
    return {(r["set"], r["items"], r["budget_s"], r["contender"]) for r in whole_rows(table) if r["status"] == "ok"}


def ran(python: str, script: str, folder: Path, seconds: float, core: int | None) -> dict[str, Any]:
    """What one contender says of itself; a failure is a row with its last line."""
    name, *arguments = script.split()
    command = [python, str(HERE / name), *arguments, str(folder), f"{seconds:g}"]
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = os.environ | threads | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HERE.parent.parent)}
    limit = 10 * seconds + 600
    try:
        done = subprocess.run(
            [*pinned, *command], capture_output=True, text=True, timeout=limit, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": f"not done after {limit:g} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = (done.stderr or done.stdout).strip().splitlines()
        return {"status": "failed", "reason": said[-1][:200] if said else f"exit status {done.returncode}"}
    facts = json.loads(lines[-1])
    found = {"test_accuracy": f"{facts.pop('test_accuracy'):.4f}", "seconds": facts.pop("seconds")}
    return {**found, "facts": json.dumps(facts, sort_keys=True), "status": "ok", "reason": ""}


def versions(python: str, package: str) -> dict[str, str]:
    """Of the package that a contender stands for, and of torch, in its environment."""
    asked = f"from importlib.metadata import version as v; print(v('{package}')); print(v('torch'))"
    own, torch = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    return {"version": f"{package} {own}", "torch": torch}


# ---------------------------------------------------------------------------- cells


def prepare(folder: Path, kind: str, name: str, items: int, assets: Path) -> Path:
    """Write the items of a cell, and the encoder beside it, in forms that every contender reads."""
    place = folder / f"{name}-{items}"
    place.mkdir(parents=True)
    write = _images if kind == "images" else _texts
    (place / "cell.json").write_text(json.dumps(write(place, name, items, assets)), "utf-8")
    return place


def _rows(data: Any, items: int) -> dict[str, np.ndarray]:
    """Labeled rows, so many of each class as fit, and test rows."""
    labeled = data.rows("train", "val")
    if items < len(labeled):
        labeled, _ = train_test_split(labeled, train_size=items, stratify=data.labels[labeled], random_state=0)
    return {"train": labeled, "test": data.rows("test")}


def _images(place: Path, name: str, items: int, assets: Path) -> dict[str, Any]:
    data = image_sets.load(name, assets / "data", 1400, 600)
    rows = _rows(data, items)
    for split, some in rows.items():
        for row in some:
            path = place / split / f"class-{data.labels[row]:02d}" / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            data.images[row].save(path)
    model = ENCODERS["images"]
    card = encoders.cards(assets / "models")[model]
    module = encoders.load(model, card, assets / "models").module
    weights = place.parent / f"{model}.safetensors"
    head = {name for name, value in module.get_classifier().named_parameters(prefix="classifier")}
    save_file({k: v.contiguous() for k, v in module.state_dict().items() if k not in head}, weights)
    return {
        "classes": int(data.labels.max()) + 1, "test_items": len(rows["test"]), "mirrored": name in MIRRORED, "model": model,
        "arch": card["arch"].partition(":")[2], "kwargs": {k: v for k, v in card["kwargs"].items() if k != "num_classes"},
        "mean": card["mean"], "std": card["std"], "size": card["input_size"][1], "encoder": weights.name,
        "zoo": str(HERE.parent / "assets-zoo.yaml"),
    }  # fmt: skip


def _texts(place: Path, name: str, items: int, assets: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    parts = [pq.read_table(assets / "text" / name / f"{split}.parquet").to_pydict() for split in ("train", "test")]
    texts = [text for part in parts for text in part["text"]]
    labels = np.array([label for part in parts for label in part["label"]])
    is_test = np.repeat([False, True], [len(part["text"]) for part in parts])
    drawn, splits = draw(labels, is_test, 0.2, 1400, 600)
    texts, data = [texts[row] for row in drawn], LabeledSet(name, labels[drawn], splits)
    rows = _rows(data, items)
    table = []
    for split, some in rows.items():
        lines = [{"text": texts[row], "label": int(data.labels[row])} for row in some]
        (place / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        table += [{**line, "split": split} for line in lines]
    (place / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in table), "utf-8")
    model = ENCODERS["texts"]
    weights = next(spec for spec in load_zoo().models if spec.name == model).weights
    assert weights is not None
    assert not isinstance(weights, str)
    return {
        "classes": int(data.labels.max()) + 1, "test_items": len(rows["test"]), "model": model, "zoo": None,
        "encoder": str(weights.path().parent),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
