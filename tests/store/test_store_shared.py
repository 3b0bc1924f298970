"""A store with several writers on several machines: duplicates, caches of each machine."""

from pathlib import Path

import numpy as np

from selector.store import FeatureStore
from selector.store.files import on_network
from tests.store.test_store import IDENTITY, WIDTH, features, fill, hashes, remote

__all__ = ["remote"]


def test_rows_that_two_writers_extract_at_once_are_there_once(remote, tmp_path, monkeypatch):
    entries = []
    for machine in ("one", "other"):
        monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path / machine))
        entries.append(FeatureStore(remote).remember({"s": 1}, IDENTITY, {"num_features": WIDTH}))
    for entry in entries:
        assert not entry.stored  # both see nothing, and both write
    for entry in entries:
        fill(entry, range(20))
    assert [entry.stored for entry in entries] == [20, 20]
    order = list(range(19, -1, -1))
    assert all(np.array_equal(entry.rows(hashes(order)), features(order)) for entry in entries)


def test_a_folder_that_machines_share_keeps_pixels_with_each_machine(tmp_path, monkeypatch):
    assert FeatureStore(tmp_path / "own").pixels_folder == tmp_path / "own" / "pixels"
    monkeypatch.setenv("SELECTOR_STORE_SHARED", "1")
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path / "cache"))
    store = FeatureStore(tmp_path / "mounted")
    assert store.address == str(tmp_path / "mounted")
    for folder in (store.pixels_folder, store.compiled_folder, store.trainings_folder):
        assert folder.is_relative_to(tmp_path / "cache")
    fill(store.entry(IDENTITY), range(5))
    with store.lock("work"):
        pass
    assert not (tmp_path / "mounted" / "locks").exists()
    assert list((tmp_path / "mounted" / "entries").rglob("0*.safetensors"))


def test_file_systems_of_networks_are_known_by_their_mounts(monkeypatch):
    monkeypatch.delenv("SELECTOR_STORE_SHARED", raising=False)
    mounts = (
        "/dev/a / ext4 rw 0 0\nserver:/x /mnt/big\\040disk nfs4 rw 0 0\n/dev/b /mnt/big\\040disk/inner ext4 rw 0 0\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda self, **_: mounts)
    assert on_network(Path("/mnt/big disk/store"))
    assert not on_network(Path("/mnt/big disk/inner/store"))
    assert not on_network(Path("/home/store"))
