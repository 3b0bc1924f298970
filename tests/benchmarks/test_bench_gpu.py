"""The checks for GPUs, on the processor: what needs none runs and passes here."""

import pytest

from benchmarks import bench_gpu
from benchmarks.rows import read_rows

FAST = (bench_gpu.out_of_memory, bench_gpu.resumption, bench_gpu.tf32)


@pytest.mark.parametrize(
    "checks", [pytest.param(bench_gpu.CHECKS, marks=pytest.mark.slow, id="all"), pytest.param(FAST, id="fast")]
)
def test_every_check_runs_without_a_gpu(checks, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_gpu, "CHECKS", checks)
    assert bench_gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "table.csv")]) == 0
    rows = {row["check"]: row["status"] for row in read_rows(tmp_path / "table.csv")}
    needs = {name for name, status in rows.items() if status == "needs a GPU"}
    assert needs == {"tf32", "peak_memory", "two_devices"} & set(rows)


def test_what_fails_is_listed(tmp_path, monkeypatch, capsys):
    def broken(bench: bench_gpu.Bench) -> dict[str, object]:
        raise AssertionError("features differ")

    monkeypatch.setattr(bench_gpu, "CHECKS", (broken, bench_gpu.tf32))
    assert bench_gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "table.csv")]) == 1
    assert capsys.readouterr().out.endswith("failed: broken\n")
    assert len(read_rows(tmp_path / "table.csv")) == 2
