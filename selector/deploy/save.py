"""Write a trained model as a folder: weights, configuration, model card."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.core.documents import plain
from selector.core.errors import StoreError
from selector.core.system import versions
from selector.deploy import forms
from selector.deploy.card import model_card
from selector.deploy.hub import library_fields, to_library
from selector.results import Measurement

if TYPE_CHECKING:
    import torch

    from selector.tuning import Trained

log = logging.getLogger(__name__)

FORMAT = 2  # 1 had a temperature where there is a context now; it is still read
READABLE = (1, FORMAT)
WEIGHTS, CONFIG, CARD, PROGRAM = "model.safetensors", "config.json", "README.md", "model.pt2"


def save_model(
    folder: str | os.PathLike[str],
    trained: Trained,
    target_summary: Mapping[str, Any],
    figures: Sequence[Measurement],
    spec: Mapping[str, Any],
) -> Path:
    """Write ``model.safetensors``, ``config.json`` and ``README.md``; a folder of that name is replaced.

    The folder is written under another name and renamed, so that there is never half a model.

    Args:
        folder: e.g. ``runs/photos/best``.
        trained: the model; its module may be on any device.
        target_summary: name, fingerprint and counts of the target, as in ``Ranking.target``.
        figures: what was measured of this model, by strategy.
        spec: its zoo entry; the card names its license.
    Returns:
        The folder.
    Raises:
        StoreError: the disk is full or not writable; the old folder is left as it was.
    """
    from safetensors.torch import save_file

    from selector import tasks
    from selector.sources import registry as sources

    folder = Path(folder)
    module = trained.module.to("cpu").eval()
    # cloned: safetensors refuses tensors that share memory (tied weights)
    state = {name: value.detach().contiguous().clone() for name, value in module.state_dict().items()}
    task = tasks.registry.get(trained.task).of(trained.class_names)
    rebuilt = task.rebuild(trained.recipe, sources.get(trained.source).build)
    missing = rebuilt.load_state_dict(state, strict=False)
    if missing.missing_keys or missing.unexpected_keys:
        raise StoreError(
            f"the recipe of {trained.name} does not fit its weights ({missing}); its source must fix that."
        )
    chosen = [m for m in figures if m.strategy == trained.strategy and m.status == "ok"]
    names = list(trained.class_names)
    config = {
        **library_fields(trained.source, trained.recipe, trained.preprocess, names),
        "format": FORMAT,
        "name": trained.name,
        "task": trained.task,
        "source": trained.source,
        "recipe": dict(trained.recipe),
        "modality": str(trained.preprocess.modality),
        "preprocess": trained.preprocess.to_dict(),
        **({"pairs": target_summary["pairs"]} if "pairs" in target_summary else {}),
        "class_names": names,
        "context": dict(trained.context),
        "strategy": trained.strategy,
        "training": {"learning_rate": trained.learning_rate, "seed": trained.seed, "steps": trained.steps},
        "measured": {"metric": chosen[0].metric, "val": dict(chosen[0].val), "test": dict(chosen[0].test)}
        if chosen
        else {},
        "target": {key: target_summary.get(key) for key in ("name", "fingerprint", "items", "classes", "splits")},
        "license": spec.get("license"),
        "weights_from": spec.get("source"),
        "versions": versions(),
    }
    with _whole(folder) as partial:
        save_file(to_library(trained.source, state), partial / WEIGHTS, {"format": "pt"})
        form, program = forms.of(trained.preprocess), False
        shape = form.shape(trained.preprocess)
        for name, content in (form.files(trained.preprocess) | form.library_files(trained.preprocess)).items():
            _write(partial / name, content)
        public = trained.source in ("timm", "torchvision")
        if shape is not None and not public and trained.recipe.get("head") != "maps":
            program = _save_program(module, shape, partial / PROGRAM)
        _write(partial / CONFIG, json.dumps(plain(config), indent=1, ensure_ascii=False) + "\n")
        _write(partial / CARD, model_card(trained, target_summary, figures, spec, program=program))
    return folder


def _save_program(module: torch.nn.Module, input_size: tuple[int, ...], path: Path) -> bool:
    """The network as a torch program, for networks whose code is not in a public library."""
    import torch

    try:
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(module, (torch.zeros(2, *input_size),), dynamic_shapes=({0: batch},))
        torch.export.save(program, path)
    except Exception as error:  # noqa: BLE001 - torch.export fails in many ways; the weights are saved all the same
        log.warning("the network cannot be exported as a torch program (%s)", str(error).splitlines()[0])
        path.unlink(missing_ok=True)
        return False
    return True


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder next to ``folder`` that takes its place once everything in it is written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.partial-"))
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror}); name another folder.") from error
    try:
        yield partial
        for path in partial.iterdir():
            _to_disk(path)
        partial.chmod(0o755)
        aside = partial.with_name(f"{partial.name}-replaced")
        if folder.exists():
            folder.replace(aside)
        partial.replace(folder)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException as error:  # an interrupt as well: nothing half-written is left behind
        shutil.rmtree(partial, ignore_errors=True)
        aside = partial.with_name(f"{partial.name}-replaced")
        if aside.exists() and not folder.exists():
            aside.replace(folder)
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise StoreError(
                f"the model cannot be written to {folder} ({error}); free some space and run the same command again: "
                "finished trainings are kept."
            ) from error
        raise


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.chmod(0o644)  # safetensors makes files private; a model is meant to be shared


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
