"""Several layers and poolings of one network: rows of their own, from one forward pass."""

import numpy as np
import pytest
import torch

import selector
from selector import sources
from selector.core.errors import ConfigError
from selector.extract.encode import extract_together, open_runner
from selector.extract.multi_tap import Together, agree, parts
from selector.scan.selection import expand
from selector.store import FeatureStore
from selector.zoo import ModelSpec
from tests.scan.test_scan import FAST, table
from tests.sources.samples import onnx_file

VIT = ModelSpec(name="vit", source="timm:test_vit", weights="none")
RESNET = ModelSpec(name="resnet", source="timm:test_resnet", weights="none")
TORCHVISION = ModelSpec(
    name="tv", source="torchvision:squeezenet1_1", weights="none", preprocess={"input_size": (3, 64, 64)}
)
PLACES = {
    "vit": [(None, None), ("blocks.0", None), ("blocks.0", "cls"), (None, "max")],
    "resnet": [(None, None), ("layer1", None), ("layer2.0", "max"), (None, "avg")],
    "tv": [(None, None), ("features.3", None), ("features.6", "max")],
}


def readings(spec: ModelSpec) -> list[ModelSpec]:
    return [spec.model_copy(update={"layer": layer, "pooling": pooling}) for layer, pooling in PLACES[spec.name]]


@pytest.mark.parametrize("spec", [VIT, RESNET, TORCHVISION], ids=lambda spec: spec.name)
def test_a_reading_is_the_encoder_that_its_spec_loads(spec):
    source = sources.registry.get(spec.source_name)
    wanted = readings(spec)
    for first in (wanted[0], wanted[1]):  # from the model's own reading, and from an inner layer
        loaded = source.load(first)
        for other in wanted:
            alone, read = source.load(other), loaded.variant(other)
            for attribute in ("identity", "num_features", "num_parameters", "blocks"):
                assert getattr(read, attribute) == getattr(alone, attribute)
            batch = torch.randn((3, *read.preprocess.input_size), generator=torch.Generator().manual_seed(1))
            with torch.no_grad():
                assert torch.equal(read.encode(batch), alone.encode(batch))


