"""AutoGluon's MultiModalPredictor with the defaults of its presets, our encoder, and its own time limit.

python with_autogluon.py medium_quality|high_quality FOLDER SECONDS
"""

from __future__ import annotations

import json
import shutil
import sys

import pandas as pd
import torch
from _common import Cell, read_cell, report
from autogluon.multimodal import MultiModalPredictor
from safetensors.torch import load_file


def main() -> None:
    """Train, and measure on test."""
    preset = sys.argv.pop(1)
    cell = read_cell()
    if "arch" in cell.facts:
        train, test = (
            {"image": files, "label": kinds} for files, kinds in (_images(cell, s) for s in ("train", "test"))
        )
        settings = {"model.names": ["timm_image"], "model.timm_image.checkpoint_name": _checkpoint(cell)}
    else:
        train, test = ({"text": texts, "label": kinds} for texts, kinds in (cell.texts(s) for s in ("train", "test")))
        settings = {"model.names": ["hf_text"], "model.hf_text.checkpoint_name": cell.facts["encoder"]}
    folder = cell.folder / "autogluon"
    shutil.rmtree(folder, ignore_errors=True)
    predictor = MultiModalPredictor(
        label="label",
        problem_type="binary" if cell.classes == 2 else "multiclass",
        presets=preset,
        path=str(folder),
        verbosity=1,
    )
    predictor.fit(
        pd.DataFrame(train), time_limit=cell.left, seed=0,
        hyperparameters=settings | {"env.num_gpus": 0, "env.num_workers": 0, "env.num_workers_inference": 0},
    )  # fmt: skip
    used = cell.seconds - cell.left
    frame = pd.DataFrame(test)
    right = (predictor.predict(frame.drop(columns="label")).to_numpy() == frame["label"].to_numpy()).mean()
    report(cell, float(right), used)


def _images(cell: Cell, split: str) -> tuple[list[str], list[str]]:
    paths = sorted((cell.folder / split).glob("*/*"))
    return [str(path) for path in paths], [path.parent.name for path in paths]


def _checkpoint(cell: Cell) -> str:
    """A folder as it reads local weights of timm from one."""
    folder = cell.folder.parent / "autogluon-encoder"
    folder.mkdir(exist_ok=True)
    module = cell.network(0)
    torch.save(load_file(cell.folder.parent / cell.facts["encoder"]), folder / "pytorch_model.bin")
    size = cell.facts["size"]
    facts = {
        "architecture": cell.facts["arch"],
        "num_features": module.num_features,
        "input_size": [3, size, size],
        "mean": cell.facts["mean"],
        "std": cell.facts["std"],
    }
    (folder / "config.json").write_text(json.dumps(facts), "utf-8")
    return str(folder)


if __name__ == "__main__":
    main()
