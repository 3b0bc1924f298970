"""Extraction with published networks, end to end on small stand-ins through the same code."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from scipy.stats import weightedtau

from benchmarks.reproduce import features, tables
from selector.sources import registry
from tests.conftest import image_folder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_table_of_networks_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_folder(tmp_path / "data" / "stripes", per_class=16)
    (tmp_path / "zoo.yaml").write_text(
        "version: 1\nmodels:\n"
        "- {name: sees, source: 'python:tests.support.networks:orientation'}\n"
        "- {name: blind, source: 'python:tests.support.networks:blind'}\n"
        "- {name: tiny, source: 'timm:test_resnet', weights: none}\n"
    )
    (tmp_path / "made.csv").write_text("model,stripes,elsewhere\nsees,90,80\nblind,30,40\ntiny,60,\n")
    words = ["table", "--table", "made.csv", "--zoo", "zoo.yaml", "--data", "data", "--out", "out", "--store", "store"]
    paths = {"made.csv", "zoo.yaml", "data", "out", "store"}
    words = [str(tmp_path / word) if word in paths else word for word in words]
    assert features.main([*words, "--proxies", "knn,leep", "--device", "cpu"]) == 0
    told = capsys.readouterr()
    assert "elsewhere: not in" in told.err
    found = {(row["model"], row["proxy"]): row for row in rows(tmp_path / "out" / "features_made.csv")}
    assert len(found) == 6
    order = ["sees", "blind", "tiny"]
    expected = weightedtau([float(found[m, "knn"]["value"]) for m in order], [90, 30, 60]).statistic
    assert f"| knn | {expected:.3f} | {expected:.3f} |" in told.out
    assert "not applicable" in found["sees", "leep"]["reason"]
    assert "| leep | – | – | – |" in told.out


def test_sfda_names_networks_that_torchvision_has_and_prints_beside_the_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study's own path on stand-in images; without weights every network is a failed row, named."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    image_folder(tmp_path / "data" / "dtd", per_class=6)
    words = ["sfda", "--data", str(tmp_path / "data"), "--out", str(tmp_path), "--store", str(tmp_path / "store")]
    assert features.main([*words, "--proxies", "logme", "--offline"]) == 0
    told = capsys.readouterr().out
    assert f"| logme | – ({tables.printed_taus('sfda_tau')['logme']['dtd']:.3f})" in told
    found = rows(tmp_path / "features_sfda.csv")
    assert len(found) == 11
    assert {row["model"] for row in found} == set(tables.accuracies("sfda_cnn_11x11").models)
    assert all("not on this machine" in row["reason"] for row in found)


def test_parc_reads_the_authors_checkpoints(tmp_path: Path) -> None:
    """A checkpoint as they write them: a DataParallel state dict with the head of the source's classes."""
    from torchvision import models

    network = models.resnet18(num_classes=10)
    (tmp_path / "resnet18").mkdir()
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "resnet18" / "resnet18_cifar10.pth")
    encoder = registry.get("torchvision").load(features.parc_spec("resnet18_cifar10", tmp_path))
    assert encoder.source_head[0].shape == (10, 512)
    assert torch.equal(encoder.module.conv1.weight, network.conv1.weight)
    assert features.parc_spec("alexnet_imagenet", tmp_path).source == "torchvision:alexnet.IMAGENET1K_V1"


def test_parc_table_is_four_architectures_by_eight_sources_without_self_transfer() -> None:
    accuracies = tables.parc_accuracies()
    names = {name for by_model in accuracies.values() for name in by_model}
    assert (len(accuracies), len(names), sum(map(len, accuracies.values()))) == (7, 32, 196)
    assert not any(name.partition("_")[2] == target for target, by_model in accuracies.items() for name in by_model)
    assert all(1 < value <= 100 for by_model in accuracies.values() for value in by_model.values())
    assert set(tables.parc_pearson()) <= set(features.PROXIES)


def test_a_folder_without_the_sets_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert features.main(["sfda", "--data", str(tmp_path)]) == 2
    assert "holds none of the datasets aircraft, caltech101" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        features.main(["parc", "--data", str(tmp_path)])
    assert "parc needs --weights" in capsys.readouterr().err
