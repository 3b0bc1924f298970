"""Weights as data: what they are called by (content), and how a file becomes a state dict.

Nothing here imports torch before a file is read, so a scan that is answered from the store can
ask for identities cheaply.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import struct
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from selector.core.atomic import cache_folder, read_memory, write_memory
from selector.core.errors import SourceError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from selector.zoo import ModelSpec

RANDOM_START = "random:0"
"""Identity of ``weights: none``: the seed is part of it, so it never changes."""

_SETTLED_NS = 2 * 10**9  # a file changed within its time stamp's resolution could change again unseen


def offline() -> bool:
    """Whether fetching is switched off (``HF_HUB_OFFLINE``, which ``--offline`` sets too)."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def versions(*distributions: str) -> dict[str, str]:
    """Public versions of installed distributions: ``2.13.0`` for ``2.13.0+cpu``.

    The build after the plus sign says which device was compiled in, not what is computed.
    """
    return {name: _version(name) for name in distributions}


@functools.cache
def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution).partition("+")[0]


def content_hash(path: Path) -> str:
    """``xxh128:`` and the hash of the file's bytes, remembered by (path, size, mtime, inode)."""
    stat = path.stat()
    place = str(path.resolve())
    facts = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    file = cache_folder() / "weights-hashes.json"
    known = read_memory(file).get(place)
    if isinstance(known, dict) and known.get("facts") == facts:
        return str(known["hash"])
    hasher = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            hasher.update(chunk)
    digest = f"xxh128:{hasher.hexdigest()}"
    if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
        write_memory(file, {**read_memory(file), place: {"facts": facts, "hash": digest}})
    return digest


def identity_at(identity: Mapping[str, object], spec: ModelSpec) -> dict[str, object]:
    """The identity of a network that is read elsewhere: at the layer and with the pooling of ``spec``."""
    place = {key: value for key, value in (("layer", spec.layer), ("pooling", spec.pooling)) if value is not None}
    return {key: value for key, value in identity.items() if key not in ("layer", "pooling")} | place


def settings_identity(spec: ModelSpec) -> dict[str, object]:
    """The part of an identity that every source writes alike: kwargs, pooling, layer, overrides."""
    text = None if spec.text is None else spec.text.model_dump(mode="json", exclude_none=True, exclude={"tokenizer"})
    settings: dict[str, object] = {
        "kwargs": spec.kwargs,
        "pooling": spec.pooling,
        "layer": spec.layer,
        "text": text or None,
        "preprocess": spec.preprocess.model_dump(mode="json", exclude_none=True),
    }
    if spec.weights is not None and spec.weights != "none":
        settings["mapping"] = spec.weights.mapping
    return {key: value for key, value in settings.items() if value not in (None, {})}


def refused(path: Path, error: BaseException) -> SourceError:
    """A weights file that holds more than tensors."""
    return SourceError(
        f"weights file {path} is not plain tensors, and running code from a weights file is refused; "
        f"save it as safetensors, or as torch.save(model.state_dict()). ({first_line(error)})"
    )


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by key, from safetensors or a torch file read with ``weights_only=True``.

    Checkpoints that keep their weights one level down (``state_dict``, ``model``, and the
    exponential averages beside them) are unwrapped, and the prefix ``module.`` is dropped.

    Raises:
        SourceError: the file is damaged, holds more than tensors, or holds no weights.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        loaded: object = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise refused(path, error) from None
    except (
        *(SafetensorError, RuntimeError, OSError, EOFError, ValueError, TypeError, AttributeError, AssertionError),
        *(LookupError, ArithmeticError, MemoryError, struct.error),  # each was met on a changed file
    ) as error:
        raise SourceError(
            f"weights file {path} cannot be read, it is damaged or in another format: {first_line(error)}"
        ) from None
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    state = {k: v for k, v in loaded.items() if isinstance(v, torch.Tensor)} if isinstance(loaded, dict) else {}
    if not state:
        raise SourceError(f"weights file {path} holds no tensors by name; expected a state dict.")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def load_into(module: nn.Module, state: Mapping[str, torch.Tensor], mapping: str, where: str, optional: str) -> bool:
    """Copy a state dict into a network, strictly.

    Args:
        module: changed in place.
        state: tensors by key.
        mapping: ``by_name``, or ``by_position`` for files whose keys have other names in the
            same order; shapes must fit in both.
        where: the file, for messages.
        optional: dotted name of the classifier, whose keys may be absent; empty for none.
    Returns:
        Whether the classifier's weights were in the file.
    Raises:
        SourceError: keys or shapes that do not fit, named.
    """
    own = module.state_dict()
    head = {key for key in own if optional and key.startswith(f"{optional}.")}
    if mapping == "by_position":
        wanted = list(own) if len(state) == len(own) else [key for key in own if key not in head]
        if len(state) != len(wanted):
            raise SourceError(
                f"{where}: holds {len(state)} tensors, the network has {len(own)}; "
                "by position they must be equally many. Is it the right architecture?"
            )
        state = dict(zip(wanted, state.values(), strict=True))
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # absent from older files, never read here
    missing = [key for key in own if key not in state and key not in head | counters]
    unexpected = [key for key in state if key not in own]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or unexpected or wrong:
        found = [
            f"{len(keys)} {word} ({_some(keys)})"
            for word, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
            if keys
        ]
        shapes = [f"; {k}: expected {tuple(own[k].shape)}, found {tuple(state[k].shape)}" for k in wrong[:1]]
        raise SourceError(
            f"{where}: the weights do not fit the network: {', '.join(found)}{''.join(shapes)}. "
            "Check the architecture and its kwargs"
            + (", or say 'mapping: by_position' if only the names differ." if mapping == "by_name" else ".")
        )
    for key in own:
        if key in state and (problem := _misfit(own[key].dtype, state[key].dtype)):
            raise SourceError(f"{where}: {key} is {problem}; save the weights as floating-point numbers.")
    with_head = head <= set(state)
    own.update(state)  # into the network's own: it keeps the versions that some layers ask for
    module.load_state_dict(own)
    return with_head


