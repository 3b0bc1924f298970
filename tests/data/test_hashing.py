"""Remembered hashes: believed when asked to, never wrong when told not to."""

import logging
import os
import time
from pathlib import Path

import pytest
import xxhash

from selector.core.atomic import cache_folder
from selector.data import load_target


def files(root: Path, number: int) -> Path:
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(number // 2):
            path = root / label / f"{i}.jpg"
            path.write_bytes(f"{label}{i}".encode() * 50)
            os.utime(path, (1_000_000, 1_000_000))
    return root


def test_hash_is_xxh3_of_the_bytes(tmp_path):
    target = load_target(files(tmp_path / "x", 8))
    assert target.hashes[0] == xxhash.xxh3_128_hexdigest(b"a0" * 50)


def test_stat_believes_what_is_remembered_and_content_reads_again(tmp_path):
    root = files(tmp_path / "x", 8)
    first = load_target(root)
    path = root / "a" / "0.jpg"
    status = path.stat()
    path.write_bytes(b"zz" * 50)  # same size, same inode, and the old time put back
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_target(root).fingerprint == first.fingerprint
    assert load_target(root, hash_mode="content").fingerprint != first.fingerprint
    assert load_target(root).fingerprint != first.fingerprint  # what was read is remembered


def test_a_changed_time_is_noticed(tmp_path):
    root = files(tmp_path / "x", 8)
    first = load_target(root)
    (root / "a" / "0.jpg").write_bytes(b"zz" * 50)
    assert load_target(root).fingerprint != first.fingerprint


def test_a_young_file_is_not_remembered(tmp_path):
    root = files(tmp_path / "x", 8)
    path = root / "a" / "0.jpg"
    os.utime(path)
    first = load_target(root)
    status = path.stat()
    path.write_bytes(b"zz" * 50)  # written again within one tick of the clock
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_target(root).fingerprint != first.fingerprint


def test_a_damaged_memory_costs_time_only(tmp_path, caplog):
    root = files(tmp_path / "x", 8)
    first = load_target(root)
    (memory,) = (cache_folder() / "hashes").iterdir()
    memory.write_bytes(b"{")
    with caplog.at_level(logging.WARNING):
        assert load_target(root).fingerprint == first.fingerprint
    assert "is unreadable and will be written again" in caplog.text
    assert memory.stat().st_size > 100


def test_a_memory_that_cannot_be_written_is_a_warning(tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert len(load_target(files(tmp_path / "x", 8))) == 8
    assert "could not be remembered" in caplog.text


@pytest.mark.slow
def test_100_000_files_are_quick_the_second_time(tmp_path):
    root = files(tmp_path / "x", 100_000)
    started = time.process_time()
    first = load_target(root)
    reading = time.process_time() - started
    started = time.process_time()
    second = load_target(root)
    remembered = time.process_time() - started
    assert second.fingerprint == first.fingerprint
    assert remembered < 6  # CPU seconds: seconds on any machine, whatever else runs there
    assert remembered < reading
