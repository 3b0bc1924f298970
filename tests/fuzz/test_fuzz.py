"""Changed files of every format that is read: no code, no silent change of kind, no raw exception.

What is allowed: a result, or an error of the selector's own (``SelectorError``). Seeded; a small number of cases in
the normal suite, thousands of each format by ``python -m tests.fuzz.long``.
"""

import contextlib
import csv
import io
import json
import random
import shutil
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from selector import tasks
from selector.core.errors import SelectorError
from selector.data import load_target
from selector.deploy import load_model
from selector.modalities.pixels.decode import decode_rgb
from selector.ranking.history import History, Result
from selector.report.html import write_report
from selector.report.ranking import load_ranking
from selector.sources import _weights, registry
from selector.zoo import ModelSpec, load_zoo, shipped_zoo_path
from tests.data import test_boxes as boxes
from tests.data import test_masks as masks
from tests.fuzz import saved
from tests.fuzz.mutations import byte_mutation, json_mutation, one_changed
from tests.report import samples
from tests.sources.samples import onnx_file
from tests.tuning.samples import MNIST
from tests.tuning.samples import load as load_encoder

Case = Callable[[random.Random], None]
Maker = Callable[[Path], Case]


def run_json(folder: Path) -> Case:
    samples.ranking().save(folder)
    tree = json.loads((folder / "run.json").read_text())

    def case(rng: random.Random) -> None:
        what, changed = json_mutation(tree, rng)
        text = json.dumps(changed)
        content = text.encode("utf-8", "surrogatepass") if rng.random() < 0.8 else byte_mutation(text.encode(), rng)
        (folder / "run.json").write_bytes(content)
        ranking = load_ranking(folder)
        assert not ranking.trusted, what
        str(ranking)
        ranking.to_dict()

    return case


def reports(folder: Path) -> Case:
    samples.ranking().save(folder)
    tree = json.loads((folder / "run.json").read_text())

    def case(rng: random.Random) -> None:
        _, changed = json_mutation(tree, rng)
        (folder / "run.json").write_text(json.dumps(changed))
        html = write_report(load_ranking(folder)).read_text()
        assert "<script>alert(1)" not in html

    return case


def config_json(folder: Path) -> Case:
    from safetensors.torch import save_file

    encoder: Any = load_encoder(MNIST)
    module = encoder.with_head(3)
    save_file({k: v.contiguous().clone() for k, v in module.state_dict().items()}, folder / "model.safetensors")
    tree = {
        "format": 2, "name": "m", "task": "classification", "source": "python", "recipe": encoder.recipe(3),
        "modality": "image", "preprocess": encoder.preprocess.to_dict(), "class_names": ["a", "b", "c"],
        "context": {"temperature": 1.5},
    }  # fmt: skip
    image = np.zeros((28, 28, 3), np.uint8)

    def case(rng: random.Random) -> None:
        what, changed = json_mutation(tree, rng)
        (folder / "config.json").write_text(json.dumps(changed))
        for row in load_model(folder).predict([image], top=2):
            assert row.error or 0 <= row.probability <= 1, what

    return case


def zoos(folder: Path) -> Case:
    tree = {"models": yaml.safe_load(shipped_zoo_path().read_text())["models"][:8]}
    text = yaml.safe_dump(tree)

    def case(rng: random.Random) -> None:
        file = folder / "zoo.yaml"
        if rng.random() < 0.5:
            file.write_bytes(byte_mutation(text.encode(), rng))
        else:
            _, changed = json_mutation(tree, rng)
            file.write_bytes(yaml.safe_dump(changed).encode("utf-8", "surrogatepass"))
        assert not load_zoo(file).trusted

    return case


def histories(folder: Path) -> Case:
    rows = [Result(f"t{i}", f"m{i % 3}", "accuracy", i / 10, facts={"parameters": 5.0}) for i in range(6)]
    history = History(folder / "h.sqlite")
    history.add(rows)
    history.export(folder / "rows.jsonl")
    lines = (folder / "rows.jsonl").read_bytes()
    database = (folder / "h.sqlite").read_bytes()

    def case(rng: random.Random) -> None:
        if rng.random() < 0.5:
            (folder / "rows.jsonl").write_bytes(byte_mutation(lines, rng))
            History(folder / f"new-{rng.random()}.sqlite").import_(folder / "rows.jsonl")
            return
        (folder / "h.sqlite").write_bytes(byte_mutation(database, rng))
        for row in History(folder / "h.sqlite").results():
            assert np.isfinite(row.value)

    return case


