"""An executor over tasks of Ray, on this machine or on a cluster.

Whoever may join a cluster may run code on all of its machines, as the user that started it. A cluster that a run starts
for itself listens on 127.0.0.1 only and asks for a token of this run; a shared cluster is as safe as its own network and
token (``docs``, security).
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selector.core.errors import OptionError
from selector.core.resources import given_threads, memory_limit, resource_limits
from selector.run.executor import WorkerExecutor
from selector.run.job import Answer, Failure, JobT, Needs, Shared, Value, WorkerLimits, fetch_shared_with, pack
from selector.run.pool import CORES, Pool
from selector.run.worker import Module, answer, import_plugins, plugins, report

log = logging.getLogger(__name__)

_WAITING = 2  # jobs handed over for every one that can run, so that no worker waits for the driver
_LEAST_SHARE = 0.125  # of a GPU
_OFFLINE = "HF_HUB_OFFLINE"
_WORKING = 2 * 2**30  # bytes on a GPU beside the weights: the libraries' own, and activations of a batch
_LOOPBACK = "127.0.0.1"
_MODE, _TOKEN, _CLUSTERS = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class RayCluster(WorkerExecutor[object]):
    """Tasks of Ray, one per job; the cluster is joined or started when there is a first job.

    Args:
        address: ``auto`` or ``HOST:PORT``; None for ``RAY_ADDRESS``, or a cluster of this machine for this run.
        workers: how many jobs at once; None for what the cluster has room for.
        on_gpu: whether jobs take GPUs where the cluster has some.

    Raises:
        OptionError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, on_gpu: bool = True) -> None:
        if importlib.util.find_spec("ray") is None:
            raise OptionError(
                "engine 'ray' needs the package ray, which is not installed; pip install 'zoo-selector[ray]', or use "
                "engine='processes'.",
                "engine",
            )
        self._address, self._workers, self._on_gpu = address, workers, on_gpu
        self._ray: Any = None  # its own annotations are partial
        self._before: _Surroundings | None = None
        self._own = False  # whether the cluster was started for this run
        self._shared: dict[str, object] = {}
        self._bundles: dict[tuple[str, ...], object] = {}

    @property
    def width(self) -> int:
        """See ``Executor.width``."""
        self._join()
        return max(2, int(_WAITING * (self._workers or self._gpus or self._cpus / self._threads)))

    def close(self) -> None:
        """Leave the cluster; end it when it was started for this run."""
        self._bundles.clear()
        self._shared.clear()
        if self._before is not None:
            self._ray.shutdown()
            self._before.restore()
            self._before = None
        self._ray = None

    def _join(self) -> None:
        if self._ray is not None:
            return
        place = self._address or os.environ.get("RAY_ADDRESS") or "local"
        before = _Surroundings.prepared(local=place == "local")
        import ray

        if ray.is_initialized():  # a caller's own connection stays as it is
            before.restore()
        else:
            try:
                _connect(ray, place)
            except BaseException:
                before.restore()
                raise
            before.take_signal()
            self._before, self._own = before, place == "local"
        self._ray = ray
        resources = self._ray.cluster_resources()
        self._gpus = float(resources.get("GPU", 0.0)) if self._on_gpu else 0.0
        self._cpus = max(1.0, float(resources.get("CPU", 1.0)))
        if (allowed := given_threads()) is not None:
            self._cpus = min(self._cpus, float(allowed))
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._node_cpus = max((float(node.get("CPU", 1.0)) for node in nodes), default=1.0)
        # a worker that ran on a GPU ends, so that its memory is free for others
        self._task = self._ray.remote(max_retries=0, **({"max_calls": 1} if self._gpus else {}))(_run)

    @property
    def _threads(self) -> int:
        """Cores per job on processors."""
        if self._workers:
            each: int = math.ceil(self._cpus / self._workers)
            return max(1, min(each, int(self._node_cpus)))
        return max(1, min(CORES, int(self._node_cpus / 2)))

    def _start(self, run: Callable[[JobT], Value], job: JobT, needs: Needs) -> object:
        content, shared = pack((run, job), self._ray.cloudpickle.Pickler)
        name = str(getattr(job, "name", "job"))
        level = logging.getLogger("selector").getEffectiveLevel()
        resources = self._resources(needs)
        surroundings = _driver_surroundings() | {"threads": self._share_of_threads(resources)}
        return self._task.options(name=name, **resources).remote(
            content, [self._bundle(shared)], plugins(), level, surroundings, needs.limits
        )

    def _bundle(self, shared: tuple[Shared[object], ...]) -> object:
        """One reference to those of many shared values: each one that a task carries itself costs every task."""
        for each in shared:
            if each.key not in self._shared:
                self._shared[each.key] = self._ray.put(pack(each.value, self._ray.cloudpickle.Pickler)[0])
        keys = tuple(each.key for each in shared)
        if keys not in self._bundles:
            self._bundles[keys] = self._ray.put({key: self._shared[key] for key in keys})
        return self._bundles[keys]

    def _resources(self, needs: Needs) -> dict[str, float]:
        if self._gpus:
            share = 1.0 if needs.alone or needs.bytes is None else _gpu_share(needs.bytes)
            return {"num_gpus": share, "num_cpus": 1}
        return {"num_cpus": int(self._node_cpus) if needs.alone else self._threads}

    def _share_of_threads(self, resources: Mapping[str, float]) -> int | None:
        """Threads of a job where a number was asked for."""
        allowed = given_threads()
        if allowed is None:
            return None
        return max(1, int(allowed / self._gpus if self._gpus else resources["num_cpus"]))

    def _wait(self, tickets: Sequence[object]) -> list[tuple[object, Answer]]:
        ready: list[object] = []
        while not ready:  # in steps, so that an interrupt is heard at once
            ready, _ = self._ray.wait(list(tickets), num_returns=1, timeout=1.0, fetch_local=False)
        return [(ref, self._answer(ref)) for ref in ready]

    def _answer(self, ref: object) -> Answer:
        errors = self._ray.exceptions
        try:
            found: Answer = self._ray.get(ref)
        except errors.OutOfMemoryError as error:
            return Answer("memory", reason=_first_line(error))
        except errors.RayTaskError as error:  # what the task itself could not word
            return Answer("model", reason=Failure.of(error.cause or error).reason, trace=str(error))
        except errors.RayError as error:  # the worker, its node or the object that held its answer is gone
            return Answer("died", reason=f"died ({_first_line(error)})")
        return found

    def _stop(self, tickets: Sequence[object]) -> None:
        if self._own and isinstance(sys.exception(), KeyboardInterrupt):
            return  # the cluster of a run ends in ``close``; Ray aborts the driver where an answer meets its cancellation
        for ref in tickets:
            self._ray.cancel(ref, force=True)


