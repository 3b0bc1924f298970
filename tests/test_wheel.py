"""The wheel holds what it needs and works in an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with the installed backend: nothing is fetched."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_holds_the_zoo_the_networks_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        zoo = archive.read("selector/zoo.yaml")
    assert zoo == (ROOT / "zoo.yaml").read_bytes()
    assert {"selector/networks.py", "selector/py.typed", "selector/sources/timm.py"} <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"selector", "zoo_selector"}
    assert not [name for name in names if name.endswith((".pth", ".safetensors", ".pyc"))]


def test_the_installed_wheel_runs_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True, text=True)
    code = """
import selector
from pathlib import Path
from selector.sources import registry
from selector.zoo import select, shipped_zoo_path
print(Path(selector.__file__).parent, shipped_zoo_path())
zoo = selector.load_zoo()
print(len(zoo.models), zoo.trusted)
model = select(zoo, "digits-usps")[0]
print(registry.get(model.source_name).load(model).num_features)
"""
    environment = os.environ | {"PYTHONPATH": str(target)}
    # before the editable installation of this checkout: the path comes first
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    where, counts, width = done.stdout.splitlines()
    assert where == f"{target / 'selector'} {target / 'selector' / 'zoo.yaml'}"
    assert counts.endswith("True")
    assert int(counts.split()[0]) > 40
    assert width == "128"
