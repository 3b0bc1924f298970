"""A store with several writers on several machines: leases, duplicates, caches of each machine."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from selector.store import FeatureStore
from selector.store.files import on_network
from selector.store.leases import FOLDER, lease
from tests.store.test_store import IDENTITY, WIDTH, features, fill, hashes, remote

__all__ = ["remote"]


def claims(store: FeatureStore) -> list[str]:
    return [n for folder in store._files.folders(FOLDER) for n in store._files.names(f"{FOLDER}/{folder}")]


def test_a_lease_lets_one_writer_in_at_a_time_and_outlives_any_patience(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path / "one"))
    mine = FeatureStore(remote)
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path / "other"))
    other = FeatureStore(remote)
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        waits.set()
        with lease(other._files, "work", beat=0.1, patience=0.6):
            order.append("second")

    with lease(mine._files, "work", beat=0.1, patience=0.6):
        thread = threading.Thread(target=second)
        thread.start()
        waits.wait()
        time.sleep(1.5)  # longer than its patience: the heartbeat keeps the lease
        order.append("first")
    thread.join(timeout=30)
    assert order == ["first", "second"]
    assert not claims(mine)
    with lease(mine._files, "a"), lease(other._files, "b"):  # of other work: nobody waits
        pass


def test_the_lease_of_a_writer_that_died_is_taken_over(remote: str) -> None:
    store = FeatureStore(remote)
    dead = lease(store._files, "work", beat=1e6)
    dead.__enter__()  # its heart never beats
    begun = time.monotonic()
    with lease(store._files, "work", beat=0.05, patience=0.3):
        assert 0.3 <= time.monotonic() - begun < 20
        assert len(claims(store)) == 1
    dead.__exit__(None, None, None)
    assert not claims(store)


def test_foreign_files_among_the_claims_are_no_error(remote: str) -> None:
    store = FeatureStore(remote)
    with lease(store._files, "work"):
        folder = claims(store)[0] and next(iter(store._files.folders(FOLDER)))
        for name in ("notes.json", "-.json", f"{'9' * 5000}.json"[:200], "\u00b2-x.json"):
            store._files.write(f"{FOLDER}/{folder}/{name}", lambda: [b"[1, "])
    with lease(store._files, "work", beat=0.02, patience=0.1):
        pass


def test_rows_that_two_writers_extract_at_once_are_there_once(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_folder_that_machines_share_keeps_pixels_with_each_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not FeatureStore(tmp_path / "own").shared
    assert FeatureStore(tmp_path / "own").pixels_folder == tmp_path / "own" / "pixels"
    monkeypatch.setenv("SELECTOR_STORE_SHARED", "1")
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path / "cache"))
    store = FeatureStore(tmp_path / "mounted")
    assert store.shared
    assert store.address == str(tmp_path / "mounted")
    for folder in (store.pixels_folder, store.compiled_folder, store.trainings_folder, store.working_folder):
        assert folder.is_relative_to(tmp_path / "cache")
    fill(store.entry(IDENTITY), range(5))
    with store.lock("work"):
        assert len(claims(store)) == 1
    assert not (tmp_path / "mounted" / "locks").exists()
    assert list((tmp_path / "mounted" / "entries").rglob("*.rows"))


def test_file_systems_of_networks_are_known_by_their_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELECTOR_STORE_SHARED", raising=False)
    mounts = (
        "/dev/a / ext4 rw 0 0\nserver:/x /mnt/big\\040disk nfs4 rw 0 0\n/dev/b /mnt/big\\040disk/inner ext4 rw 0 0\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda self, **_: mounts)
    assert on_network(Path("/mnt/big disk/store"))
    assert not on_network(Path("/mnt/big disk/inner/store"))
    assert not on_network(Path("/home/store"))