def tables(folder: Path) -> Case:
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["text", "label"])
    table.writerows([f"a text, number {i}", "abc"[i % 3]] for i in range(30))
    content = out.getvalue().encode()

    def case(rng: random.Random) -> None:
        (folder / "t.csv").write_bytes(byte_mutation(content, rng))
        target = load_target(folder / "t.csv", text_column="text", label_column="label")
        assert len(target.labels) == len(target)

    return case


def tagged(folder: Path) -> Case:
    sentences = "\n\n".join("EU B-ORG\nrejects O\nGerman B-MISC\ncall O" for _ in range(9)) + "\n"

    def case(rng: random.Random) -> None:
        (folder / "t.conll").write_bytes(byte_mutation(sentences.encode(), rng))
        target = load_target(folder / "t.conll")
        assert target.row_starts is not None
        assert target.row_starts[-1] == len(target.labels)

    return case


def pictures(folder: Path, forms: Sequence[str] = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "TGA")) -> Case:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    files = []
    for form in forms:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, form)
        files.append(out.getvalue())

    def case(rng: random.Random) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of damaged TIFF tags
            found = decode_rgb(byte_mutation(rng.choice(files), rng))
        assert (found.dtype, found.ndim) == (np.uint8, 3)

    return case


def coded_pictures(folder: Path) -> Case:
    """Formats whose decoders are libraries of their own; of the optional ones those that are installed."""
    from selector.modalities.pixels.formats import readable_formats

    forms = [form for form in ("HEIF", "AVIF", "JXL", "JPEG2000") if form in readable_formats()]
    return pictures(folder, forms)


def graphs(folder: Path) -> Case:
    onnx_file(folder / "n.onnx")
    content = (folder / "n.onnx").read_bytes()

    def case(rng: random.Random) -> None:
        file = folder / f"m{rng.random()}.onnx"
        file.write_bytes(byte_mutation(content, rng))
        encoder = registry.get("onnx").load(ModelSpec(source=f"onnx:{file}"))
        assert encoder.num_features > 0

    return case


def weights(folder: Path) -> Case:
    import torch
    from safetensors.torch import save_file

    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3)}
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pth")
    files = [(suffix, (folder / f"w.{suffix}").read_bytes()) for suffix in ("safetensors", "pth")]

    def case(rng: random.Random) -> None:
        suffix, content = rng.choice(files)
        file = folder / f"m.{suffix}"
        file.write_bytes(byte_mutation(content, rng))
        assert all(isinstance(value, torch.Tensor) for value in _weights.read_state_dict(file).values())

    return case


def columns(folder: Path, name: str, write: Callable[[Any, Path], None]) -> Case:
    """A table of texts with a list of labels each, in a file whose bytes or values are changed."""
    import pandas as pd

    frame = pd.DataFrame(
        {"text": [f"a text, number {i}" for i in range(30)], "label": [["a", "b", "c"][: 1 + i % 3] for i in range(30)]}
    )
    write(frame, folder / name)
    content = (folder / name).read_bytes()

    def case(rng: random.Random) -> None:
        if rng.random() < 0.5:
            (folder / name).write_bytes(byte_mutation(content, rng))
        else:
            _, rows = json_mutation(frame.to_dict("records"), rng)
            try:
                write(pd.DataFrame(rows), folder / name)
            except Exception:  # noqa: BLE001  no such table can be written: nothing to read
                return
        target = load_target(folder / name, text_column="text", label_column="label")
        assert len(target.labels) == len(target)

    return case


def json_lines(folder: Path) -> Case:
    def write(frame: Any, path: Path) -> None:
        rows = frame.to_dict("records")
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")

    return columns(folder, "t.jsonl", write)


def parquet(folder: Path) -> Case:
    return columns(folder, "t.parquet", lambda frame, path: frame.to_parquet(path))


def coco_json(folder: Path) -> Case:
    boxes.pictures(folder / "images")
    tree = boxes.coco(range(boxes.COUNT))
    path = folder / "annotations.json"

    def case(rng: random.Random) -> None:
        if rng.random() < 0.5:
            path.write_bytes(byte_mutation(json.dumps(tree).encode(), rng))
        else:
            path.write_text(json.dumps(json_mutation(tree, rng)[1]))
        check_annotations(load_target(path))

    return case