@pytest.mark.parametrize("spec", [VIT, RESNET, TORCHVISION], ids=lambda spec: spec.name)
def test_one_pass_gives_what_each_reading_gives_alone(spec):
    loaded = sources.registry.get(spec.source_name).load(spec)
    together = Together([loaded.variant(other) for other in readings(spec)])
    assert agree(together)
    calls: list[int] = []
    stem = next(m for m in loaded.module.modules() if isinstance(m, torch.nn.Conv2d))
    stem.register_forward_hook(lambda *_: calls.append(1))
    batch = torch.randn((3, *loaded.preprocess.input_size), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rows = together.encode(batch).numpy()
        assert len(calls) == 1
        for part, reading in zip(parts(together, rows), together.outputs, strict=True):
            np.testing.assert_allclose(part, reading.encode(batch).numpy(), rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_changed_in_place_is_noticed():
    loaded = sources.registry.get("torchvision").load(TORCHVISION)
    squeezed = TORCHVISION.model_copy(update={"layer": "features.0"})  # a ReLU in place follows
    assert not agree(Together([loaded, loaded.variant(squeezed)]))


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_backends_run_readings_and_each_has_rows_of_its_own(backend, tmp_path):
    if backend == "openvino":
        pytest.importorskip("openvino")
    loaded = sources.registry.get("timm").load(RESNET)
    together = Together([loaded.variant(spec) for spec in readings(RESNET)])
    _, height, width = loaded.preprocess.input_size
    pictures = np.random.default_rng(0).integers(0, 256, (40, height, width, 3), dtype=np.uint8)

    class Pixels:
        def batch(self, indices: np.ndarray) -> np.ndarray:
            return pictures[indices]

    store = FeatureStore(tmp_path)
    runner = open_runner(
        together, device="cpu", precision="float32", backend=backend, sample=pictures, rows_expected=40, store=store
    )
    entries = [store.entry({"reading": i}) for i in range(len(together.outputs))]
    hashes = [f"{i:032x}" for i in range(40)]
    kept = np.full((1, together.outputs[0].num_features), 7, np.float32)
    entries[0].append(hashes[:1], kept)  # stored before: stays
    asked = [entries[0], None, *entries[2:]]
    assert extract_together(runner, asked, Pixels(), hashes, np.arange(40)) == [None] * 4
    assert entries[1].stored == 0
    alone = open_runner(
        together.outputs[2], device="cpu", precision="float32", backend="eager", sample=pictures, rows_expected=40
    )
    np.testing.assert_allclose(entries[2].rows(hashes), alone.encode(pictures), rtol=2e-3, atol=2e-4)
    assert np.array_equal(entries[0].rows(hashes[:1]), kept)
    assert entries[0].stored == entries[2].stored == 40


def test_a_scan_has_a_row_a_reading_and_runs_each_network_once(photos, tmp_path):
    images: list[int] = []
    told = lambda p: images.append(p.done) if p.stage == "extract" and p.done == p.total else None  # noqa: E731
    ranking = selector.rank(
        photos, **FAST, layers="last,blocks.0,layer1", pooling=["own", "max"], store=tmp_path / "store", progress=told
    )
    assert images == [51, 51]  # one pass a network
    assert {m.name for m in ranking if m.status == "ok"} == {
        f"tiny-{net}{place}"
        for net, places in (
            ("vit", ("", "@last/max", "@blocks.0", "@blocks.0/max")),
            ("resnet", ("", "@last/max", "@layer1", "@layer1/max")),
        )
        for place in places
    }
    assert "tiny-resnet@blocks.0: the network has no layer 'blocks.0'" in ranking["tiny-resnet@blocks.0"].reason
    assert [c.numbers for c in ranking.caveats if c.code == "multiple-variants"] == [{"rows": 8, "models": 2}]
    assert ranking.settings["layers"] == "last,blocks.0,layer1"
    # the rows are those of a scan of that reading alone
    alone = [spec.model_copy(update={"name": f"{spec.name}@layer1", "layer": "layer1"}) for spec in FAST["zoo"][:1]]
    single = selector.rank(photos, **{**FAST, "zoo": alone}, store=tmp_path / "other")
    assert single.best.scores["knn"].value == ranking["tiny-resnet@layer1"].scores["knn"].value
    # and a scan that asks for one of them finds it
    again = selector.rank(photos, **{**FAST, "zoo": alone}, store=tmp_path / "store")
    assert again.best.cached


def test_a_reading_that_is_not_finite_leaves_the_others(photos, tmp_path):
    zoo = [ModelSpec(name="half", source="python:tests.support.networks:overflows_inside")]
    ranking = selector.rank(photos, **{**FAST, "zoo": zoo}, layers="last,inner", store=tmp_path / "store")
    assert ranking["half"].status == "ok"
    assert "half@inner: features are not finite" in ranking["half@inner"].reason


def test_networks_without_a_module_are_loaded_for_each_reading(photos, tmp_path):
    onnx_file(tmp_path / "net.onnx")
    zoo = [ModelSpec(name="net", source=f"onnx:{tmp_path / 'net.onnx'}")]
    places = {"layers": "last,pooled", "pooling": "own,max,cls"}
    ranking = selector.rank(photos, **{**FAST, "zoo": zoo}, **places, store=tmp_path / "store")
    assert {m.name for m in ranking if m.status == "ok"} == {"net", "net@last/max", "net@pooled"}
    assert "net@last/cls: pooling 'cls' needs tokens" in ranking["net@last/cls"].reason
    assert "net@pooled/max: pooling 'max' needs a map or tokens" in ranking["net@pooled/max"].reason
    alone = selector.rank(photos, **{**FAST, "zoo": zoo}, store=tmp_path / "other")
    assert alone.best.scores["knn"].value == ranking["net"].scores["knn"].value


def test_readings_added_later_and_lost_chunks_end_at_the_same_rows(photos, tmp_path):
    asked = {**FAST, "store": tmp_path / "store", "models": "tiny-resnet"}
    whole = selector.rank(photos, **asked, layers="last,conv1")
    lost = next(iter(sorted((tmp_path / "store" / "entries").glob("*/0*.safetensors"))))
    lost.unlink()  # as after a kill between the chunks of two readings
    again = selector.rank(photos, **asked, layers="last,conv1")
    assert table(again) == table(whole)
    more = selector.rank(photos, **asked, layers="last,conv1,layer1")
    assert [m.cached for m in sorted(more, key=lambda m: m.name)] == [True, True, False]


def test_a_model_is_confirmed_once_as_its_leading_reading(photos, tmp_path):
    ranking = selector.rank(
        photos, **FAST, layers="last,layer1,blocks.0", store=tmp_path / "store", out=tmp_path / "run"
    )
    confirmed = selector.confirm(ranking, top_k=2, max_steps=4, strategies=["frozen"])
    measured = [m.name.split("@")[0] for m in confirmed if m.measurements]
    assert sorted(measured) == ["tiny-resnet", "tiny-vit"]
    with pytest.raises(ConfigError, match=r"top_k must be an int in the range \[1, 2\]"):
        selector.confirm(ranking, top_k=3)


def test_names_of_readings_and_wrong_poolings():
    zoo = [VIT]
    assert expand(zoo, None, None) == zoo
    assert [s.name for s in expand(zoo, "last,blocks.0", None)] == ["vit", "vit@blocks.0"]
    assert [s.name for s in expand(zoo, None, "own, cls")] == ["vit", "vit@last/cls"]
    with pytest.raises(ConfigError, match=r"unknown pooling 'average'.*Known: own, avg, max, cls"):
        expand(zoo, None, "average")


def test_the_last_layer_of_texts_is_the_last_layer_and_their_own_is_what_they_are_read_at():
    zoo = [
        ModelSpec(name="bert", source="transformers:bert"),
        ModelSpec(name="named", source="transformers:b", layer="3"),
    ]

    def shown(layers: str | None, pooling: str | None) -> list[tuple[str, str | None, str | None]]:
        return [(s.name, s.layer, s.pooling) for s in expand(zoo, layers, pooling)]

    assert shown("own,last,2", None) == [
        *[("bert", None, None), ("bert@last", "last", None), ("bert@2", "2", None)],
        *[("named", "3", None), ("named@last", "last", None), ("named@2", "2", None)],
    ]
    assert shown(None, "own,cls") == [
        *[("bert", None, None), ("bert@own/cls", None, "cls")],
        *[("named", "3", None), ("named@own/cls", "3", "cls")],
    ]
    assert shown("last", "max")[0] == ("bert@last/max", "last", "max")
