"""The store against a plain dictionary, and against everything that may happen to it."""

import errno
import json
import logging
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from selector.core.errors import ConfigError, SourceError, StoreError
from selector.store import FeatureStore, default_store, default_store_path
from selector.store import entry as entries
from selector.store.documents import digest
from selector.store.entry import RowsMissing
from tests.support.stored import IDENTITY, WIDTH, features, fill, hashes

TOP = str(Path(__file__).parents[2])


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """A store on a path with a space and letters beyond ASCII."""
    return FeatureStore(tmp_path / "my störe 猫")


@pytest.fixture(autouse=True, scope="module")
def merge_all() -> Iterator[None]:
    """Chunks of these small entries are merged, as those of large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "FEW_CHUNKS", 1)
        yield


def chunk_files(store: FeatureStore) -> list[Path]:
    return sorted(Path(store.root).rglob("0*.safetensors"))


def test_the_stored_order_is_mapped_without_a_copy(store):
    entry = store.entry(IDENTITY)
    fill(entry, range(40))
    shuffled = np.random.default_rng(0).permutation(40).tolist()
    first = entry.rows(hashes(shuffled))  # four chunks become one, in this order
    assert len(chunk_files(store)) == 1
    again = FeatureStore(store.root).entry(IDENTITY).rows(hashes(shuffled))
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable
    assert np.array_equal(first, features(shuffled))
    assert np.array_equal(again, features(shuffled))


def test_rows_in_few_chunks_are_written_once(store, monkeypatch):
    monkeypatch.setattr(entries, "FEW_CHUNKS", 4)
    entry = store.entry(IDENTITY)
    fill(entry, range(40))
    written = {path: path.stat().st_ino for path in chunk_files(store)}
    assert len(written) == 4
    order = list(range(39, -1, -1))
    found = entry.rows(hashes(order))
    assert np.array_equal(found, features(order))
    assert not found.flags.writeable
    assert {path: path.stat().st_ino for path in chunk_files(store)} == written
    fill(entry, range(40, 50))  # one more than a few
    assert np.array_equal(entry.rows(hashes(range(50))), features(range(50)))
    assert len(chunk_files(store)) == 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not list the maps of a process")
def test_adding_a_chunk_opens_none_of_the_others(store, monkeypatch):
    opened: list[Path] = []

    class Watched(entries.Container):
        def __init__(self, path: Path) -> None:
            opened.append(path)
            super().__init__(path)

    monkeypatch.setattr(entries, "Container", Watched)
    entry = store.entry(IDENTITY)
    for number in range(30):
        entry.append(hashes([number]), features([number]))
    assert len(opened) <= 1  # for the width; a million rows come in thousands of chunks
    assert np.array_equal(entry.rows(hashes(range(30))), features(range(30)))


def test_rows_stay_mapped_only_as_long_as_somebody_holds_them(store):
    def mapped() -> int:
        return Path("/proc/self/maps").read_text(encoding="utf-8").count(".safetensors")

    entry = store.entry(IDENTITY)
    fill(entry, range(3000), chunk=1000)
    rows = entry.rows(hashes(range(3000)))
    assert mapped() > 0
    part = rows[10:20]
    del rows
    assert np.array_equal(part, features(range(10, 20)))
    del part
    assert mapped() == 0
    assert np.array_equal(entry.rows(hashes(range(3000))), features(range(3000)))


def test_of_rows_stored_twice_the_first_is_used_always(store):
    entry = store.entry(IDENTITY)
    fill(entry, range(20))
    entry.append(hashes(range(15)), features(range(15)) + 1)  # as another backend's noise would be
    assert entry.stored == 20
    for _ in range(2):  # before and after merging
        assert np.array_equal(entry.rows(hashes(range(20))), features(range(20)))
    assert np.array_equal(FeatureStore(store.root).entry(IDENTITY).rows(hashes(range(20))), features(range(20)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 30), min_size=1, max_size=12)), max_size=12))
def test_an_entry_is_a_dictionary(steps):
    with tempfile.TemporaryDirectory() as folder:
        entry = FeatureStore(folder).entry(IDENTITY)
        assert bool(entry)  # also without rows
        known: set[int] = set()
        for write, numbers in steps:
            if write:
                entry.append(hashes(numbers), features(numbers))
                known |= set(numbers)
                continue
            there = [n for n in numbers if n in known]
            if there:
                assert np.array_equal(entry.rows(hashes(there)), features(there))
            absent = [n for n in numbers if n not in known]
            assert [numbers[i] for i in entry.missing(hashes(numbers))] == list(dict.fromkeys(absent))
            if absent:
                with pytest.raises(RowsMissing) as caught:
                    entry.rows(hashes(numbers))
                assert [numbers[i] for i in caught.value.indices] == absent
        assert entry.stored == len(known)
        if known:
            every = sorted(known)
            assert entry.num_features == WIDTH
            assert np.array_equal(entry.rows(hashes(every)), features(every))


def test_hashes_that_share_half_or_are_plain_names(store):
    entry = store.entry(IDENTITY)
    names = ["0" * 16 + "1" * 16, "0" * 16 + "2" * 16, "0" * 16 + "3" * 16, "a text", "g" * 32]
    entry.append(names[1:], features(range(1, 5)))
    assert entry.missing(names).tolist() == [0]
    assert np.array_equal(entry.rows(names[:0:-1]), features([4, 3, 2, 1]))


def test_another_process_sees_rows_at_once(store):
    mine, theirs = store.entry(IDENTITY), FeatureStore(store.root).entry(IDENTITY)
    fill(mine, range(10))
    assert not len(theirs.missing(hashes(range(10))))
    fill(theirs, range(10, 20))
    assert np.array_equal(mine.rows(hashes(range(20))), features(range(20)))  # merged here
    assert np.array_equal(theirs.rows(hashes(range(20))), features(range(20)))  # and read there


def test_wrong_shapes_are_refused_and_nothing_is_written(store):
    entry = store.entry(IDENTITY)
    fill(entry, range(3))
    with pytest.raises(SourceError, match=r"takes rows of shape \(2, 8\), one a hash. Got \(2, 9\)"):
        entry.append(hashes([5, 6]), np.zeros((2, 9)))
    with pytest.raises(SourceError, match=r"shape \(2, 8\), one a hash. Got \(3, 8\)"):
        entry.append(hashes([5, 6]), np.zeros((3, 8)))
    entry.append([], np.empty((0, WIDTH)))
    assert len(chunk_files(store)) == 1


def test_the_key_is_the_meaning_of_the_identity(store):
    turned = dict(reversed(list(IDENTITY.items())))
    assert store.entry(turned).key == store.entry(IDENTITY).key
    assert store.entry({**IDENTITY, "precision": "bfloat16"}).key != store.entry(IDENTITY).key
    assert len(store.entry(IDENTITY).key) == 32
    with pytest.raises(TypeError, match="is not plain JSON"):
        store.entry({"weights": object()})


def test_resolve_finds_what_was_remembered(store):
    spec = {"source": "timm:x", "device": "cpu"}
    assert store.resolve(spec) is None
    meta = {"num_features": WIDTH, "backend": "eager", "blocks": ["stem", "head"]}
    entry = store.remember(spec, IDENTITY, meta)
    fill(entry, range(4))
    assert entry.head() is None
    weight, bias = np.arange(24, dtype=np.float32).reshape(3, 8), np.ones(3, np.float32)
    entry.set_head(weight, bias)
    found = FeatureStore(store.root).resolve(spec)
    assert found is not None
    assert (found.key, found.meta, found.identity) == (entry.key, meta, IDENTITY)
    assert (found.stored, found.num_features, found.rows([]).shape) == (4, WIDTH, (0, WIDTH))
    assert not len(found.missing(hashes(range(4))))
    kept = found.head()
    assert kept is not None
    assert np.array_equal(kept[0], weight)
    assert np.array_equal(kept[1], bias)


def test_an_entry_whose_meta_is_lost_is_known_from_its_alias(store):
    entry = store.remember({"s": 1}, IDENTITY, {"num_features": WIDTH})
    (Path(store.root) / "entries" / entry.key / "meta.json").unlink()
    found = FeatureStore(store.root).resolve({"s": 1})
    assert found is not None
    assert found.num_features == WIDTH


def test_results(store):
    assert store.get("score", {"a": 1}) is None
    scored = {"value": 0.1 + 0.2, "low": None, "least": float("-inf"), "blocks": np.arange(3)}
    store.put("score", {"a": 1, "b": [1, 2]}, scored)
    assert FeatureStore(store.root).get("score", {"b": (1, 2), "a": 1}) == {**scored, "blocks": [0, 1, 2]}
    store.put("score", {"a": 1, "b": [1, 2]}, {"value": 7})
    assert store.get("score", {"a": 1, "b": [1, 2]}) == {"value": 7}
    assert store.get("measurement", {"a": 1, "b": [1, 2]}) is None
    with pytest.raises(StoreError, match=r"a kind of result is a lower-case word. Got '../x'"):
        store.put("../x", {}, {})
    assert store.bad_images() == {}
    store.add_bad_images({"aa": "is truncated"})
    store.add_bad_images({"aa": "is truncated", "bb": "is empty (0 bytes)"})
    assert FeatureStore(store.root).bad_images() == {"aa": "is truncated", "bb": "is empty (0 bytes)"}


def test_nothing_of_the_store_imports_torch(tmp_path):
    code = (
        "import sys; from selector.store import FeatureStore; import numpy as np\n"
        "s = FeatureStore(sys.argv[1]); e = s.remember({'a': 1}, {'b': 2}, {}); e.append(['x'], np.ones((1, 3)))\n"
        "e.rows(['x']); s.put('score', {}, {}); s.verify(); s.prune(0)\n"
        "with s.lock('x'): pass\n"
        "print([m for m in ('torch', 'fsspec', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_default_place(tmp_path, monkeypatch):
    monkeypatch.setenv("SELECTOR_STORE", str(tmp_path / "here"))
    assert default_store() == str(tmp_path / "here")
    assert default_store_path() == tmp_path / "here"
    assert FeatureStore().pixels_folder == tmp_path / "here" / "pixels"
    monkeypatch.delenv("SELECTOR_STORE")
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path / "cache"))
    assert default_store_path() == tmp_path / "cache" / "store"
    monkeypatch.setenv("SELECTOR_STORE", "memory://shared")
    assert tmp_path / "cache" / "remote" in default_store_path().parents


def test_a_file_or_an_unknown_protocol_is_no_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file; give a folder with --store"):
        FeatureStore(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"the store nope://x cannot be opened: Protocol not known: nope"):
        FeatureStore("nope://x")


def test_opening_and_reading_writes_nothing(tmp_path):
    store = FeatureStore(tmp_path / "new")
    assert (store.resolve({"a": 1}), store.get("score", {})) == (None, None)
    assert (len(store.entry(IDENTITY).missing(hashes([1]))), store.list_entries(), store.size()) == (1, [], 0)
    assert not (tmp_path / "new").exists()


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "memory":
        yield f"memory://{digest({'test': request.node.name, 'at': time.time()})}/store"
        return
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    server_of_moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    import boto3

    for key, value in {
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "*",
        "no_proxy": "*",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    server = server_of_moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket="shared")
    yield "s3://shared/some folder/store"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_store_on_object_storage(remote, tmp_path, monkeypatch):
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path / "here"))
    store = FeatureStore(remote)
    entry = store.remember({"s": 1}, IDENTITY, {"num_features": WIDTH})
    fill(entry, range(35))
    entry.set_head(np.ones((2, WIDTH)), np.zeros(2))
    store.put("score", {"a": 1}, {"value": 1.5})
    store.add_bad_images({"aa": "is truncated"})
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path / "on another machine"))
    other = FeatureStore(remote)
    found = other.resolve({"s": 1})
    assert found is not None
    assert found.missing(hashes(range(40))).tolist() == [35, 36, 37, 38, 39]
    order = list(range(34, -1, -1))
    assert np.array_equal(found.rows(hashes(order)), features(order))
    assert found.head() is not None
    assert (other.get("score", {"a": 1}), other.bad_images()) == ({"value": 1.5}, {"aa": "is truncated"})
    assert (other.verify().damaged, other.list_entries()[0].rows) == ((), 35)
    fill(found, range(35, 40))
    assert not len(entry.missing(hashes(range(40))))
    with other.lock("x"):
        pass
    assert other.prune(max_bytes=0).entries == (entry.key,)
    assert FeatureStore(remote).entry(IDENTITY).stored == 0


def test_a_damaged_copy_of_a_remote_chunk_is_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path))
    url = f"memory://{tmp_path.name}-copy/store"
    fill(FeatureStore(url).entry(IDENTITY), range(10))
    FeatureStore(url).entry(IDENTITY).rows(hashes(range(10)))
    (copy,) = tmp_path.rglob("0*.safetensors")
    flip(copy, -65)
    entry = FeatureStore(url).entry(IDENTITY)
    assert np.array_equal(entry.rows(hashes(range(10))), features(range(10)))


def flip(path: Path, position: int) -> None:
    """Turn one bit over."""
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def truncate(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "magic": lambda p: flip(p, 0),
    "length of the header": lambda p: flip(p, 9),
    "header": lambda p: flip(p, 60),
    "index": lambda p: flip(p, p.stat().st_size - 64 * WIDTH - 100),
    "rows": lambda p: flip(p, -65),
    "empty": lambda p: truncate(p, 0),
    "cut in the header": lambda p: truncate(p, 0.05),
    "cut in the rows": lambda p: truncate(p, 0.9),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_chunk_is_removed_and_its_rows_are_missing(store, kind, caplog):
    fill(store.entry(IDENTITY), range(48), chunk=16)
    DAMAGE[kind](chunk_files(store)[1])
    entry = FeatureStore(store.root).entry(IDENTITY)
    lost: list[int] = []
    with caplog.at_level(logging.WARNING):
        try:
            entry.rows(hashes(range(48)))
        except RowsMissing as error:
            lost = error.indices.tolist()
    assert lost == list(range(16, 32))
    assert entry.missing(hashes(range(48))).tolist() == lost
    assert "is damaged" in caplog.text
    assert "it is removed" in caplog.text
    fill(entry, lost)
    assert np.array_equal(entry.rows(hashes(range(48))), features(range(48)))


def test_every_flipped_bit_of_a_chunk_is_found_or_harmless(tmp_path):
    """Padding between the arrays may change; anything else is noticed."""
    rng = random.Random(0)
    fill(FeatureStore(tmp_path / "s").entry(IDENTITY), range(16), chunk=16)
    (path,) = (tmp_path / "s").rglob("0*.safetensors")
    whole = path.read_bytes()
    noticed = 0
    for _ in range(60):
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
        entry = FeatureStore(tmp_path / "s").entry(IDENTITY)
        try:
            assert np.array_equal(entry.rows(hashes(range(16))), features(range(16)))
        except RowsMissing:
            noticed += 1
    assert noticed > 50


@pytest.mark.parametrize("damage", [lambda p: flip(p, 40), lambda p: truncate(p, 0.5), lambda p: truncate(p, 0)])
def test_damaged_documents_count_as_absent(store, damage, caplog):
    entry = store.remember({"s": 1}, IDENTITY, {"num_features": WIDTH})
    fill(entry, range(3))
    entry.set_head(np.ones((2, WIDTH)), np.zeros(2))
    store.put("score", {"a": 1}, {"value": 1.5})
    for path in [*Path(store.root).rglob("*.json"), *Path(store.root).rglob("head.*")]:
        damage(path)
    again = FeatureStore(store.root)
    assert (again.resolve({"s": 1}), again.get("score", {"a": 1})) == (None, None)
    assert again.entry(IDENTITY).head() is None
    assert np.array_equal(again.entry(IDENTITY).rows(hashes(range(3))), features(range(3)))
    assert "is damaged" in caplog.text
    assert again.remember({"s": 1}, IDENTITY, {"num_features": WIDTH}).num_features == WIDTH


def test_verify_lists_and_removes(store):
    fill(store.remember({"s": 1}, IDENTITY, {}), range(30))
    store.put("score", {"a": 1}, {"value": 1.5})
    assert store.verify().damaged == ()
    (score,) = (Path(store.root) / "results").rglob("*.json")
    flip(score, 30)
    flip(chunk_files(store)[0], -65)
    found = store.verify()
    assert len(found.damaged) == 2
    assert any(name.startswith("results/score/") for name in found.damaged)
    assert store.verify().damaged == ()
    assert store.entry(IDENTITY).missing(hashes(range(30))).tolist() == list(range(10))


# ---------------------------------------------------------------------------- kills and company

WRITER = """
import sys
sys.path.insert(0, sys.argv[4])
from selector.store import FeatureStore
from tests.support.stored import IDENTITY, features, hashes
store = FeatureStore(sys.argv[1])
total, chunk = int(sys.argv[2]), int(sys.argv[3])
entry = store.remember({"s": 1}, IDENTITY, {"num_features": 8})
print("ready", flush=True)
while True:
    missing = entry.missing(hashes(range(total))).tolist()
    if not missing:
        break
    entry.append(hashes(missing[:chunk]), features(missing[:chunk]))
    if len(missing) % 40 < chunk:
        there = [n for n in range(total) if n not in set(entry.missing(hashes(range(total))).tolist())]
        assert (entry.rows(hashes(there)) == features(there)).all()