def annotated(target: Path, *paths: Path) -> Case:
    """A folder, or a file, of which one file is changed."""
    files = {path: path.read_bytes() for path in paths}

    def case(rng: random.Random) -> None:
        one_changed(files, rng)
        check_annotations(load_target(target))

    return case


def check_annotations(target: Any) -> None:
    for annotation in tasks.task_of(target).annotations(target, np.arange(len(target))):
        if isinstance(annotation, Mapping):
            assert all(np.isfinite(np.asarray(value, dtype=float)).all() for value in annotation.values())


def voc(folder: Path) -> Case:
    boxes.pictures(folder, ".jpg")
    for number in range(boxes.COUNT):
        boxes.xml(folder / f"{number:02}.xml", number)
    return annotated(folder, folder / "03.xml")


def yolo(folder: Path) -> Case:
    boxes.yolo(folder)
    (folder / "data.yaml").write_text("path: .\ntrain: images\nnames:\n  0: cat\n  1: dog\n")
    return annotated(folder, folder / "labels" / "03.txt", folder / "data.yaml")


def box_table(folder: Path) -> Case:
    boxes.pictures(folder / "images")
    path = boxes.csv(folder / "a.csv", boxes.csv_rows())
    return annotated(path, path)


def box_samples(folder: Path) -> Case:
    samples = [
        {"image": boxes.pixels(i), "boxes": boxes.boxes(i)[0], "labels": boxes.boxes(i)[1]} for i in range(boxes.COUNT)
    ]

    def case(rng: random.Random) -> None:
        row = rng.randrange(len(samples))
        changed = json_mutation({key: samples[row][key] for key in ("boxes", "labels")}, rng)[1]
        sample = {**changed, "image": samples[row]["image"]}
        check_annotations(load_target([*samples[:row], sample, *samples[row + 1 :]], task="detection"))

    return case


def mask_pictures(folder: Path) -> Case:
    (masks.pairs(folder) / "classes.txt").write_text("sky\nroad\ncar\n")
    return annotated(folder, folder / "masks" / "003.png")


def mask_colors(folder: Path) -> Case:
    masks.pairs(folder)
    (folder / "label_colors.txt").write_text("0 0 0 sky\n1 1 1 road\n2 2 2 car\n255 255 255 void\n")
    return annotated(folder, folder / "label_colors.txt")


