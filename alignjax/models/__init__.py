"""The decoder, LoRA adapters, score models, and reading and writing of Hugging Face and GGUF weights.

The names below are public to the package; all modules of this folder are internal.
"""

from alignjax.models.caches import (
    KVCache,
    PromptCache,
    cache_axes,
    empty_cache,
    empty_prompt_cache,
    with_prompts,
)
from alignjax.models.config import DecoderConfig, RopeScaling, config_from_hf, config_to_hf
from alignjax.models.decode import decode_step, prefill, step_function
from alignjax.models.decoder import hidden_states, init_params, logical_axes, unembed
from alignjax.models.huggingface import save_pretrained
from alignjax.models.lora import Lora, init_lora, is_neutral, lora_axes, merge_lora, projection_sizes
from alignjax.models.merging import Merged, merged
from alignjax.models.mixture import Adapters, Mixture, mixture_of, num_bodies, with_weights
from alignjax.models.model import Model
from alignjax.models.peft_files import base_of, load_adapter, load_pretrained, save_adapter
from alignjax.models.placement import check_divides, decoder_shardings, place_head, place_lora
from alignjax.models.score_model import (
    ScoreModel,
    as_utility,
    body_config,
    identity_normalizer,
    init_score_model,
    pair_scores,
    response_scores,
)
from alignjax.models.score_model_files import load_score_model, save_score_model

__all__ = [
    "Adapters",
    "DecoderConfig",
    "KVCache",
    "Lora",
    "Merged",
    "Mixture",
    "Model",
    "PromptCache",
    "RopeScaling",
    "ScoreModel",
    "as_utility",
    "base_of",
    "body_config",
    "cache_axes",
    "check_divides",
    "config_from_hf",
    "config_to_hf",
    "decode_step",
    "decoder_shardings",
    "empty_cache",
    "empty_prompt_cache",
    "hidden_states",
    "identity_normalizer",
    "init_lora",
    "init_params",
    "init_score_model",
    "is_neutral",
    "load_adapter",
    "load_pretrained",
    "load_score_model",
    "logical_axes",
    "lora_axes",
    "merge_lora",
    "merged",
    "mixture_of",
    "num_bodies",
    "pair_scores",
    "place_head",
    "place_lora",
    "prefill",
    "projection_sizes",
    "response_scores",
    "save_adapter",
    "save_pretrained",
    "save_score_model",
    "step_function",
    "unembed",
    "with_prompts",
    "with_weights",
]
