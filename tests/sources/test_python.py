import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from selector.core.errors import SourceError
from selector.sources import registry
from selector.sources._blocks import blocks_by_structure
from selector.zoo import ModelSpec, load_zoo
from tests.sources.samples import images, load, spec


def test_output_tokens_are_pooled_and_the_module_says_how_its_images_are_prepared():
    for pooling, expected in {
        None: lambda out: out[:, 1:].mean(1),
        "max": lambda out: out[:, 1:].amax(1),
        "cls": lambda out: out[:, 0],
    }.items():
        encoder = load(spec("python:tests.sources.samples:tokens", pooling=pooling, kwargs={"width": 5}))
        assert encoder.preprocess.input_size == (3, 8, 8)
        batch = images(encoder)
        with torch.no_grad():
            torch.testing.assert_close(encoder.encode(batch), expected(encoder.module(batch)))
        assert encoder.maps(batch)[-1][1].shape == (3, 5, 2, 2)


def test_a_head_of_a_factory_is_taken_off_and_replaced(tmp_path, monkeypatch, caplog):
    (tmp_path / "my_headed.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, scale=1.0):\n"
        "        super().__init__()\n"
        "        self.stem, self.norm, self.scale = nn.Conv2d(3, 12, 5, 4), nn.BatchNorm2d(12), scale\n"
        "        self.classes = nn.Linear(12, 7)\n"
        "    def forward(self, x):\n"
        "        return self.scale * self.classes(self.norm(self.stem(x)).amax((2, 3)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = spec("python:my_headed:Net", name="mine", preprocess={"input_size": [3, 32, 32]}).model_copy(
        update={"weights": None}
    )
    torch.manual_seed(0)
    encoder = load(model)
    assert encoder.num_features == 12
    assert "mine: features are the 12 inputs of its last linear layer ('classes'), not its 7 outputs." in caplog.text
    batch = images(encoder)
    torch.manual_seed(0)
    whole = importlib.import_module("my_headed").Net().eval()
    weight, bias = encoder.source_head
    with torch.no_grad():  # equal weights from equal seeds; the statistics of its norm were not touched
        logits = encoder.encode(batch).numpy() @ weight.T + bias
        np.testing.assert_allclose(logits, whole(batch).numpy(), rtol=1e-5, atol=1e-5)
        headed = encoder.with_head(4).eval()
        again = registry.get("python").build(encoder.recipe(4)).eval()
        again.load_state_dict(headed.state_dict())
        assert headed(batch).shape == (3, 4)
        assert torch.equal(again(batch), headed(batch))
    other = load(model.model_copy(update={"kwargs": {"scale": 2.0}}))
    assert other.num_features == 7  # the layer does not make the output


def digit_features(state: dict[str, np.ndarray], image: torch.Tensor) -> torch.Tensor:
    """The MNIST network of the pip package, written out from its weights, in file order."""
    conv1, bias1, conv2, bias2, hidden, bias3, *_ = (torch.as_tensor(v) for v in state.values())
    x = F.max_pool2d(F.relu(F.conv2d(image.mean(1, keepdim=True), conv1, bias1, padding=1)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, conv2, bias2, padding=1)), 2)
    return F.relu(F.linear(x.flatten(1), hidden, bias3))


def test_the_digit_network_of_the_shipped_zoo_computes_what_its_weights_say():
    (model,) = (m for m in load_zoo().models if m.name == "digits-mnist")
    encoder = load(model)
    folder = Path(importlib.util.find_spec("ccexam").origin).parent  # type: ignore[union-attr, arg-type]
    state = torch.load(folder / "weights" / "mnist.pth", map_location="cpu", weights_only=True)
    batch = images(encoder)
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(batch), digit_features(state, batch))
    weight, bias = encoder.source_head
    assert weight.shape == (10, 128)
    np.testing.assert_array_equal(weight, list(state.values())[-2].numpy())
    np.testing.assert_array_equal(bias, list(state.values())[-1].numpy())


@pytest.mark.parametrize("name", ["digits-mnist", "digits-usps", "digits-svhn"])
def test_a_fixed_size_is_kept(name):
    (model,) = (m for m in load_zoo().models if m.name == name)
    encoder = load(model)
    assert encoder.num_parameters == model.params
    side = encoder.preprocess.input_size[1]
    with pytest.raises(
        SourceError, match=rf"the network does not work at 64x64 \(.*\); leave it at its native {side}x{side}"
    ):
        encoder.with_head(2, (64, 64))


