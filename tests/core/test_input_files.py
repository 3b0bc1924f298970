"""Files from somebody else: devices, pipes, bombs. Each of these hung, filled the memory or raised a raw error once."""

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from selector.core.errors import ConfigError, TargetError
from selector.core.input_files import FileRefused, check_json, check_unpacked, read_arrays, read_file
from selector.data import load_target
from selector.data.readers.parquet import column_cells


def pictures(folder: Path, count: int = 8) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return [f"{i}.png" for i in range(count)]


def as_csv(folder: Path, names: list[str]) -> Path:
    (folder / "t.csv").write_text("path,label\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names)))
    return folder / "t.csv"


def as_coco(folder: Path, names: list[str]) -> Path:
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": i, "category_id": i % 2, "bbox": [0, 0, 4, 4]} for i in range(len(names))],
        "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
    }
    (folder / "t.json").write_text(json.dumps(content))
    return folder / "t.json"


def as_jsonl(folder: Path, names: list[str]) -> Path:
    (folder / "t.jsonl").write_text(
        "".join(json.dumps({"image": name, "label": "ab"[i % 2]}) + "\n" for i, name in enumerate(names))
    )
    return folder / "t.jsonl"


@pytest.mark.parametrize("write", [as_csv, as_coco, as_jsonl])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "secret", "link to a secret", "surrogate", "sparse"])
def test_data_name_regular_files_that_are_images(tmp_path, write, kind):
    names = pictures(tmp_path)
    if kind == "surrogate" and write is as_csv:
        pytest.skip("UTF-8 has none")
    match kind:
        case "device":
            bad = "/dev/zero"
        case "pipe":
            os.mkfifo(tmp_path / "pipe.png")
            bad = "pipe.png"
        case "folder":
            (tmp_path / "folder.png").mkdir()
            bad = "folder.png"
        case "secret":
            bad = "/etc/passwd"
        case "link to a secret":
            (tmp_path / "link.png").symlink_to("/etc/passwd")
            bad = "link.png"
        case "surrogate":
            bad = "\ud800.png"
        case _:
            with (tmp_path / "sparse.png").open("wb") as file:
                file.truncate(2 << 40)
            bad = "sparse.png"
    with pytest.raises(TargetError, match=r"not read|not an image|surrogate"):
        load_target(write(tmp_path, [*names, bad]))


def test_pipes_in_a_folder_are_not_opened(tmp_path):
    for name in "ab":
        pictures(tmp_path / name, 4)
        os.mkfifo(tmp_path / name / "pipe.png")
    assert len(load_target(tmp_path)) == 8


def test_a_file_that_became_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileRefused, match="not a regular file"):
        read_file(tmp_path / "pipe")


