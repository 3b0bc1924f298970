"""``selector doctor``: what this machine offers: devices, versions, threads, compiler, disk, and whether the hub answers."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from selector.cli import options as o
from selector.cli.guard import guarded
from selector.cli.output import document, print_rows
from selector.core.resources import usable_cores
from selector.core.system import cpu_model
from selector.core.units import format_size

OPTIONAL = {
    "onnx": "export and onnx: models",
    "onnxruntime": "onnx: models",
    "openvino": "faster extraction on Intel CPUs",
    "h5py": "elmo: models",
    "datasets": "Hugging Face datasets as targets",
    "matplotlib": "figures: selector.plot",
    "s3fs": "a store on object storage",
    "tensorboard": "--log tensorboard",
    "mlflow": "--log mlflow",
    "wandb": "--log wandb",
    "cleanlab": "label quality",
}
_DISTRIBUTION = {"mlflow": "mlflow-skinny"}
LOW_DISK = 5 * 10**9


@dataclass(frozen=True)
class Finding:
    """One line: ``ok`` is None for plain facts; ``hint`` says what to do when it is False."""

    topic: str
    name: str
    value: str
    ok: bool | None = None
    hint: str = ""


def examine(store: str | None = None, *, offline: bool = False, timeout: float = 3.0) -> list[Finding]:
    """Look at this machine.

    Args:
        store: folder of the feature store, or None for the default one.
        offline: do not try to reach the hub.
        timeout: seconds that the hub has for an answer.
    """
    return [*_versions(), *_devices(), *_compute(), *_disk(store), _hub(offline, timeout)]


def _versions() -> Iterator[Finding]:
    from importlib import metadata  # of no other command: 15 ms of `selector --help`

    from selector.core.version import __version__

    yield Finding("versions", "selector", __version__)
    yield Finding("versions", "python", platform.python_version())
    yield Finding("versions", "system", platform.platform(terse=True))
    for name in ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "faiss-cpu", "pandas"):
        try:
            yield Finding("versions", name, metadata.version(name), ok=True)
        except metadata.PackageNotFoundError:
            yield Finding("versions", name, "missing", ok=False, hint="reinstall: pip install zoo-selector")
    for name, use in OPTIONAL.items():
        here = importlib.util.find_spec(name) is not None
        value = metadata.version(_DISTRIBUTION.get(name, name)) if here else "not installed"
        yield Finding("optional", name, f"{value} ({use})") if here or name != "openvino" else _without_openvino(use)


def _without_openvino(use: str) -> Finding:
    """What it would save here, by the shipped table of measurements."""
    from selector.extract.backend_table import WORTH_SAYING, speedups

    gains = speedups("openvino")
    if gains is None or gains[1] < WORTH_SAYING:
        return Finding("optional", "openvino", f"not installed ({use})")
    return Finding(
        "optional",
        "openvino",
        f"not installed (up to {gains[1]:.1f} times as fast as torch alone on this kind of processor)",
        ok=False,
        hint="extraction would take less time, most of all beside other programs: pip install 'zoo-selector[openvino]'",
    )


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding("devices", "cpu", cpu_model(), ok=True)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        told = f"{properties.name}, {format_size(properties.total_memory)}, capability {properties.major}.{properties.minor}"
        yield Finding("devices", f"cuda:{index}", told, ok=True)
    if torch.backends.mps.is_available():
        yield Finding("devices", "mps", "Apple GPU", ok=True)
    if not torch.cuda.is_available():
        reason = "this torch is built without CUDA" if torch.version.cuda is None else "no device answers"
        yield Finding("devices", "cuda", f"none: {reason}")


def _compute() -> Iterator[Finding]:
    import psutil
    import torch

    usable = usable_cores()
    threads = torch.get_num_threads()
    yield Finding(
        "compute",
        "threads",
        f"{threads} of {usable} usable cores",
        ok=threads <= usable,
        hint=f"more threads than cores slow each other down; set OMP_NUM_THREADS={usable}",
    )
    memory = psutil.virtual_memory()
    yield Finding("compute", "memory", f"{format_size(memory.available)} free of {format_size(memory.total)}")
    compiler = next((found for name in ("c++", "g++", "clang++", "cl") if (found := shutil.which(name))), None)
    yield Finding("compute", "compiler", compiler or "none (torch.compile is not available)")


def _disk(store: str | None) -> Iterator[Finding]:
    from selector.store import default_store_path

    path = Path(store) if store else default_store_path()
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    yield Finding(
        "disk",
        "store",
        f"{path}, {format_size(free)} free",
        ok=free >= LOW_DISK and os.access(there, os.W_OK),
        hint="little space or not writable: 'selector store prune', or another folder with --store",
    )


def _hub(offline: bool, timeout: float) -> Finding:
    if offline or os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "TRUE", "yes", "YES", "ON", "on"):
        return Finding("network", "hub", "not asked (offline)")
    from huggingface_hub.constants import ENDPOINT

    from selector.sources._hub import no_answer

    if not (reason := no_answer(ENDPOINT, timeout)):
        return Finding("network", "hub", f"{ENDPOINT} answers", ok=True)
    return Finding(
        "network",
        "hub",
        f"{ENDPOINT} does not answer ({reason})",
        ok=False,
        hint="only models whose weights are on this machine can be scanned; say so with --offline",
    )


@o.with_fields("ScanConfig", "store", "offline")
@guarded
def doctor(
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that the hub has for an answer.")] = 3.0,
    json: o.Json = False,
    debug: o.Debug = False,
    **options: Any,
) -> None:
    """Show devices, versions, threads, compiler, disk, and whether the hub can be reached."""
    from dataclasses import asdict

    findings = examine(options["store"], offline=options["offline"], timeout=timeout)
    if json:
        document([asdict(finding) for finding in findings])
        return
    marks = {True: "ok", False: "!", None: ""}
    print_rows(["", "what", "found", ""], [(f.topic, f.name, f.value, marks[f.ok]) for f in findings])
    for finding in findings:
        if finding.ok is False:
            typer.echo(f"! {finding.name}: {finding.hint}")
