"""Where a call runs and what it leaves behind; shared by ``rank`` and ``confirm``."""

from __future__ import annotations

import os
import re
from typing import Any, Literal, Self, TypeAlias

from pydantic import SkipValidation, field_validator, model_validator

from selector.core.contracts import ProgressCallback
from selector.core.errors import OptionError
from selector.core.options import LABELS, NETWORKS, CallOptions, option
from selector.options.data import PathLike
from selector.ranking.history import History
from selector.store import FeatureStore

StoreLike: TypeAlias = str | os.PathLike[str] | FeatureStore
HistoryLike: TypeAlias = bool | str | os.PathLike[str] | History
READ = "read"
"""The user's own history is read and nothing is added to it: what a library call does unless it is asked."""


class MachineOptions(CallOptions):
    """Where a call runs and what it leaves behind."""

    device: str = option("auto", "Device: auto (default), cpu, cuda, cuda:1 or mps.", common=True)
    store: SkipValidation[StoreLike | None] = option(
        None, "Folder or URL of the feature store (default: 'selector store path' shows it).", rerun=False
    )
    out: SkipValidation[PathLike | bool | None] = option(
        None, "Run folder (default: runs/NAME).",
        python="None saves nothing unless models are confirmed; True is runs/NAME.", record=False, path=True, common=True,
    )  # fmt: skip
    overwrite: bool = option(
        False, "Replacement of a confirmed run in the run folder by another run (default: refused).", record=False
    )
    offline: bool = option(False, "No network access: only weights on this machine are used (default: access allowed).")
    history: SkipValidation[HistoryLike] = option(
        READ, "History of measured results: it informs the prior, and new results are added (default: used; Python calls only "
        "read it).",
        python="'read' reads your history and adds nothing; True also adds; False uses none; a path names another file. "
        "The command line uses True.", cli_default=True, usual=True, needs=(LABELS, NETWORKS),
    )  # fmt: skip
    progress: SkipValidation[ProgressCallback | bool | None] = option(
        None, "Callback for every step; True shows bars, False is silent, None shows bars in a notebook only.",
        cli=False, record=False,
    )  # fmt: skip
    log: SkipValidation[Any] = option(
        None, "Experiment loggers, comma-separated: tensorboard, mlflow, wandb, trackio; a place follows a colon (default: "
        "none).",
        python="Objects with the methods of selector.loggers.ExperimentLog are taken as well.", record=False,
    )  # fmt: skip
    engine: Literal["local", "processes", "ray"] = option(
        "local", "Where models run: local (this process, default), processes (a pool) or ray (a Ray cluster).",
        needs=(NETWORKS,),
    )  # fmt: skip
    ray_address: str | None = option(
        None, "Ray cluster: auto or HOST:PORT (default: RAY_ADDRESS, or a cluster on this machine for this run).",
        rerun=False,
    )  # fmt: skip
    workers: int | None = option(
        None, "Number of models that run at once with engine processes or ray (default: what devices and cores allow).",
        ge=1, rerun=False,
    )  # fmt: skip

    threads: int | None = option(
        None, "Maximum number of threads of the run, workers included (default: SELECTOR_THREADS, or one per core).",
        ge=1, rerun=False,
    )  # fmt: skip

    @field_validator("device")
    @classmethod
    def _a_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise OptionError(f"device must be auto, cpu, cuda, cuda:N or mps. Got {value!r}.", "device")
        return value

    @model_validator(mode="after")
    def _of_the_engine(self) -> Self:
        if self.ray_address is not None and self.engine != "ray":
            raise OptionError(f"ray_address needs engine='ray'. Got engine={self.engine!r}.", "ray_address", "engine")
        if self.workers is not None and self.engine == "local":
            raise OptionError(
                "workers needs engine='processes' or engine='ray'. Got engine='local'.", "workers", "engine"
            )
        if self.workers is not None and self.threads is not None and self.workers > self.threads:
            raise OptionError(
                f"workers must be at most threads, since each needs one. Got workers={self.workers}, threads={self.threads}.",
                "workers",
                "threads",
            )
        if self.engine == "ray" and ":" in self.device:
            raise OptionError(
                f"device={self.device!r} cannot be used with engine='ray', which assigns a GPU to each task. Use "
                "device='cuda'.",
                "device",
                "engine",
            )
        return self
