"""What has been trained so far: one small file a trial and round, addressed by everything that decides it.

A fine-tuning stage that is started again asks here before it trains, so it goes on where it was stopped,
and two fine-tuning stages that share trials share their results.
"""

from __future__ import annotations

import io
import json
import logging
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from selector.core.atomic import prune_files, write_atomic
from selector.core.errors import StoreError
from selector.core.task import Stats

log = logging.getLogger(__name__)

FORMAT = 2  # 1 kept outputs instead of statistics; its trainings are run again
MAX_WEIGHTS = 4 * 10**9  # bytes that the weights of finished fine-tuning stages may take


@dataclass(frozen=True)
class Record:
    """One finished training: what happened (plain JSON), the statistics of its validation items, and other arrays
    (of a linear probe its weights)."""

    facts: Mapping[str, Any]
    stats: Stats | None = field(default=None, repr=False)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def status(self) -> str:
        """ok, diverged or failed."""
        return str(self.facts["status"])


class Journal:
    """A folder of records, weights and checkpoints.

    Args:
        folder: made when missing.
        stats_type: what statistics become again when they are read: ``Task.stats_type``.
    """

    def __init__(self, folder: Path, stats_type: type[Stats]) -> None:
        self.folder = folder
        self._stats_type = stats_type
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the folder for checkpoints {folder} cannot be made ({error.strerror}); name another one."
            ) from error

    @staticmethod
    def key(facts: Mapping[str, Any]) -> str:
        """32 hex digits of plain JSON."""
        text = json.dumps({"format": FORMAT, **facts}, sort_keys=True, ensure_ascii=False)
        return xxhash.xxh3_128_hexdigest(text.encode())

    def read(self, key: str) -> Record | None:
        """The record, or None when there is none or its file is damaged (it is removed then)."""
        path = self.folder / f"{key}.npz"
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                document = json.loads(bytes(file["document"]))
                of_items, others = (
                    {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}
                    for prefix in ("stats:", "array:")
                )
                stats = self._stats_type(of_items, document["summary"]) if of_items else None
                return Record(document["facts"], stats, others)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("record %s is damaged (%s); this training runs again", path, error)
            path.unlink(missing_ok=True)
            return None

    def write(self, key: str, record: Record) -> None:
        """Atomically.

        Raises:
            StoreError: the disk is full or not writable.
        """
        summary = record.stats.summary if record.stats is not None else {}
        document = json.dumps({"facts": record.facts, "summary": summary})
        arrays = {"document": np.frombuffer(document.encode(), dtype=np.uint8)}
        arrays |= {f"stats:{name}": array for name, array in (record.stats.arrays if record.stats else {}).items()}
        arrays |= {f"array:{name}": array for name, array in record.arrays.items()}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
        self._write(self.folder / f"{key}.npz", content.getvalue())

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A named document, or None."""
        try:
            found = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s is damaged (%s); it is written again", self.folder / f"{name}.json", error)
            return None
        return found if isinstance(found, dict) else None

    def write_json(self, name: str, document: Mapping[str, object]) -> None:
        """Atomically."""
        self._write(self.folder / f"{name}.json", json.dumps(document, indent=1).encode())

    def mark(self) -> str:
        """Name of a file in the folder that no other folder has: by it a process sees whether it shares this one."""
        known = next(self.folder.glob("*.mark"), None)
        if known is not None:
            return known.name
        name = f"{uuid.uuid4().hex}.mark"
        self._write(self.folder / name, b"")
        return name

    def checkpoint(self, key: str) -> Path:
        """Where a training that is under way keeps its state."""
        return self.folder / f"{key}.checkpoint.pt"

    def weights(self, key: str) -> Path:
        """Where the weights of a finished training lie, if they were kept."""
        return self.folder / f"{key}.safetensors"

    def write_weights(self, key: str, content: bytes) -> None:
        """The file of a training's weights, as a worker sent it."""
        self._write(self.weights(key), content)

    def forget_weights(self, key: str) -> None:
        """Remove the weights and the checkpoint of a training; its record stays."""
        self.weights(key).unlink(missing_ok=True)
        self.checkpoint(key).unlink(missing_ok=True)

    def tidy(self, max_bytes: int = MAX_WEIGHTS) -> None:
        """Remove the oldest weights beyond ``max_bytes``; a fine-tuning stage that needs them trains again."""
        prune_files(self.folder.glob("*.safetensors"), max_bytes)

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_atomic(path, content)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written ({error.strerror}); free some space and run the same command again: "
                "finished trainings are kept."
            ) from error
