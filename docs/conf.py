"""The site: Sphinx with MyST; the reference is generated from the package before each build (``_tools/reference.py``)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from _tools import reference  # noqa: E402

from selector.core.version import __version__  # noqa: E402

project = "selector"
author = "the authors of selector"
copyright = author
version = release = __version__

extensions = [
    "myst_nb",  # Markdown and notebooks; the outputs are those that are stored in the notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.typer",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = [
    "_build",
    "_tools",
    *(p.name for p in HERE.glob("*.md") if p.stem not in ("index", "installation", "citing", "changelog")),
]
nb_execution_mode = "off"  # tests/docs executes them
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline", "dollarmath"]
myst_heading_anchors = 3
smartquotes = False
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

autodoc_typehints = "none"  # types are in the signature; each parameter has its entry
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Cost", "notes_style"), ("Source", "notes_style")]
nitpick_ignore_regex = [("py:.*", ".*")]  # signatures name types of other libraries, and no network is used in a build

html_theme = "furo"
html_title = f"selector {release}"
html_static_path = ["_static"]
html_css_files = ["selector.css"]
html_extra_path = ["../llms.txt"]
html_baseurl = "https://zoo-selector.github.io/zoo-selector/"
html_theme_options = {
    "source_repository": "https://github.com/zoo-selector/zoo-selector/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True


def literal_asterisks(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Wildcards in docstrings, such as 'resnet*', are no emphasis."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        lines[number] = "".join(
            part if part.startswith("``") else re.sub(r"(?<![*\\])\*(?!\*)", r"\\*", part) for part in parts
        )


def setup(app: Any) -> None:
    """Write the generated pages before Sphinx looks for sources."""
    reference.write(HERE)
    app.connect("autodoc-process-docstring", literal_asterisks)
