"""Networks of `transformers`, from its configurations made small. The package is imported when one is made."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.small import Made, Make, words

__all__ = ["TRANSFORMERS"]


class Picked(nn.Module):
    """A model that takes tensors by place and gives those of its fields that are named."""

    def __init__(self, inner: nn.Module, fields: Sequence[str], **fixed: Any) -> None:
        super().__init__()
        self.inner, self.fields, self.fixed = inner, fields, fixed

    def picked(self, **given: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = self.inner(**given, **self.fixed)
        taken = tuple(getattr(found, name) for name in self.fields)
        return taken if len(taken) > 1 else taken[0]


# An exported program names its inputs by the parameters of `forward`: one class for each signature.
class Image(Picked):
    def forward(self, pixel_values: Tensor) -> Any:
        return self.picked(pixel_values=pixel_values)


class Text(Picked):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.picked(input_ids=input_ids, attention_mask=attention_mask)


class Both(Picked):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Any:
        return self.picked(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)


class Features(Picked):
    def forward(self, input_features: Tensor) -> Any:
        return self.picked(input_features=input_features)


class Sound(Picked):
    def forward(self, input_values: Tensor) -> Any:
        return self.picked(input_values=input_values)


class Series(Picked):
    def forward(self, past_values: Tensor) -> Any:
        return self.picked(past_values=past_values)


_LAYERS = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_BERT = {**_LAYERS, "vocab_size": 100, "intermediate_size": 96, "max_position_embeddings": 32}
_LLAMA = {**_LAYERS, "vocab_size": 100, "intermediate_size": 96, "num_key_value_heads": 2}
_LLAMA |= {"max_position_embeddings": 64}
_VIT = {**_LAYERS, "num_attention_heads": 3, "intermediate_size": 96, "image_size": 64}


def _made(model: str, config: str, changed: Mapping[str, Any]) -> nn.Module:
    with contextlib.suppress(ImportError):  # transformers imports torchvision where it is installed
        from zoo import torchvision_shim  # noqa: F401
    import transformers

    module: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**changed))
    return module


def _text(model: str, config: str, changed: Mapping[str, Any], *fields: str, **fixed: Any) -> Made:
    return Text(_made(model, config, changed), fields or ("logits",), **fixed), words()


def _image(model: str, config: str, changed: Mapping[str, Any], *fields: str) -> Made:
    return Image(_made(model, config, changed), fields), {"pixel_values": torch.randn(1, 3, 64, 64)}


def _whisper() -> Made:
    heads = {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
    widths = {f"{part}_ffn_dim": 96 for part in ("encoder", "decoder")}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    changed = {"vocab_size": 100, "d_model": 48, "encoder_layers": 2, "decoder_layers": 1, **heads, **widths, **tokens}
    changed |= {"num_mel_bins": 20, "max_source_positions": 50}
    encoder = _made("WhisperModel", "WhisperConfig", changed).encoder
    return Features(encoder, ("last_hidden_state",)), {"input_features": torch.randn(1, 20, 100)}


def _wav2vec2() -> Made:
    convs = {"conv_dim": (16, 16, 24), "conv_stride": (5, 4, 2), "conv_kernel": (10, 8, 4)}
    places = {"num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    changed = {**_LAYERS, "vocab_size": 32, "intermediate_size": 96, **convs, **places}
    module = _made("Wav2Vec2ForCTC", "Wav2Vec2Config", changed)
    return Sound(module, ("logits",)), {"input_values": torch.randn(1, 2000)}


def _clip() -> Made:
    text = {**_BERT, "projection_dim": 32, "eos_token_id": 99}
    vision = {**_VIT, "patch_size": 16, "projection_dim": 32}
    module = _made("CLIPModel", "CLIPConfig", {"text_config": text, "vision_config": vision, "projection_dim": 32})
    inputs = {**words(), "pixel_values": torch.randn(1, 3, 64, 64)}
    return Both(module, ("logits_per_image", "text_embeds")), inputs


def _patchtst() -> Made:
    changed = {"num_input_channels": 3, "context_length": 64, "patch_length": 8, "patch_stride": 8, "d_model": 32}
    changed |= {"num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "prediction_length": 8}
    module = _made("PatchTSTForPrediction", "PatchTSTConfig", changed)
    return Series(module, ("prediction_outputs",)), {"past_values": torch.randn(1, 64, 3)}


_YOLOS = {**_VIT, "num_hidden_layers": 3, "image_size": [64, 64], "num_detection_tokens": 10}
_DISTIL = {"vocab_size": 100, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "max_position_embeddings": 32}
_GPT2 = {"vocab_size": 100, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32}
_T5 = {"vocab_size": 100, "d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4}
_BLOOM = {"vocab_size": 100, "hidden_size": 48, "n_layer": 2, "n_head": 4}
_DEBERTA = {**_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
_SEGFORMER = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 48], "decoder_hidden_size": 32, "num_labels": 5}
_CACHELESS = {"use_cache": False}

TRANSFORMERS: Mapping[str, Make] = {
    "yolos": partial(_image, "YolosForObjectDetection", "YolosConfig", _YOLOS, "logits", "pred_boxes"),
    "bert": partial(_text, "BertForSequenceClassification", "BertConfig", {**_BERT, "num_labels": 3}),
    "distilbert": partial(
        _text, "DistilBertForQuestionAnswering", "DistilBertConfig", _DISTIL, "start_logits", "end_logits"
    ),
    "gpt2": partial(_text, "GPT2LMHeadModel", "GPT2Config", _GPT2, **_CACHELESS),
    "llama": partial(_text, "LlamaForCausalLM", "LlamaConfig", _LLAMA, **_CACHELESS),
    "qwen2": partial(
        _text, "Qwen2ForCausalLM", "Qwen2Config", {**_LLAMA, "attn_implementation": "eager"}, **_CACHELESS
    ),
    "whisper": _whisper,
    "wav2vec2": _wav2vec2,
    "clip": _clip,
    "patchtst": _patchtst,
    "t5": partial(_text, "T5EncoderModel", "T5Config", _T5, "last_hidden_state"),
    "deberta": partial(_text, "DebertaV2ForSequenceClassification", "DebertaV2Config", _DEBERTA),
    "albert": partial(_text, "AlbertForSequenceClassification", "AlbertConfig", {**_BERT, "embedding_size": 24}),
    "bloom": partial(_text, "BloomForCausalLM", "BloomConfig", _BLOOM, **_CACHELESS),
    "gemma2": partial(_text, "Gemma2ForCausalLM", "Gemma2Config", {**_LLAMA, "head_dim": 12}, **_CACHELESS),
    "electra": partial(_text, "ElectraForTokenClassification", "ElectraConfig", {**_BERT, "embedding_size": 24}),
    "segformer": partial(_image, "SegformerForSemanticSegmentation", "SegformerConfig", _SEGFORMER, "logits"),
    "dinov2": partial(_image, "Dinov2Model", "Dinov2Config", {**_VIT, "patch_size": 8}, "last_hidden_state"),
}
