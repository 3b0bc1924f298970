"""Networks of transformers: built without weights from a configuration, read at their layers, described again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from selector.core.errors import SourceError, did_you_mean, first_line
from selector.modalities.text import Tokens
from selector.sources import _weights
from selector.sources._encoder import seeded
from selector.sources._maps import hooked
from selector.sources._text_module import TextModule
from selector.sources._text_path import LAST, TextPath


class Transformer(TextModule):
    """A model of transformers without a head of its own.

    Args:
        token_types: whether it gets token types: which text of a pair a token belongs to.
        cut: it ended further down once: its last block is read as it is, without the norm behind the last.
    """

    def __init__(
        self,
        backbone: nn.Module,
        token_types: bool,
        path: TextPath | None = None,
        num_features: int = 0,
        num_outputs: int = 0,
        *,
        cut: bool = False,
    ) -> None:
        super().__init__(backbone, path, num_features, num_outputs)
        self.token_types = token_types
        self.cut = cut
        self.blocks = block_names(backbone)
        self.depth = int(cast(Any, backbone).config.num_hidden_layers)

    def layers(self, tokens: Tokens, ways: Sequence[TextPath], wanted: set[str]) -> list[list[Tensor]]:
        """See ``TextModule``; the embeddings are no layer, and the last one is read behind its norm."""
        inner = wanted != {LAST}

        def pooled(hidden: Tensor) -> list[Tensor]:
            if hidden.shape[:2] != tokens.ids.shape:
                hidden = hidden[:, : tokens.ids.shape[1]]  # some fill batches up to a multiple of their window
                if hidden.shape[:2] != tokens.ids.shape:
                    raise SourceError(
                        f"the layers of a {self.backbone.config.model_type} give {tuple(hidden.shape)} for "
                        f"{tuple(tokens.ids.shape)} tokens; expected (texts, tokens, width). Such networks are not read."
                    )
            return [way.pool(hidden, tokens) for way in ways]

        if inner and not self.blocks:  # one block that is run several times (ALBERT)
            return [pooled(states) for states in self._run(tokens, output_hidden_states=True).hidden_states[1:]]
        found: list[list[Tensor]] = []

        def keep(_name: str, out: Any) -> None:
            found.append(pooled(out[0] if isinstance(out, tuple | list) else out))

        with hooked(self.backbone, self.blocks[: None if self.cut else -1] if inner else (), keep):
            last = self._run(tokens).last_hidden_state
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


def create_backbone(config: Mapping[str, object], **more: object) -> nn.Module:
    """A model of transformers without weights and without the parts that features never use.

    ``more`` are settings of ours.

    Raises:
        SourceError: transformers cannot build it, or ``checked_settings`` refuses it.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    settings = checked_settings("transformers", config)
    kind = settings.pop("model_type")
    try:
        made = AutoConfig.for_model(kind, **settings, **more)
        return stripped(create(made))
    except (
        ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, AssertionError, StrictDataclassError,
    ) as error:  # fmt: skip
        raise SourceError(f"transformers cannot build a network of the type '{kind}': {first_line(error)}") from error


def model_class(kind: str) -> Any:
    """What builds and loads networks of a type: of those with an encoder and a decoder the encoder."""
    import transformers

    return getattr(transformers, _CLASSES.get(kind, "AutoModel"))


def create(config: Any) -> Any:
    """A network with random weights in float32 from a configuration of transformers."""
    kind = model_class(config.model_type)
    if config.model_type in _CLASSES:
        return kind._from_config(config, dtype=torch.float32)
    return kind.from_config(config, dtype=torch.float32, trust_remote_code=False)


def checked_settings(name: str, config: Mapping[str, object]) -> dict[str, Any]:
    """A configuration from somebody else, as far as it describes a network that transformers itself implements.

    What only people read (names of classes, where the weights once came from) is left out.

    Args:
        name: the model, for messages.
        config: what ``config.json``, a zoo entry or a saved model says.
    Raises:
        SourceError: a type that is not in ``MODEL_TYPES``, at any depth; code, weights or kernels from elsewhere.
    """
    settings = {key: value for key, value in config.items() if key not in _FOR_PEOPLE}
    _refuse_foreign(name, settings)
    if settings.get("model_type") is None:
        raise SourceError(f"{name}: the configuration has no model_type; expected one such as 'bert'.")
    _weights.require_plain(name, settings, "the configuration")
    return settings


def file_settings(name: str, config: Mapping[str, object]) -> dict[str, Any]:
    """As ``checked_settings``, of a ``config.json``, in which programs leave notes of their own.

    A text under a key that networks of this type do not read is left out where it is more than a plain word.
    """
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_TYPES or kind not in CONFIG_MAPPING:
        return checked_settings(name, config)
    read = CONFIG_MAPPING[kind]
    known = {*read().to_dict(), *getattr(read, "attribute_map", {}), "_attn_implementation", "attn_implementation"}
    texts = {key: value for key, value in config.items() if key not in known and isinstance(value, str)}
    noted = {key for key, value in texts.items() if not _weights.is_plain(value)}
    return checked_settings(name, {key: value for key, value in config.items() if key not in noted})


_FOR_PEOPLE = frozenset(
    {
        *("_name_or_path", "name_or_path", "architectures", "auto_map", "custom_pipelines", "dtype", "finetuning_task"),
        *("id2label", "label2id", "num_labels", "task_specific_params", "torch_dtype"),
        "transformers_version",
    }
)

_MOST_PARTS = 10_000  # layers, experts: lists of this length are made before the first weight is

_BUILT_IN = (None, "eager", "sdpa", "flex_attention")  # in float32; others fall back to kernels that are fetched


