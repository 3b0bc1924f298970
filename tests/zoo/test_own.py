"""Networks of the user's own: modules of this process, and checkpoints anywhere on this machine."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import transforms

import selector
from selector.core.errors import ConfigError, OptionError, ZooError
from selector.sources import registry
from selector.zoo import ModelSpec, load_zoo, select

FAST = {"proxies": ["knn"], "precision": "float32", "backend": "eager", "history": False}
SMALL = {"input_size": (3, 32, 32)}


class Small(nn.Module):
    """A network with a head and no interface but ``forward``."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 5, 4), nn.ReLU())
        self.last = nn.Linear(12, classes)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.last(self.stem(batch).amax((2, 3)))


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small().eval()


def test_modules_are_ranked_by_name_confirmed_saved_and_used(photos, tmp_path):
    mine, other = small(), small(1)
    before = {key: value.clone() for key, value in mine.state_dict().items()}
    ranking = selector.rank(
        photos, **FAST, store=tmp_path / "store", out=tmp_path / "run", confirm=True, top_k=1, max_steps=8,
        zoo={"mine": selector.Model(mine, transform=SMALL), "other": selector.Model(other, transform=SMALL)},
    )  # fmt: skip
    assert {m.name for m in ranking} == {"mine", "other"}
    assert not ranking.failures, ranking.failures[0].reason
    assert ranking["mine"].num_features == 12  # the input of the last linear layer, not its seven logits
    assert all(torch.equal(value, before[key]) for key, value in mine.state_dict().items())
    found = selector.load_model(tmp_path / "run").predict(photos / "across" / "000.png")
    assert len(found) == 1
    assert not found.errors


def test_the_same_module_is_known_again_and_other_weights_are_not(photos, tmp_path):
    asked = {**FAST, "store": tmp_path / "store"}
    first = selector.rank(photos, zoo=[selector.Model(small(), transform=SMALL)], **asked)
    again = selector.rank(photos, zoo=[selector.Model(small(), transform=SMALL)], **asked)
    assert (first.models[0].cached, again.models[0].cached) == (False, True)
    assert first.models[0].name == "Small"
    changed = small()
    with torch.no_grad():
        changed.stem[0].weight[0, 0, 0, 0] += 1
    assert not selector.rank(photos, zoo=[selector.Model(changed, transform=SMALL)], **asked).models[0].cached


def test_a_module_among_models_and_its_layers():
    zoo = load_zoo([ModelSpec(name="listed", source="timm:test_vit", weights="none")])
    chosen = select(zoo, [small(), "listed"])
    assert [spec.name for spec in chosen] == ["Small", "listed"]
    inner = selector.Model(small(), layer="stem", transform=SMALL)
    assert registry.get("memory").load(inner).num_features == 12
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert (
        registry.get("memory").load(selector.Model(network, transform=SMALL)).num_features == 4
    )  # no head: its output


def test_features_are_what_the_module_gives_before_its_head():
    module = small()
    encoder = registry.get("memory").load(selector.Model(module, transform=SMALL))
    batch = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        features = encoder.encode(batch)
        weight, bias = encoder.source_head
        assert torch.allclose(features, module.stem(batch).amax((2, 3)))
        assert np.allclose(features.numpy() @ weight.T + module.last.bias.detach().numpy(), module(batch), atol=1e-5)
    assert bias.shape == (7,)


@pytest.mark.parametrize(
    "transform",
    [
        transforms.Compose(
            [
                transforms.Resize(64), transforms.CenterCrop(56), transforms.ToTensor(),
                transforms.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
            ]
        ),
        transforms._presets.ImageClassification(crop_size=56, resize_size=64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
    ],
)  # fmt: skip
def test_a_transform_of_torchvision_says_how_images_are_prepared(transform):
    changes = selector.Model(small(), transform=transform).preprocess
    assert changes.input_size == (3, 56, 56)
    assert changes.crop_pct == pytest.approx(56 / 64)
    assert (changes.mean, changes.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert changes.interpolation == "bilinear"


def test_a_transform_that_cannot_be_read_is_refused():
    odd = transforms.Compose([transforms.RandomRotation(5), transforms.Normalize((0.5,), (0.5,))])
    with pytest.raises(OptionError, match=r"transform must be a preset .* Got RandomRotation\."):
        selector.Model(small(), transform=odd)
    with pytest.raises(OptionError, match="no Resize and no CenterCrop"):
        selector.Model(small(), transform=transforms.Compose([transforms.Normalize((0.5,), (0.5,))]))


def test_a_checkpoint_anywhere_is_loaded(photos, tmp_path):
    import timm

    torch.manual_seed(5)
    network = timm.create_model("test_resnet", num_classes=4)
    file = tmp_path / "some where" / "mine.safetensors"
    file.parent.mkdir()
    save_file(network.state_dict(), file)
    spec = selector.Model("timm:test_resnet", weights=file, name="mine")
    encoder = registry.get("timm").load(spec)
    assert torch.equal(encoder.module.conv1[0].weight, network.conv1[0].weight)
    ranking = selector.rank(photos, zoo=[spec], **FAST, store=tmp_path / "store")
    assert ranking["mine"].status == "ok"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelSpec(source="tim:x"), "tim:x source: unknown source 'tim'; did you mean 'timm'?"),
        (lambda: ModelSpec(source="timm:x", tag=["a"]), "unknown key 'tag'; did you mean 'tags'?"),
        (lambda: ModelSpec(source="timm:x", params=small()), "Got an object of type Small."),
        (lambda: selector.Model("timm:x", upstream_accuracy=300), "upstream_accuracy"),
        (lambda: selector.Model(3), "a model must be a torch module or a text such as 'timm:resnet18'."),
        (lambda: load_zoo(small()), "zoo must be a file, a Zoo, a list of models or a mapping of names to models."),
        (lambda: load_zoo({"mine": object()}), "Got an object of type object."),
        (lambda: selector.plan("nowhere", models=[object()]), "models must hold globs, entries (selector.Model)"),
        (lambda: selector.plan("nowhere", max_params=small()), "max_params must be"),
    ],
)  # fmt: skip
def test_no_raw_error_and_no_dump_of_a_module(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    told = str(caught.value)
    assert message in told
    assert "validation error" not in told
    assert "pydantic" not in told
    assert "Conv2d" not in told


def test_a_module_of_another_process_is_a_row_with_a_reason():
    spec = ModelSpec(source="memory:Small-0123456789abcdef", name="gone")
    with pytest.raises(Exception, match=r"was a module in the memory of another process; hand the same module over"):
        registry.get("memory").load(spec)


def test_making_entries_imports_no_torch():
    code = "import sys, selector; selector.Model('timm:resnet18', weights='/x/y.pth'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_no_zoo_file_can_decide_where_weights_lie(tmp_path):
    zoo = tmp_path / "zoo.yaml"
    zoo.write_text("models:\n- {source: 'timm:resnet18', weights: {file: passwd, base: /etc}}\n")
    with pytest.raises(ZooError, match="unknown key 'base'"):
        load_zoo(zoo)
