"""Workers of a fleet as tasks of Ray, on this machine or on a cluster."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

from selector.core import answers
from selector.core.answers import Answer, Module, packed
from selector.core.contracts import no_progress
from selector.core.engine import Needs, Shared, failure_of
from selector.core.errors import OptionError
from selector.core.processes import CORES

log = logging.getLogger(__name__)

_WAITING = 2  # jobs handed over for every one that can run, so that no worker waits for the driver
_LEAST_SHARE = 0.125  # of a GPU
_OFFLINE = "HF_HUB_OFFLINE"
_WORKING = 2 * 2**30  # bytes on a GPU beside the weights: the libraries' own, and activations of a batch


class RayWorkers:
    """Tasks of Ray, one a job.

    Args:
        address: ``auto`` or ``HOST:PORT``; None for ``RAY_ADDRESS``, or a cluster of this machine for this run.
        workers: how many jobs at once; None for what the cluster has room for.
        on_gpu: whether jobs take GPUs where the cluster has some.
        modules: plugins that workers import: by their names, which every node must know.

    Raises:
        OptionError: Ray is not installed, or there is no such cluster.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        on_gpu: bool = True,
        modules: Sequence[Module] = (),
    ) -> None:
        try:
            import ray
        except ImportError:
            raise OptionError(
                "engine 'ray' needs the package ray, which is not installed; pip install 'zoo-selector[ray]', or use "
                "engine='processes'.",
                "engine",
            ) from None
        self._ray: Any = ray  # its own annotations are partial
        self._own = not ray.is_initialized()  # a caller's own connection stays as it is
        self._terminate: Any = None
        if self._own:
            self._terminate = _connect(self._ray, address)
        resources = self._ray.cluster_resources()
        self._gpus = resources.get("GPU", 0.0) if on_gpu else 0.0
        self._cpus = max(1.0, resources.get("CPU", 1.0))
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._node_cpus = max((node.get("CPU", 1.0) for node in nodes), default=1.0)
        self._workers = workers
        self._modules = list(modules)
        self._level = logging.getLogger("selector").getEffectiveLevel()
        self._shared: dict[str, Any] = {}
        self._bundles: dict[tuple[Shared, ...], Any] = {}
        # a worker that ran on a GPU ends, so that its memory is free for others
        self._task = self._ray.remote(max_retries=0, **({"max_calls": 1} if self._gpus else {}))(_run)

    @property
    def room(self) -> int:
        return max(2, int(_WAITING * (self._workers or self._gpus or self._cpus / self._threads)))

    @property
    def _threads(self) -> int:
        """Cores a job on processors."""
        if self._workers:
            each: int = math.ceil(self._cpus / self._workers)
            return max(1, min(each, int(self._node_cpus)))
        return max(1, min(CORES, int(self._node_cpus / 2)))

    def start(self, function: Callable[[Any], Any], item: Any, needs: Needs) -> Any:
        content = packed(function, item, self._ray.cloudpickle.dumps)
        name = str(getattr(item, "name", "job"))
        return self._task.options(name=name, **self._resources(needs)).remote(
            content, [self._bundle(needs.shared)], self._modules, self._level, _surroundings()
        )

    def _bundle(self, shared: tuple[Shared, ...]) -> Any:
        """One reference to those of many shared values: each one that a task carries itself costs every task."""
        if shared not in self._bundles:
            self._bundles[shared] = self._ray.put({each.key: self._shared[each.key] for each in shared})
        return self._bundles[shared]

    def _resources(self, needs: Needs) -> dict[str, float]:
        if self._gpus:
            share = 1.0 if needs.alone or needs.bytes is None else _gpu_share(needs.bytes)
            return {"num_gpus": share, "num_cpus": 1}
        return {"num_cpus": int(self._node_cpus) if needs.alone else self._threads}

    def wait(self, tickets: Sequence[Any]) -> list[tuple[Any, Answer]]:
        ready: list[Any] = []
        while not ready:  # in steps, so that an interrupt is heard at once
            ready, _ = self._ray.wait(list(tickets), num_returns=1, timeout=1.0, fetch_local=False)
        return [(ref, self._answer(ref)) for ref in ready]

    def _answer(self, ref: Any) -> Answer:
        errors = self._ray.exceptions
        try:
            answer: Answer = self._ray.get(ref)
        except errors.OutOfMemoryError as error:
            return Answer("memory", reason=_first_line(error))
        except errors.RayTaskError as error:  # what the task itself could not word
            return Answer("model", reason=failure_of(error.cause or error).reason, trace=str(error))
        except errors.RayError as error:  # the worker, its node or the object that held its answer is gone
            return Answer("died", reason=f"died ({_first_line(error)})")
        return answer

    def stop(self, tickets: Sequence[Any]) -> None:
        for ref in tickets:
            self._ray.cancel(ref, force=True)

    def share(self, value: Any) -> Shared:
        content: bytes = self._ray.cloudpickle.dumps(value)
        key = xxhash.xxh3_128_hexdigest(content)
        if key not in self._shared:
            self._shared[key] = self._ray.put(content)
        return Shared(key)

    def close(self) -> None:
        """Leave the cluster; end it when it was started for this run."""
        self._bundles.clear()
        self._shared.clear()
        if self._own:
            self._ray.shutdown()
            if self._terminate is not None:
                signal.signal(signal.SIGTERM, self._terminate)


