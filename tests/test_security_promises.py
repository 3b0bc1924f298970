"""What SECURITY.md and docs/explanation/security.md promise, and the tests that fail without the guard behind it.

| promise | guard | test |
|---|---|---|
| `python:` entries need trust | `zoo.trust.check_trusted` | `zoo/test_zoo.py::test_code_runs_only_from_trusted_zoos` |
| recipes of saved models need trust | `zoo.trust.check_recipe_trusted` | `deploy/test_deploy.py::test_code_of_others_runs_only_when_trusted` |
| no run claims trust for itself | `results.load_ranking` | `test_no_run_claims_trust_for_itself` |
| a run says neither where it runs nor whom it tells | `scan.pipeline._as_confirmed` | `test_labels_are_taken_where_the_caller_says` |
| no zoo file claims trust or a folder | `zoo.spec._beside_the_zoo`, `zoo._read` | `zoo/test_zoo.py::test_wrong_files_are_explained_with_their_line` |
| YAML makes plain values only | `zoo._read` | `test_a_zoo_is_plain_yaml_in_a_regular_file` |
| weights are tensors only | `sources._weights.read_state_dict` | `sources/test_timm.py::test_damaged_and_dangerous_files_are_refused` |
| arrays hold no objects | `core.input_files._header_bytes`, and numpy's own refusal | `core/test_input_files.py::test_damaged_archives_are_errors_with_a_reason` |
| only listed types, no kernels of others | `sources._transformer._refuse_foreign` | `sources/test_transformers.py::test_only_networks_of_the_list_are_built`, `test_kernels_of_a_repository_are_not_fetched` |
| settings name no file, address or repository | `sources._weights.require_plain` | `sources/test_timm.py::test_settings_name_nothing_elsewhere` |
| a revision is no path | `sources._hub.split_revision` | `test_a_revision_leads_nowhere_else` |
| weights stay in their folder | `zoo.spec.WeightsFile` | `zoo/test_zoo.py::test_weights_that_are_missing_say_what_to_do`, `zoo/test_zoo.py::test_wrong_files_are_explained_with_their_line` |
| so do external data of ONNX | `sources.onnx._external` | `test_external_data_stay_in_their_folder` |
| regular files only | `core.input_files.check_status` | `core/test_input_files.py::test_data_name_regular_files_that_are_images`, `test_files_of_a_saved_model_are_regular` |
| pixels are limited | `modalities.pixels.decode.check_header` | `modalities/test_images.py::test_decompression_bombs_are_refused_from_the_header` |
| what unpacks to more is limited | `core.input_files.check_unpacked` | `core/test_input_files.py::test_an_archive_that_unpacks_to_much_more_is_refused` |
| texts stay as long as they are | `modalities.tokens.tokenizer.parse_tokenizer` | `test_a_tokenizer_makes_no_long_text_of_a_short_one` |
| nesting and aliases are limited | `zoo._expanded`, `core.documents.read_json` | `zoo/test_zoo.py::test_aliases_and_depth_are_counted_before_they_are_followed`, `test_deep_settings_cost_one_row` |
| no network larger than its weights | `sources._bounded` | `sources/test_bounded.py`, `test_own_networks_are_bounded` |
| XML without entities | `data.readers.voc` | `fuzz/test_fuzz.py`, `data/test_boxes.py` |
| reports run no scripts | `report/templates` | `report/test_html.py::test_hostile_values_are_escaped` |
| no formulas in label.csv | `core.units.inert` | `scan/test_labeling.py` |
| no commands to the terminal | `core.units.printable` | `test_nothing_commands_the_terminal` |
| errors are selector's own | everywhere | `fuzz/test_fuzz.py`, `test_runs_with_parts_of_another_form`, `test_values_of_another_type_beside_the_weights` |
| a local Ray cluster is closed | `run.ray._Surroundings` | `run/test_ray.py::test_a_cluster_of_a_run_is_closed_to_others` |
| isolated models cost their own row | `run.pool` | `run/test_isolation.py` |
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import selector
from selector import sources
from selector.core.errors import ConfigError, SelectorError, SourceError, TargetError, ZooError
from selector.core.units import printable
from selector.deploy import load_model
from selector.modalities.tokens.tokenizer import parse_tokenizer
from selector.report.ranking import load_ranking
from selector.scan.pipeline import _as_confirmed
from selector.zoo import ModelSpec, load_zoo
from tests.deploy.test_deploy import images, saved
from tests.support.commands import ok
from tests.support.text_models import sentence_model, text_model, wordpiece

ROOT = Path(__file__).parent
FAST = {"proxies": "knn", "history": False, "measure_cost": "never", "precision": "float32", "backend": "eager"}


def test_every_test_of_the_table_is_there() -> None:
    for cell in re.findall(r"`([\w/]*(?:\.py)?(?:::)?test_\w+(?:\.py)?(?:::test_\w+)?)`", __doc__ or ""):
        file, _, name = cell.rpartition("::") if "::" in cell else ("", "", cell)
        if cell.endswith(".py"):
            assert (ROOT / cell).is_file(), cell
        else:
            where = [ROOT / file] if file else [Path(__file__), ROOT / "sources" / "test_transformers.py"]
            assert any(f"def {name}(" in path.read_text(encoding="utf-8") for path in where), cell


def load(source: str, **more: Any) -> Any:
    return sources.registry.get(source.partition(":")[0]).load(ModelSpec(name="m", source=source, **more))


@pytest.mark.parametrize("kind", ["tag", "pipe", "device", "long"])
def test_a_zoo_is_plain_yaml_in_a_regular_file(tmp_path: Path, kind: str) -> None:
    file, ran = tmp_path / "zoo.yaml", tmp_path / "ran"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "long":
        file.write_text(f"models: ['timm:{'x' * (17 << 20)}']\n")
    else:
        file.write_text(f"models: !!python/object/apply:os.system ['touch {ran}']\n")
    with pytest.raises(ZooError, match=r"not valid YAML|not a regular file|more than the .* allowed"):
        load_zoo(file)
    assert not ran.exists()


@pytest.mark.parametrize("weights", [
    {"file": "x", "package": "__main__"}, {"file": "x\0"}, {"file": "x\ud800"}, {"file": "x", "env": "A\0B"},
])  # fmt: skip
def test_names_that_no_file_can_have_are_named_with_their_line(tmp_path: Path, weights: dict[str, str]) -> None:
    (tmp_path / "zoo.yaml").write_text(json.dumps({"models": [{"source": "timm:resnet18", "weights": weights}]}))
    with pytest.raises(ZooError, match=r"zoo\.yaml:1 models\[0\]\.weights"):
        load_zoo(tmp_path / "zoo.yaml")


def test_own_networks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They need no trust, and take settings from a zoo that nobody trusts."""
    monkeypatch.setenv("SELECTOR_MAX_UNPACKED", "300MB")
    with pytest.raises(SourceError, match="a network that is too large"):
        load("python:selector.networks:mnist_cnn", kwargs={"num_classes": 10**6})


