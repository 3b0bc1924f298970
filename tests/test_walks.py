"""Three first days with the tool: photos on the command line, a notebook, texts. Each as a new user would go."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scan.test_text_scan import sentences
from tests.support.text_models import text_model

pytestmark = pytest.mark.slow
COMMON = ["--zoo", "zoo.yaml", "--top-k", 1, "--strategies", "frozen", "--budget", "2m"]
SCORED = ["--zoo", "zoo.yaml", "--no-confirm"]  # a budget is for fine-tuning
PHOTO_ZOO = """version: 1
models:
- {name: tiny-resnet, source: "timm:test_resnet", weights: none}
- {name: tiny-vit, source: "timm:test_vit", weights: none}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own: no store, no history, no hub."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.delenv("SELECTOR_HISTORY", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def selector(*words: object, stdin: str | None = None, code: int = 0) -> str:
    """One command, as it is typed; its stdout."""
    command = [sys.executable, "-m", "selector", *map(str, words)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_photos_as_a_folder_and_as_a_table_of_absolute_paths(photos: Path, home: Path) -> None:
    (home / "zoo.yaml").write_text(PHOTO_ZOO)
    assert "2 of 2 models usable" in selector("scan", photos, *COMMON, "--dry-run")
    told = json.loads(selector("scan", photos, *COMMON, "--out", "run", "--json"))
    assert told["models"][0]["measurements"]
    assert (home / "run" / "report.html").is_file()
    pictures = sorted(photos.rglob("*.png"))
    with (home / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([path.resolve(), path.parent.name] for path in pictures)
    again = json.loads(selector("scan", "labels.csv", *SCORED, "--out", "table", "--json"))
    first, second = ({m["name"]: m["transferability"] for m in document["models"]} for document in (told, again))
    assert first.keys() == second.keys()
    selector("predict", "run", *pictures[:3], "--out", "found.csv")
    found = list(csv.DictReader((home / "found.csv").open()))
    assert [row["item"] for row in found] == [str(path) for path in pictures[:3]]
    assert {row["label"] for row in found} <= {path.parent.name for path in pictures}


NOTEBOOK = [
    "import selector\nfrom PIL import Image\nfrom pathlib import Path",
    "images = [Image.open(path) for path in sorted(Path(PHOTOS).rglob('*.png'))]\n"
    "labels = [path.parent.name for path in sorted(Path(PHOTOS).rglob('*.png'))]",
    "ranking = selector.rank((images, labels), zoo='zoo.yaml', store='store', history=False)\nranking",
    "assert len(repr(ranking)) < 500, len(repr(ranking))\nassert list(ranking.to_dataframe(short=True).columns)",
    "confirmed = selector.confirm(ranking, target=(images, labels), top_k=1, strategies=('frozen',), max_steps=2,\n"
    "                             store='store', out='run', history=False)",
    "found = selector.load_model('run').predict(images[:2])\nassert found.labels[0] in set(labels)\nfound.to_dataframe()",
]


def test_a_notebook_runs_from_top_to_bottom(photos: Path, home: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    (home / "zoo.yaml").write_text(PHOTO_ZOO)
    cells = [nbformat.v4.new_code_cell(f"PHOTOS = {str(photos)!r}"), *map(nbformat.v4.new_code_cell, NOTEBOOK)]
    book = nbformat.v4.new_notebook(cells=cells)
    client.NotebookClient(
        book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(home)}}
    ).execute()
    shown = [output for output in book.cells[3].outputs if output.output_type == "execute_result"]
    assert "text/html" in shown[0].data
    errors = [o for cell in book.cells for o in cell.outputs if o.output_type == "error"]
    assert not errors


def test_texts_from_a_table_to_predictions_in_a_table(home: Path) -> None:
    models = [{"name": name, "source": f"transformers:{text_model(home / name, name)}"} for name in ("bert", "gpt2")]
    (home / "zoo.yaml").write_text(json.dumps({"version": 1, "models": models}))
    texts, labels = sentences(80)
    with (home / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("said", "topic"), *zip(texts, labels, strict=True)])
    columns = ["--text-column", "said", "--label-column", "topic"]
    selector("scan", "texts.csv", *columns, *COMMON, "--out", "run")
    selector("predict", "run", "texts.csv", "--text-column", "said", "--out", "found.csv")
    found = list(csv.DictReader((home / "found.csv").open()))
    assert [row["item"] for row in found] == list(texts)
    piped = selector("predict", "run", "-", "--csv", stdin="".join(f"{text}\n" for text in texts[:2]))
    assert [row["label"] for row in csv.DictReader(piped.splitlines())] == [row["label"] for row in found[:2]]