def _misfit(own: torch.dtype, found: torch.dtype) -> str:
    """Why values of one type cannot stand for those of another without a word; empty where they can."""
    import torch

    name = str(found).removeprefix("torch.")
    if own.is_floating_point and found.is_complex:
        return f"{name}, whose imaginary part would be lost"
    if own.is_floating_point and (not found.is_floating_point or torch.finfo(found).bits < 16):
        return f"{name}, as quantized weights are, whose scale is not applied"
    if not own.is_floating_point and not own.is_complex and (found.is_floating_point or found.is_complex):
        return f"{name}, where the network has whole numbers"
    return ""


_WHOLE_ON_DISK = ("F64", "F32", "F16", "BF16", "I64", "BOOL")
"""Types of safetensors that hold weights as they are, or positions and counters."""


def refuse_quantized(path: Path, name: str) -> None:
    """Refuse weights that another library would cast without their scale, from the header of the file.

    Raises:
        SourceError: a tensor of 8 bits, or of another type that needs a scale or loses a part.
    """
    if path.suffix != ".safetensors":
        return  # read as tensors by ``read_state_dict``, and checked against the network
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            types = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError):
        return  # loading says what is wrong with the file
    for key, kind in types.items():
        if kind not in _WHOLE_ON_DISK:
            raise SourceError(
                f"{name}: {key} in {path} is {kind}, as quantized weights are, whose scale is not applied; take weights in "
                "floating point."
            )


def refuse_kwargs(name: str, kwargs: Mapping[str, object], reserved: Collection[str]) -> None:
    """Settings that would fetch or run something behind the zoo's back are not passed on.

    Called where a network is identified and again where it is built, whatever the settings come from: a zoo
    entry, the recipe of a saved model, the configuration of a repository.

    Raises:
        SourceError: a reserved key, or one that is no plain name.
    """
    for key in kwargs:
        if key in reserved or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", key):
            raise SourceError(f"{name}: kwargs.{key} is not passed on; say with 'weights' where the weights come from.")
    require_plain(name, kwargs, "kwargs")


_PLAIN = re.compile(r"(?:[\w +=-]|\.(?=\d))*")
"""No slash and no colon, as repositories and addresses have them, and no dot but in a number, as files have them."""


def is_plain(value: str) -> bool:
    """Whether a text is a plain word: it names no file, no address and no repository."""
    return len(value) <= 200 and _PLAIN.fullmatch(value) is not None


def require_plain(name: str, value: object, at: str) -> None:
    """Refuse settings of a network that name something elsewhere: a file, an address, a repository of the hub.

    Args:
        name: the model, for messages.
        value: plain JSON; mappings and lists are searched, keys included.
        at: where it stands, for messages.
    Raises:
        SourceError: a text that is more than a plain word.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            require_plain(name, key, f"a key of {at}")
            require_plain(name, part, f"{at}.{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            require_plain(name, part, f"{at}[{index}]")
    elif isinstance(value, str) and not is_plain(value):
        raise SourceError(
            f"{name}: {at} is {value[:80]!a}; settings of a network name no file, no address and no repository. Take it "
            "out, and say with 'weights' where the weights come from."
        )


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
