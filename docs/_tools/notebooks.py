"""Run the tutorials and store their outputs: ``python -m _tools.notebooks [NAME ...]`` from docs/."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

TUTORIALS = Path(__file__).parents[1] / "tutorials"


def main(names: Sequence[str]) -> int:
    """Execute each in an empty folder with a store of its own."""
    import nbformat
    from nbclient import NotebookClient

    for path in sorted(TUTORIALS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            os.environ |= {
                "SELECTOR_STORE": f"{folder}/store",
                "SELECTOR_HISTORY": f"{folder}/history.db",
                "HF_HUB_OFFLINE": "1",
            }
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            if cell.cell_type == "code":
                cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        nbformat.write(notebook, path)
        sys.stdout.write(f"{path.name}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
