"""Options that several commands share, how their text becomes arguments, and what the shell completes in them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperGroup

from selector.cli.output import stdout_kept
from selector.core import units
from selector.core.errors import ConfigError, SelectorError, first_line

if TYPE_CHECKING:
    from selector.core.options import CallOptions, Option

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and debug messages.")]
Plugin = Annotated[
    list[str] | None,
    typer.Option(
        help="Import this module (or .py file) first: it may register proxies, sources, tasks. It runs code. Repeatable."
    ),
]


HELP_ALL = "--help-all"
_SHORT = 15  # options; a command with more shows the common ones, and the rest with --help-all


def with_fields(config: str, *only: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Give a command the fields of a configuration as options; its function takes them as ``**options``.

    The fields are read when the command runs, completes or shows its help (``LazyGroup``), so that
    ``selector --help`` waits for none of what they import.

    Args:
        config: name of a class in ``selector.config``.
        only: names of the fields; none for all.
    """

    def decorate(command: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **options: object) -> object:
            return command(*args, **options)

        functools.update_wrapper(run, command)
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        run.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        run.complete = functools.partial(_complete, command, own, config, only)  # type: ignore[attr-defined]
        return run

    return decorate


class LazyGroup(TyperGroup):
    """Makes the options of a command from the fields of its configuration when it is chosen, not when it is listed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of the arguments, with all its options."""
        name, command, rest = super().resolve_command(ctx, args)
        complete = getattr(command and command.callback, "complete", None)
        if command is None or complete is None:
            return name, command, rest
        short = HELP_ALL not in rest and bool({"--help", "-h"} & set(rest))
        rest = ["--help" if word == HELP_ALL else word for word in rest]
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(command.name, help=command.help, epilog=command.epilog)(complete(short))
        return name, typer.main.get_command(alone), rest


def _complete(
    command: Callable[..., object], own: list[inspect.Parameter], config: str, only: tuple[str, ...], short: bool
) -> Callable[..., object]:
    """The command with a signature that names every option; ``short`` hides those that few people need."""
    found, several = field_parameters(getattr(importlib.import_module("selector.config"), config), only, short=short)
    required = [p for p in own if p.default is p.empty]
    rest = [p for p in own if p.default is not p.empty]
    if len(found) > _SHORT:
        shown = typer.Option(HELP_ALL, help="Show all options and exit.")
        rest.append(
            inspect.Parameter(
                "help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, shown]
            )
        )

    def run(**values: Any) -> object:
        values.pop("help_all", None)  # it becomes --help before anything is parsed
        return command(**{name: words(value) if name in several else value for name, value in values.items()})

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*required, *found, *rest)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__doc__ = command.__doc__
    return run


def field_parameters(
    config: type[CallOptions], only: Sequence[str] = (), *, short: bool = False
) -> tuple[list[inspect.Parameter], set[str]]:
    """The fields as keyword parameters that typer reads, and the names of those that hold several words."""
    from selector.core.options import cli_default

    found: list[inspect.Parameter] = []
    several: set[str] = set()
    short = short and not only and len(config.model_fields) > _SHORT
    for name, about in config.options():
        field = config.model_fields[name]
        if not about.cli or (only and name not in only):
            continue
        kind, default = _cli_type(field.annotation, about), cli_default(field)
        if about.many:
            several.add(name)
            default = ",".join(default) if isinstance(default, list | tuple) else default
        spelled = f"--{name.replace('_', '-')}"
        least = next((m.ge for m in field.metadata if hasattr(m, "ge")), None)
        more: dict[str, Any] = {"autocompletion": _COMPLETIONS[about.complete]} if about.complete else {}
        made = typer.Option(
            f"{spelled}/--no-{spelled[2:]}" if default is True else spelled,
            help=field.description,
            rich_help_panel=about.panel,
            min=least,
            show_default=False,
            hidden=short and not about.common,
            **more,
        )
        found.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made])
        )
    return found, several


def _cli_type(annotation: object, about: Option) -> object:
    """What the command line reads for a field: a flag, a choice, a whole number, a path, else text."""
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    parts = [part for part in members if part is not type(None)]
    kind: Any = str
    if about.path:
        return Path | None
    if bool in parts:
        return bool
    if len(parts) == 1 and (parts[0] is int or get_origin(parts[0]) is Literal):
        kind = parts[0]
    return kind if len(parts) == len(members) else kind | None


def words(text: str | None) -> list[str] | None:
    """The parts of a comma-separated option; None when it was not given."""
    return None if text is None else units.words(text)


def load_plugins(names: list[str] | None) -> None:
    """Import the modules named by ``--plugin``: dotted names (the working folder counts) or files.

    Raises:
        ConfigError: a module cannot be found or imported.
    """
    from selector.run.executor import keeping_settings

    with stdout_kept(), keeping_settings():
        for name in names or ():
            try:
                _load_plugin(name)
            except SystemExit as error:
                raise ConfigError(
                    f"--plugin {name}: it called sys.exit({error.code!r}) when it was imported."
                ) from None
            except SelectorError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"--plugin {name}: it cannot be imported: {first_line(error)}; --debug shows where."
                ) from error


def _load_plugin(name: str) -> None:
    if name.endswith(".py"):
        _load_file(Path(name))
        return
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


def _proxies(incomplete: str) -> list[str]:
    """Names for ``--proxies``."""
    from selector.proxies import registry

    return _next(incomplete, registry.names())


def _tags(ctx: Any, incomplete: str) -> list[str]:
    """Tags of the zoo of this command line."""
    return _next(incomplete, (tag for model in _zoo(ctx) for tag in model.tags))


def _models(ctx: Any, incomplete: str) -> list[str]:
    """Names in the zoo of this command line."""
    return _next(incomplete, (model.name for model in _zoo(ctx)))


def _zoo(ctx: Any) -> Iterable[Any]:
    from selector.core.errors import SelectorError
    from selector.zoo import load_zoo

    try:
        return load_zoo(ctx.params.get("zoo")).models
    except SelectorError:
        return ()  # an error would land in the middle of the line that is being written


def _next(incomplete: str, known: Iterable[str]) -> list[str]:
    """The line's words with each that may follow.

    >>> _next("knn,lo", ["knn", "logme", "lda"])
    ['knn,logme']
    """
    done, comma, start = incomplete.rpartition(",")
    taken = {word.strip() for word in done.split(",")}
    return [f"{done}{comma}{word}" for word in sorted(set(known) - taken) if word.startswith(start.strip())]


_COMPLETIONS: dict[str, Callable[..., list[str]]] = {"proxies": _proxies, "tags": _tags, "models": _models}
