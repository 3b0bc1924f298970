"""What the transformers source builds: a network that reads tokens and gives a feature row a text.

Features are pooled inside the forward pass, layer by layer, so that the hidden states of all layers
are never in memory together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from selector.core.errors import SourceError
from selector.modalities.text import Tokens

TextPooling = Literal["mean", "cls", "last", "weighted", "max", "first"]
WORD_POOLINGS = ("first", "mean")

MEAN, LAST = "mean", "last"

_ELSEWHERE = {"avg": "images", "first": "words"}
"""Poolings that are not over the tokens of a text, and what they are for."""

_AT_ONCE = (8192, 131_072)  # tokens of windows in a forward pass on the processor, and elsewhere


@dataclass(frozen=True)
class TextPath:
    """How features (B, D) are read off a text network.

    Attributes:
        layer: ``mean`` over all layers without the embeddings, ``last``, or a number from 1.
        pooling: over the tokens of a text; ``weighted`` is the mean weighted by position, for
            decoders, whose later tokens have seen more (Muennighoff, arXiv:2202.08904). Of texts that
            are lists of words over the tokens of each word: ``first`` or ``mean``.
        specials: whether tokens that the tokenizer adds count in mean and max.
    """

    layer: str = MEAN
    pooling: TextPooling = "mean"
    specials: bool = False

    def depth(self, blocks: int) -> int:
        """How many of so many blocks are read."""
        return min(int(self.layer), blocks) if self.layer.isdigit() else blocks

    def pool(self, hidden: Tensor, tokens: Tokens) -> Tensor:
        """(R, T, D) to (B, D) in float32; windows of one text are averaged. Of lists of words (W, D), a row a word."""
        if tokens.words is not None:
            return tokens.per_word(hidden, first=self.pooling == "first")
        if self.pooling == "cls":
            rows = hidden[:, 0].float()
        elif self.pooling == "last":
            rows = hidden[torch.arange(len(hidden), device=hidden.device), tokens.mask.sum(1) - 1].float()
        else:
            counted = tokens.mask.bool()
            if not self.specials:
                # a text of which the tokenizer leaves nothing still has its special tokens
                own = tokens.content & counted
                counted = own | (counted & ~own.any(1, keepdim=True))
            if self.pooling == "max":
                rows = hidden.masked_fill(~counted[:, :, None], float("-inf")).amax(1).float()
            else:
                weights = counted.float()
                if self.pooling == "weighted":
                    weights = weights * weights.cumsum(1)
                weights = weights / weights.sum(1, keepdim=True)
                rows = torch.bmm(weights[:, None], hidden.float())[:, 0]
        return tokens.per_text(rows)


def text_pooling(name: str, pooling: str | None, usual: TextPooling) -> TextPooling:
    """How a model pools the tokens of a whole text: what is asked for, else what is usual for it.

    Raises:
        SourceError: a pooling of images or words.
    """
    if pooling in _ELSEWHERE:
        known = ", ".join(sorted({*get_args(TextPooling)} - {*_ELSEWHERE}))
        raise SourceError(f"{name}: pooling '{pooling}' is for {_ELSEWHERE[pooling]}; texts take {known}.")
    return cast(TextPooling, pooling or usual)


def require_layer(name: str, layer: str, layers: int) -> None:
    """Whether a network of so many layers can be read there.

    Raises:
        SourceError: no such layer.
    """
    if layer not in (MEAN, LAST, *(str(i) for i in range(1, layers + 1))):
        raise SourceError(f"{name}: there is no layer '{layer}'; expected 'mean', 'last' or a number in 1..{layers}.")


class TextNetwork(nn.Module):
    """A transformer whose features are read at one place or several.

    Attributes:
        backbone: a model of transformers without a head.
        token_types: whether it is told which text of a pair a token belongs to.
        cut: it ended further down once: its last block is read as it is, without the norm behind the last.
        blocks: names of its layers within ``backbone``; empty where one block is run several times.
    """

    def __init__(self, backbone: nn.Module, token_types: bool, cut: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.token_types = token_types
        self.cut = cut
        self.blocks = block_names(backbone)

    def read(self, tokens: Tokens, paths: Sequence[TextPath]) -> list[Tensor]:
        """Features (B, D) of each path from one forward pass.

        Texts of many windows go through in several, unless gradients are wanted: a book must not
        need the memory of all of its windows at once.
        """
        windows = tokens.windows and tokens.words is None and not torch.is_grad_enabled()
        if windows and tokens.ids.numel() > (budget := _AT_ONCE[tokens.device.type != "cpu"]):
            parts = [self._read(part, paths) for part in tokens.rows(max(1, budget // tokens.ids.shape[1]))]
            return [tokens.per_text(torch.cat(rows)) for rows in zip(*parts, strict=True)]
        return self._read(tokens, paths)

    def _read(self, tokens: Tokens, paths: Sequence[TextPath]) -> list[Tensor]:
        ways = list(dict.fromkeys(replace(path, layer=LAST) for path in paths))
        inner = any(path.layer != LAST for path in paths)
        layers = self._layers(tokens, ways, inner)
        found = []
        for path in paths:
            way = [pooled[ways.index(replace(path, layer=LAST))] for pooled in layers]
            if path.layer == MEAN:
                found.append(torch.stack(way).mean(0))
            else:
                found.append(way[-1] if path.layer == LAST else way[int(path.layer) - 1])
        return found

    def _layers(self, tokens: Tokens, ways: Sequence[TextPath], inner: bool) -> list[list[Tensor]]:
        """For every layer, the embeddings not among them, its output pooled in each way; the last one after its norm."""

        def pooled(hidden: Tensor) -> list[Tensor]:
            if hidden.shape[:2] != tokens.ids.shape:
                hidden = hidden[:, : tokens.ids.shape[1]]  # some fill batches up to a multiple of their window
                if hidden.shape[:2] != tokens.ids.shape:
                    raise SourceError(
                        f"the layers of a {cast(Any, self.backbone).config.model_type} give {tuple(hidden.shape)} for "
                        f"{tuple(tokens.ids.shape)} tokens; expected (texts, tokens, width). Such networks are not read."
                    )
            return [way.pool(hidden, tokens) for way in ways]

        if inner and not self.blocks:  # one block that is run several times (ALBERT)
            return [pooled(states) for states in self._run(tokens, output_hidden_states=True).hidden_states[1:]]
        found: list[list[Tensor]] = []

        def keep(_module: nn.Module, _inputs: Any, out: Any) -> None:
            found.append(pooled(out[0] if isinstance(out, tuple | list) else out))

        hooked = self.blocks[: None if self.cut else -1] if inner else ()
        handles = [self.backbone.get_submodule(name).register_forward_hook(keep) for name in hooked]
        try:
            last = self._run(tokens).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        return found if self.cut else [*found, pooled(last)]

    def _run(self, tokens: Tokens, **more: Any) -> Any:
        types = {"token_type_ids": tokens.types} if self.token_types else {}
        return self.backbone(input_ids=tokens.ids, attention_mask=tokens.mask, **types, **more)


def block_names(backbone: Any) -> tuple[str, ...]:
    """Dotted names of the layers: the list with as many members as the configuration has layers."""
    wanted = backbone.config.num_hidden_layers
    for name, child in backbone.named_modules():
        if isinstance(child, nn.ModuleList) and len(child) == wanted:
            return tuple(f"{name}.{i}" for i in range(wanted))
    return ()


class HeadedTextNetwork(TextNetwork):
    """A transformer with a linear layer on the features of one path."""

    def __init__(
        self,
        backbone: nn.Module,
        token_types: bool,
        path: TextPath,
        num_features: int,
        num_outputs: int,
        *,
        cut: bool = False,
    ) -> None:
        super().__init__(backbone, token_types, cut)
        self.path = path
        self.selector_head = nn.Linear(num_features, num_outputs)

    def forward(self, tokens: Tokens) -> Tensor:
        """Outputs (B, K)."""
        return cast(Tensor, self.selector_head(self.read(tokens, [self.path])[0]))

    def get_classifier(self) -> nn.Linear:
        """The head."""
        return self.selector_head


def create_backbone(config: Mapping[str, Any]) -> nn.Module:
    """A model of transformers without weights and without the parts that features never use.

    Raises:
        SourceError: transformers cannot build it.
    """
    from transformers import AutoConfig, AutoModel

    settings = dict(config)
    kind = settings.pop("model_type", None)
    require_built_in(f"transformers: {kind}", settings)
    try:
        made = AutoConfig.for_model(kind, **settings)
        return stripped(AutoModel.from_config(made, dtype=torch.float32, trust_remote_code=False))  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, AssertionError) as error:
        raise SourceError(f"transformers cannot build a network of the type '{kind}': {first_line(error)}") from error


_BUILT_IN = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


def require_built_in(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a configuration that names kernels of a repository, which transformers would fetch and run.

    Raises:
        SourceError: an attention implementation that is not one of transformers' own, at any depth.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            require_built_in(name, value)
        elif "_implementation" in key and value not in _BUILT_IN:
            raise SourceError(
                f"{name}: the configuration asks for {key} {value!r}, which is code from elsewhere and is not run; "
                "take the key out of config.json."
            )


def stripped(backbone: Any) -> nn.Module:
    """Without the pooler that some encoders carry for their pretraining, and without a cache of keys."""
    if backbone.config.is_encoder_decoder:
        raise SourceError("models with an encoder and a decoder (T5, BART) are not read; take an encoder or a decoder.")
    if isinstance(getattr(backbone, "pooler", None), nn.Module):
        backbone.pooler = None
    backbone.config.use_cache = False
    module: nn.Module = backbone.eval()
    return module


def is_causal(network: TextNetwork, tokens: Tokens) -> bool:
    """Whether a token's output depends on earlier tokens only: a decoder. From two real passes."""
    other = tokens[:1]
    changed = Tokens(other.ids.clone(), other.mask, other.content, other.types, other.owner)
    changed.ids[0, -1] = (changed.ids[0, -1] + 1) % 3
    with torch.no_grad():
        first, second = (network._run(batch).last_hidden_state[0, 0] for batch in (other, changed))
    return bool(torch.allclose(first, second, rtol=0, atol=1e-6))