def _refuse_foreign(name: str, value: object) -> None:
    """Types that are not on the list, kernels and quantizers from elsewhere, at any depth of a configuration."""
    for part in value if isinstance(value, list | tuple) else ():
        _refuse_foreign(name, part)
    for key, part in value.items() if isinstance(value, Mapping) else ():
        if key == "model_type" and (not isinstance(part, str) or part not in MODEL_TYPES):
            near = did_you_mean(str(part), MODEL_TYPES)
            raise SourceError(
                f"{name}: the type {str(part)[:80]!r} is not read{near or '.'} Expected an encoder or a decoder of texts "
                "that transformers implements itself, such as bert, modernbert, gpt2 or llama."
            )
        if "implementation" in str(key) and not _is_built_in(part):
            raise SourceError(
                f"{name}: the configuration asks for {key} {str(part)[:80]!r}, which is code from elsewhere and is not "
                f"run; take the key out of config.json (read are {', '.join(map(str, _BUILT_IN[1:]))})."
            )
        if (
            isinstance(part, int)
            and part > _MOST_PARTS
            and any(word in str(key) for word in ("layer", "expert", "block"))
        ):
            raise SourceError(f"{name}: {key} is {part:,}; expected at most {_MOST_PARTS:,}.")
        if key in ("backbone", "use_timm_backbone", "use_pretrained_backbone") and part:
            raise SourceError(
                f"{name}: {key} names weights from elsewhere, which are not fetched; use backbone_config."
            )
        if key == "quantization_config" and part:
            raise SourceError(f"{name}: quantized weights are not read; take weights in floating point.")
        _refuse_foreign(name, part)


def _is_built_in(value: object) -> bool:
    """Of a network, or of its parts by name."""
    if isinstance(value, Mapping):
        return all(_is_built_in(part) for part in value.values())
    return value is None or isinstance(value, bool) or (isinstance(value, str) and value in _BUILT_IN)


ENCODER_CLASSES = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
}
"""Networks with an encoder and a decoder that are read by their encoder, and its class: the decoder is never built."""

IMAGE_CLASSES = {
    "clip": "CLIPModel",
    "clip_vision_model": "CLIPVisionModel",
    "rt_detr": "RTDetrForObjectDetection",
    "rt_detr_v2": "RTDetrV2ForObjectDetection",
    "d_fine": "DFineForObjectDetection",
}
"""Networks that read images, which ``vision:`` loads, and their classes."""

_CLASSES = {**ENCODER_CLASSES, **IMAGE_CLASSES}

MODEL_TYPES = frozenset(
    {
        *_CLASSES,
        *("clip_text_model", "rt_detr_resnet", "hgnet_v2"),  # parts of these
        # encoders
        *("albert", "bert", "bert-generation", "big_bird", "camembert", "convbert", "data2vec-text", "deberta"),
        *("deberta-v2", "distilbert", "electra", "ernie", "eurobert", "flaubert", "fnet", "funnel", "gte", "ibert"),
        *("jina_embeddings_v3", "layoutlm", "longformer", "luke", "megatron-bert", "mobilebert", "modernbert", "mpnet"),
        *("nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer"),
        *("splinter", "squeezebert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod"),
        # decoders
        *("apertus", "arcee", "biogpt", "bloom", "codegen", "cohere", "cohere2", "ctrl", "cwm", "deepseek_v2"),
        *("deepseek_v3", "diffllama", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "falcon", "gemma", "gemma2"),
        *("gemma3_text", "glm", "glm4", "glm4_moe", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox"),
        *("gpt_neox_japanese", "gpt_oss", "gptj", "granite", "granitemoe", "granitemoeshared", "helium"),
        *("hunyuan_v1_dense", "jetmoe", "lfm2", "llama", "minimax", "ministral", "mistral", "mixtral"),
        *("modernbert-decoder", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "openai-gpt", "opt", "persimmon"),
        *("phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm"),
        *("starcoder2", "vaultgemma", "xglm"),
    }
)
"""Types that are built. Each is a network of transformers' own code alone: it wraps no other library (``timm_wrapper``),
builds no network that a nested configuration names (``vision-encoder-decoder``) and fetches no kernels (``mra``, ``yoso``,
``mamba``)."""


def stripped(backbone: Any) -> nn.Module:
    """Without the pooler that some encoders carry for their pretraining, and without a cache of keys."""
    if backbone.config.is_encoder_decoder and backbone.config.model_type not in _CLASSES:
        raise SourceError(
            "of models with an encoder and a decoder only the T5 family is read, by its encoder; take another model."
        )
    if isinstance(getattr(backbone, "pooler", None), nn.Module):
        backbone.pooler = None
    backbone.config.use_cache = False
    module: nn.Module = backbone.eval()
    return module


def is_causal(network: Transformer, tokens: Tokens) -> bool:
    """Whether a token's output depends on earlier tokens only: a decoder. From two real passes."""
    other = tokens[:1]
    changed = Tokens(other.ids.clone(), other.mask, other.content, other.types, other.owner)
    changed.ids[0, -1] = (changed.ids[0, -1] + 1) % 3
    with torch.no_grad():
        first, second = (network._run(batch).last_hidden_state[0, 0] for batch in (other, changed))
    return bool(torch.allclose(first, second, rtol=0, atol=1e-6))


def describe(network: Transformer, path: TextPath) -> dict[str, object]:
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
        "token_types": network.token_types,
    }


def build_headed(recipe: Mapping[str, Any]) -> Transformer:
    """The module that a recipe describes, in eval mode, from the seeded random start."""
    with seeded():
        network = Transformer(
            create_backbone(recipe["config"]),
            recipe["token_types"],
            TextPath(**recipe["path"]),
            recipe["features"],
            recipe["outputs"],
            cut=recipe.get("cut", False),
        )
        return network.eval()
