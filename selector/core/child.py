"""A child process: runs packed jobs that arrive on a pipe, one after another, until the pipe closes.

Started as ``python -m selector.core.child FD PARENT`` (``child_process.Child``). What a network prints goes to stderr;
answers go back on the pipe.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from selector.core import answers


def main(number: int, parent: int) -> None:
    """Serve jobs from the pipe with file descriptor ``number``."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    link = Connection(number)
    setup = link.recv()
    sys.path[:] = setup["path"]
    folder = setup["shared"]
    answers.worker(
        lambda progress: link.send(("progress", progress)),
        None if folder is None else lambda key: (Path(folder) / key).read_bytes(),
    )
    answers.import_plugins(setup["modules"])
    for name in setup["first"]:
        importlib.import_module(name)
    link.send(("ready",))
    while True:
        try:
            content = link.recv_bytes()
        except EOFError:
            return
        link.send_bytes(_sendable(answers.answered(content, setup["level"])))


def _sendable(answer: answers.Answer) -> bytes:
    """An answer as the pipe takes it; a result that cannot be pickled is the failure of its job, not of this process."""
    try:
        return pickle.dumps(("answer", answer))
    except Exception as error:  # noqa: BLE001  whatever the objects of a plugin raise
        reason = f"its result cannot be handed to another process: {type(error).__name__}: {error}"
        return pickle.dumps(("answer", answers.Answer("model", reason=reason)))


def _end_with(parent: int) -> None:
    """No network runs on when the scan that asked for it was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]))
    except KeyboardInterrupt:  # its parent was interrupted and says so
        sys.exit(130)
