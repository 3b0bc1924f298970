"""Saved models: written whole or not at all, loaded with and without this package, used, exported."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selector.core.errors import BadImagesError, ConfigError, SelectorError, SourceError, StoreError
from selector.deploy import SavedModel, export_onnx, load_model, save_model
from selector.deploy import export as export_module
from selector.deploy import save as save_module
from selector.results import Measurement
from selector.tasks.classification import Classification
from selector.tuning import Trained
from selector.zoo import ModelSpec
from tests.support.cards import run_cards
from tests.tuning.samples import CLASSES, MNIST, VIT, load, spec_of

SUMMARY = {
    "name": "squares",
    "fingerprint": "abc123",
    "items": 128,
    "classes": 3,
    "splits": {"train": 64, "val": 32, "test": 32},
}
FIGURES = [
    Measurement(
        "frozen",
        "accuracy",
        {"accuracy": 0.5},
        {"accuracy": 0.45},
        seconds=1.0,
        resolution=(64, 64),
        trained_parameters=195,
    ),
    Measurement(
        "full",
        "accuracy",
        {"accuracy": 0.75, "log_loss": 0.7},
        {"accuracy": 0.71, "log_loss": 0.8},
        steps=40,
        learning_rate=1e-4,
        seconds=12.0,
        resolution=(32, 32),
        reduced=True,
        trained_parameters=300_000,
    ),
    Measurement("partial", "accuracy", {}, status="diverged", note="the loss became nan | at step 3"),
]
LAYER = spec_of(
    "timm:test_vit", kwargs={"img_size": 64}, preprocess={"input_size": [3, 64, 64]}, layer="blocks.1", name="inner"
)


def trained(spec: ModelSpec, temperature: float = 2.0) -> Trained:
    encoder = load(spec)
    module = encoder.with_head(3)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        module.get_classifier().weight.normal_(generator=generator)  # type: ignore[operator, union-attr]
    recipe = encoder.recipe(3)
    return Trained(
        spec.name,
        "full",
        module.eval(),
        recipe["source"],
        recipe,
        encoder.preprocess,
        CLASSES,
        {"temperature": temperature},
        learning_rate=1e-4,
        steps=40,
    )


def saved(folder: Path, spec: ModelSpec = MNIST, **changes: Any) -> Path:
    model = replace(trained(spec), **changes)
    return save_model(folder, model, SUMMARY, FIGURES, {"source": spec.source, "license": "Apache-2.0"})


def changed(folder: Path, **values: Any) -> None:
    """Write its configuration with other values."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def images(n: int, size: tuple[int, int] = (40, 30)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (n, *size, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("mnist") / "best")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("vit") / "best", VIT)


def test_a_loaded_model_gives_the_same_outputs_in_a_row_and_alone(mnist):
    model = load_model(mnist)
    batch = np.random.default_rng(1).integers(0, 255, (4, 28, 28, 3)).astype(np.uint8)
    from selector.modalities.pixels.transform import normalize

    original = trained(MNIST)
    with torch.inference_mode():
        expected = original.module(normalize(batch, original.preprocess)).numpy()
    np.testing.assert_allclose(model.logits(batch), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.logits(batch[:1]), expected[:1], rtol=1e-4, atol=1e-4)