def arrays(folder: Path) -> Case:
    """Ready features in every way that numpy writes them; an archive whose bytes, or whose arrays' bytes, are changed."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3
    parts = {}
    for name, array in {"clip": features, "labels": labels}.items():
        out = io.BytesIO()
        np.save(out, array)
        parts[name] = out.getvalue()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)

    def archive(members: Mapping[str, bytes], method: int) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as file:
            for name, content in members.items():
                file.writestr(f"{name}.npy", content)
        return out.getvalue()

    def case(rng: random.Random) -> None:
        method = rng.choice(methods)
        if rng.random() < 0.5:
            content = byte_mutation(archive(parts, method), rng)
        else:
            name = rng.choice(list(parts))
            content = archive({**parts, name: byte_mutation(parts[name], rng)}, method)
        (folder / "t.npz").write_bytes(content)
        target = load_target(folder / "t.npz")
        assert np.isfinite(target.features).all()

    return case


def elmo_weights(folder: Path) -> Case:
    """The options and the HDF5 file of an ELMo."""
    from tests.support.elmo_files import OPTIONS, elmo_folder

    elmo_folder(folder / "elmo")
    path, said = folder / "elmo" / "weights.hdf5", folder / "elmo" / "options.json"
    content = path.read_bytes()

    def case(rng: random.Random) -> None:
        path.write_bytes(content)
        said.write_text(json.dumps(OPTIONS))
        if rng.random() < 0.7:
            path.write_bytes(byte_mutation(content, rng))
        else:
            said.write_text(json.dumps(json_mutation(OPTIONS, rng)[1]))
        registry.get("elmo").load(ModelSpec(source=f"elmo:{folder / 'elmo'}"))

    return case


FORMATS: dict[str, tuple[Maker, int, int]] = {
    # maker, cases in the normal suite, cases in the long one
    "run.json": (run_json, 60, 2000),
    "reports": (reports, 12, 300),
    "config.json": (config_json, 60, 1500),
    "zoo": (zoos, 40, 1500),
    "history": (histories, 40, 1500),
    "CSV": (tables, 30, 1000),
    "CoNLL": (tagged, 30, 1000),
    "JSONL": (json_lines, 40, 1000),
    "parquet": (parquet, 40, 1000),
    "COCO": (coco_json, 60, 1000),
    "VOC": (voc, 30, 500),
    "YOLO": (yolo, 40, 500),
    "boxes in a table": (box_table, 30, 500),
    "boxes in memory": (box_samples, 60, 500),
    "masks": (mask_pictures, 30, 500),
    "mask colors": (mask_colors, 30, 500),
    "arrays": (arrays, 60, 1000),
    "ELMo": (elmo_weights, 10, 300),
    "rows to predict": (saved.rows, 30, 500),
    "saved weights": (saved.weights, 20, 500),
    "images": (pictures, 150, 4000),
    "coded images": (coded_pictures, 150, 1500),
    "ONNX": (graphs, 20, 500),
    "weights": (weights, 60, 2000),
    "domains": (saved.domains, 20, 300),
    "lists of targets": (saved.target_lists, 40, 500),
    "answers": (saved.answers, 60, 1000),
    "saved multilabel": (partial(saved.of_images, task="multilabel"), 20, 500),
    "saved regression": (partial(saved.of_images, task="regression"), 20, 500),
    "saved adaptation": (partial(saved.of_images, task="adaptation"), 10, 300),
    "saved texts": (partial(saved.of_texts, task="classification"), 15, 500),
    "saved tagger": (partial(saved.of_texts, task="tagging"), 15, 500),
    "saved segmenter": (partial(saved.dense, task="segmentation"), 15, 500),
    "saved detector": (partial(saved.dense, task="detection"), 15, 500),
}
MOST_SECONDS = 20  # of a processor, for one case: however busy the machine is, none may go on for ever


def fuzz(name: str, folder: Path, cases: range, seed: int) -> None:
    case = FORMATS[name][0](folder)
    with tripwire():
        for number in cases:
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            try:
                case(random.Random(f"{name} {seed} {number}"))
            except SelectorError:
                continue
            except BaseException as error:
                told = f"{name}, case {number} of seed {seed}: {type(error).__name__}: {error}"
                raise AssertionError(told) from error
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)


@contextlib.contextmanager
def tripwire() -> Iterator[None]:
    """Programs and code out of data are an error at once."""

    def tripped(*args: Any, **_: Any) -> Any:
        raise AssertionError(f"a changed file runs something: {args}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subprocess.Popen.__init__", tripped)
        patch.setattr("os.system", tripped)
        yield


@pytest.fixture(autouse=True)
def ended_by_the_processor() -> Iterator[None]:
    """A case that goes on for ever is an error, by what it computes and not by the clock."""

    def late(*_: Any) -> None:
        raise AssertionError(f"more than {MOST_SECONDS} s of computing")

    before = signal.signal(signal.SIGPROF, late)
    yield
    signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("name", FORMATS)
def test_changed_files_are_results_or_errors_of_our_own(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, range(FORMATS[name][1]), seed=0)


@pytest.mark.parametrize(
    ("name", "seed", "number"),
    [
        ("parquet", 1, 975),
        ("boxes in memory", 1, 68),
        ("parquet", 2, 841),
        ("arrays", 0, 20),
        ("ELMo", 1, 18),
        ("saved texts", 1, 379),
    ],
)
def test_what_long_runs_found(name: str, seed: int, number: int, tmp_path: Path) -> None:
    """Cases that ended in exceptions of others. Other versions of a library write other bytes, which may read well."""
    with contextlib.suppress(SelectorError):
        FORMATS[name][0](tmp_path)(random.Random(f"{name} {seed} {number}"))


def test_a_tagger_whose_settings_lost_that_it_reads_words(tmp_path: Path) -> None:
    saved.of_texts(tmp_path, "tagging")
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    del config["preprocess"]["words"]
    (tmp_path / "best" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SelectorError):
        load_model(tmp_path / "best").predict(["sun", "rain"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_any_document_as_one_of_ours(tmp_path: Path, tree: Any) -> None:
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    (tmp_path / "run").mkdir()
    for name, read in (("run.json", load_ranking), ("config.json", load_model)):
        (tmp_path / "run" / name).write_text(json.dumps(tree))
        with pytest.raises(SelectorError):
            read(tmp_path / "run")
        (tmp_path / "run" / name).unlink()
