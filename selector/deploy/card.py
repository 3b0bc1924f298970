"""The model card: what the model is, what was measured on what, and how to load it without this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selector import tasks
from selector.core.contracts import AnyPreprocess, TextPreprocess
from selector.core.version import __version__
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
    noun = "text" if isinstance(trained.preprocess, TextPreprocess) else "image"
    item = '"a.jpg"' if noun == "image" else '("a text", "another")' if target.get("pairs") else '"a text"'
    words = isinstance(trained.preprocess, TextPreprocess) and trained.preprocess.words
    of_maps = trained.recipe.get("head") == "maps"
    pipeline = "token-classification" if words else f"image-{trained.task}" if of_maps else f"{noun}-classification"
    licence = spec.get("licence") or "unknown: look at where the weights come from"
    rows = [_row(m, resolution=noun == "image") for m in figures]
    chosen = next((m for m in figures if m.strategy == trained.strategy and m.status == "ok"), None)
    metric = chosen.metric if chosen else "metric"
    more = (
        "\n".join(
            f"| {_cell(name)} | {_figure(chosen.val.get(name))} | {_figure(chosen.test.get(name))} |"
            for name in chosen.val
        )
        if chosen
        else ""
    )
    splits = target.get("splits") or {}
    counts = ", ".join(f"{count} {split}" for split, count in splits.items())
    classes = ", ".join(_cell(name) for name in trained.class_names[:50])
    if len(trained.class_names) > 50:
        classes += f" and {len(trained.class_names) - 50} more (all in config.json)"
    return f"""---
library_name: {"timm" if trained.source == "timm" else "pytorch"}
pipeline_tag: {pipeline}
tags: [{pipeline}, zoo-selector]
---
# {_cell(trained.name)}, adapted to {_cell(target.get("name"))}

Strategy: **{trained.strategy}**. Weights it started from: `{_cell(spec.get("source"))}`; their licence: {_cell(licence)}.

| | |
|---|---|
| task | {trained.task}, {len(trained.class_names)} {tasks.registry.get(trained.task).class_noun} |
| {tasks.registry.get(trained.task).class_noun} | {classes or "value"} |
{_input(trained.preprocess, "pairs of texts" if target.get("pairs") else "texts")}
{_outputs(trained, noun)}
| target | {_cell(target.get("name"))}, {target.get("items", "?")} {noun}s ({counts}) |
| data fingerprint | `{_cell(target.get("fingerprint"))}` |
| made with | zoo-selector {__version__} |

## Measured
The validation {noun}s chose rate, strategy and model, so their figures are optimistic; the test
{noun}s were read once, at the end. Values are {metric}; what was chosen on validation (temperature, thresholds, intervals) is
applied to test.

| strategy | val | test | steps | rate | time | trained parameters |{" resolution |" if noun == "image" else ""} note |
|---|---|---|---|---|---|---|---|{"---|" if noun == "image" else ""}
{chr(10).join(rows)}

The saved model (**{trained.strategy}**) in other metrics:

| metric | val | test |
|---|---|---|
{more}

## Use
With this package: `selector.load_model("this folder").predict([{item}])`. {"In plain torch" if noun == "text" else "Without it"}:

```python
{snippet(trained, program=program)}
```

