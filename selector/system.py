"""What a figure was measured with: library versions and the machine, without importing the libraries."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import selector

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "faiss-cpu", "openvino", "onnxruntime")


def versions() -> dict[str, Any]:
    """Versions of selector, Python and the libraries that are installed, and the processor."""
    found: dict[str, Any] = {"selector": selector.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed has no version to record
    return {**found, "platform": platform.platform(), "cpu": cpu_model(), "cores": os.cpu_count() or 1}


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
