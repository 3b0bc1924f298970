"""Write a trained model as a folder: weights, configuration, and a model card with a program that loads it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from selector import modalities, tasks
from selector.core.documents import plain
from selector.core.errors import StoreError
from selector.core.preprocess import Preprocess, TextPreprocess
from selector.core.system import versions
from selector.core.units import printable
from selector.core.version import __version__
from selector.deploy import serializers
from selector.deploy.hub import hub_repository, library_fields, library_of, to_library
from selector.deploy.serializers._serializer import cell
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
    target_summary: Mapping[str, object],
    figures: Sequence[Measurement],
    spec: Mapping[str, object],
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
        form, program = serializers.of(trained.preprocess), False
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


def model_card(
    trained: Trained,
    target: Mapping[str, Any],
    figures: Sequence[Measurement],
    spec: Mapping[str, Any],
    *,
    program: bool,
) -> str:
    """Markdown with a YAML head, in the hub's convention.

    Args:
        program: whether ``model.pt2`` lies beside the card.
    """
    modality, form, pairs = (
        modalities.of(trained.preprocess),
        serializers.of(trained.preprocess),
        bool(target.get("pairs")),
    )
    noun, resizable = modality.noun, modality.resizable
    pipeline = form.pipeline(trained.preprocess, trained.task, of_maps=trained.recipe.get("head") == "maps")
    license = spec.get("license") or "unknown: look at where the weights come from"
    rows = [_row(m, resolution=resizable) for m in figures]
    chosen = next((m for m in figures if m.strategy == trained.strategy and m.status == "ok"), None)
    metric = chosen.metric if chosen else "metric"
    more = (
        "\n".join(
            f"| {cell(name)} | {_figure(chosen.val.get(name))} | {_figure(chosen.test.get(name))} |"
            for name in chosen.val
        )
        if chosen
        else ""
    )
    splits = target.get("splits") or {}
    counts = ", ".join(f"{count} {split}" for split, count in splits.items())
    classes = ", ".join(cell(name) for name in trained.class_names[:50])
    if len(trained.class_names) > 50:
        classes += f" and {len(trained.class_names) - 50} more (all in config.json)"
    head = card_head(
        name=f"{trained.name}, adapted to {target.get('name')}",
        library=library_of(trained.source, trained.recipe),
        pipeline=pipeline,
        spec=spec,
        base_model=hub_repository(spec),
        target=target,
        chosen=chosen,
    )
    return printable(f"""{head}
# {cell(trained.name)}, adapted to {cell(target.get("name"))}

Strategy: **{trained.strategy}**. Weights it started from: `{cell(spec.get("source"))}`; their license: {cell(license)}.

| | |
|---|---|
| task | {trained.task}, {len(trained.class_names) or trained.recipe.get("outputs", 0)} {tasks.registry.get(trained.task).class_noun} |
| {tasks.registry.get(trained.task).class_noun} | {classes or "value"} |
{form.facts(trained.preprocess, pairs)}
{_outputs(trained, noun)}
| target | {cell(target.get("name"))}, {target.get("items", "?")} {noun}s ({counts}) |
| data fingerprint | `{cell(target.get("fingerprint"))}` |
| made with | zoo-selector {__version__} |

## Measured
The validation {noun}s chose rate, strategy and model, so their values are optimistic; the test
{noun}s were read once, at the end. Values are {metric}; what was chosen on validation (temperature, thresholds, intervals) is
applied to test.

| strategy | val | test | steps | rate | time | trained parameters |{" resolution |" if resizable else ""} note |
|---|---|---|---|---|---|---|---|{"---|" if resizable else ""}
{chr(10).join(rows)}

The saved model (**{trained.strategy}**) in other metrics:

| metric | val | test |
|---|---|---|
{more}

## Use
With this package: `selector.load_model("this folder").predict([{form.example(pairs)}])`. Without it:

```python
{snippet(trained, program=program)}
```

