"""What a value was measured with: library versions and the machine, without importing the libraries."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from selector.core.resources import usable_cores
from selector.core.version import __version__

LIBRARIES = (
    *("torch", "torchvision", "timm", "transformers", "tokenizers"),
    *("numpy", "scipy", "scikit-learn", "faiss-cpu", "openvino", "onnxruntime"),
)


def versions() -> dict[str, object]:
    """Versions of selector, Python and the libraries that are installed, and the processor."""
    from importlib import metadata

    found: dict[str, object] = {"selector": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed has no version to record
    return {**found, "platform": platform.platform(), "cpu": cpu_model(), "cores": os.cpu_count() or 1}


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_kind() -> str:
    """What this processor multiplies fast: ``amx``, ``avx512_bf16``, ``avx512``, ``avx2`` or ``other``."""
    flags = _cpuinfo("flags").split()
    kinds = {"amx_tile": "amx", "avx512_bf16": "avx512_bf16", "avx512f": "avx512", "avx2": "avx2"}
    return next((kind for flag, kind in kinds.items() if flag in flags), "other")


def _cpuinfo(field: str) -> str:
    """What Linux says of the first core; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def graphics_cards() -> list[str]:
    """Names of NVIDIA cards as their driver gives them, asked without torch; empty where there is no such driver."""
    found = []
    for facts in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("Model:"):
                found.append(line.partition(":")[2].strip())
    return found


def visible_cards() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` says of each card that this process may use, in torch's order; asked without torch.

    Empty, the variable hides all cards; what stands behind an entry that names none is hidden, and so are all where one
    is named twice.
    """
    asked, count = os.environ.get("CUDA_VISIBLE_DEVICES"), len(graphics_cards())
    if asked is None:
        return [str(number) for number in range(count)]
    found: list[str] = []
    for word in map(str.strip, asked.split(",")):
        if not (word.startswith(("GPU-", "MIG-")) or (word.isdecimal() and int(word) < count)):
            break
        if word in found:
            return []
        found.append(word)
    return found if count else []


def thread_setting() -> str:
    """What decides how many threads a network gets on the processor: the environment, or the cores of this process."""
    asked = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS")
    if asked:
        return asked
    return str(usable_cores())


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, or of the container that limits it."""
    import psutil

    free = int(psutil.virtual_memory().available)
    groups = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int((groups / limit).read_text()) - int((groups / used).read_text()))
        except (OSError, ValueError):  # no such version of control groups, or no limit ("max")
            continue
    return max(0, free)
