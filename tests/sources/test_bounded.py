"""Networks that a recipe describes are no larger than their weights."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from selector.core.errors import SourceError
from selector.deploy import load_model
from selector.sources._bounded import Bounded
from selector.sources._transformer import create_backbone
from tests.deploy.test_deploy import images, saved


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    save_file(nn.Linear(8, 8).state_dict(), file)
    return file


@pytest.mark.parametrize("build", [
    lambda: nn.Linear(8, 10**10),
    lambda: nn.Embedding(10**9, 10**4),
    lambda: torch.arange(10**12),
    lambda: torch.arange(10**6)[:, None] - torch.arange(10**6)[None],
    lambda: torch.ones(10).expand(10**11, 10).clone(),
    lambda: nn.ModuleList(nn.Linear(512, 512) for _ in range(10**6)),
    lambda: nn.ModuleList(nn.Linear(1, 1) for _ in range(10**6)),
])  # fmt: skip
def test_nothing_larger_than_the_weights_is_built(build, weights: Path) -> None:  # type: ignore[no-untyped-def]
    before = psutil.Process().memory_info().rss
    with pytest.raises(SourceError, match="larger than its weights"), Bounded(weights, "a recipe"):
        build()
    assert psutil.Process().memory_info().rss - before < 10**9


def test_a_network_of_its_weights_starts_as_without_a_bound(weights: Path) -> None:
    torch.manual_seed(0)
    free = nn.Linear(8, 8).state_dict()
    torch.manual_seed(0)
    with Bounded(weights, "a recipe"):
        bound = nn.Linear(8, 8).state_dict()
    assert all(torch.equal(free[name], bound[name]) for name in free)


def test_an_endless_recipe_of_a_saved_model_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "best")
    config = json.loads((folder / "config.json").read_text())
    config["recipe"]["outputs"] = 10**8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match="larger than its weights"):
        load_model(folder).predict(images(1))


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_experts", "n_layers"])
def test_a_configuration_with_endless_layers_is_refused(key: str) -> None:
    with pytest.raises(SourceError, match=f"{key} is 1,000,000,000"):
        create_backbone({"model_type": "qwen3", key: 10**9})


def test_labels_of_a_configuration_are_not_made() -> None:
    network = create_backbone({
        "model_type": "bert", "num_labels": 10**9, "vocab_size": 20, "hidden_size": 8, "num_attention_heads": 1,
        "num_hidden_layers": 1, "intermediate_size": 8,
    })  # fmt: skip
    assert network.config.num_labels == 2  # type: ignore[union-attr]
