"""Text models of transformers: ``transformers:org/name`` (hub) or ``transformers:path/to/folder``.

Encoders (BERT and its kin), decoders (GPT-2, Llama and their kin), the encoders of the T5 family and
sentence-transformers folders.
Features are, unless the zoo says otherwise, the mean over all layers of the mean over tokens
(docs/benchmarks/text-classification.md says on what evidence), of decoders weighted by position; a sentence-transformers
folder is read as its ``1_Pooling`` says, from its last layer, because that is what it was trained for.

Weights are read as tensors (safetensors, or ``pytorch_model.bin`` without running what it holds),
``trust_remote_code`` is always off, and the network is always built in float32: in which precision it runs is decided by the extraction.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from selector.core.contracts import Encoder
from selector.core.errors import SourceError, ZooError, first_line
from selector.core.preprocess import TextPreprocess, TruncationSide
from selector.modalities.tokens.tokenizer import panics_as_errors, parse_tokenizer
from selector.sources import _hub, _weights, source
from selector.sources._network import running
from selector.sources._text import MAX_LENGTH, TextEncoder, probe_tokens, read_tokenizer
from selector.sources._text_files import PICKLED, TOKENIZERS, WEIGHTS, ModelFiles, find_files
from selector.sources._text_path import LAST, TextPath

if TYPE_CHECKING:
    from torch import nn

    from selector.sources._sketch import Sketch
    from selector.sources._transformer import Transformer
    from selector.zoo import ModelSpec

log = logging.getLogger(__name__)

_RESERVED = frozenset(
    {
        *("trust_remote_code", "dtype", "torch_dtype", "auto_map", "attn_implementation", "output_hidden_states"),
        *("return_dict", "use_cache", "quantization_config", "device_map"),
    }
)

_SENTENCES, _PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
_POOLING = "1_Pooling/config.json"

_LEADS_ELSEWHERE = re.compile("_file$|_kwargs$|path|auto_map|chat_template")
"""Keys of ``tokenizer_config.json`` that name files or code, or that only programs for chats read."""

_POOLINGS = {"cls": "cls", "mean": "mean", "max": "max", "weightedmean": "weighted", "lasttoken": "last"}
"""By their names in sentence-transformers."""


_MOST_LAYERS = 1000  # that a configuration may claim before it is loaded


@source("transformers")
class TransformersSource:
    """The ``transformers:`` source."""

    prefix = "transformers"

    def expand(self, pattern: str) -> list[str]:
        """The reference itself; neither the hub nor folders are listed by a wildcard."""
        if any(char in pattern for char in "*?["):
            raise ZooError(f"{self.prefix}:{pattern}: name the model in full; a wildcard cannot list the hub.")
        return [pattern]

    def layers(self, spec: ModelSpec) -> list[str]:
        """Numbers of the layers, from the configuration; empty where it cannot be read (loading will say why)."""
        try:
            config = {**find_files(spec).read("config.json"), **spec.kwargs}
        except SourceError:
            return []
        names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
        count = next((config[key] for key in names if key in config), 0)
        return [str(i + 1) for i in range(count)] if isinstance(count, int) and count <= _MOST_LAYERS else []

    def repository(self, spec: ModelSpec) -> str | None:
        """The hub repository of the weights; None for a folder on this machine."""
        here = spec.model_id.startswith((".", "/")) or (Path(spec.base or ".") / spec.model_id).is_dir()
        return None if here else _hub.split_revision(spec.model_id)[0]

    def identify(self, spec: ModelSpec) -> dict[str, object]:
        """See ``contracts.Source``. The tokenizer is in it by content, as are pooling and maximum length."""
        _weights.refuse_kwargs(spec.name, spec.kwargs, _RESERVED)
        files = find_files(spec)
        identity = {"source": self.prefix, **files.identity(), **_weights.settings_identity(spec)}
        if spec.text is not None and spec.text.tokenizer is not None:
            identity["tokenizer"] = _weights.content_hash(spec.text.tokenizer.path())
        return identity | {"versions": _weights.versions("transformers", "tokenizers", "torch")}

    def load(self, spec: ModelSpec) -> Encoder:
        """See ``contracts.Source``."""
        identity = self.identify(spec)
        files = find_files(spec)
        backbone = load_backbone(spec, files)
        try:
            return TransformersEncoder(spec, files, backbone, identity)
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            # small files beside the weights that hold something of another type
            raise SourceError(
                f"{spec.name}: a setting in {files.folder} cannot be used: {first_line(error)}"
            ) from error

    def sketch(self, spec: ModelSpec) -> Sketch:
        """See ``_sketch``; from the configuration alone."""
        from selector.sources._sketch import on_meta, text_sketch
        from selector.sources._transformer import Transformer, create_backbone

        with on_meta(spec.name):
            backbone = create_backbone(_settings(spec, find_files(spec)))
        return text_sketch(Transformer(backbone, _has_token_types(backbone)))

    def build(self, recipe: Mapping[str, object]) -> nn.Module:
        """See ``contracts.Source``."""
        from selector.sources._transformer import build_headed

        return build_headed(recipe)


class TransformersEncoder(TextEncoder):
    """A transformer that reads texts.

    Raises:
        SourceError: as for ``TextEncoder``; no tokenizer, one that does not belong to the network, a length that the
            network cannot read.
    """

    module: Transformer

    def __init__(self, spec: ModelSpec, files: ModelFiles, backbone: nn.Module, identity: dict[str, object]) -> None:
        from selector.sources._transformer import Transformer, is_causal

        token_types = _has_token_types(backbone)
        preprocess = _preprocess(spec, files, backbone, token_types)
        own = _own_pooling(files)
        network = Transformer(backbone, token_types).eval()
        with running(spec.name):
            causal = is_causal(network, probe_tokens(preprocess))
        # the first token of a word sees the rest of it, except in a decoder
        super().__init__(
            spec,
            network,
            identity,
            preprocess,
            ("weighted", "mean") if causal else ("mean", "first"),
            None if own is None else TextPath(LAST, cast(Any, own), specials=not _leaves_prompt_out(preprocess)),
        )

    def describe(self) -> dict[str, object]:
        """See ``TextEncoder``."""
        from selector.sources._transformer import describe

        return describe(self.module, self.path)


def _leaves_prompt_out(preprocess: TextPreprocess) -> bool:
    """Whether a pooling counts the tokens behind a prompt only, which the tokenizer then marks as content."""
    return bool(preprocess.prompt) and not preprocess.include_prompt


def _has_token_types(backbone: nn.Module) -> bool:
    return int(getattr(cast(Any, backbone).config, "type_vocab_size", 0) or 0) > 1


def _settings(spec: ModelSpec, files: ModelFiles) -> dict[str, object]:
    """The configuration of a network without weights."""
    from selector.sources._transformer import file_settings

    own = file_settings(spec.name, files.read("config.json")) if files.folder else {}
    return {**own, **spec.kwargs}


# ---------------------------------------------------------------------------- weights


def load_backbone(spec: ModelSpec, files: ModelFiles, kinds: Collection[str] = ()) -> nn.Module:
    """The network with its weights, or from the seeded random start; of one of these types, else one that reads texts."""
    try:
        import transformers  # noqa: F401 - one clear error, wherever it is missing
    except ImportError as error:
        raise SourceError(f"{spec.name}: {error}; run: pip install 'zoo-selector[text]'") from None
    from selector.sources._bounded import bounded_settings
    from selector.sources._encoder import seeded
    from selector.sources._transformer import IMAGE_CLASSES, create_backbone

    kind = {**files.read("config.json"), **spec.kwargs}.get("model_type")
    if (str(kind) in IMAGE_CLASSES) != bool(kinds):
        expected = f"'vision:' reads {', '.join(kinds)}" if kinds else "it reads images: name it as 'vision:'"
        raise SourceError(f"{spec.name}: its type is {str(kind)[:80]!r}; {expected}.")
    if not files.weights:
        config = _settings(spec, files)
        with seeded(), bounded_settings(spec.name, config):
            return create_backbone(config)
    files.fetched(spec.name)
    for file in files.weights:
        if files.folder is not None:
            _weights.refuse_quantized(files.folder / file.filename, spec.name)
    return _pretrained(spec, files)


def _pretrained(spec: ModelSpec, files: ModelFiles) -> nn.Module:
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError
    from transformers import CONFIG_MAPPING
    from transformers.utils import logging

    from selector.sources._bounded import bounded_settings
    from selector.sources._encoder import seeded
    from selector.sources._transformer import checked_settings, create, file_settings, model_class, stripped

    folder = str(files.folder)
    settings = file_settings(spec.name, files.read("config.json"))
    kind = settings.pop("model_type")
    checked_settings(spec.name, {"model_type": kind, **spec.kwargs})
    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it reports unused heads, which are meant to be unused
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with seeded(), _alone(files, [file.filename for file in files.weights]) as place:
            config, unknown = CONFIG_MAPPING[kind].from_dict(settings, return_unused_kwargs=True, **dict(spec.kwargs))
            if unknown:
                raise SourceError(
                    f"{spec.name}: config.json of a {kind} has no setting '{next(iter(unknown))}' (kwargs of the zoo entry)."
                )
            with torch.device("meta"), bounded_settings(spec.name, settings, *files.fetched(spec.name)):
                create(config)
            model, found = model_class(kind).from_pretrained(
                place,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=not files.pickled,
                weights_only=True,
                output_loading_info=True,
            )
    except SourceError:
        raise
    except UnpicklingError as error:
        raise SourceError(f"{spec.name}: {_weights.refused(Path(folder) / files.weights[0].filename, error)}") from None
    except SafetensorError as error:
        raise SourceError(f"{spec.name}: the weights in {folder} are damaged ({error}); fetch them again.") from None
    except Exception as error:
        # whatever a model's files make transformers raise is this model's failure
        raise SourceError(f"{spec.name}: transformers cannot load {folder}: {first_line(error)}") from error
    finally:
        logging.set_verbosity(shown)
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    backbone = stripped(model)
    own = set(backbone.state_dict())
    missing = sorted(set(found["missing_keys"]) & own)
    if missing or found.get("mismatched_keys"):
        what = missing or sorted(str(key) for key in found["mismatched_keys"])
        raise SourceError(
            f"{spec.name}: the weights in {folder} do not fit their config.json: {len(what)} missing or of another "
            f"shape, such as {what[0]}."
        )
    return backbone


@contextmanager
def _alone(files: ModelFiles, names: Sequence[str], **written: Mapping[str, object]) -> Iterator[str]:
    """A folder that holds the named files of a model and nothing else.

    transformers follows what else it finds beside them, such as an ``adapter_config.json`` that names another model.

    Args:
        files: the model.
        names: files that are there under the same name.
        written: contents of JSON files that stand for the model's own, by name without ``.json``.
    """
    assert files.folder is not None
    with tempfile.TemporaryDirectory(prefix="selector-model-") as place:
        parts = [*names, *(f"{name}.index.json" for name in (WEIGHTS, PICKLED) if len(names) > 1)]
        for name in parts:
            if (files.folder / name).is_file():
                (Path(place) / name).symlink_to((files.folder / name).resolve())
        for stem, content in written.items():
            (Path(place) / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")
        yield place


# ---------------------------------------------------------------------------- tokens


def _preprocess(spec: ModelSpec, files: ModelFiles, backbone: nn.Module, token_types: bool) -> TextPreprocess:
    config = cast(Any, backbone).config
    tokenizer, own_length, own_pad, side = read_tokenizer_files(spec, files)
    if files.read(_SENTENCES).get("do_lower_case"):
        tokenizer = _lower_cased(tokenizer)
    positions = _positions(backbone)
    longest = [n for n in (_sentence_length(files), own_length, positions, MAX_LENGTH) if n and n > 0]
    pad = config.pad_token_id if config.pad_token_id is not None else own_pad
    known = int(config.vocab_size)
    if (largest := _largest_id(tokenizer)) >= known:
        raise SourceError(
            f"{spec.name}: its tokenizer has the token {largest}, but the network knows {known} (0..{known - 1}): they do "
            "not belong together."
        )
    preprocess = TextPreprocess(
        tokenizer=tokenizer,
        max_length=min(longest),
        pad_id=_pad_id(pad, config),
        token_types=token_types,
        truncation_side=side,
        prompt=_prompt(spec, files),
        include_prompt=files.read(_POOLING).get("include_prompt") is not False,
    )
    if spec.text is not None:
        preprocess = replace(preprocess, **spec.text.changes())
    if positions and preprocess.max_length > positions:
        raise SourceError(
            f"{spec.name}: text.max_length {preprocess.max_length} is more than the {positions} tokens that the network "
            "has positions for; lower it ('long_texts: window' reads all of a text in pieces of that length)."
        )
    return preprocess


def _prompt(spec: ModelSpec, files: ModelFiles) -> str:
    """What a sentence-transformers folder puts before a text: its default prompt, or the one that the zoo names.

    Raises:
        SourceError: no prompt of that name, or a file that holds something else.
    """
    said = files.read(_PROMPTS)
    prompts = said.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise SourceError(f"{spec.name}: 'prompts' in {_PROMPTS} must be texts by name; take the key out of the file.")
    asked = spec.text.prompt_name if spec.text is not None else None
    name = asked or said.get("default_prompt_name")
    if name is None:
        return ""
    if name not in prompts:
        whose = "text.prompt_name" if asked else f"default_prompt_name of {_PROMPTS}"
        known = f"known are {', '.join(map(repr, prompts))}" if prompts else "the model has none"
        raise SourceError(
            f"{spec.name}: {whose} is {str(name)[:80]!r}, and no prompt is called so; {known}. Or give the text itself as "
            "'text: {prompt: ...}'."
        )
    return str(prompts[name])


def _lower_cased(tokenizer: str) -> str:
    from tokenizers import Tokenizer, normalizers

    made = Tokenizer.from_str(tokenizer)
    own = [made.normalizer] if made.normalizer else []
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return str(made.to_str())


def _largest_id(tokenizer: str) -> int:
    from tokenizers import Tokenizer

    return max(Tokenizer.from_str(tokenizer).get_vocab(with_added_tokens=True).values(), default=0)


def _pad_id(pad: int | None, config: Any) -> int:
    """A tokenizer without a token for filling up (decoders) fills up with any: the network is told not to look."""
    vocabulary = int(config.vocab_size)
    return pad if pad is not None and 0 <= pad < vocabulary else 0


def read_tokenizer_files(spec: ModelSpec, files: ModelFiles) -> tuple[str, int | None, int | None, TruncationSide]:
    """The tokenizer as JSON, its maximum length and its pad id, where it says so, and where it cuts."""
    if spec.text is not None and spec.text.tokenizer is not None:
        return read_tokenizer(spec), None, None, "right"
    if files.folder is None or not any((files.folder / name).is_file() for name in TOKENIZERS):
        raise SourceError(
            f"{spec.name}: {files.folder or 'the zoo entry'} has no tokenizer (one of {', '.join(TOKENIZERS)}); add its "
            "files, or name a tokenizer.json with 'text: {tokenizer: {file: ...}}'."
        )
    from transformers import AutoTokenizer

    from selector.sources._transformer import file_settings

    config = file_settings(spec.name, files.read("config.json"))
    said = {
        key: value for key, value in files.read("tokenizer_config.json").items() if not _LEADS_ELSEWHERE.search(key)
    }
    names = (*TOKENIZERS, "merges.txt", "added_tokens.json", "special_tokens_map.json")
    try:
        if (files.folder / TOKENIZERS[0]).is_file():
            parse_tokenizer((files.folder / TOKENIZERS[0]).read_text(encoding="utf-8"))  # before the library does
        with _alone(files, names, config=config, tokenizer_config=said) as place, panics_as_errors():
            found = AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=True)
        backend = found.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        text = str(backend.to_str())
    except Exception as error:
        # as for the weights; slow tokenizers have no backend at all
        raise SourceError(
            f"{spec.name}: the tokenizer in {files.folder} cannot be used: {first_line(error)}"
        ) from error
    if set(backend.get_vocab()) <= set(found.all_special_tokens):  # made from nothing, where files have other names
        raise SourceError(
            f"{spec.name}: {type(found).__name__}, which transformers takes for {files.folder}, finds no words in its "
            "files; add a tokenizer.json that belongs to the network."
        )
    length = found.model_max_length
    side: TruncationSide = "left" if found.truncation_side == "left" else "right"
    return text, int(length) if length and length < 10**6 else None, found.pad_token_id, side


def _positions(backbone: nn.Module) -> int | None:
    """Tokens that the network has positions for: what its configuration says, or fewer by its table."""
    said = getattr(cast(Any, backbone).config, "max_position_embeddings", None)
    table = _table_of_positions(backbone)
    known = [n for n in (said, table) if isinstance(n, int) and n > 0]
    return min(known, default=None)


def _table_of_positions(backbone: nn.Module) -> int | None:
    for name, child in backbone.named_modules():
        if name.rpartition(".")[2] in ("position_embeddings", "wpe") and hasattr(child, "num_embeddings"):
            table = cast(Any, child)
            # RoBERTa and its kin count positions from behind the one that is for padding
            return int(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
    return None


def _sentence_length(files: ModelFiles) -> int | None:
    length = files.read(_SENTENCES).get("max_seq_length")
    return int(length) if length else None


# ---------------------------------------------------------------------------- pooling


def _own_pooling(files: ModelFiles) -> str | None:
    """How a sentence-transformers folder pools; None for other folders."""
    said = files.read(_POOLING)
    if not said or not files.read("modules.json"):
        return None
    named = said.get("pooling_mode", [])  # since version 5.2; a switch for each before
    chosen = [named] if isinstance(named, str) else list(named)
    switches = (key for key, on in said.items() if key.startswith("pooling_mode_") and on is True)
    chosen += [key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for key in switches]
    pooling = _POOLINGS.get(chosen[0]) if len(chosen) == 1 else None
    if pooling is None:
        log.warning(
            "%s pools by %s, which is not read; its features are those of a plain encoder (the mean over all layers)",
            files.folder, " and ".join(map(str, chosen)) or "nothing",
        )  # fmt: skip
    return pooling