"""


def writer(root: str, total: int, chunk: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, root, str(total), str(chunk), TOP],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ends_well(writers: list[subprocess.Popen[str]], store: FeatureStore, total: int) -> None:
    for process in writers:
        assert process.wait(timeout=120) == 0, process.stderr and process.stderr.read()
    entry = FeatureStore(store.root).entry(IDENTITY)
    assert np.array_equal(entry.rows(hashes(range(total))), features(range(total)))


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_writer_that_is_killed_damages_nothing(store, kills):
    rng = random.Random(0)
    total = 200
    for _ in range(kills):
        process = writer(store.root, total, chunk=3)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        fresh = FeatureStore(store.root)
        assert fresh.verify().damaged == ()
        entry = fresh.entry(IDENTITY)
        missing = set(entry.missing(hashes(range(total))).tolist())
        there = [n for n in range(total) if n not in missing]
        assert np.array_equal(entry.rows(hashes(there)), features(there) if there else np.empty((0, WIDTH)))
        if not missing:
            fresh.prune(max_bytes=0)  # start over
    ends_well([writer(store.root, total, chunk=3)], store, total)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_append_and_merge_at_once(store, count):
    ends_well([writer(store.root, 120, chunk=2 + i) for i in range(count)], store, 120)
    assert FeatureStore(store.root).verify().damaged == ()


LOCKER = """
import sys, time
from pathlib import Path
from selector.store import FeatureStore
with FeatureStore(sys.argv[1]).lock("work"):
    log = Path(sys.argv[2])
    with log.open("a") as file: file.write("in\\n")
    time.sleep(0.3)
    with log.open("a") as file: file.write("out\\n")
