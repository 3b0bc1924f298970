"""The floors in pyproject.toml: they can be installed together, and the fast tests pass with them.

uv resolves every direct dependency to the lowest version that is allowed. Installing them fetches several hundred
megabytes, so this is a slow test; the torch of the CPU is taken, which is the smallest.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
EXTRAS = ("demo", "text", "elmo", "onnx", "heic", "jxl", "datasets", "lora", "openvino")
ROOMS = ("core", "data", "modalities", "sources", "fuzz", "extract", "deploy")

SAFE = {
    "torch": "2.10",  # CVE-2026-24747
    "timm": "1.0.26",  # checkpoints are loaded with weights_only
    "transformers": "5.3",  # CVE-2026-4372
    "pillow": "12.1.1",  # CVE-2026-25990
    "onnx": "1.21",  # CVE-2026-27489
    "sentencepiece": "0.2.1",  # CVE-2026-1260
    "pillow-heif": "1.3",  # CVE-2026-28231
    "ray": "2.59",  # asks for a token by default
    "pyarrow": "14.0.1",  # CVE-2023-47248
    "pyyaml": "5.4",  # CVE-2020-14343
}


def floors() -> dict[str, Version]:
    """Lowest version that pyproject.toml allows, by distribution."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    found: dict[str, Version] = {}
    for requirement in map(Requirement, every):
        for bound in requirement.specifier:
            if bound.operator in (">=", "=="):
                found[requirement.name.lower()] = Version(bound.version)
    return found


@pytest.mark.parametrize("name", SAFE)
def test_no_version_that_runs_code_from_data_is_allowed(name: str) -> None:
    assert floors()[name] >= Version(SAFE[name])


def uv(*arguments: str, folder: Path) -> str:
    program = shutil.which("uv") or pytest.skip("uv is not installed")
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and "--torch-backend" in arguments and "download.pytorch.org" in done.stderr:
        at = arguments.index("--torch-backend")  # out of reach: PyPI's, which is larger
        return uv(*arguments[:at], *arguments[at + 2 :], folder=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_floors_go_together(tmp_path: Path) -> None:
    extras = [part for extra in EXTRAS for part in ("--extra", extra)]
    out = uv("pip", "compile", "--resolution", "lowest-direct", str(ROOT / "pyproject.toml"), *extras, folder=tmp_path)
    resolved = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", out, re.MULTILINE))
    assert {name: resolved[name] for name in ("torch", "timm", "transformers")}.keys() <= SAFE.keys()
    for name in SAFE.keys() & resolved.keys():
        assert Version(resolved[name]) == floors()[name]


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_fast_tests_pass_with_the_lowest_versions(tmp_path: Path) -> None:
    python = str(tmp_path / "venv" / "bin" / "python")
    uv("venv", "--python", f"{sys.version_info[0]}.{sys.version_info[1]}", "venv", folder=tmp_path)
    wanted = f"{ROOT}[{','.join(EXTRAS)}]"
    install = ("pip", "install", "--python", python, "--resolution", "lowest-direct", "--torch-backend", "cpu", wanted)
    uv(*install, folder=tmp_path)
    tools = [
        "pytest>=8", "pytest-timeout", "hypothesis", "packaging", "pycocotools", "seqeval", "torchmetrics", "nbformat",
        "nbclient", "ipykernel",
    ]  # fmt: skip
    uv("pip", "install", "--python", python, *tools, folder=tmp_path)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-x", *(f"tests/{room}" for room in ROOMS)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