def test_the_configuration_says_what_the_model_is(vit):
    config = json.loads((vit / "config.json").read_text())
    assert config["class_names"] == list(CLASSES)
    assert (config["preprocess"]["input_size"], config["context"]) == ([3, 64, 64], {"temperature": 2.0})
    assert config["measured"] == {"metric": "accuracy", "val": FIGURES[1].val, "test": FIGURES[1].test}
    assert (config["target"]["fingerprint"], config["recipe"]["model"]) == ("abc123", "test_vit")
    assert {"selector", "torch", "timm"} <= set(config["versions"])
    assert {path.stat().st_mode & 0o777 for path in vit.iterdir()} == {0o644}
    assert sorted(path.name for path in vit.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_the_card_has_figures_fingerprint_and_license(vit):
    card = (vit / "README.md").read_text()
    assert "| full | 0.7500 | 0.7100 | 40 | 0.0001 | 12 s | 300,000 | 32 × 32 (reduced) | ok |" in card
    assert "| frozen | 0.5000 | 0.4500 |" in card
    assert "the loss became nan \\| at step 3" in card
    assert "data fingerprint | `abc123`" in card
    assert "license: Apache-2.0" in card
    assert "softmax(outputs / 2)" in card
    assert "test images were read once" in card.replace("\n", " ")


def test_names_in_the_card_cannot_be_markup(tmp_path):
    evil = "<script>alert(1)</script>|`x`"
    folder = saved(tmp_path / "best", class_names=(evil, "b", "c"), name=evil)
    card = (folder / "README.md").read_text()
    assert "<script>" not in card
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|'x'" in card


def test_the_snippet_of_the_card_loads_the_model_without_this_package(tmp_path):
    """By timm, as a torch program, and by onnxruntime where no library builds the network."""
    cards = []
    for spec, lines in ((VIT, 2), (MNIST, 2), (LAYER, 9)):
        folder = saved(tmp_path / str(lines) / "best", spec)
        model, reference = load_model(folder), tmp_path / f"{lines}.pt"
        batch = torch.randn((3, *model.preprocess.input_size), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            torch.save({"batch": batch, "expected": model.module(batch)}, reference)
        if spec is LAYER:
            export_onnx(folder, folder / "model.onnx")
        check = f"""
        import torch
        reference = torch.load({str(reference)!r})
        with torch.no_grad():
            found = model(reference["batch"])
        found = torch.from_numpy(found[0]) if isinstance(found, list) else found
        torch.testing.assert_close(found, reference["expected"], rtol=1e-4, atol=1e-4)
        """
        cards.append((folder, check))
        code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        assert code is not None
        assert len(code[1].strip().splitlines()) <= lines
    run_cards(*cards)


def test_timm_loads_the_folder_where_the_card_says_so(vit, tmp_path):
    import timm

    assert "library_name: timm" in (vit / "README.md").read_text()
    saved_model = load_model(vit)
    module = timm.create_model(f"local-dir:{vit}", pretrained=True).eval()
    batch = torch.randn((2, *saved_model.preprocess.input_size), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(module(batch), saved_model.module(batch))
    settings = timm.data.resolve_model_data_config(module)
    assert tuple(settings["mean"]) == tuple(saved_model.preprocess.mean)
    assert settings["interpolation"] == saved_model.preprocess.interpolation
    inner = saved(tmp_path / "inner", LAYER)  # timm has no such network: the card does not claim it
    assert "library_name: pytorch" in (inner / "README.md").read_text()
    assert "architecture" not in json.loads((inner / "config.json").read_text())


def test_saving_again_replaces_the_folder(tmp_path):
    folder = saved(tmp_path / "best")
    (folder / "stray.txt").write_text("x")
    assert saved(tmp_path / "best", context={"temperature": 3.0}) == folder
    assert load_model(folder).context == {"temperature": 3.0}
    assert not (folder / "stray.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_while_saving_leaves_the_old_model(tmp_path, monkeypatch, error):
    folder = saved(tmp_path / "best")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fails(path: Path, text: str) -> None:
        raise error

    monkeypatch.setattr(save_module, "_write", fails)
    if isinstance(error, OSError):
        with pytest.raises(StoreError, match=r"the model cannot be written to .*best .*No space left.*free some space"):
            saved(tmp_path / "best", context={"temperature": 9.0})
    else:
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path / "best", context={"temperature": 9.0})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_failed_rename_puts_the_old_model_back(tmp_path, monkeypatch):
    folder = saved(tmp_path / "best")
    original = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if ".best.partial-" in self.name and not self.name.endswith("-replaced"):
            raise OSError(5, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(StoreError, match="Input/output error"):
        saved(tmp_path / "best", context={"temperature": 9.0})
    assert load_model(folder).context == {"temperature": 2.0}
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"best cannot be written .*name another folder"):
        saved(tmp_path / "file" / "best")


def test_a_recipe_that_does_not_fit_is_refused(tmp_path):
    wrong = load(MNIST).recipe(3) | {"model": "selector.networks:usps_cnn"}
    with pytest.raises((StoreError, RuntimeError), match=r"does not fit its weights|size mismatch"):
        saved(tmp_path / "best", recipe=wrong)
    assert not (tmp_path / "best").exists()


def test_a_run_folder_stands_for_its_best_model(mnist):
    assert (load_model(mnist.parent).path, load_model(mnist.parent).class_names) == (mnist, CLASSES)


def test_folders_without_a_model_are_named(tmp_path, mnist):
    with pytest.raises(ConfigError, match=r"holds no saved model \(no config.json\); give the folder 'best'"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config.json cannot be read: .*run 'selector confirm' again"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ConfigError, match="has format 99, expected 2; use the version that wrote it"):
        load_model(tmp_path)


def test_truncated_weights_are_named(tmp_path):
    folder = saved(tmp_path / "best")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(SourceError, match=r"model.safetensors cannot be loaded"):
        load_model(folder).predict(images(1))


def test_code_of_others_runs_only_when_trusted(tmp_path):
    folder = saved(tmp_path / "best")
    recipe = load_model(folder).config["recipe"]
    for stranger in ("tests.support.networks:Orientation", "selector.scan:rank", "selectors.evil:factory"):
        changed(folder, recipe={**recipe, "model": stranger})
        with pytest.raises(
            SourceError, match=f"python code '{stranger}', which is not trusted; pass trust=True .--trust-code"
        ):
            load_model(folder).predict(images(1))
    with pytest.raises(SourceError, match="selectors"):  # trusted now, but there is no such module
        load_model(folder, trust=True).predict(images(1))


def test_a_saved_model_cannot_run_a_file_through_a_function_of_this_package(tmp_path):
    folder = saved(tmp_path / "best")
    code, ran = tmp_path / "code.py", tmp_path / "ran"
    code.write_text(f"open({str(ran)!r}, 'w').close()\n")
    stranger = {"model": "selector.cli.options:load_plugins", "kwargs": {"names": [str(code)]}}
    changed(folder, recipe=load_model(folder).config["recipe"] | stranger)
    with pytest.raises(SourceError, match="not trusted"):
        load_model(folder).predict(images(1))
    with pytest.raises(SourceError, match="not trusted"):
        export_onnx(folder, tmp_path / "model.onnx")
    assert not ran.exists()


def test_predictions_are_calibrated_and_ordered(mnist):
    model = load_model(mnist)
    found = model.predict(images(7), top=3, batch_size=3)
    assert len(found) == 7
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    from selector.modalities.pixels.transform import prepare

    logits = model.logits(prepare(list(images(7)), model.preprocess))
    np.testing.assert_allclose(
        found.probabilities, torch.softmax(torch.from_numpy(logits).double() / 2.0, dim=1), atol=1e-6
    )
    for row, probabilities in zip(found, found.probabilities, strict=True):
        assert row.label == CLASSES[int(probabilities.argmax())]
        assert row.probability == pytest.approx(probabilities.max())
        assert [p for _, p in row.top] == sorted((p for _, p in row.top), reverse=True)
        assert len(row.top) == 3


def test_files_folders_globs_and_arrays(mnist, tmp_path):
    model = load_model(mnist)
    (tmp_path / "deep").mkdir()
    for i, image in enumerate(images(3)):
        Image.fromarray(image).save(tmp_path / "deep" / f"{i}.png")
    (tmp_path / "deep" / "notes.txt").write_text("no image")
    file, folder, pattern = str(tmp_path / "deep" / "1.png"), tmp_path, str(tmp_path / "**" / "*.png")
    assert [row.item for row in model.predict(file)] == [file]
    assert (len(model.predict(folder)), len(model.predict(pattern))) == (3, 3)
    mixed = model.predict([file, images(3)[1], Image.fromarray(images(3)[1])])
    assert [row.item for row in mixed] == [file, "image 1", "image 2"]
    np.testing.assert_allclose(mixed.probabilities[0], mixed.probabilities[1])
    np.testing.assert_allclose(mixed.probabilities[0], mixed.probabilities[2])


def test_gray_rgba_and_one_pixel_images(mnist, tmp_path):
    model = load_model(mnist)
    for mode in ("L", "RGBA", "CMYK", "P"):
        Image.new("RGB", (20, 10), "red").convert(mode).save(tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}")
    Image.new("RGB", (1, 1)).save(tmp_path / "pixel.png")
    found = model.predict(tmp_path)
    assert len(found) == 5
    assert not found.errors


def test_a_bad_image_is_a_row_with_an_error(mnist, tmp_path):
    Image.fromarray(images(1)[0]).save(tmp_path / "b.png")
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    (tmp_path / "c.png").write_bytes(b"")
    found = load_model(mnist).predict(tmp_path, top=2)
    assert [row.error is None for row in found] == [False, True, False]
    assert (found[0].error, found[2].error) == ("is not an image of a known format", "is empty (0 bytes)")
    assert found.labels[0] is None
    assert np.isnan(found.probabilities[0]).all()
    with pytest.raises(BadImagesError, match=r"2 of 3 image\(s\) cannot be read: .*a.jpg is not an image") as caught:
        load_model(mnist).predict(tmp_path, on_invalid="raise")
    assert len(caught.value.bad) == 2


def test_predictions_become_tables_and_json(mnist, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"x")
    found = load_model(mnist).predict([*images(2), str(tmp_path / "bad.jpg")], top=2)
    frame = found.to_dataframe()
    assert list(frame.columns) == ["item", "label", "probability", "label_2", "probability_2", "error"]
    assert len(frame) == 3
    data = json.loads(json.dumps(found.to_dicts(), allow_nan=False))
    assert data[0]["top"][0] == {"label": found[0].label, "probability": found[0].probability}
    assert data[2]["label"] is None
    assert found.to_csv().splitlines()[0] == "item,label,probability,label_2,probability_2,error"
    assert str(found).splitlines()[0].startswith("image 0: ")


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        ("nowhere/*.jpg", {}, r"no image matches 'nowhere/\*.jpg'; give an existing file, a folder or a glob"),
        ([], {}, "there are no images to predict"),
        (None, {}, r"expected files, folders, globs or images\. Got NoneType"),
        (5, {}, r"expected files, folders, globs or images\. Got int"),
        ([np.zeros((2, 2, 3), np.uint8)], {"top": 0}, r"top must be an int in the range \[1, inf\). Got 0"),
        (
            [np.zeros((2, 2, 3), np.uint8)],
            {"batch_size": 0},
            r"batch_size must be an int in the range \[1, inf\). Got 0",
        ),
    ],
)
def test_wrong_requests_are_named(mnist, asked, options, message):
    with pytest.raises(ConfigError, match=message):
        load_model(mnist).predict(asked, **options)


def test_an_empty_folder_is_named(mnist, tmp_path):
    with pytest.raises(ConfigError, match="holds no images"):
        load_model(mnist).predict(tmp_path)


def test_the_onnx_file_says_the_same_at_any_batch_size(mnist, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = export_onnx(mnist, tmp_path / "new" / "model.onnx")
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = load_model(mnist)
    for n in (1, 6):
        batch = torch.randn((n, 3, 28, 28), generator=torch.Generator().manual_seed(n))
        logits, probabilities = session.run(None, {"images": batch.numpy()})
        with torch.inference_mode():
            expected = model.module(batch)
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(probabilities, torch.softmax(expected / 2.0, dim=1), atol=1e-5)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list(CLASSES)


def test_an_onnx_file_that_differs_is_not_kept(mnist, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")

    class Off:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.session = real(*args, **kwargs)

        def run(self, *args: Any) -> Any:
            return [value + 0.01 for value in self.session.run(*args)]

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", Off)
    with pytest.raises(SelectorError, match=r"gives other probabilities than torch \(difference 0.01"):
        export_onnx(mnist, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_file_that_cannot_be_written_is_refused_before_the_work(mnist, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(export_module, "_export", lambda *_: pytest.fail("it was exported"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"is a folder; name the file to write, such as .*model\.onnx"):
        export_onnx(mnist, tmp_path)
    for parent in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(ConfigError, match=r"model\.onnx cannot be written \(.*\); name a file in another folder"):
            export_onnx(mnist, parent / "model.onnx")
    monkeypatch.setattr(export_module.tempfile, "TemporaryFile", _denied)
    with pytest.raises(ConfigError, match=r"cannot be written \(Permission denied\)"):
        export_onnx(mnist, tmp_path / "model.onnx")


def _denied(**_: Any) -> None:
    raise PermissionError(13, "Permission denied")


def test_export_without_the_extra_says_what_to_install(mnist, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"ONNX export needs the extra 'onnx' .*pip install 'zoo-selector\[onnx\]'"):
        export_onnx(SavedModel(mnist, json.loads((mnist / "config.json").read_text()), False), tmp_path / "model.onnx")
    assert export_module.TOLERANCE < 0.01


def test_a_model_that_was_saved_before_contexts_is_read(tmp_path):
    """Format 1 knew a temperature only."""
    folder = saved(tmp_path / "best")
    pictures = list(images(3))
    expected = load_model(folder).predict(pictures).probabilities
    config = json.loads((folder / "config.json").read_text())
    del config["context"]
    (folder / "config.json").write_text(json.dumps({**config, "format": 1, "temperature": 2.0}))
    model = load_model(folder)
    assert model.context == {"temperature": 2.0}
    np.testing.assert_array_equal(model.predict(pictures).probabilities, expected)


def test_what_another_task_says_of_an_item_reaches_every_form():
    """Values, masks and boxes have no label: they are shown by name."""

    class Measures(Classification):
        def predictions(self, outputs: Any, class_names: Any, context: Any) -> list[dict[str, Any]]:
            return [{"value": float(row[0]) * context["scale"], "mask": row.reshape(1, -1)} for row in outputs]

    named = [("a", None), ("b", None)]
    found = Measures().predicted(named, [np.array([[1.5, 2.0]]), None], ["", "is empty"], (), {"scale": 2.0})
    assert found.to_dicts() == [
        {"item": "a", "value": 3.0, "mask": [[1.5, 2.0]], "error": None},
        {"item": "b", "label": None, "probability": None, "top": [], "error": "is empty"},
    ]
    assert found.table(1) == (["item", "value", "mask"], [["a", "3", "array 1 × 2"], ["b", "is empty", ""]])
    assert list(found.to_dataframe().columns) == ["item", "value", "mask", "error"]
    assert (str(found[0]), found.probabilities.shape) == ("a: value 3, mask array 1 × 2", (2, 0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"context": {"temperature": 0}},
            r"config\.json: context: 'temperature' must be .* \[1e-06, 1e\+06\], got 0; run",
        ),
        ({"context": {"temperature": None}}, "'temperature' must be a number in the range"),
        ({"context": {"temperature": 1e-320}}, "'temperature' must be a number in the range .* got 1e-320"),
        ({"context": {"temperature": True}}, "'temperature' must be a number in the range .* got True"),
        ({"context": {"temperature": float("nan")}}, "'temperature' must hold finite numbers"),
        ({"class_names": "abc"}, r"config\.json: class_names: input should be a valid list, found 'abc'"),
        (
            {"preprocess": {"std": [0.0, 1.0, 1.0]}},
            r"preprocess\.std\.0: input should be .* equal to 0\.000001, found 0\.0",
        ),
        ({"preprocess": {"crop_pct": 1e-9}}, r"preprocess\.crop_pct: input should be .* equal to 0\.05, found 1e-09"),
        (
            {"preprocess": {"input_size": [3, 8192, 8192], "crop_pct": 0.1}},
            "resized to input_size / crop_pct, at most 16384",
        ),
        ({"preprocess": {"mean": None}}, r"preprocess\.mean: expected a value, found None"),
        ({"source": "../x"}, r"config\.json: source: string should match pattern"),
    ],
)
def test_a_changed_configuration_is_named_by_file_and_field(tmp_path, change, said):
    folder = saved(tmp_path / "best")
    changed(folder, **change)
    with pytest.raises(ConfigError, match=said):
        load_model(folder)


@pytest.mark.parametrize("drop", ["some", "all", "none"])
def test_names_that_do_not_fit_the_outputs_are_told(tmp_path, drop):
    """Fewer names ended in an IndexError, more of them went unnoticed."""
    folder = saved(tmp_path / "best")
    names = {"some": CLASSES[:-1], "all": (), "none": (*CLASSES, "another")}[drop]
    changed(folder, class_names=names)
    said = rf"class_names: the model has 3 outputs, found {len(names)} name\(s\); run 'selector confirm' again"
    if drop == "all":
        said = "class_names or context do not fit the outputs of the model"
    with pytest.raises(ConfigError, match=rf"config\.json: {said}"):
        load_model(folder).predict(list(images(3)))
