"""Segmentation from a folder to a confirmed model: kills, scans that share a store, models that probes rank too low."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import selector
from selector.scan.caveats import MASKED, learned_masked
from selector.zoo import ModelSpec
from tests.sources.samples import spec
from tests.support.kills import begun, figures, killed_in_training
from tests.tasks.test_segmentation import scenes_below

OPTIONS: dict[str, Any] = {
    "proxies": ["knn", "logme"], "precision": "float32", "measure_cost": "never", "history": False, "seed": 0,
    "confirm": True, "top_k": 1, "max_steps": 12, "strategies": ["full"], "class_names": ["background", "disc", "bar"],
}  # fmt: skip


def zoo(pretraining: Mapping[str, str] | None = None) -> list[ModelSpec]:
    said = pretraining or {}
    return [spec(f"timm:test_{name}", name=name, pretraining=said.get(name)) for name in ("resnet", "vit")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes_below(tmp_path_factory.mktemp("scenes"), {"train": 8, "val": 4, "test": 3}, ((40, 52),), seed=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_kill_in_the_training_changes_nothing(folder, tmp_path):
    """Killed as soon as the first training is in its journal; the same call goes on from there."""
    stormy, killed = tmp_path / "stormy", tmp_path / "killed"
    killed_in_training(begun(__name__, folder, stormy, killed), stormy, killed)
    selector.rank(folder, zoo=zoo(), store=tmp_path / "stormy", out=tmp_path / "killed", **OPTIONS)
    selector.rank(folder, zoo=zoo(), store=tmp_path / "calm", out=tmp_path / "whole", **OPTIONS)
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    masks = [selector.load_model(tmp_path / name).predict(str(folder / "test" / "images")).masks for name in ("killed", "whole")]  # type: ignore[attr-defined]  # fmt: skip
    assert all(np.array_equal(a, b) for a, b in zip(*masks, strict=True))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_scans_at_once_share_a_store(folder, tmp_path):
    processes = [begun(__name__, folder, tmp_path / "store", tmp_path / f"run{i}") for i in range(2)]
    for process in processes:
        assert process.wait(timeout=250) == 0, process.stderr.read() if process.stderr else ""
    assert figures(tmp_path / "run0") == figures(tmp_path / "run1")


def test_the_first_model_of_masked_pretraining_is_confirmed_beside_the_leading_ones(folder, tmp_path):
    training = ("top_k", "max_steps", "strategies")  # refused without confirm=True
    kept = {name: value for name, value in OPTIONS.items() if name not in training}
    options = {**kept, "confirm": False, "store": tmp_path / "store"}
    first, last = [m.name for m in selector.rank(folder, zoo=zoo(), **options)]
    ranking = selector.rank(
        folder, zoo=zoo({last: "masked image modeling, ImageNet-1k"}), out=tmp_path / "run", **options
    )
    (caveat,) = [c for c in ranking.caveats if c.code == MASKED]
    assert caveat.numbers == {"models": [last]}
    assert caveat.text.startswith(f"{last} learned by masked image modeling, which probes on frozen maps rank too low")
    confirmed = selector.confirm(ranking, top_k=1, strategies=["frozen"], history=False)
    assert {m.name for m in confirmed if m.measurements} == {first, last}
    plain = selector.rank(folder, zoo=zoo({last: "supervised"}), out=tmp_path / "plain", **options)
    assert not [c for c in plain.caveats if c.code == MASKED]
    assert {
        m.name for m in selector.confirm(plain, top_k=1, strategies=["frozen"], history=False) if m.measurements
    } == {first}


@pytest.mark.parametrize(
    ("source", "pretraining", "expected"),
    [
        ("timm:eva02_tiny_patch14_224.mim_in22k", None, True),
        ("timm:vit_base_patch16_224.mae", None, True),
        ("timm:convnextv2_atto.fcmae", None, True),
        ("timm:convnextv2_atto.fcmae_ft_in1k", None, False),
        ("timm:vit_tiny_patch16_224.augreg_in21k", None, False),
        ("timm:any", "masked autoencoder, then supervised, ImageNet-1k", False),
        ("timm:any", "self-supervised by masked image modeling", True),
        ("timm:vit_base_patch16_224.mae", "supervised, ImageNet-1k", False),
    ],
)
def test_masked_pretraining_is_read_from_the_zoo_or_from_the_tag(source, pretraining, expected):
    assert learned_masked(ModelSpec(source=source, pretraining=pretraining)) is expected
