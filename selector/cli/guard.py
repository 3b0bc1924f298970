"""From an error to a message and an exit code."""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import ParamSpec

import typer

from selector.core.errors import ConfigError, OptionError, SelectorError, unwritable
from selector.core.units import printable

P = ParamSpec("P")

FAILED, USAGE, SOME_FAILED, INTERRUPTED = 1, 2, 3, 130

_INTERRUPTED = "interrupted; the same command goes on where it stopped."


def guarded(command: Callable[P, int | None]) -> Callable[P, None]:
    """Run a command; print what went wrong on stderr and end with the exit code for it.

    The command returns its own exit code, or None for 0. Its keyword ``debug`` asks for the
    traceback and debug messages; with ``json`` an error is the one document on stdout as well.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        for name in ("stdout", "stderr"):  # in this order: they get the numbers that were closed
            if getattr(sys, name) is None:  # the caller closed it, and the run is wanted all the same
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        debug, as_json = bool(kwargs.get("debug")), bool(kwargs.get("json"))
        others = list(logging.getLogger().handlers)
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
        for handler in [own for own in logging.getLogger().handlers if own not in others]:
            handler.setFormatter(_Printable("%(levelname)s %(name)s: %(message)s" if debug else "%(message)s"))
        # our own limits say which image it was
        warnings.filterwarnings("ignore", "Image size .* exceeds limit of .* pixels", category=Warning)
        if debug:
            logging.getLogger("selector").setLevel(logging.DEBUG)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a file name need not be UTF-8, and must not cost the table
                stream.reconfigure(errors="backslashreplace")
        try:
            code = command(*args, **kwargs) or 0
        except SelectorError as error:
            message = error.spelled() if isinstance(error, OptionError) else str(error)
            if error.ranking is not None and not as_json:
                from selector.report.table import render_text

                typer.echo(render_text(error.ranking, limit=40))
            _tell(message, error, debug=debug, as_json=as_json)
            code = USAGE if isinstance(error, ConfigError) else FAILED
        except KeyboardInterrupt as error:
            _tell(_INTERRUPTED, error, debug=False, as_json=as_json)
            code = INTERRUPTED
        except SystemExit as error:  # of a network or a plugin: click's own end is another exception
            _tell(f"code of a model or a plugin called sys.exit({error.code!r})", error, debug=debug, as_json=as_json)
            code = FAILED
        except BrokenPipeError:  # the reader of the output (head, less) is satisfied
            sys.stderr.close()
            code = FAILED
        except OSError as error:
            hint = "" if debug else "; --debug shows where"
            _tell(unwritable(error) or f"unexpected {error}{hint}", error, debug=debug, as_json=as_json)
            code = FAILED
        except Exception as error:  # noqa: BLE001 - the last line of defense: nothing is hidden, only worded
            hint = "" if debug else "; --debug shows where"
            _tell(f"unexpected {type(error).__name__}: {error}{hint}", error, debug=debug, as_json=as_json)
            code = FAILED
        raise typer.Exit(code)

    return run


class _Printable(logging.Formatter):
    """Messages name what others called their models and files."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in super().format(record).splitlines())


def _tell(message: str, error: BaseException, *, debug: bool, as_json: bool) -> None:
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    typer.echo(f"error: {printable(message)}", err=True)
    if as_json:
        found = getattr(error, "ranking", None)
        told = {"error": {"type": type(error).__name__, "message": message}}
        typer.echo(json.dumps(told if found is None else {**told, "ranking": found.to_dict()}, default=str))
