"""Every error that the selector raises on purpose.

A message says where, what was expected, what was found and what to do. The classes only decide
what a caller does with it: a usage error ends the command with exit code 2, a failing model
becomes a row of the ranking, a proxy that does not apply becomes an empty cell with a reason.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from typing import Any


class SelectorError(Exception):
    """Base of all errors that are meant to be read by a person.

    Attributes:
        ranking: what a scan had found before it failed (a ``Ranking``): a table is not lost with what comes after it.
    """

    ranking: Any = None


class ConfigError(SelectorError):
    """A setting, an argument or a file written by the user is wrong (exit code 2)."""


class OptionError(ConfigError):
    """An option of a call is wrong.

    The message names options as Python does (``top_k``); ``spelled`` is the message with the names of the
    command line (``--top-k``).
    """

    def __init__(self, message: str, *names: str) -> None:
        super().__init__(message)
        self.names = names

    def spelled(self) -> str:
        """The message for someone who gave words to a command.

        >>> OptionError("top_k is 3, but top_k=2 is the most", "top_k").spelled()
        '--top-k is 3, but --top-k 2 is the most'
        >>> OptionError("name another folder, or say overwrite=True.", "overwrite").spelled()
        'name another folder, or say --overwrite.'
        """
        message = str(self)
        for name in self.names:
            there = rf"(?<![\w'-]){re.escape(name)}(?![\w'-])(=True|=|)"
            message = re.sub(there, lambda m, n=name: f"--{n.replace('_', '-')}{' ' if m[1] == '=' else ''}", message)  # type: ignore[misc]
        return message


class ZooError(ConfigError):
    """A zoo file or a selection of models from it is wrong."""


class TargetError(ConfigError):
    """The target dataset cannot be used as it is."""


class BadImagesError(TargetError):
    """Some images cannot be decoded; ``bad`` lists (item name, reason) for all of them."""

    def __init__(self, message: str, bad: list[tuple[str, str]]) -> None:
        super().__init__(message)
        self.bad = bad


class SourceError(SelectorError):
    """One model cannot be loaded or run. In a scan it is a row with a status, not the end."""


MALFORMED = (SourceError, OSError, ValueError, TypeError, LookupError, RuntimeError)
"""What looking a model up raises where its files or settings are not what they say: it costs the model's own row."""


class WeightsMissing(SourceError):
    """The weights of a model are not on this machine and may not or cannot be fetched."""


class OutOfMemory(SourceError):
    """A model does not fit into the memory of its device, even one item at a time."""


class ProxyError(SelectorError):
    """A proxy cannot give a value for these rows and labels."""


class NotApplicable(ProxyError):
    """The proxy is not defined here (label kind, missing source logits, too few rows)."""


class StoreError(SelectorError):
    """The feature store cannot be read or written (full disk, permissions)."""


class HistoryError(SelectorError):
    """The history of past results cannot be read or written; a run goes on without it."""


class TrainingError(SelectorError):
    """Fine-tuning a model failed; the reason becomes the row's status."""


class BudgetEnded(TrainingError):
    """There was no time left for it: nothing failed."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing when no known word is near.

    >>> did_you_mean("sorce", ["source", "weights"])
    "; did you mean 'source'?"
    >>> did_you_mean("zzz", ["source"])
    ''
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def first_line(error: BaseException) -> str:
    """Type and first line of an error of another library, for a message of one's own.

    >>> first_line(ValueError("too long\\nand more"))
    'ValueError: too long'
    """
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"


def unwritable(error: OSError) -> str | None:
    """What to say of a file that could not be written; None where an error of the system is about something else.

    >>> unwritable(OSError(28, "No space left on device", "runs/photos/run.json"))
    'runs/photos/run.json cannot be written (No space left on device); free some space or name another folder (--out), and run the same command again: what was worked out is in the feature store.'
    >>> unwritable(OSError(2, "No such file or directory", "x"))
    """
    if error.errno not in (
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG,
        errno.ENOTDIR, errno.EISDIR,
    ):  # fmt: skip
        return None
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    what = "standard output or a file" if error.filename is None else os.fsdecode(error.filename)
    return (
        f"{what} cannot be written ({error.strerror}); {'free some space or ' if full else ''}name another folder (--out), "
        "and run the same command again: what was worked out is in the feature store."
    )
