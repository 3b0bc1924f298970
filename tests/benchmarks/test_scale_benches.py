"""What many models cost: sizes of files, and files that stay as they are."""

from benchmarks import bench_many_models
from benchmarks.rows import read_rows
from selector.extract.job import wanted_of
from selector.store import FeatureStore


def test_many_models_stay_within_their_sizes(tmp_path):
    """Bytes of 60 models: the aims for 1,500 are 3 MB of report and 5 MB of run.json."""
    assert bench_many_models.main(["--quick", "--out", str(tmp_path / "rows.csv")]) == 0
    found = {row["what"]: row for row in read_rows(tmp_path / "rows.csv")}
    assert int(found["known"]["bytes"]) / 60 < 5e6 / 1500
    assert int(found["report"]["bytes"]) - 75_000 < 60 * 2000  # beside style, script and figures


def test_a_known_scan_replaces_no_file_of_the_store(tmp_path):
    """To note the time of use by replacing a file took half of a scan of 1,500 models."""
    store = FeatureStore(tmp_path / "store")
    target, specs = bench_many_models.images(0), bench_many_models.models(3)
    bench_many_models.fill(store, target, specs, 0)
    before = {path: path.stat().st_ino for path in (tmp_path / "store" / "entries").rglob("used.json")}
    stamped = {path: path.stat().st_mtime for path in before}
    again = FeatureStore(tmp_path / "store")
    assert all(again.resolve(wanted_of(spec, "cpu", "float32", "eager")) is not None for spec in specs)
    assert len(before) == 3
    assert {path: path.stat().st_ino for path in before} == before
    assert all(path.stat().st_mtime > stamped[path] for path in before)
    used = [entry.used for entry in again.list_entries()]
    assert used == sorted(set(used))