@pytest.mark.parametrize("revision", ["../../../x", "main/../../x", "/etc"])
@pytest.mark.parametrize("source", ["transformers:org/name", "timm:hf-hub:org/name"])
def test_a_revision_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch, source: str, revision: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceError, match="leads elsewhere"):
        load(f"{source}@{revision}")


def rules(change: Callable[[dict[str, Any]], Any]) -> str:
    data: dict[str, Any] = json.loads(wordpiece().to_str())
    change(data)
    return json.dumps(data)


DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
GROWING: dict[str, Callable[[dict[str, Any]], Any]] = {
    "doubled 40 times": lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [DOUBLED] * 40}),
    "replaced by more": lambda d: d.update(normalizer={**DOUBLED, "content": "x" * 5000}),
    "put before": lambda d: d.update(normalizer={"type": "Prepend", "prepend": "x" * 5000}),
    "special tokens": lambda d: d["post_processor"]["special_tokens"]["[CLS]"].update(ids=[1] * 5000),
    "the text again": lambda d: d["post_processor"].update(single=[{"Sequence": {"id": "A", "type_id": 0}}] * 5000),
    "affixes": lambda d: d["model"].update(continuing_subword_prefix="#" * 5000),
}


@pytest.mark.parametrize("name", GROWING)
def test_a_tokenizer_makes_no_long_text_of_a_short_one(name: str) -> None:
    with pytest.raises(SourceError, match="its rules make a long text of a short one"):
        parse_tokenizer(rules(GROWING[name]))


