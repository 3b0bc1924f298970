import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from selector.core.errors import SourceError, WeightsMissing
from selector.sources import registry
from selector.zoo import ModelSpec, load_zoo
from tests.sources.samples import load, onnx_file


def model(path: Path, **more: Any) -> ModelSpec:
    return ModelSpec.model_validate({"source": f"onnx:{path}", **more})


def reference(weights: dict[str, np.ndarray], batch: torch.Tensor) -> torch.Tensor:
    return F.relu(F.conv2d(batch, torch.from_numpy(weights["weight"]), torch.from_numpy(weights["bias"]), stride=2))


@pytest.mark.parametrize("batch_size", ["batch", 1, 4])
@pytest.mark.parametrize("channels_last", [False, True])
def test_features_are_the_pooled_first_output(tmp_path: Path, batch_size: int | str, channels_last: bool) -> None:
    weights = onnx_file(tmp_path / "n.onnx", batch_size, channels_last)
    batch = torch.randn(7, 3, 16, 16)
    expected = reference(weights, batch)
    for settings, wanted in (({}, expected.mean((2, 3))), ({"pooling": "max"}, expected.amax((2, 3)))):
        encoder = load(model(tmp_path / "n.onnx", **settings))
        torch.testing.assert_close(encoder.encode(batch), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoder.encode(batch[3:4]), wanted[3:4], rtol=1e-4, atol=1e-5)
    named = load(model(tmp_path / "n.onnx", layer="pooled"))
    torch.testing.assert_close(named.encode(batch), expected.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert (named.num_features, named.num_parameters) == (5, 5 * 27 + 5)
    assert (named.preprocess.input_size, named.module) == ((3, 16, 16), None)


def test_tokens(tmp_path: Path) -> None:
    weights = onnx_file(tmp_path / "n.onnx", tokens=True)
    batch = torch.randn(2, 3, 16, 16)
    expected = reference(weights, batch).flatten(2).transpose(1, 2)
    for pooling, wanted in {None: expected.mean(1), "cls": expected[:, 0], "max": expected.amax(1)}.items():
        encoder = load(model(tmp_path / "n.onnx", pooling=pooling))
        torch.testing.assert_close(encoder.encode(batch), wanted, rtol=1e-4, atol=1e-5)


def test_it_cannot_be_trained(tmp_path: Path) -> None:
    onnx_file(tmp_path / "n.onnx")
    encoder = load(model(tmp_path / "n.onnx"))
    with pytest.raises(
        SourceError, match=r"gives frozen features only and cannot be fine-tuned; take the model through timm:"
    ):
        encoder.with_head(2)
    with pytest.raises(SourceError, match="gives frozen features only"):
        encoder.recipe(2)
    with pytest.raises(SourceError, match="an ONNX network cannot be trained"):
        registry.get("onnx").build({"source": "onnx"})


def test_the_identity_covers_weights_kept_beside_the_file(tmp_path: Path) -> None:
    import onnx

    onnx_file(tmp_path / "n.onnx")
    whole = onnx.load(str(tmp_path / "n.onnx"))
    onnx.save(whole, str(tmp_path / "n.onnx"), save_as_external_data=True, location="n.data", size_threshold=0)
    first = registry.get("onnx").identify(model(tmp_path / "n.onnx"))
    assert first["weights"].count("xxh128:") == 2
    assert str(tmp_path) not in str(first)
    data = bytearray((tmp_path / "n.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "n.data").write_bytes(data)
    assert registry.get("onnx").identify(model(tmp_path / "n.onnx"))["weights"] != first["weights"]
    (tmp_path / "n.data").unlink()
    with pytest.raises(WeightsMissing, match=r"keeps weights in n\.data, which is not beside it"):
        registry.get("onnx").identify(model(tmp_path / "n.onnx"))


def test_a_relative_path_starts_at_the_zoo_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_file(tmp_path / "n.onnx")
    (tmp_path / "zoo.yaml").write_text("models: [{onnx: n.onnx, name: mine}]")
    (spec,) = load_zoo(tmp_path / "zoo.yaml").models
    monkeypatch.chdir("/")
    assert load(spec).num_features == 5
    assert load(ModelSpec.model_validate(spec.model_dump(mode="json"))).num_features == 5  # as a run freezes it


def test_files_and_settings_that_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_file(tmp_path / "n.onnx")
    with pytest.raises(
        WeightsMissing, match=r"ONNX file .*none\.onnx does not exist; give a path from the zoo file's folder"
    ):
        load(model(tmp_path / "none.onnx"))
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(SourceError, match=r"text\.onnx is not an ONNX file, or it is damaged"):
        load(model(tmp_path / "text.onnx"))
    with pytest.raises(SourceError, match=r"no output 'poold'; did you mean 'pooled'\? Outputs: map, pooled\."):
        load(model(tmp_path / "n.onnx", layer="poold"))
    with pytest.raises(SourceError, match="takes no kwargs, got a"):
        load(model(tmp_path / "n.onnx", kwargs={"a": 1}))
    with pytest.raises(SourceError, match="holds its own weights; leave 'weights' out"):
        load(model(tmp_path / "n.onnx", weights="none"))
    with pytest.raises(SourceError, match=r"does not run on an input of 3x20x20: .*INVALID_ARGUMENT"):
        load(model(tmp_path / "n.onnx", preprocess={"input_size": [3, 20, 20]}))
    with pytest.raises(SourceError, match=r"pooling 'cls' needs tokens \(B, N, D\), found \(1, 5, 7, 7\)"):
        load(model(tmp_path / "n.onnx", pooling="cls"))
    with pytest.raises(
        SourceError,
        match=r"pooling 'max' needs a map or tokens, but output 'pooled' is \(1, 5\); leave 'pooling' out or name another",
    ):
        load(model(tmp_path / "n.onnx", pooling="max", layer="pooled"))
    with pytest.raises(SourceError, match="pooling 'mean' is for texts; images take avg, max or cls"):
        load(model(tmp_path / "n.onnx", pooling="mean"))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with pytest.raises(SourceError, match=r"onnxruntime is not installed; run: pip install 'zoo-selector\[onnx\]'"):
        registry.get("onnx").identify(model(tmp_path / "n.onnx"))


@pytest.mark.parametrize("place", ["constant", "subgraph"])
def test_weights_beside_the_file_are_in_the_identity_wherever_they_stand(tmp_path: Path, place: str) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=weights.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "w.bin").write_bytes(weights.tobytes())
    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0)]
    if place == "constant":
        nodes.append(helper.make_node("Constant", [], ["w"], value=tensor))
    else:
        branch = helper.make_graph(
            [helper.make_node("Constant", [], ["w"], value=tensor)],
            "branch", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4])],
        )  # fmt: skip
        true = numpy_helper.from_array(np.array(True), "yes")
        nodes += [
            helper.make_node("Constant", [], ["yes"], value=true),
            helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch),
        ]
    nodes.append(helper.make_node("MatMul", ["mean", "w"], ["out"]))
    graph = helper.make_graph(
        nodes,
        "beside",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3, 16, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", 4])],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    file = tmp_path / "n.onnx"
    file.write_bytes(built.SerializeToString())
    before = registry.get("onnx").identify(model(file))
    (tmp_path / "w.bin").write_bytes((2 * weights).tobytes())
    assert registry.get("onnx").identify(model(file)) != before
    inside = tmp_path / "inside"
    inside.mkdir()
    text = built.SerializeToString().replace(b"w.bin", b"../ww")
    (inside / "n.onnx").write_bytes(text)
    (tmp_path / "ww").write_bytes(weights.tobytes())
    onnx.load(inside / "n.onnx", load_external_data=False)
    with pytest.raises(SourceError, match="keeps weights outside its folder"):
        registry.get("onnx").identify(model(inside / "n.onnx"))
