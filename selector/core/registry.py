"""Name -> object: a room's folder is the list, one file each or a file a family; a file is imported on first use.

Listing the names therefore costs a directory listing and no import, which keeps the command line
fast, and adding an answer to a room means adding one file with one decorator.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from selector.core.errors import ConfigError, did_you_mean

T = TypeVar("T")
Registered = TypeVar("Registered")

_rooms: list[Registry[Any]] = []


def registered_rooms() -> list[Registry[object]]:
    """The registries of the package that were imported so far."""
    return [room for room in _rooms if room.package.startswith("selector.")]


class Registry(Generic[T]):
    """The named objects of one room.

    Args:
        package: dotted name of the room, e.g. ``"selector.proxies"``. Every module in it whose name does
            not start with ``_`` registers one object under its own name, with ``-`` for ``_``.
        kind: the word used in messages, e.g. ``"proxy"``.
        folders: packages of the room register an object as well; without it they are what its modules share.
        families: modules of the room that register several objects, with the names of these.
    """

    def __init__(
        self, package: str, kind: str, *, folders: bool = False, families: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.package = package
        self.kind = kind
        self.folders = folders
        self._modules = {name: module for module, names in (families or {}).items() for name in names}
        self._objects: dict[str, T] = {}
        _rooms.append(self)

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Decorator that files a class, function or object under ``name``.

        A name is taken once; registering another object under it raises ``ConfigError``, and
        the same definition met twice (a module that is reloaded) replaces itself.
        """

        def decorate(obj: Registered) -> Registered:
            old = self._objects.get(name)
            if old is not None and _origin(old) != _origin(obj):
                raise ConfigError(
                    f"{self.kind} '{name}' is already registered by {_origin(old)}; "
                    f"choose another name for {_origin(obj)}."
                )
            self._objects[name] = obj  # type: ignore[assignment]
            return obj

        return decorate

    def instance(self, name: str) -> Callable[[type], type]:
        """Class decorator: files one instance of the class under ``name``."""

        def decorate(cls: type) -> type:
            self.register(name)(cls())
            return cls

        return decorate

    def names(self) -> list[str]:
        """All names, sorted, without importing anything but the room itself."""
        room = importlib.import_module(self.package)
        files = _files(tuple(getattr(room, "__path__", ())), self.folders) - {
            m.replace("_", "-") for m in self._modules.values()
        }
        return sorted(files | set(self._modules) | set(self._objects))

    def get(self, name: str) -> T:
        """The object called ``name``; ``ConfigError`` names the nearest known one otherwise."""
        if name not in self._objects:
            if name not in self.names():
                raise ConfigError(
                    f"unknown {self.kind} '{name}'{did_you_mean(name, self.names()) or '.'} Known: {', '.join(self.names())}."
                )
            importlib.import_module(f"{self.package}.{self._modules.get(name, name.replace('-', '_'))}")
        return self._objects[name]

    def loaded(self) -> dict[str, T]:
        """What was registered so far, by name: nothing is imported for it."""
        return dict(self._objects)

    def __contains__(self, name: object) -> bool:
        return name in self._objects or name in self.names()


@functools.cache
def _files(places: tuple[str, ...], folders: bool) -> frozenset[str]:
    return frozenset(
        module.name.replace("_", "-")
        for module in pkgutil.iter_modules(places)
        if not module.name.startswith("_") and (folders or not module.ispkg)
    )


def _origin(obj: object) -> str:
    module = getattr(obj, "__module__", type(obj).__module__)
    return f"{module}.{getattr(obj, '__qualname__', type(obj).__qualname__)}"
