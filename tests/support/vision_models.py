"""Tiny image models of transformers, as ``save_pretrained`` writes them: CLIP with both towers, RT-DETR and its kin."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

_RESNET = {"model_type": "rt_detr_resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4}
_HGNET = {
    **{"model_type": "hgnet_v2", "embedding_size": 8, "stem_channels": [3, 8, 8], "hidden_sizes": [8, 16, 24, 32]},
    **{"stage_in_channels": [8, 8, 16, 24], "stage_mid_channels": [8] * 4, "stage_out_channels": [8, 16, 24, 32]},
    **{"stage_num_blocks": [1] * 4, "stage_downsample": [False, True, True, True], "depths": [1] * 4},
    **{"stage_light_block": [False, False, True, True], "stage_kernel_size": [3] * 4, "stage_numb_of_layers": [1] * 4},
}
_SMALL = {
    **{"encoder_hidden_dim": 16, "encoder_in_channels": [16, 24, 32], "encoder_ffn_dim": 16},
    **{"encoder_attention_heads": 2, "d_model": 16, "num_queries": 20, "decoder_in_channels": [16, 16, 16]},
    **{"decoder_ffn_dim": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "num_denoising": 4},
}
_LAST = {"out_features": ["stage2", "stage3", "stage4"]}
DETECTORS: dict[str, dict[str, Any]] = {
    "rt_detr": {"backbone_config": {**_RESNET, **_LAST, "layer_type": "basic"}, **_SMALL},
    "rt_detr_v2": {"backbone_config": {**_RESNET, **_LAST, "layer_type": "basic"}, **_SMALL},
    "d_fine": {"backbone_config": {**_HGNET, **_LAST}, **_SMALL},
}


def detector(folder: Path, kind: str = "rt_detr", classes: int = 7) -> Path:
    """A detector with random weights that tell its queries apart."""
    from transformers import AutoConfig, AutoModelForObjectDetection

    config = AutoConfig.for_model(kind, **DETECTORS[kind], num_labels=classes)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForObjectDetection.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=0.2)
    model.save_pretrained(folder)
    reads = {"size": {"height": 96, "width": 96}, "do_normalize": False, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(reads))
    return folder


COLORS = ("red", "green", "blue")
_TOKENS = ("<pad>", "<start>", "<end>", "a", "photo", "of", ".", "?", *COLORS)


def clip(folder: Path, *, exact: bool = True) -> Path:
    """CLIP with a token per word. ``exact``: weights are set by hand such that both towers give the color that is shown
    or named; otherwise they are random."""
    from transformers import CLIPConfig, CLIPModel

    both = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = {"vocab_size": len(_TOKENS), "max_position_embeddings": 12, "pad_token_id": 0, "bos_token_id": 1}
    config = CLIPConfig(
        text_config={**both, **text, "eos_token_id": 2},
        vision_config={**both, "image_size": 16, "patch_size": 8},
        projection_dim=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config)
    if exact:
        _by_hand(model)
    model.save_pretrained(folder)
    reads = {"crop_size": {"height": 16, "width": 16}, "do_center_crop": True, "resample": 2}
    reads |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(reads))
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(_TOKENS)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "?"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def _by_hand(model: Any) -> None:
    """Attention is uniform and adds the mean over all tokens, the MLP adds nothing: what is pooled is that mean."""
    eye = torch.eye(4)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.zero_()
            if "norm" in name and name.endswith("weight"):
                value.fill_(1.0)
            if name.endswith(("v_proj.weight", "out_proj.weight")):
                value.copy_(eye)
            if name.endswith("projection.weight"):
                value.copy_(eye[:3])
        model.logit_scale.fill_(2.0)
        patches = model.vision_model.embeddings.patch_embedding.weight
        for channel in range(3):
            patches[channel, channel] = 1 / 64
        words = model.text_model.embeddings.token_embedding.weight
        for number, color in enumerate(COLORS):
            words[_TOKENS.index(color), number] = 1.0
