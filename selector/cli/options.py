"""Options that several commands share, and how their text becomes arguments."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from selector.core.errors import ConfigError

_SELECT, _CONFIRM, _MACHINE = "Which models", "Confirmation", "Machine and output"

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and debug messages.")]
Plugin = Annotated[
    list[str] | None,
    typer.Option(
        help="Import this module (or .py file) first: it may register proxies, sources, tasks. It runs code. Repeatable.",
        rich_help_panel=_SELECT,
    ),
]
ZooFile = Annotated[
    Path | None,
    typer.Option("--zoo", help="Zoo file; the shipped one when not given.", rich_help_panel=_SELECT),
]
TrustZoo = Annotated[
    bool,
    typer.Option("--trust-zoo", help="Let 'python:' entries of --zoo run code.", rich_help_panel=_SELECT),
]
Models = Annotated[
    str | None,
    typer.Option(help="Globs on names, comma-separated: 'resnet*,*lite*'.", rich_help_panel=_SELECT),
]
Tags = Annotated[
    str | None,
    typer.Option(help="Only models with one of these tags, comma-separated.", rich_help_panel=_SELECT),
]
Layers = Annotated[
    str | None,
    typer.Option(
        help="Layers whose features are compared, comma-separated: 'last,blocks.8'. Each is a row of its own.",
        rich_help_panel=_SELECT,
    ),
]
Pooling = Annotated[
    str | None,
    typer.Option(
        help="Poolings that are compared, comma-separated: own, avg, max, cls; of texts mean, cls, last, weighted, max; "
        "of tagged words first, mean. Each is a row of its own.",
        rich_help_panel=_SELECT,
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        "--text-column",
        help="Column of a table that holds the text; two, comma-separated, make pairs.",
        rich_help_panel=_SELECT,
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        help="Column of a table that holds the label; of a CoNLL file its number, -1 for the last.",
        rich_help_panel=_SELECT,
    ),
]
Proxies = Annotated[
    str | None,
    typer.Option(help="Proxies, comma-separated; 'selector proxies' lists them.", rich_help_panel=_SELECT),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=_MACHINE)]
Store = Annotated[
    str | None,
    typer.Option(
        help="Folder of the feature store; 'selector store path' shows the default.", rich_help_panel=_MACHINE
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Run folder; runs/NAME when not given.", rich_help_panel=_MACHINE),
]
Precision = Annotated[str, typer.Option(help="Of the extraction: auto, float32, bfloat16.", rich_help_panel=_MACHINE)]
Backend = Annotated[
    str, typer.Option(help="Of the extraction: auto, eager, compile, openvino.", rich_help_panel=_MACHINE)
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Use no network: only weights that are on this machine.", rich_help_panel=_MACHINE),
]
History = Annotated[
    bool,
    typer.Option(
        "--history/--no-history",
        help="Use what was measured before ('selector history list') and add to it.",
        rich_help_panel=_MACHINE,
    ),
]
_LIMITS = "What a model may cost"
MaxParams = Annotated[
    str | None, typer.Option("--max-params", help="Parameters at most: 30M.", rich_help_panel=_LIMITS)
]
MaxLatency = Annotated[
    str | None,
    typer.Option(
        "--max-latency", help="Time for a single image on this device at most: 20ms.", rich_help_panel=_LIMITS
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option("--max-memory", help="Memory at its peak for a single image at most: 4GB.", rich_help_panel=_LIMITS),
]
Licence = Annotated[
    str | None,
    typer.Option(help="'permissive', or licences by name or glob: 'mit,apache-2.0,bsd-*'.", rich_help_panel=_LIMITS),
]
Cost = Annotated[
    Literal["auto", "again", "off"],
    typer.Option(help="Measure what models cost: when not known yet, again, not at all.", rich_help_panel=_LIMITS),
]
Seed = Annotated[int, typer.Option(help="Of splits, subsamples and training.", rich_help_panel=_MACHINE)]
TopK = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        min=1,
        help="How many models to fine-tune; when not given three, or all of fewer.",
        rich_help_panel=_CONFIRM,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(help="Time for the confirmation: 90s, 20m, 3h.", rich_help_panel=_CONFIRM),
]
Strategies = Annotated[
    str,
    typer.Option(help="How models are adapted, comma-separated.", rich_help_panel=_CONFIRM),
]
Resolution = Annotated[
    int | None,
    typer.Option(
        min=16, help="Train at this image size instead of the model's own; marked as reduced.", rich_help_panel=_CONFIRM
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(help="Metric that decides; the task's own when not given.", rich_help_panel=_CONFIRM),
]
MaxSteps = Annotated[
    int | None,
    typer.Option(
        "--max-steps",
        min=1,
        help="Steps of a finalist's training, at most; trials before it are shorter.",
        rich_help_panel=_CONFIRM,
    ),
]


def words(text: str | None) -> list[str] | None:
    """The parts of a comma-separated option; None when it was not given."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def load_plugins(names: list[str] | None) -> None:
    """Import the modules named by ``--plugin``: dotted names (the working folder counts) or files.

    Raises:
        ConfigError: a module cannot be found.
    """
    for name in names or ():
        if name.endswith(".py"):
            _load_file(Path(name))
            continue
        folder = str(Path.cwd())
        sys.path.insert(0, folder)  # as python -m does
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise  # found, but something that it imports is missing: its own error says it better
            raise ConfigError(
                f"--plugin {name}: no such module here or in the installed packages; give a dotted name or a .py file."
            ) from None
        finally:
            sys.path.remove(folder)


def _load_file(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"--plugin {path}: there is no such file.")
    name = f"selector_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def go_offline(offline: bool) -> None:
    """Keep the hub client from trying: it reads these variables when it is first imported."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