@pytest.mark.parametrize("normalizer", [
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Replace", "pattern": {"Regex": "(([a-z ])+.)+[A-Z]([a-z])+$"}, "content": ""},  # backtracks for ever
])  # fmt: skip
@pytest.mark.parametrize("beside", [True, False])
def test_a_tokenizer_that_panics_costs_one_model(tmp_path: Path, normalizer: dict[str, Any], beside: bool) -> None:
    """What ends code in Rust is no ``Exception``."""
    folder, text = text_model(tmp_path / "m"), rules(lambda data: data.update(normalizer=normalizer))
    (tmp_path / "t.json").write_text(text)
    if beside:
        (folder / "tokenizer.json").write_text(text)
    more = {} if beside else {"text": {"tokenizer": {"file": "t.json", "base": str(tmp_path)}}}
    with pytest.raises(SourceError, match="tokenizer"):
        load(f"transformers:{folder}", **more)


@pytest.mark.parametrize(("file", "content"), [
    ("1_Pooling/config.json", {"pooling_mode": 3}),
    ("sentence_bert_config.json", {"max_seq_length": "many"}),
    ("sentence_bert_config.json", {"max_seq_length": float("inf")}),
    ("config_sentence_transformers.json", {"prompts": {"q": "x"}, "default_prompt_name": ["q"]}),
    ("config_sentence_transformers.json", {"prompts": {"q": "x" * 10**6}, "default_prompt_name": "q"}),
    ("tokenizer_config.json", {"model_max_length": "many"}),
])  # fmt: skip
def test_values_of_another_type_beside_the_weights(tmp_path: Path, file: str, content: dict[str, Any]) -> None:
    folder = sentence_model(tmp_path / "m")
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(SourceError, match=r"a setting in .* cannot be used|at most 10,000"):
        load(f"transformers:{folder}")


def test_deep_settings_cost_one_row(tmp_path: Path) -> None:
    """They ended the scan and the plan: how many rows are stored is asked before a model's turn."""
    folder = text_model(tmp_path / "m")
    (folder / "config.json").write_text('{"a": ' + "[" * 10**5 + "]" * 10**5 + "}")
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"a film {i},{'ab'[i % 2]}\n" for i in range(40)))
    (tmp_path / "zoo.yaml").write_text(json.dumps({"models": [f"transformers:{folder}"]}))
    ranking = selector.rank(tmp_path / "t.csv", zoo=tmp_path / "zoo.yaml", store=tmp_path / "s", **FAST)  # type: ignore[arg-type]
    assert "nested too deeply" in ranking.models[0].reason
    planned: Any = selector.plan(tmp_path / "t.csv", zoo=tmp_path / "zoo.yaml", store=tmp_path / "s", history=False)
    assert not planned.models[0]["note"] or "nested too deeply" in planned.models[0]["note"]


def test_external_data_stay_in_their_folder(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto
    weights = kind(name="w", data_type=kind.FLOAT, dims=[192, 4], data_location=kind.EXTERNAL)
    weights.external_data.add(key="location", value="../w.bin")
    shapes = {"x": ["b", 3, 8, 8], "y": ["b", 4]}
    ends = [[helper.make_tensor_value_info(name, kind.FLOAT, shape)] for name, shape in shapes.items()]
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", *ends, [weights])
    (tmp_path / "in").mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(4 * 192 * 4))
    onnx.save(
        helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "in/x.onnx"
    )
    with pytest.raises(SourceError, match="outside its folder"):
        load(f"onnx:{tmp_path / 'in/x.onnx'}")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_files_of_a_saved_model_are_regular(tmp_path: Path, kind: str) -> None:
    folder = saved(tmp_path / "best")
    file = folder / "model.safetensors"
    file.unlink()
    os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/zero")
    with pytest.raises(SourceError, match="not a regular file"):
        load_model(folder).predict(images(1))


