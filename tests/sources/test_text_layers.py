"""Readings of inner layers: what is trained, saved and counted ends at the layer that is read."""

from pathlib import Path
from typing import Any

import pytest

from selector.tasks._learner import head_name
from selector.tuning import strategies
from selector.tuning.strategies._parts import parts_of
from selector.zoo import ModelSpec
from tests.sources.samples import head_of
from tests.support.text_models import FAMILIES, sentence_model, text_model, tokens
from tests.support.text_models import load_text as load


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "albert"])
@pytest.mark.parametrize("shared", [False, True])
def test_the_network_with_a_head_ends_at_the_layer(tmp_path: Path, family: str, shared: bool) -> None:
    folder = text_model(tmp_path / family, family)
    whole = load(folder)
    if shared:  # as a pass that gives several readings has it
        encoder = whole.variant(ModelSpec.model_validate({"source": f"transformers:{folder}", "layer": "2"}))
    else:
        encoder = load(folder, layer="2")
    batch = tokens(encoder)
    headed = head_of(encoder, batch)
    assert len(encoder.blocks) == 2 < len(whole.blocks)
    assert encoder.num_parameters < whole.num_parameters
    held = sum(p.numel() for p in headed.backbone.parameters())
    assert held == encoder.num_parameters
    headed(batch).sum().backward()
    last = headed.get_submodule(encoder.blocks[-1])
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for n, p in last.named_parameters() if n.endswith("weight")
    )
    groups = strategies.registry.get("partial").groups(
        parts_of(headed, encoder.blocks, [head_name(headed)]), layer_decay=True
    )
    assert any(name.startswith(encoder.blocks[-1]) for group in groups for name in group.names)


def test_the_mean_and_the_last_layer_need_all_of_it(tmp_path: Path) -> None:
    folder = text_model(tmp_path / "bert")
    counts = {layer: load(folder, layer=layer).num_parameters for layer in ("mean", "last", "3", "1")}
    assert counts["mean"] == counts["last"] == counts["3"] > counts["1"]
    assert "cut" not in load(folder, layer="3").recipe(2)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"pooling": "max"}, ("last", "max", False)),  # its own layer
        ({"pooling": "cls"}, ("last", "cls", True)),  # its own pooling, as it was trained
        ({"layer": "last", "pooling": "cls"}, ("last", "cls", True)),
        ({"layer": "mean"}, ("mean", "cls", False)),
    ],
)
def test_the_own_layer_of_a_sentence_folder_is_its_last(tmp_path: Path, spec: dict[str, Any], path: Any) -> None:
    found = load(sentence_model(tmp_path / "sentences"), **spec).path
    assert (found.layer, found.pooling, found.specials) == path
