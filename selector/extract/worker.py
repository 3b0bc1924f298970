"""The child process of ``isolated``: runs jobs that arrive on a pipe, one after another, until the pipe closes.

Started as ``python -m selector.extract.worker FD PARENT``. What a network prints goes to stderr; results go back on
the pipe.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from selector.core.errors import BadImagesError, ConfigError, SelectorError, StoreError


def main(number: int, parent: int) -> None:
    """Serve jobs from the pipe with file descriptor ``number``."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    link = Connection(number)
    setup = link.recv()
    sys.path[:] = setup["path"]
    for name, file in setup["modules"]:
        _imported(name, file)
    import selector.extract.encode
    import selector.extract.job  # noqa: F401  what takes seconds counts for no network

    importlib.import_module("torch")
    link.send(("ready",))
    while True:
        try:
            job = link.recv()
        except EOFError:
            return
        try:
            answer: tuple[Any, ...] = ("result", _run(job, link))
        except BaseException as error:  # noqa: BLE001  a network that calls sys.exit is a failed network
            answer = ("error", *_described(error))
        link.send(answer)


def _run(job: Any, link: Connection) -> Any:
    from selector.extract.job import extract, workspace_of

    return extract(job, workspace_of(job, lambda progress: link.send(("progress", progress))))


def _described(error: BaseException) -> tuple[str, str, str, list[tuple[str, str]]]:
    """Kind, message, traceback and bad items: exceptions of other libraries need not survive a pipe."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, BadImagesError):
        return "bad", str(error), trace, error.bad
    kind = "store" if isinstance(error, StoreError) else "config" if isinstance(error, ConfigError) else "model"
    if isinstance(error, SystemExit):
        return kind, f"it called sys.exit({error.code!r})", trace, []
    text = str(error) or type(error).__name__
    return kind, text if isinstance(error, SelectorError) else f"{type(error).__name__}: {text}", trace, []


def _imported(name: str, file: str | None) -> None:
    """A plugin of the parent: by its name, or from its file."""
    if not name.startswith("selector_plugin_") or file is None:
        importlib.import_module(name)
        return
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _end_with(parent: int) -> None:
    """No network runs on when the scan that asked for it was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
