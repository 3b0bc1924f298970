"""What a notebook shows of a long job."""

import nbformat
from nbclient import NotebookClient

CELL = """
from selector.core.contracts import Progress
from selector.core import progress
progress.NOTEBOOK_SECONDS = 0
with progress.listening(None) as tell:
    for model in range(40):
        for done in range(3):
            tell(Progress("extract", done, 2, "images", f"model-{model}"))
"""


def test_a_notebook_keeps_one_line_of_many_stages() -> None:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    (shown,) = book.cells[0].outputs
    assert shown["data"]["text/plain"].startswith("took ")
