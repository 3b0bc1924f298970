"""Parquet files, CSV manifests and Hugging Face datasets."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selector.core.contracts import LabelKind
from selector.core.errors import TargetError
from selector.data import load_origin, load_target
from selector.modalities.pixels.decode import content_hash, decode_rgb
from tests.conftest import draw, image_folder
from tests.support.tables import class_label, declared

NAMES = ["across", "leaning", "upright"]


def encoded(label: int, seed: int) -> bytes:
    buffer = io.BytesIO()
    draw(label, seed, 16).save(buffer, "PNG")
    return buffer.getvalue()


def table(numbers: range, names: list[str] | None = NAMES, **columns: Any) -> pa.Table:
    images = [{"bytes": encoded(i % 3, i), "path": f"{i}.png"} for i in numbers]
    data = {"image": pa.array(images), "label": pa.array([i % 3 for i in numbers], pa.int64()), **columns}
    made = pa.table(data)
    return made if names is None else declared(made, image={"_type": "Image"}, label=class_label(names))


@pytest.fixture
def parquet_folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    root.mkdir()
    pq.write_table(table(range(30)), root / "train.parquet", row_group_size=7)
    pq.write_table(table(range(30, 39)), root / "test.parquet", row_group_size=4)
    return root


def test_parquet_folder(parquet_folder):
    target = load_target(parquet_folder)
    assert target.name == "set"
    assert target.class_names == tuple(NAMES)
    assert (target.counts(), target.names[0]) == ({"train": 24, "val": 6, "test": 9}, "train.parquet:0")
    assert target.names[30] == "test.parquet:0"
    for i in (38, 0, 7, 29, 30, 6):  # over row groups and files, in any order
        assert target.items[i] == encoded(i % 3, i)
        assert target.hashes[i] == content_hash(encoded(i % 3, i))
    with pytest.raises(IndexError):
        target.items[39]
    assert load_origin(target.origin).fingerprint == target.fingerprint


def test_parquet_hashes_are_remembered(parquet_folder):
    for path in parquet_folder.iterdir():
        os.utime(path, (1_000_000, 1_000_000))
    first = load_target(parquet_folder)
    status = (parquet_folder / "test.parquet").stat()
    content = bytearray((parquet_folder / "test.parquet").read_bytes())
    at = content.find(encoded(0, 30)[40:])
    content[at + 10] ^= 255
    (parquet_folder / "test.parquet").write_bytes(bytes(content))
    os.utime(parquet_folder / "test.parquet", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_target(parquet_folder).fingerprint == first.fingerprint
    assert load_target(parquet_folder, hash_mode="content").fingerprint != first.fingerprint


def test_single_parquet_file_and_sharded_data_folder(tmp_path):
    pq.write_table(table(range(30)), tmp_path / "photos.parquet")
    single = load_target(tmp_path / "photos.parquet")
    assert (single.name, single.counts()) == ("photos", {"train": 18, "val": 6, "test": 6})
    data = tmp_path / "hub" / "data"
    data.mkdir(parents=True)
    pq.write_table(table(range(12)), data / "train-00000-of-00002.parquet")
    pq.write_table(table(range(12, 24)), data / "train-00001-of-00002.parquet")
    pq.write_table(table(range(24, 30)), data / "validation-00000-of-00001.parquet")
    pq.write_table(table(range(30, 36)), data / "test-00000-of-00001.parquet")
    sharded = load_target(tmp_path / "hub")
    assert (sharded.counts(), sharded.split_origin) == ({"train": 24, "val": 6, "test": 6}, "given")
    assert sharded.names[24] == "data/validation-00000-of-00001.parquet:0"


def test_parquet_columns_by_name(tmp_path):
    made = table(range(12), names=None, price=pa.array(np.arange(12) / 3), word=pa.array(list("abc") * 4))
    made = made.rename_columns(["photo", "label", "price", "word"])
    pq.write_table(made, tmp_path / "x.parquet")
    with pytest.raises(TargetError, match=r"Columns: photo, label, price, word. Name texts"):
        load_target(tmp_path / "x.parquet")
    target = load_target(tmp_path / "x.parquet", image_column="photo", label_column="price")
    assert target.label_kind is LabelKind.REAL
    words = load_target(tmp_path / "x.parquet", image_column="photo", label_column="word")
    assert (words.class_names, load_origin(words.origin).fingerprint) == (("a", "b", "c"), words.fingerprint)
    with pytest.raises(TargetError, match=r"no column 'pric'; did you mean 'price'\?"):
        load_target(tmp_path / "x.parquet", image_column="photo", label_column="pric")
    with pytest.raises(TargetError, match=r"row 0: the image column holds string; expected a struct of bytes and path"):
        load_target(tmp_path / "x.parquet", image_column="word", label_column="label")


def test_parquet_bad_files(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(TargetError, match=r"x\.parquet: not a readable parquet file .*; write it again"):
        load_target(tmp_path / "x.parquet")
    made = table(range(6))
    made = made.set_column(1, "label", pa.array([0, 1, -1, 0, 1, 2], pa.int64()))
    pq.write_table(made, tmp_path / "y.parquet")
    with pytest.raises(TargetError, match=r"y\.parquet:2 has the label -1; expected an int in 0\.\.2"):
        load_target(tmp_path / "y.parquet")


def test_parquet_paths_are_confined(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": None, "path": "../../etc/passwd"}], kind)
    pq.write_table(pa.table({"image": image, "label": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(TargetError, match=r"row 0: the path '\.\./\.\./etc/passwd' leads outside"):
        load_target(tmp_path / "x.parquet")


def test_parquet_files_of_another_shape(parquet_folder):
    pq.write_table(pa.table({"a": [1]}), parquet_folder / "test.parquet")
    with pytest.raises(TargetError, match=r"test\.parquet: columns a; expected 'image' and 'label'"):
        load_target(parquet_folder)


def test_classes_without_images_are_left_out(tmp_path):
    pq.write_table(table(range(12), names=[*NAMES, "zebra"]), tmp_path / "x.parquet")
    target = load_target(tmp_path / "x.parquet")
    assert target.class_names == tuple(NAMES)
    assert "1 of 4 classes have no image and were left out" in target.notes


def manifest(root: Path, text: str, name: str = "labels.csv") -> Path:
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def listing(root: Path, header: str = "path,label") -> list[str]:
    paths = sorted(root.rglob("*.png"))
    return [header, *(f"{path.relative_to(root).as_posix()},{path.parent.name}" for path in paths)]


def test_manifest_with_splits_semicolons_and_a_mark(tmp_path):
    root = image_folder(tmp_path / "x", 6)
    words = ["train", "train", "train", "Validation", "test", "test"]
    lines = [f"{line.replace(',', ';')};{words[i % 6]}" for i, line in enumerate(listing(root)[1:])]
    target = load_target(manifest(root, "\ufefffile_name;class;Split\r\n" + "\r\n".join(lines)))
    assert (target.counts(), target.split_origin) == ({"train": 9, "val": 3, "test": 6}, "given")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,klass\n", r"labels\.csv: no label column among path, klass; expected 'label', or name it with label_column"),
        ("a,label\n", r"labels\.csv: which column holds the texts, or the images\? Columns: a, label\."),
        ("", r"labels\.csv: the table is empty; expected the names of its columns"),
        ("path,label\n../no.png,a\n", r"labels\.csv:2: image '\.\./no\.png' does not exist in .*x; correct .*\(--image-root\)"),
        ("path,label\na\0b.png,a\n", r"labels\.csv:2: the path 'a\\x00b\.png' holds a NUL character"),
        ("path,label\nno.png,a\nno2.png,b\n", r"labels\.csv:2: image 'no\.png' does not exist in .* \(and 1 more\)"),
        ("path,label\n,a\n", r"labels\.csv:2: the path is empty"),
        ("path,label\nacross/000.png\n", r"labels\.csv:2: found 1 values; expected 2 \(path, label\)"),
        ("path,label,path\n", r"labels\.csv:1: a column name occurs twice"),
        ("path,label\nacross/000.png,\nacross/001.png,b\n", r"across/000\.png has no label"),
        ("path,label,split\nacross/000.png,a,tran\n", r"labels\.csv:2: unknown split 'tran'; did you mean 'train'\?"),
        ("path,label,split\nacross/000.png,a,train\nacross/001.png,b,\n", r"across/001\.png has no split while others have"),
        ("path,label\n", r"labels\.csv: no items found"),
    ],
)  # fmt: skip
def test_manifest_bad_input(tmp_path, text, message):
    root = image_folder(tmp_path / "x", 4)
    with pytest.raises(TargetError, match=message):
        load_target(manifest(root, text))


def test_manifest_paths_lead_where_the_user_says(tmp_path):
    root = image_folder(tmp_path / "set", 6)
    folder = load_target(root)
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "lists").mkdir()
    lines = listing(root)
    for place, before in (("set", ""), ("lists", "../set/"), ("lists", "../link/"), ("lists", f"{root}/")):
        csv = manifest(tmp_path / place, "\n".join([lines[0], *(before + line for line in lines[1:])]) + "\n\n")
        target = load_target(csv)
        assert (target.fingerprint, target.name) == (folder.fingerprint, "labels")
        assert target.names[0] == before + folder.names[0]
        assert target.items[3] == folder.items[3]
        assert load_origin(target.origin).fingerprint == target.fingerprint
    bare = manifest(tmp_path / "lists", "\n".join(lines))
    with pytest.raises(TargetError, match=r"labels\.csv:2: image 'across/000.png' does not exist .* \(and 17 more\)"):
        load_target(bare)
    target = load_target(bare, image_root=root)
    assert target.fingerprint == folder.fingerprint
    assert load_origin(target.origin).fingerprint == target.fingerprint


def test_manifest_that_is_not_text(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "x.csv").write_bytes("\ufeffpath,label".encode(encoding))
        with pytest.raises(TargetError, match=r"x\.csv: found UTF-16 .*expected UTF-8. Convert .*-f utf-16 -t utf-8"):
            load_target(tmp_path / "x.csv")


def test_images_in_a_column_that_is_called_like_masks_are_told_apart(tmp_path):
    """Their hashes were left to a task that decodes masks: all of them were one image."""
    datasets = pytest.importorskip("datasets")
    made = table(range(12), names=None).rename_columns(["mask", "kind"])
    pq.write_table(made, tmp_path / "x.parquet")
    features = datasets.Features({"mask": datasets.Image(), "kind": datasets.Value("int64")})
    hub = datasets.Dataset.from_dict(made.to_pydict(), features=features)
    for data in (tmp_path / "x.parquet", hub):
        target = load_target(data, image_column="mask", label_column="kind")
        assert list(target.hashes) == [content_hash(encoded(i % 3, i)) for i in range(12)]


def test_hugging_face_equals_parquet(parquet_folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = {split: str(parquet_folder / f"{split}.parquet") for split in ("train", "test")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "hf"))
    target = load_target(loaded)
    assert target.fingerprint == load_target(parquet_folder).fingerprint
    assert (target.names[0], target.origin) == ("train: row 0", None)
    assert np.array_equal(decode_rgb(target.items[31]), np.asarray(draw(31 % 3, 31, 16)))
    single = load_target(loaded["train"], name="mine")
    assert (single.counts(), single.name) == ({"train": 18, "val": 6, "test": 6}, "mine")
    with pytest.raises(TargetError, match=r"column 'label' is a ClassLabel; expected a datasets\.Image"):
        load_target(loaded["train"], image_column="label")
    with pytest.raises(TargetError, match=r"the target was built from objects in memory; pass the same data again"):
        load_origin(target.origin)


def test_real_sets(assets):
    target = load_target(assets / "data" / "brainmri")
    assert target.class_names == ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
    assert (sum(target.counts().values()), target.counts()["test"]) == (836, 280)
    assert load_target(assets / "data" / "houses", label_column="log_price").label_kind is LabelKind.REAL


def test_a_cell_that_is_no_text_of_a_person_is_an_error_with_its_line(tmp_path, monkeypatch):
    """200 million characters took ten times their bytes."""
    monkeypatch.setattr("selector.data._text_rows._LONGEST", 1000)
    file = tmp_path / "t.csv"
    file.write_text("text,label\na,b\n" + "x" * 1001 + ",b\n")
    with pytest.raises(TargetError, match=r"t\.csv:3: found a cell of more than 1,000 characters"):
        load_target(file, text_column="text", label_column="label")
    file.write_text("x" * 200_000 + ",label\na,b\n")
    with pytest.raises(TargetError, match=r"t\.csv:1: found a cell of more than 1,000 characters"):
        load_target(file, text_column="text", label_column="label")


def test_lines_of_a_table_are_those_of_the_csv_module():
    from selector.data._text_rows import _LINE

    text = "a\r\nb\n\nc\rd\u2028e\x0bf\x85\n\r\r\n,"
    assert _LINE.findall(text) == list(io.StringIO(text, newline=""))


def test_binary_labels_of_a_parquet_file_are_names(tmp_path):
    def written(*names: bytes) -> Path:
        labels = pa.array([*names] * 10, pa.binary())
        pq.write_table(pa.table({"text": [f"text {i}" for i in range(20)], "label": labels}), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    assert load_target(written("ä".encode(), b"b")).class_names == ("b", "ä")
    with pytest.raises(TargetError, match="not UTF-8"):
        load_target(written(b"\xff", b"b"))


@pytest.mark.parametrize("column", ["photo", "Foto", "document", "text"])
def test_a_column_of_paths_is_recognized_by_its_values(tmp_path, column):
    root = image_folder(tmp_path / "data", 10)
    paths = sorted(str(path) for path in root.rglob("*.png"))
    prices = np.random.default_rng(0).normal(12, 1, len(paths))
    frame = pd.DataFrame({column: paths, "log_price": prices})
    target = load_target(frame, label_column="log_price")
    assert (target.modality, target.task, len(target)) == ("image", "regression", len(paths))
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    for name in ("t.csv", "t.jsonl"):
        assert load_target(tmp_path / name, label_column="log_price").modality == "image"
    if column not in ("text", "document"):
        frame["text"] = [f"text {i}" for i in range(len(frame))]
        assert load_target(frame, label_column="log_price").modality == "text"


def test_a_table_without_paths_or_texts_asks_for_both():
    with pytest.raises(TargetError, match=r"text_column .*image_column \(--image-column\)"):
        load_target(pd.DataFrame({"photo": ["one", "two"] * 10, "log_price": np.arange(20.0)}))
