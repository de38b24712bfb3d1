"""The decoder, LoRA adapters, and reading and writing of Hugging Face and GGUF weights."""

from alignjax.models.config import DecoderConfig, RopeScaling, config_from_hf, config_to_hf
from alignjax.models.decoder import (
    KVCache,
    PromptCache,
    decode_step,
    empty_cache,
    hidden_states,
    init_params,
    logical_axes,
    prefill,
    unembed,
)
from alignjax.models.huggingface import load_adapter, load_pretrained, save_adapter, save_pretrained
from alignjax.models.lora import Lora, init_lora, is_neutral, lora_axes, merge_lora
from alignjax.models.model import Model

__all__ = [
    "DecoderConfig",
    "KVCache",
    "Lora",
    "Model",
    "PromptCache",
    "RopeScaling",
    "config_from_hf",
    "config_to_hf",
    "decode_step",
    "empty_cache",
    "hidden_states",
    "init_lora",
    "init_params",
    "is_neutral",
    "load_adapter",
    "load_pretrained",
    "logical_axes",
    "lora_axes",
    "merge_lora",
    "prefill",
    "save_adapter",
    "save_pretrained",
    "unembed",
]
