"""Lines of Python that load a saved model from the current folder without this package, for its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from selector.core.contracts import TextPreprocess
from selector.deploy.hub import library_of

if TYPE_CHECKING:
    from selector.tuning import Trained


def snippet(trained: Trained, *, program: bool) -> str:
    """Python lines that load ``model`` from the current folder in plain timm or plain torch."""
    recipe = trained.recipe
    if recipe.get("head") == "maps":
        return (
            "import selector  # an encoder with a decoder: no public library builds both\n"
            "model = selector.load_model('.').module"
        )
    arguments = {**recipe.get("kwargs", {})}
    if library_of(trained.source, recipe) == "timm":
        return "import timm\nmodel = timm.create_model('local-dir:.', pretrained=True).eval()"
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
    if trained.source == "transformers":
        return _text_snippet(trained)
    if program:
        return "import torch\nmodel = torch.export.load('model.pt2').module()"
    if recipe.get("reads") == "text":
        return _own_text_snippet(trained)
    if trained.source == "elmo":
        return (
            "# No public library that is kept up reads ELMo, and neither a torch program nor ONNX takes its LSTMs, which clip\n"
            "# their cells and run over any number of words; so these lines need zoo-selector.\n"
            "import selector\nmodel = selector.load_model('.').predict  # a list of texts -> labels, probabilities"
        )
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


_POOLED = {
    "mean": "weights = counted / counted.sum(1, keepdim=True)\n    return (weights[:, :, None] * hidden).sum(1)",
    "weighted": (
        "weights = counted * counted.cumsum(1)\n"
        "    weights = weights / weights.sum(1, keepdim=True)\n    return (weights[:, :, None] * hidden).sum(1)"
    ),
    "max": "return hidden.masked_fill(counted[:, :, None] == 0, float('-inf')).amax(1)",
    "cls": "return hidden[:, 0]",
    "last": "return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]",
}


def _text_snippet(trained: Trained) -> str:
    """A backbone of transformers, its tokenizer, and the head on the states that it was trained on."""
    recipe, preprocess = trained.recipe, cast("TextPreprocess", trained.preprocess)
    path, network = recipe["path"], trained.module
    blocks = list(getattr(network, "blocks", ()))
    types = ", token_type_ids=torch.tensor([row.type_ids for row in rows])" if preprocess.token_types else ""
    ends = "caught[-1]" if recipe.get("cut") else "out.last_hidden_state"
    inner = "caught[:-1]" if blocks else "list(out.hidden_states[1:-1])"
    states = {"mean": f"[*{inner}, {ends}]", "last": f"[{ends}]"}.get(path["layer"])
    if states is None:  # the network was saved up to that layer
        states = f"[{ends}]" if blocks else f"[out.hidden_states[{path['layer']}]]"
    return "\n".join(
        [
            "import torch",
            "from safetensors.torch import load_file",
            "from tokenizers import Tokenizer",
            "from transformers import AutoModel",
            "",
            "backbone = AutoModel.from_pretrained('.').eval()",
            *_head_and_tokenizer(recipe, preprocess),
            *(
                [
                    "caught = []  # the states after each layer",
                    f"for name in {blocks!r}:",
                    "    backbone.get_submodule(name).register_forward_hook(",
                    "        lambda _, given, out: caught.append(out[0] if isinstance(out, (tuple, list)) else out))",
                ]
                if blocks
                else []
            ),
            "",
            *_pool(path, preprocess),
            "",
            "def model(texts):",
            *_batch(preprocess),
            *(["    caught.clear()"] if blocks else []),
            f"    out = backbone(input_ids=ids, attention_mask=mask{types}, output_hidden_states={not blocks})",
            f"    return head(torch.stack([pool(hidden, mask, own) for hidden in {states}]).mean(0))",
        ]
    )


def _own_text_snippet(trained: Trained) -> str:
    """A network that a factory of somebody's own code makes, its tokenizer, and the head on the states of its layers."""
    recipe, preprocess = trained.recipe, cast("TextPreprocess", trained.preprocess)
    path = recipe["path"]
    module, factory = str(recipe["model"]).split(":")
    arguments = ", ".join(f"{key}={value!r}" for key, value in recipe.get("kwargs", {}).items())
    layer = path["layer"]
    chosen = {"mean": "states", "last": "states[-1:]"}.get(layer) or f"[states[{int(layer) - 1}]]"
    return "\n".join(
        [
            "import torch",
            "from safetensors.torch import load_file",
            "from tokenizers import Tokenizer",
            f"from {module} import {factory}  # the code that the network was made with",
            "",
            f"backbone = {factory}({arguments}).eval()",
            *_head_and_tokenizer(recipe, preprocess),
            "own = {key.removeprefix('backbone.'): value for key, value in state.items() if key.startswith('backbone.')}",
            "backbone.load_state_dict(own)",
            "",
            *_pool(path, preprocess),
            "",
            "def model(texts):",
            *_batch(preprocess),
            "    states = backbone(ids, mask)",
            "    states = list(states) if isinstance(states, (list, tuple)) else [states]",
            f"    return head(torch.stack([pool(hidden, mask, own) for hidden in {chosen}]).mean(0))",
        ]
    )


def _head_and_tokenizer(recipe: Mapping[str, Any], preprocess: TextPreprocess) -> list[str]:
    return [
        f"head = torch.nn.Linear({recipe['features']}, {recipe['outputs']})",
        "state = load_file('model.safetensors')",
        "head.load_state_dict({key: state[f'selector_head.{key}'] for key in ('weight', 'bias')})",
        "tokenizer = Tokenizer.from_file('tokenizer.json')",
        f"tokenizer.enable_truncation({preprocess.max_length}, direction={preprocess.truncation_side!r})",
        f"tokenizer.enable_padding(pad_id={preprocess.pad_id})",
    ]


def _pool(path: Mapping[str, Any], preprocess: TextPreprocess) -> list[str]:
    """A function from states (B, T, D) to features (B, D); of words the states of all tokens."""
    if preprocess.words:
        return ["def pool(hidden, mask, own):", "    return hidden"]
    own = "mask" if path["specials"] else "own + (mask - own) * (own.sum(1, keepdim=True) == 0)"
    return ["def pool(hidden, mask, own):", f"    counted = ({own}).float()", f"    {_POOLED[path['pooling']]}"]


def _batch(preprocess: TextPreprocess) -> list[str]:
    """From ``texts`` to ids, mask, and which tokens are the text's own, all (B, T)."""
    prefix = f"{preprocess.prefix!r} + text" if preprocess.prefix else "text"
    return [
        f"    rows = tokenizer.encode_batch([{prefix} for text in texts])",
        "    ids, mask = (torch.tensor([getattr(row, name) for row in rows]) for name in ('ids', 'attention_mask'))",
        "    own = mask * (1 - torch.tensor([row.special_tokens_mask for row in rows]))",
    ]
