"""Tiny text models of every architecture family, with tokenizers that are built here."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from selector.modalities.text import TextTokenizer, Tokens
from selector.sources import registry
from selector.zoo import ModelSpec

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
DECODER = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}

ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **SMALL},
    "roberta": {"model_type": "roberta", **SMALL, "max_position_embeddings": 130, "type_vocab_size": 1},
    "deberta": {
        **{"model_type": "deberta-v2", **SMALL, "relative_attention": True, "position_biased_input": False},
        **{"pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "position_buckets": 16, "type_vocab_size": 0},
    },
    "mpnet": {"model_type": "mpnet", **SMALL},
    "electra": {"model_type": "electra", **SMALL, "embedding_size": 16},
    "modernbert": {
        **{"model_type": "modernbert", **SMALL, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3},
        **{"bos_token_id": 2, "eos_token_id": 3},
    },
    "albert": {"model_type": "albert", **SMALL, "embedding_size": 16},
}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {
        **{"model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
        **{"bos_token_id": 2, "eos_token_id": 3},
    },
    "llama": {"model_type": "llama", **DECODER},
    "gemma": {"model_type": "gemma3_text", **DECODER},
    "qwen": {"model_type": "qwen3", **DECODER},
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}
ENCODERS_OF_TWO: dict[str, dict[str, Any]] = {
    "t5": {"model_type": "t5", **T5},
    "mt5": {"model_type": "mt5", **T5},
    "umt5": {"model_type": "umt5", **T5},
    "longt5": {"model_type": "longt5", **T5, "local_radius": 4},
}
FAMILIES = {**ENCODERS, "t5": ENCODERS_OF_TWO["t5"], **DECODERS}

WORDS = [
    *("a", "the", "of", "to", "and", "in", "is", "it", "good", "bad", "film", "plot", "actor", "great"),
    *("awful", "dull", "bright", "warm", "cold", "storm", "rain", "sun", "ball", "goal", "team", "match"),
    *("win", "loss", "bank", "card", "money", "loan", "pay", "price", "how", "what", "who", "where"),
    *("when", "which", "city", "river", "book", "song", "quick", "brown", "fox", "jumps", "over", "lazy"),
    *("dog", "second", "text", "query", ":", ".", ",", "!", "?", "##s", "##ed", "##ing"),
]


def vocabulary() -> dict[str, int]:
    """Special tokens, letters (so that nothing is unknown) and some words."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [str(d) for d in range(10)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters, *(f"##{c}" for c in letters)]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def wordpiece() -> Tokenizer:
    """As BERT's: [CLS] text [SEP], or [CLS] first [SEP] second [SEP]."""
    known = vocabulary()
    tokenizer = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", known["[CLS]"]), ("[SEP]", known["[SEP]"])],
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def byte_level() -> Tokenizer:
    """As GPT-2's: every byte is a token, nothing is added, there is none for filling up."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def text_model(folder: Path, family: str = "bert", *, tokenizer: bool = True, seed: int = 0, **changes: Any) -> Path:
    """A folder as ``save_pretrained`` writes it, with seeded random weights."""
    from transformers import AutoConfig, AutoModel

    settings = {**{**FAMILIES, **ENCODERS_OF_TWO}[family], **changes}
    made = byte_level() if family in DECODERS else wordpiece()
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=300, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModel.from_config(config, dtype=torch.float32).save_pretrained(folder)
    if tokenizer:
        made.save(str(folder / "tokenizer.json"))
        special: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
        if family not in DECODERS:
            special |= {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def sentence_model(folder: Path, pooling: str = "pooling_mode_cls_token") -> Path:
    """A sentence-transformers folder around a tiny BERT."""
    text_model(folder)
    (folder / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}])
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, pooling: True}))
    return folder


TEXTS = ["how is the film", "a", "the quick brown fox jumps over the lazy dog . what a great text !", "good"]


def load_text(place: str | Path, source: str = "transformers", **more: Any) -> Any:
    """The encoder of a folder or a repository."""
    return registry.get(source).load(ModelSpec.model_validate({"source": f"{source}:{place}", **more}))


def tokens(encoder: Any, texts: list[Any] = TEXTS) -> Tokens:
    """A batch as the encoder takes it."""
    return Tokens.of(TextTokenizer(encoder.preprocess)(texts), encoder.preprocess.pad_id)


def per_layer(encoder: Any, batch: Tokens, **more: Any) -> list[torch.Tensor]:
    """Features of each of its layers, from one pass."""
    spec = {"source": "transformers:x", "text": {"words": True} if encoder.preprocess.words else None, **more}
    readings = [
        encoder.variant(ModelSpec.model_validate({**spec, "layer": str(i + 1)})) for i in range(encoder.module.depth)
    ]
    with torch.no_grad():
        found: list[torch.Tensor] = encoder.encode_variants(batch, readings)
    return found
