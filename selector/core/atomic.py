"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = ".tmp-"
"""How names of files that are being written begin; the store sweeps those that a kill left behind."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A free name in the folder of ``path``; the file written there takes its place when the block ends well.

    Whatever ends it otherwise (an interrupt, a full disk) leaves ``path`` as it was and nothing beside it.

    Raises:
        OSError: it cannot be written, or is a device; ``filename`` is ``path``.
    """
    if path.exists() and not path.is_file():  # the rename would put a file where a device or a pipe was
        raise OSError(errno.EPERM, "it is no regular file", str(path))
    # a suffix of its own: no reader takes it for a finished file, and torch names its archive by what stands before it
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex}.part")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # of what was to be written, not of the free name
            error.filename, error.filename2 = str(path), None
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with replacing(path) as temporary, temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