def test_the_code_is_part_of_the_identity(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_networks.py"
    text = "import torch\ndef net():\n    return torch.nn.Flatten()\n"
    file.write_text(text)
    model = spec("python:my_networks:net")
    before = registry.get("python").identify(model)
    assert "my_networks" not in sys.modules  # naming a model runs nothing of it
    file.write_text(text + "# changed\n")
    after = registry.get("python").identify(model)
    assert before["code"] != after["code"]
    assert {**before, "code": ""} == {**after, "code": ""}


def test_factories_that_do_not_work(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_broken.py").write_text("import no_such_library")
    cases = {
        "my_broken:net": r"importing my_broken failed: ModuleNotFoundError: No module named 'no_such_library'",
        "no_such_module:net": r"there is no python module 'no_such_module'; install it, or run where it can be imported",
        "selector.networks:mnist_cn": r"selector\.networks has no factory 'mnist_cn'; did you mean 'mnist_cnn'",
        "tests.sources.samples:not_a_module": r"expected a torch module, got str",
        "selector.networks": r"a python model is written 'python:package\.module:factory'; got 'python:selector\.networks'",
        "tests.support.networks:explodes": r"tests\.support\.networks:explodes failed: RuntimeError: the factory exploded",
        "tests.support.networks:gives_nan": r"features of a test image have shape \(1, 12\) and are not finite",
        "selector.networks:mnist_cnn": r"the network does not run on an input of 3x224x224: RuntimeError: (addmm: )?mat1 and mat2",
    }
    for reference, message in cases.items():
        with pytest.raises(SourceError, match=message):
            load(spec(f"python:{reference}"))
    with pytest.raises(SourceError, match=r"mnist_cnn failed: TypeError: .*unexpected keyword argument 'num_clases'"):
        load(spec("python:selector.networks:mnist_cnn", kwargs={"num_clases": 3}))


def test_blocks_of_a_network_of_unknown_make():
    def block() -> nn.Module:
        return nn.TransformerEncoderLayer(4, 1, 4)

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(4, 4, 1)
            self.blocks = nn.ModuleList([block(), block()])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.stages = nn.Sequential(
                Stage(), nn.Sequential(block(), block()), nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            )
            self.norm = nn.LayerNorm(4)
            self.head = nn.Linear(4, 2)

    assert blocks_by_structure(Net(), "head") == [
        *("stem.0", "stages.0.blocks.0", "stages.0.blocks.1", "stages.1.0", "stages.1.1", "stages.2")
    ]
    plain = nn.Module()
    plain.conv, plain.norm, plain.fc = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)
    assert blocks_by_structure(plain, "fc") == ["conv"]


def test_the_encoders_of_the_assets_zoo_equal_their_cards(assets, monkeypatch):
    from benchmarks.suite.encoders import cards
    from benchmarks.suite.encoders import load as reference_load

    monkeypatch.setenv("SELECTOR_ASSETS", str(assets))
    known = cards(assets / "models")
    for model in load_zoo(Path(__file__).parents[2] / "benchmarks" / "assets-zoo.yaml").models:
        encoder, card = load(model), known[model.name]
        reference = reference_load(model.name, card, assets / "models").module
        batch = images(encoder, 1)
        with torch.no_grad():
            expected = reference.forward_head(reference.forward_features(batch), pre_logits=True)
            torch.testing.assert_close(encoder.encode(batch), expected)
        assert (encoder.num_features, encoder.num_parameters) == (card["feature_dim"], card["params"]), model.name
        assert (encoder.source_head is not None) == card["head"], model.name
        assert encoder.recipe(2)["head"] == "native", model.name
        assert encoder.blocks, model.name


def test_a_spec_of_a_library_call_needs_no_zoo():
    weights = {"package": "ccexam", "file": "weights/usps.pth", "mapping": "by_position"}
    model = ModelSpec.model_validate(
        {"source": "python:selector.networks:usps_cnn", "weights": weights, "preprocess": {"input_size": [3, 16, 16]}}
    )
    assert load(model).num_features == 128
