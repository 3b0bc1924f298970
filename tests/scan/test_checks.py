"""A run goes on in its folder, whichever items of its target turn out to be unusable."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import selector
from selector.config import ScanConfig
from selector.core.contracts import Target
from selector.core.errors import OptionError
from selector.report.ranking import Ranking
from selector.scan.checks import default_run_folder, run_folder
from selector.scan.dataset_view import summarize, without_known_bad
from selector.store import FeatureStore
from tests.conftest import image_folder
from tests.report.samples import ranking as any_ranking
from tests.scan.samples import of_torch_alone

QUICK = of_torch_alone("crashes")
TRAINED = {"confirm": True, "strategies": ("frozen",), "top_k": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, one of which is cut off."""
    root = image_folder(tmp_path / "photos", per_class=12)
    broken = root / "across" / "003.png"
    broken.write_bytes(broken.read_bytes()[:60])
    return root


def test_a_scan_of_a_broken_image_is_repeated(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a named folder, into the usual one, and confirmed with a store that has never seen the broken image."""
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path / "run", None):
        runs = [selector.rank(folder, **QUICK, **TRAINED, store=tmp_path / "store", out=out) for _ in range(2)]
        assert [run.target["items"] for run in runs] == [35, 35]
        assert runs[0].path == runs[1].path
        assert all(run.confirmation for run in runs)
    again = selector.confirm(
        tmp_path / "run", target=folder, strategies=("frozen",), top_k=1, store=tmp_path / "new", trust_zoo=True
    )
    assert again.target["fingerprint"] == runs[0].target["fingerprint"]


def test_several_targets_with_a_broken_image_are_repeated(folder: Path, tmp_path: Path) -> None:
    other = image_folder(tmp_path / "others", per_class=12, classes=("across", "upright"))
    for _ in range(2):
        found = selector.rank([folder, other], **QUICK, **TRAINED, store=tmp_path / "store", out=tmp_path / "runs")
        assert all(isinstance(one, Ranking) for one in found)


def test_changed_data_do_not_replace_a_confirmed_run(folder: Path, tmp_path: Path) -> None:
    selector.rank(folder, **QUICK, **TRAINED, store=tmp_path / "store", out=tmp_path / "run")
    Image.new("RGB", (40, 40), "red").save(folder / "across" / "004.png")
    with pytest.raises(OptionError) as caught:
        selector.rank(folder, **QUICK, **TRAINED, store=tmp_path / "store", out=tmp_path / "run")
    assert "out" in caught.value.names


def _masks(root: Path) -> Path:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for i in range(12):
        mask = np.zeros((16, 16), np.uint8)
        mask[:, i % 8 :] = 1
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(root / "images" / f"{i}.png")
    return root


def _texts(root: Path) -> Path:
    rows = "".join(f"{'good' if i % 2 else 'bad'} text number {i},{i % 2}\n" for i in range(30))
    (root / "texts.csv").write_text("text,label\n" + rows + '"   ",1\n')
    return root / "texts.csv"


@pytest.mark.parametrize("kind", ["images", "masks", "texts"])
def test_the_folder_is_that_of_the_data_as_given(kind: str, folder: Path, tmp_path: Path) -> None:
    """Every task: what is left out afterwards changes neither the usual folder nor whose run lies there."""
    data = {"images": lambda: folder, "masks": lambda: _masks(tmp_path / "m"), "texts": lambda: _texts(tmp_path)}[
        kind
    ]()
    whole = selector.load_target(data)
    store = FeatureStore(tmp_path / "store")
    if kind != "texts":
        store.add_bad_images({whole.hashes[3]: "is truncated"})
    left: Target = without_known_bad(whole, store, "skip")
    assert len(left) == len(whole) - 1
    assert left.fingerprint != whole.fingerprint
    assert default_run_folder(left) == default_run_folder(whole)
    config = ScanConfig.of(out=tmp_path / "run")
    run: Any = replace(any_ranking(), target=summarize(left), confirmation={"status": "finished"})
    run.save(tmp_path / "run")
    assert run_folder(config, whole, confirming=True) == tmp_path / "run"
    assert run_folder(config, left, confirming=True) == tmp_path / "run"
    with pytest.raises(OptionError):
        run_folder(config, whole, confirming=False)