@pytest.fixture(scope="module")
def scanned(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scanned")
    own = ModelSpec(name="tiny", source="timm:test_resnet", weights="none", preprocess={"input_size": [3, 32, 32]})  # type: ignore[arg-type]
    selector.rank(photos, zoo=[own], store=folder / "store", out=folder / "run", **FAST)  # type: ignore[arg-type]
    return folder / "run"


def changed(scanned: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    run = Path(shutil.copytree(scanned, folder / "run"))
    document = json.loads((run / "run.json").read_text())
    change(document)
    (run / "run.json").write_text(json.dumps(document))
    return run


@pytest.mark.parametrize("change", [
    lambda d: d["target"].update(origin={"path": "x"}),
    lambda d: d["target"].update(origin={"options": {}}),
    lambda d: d["target"]["origin"].update(steps=[1]),
    lambda d: d["target"]["origin"].update(steps=["x", {}]),
    lambda d: d["target"]["origin"].update(steps=[{"without": [["x"]]}]),
    lambda d: d["target"]["origin"].update(steps=[{"subsample": {"x": 1}}]),
    lambda d: d["models"][0]["spec"].update(unknown=1),
])  # fmt: skip
def test_runs_with_parts_of_another_form(scanned: Path, tmp_path: Path, change: Any) -> None:
    with pytest.raises((TargetError, ConfigError)):
        selector.confirm(changed(scanned, tmp_path, change), strategies="frozen")


def test_labels_are_taken_where_the_caller_says(scanned: Path, tmp_path: Path) -> None:
    """``selector label`` confirms again with what the run says of its training, and with nothing else of it: a run that
    names a Ray cluster would have the driver unpickle what that cluster sends."""
    told = {
        "engine": "ray",
        "ray_address": "203.0.113.1:6379",
        "history": str(tmp_path / "h"),
        "store": "s3://x/y",
        "seed": 3,
    }
    ranking = load_ranking(changed(scanned, tmp_path, lambda document: document["settings"].update(confirm=told)))
    asked = _as_confirmed(ranking, False, None, None)
    assert (asked.engine, asked.ray_address, asked.history, asked.store, asked.seed) == ("local", None, "read", None, 3)
    odd = load_ranking(changed(scanned, tmp_path / "odd", lambda document: document["settings"].update(confirm=[1])))
    assert _as_confirmed(odd, False, None, None).engine == "local"


def test_nothing_commands_the_terminal(scanned: Path, tmp_path: Path) -> None:
    for sign in "\x1b\x9b\u202e\u2066\u200f\u061c":
        assert sign not in printable(f"a{sign}b")
    evil = "\x1b[2J\x9b1m\u202e\u200f"
    run = changed(scanned, tmp_path, lambda d: d["target"].update(name=evil, class_names=[evil, "b", "c"]))
    for words in (["compare", run, run], ["compare", run, run, "--json"], ["report", run]):
        told = ok(*words)
        assert not set(told.stdout + told.stderr) & set("\x1b\x9b\u202e\u200f"), words
        if "--json" in words:
            json.loads(told.stdout)


def test_a_pipe_in_the_folder_of_a_model_is_not_waited_for(scanned: Path, tmp_path: Path) -> None:
    run = changed(scanned, tmp_path, lambda document: document.update(confirmation={"metric": "accuracy"}))
    (run / "best").mkdir()
    os.mkfifo(run / "best" / "config.json")
    with pytest.raises(SelectorError):
        load_model(run)


def test_no_run_claims_trust_for_itself(scanned: Path, tmp_path: Path) -> None:
    assert not load_ranking(changed(scanned, tmp_path, lambda document: document.update(trusted=True))).trusted