{form.tensor(trained.preprocess)}
{_exported(trained)}""")


def _exported(trained: Trained) -> str:
    """What an ONNX file of it gives."""
    task = tasks.registry.get(trained.task)
    note = f" {task.onnx_differs}" if task.onnx_differs else ""
    return (
        "`selector export RUN --onnx model.onnx` writes an ONNX file, whose metadata name the task, the classes, their values "
        f"and the normalization, and checks it against torch.{note}\n"
    )


def _outputs(trained: Trained, noun: str) -> str:
    """A row of the table of facts: what becomes of the outputs."""
    if trained.recipe.get("head") == "maps":
        return (
            f"| outputs | of a decoder ({cell(trained.recipe.get('decoder', 'its own'))}) on the maps of whole images |"
        )
    name, text = tasks.registry.get(trained.task).meaning(trained.class_names, trained.context)
    row = "outputs" if name == tasks.registry.get(trained.task).class_noun else name
    return f"| {row} | {cell(text)}, chosen on the validation {noun}s |"


def _row(m: Measurement, *, resolution: bool) -> str:
    rate = "–" if m.learning_rate is None else f"{m.learning_rate:.4g}"
    measured = f"{_figure(m.val_value)} | {_figure(m.test_value)} | {m.steps} | {rate} | {m.seconds:.0f} s"
    size = f" {_size(m)} |" if resolution else ""
    return f"| {m.strategy} | {measured} | {m.trained_parameters:,} |{size} {cell(m.note or m.status)} |"


def _figure(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:z.4f}"


def _size(m: Measurement) -> str:
    if m.resolution is None:
        return "–"
    return f"{m.resolution[0]} × {m.resolution[1]}{' (reduced)' if m.reduced else ''}"


_SESSION = (
    "import json\n"
    "import numpy as np\n"
    "import onnxruntime\n"
    "{imports}"
    "session = onnxruntime.InferenceSession('model.onnx')  # selector export RUN --onnx model.onnx\n"
    "facts = session.get_modelmeta().custom_metadata_map\n"
    "names = json.loads(facts['class_names'])\n"
)


def snippet(trained: Trained, *, program: bool) -> str:
    """Python lines that make ``model`` in the current folder with timm, torch or onnxruntime alone."""
    recipe = trained.recipe
    if library_of(trained.source, recipe) == "timm":
        return "import timm\nmodel = timm.create_model('local-dir:.', pretrained=True).eval()"
    if program:
        return "import torch\nmodel = torch.export.load('model.pt2').module()"
    if trained.source == "elmo" or recipe.get("reads") == "text":
        return (
            "# No public library builds this network (ELMo, or code of your own that reads texts), and few of its kind can be\n"
            "# exported: LSTMs run over any number of words. So these lines need zoo-selector; trust=True lets your code run.\n"
            "import selector\nmodel = selector.load_model('.', trust=True).predict  # texts -> labels, probabilities"
        )
    if recipe.get("head") == "maps" and trained.task == "segmentation":
        return _masks(cast(Preprocess, trained.preprocess))
    return _BY_MODALITY[trained.preprocess.modality](trained.preprocess)


def _rows(_: object) -> str:
    return _SESSION.format(imports="") + "model = lambda rows: session.run(None, {'features': rows})"


def _tensors(preprocess: Preprocess) -> str:
    size = ", ".join(map(str, preprocess.input_size))
    return _SESSION.format(imports="") + (
        f"def model(images):  # float32 (B, {size}), prepared as in the table above\n"
        "    return session.run(None, {'images': np.asarray(images)})  # what the outputs are: see below"
    )


def _masks(preprocess: Preprocess) -> str:
    _, height, width = preprocess.input_size
    return _SESSION.format(imports="from PIL import Image\n") + (
        "values = np.array(json.loads(facts['class_values']))  # what each class is written as in a mask\n"
        "def model(image):  # a Pillow image -> its mask (H, W)\n"
        f"    small = image.convert('RGB').resize(({width}, {height}), Image.{preprocess.interpolation.upper()})\n"
        f"    pixels = (np.asarray(small, np.float32) / 255 - {list(preprocess.mean)}) / {list(preprocess.std)}\n"
        "    given = pixels.transpose(2, 0, 1)[None].astype(np.float32)\n"
        "    logits = session.run(['logits'], {'images': given})[0][0]\n"
        "    whole = [np.asarray(Image.fromarray(one).resize(image.size, Image.BILINEAR)) for one in logits]\n"
        "    return values[np.argmax(whole, axis=0)]"
    )


def _texts(preprocess: TextPreprocess) -> str:
    texts = f"[{preprocess.prompt!r} + text for text in texts]" if preprocess.prompt else "texts"
    kinds = ", 'token_type_ids': [row.type_ids for row in rows]" if preprocess.token_types else ""
    return _SESSION.format(imports="from tokenizers import Tokenizer\n") + (
        "tokenizer = Tokenizer.from_file('tokenizer.json')\n"
        f"tokenizer.enable_truncation({preprocess.max_length}, direction={preprocess.truncation_side!r})\n"
        f"tokenizer.enable_padding(pad_id={preprocess.pad_id})\n"
        "def model(texts):\n"
        f"    rows = tokenizer.encode_batch({texts})\n"
        "    given = {'input_ids': [row.ids for row in rows], 'attention_mask': [row.attention_mask for row in rows]"
        f"{kinds}}}\n"
        "    return session.run(None, {name: np.array(one, np.int64) for name, one in given.items()})"
    )


_BY_MODALITY: dict[str, Callable[[Any], str]] = {"image": _tensors, "text": _texts, "rows": _rows}


LICENSES = frozenset(
    [
        "apache-2.0",
        "mit",
        "openrail",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "cc",
        "cc0-1.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-4.0",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "agpl-3.0",
        "mpl-2.0",
        "isc",
        "unlicense",
        "wtfpl",
        "artistic-2.0",
        "ms-pl",
        "afl-3.0",
        "gemma",
        "llama2",
        "llama3",
    ]
)
"""Names that the hub knows; another license is ``other`` with its name beside it."""


def card_head(
    *,
    name: str,
    library: str,
    pipeline: str,
    spec: Mapping[str, object],
    base_model: str | None,
    target: Mapping[str, Any],
    chosen: Measurement | None,
) -> str:
    """YAML between two lines of dashes.

    Args:
        name: of the model, for ``model-index``.
        spec: its zoo entry, with its license.
        base_model: hub repository of the weights it started from; None where they are not of the hub.
        target: summary of the data.
        chosen: what was measured of the saved model.
    """
    from huggingface_hub import EvalResult, ModelCardData

    path = str((target.get("origin") or {}).get("path") or "")
    dataset = re.split("[:@]", path.removeprefix("hf:"))[0] if path.startswith("hf:") else None
    values = {} if chosen is None else {k: v for k, v in chosen.test.items() if v is not None and v == v}
    shown = _plain_name(str(target.get("name") or "target"))
    slug = re.sub(r"[^\w.-]+", "-", shown).strip("-") or "target"
    license = str(spec.get("license") or "").lower() or None
    known = license in LICENSES
    relation: dict[str, Any] = {} if base_model is None else {"base_model_relation": "finetune"}
    data = ModelCardData(
        license=license if known or license is None else "other",
        license_name=None if known or license is None else re.sub(r"[^a-z0-9.-]+", "-", license),
        library_name=library,
        pipeline_tag=pipeline,
        tags=[pipeline, "zoo-selector"],
        base_model=base_model,
        datasets=None if dataset is None else [dataset],
        metrics=sorted(values) or None,
        model_name=_plain_name(name) if values else None,
        eval_results=[
            EvalResult(
                task_type=pipeline,
                dataset_type=dataset or slug,
                dataset_name=shown,
                dataset_split="test",
                metric_type=metric,
                metric_value=round(float(value), 6),
            )
            for metric, value in values.items()
        ]
        or None,
        **relation,
    )
    return f"---\n{data.to_yaml()}\n---"


def _plain_name(text: str) -> str:
    """A name on one line, without what would begin markup."""
    return " ".join(re.sub("[<>]", " ", printable(text)).split())