class _Surroundings:
    """What joining a cluster changes in this process, put back when it is left."""

    def __init__(self) -> None:
        self._environment = {name: os.environ.get(name) for name in (_MODE, _TOKEN, _CLUSTERS)}
        self._signal: object = None
        main = threading.current_thread() is threading.main_thread()
        self._handler: Any = signal.getsignal(signal.SIGTERM) if main else None

    @staticmethod
    def prepared(*, local: bool) -> _Surroundings:
        """For a cluster that this run starts: a token of its own, and no interface but the loopback."""
        before = _Surroundings()
        if local:
            os.environ.update({_MODE: "token", _TOKEN: secrets.token_hex(32), _CLUSTERS: "0"})
            constants: Any = importlib.import_module("ray._private.ray_constants")
            constants.ENABLE_RAY_CLUSTER = False  # ray may have been imported before: it reads the variable only then
            _refresh_configuration()
        return before

    def take_signal(self) -> None:
        """SIGTERM, which ``ray job stop`` sends, ends a run as Ctrl-C does: Ray makes a ``sys.exit`` of it, as if a model had
        called that."""
        if self._handler is not None:
            signal.signal(signal.SIGTERM, signal.default_int_handler)

    def restore(self) -> None:
        """Everything as it was."""
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _refresh_configuration()
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)


def _refresh_configuration() -> None:
    """Ray keeps what it read of the environment."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _connect(ray: Any, place: str) -> None:
    """Join or start a cluster.

    Raises:
        OptionError: there is no such cluster, it asks for a token, or one of this machine would listen elsewhere.
    """
    settings: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if place == "local":
        settings |= {"include_dashboard": False, "num_cpus": given_threads()}
    try:
        context = ray.init(address=place, **settings)
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
    address = str(getattr(context, "address_info", {}).get("node_ip_address", _LOOPBACK))
    if place == "local" and address != _LOOPBACK:
        ray.shutdown()
        raise OptionError(
            f"engine='ray' would listen on {address}, expected {_LOOPBACK} only; use engine='processes', or start a cluster "
            "of your own and name it with ray_address.",
            "engine",
        )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _driver_surroundings() -> dict[str, object]:
    """What makes a relative path, an import and the word offline mean the same in a worker that shares this disk."""
    return {
        "folder": str(Path.cwd()), "path": list(sys.path), "offline": os.environ.get(_OFFLINE), "memory": memory_limit()
    }  # fmt: skip


def _run(
    content: bytes,
    bundle: list[Any],
    modules: Sequence[Module],
    level: int,
    surroundings: Mapping[str, Any],
    limits: WorkerLimits | None,
) -> Answer:
    """A job in a worker of Ray; with limits, in a pool of one beside it."""
    import ray

    if Path(surroundings["folder"]).is_dir():
        os.chdir(surroundings["folder"])
    sys.path += [place for place in surroundings["path"] if place not in sys.path]
    if surroundings["offline"] is None:
        os.environ.pop(_OFFLINE, None)
    else:
        os.environ[_OFFLINE] = surroundings["offline"]
    # in a list: fetched when it is needed, and not by a worker that has the values
    fetch_shared_with(lambda key: bytes(ray.get(ray.get(bundle[0])[key])))
    import_plugins(modules)
    with resource_limits(surroundings["threads"], surroundings["memory"]):
        return answer(content if limits is None else pack((_isolated, (content, limits)))[0], level)


def _isolated(packed: tuple[bytes, WorkerLimits]) -> object:
    """A packed job in a process of its own, which takes nothing of Ray's with it."""
    from selector.run.job import unpack

    content, limits = packed
    run, job = unpack(content)
    pool = Pool(1, notify=report, pinned=False)
    try:
        (result,) = pool.map(run, [job], needs=lambda _: Needs(limits=limits))
    finally:
        pool.close()
    if result.failure is not None:
        raise result.failure.error
    return result.value


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