def zeros(unpacked: int) -> bytes:
    """A small .npz whose one array unpacks to so many bytes."""
    out = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (unpacked // 4, 1)})
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("clip.npy", "w") as part:
        part.write(header.getvalue())
        for _ in range(unpacked // (1 << 20)):
            part.write(bytes(1 << 20))
    return out.getvalue()


def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path, monkeypatch):
    (tmp_path / "t.npz").write_bytes(zeros(300 << 20))
    with pytest.raises(TargetError, match=r"unpacks to 314\.6 MB .*SELECTOR_MAX_UNPACKED=1GB"):
        load_target(tmp_path / "t.npz")
    monkeypatch.setenv("SELECTOR_MAX_UNPACKED", "1GB")
    found = read_arrays(tmp_path / "t.npz")
    assert not isinstance(found, np.ndarray)
    assert found["clip"].nbytes == 300 << 20
    monkeypatch.setenv("SELECTOR_MAX_UNPACKED", "much")
    with pytest.raises(ConfigError, match="SELECTOR_MAX_UNPACKED"):
        check_unpacked(1, 1)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_header_may_not_claim_more_than_there_is(tmp_path, suffix):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        path.write_bytes(header.getvalue())
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("clip.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"4\.0 TB"):
        read_arrays(path)


def damaged(kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "an array by the name of an archive":
        np.save(out, np.zeros((4, 2)))
        return out.getvalue()
    if kind == "objects":
        np.savez(out, clip=np.array([{}], dtype=object), labels=np.zeros(1))
        return out.getvalue()
    method = zipfile.ZIP_LZMA if kind == "lzma" else zipfile.ZIP_DEFLATED
    array = io.BytesIO()
    np.save(array, np.random.default_rng(0).random((64, 8)))
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("clip.npy", array.getvalue())
    content = bytearray(out.getvalue())
    if kind == "encrypted":
        content[6] |= 1
        place = content.rindex(b"PK\x01\x02")
        content[place + 8] |= 1
    elif kind == "a method that nobody knows":
        place = content.rindex(b"PK\x01\x02")
        content[8:10] = content[place + 10 : place + 12] = struct.pack("<H", 77)
    else:
        for at in range(120, 600, 7):
            content[at] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    "kind",
    ["deflate", "lzma", "encrypted", "a method that nobody knows", "objects", "an array by the name of an archive"],
)
def test_damaged_archives_are_errors_with_a_reason(tmp_path, kind):
    (tmp_path / "t.npz").write_bytes(damaged(kind))
    with pytest.raises(TargetError, match=r"t\.npz"):
        load_target(tmp_path / "t.npz")


def test_json_of_a_million_empty_lists_is_measured_first():
    with pytest.raises(ValueError, match="unpacks to"):
        check_json("[" + "[]," * 30_000_000)
    check_json(json.dumps([{"bbox": [1.5, 2.5, 3.5, 4.5], "id": i} for i in range(1000)]))


def test_a_small_parquet_file_of_twenty_million_rows_is_refused_by_its_footer(tmp_path):
    count = 20_000_000
    columns = {"text": pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int8)), ["a text"])}
    columns["label"] = pa.array(np.zeros(count, np.int8))
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 200_000
    with pytest.raises(TargetError, match=r"t\.parquet: it unpacks to 4\.0 GB .*SELECTOR_MAX_UNPACKED=5GB"):
        load_target(tmp_path / "t.parquet")


@pytest.mark.parametrize("column", ["text", "image"])
def test_a_value_that_is_repeated_is_measured_before_it_is_unpacked(tmp_path, column):
    value = b"x" * 1_000_000
    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int32)), [value.decode()])
    if column == "image":
        cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int32)), pa.array([value]))
    table = pa.table({column: cells, "label": ["a", "b"] * 5000})
    pq.write_table(table, tmp_path / "t.parquet", store_schema=False)
    with pytest.raises(TargetError, match="unpacks to"):
        load_target(tmp_path / "t.parquet")


@pytest.mark.parametrize("kind", ["list", "boxes", "numbers"])
def test_a_value_that_lists_repeat_is_measured_before_it_is_unpacked(tmp_path, kind):
    count = 40_000_000 if kind == "numbers" else 10_000
    held = pa.array(np.zeros(count, np.int64))
    if kind != "numbers":
        held = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), ["x" * 1_000_000])
    if kind == "boxes":
        held = pa.StructArray.from_arrays([held, pa.array(np.zeros(count))], ["category", "area"])
    cells = pa.ListArray.from_arrays(pa.array([0, count // 2, count], pa.int32()), held)
    pq.write_table(pa.table({"text": ["a", "b"], "label": cells}), tmp_path / "t.parquet", store_schema=False)
    before = resident()
    with pytest.raises(TargetError, match="unpacks to"):
        for _ in column_cells(tmp_path / "t.parquet", "label"):
            pass
    assert resident() - before < 500_000_000


def resident() -> int:
    """Bytes that this process holds."""
    return int(psutil.Process().memory_info().rss)


def test_two_columns_of_one_name_are_named(tmp_path):
    table = pa.table([["a text"] * 4, [0, 1] * 2, [1, 0] * 2], names=["text", "label", "label"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(TargetError, match="two columns are called 'label'"):
        load_target(tmp_path / "t.parquet")


def test_a_table_of_commas_is_measured_first(tmp_path, monkeypatch):
    monkeypatch.setenv("SELECTOR_MAX_UNPACKED", "1MB")
    (tmp_path / "t.csv").write_text("text,label\n" + "," * 20_000)
    with pytest.raises(TargetError, match=r"t\.csv: it unpacks to"):
        load_target(tmp_path / "t.csv")
    (tmp_path / "t.jsonl").write_text("[" + "[]," * 20_000)
    with pytest.raises(TargetError, match=r"t\.jsonl: it unpacks to"):
        load_target(tmp_path / "t.jsonl")