{_tensor(trained.preprocess)}
"""


def _outputs(trained: Trained, noun: str) -> str:
    """A row of the table of facts: what becomes of the outputs."""
    if trained.recipe.get("head") == "maps":
        return f"| outputs | of a decoder ({_cell(trained.recipe.get('decoder', 'its own'))}) on the maps of whole pictures |"
    name, text = tasks.registry.get(trained.task).meaning(trained.class_names, trained.context)
    return f"| {name} | {_cell(text)}, chosen on the validation {noun}s |"


def _input(preprocess: AnyPreprocess, texts: str) -> str:
    """Rows of the table of facts: how items are prepared."""
    if isinstance(preprocess, TextPreprocess):
        windows = preprocess.words or preprocess.long_texts == "window"
        long = "read in overlapping windows" if windows else "cut off"
        prefix = f"; `{_cell(preprocess.prefix)}` is put before each" if preprocess.prefix else ""
        return f"| input | {texts}, tokenised by tokenizer.json; longer than {preprocess.max_length} tokens: {long}{prefix} |"
    height, width = preprocess.input_size[1:]
    return (
        f"| input | {height} × {width} RGB, values / 255, mean {list(preprocess.mean)}, std {list(preprocess.std)} |\n"
        f"| resize | {preprocess.interpolation}, crop {preprocess.crop_pct:g} ({preprocess.crop_mode}) |"
    )


def _tensor(preprocess: AnyPreprocess) -> str:
    if isinstance(preprocess, TextPreprocess):
        return "The input is `selector.modalities.text.Tokens` of a batch: token ids, attention mask and which tokens are the text's own."
    height, width = preprocess.input_size[1:]
    return f"The input is a float tensor (B, {preprocess.input_size[0]}, {height}, {width}), prepared as in the table above."


def snippet(trained: Trained, *, program: bool) -> str:
    """Python lines that load ``model`` from the current folder in plain timm or plain torch."""
    recipe = trained.recipe
    if recipe.get("head") == "maps":
        return (
            "import selector  # an encoder with a decoder: no public library builds both\n"
            "model = selector.load_model('.').module"
        )
    arguments = {**recipe.get("kwargs", {})}
    if trained.source == "timm" and not recipe.get("config"):
        return _library_snippet(
            recipe, f"import timm\nmodel = timm.create_model({recipe['model']!r}", arguments, "num_classes"
        )
    if trained.source == "torchvision":
        return _library_snippet(
            recipe,
            f"import torchvision\nmodel = torchvision.models.get_model({recipe['model']!r}",
            arguments,
            "num_classes",
        )
    if program:
        return "import torch\nmodel = torch.export.load('model.pt2').module()"
    return (
        "import json, selector.sources  # this network's code is not in a public library\n"
        "from safetensors.torch import load_file\n"
        "config = json.load(open('config.json'))\n"
        "model = selector.sources.registry.get(config['source']).build(config['recipe'])\n"
        "model.load_state_dict(load_file('model.safetensors'))"
    )


def _library_snippet(recipe: Mapping[str, Any], call: str, arguments: dict[str, Any], classes: str) -> str:
    native = recipe.get("head") == "native"
    if native:
        arguments[classes] = recipe["outputs"]
    elif recipe.get("backbone_classes") is not None:
        arguments[classes] = recipe["backbone_classes"]
    call += "".join(f", {key}={value!r}" for key, value in arguments.items()) + ")"
    lines = ["from safetensors.torch import load_file", call]
    if native:
        return "\n".join([*lines, "model.load_state_dict(load_file('model.safetensors'))", "model = model.eval()"])
    return "\n".join(
        [
            "import torch",
            *lines,
            "state = load_file('model.safetensors')",
            f"head = torch.nn.Linear({recipe['features']}, {recipe['outputs']})",
            "head.load_state_dict({k: state.pop(f'selector_head.{k}') for k in ('weight', 'bias')})",
            "model.load_state_dict(state)",
            *_features(recipe["path"]),
        ]
    )


def _features(path: Mapping[str, Any]) -> list[str]:
    """Lines that turn ``model`` (a backbone) and ``head`` into one callable ``model``."""
    out = {
        "head": "backbone.forward_head(backbone.forward_features(x), pre_logits=True)",
        "features": "backbone.forward_features(x)",
        "forward": "backbone(x)",
    }.get(path["kind"])
    lines = ["backbone = model.eval()"]
    if out is None:
        lines += [
            "caught = []",
            f"backbone.get_submodule({path['layer']!r}).register_forward_hook(lambda _, i, out: caught.append(out))",
            "run = lambda x: (backbone(x), caught.pop())[1]",
        ]
        out = "run(x)"
    pooled = out
    if path["layout"] != "rows":
        axes = {"nchw": (2, 3), "nhwc": (1, 2), "tokens": (1,)}[path["layout"]]
        if path["layout"] == "tokens" and path["pooling"] == "cls":
            pooled = f"{out}[:, 0]"
        else:
            skip = f"[:, {path['prefix_tokens']}:]" if path["layout"] == "tokens" and path["prefix_tokens"] else ""
            pooled = f"{out}{skip}.{'amax' if path['pooling'] == 'max' else 'mean'}({axes})"
    return [*lines, f"model = lambda x: head({pooled})"]


def _row(m: Measurement, *, resolution: bool) -> str:
    rate = "–" if m.learning_rate is None else f"{m.learning_rate:.4g}"
    measured = f"{_figure(m.val_value)} | {_figure(m.test_value)} | {m.steps} | {rate} | {m.seconds:.0f} s"
    size = f" {_size(m)} |" if resolution else ""
    return f"| {m.strategy} | {measured} | {m.trained_parameters:,} |{size} {_cell(m.note or m.status)} |"


def _figure(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:z.4f}"


def _size(m: Measurement) -> str:
    if m.resolution is None:
        return "–"
    return f"{m.resolution[0]} × {m.resolution[1]}{' (reduced)' if m.reduced else ''}"


def _cell(text: Any) -> str:
    """Names come from zoo files and folders: nothing in them may be read as Markdown or HTML."""
    shown = str(text if text is not None else "–").replace("\n", " ").replace("\r", " ")
    for sign, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'")):
        shown = shown.replace(sign, escaped)
    return shown