def _connect(ray: Any, address: str | None) -> Any:
    """Join or start a cluster; returns what SIGTERM did before, where this thread may say what it does.

    Ray makes a ``sys.exit`` of it, as if a network had called that. ``ray job stop`` sends it: it ends a run as Ctrl-C does.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if place == "local":
        settings |= {"include_dashboard": False}
    try:
        ray.init(address=place, **settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if any(type(each).__name__ == "AuthenticationError" for each in _chain(error)):
            raise OptionError(
                f"ray_address: the Ray cluster at {place!r} asks for a token; set RAY_AUTH_MODE=token, with the cluster's "
                "token in ~/.ray/auth_token or RAY_AUTH_TOKEN.",
                "ray_address",
            ) from None
        raise OptionError(
            f"ray_address: no Ray cluster answers at {place!r} ({_first_line(error)}); start one with 'ray start --head', "
            "or leave the address out for a cluster of this machine.",
            "ray_address",
        ) from None
    if before is not None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return before


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _surroundings() -> dict[str, Any]:
    """What makes a relative path, an import and the word offline mean the same in a worker that shares this disk."""
    return {"folder": str(Path.cwd()), "path": list(sys.path), "offline": os.environ.get(_OFFLINE)}


def _run(
    content: bytes, bundle: list[Any], modules: Sequence[Module], level: int, surroundings: dict[str, Any]
) -> Answer:
    """A job in a worker of Ray."""
    import ray

    if Path(surroundings["folder"]).is_dir():
        os.chdir(surroundings["folder"])
    sys.path += [place for place in surroundings["path"] if place not in sys.path]
    if surroundings["offline"] is None:
        os.environ.pop(_OFFLINE, None)
    else:
        os.environ[_OFFLINE] = surroundings["offline"]
    # in a list: fetched when it is needed, and not by a worker that has the values
    answers.worker(no_progress, lambda key: bytes(ray.get(ray.get(bundle[0])[key])))
    answers.import_plugins(modules)
    return answers.answered(content, level)


def _gpu_share(size: int) -> float:
    """Part of a GPU for so many bytes, on a card of 16 GiB or larger: a power of two, so that parts fill a card.

    >>> _gpu_share(100 * 2**20), _gpu_share(3 * 2**30), _gpu_share(12 * 2**30)
    (0.25, 0.5, 1.0)
    """
    share = _LEAST_SHARE
    while share < 1 and share * 16 * 2**30 < size + _WORKING:
        share *= 2
    return share


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
