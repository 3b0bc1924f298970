"""The model card: what the model is, what was measured on what, and how to load it without this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selector import modalities, tasks
from selector.core.units import printable
from selector.core.version import __version__
from selector.deploy import forms
from selector.deploy.forms._form import cell
from selector.deploy.hub import library_of
from selector.deploy.snippets import snippet
from selector.results import Measurement

if TYPE_CHECKING:
    from selector.tuning import Trained


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
    modality, form, pairs = modalities.of(trained.preprocess), forms.of(trained.preprocess), bool(target.get("pairs"))
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
    return printable(f"""---
library_name: {library_of(trained.source, trained.recipe)}
pipeline_tag: {pipeline}
tags: [{pipeline}, zoo-selector]
---
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
        return f"| outputs | of a decoder ({cell(trained.recipe.get('decoder', 'its own'))}) on the maps of whole pictures |"
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