"""


def test_a_lock_lets_one_process_in_at_a_time(store, tmp_path):
    command = [sys.executable, "-c", LOCKER, store.root, str(tmp_path / "log")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [p.wait(timeout=60) for p in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 3


def test_a_lock_goes_with_its_process(store, tmp_path):
    code = LOCKER.replace("0.3", "60")
    holder = subprocess.Popen([sys.executable, "-c", code, store.root, str(tmp_path / "log")])
    while not (tmp_path / "log").exists():
        time.sleep(0.02)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with store.lock("work"):
        pass


def test_a_full_disk_is_said_and_nothing_is_damaged(small_disk):
    store = FeatureStore(small_disk / "store")
    entry = store.remember({"s": 1}, IDENTITY, {"num_features": WIDTH})
    fill(entry, range(20))
    (small_disk / "ballast").write_bytes(b"x" * 200_000)
    many = range(100, 4000)  # more than is left
    with pytest.raises(StoreError, match=r"is full \(No space left on device; .* free\).*Nothing stored is damaged"):
        entry.append(hashes(many), np.zeros((len(many), WIDTH)))
    with pytest.raises(StoreError, match="is full"):
        store.put("score", {"n": 1}, {"value": [0.5] * 30_000})
    again = FeatureStore(store.root)
    assert not list(small_disk.rglob(".tmp-*"))
    assert np.array_equal(again.entry(IDENTITY).rows(hashes(range(20))), features(range(20)))
    assert again.resolve({"s": 1}) is not None
    assert again.verify().damaged == ()
    (small_disk / "ballast").unlink()
    fill(again.entry(IDENTITY), range(20, 40))
    assert np.array_equal(again.entry(IDENTITY).rows(hashes(range(40))), features(range(40)))


def test_a_file_size_limit_is_a_full_disk(store):
    pytest.importorskip("resource", reason="this system has no resource limits")
    code = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from selector.store import FeatureStore
from selector.core.errors import StoreError
from tests.support.stored import IDENTITY, fill, features, hashes
entry = FeatureStore(sys.argv[1]).entry(IDENTITY)
fill(entry, range(20))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    entry.append(hashes(range(100, 400)), features(range(100, 400)))
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, store.root, TOP], capture_output=True, text=True, check=True)
    assert "is full (File too large" in done.stdout
    assert "selector store prune" in done.stdout
    assert not list(Path(store.root).rglob(".tmp-*"))
    entry = store.entry(IDENTITY)
    assert entry.missing(hashes([*range(20), *range(100, 400)])).tolist() == list(range(20, 320))


def use_while_read_only(store: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    entry = store.resolve({"s": 1})
    assert entry is not None
    assert np.array_equal(entry.rows(hashes(range(30))), features(range(30)))
    fill(entry, range(30, 50))
    store.put("score", {"a": 2}, {"value": 2.5})
    store.remember({"s": 2}, {**IDENTITY, "weights": "new"}, {"num_features": 3})
    assert np.array_equal(entry.rows(hashes(range(50))), features(range(50)))
    assert (store.get("score", {"a": 2}), store.get("score", {"a": 1})) == ({"value": 2.5}, {"value": 1.5})
    assert store.resolve({"s": 2}) is not None
    with store.lock("x"):
        pass
    store.pixels_folder.mkdir(parents=True, exist_ok=True)
    (store.pixels_folder / "x").write_bytes(b"x")
    assert store.read_only
    assert caplog.text.count("is used for reading only") == 1


def filled(root: Path) -> list[Path]:
    store = FeatureStore(root)
    fill(store.remember({"s": 1}, IDENTITY, {"num_features": WIDTH}), range(30))
    store.put("score", {"a": 1}, {"value": 1.5})
    return sorted(root.rglob("*"))


def test_a_store_opened_for_reading_stays_as_it_is(tmp_path, caplog):
    before = filled(tmp_path / "store")
    times = [p.stat().st_mtime_ns for p in before]
    use_while_read_only(FeatureStore(tmp_path / "store", read_only=True), caplog)
    assert sorted((tmp_path / "store").rglob("*")) == before
    assert [p.stat().st_mtime_ns for p in before] == times


def test_a_disk_that_refuses_writing_is_used_for_reading(small_disk, caplog):
    before = filled(small_disk / "store")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    use_while_read_only(FeatureStore(small_disk / "store"), caplog)
    assert sorted((small_disk / "store").rglob("*")) == before


def test_damage_in_a_read_only_store_is_not_fatal(tmp_path):
    filled(tmp_path / "store")
    flip(sorted((tmp_path / "store").rglob("0*.safetensors"))[0], -65)
    entry = FeatureStore(tmp_path / "store", read_only=True).resolve({"s": 1})
    assert entry is not None
    with pytest.raises(RowsMissing):
        entry.rows(hashes(range(30)))
    fill(entry, range(10))
    assert np.array_equal(entry.rows(hashes(range(30))), features(range(30)))


def three_entries(store: FeatureStore) -> list[str]:
    keys = []
    for i in range(3):
        entry = store.remember({"s": i}, {**IDENTITY, "weights": i}, {"num_features": WIDTH})
        fill(entry, range(200), chunk=200)
        keys.append(entry.key)
    return keys


def test_pruning_takes_the_least_recently_used(store):
    keys = three_entries(store)
    assert [e.key for e in store.list_entries()] == keys
    FeatureStore(store.root).resolve({"s": 0})  # used again: the second is the oldest now
    pruned = store.prune(max_bytes=store.size() - 1)
    assert pruned.entries == (keys[1],)
    assert pruned.bytes > 200 * WIDTH * 4
    assert {e.key for e in store.list_entries()} == {keys[0], keys[2]}
    assert FeatureStore(store.root).resolve({"s": 1}) is None
    assert FeatureStore(store.root).entry({**IDENTITY, "weights": 0}).stored == 200


def test_the_order_of_use_survives_a_clock_set_back(store, monkeypatch):
    keys = three_entries(store)
    now = time.time()
    monkeypatch.setattr("selector.store.time.time", lambda: now - 10_000_000)
    FeatureStore(store.root).resolve({"s": 0})
    assert [e.key for e in store.list_entries()] == [keys[1], keys[2], keys[0]]
    assert store.prune(older_than=3600).entries == ()
    assert not len(FeatureStore(store.root).entry({**IDENTITY, "weights": 0}).missing(hashes(range(200))))


def test_a_store_that_cannot_be_written_is_not_pruned(tmp_path, monkeypatch):
    """It said how much it had removed, and nothing was."""
    before = filled(tmp_path / "store")
    told = r"^the store .*store cannot be pruned \(it was opened for reading only\): nothing in it can be removed"
    with pytest.raises(StoreError, match=told):
        FeatureStore(tmp_path / "store", read_only=True).prune(max_bytes=0)

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    store = FeatureStore(tmp_path / "store")
    monkeypatch.setattr(Path, "unlink", refused)
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(StoreError, match=r"cannot be pruned \(Read-only file system\)"):
        store.prune(max_bytes=0)
    monkeypatch.undo()
    assert sorted((tmp_path / "store").rglob("*")) == before


def test_a_full_store_is_pruned(small_disk):
    store = FeatureStore(small_disk / "store")
    three_entries(store)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(b"x" * free)
    assert len(store.prune(max_bytes=0).entries) == 3


def test_pruning_by_age(store, monkeypatch):
    keys = three_entries(store)
    now = time.time()
    monkeypatch.setattr("selector.store.time.time", lambda: now + 5 * 86_400)
    FeatureStore(store.root).resolve({"s": 2})
    assert set(store.prune(older_than=86_400).entries) == set(keys[:2])
    assert FeatureStore(store.root).entry({**IDENTITY, "weights": 2}).stored == 200


def test_a_cap_is_kept_while_writing_and_spares_what_is_in_use(store, caplog):
    old = three_entries(store)
    capped = FeatureStore(store.root, max_bytes=store.size())
    entry = capped.entry({**IDENTITY, "weights": "new"})
    fill(entry, range(200), chunk=200)
    assert old[0] not in {e.key for e in capped.list_entries()}
    assert {old[1], old[2], entry.key} <= {e.key for e in capped.list_entries()}
    tight = FeatureStore(store.root, max_bytes=1000)
    entry = tight.entry({**IDENTITY, "weights": "newest"})
    fill(entry, range(400), chunk=200)
    assert np.array_equal(entry.rows(hashes(range(400))), features(range(400)))
    assert caplog.text.count("everything in it is in use") == 1


def test_the_cap_from_the_environment(store, monkeypatch):
    monkeypatch.setenv("SELECTOR_STORE_MAX_SIZE", "20GB")
    assert FeatureStore(store.root).max_bytes == 20 * 10**9
    monkeypatch.setenv("SELECTOR_STORE_MAX_SIZE", "much")
    with pytest.raises(ConfigError, match="A size must be a number with a unit"):
        FeatureStore(store.root)


def test_pruning_clears_leftovers_and_pixels_first(store):
    three_entries(store)
    root = Path(store.root)
    (root / "pixels" / "224").mkdir(parents=True)
    (root / "pixels" / "224" / "a.pixels").write_bytes(b"x" * 5000)
    (store.compiled_folder / "openvino").mkdir(parents=True)
    (store.compiled_folder / "openvino" / "a.blob").write_bytes(b"x" * 5000)
    (root / "quarantine").mkdir()
    (root / "quarantine" / "x").write_bytes(b"x")
    stale, young = root / "entries" / ".tmp-1-aa", root / "entries" / ".tmp-2-bb"
    for path in (stale, young):
        path.write_bytes(b"half a chunk")
    os.utime(stale, (1, 1))
    assert store.prune(max_bytes=store.size() - 4000).entries == ()
    assert not (root / "pixels" / "224").exists()
    assert (root / "compiled" / "openvino" / "a.blob").exists()
    assert store.prune(max_bytes=store.size() - 4000).entries == ()
    assert not (root / "compiled" / "openvino" / "a.blob").exists()
    assert not (root / "quarantine").exists()
    assert not stale.exists()
    assert young.exists()  # its writer may be alive


def test_a_pruned_entry_can_be_filled_again(store):
    entry = store.remember({"s": 1}, IDENTITY, {"num_features": WIDTH})
    fill(entry, range(10))
    entry.rows(hashes(range(10)))
    FeatureStore(store.root).prune(max_bytes=0)
    assert len(entry.missing(hashes(range(10)))) == 10
    fill(entry, range(10))
    assert np.array_equal(entry.rows(hashes(range(10))), features(range(10)))


def of_the_earlier_format(arrays: dict[str, np.ndarray]) -> bytes:
    """A file of the format that came before: magic, length and checksum of a JSON header, arrays at multiples of 64."""
    described, body = [], b""
    for name, array in arrays.items():
        raw = array.tobytes()
        described.append(
            {
                "name": name,
                "dtype": array.dtype.str,
                "shape": list(array.shape),
                "offset": len(body),
                "checksum": xxhash.xxh3_64_hexdigest(raw),
            }
        )
        body += raw + bytes(-len(raw) % 64)
    header = json.dumps({"arrays": described}, sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-(20 + len(header)) % 64)
    return struct.pack("<8sIQ", b"SELROWS\x01", len(header), xxhash.xxh3_64_intdigest(header)) + header + body


def test_a_store_of_the_earlier_format_is_read_and_added_to(store):
    entry = store.remember({"s": 1}, IDENTITY, {"num_features": WIDTH})
    folder = Path(store.root) / "entries" / entry.key
    keys = np.frombuffer(bytes.fromhex("".join(hashes(range(20)))), "<u8").reshape(-1, 2)
    old = {"keys": keys, "rows": features(range(20)).astype("<f4")}
    (folder / f"00000001-{'a' * 32}.rows").write_bytes(of_the_earlier_format(old))
    head = {"weight": np.ones((3, WIDTH), "<f4"), "bias": np.zeros(3, "<f4")}
    (folder / "head.arrays").write_bytes(of_the_earlier_format(head))
    assert store.verify().damaged == ()
    again = FeatureStore(store.root).entry(IDENTITY)
    assert again.missing(hashes(range(25))).tolist() == [20, 21, 22, 23, 24]
    again.append(hashes(range(20, 25)), features(range(20, 25)))
    assert np.array_equal(again.rows(hashes(range(25))), features(range(25)))
    found = again.head()
    assert found is not None
    assert np.array_equal(found[0], head["weight"])
    assert store.verify().damaged == ()


def test_chunks_are_safetensors(store):
    from safetensors.numpy import load_file

    entry = store.entry(IDENTITY)
    fill(entry, range(10))
    found = load_file(chunk_files(store)[0])
    assert np.array_equal(found["rows"], features(range(10)))
    assert found["keys"].shape == (10, 2)