def describe(network: TextNetwork, path: TextPath, num_features: int, num_outputs: int) -> dict[str, Any]:
    """Plain JSON from which ``build_headed`` makes the network again, up to the layer of the path, without weights."""
    config = cast(Any, network.backbone).config
    plain = {"model_type": config.model_type, **config.to_diff_dict()}
    count = len(network.blocks)
    if (depth := path.depth(count)) < count:
        # such as the kind of attention of each layer
        a_layer = {k for k, v in plain.items() if "layer" in k and isinstance(v, list) and len(v) == count}
        plain |= {key: plain[key][:depth] for key in a_layer}
        plain[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = depth
    return {
        "source": "transformers",
        "model": config.model_type,
        "config": plain,
        **({"cut": True} if network.cut or depth < count else {}),
        "path": asdict(path),
        "token_types": network.token_types,
        "features": num_features,
        "outputs": num_outputs,
    }


def build_headed(recipe: Mapping[str, Any], seeded: Callable[[], Any]) -> HeadedTextNetwork:
    """The module that ``describe`` tells of, in eval mode, from the seeded random start."""
    with seeded():
        network = HeadedTextNetwork(
            create_backbone(recipe["config"]),
            recipe["token_types"],
            TextPath(**recipe["path"]),
            recipe["features"],
            recipe["outputs"],
            cut=recipe.get("cut", False),
        )
        return network.eval()


def first_line(error: BaseException) -> str:
    """Type and first line of an error of another library."""
    return f"{type(error).__name__}: {(str(error) or 'no message').strip().splitlines()[0][:200]}"
