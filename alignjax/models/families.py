"""The model families, each a declaration of what it has of the decoder's options."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Scalar(NamedTuple):
    """A number in config.json that sets an option of the decoder: option = number ** power."""

    option: str
    field: str
    default: float | None  # of the number
    power: float = 1.0
    optional: bool = False  # null switches the option off


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of models, as transformers defines it.

    Attributes:
      architecture: the name in `architectures` of config.json.
      model_type: the name in `model_type` of config.json.
      classifier: the name of its classifiers up to `ForSequenceClassification`; None: as in `architecture`.
      activations: names in `hidden_act` that this family may have, and the decoder's name of each.
      gated: the feed-forward layer has a gate.
      norm: of the layers: "rms" or "layer".
      norm_bias: norms have a bias.
      norm_eps: the field with the number added to the variance, and its default.
      norm_offset: norms multiply by offset + weight.
      norm_order: which norms a layer has, see `DecoderConfig`.
      tie_embeddings: the default of `tie_word_embeddings`.
      head_dim: the default of `head_dim`; None: hidden_size / heads.
      qk_norm: RMS norm of queries and keys, see `DecoderConfig`.
      qkv_bias: the bias of q, k and v, where `qkv_bias_field` is None or missing.
      o_bias: the same for the output of attention.
      mlp_bias: the same for the feed-forward layer.
      qkv_bias_field: the field that says whether q, k and v have a bias; None: no field does.
      o_bias_field: the same for the output of attention.
      mlp_bias_field: the same for the feed-forward layer.
      sqrt_embedding: embeddings are multiplied by sqrt(D), rounded to the compute dtype (Gemma).
      scalars: numbers in config.json that are options of the decoder.
      rope_theta: the default base of the rotary frequencies.
      rope_interleaved: rotated pairs are neighbours (Cohere).
      partial_rotary: `partial_rotary_factor` is read; otherwise only 1 is allowed.
      windows: which layers have a sliding window: None: none; "all"; "switch": all, if `use_sliding_window`;
        "last": those from `max_window_layers` on, if `use_sliding_window`; "pattern": all but every
        `window_period`-th; "unrotated": those of `no_rope_layers`, if `use_sliding_window`. A list
        `layer_types` in the file goes before the last three.
      window: the default of `sliding_window`.
      window_period: the default period of "pattern".
      full_rope: rotation in layers without a window: "same" as in those with one, "none", or "own": theirs
        has the settings of the file, and windowed layers rotate without scaling.
      window_theta: the base of windowed layers with "own"; None: the same base.
      norm_names: the norms of a layer and their names in files.
      sequential: norm_order where `use_parallel_residual` is false; None: the family has no such field.
      learned_positions: an embedding of each position is added to the tokens', and nothing is rotated.
      field_names: the names in config.json of fields that others name differently, by the others' name.
      experts_field: the field with the number of experts; None: the family has none.
      experts_per_token: the default of `num_experts_per_tok`.
      normalize_field: the field that says whether the weights of a token's experts sum to 1; None: they do.
      refused: fields that change the model, and the only value that is supported.
      layer_prefix: the layers' names in files begin with it and the layer's number.
      projections: the projections of a layer and their names in files.
      expert_names: the router and the projections of expert {} in files.
      top_names: the other leaves and their names in files.
      stored_in_out: files hold matrices as [in, out].
      fused_by_head: `fused` projections follow each other within each head.
      fused: the name of a tensor in files, and the projections whose rows it holds one after the other.
      pad_id: the default of `pad_token_id`, which transformers refuses beyond a smaller vocabulary.
    """

    architecture: str
    model_type: str
    classifier: str | None = None
    activations: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"silu": "silu"})
    gated: bool = True
    norm: Literal["rms", "layer"] = "rms"
    norm_bias: bool = False
    norm_eps: tuple[str, float] = ("rms_norm_eps", 1e-6)
    norm_offset: float = 0.0
    norm_order: Literal["before", "both", "after", "parallel", "parallel_each"] = "before"
    tie_embeddings: bool = False
    head_dim: int | None = None
    qk_norm: Literal["head", "projection"] | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qkv_bias_field: str | None = None
    o_bias_field: str | None = None
    mlp_bias_field: str | None = None
    sqrt_embedding: bool = False
    scalars: tuple[Scalar, ...] = ()
    rope_theta: float = 10000.0
    rope_interleaved: bool = False
    partial_rotary: bool = False
    windows: Literal["all", "switch", "last", "pattern", "unrotated"] | None = None
    window: int | None = None
    window_period: int = 0
    full_rope: Literal["same", "none", "own"] = "same"
    window_theta: float | None = None
    norm_names: Mapping[str, str] = dataclasses.field(default_factory=lambda: _BEFORE | _QK)
    sequential: Literal["before"] | None = None
    learned_positions: bool = False
    field_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    experts_field: str | None = None
    experts_per_token: int = 0
    normalize_field: str | None = None
    refused: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layer_prefix: str = "model.layers"
    projections: Mapping[str, str] = dataclasses.field(default_factory=lambda: _PROJECTIONS)
    expert_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    top_names: Mapping[str, str] = dataclasses.field(default_factory=lambda: _TOP)
    stored_in_out: bool = False
    fused_by_head: bool = False
    fused: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    pad_id: int = 0


_PROJECTIONS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_TOP = {"embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}
_QK = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
_BEFORE = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
_AFTER = {"attn_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"}
_BOTH = {"attn_norm": "input_layernorm", "mlp_norm": "pre_feedforward_layernorm", **_AFTER}
_ATTENTION_BIAS: dict[str, Any] = {"qkv_bias_field": "attention_bias", "o_bias_field": "attention_bias"}
_GEMMA: dict[str, Any] = {
    # The first configs of Gemma said "gelu" and meant the tanh approximation.
    "activations": {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu_tanh"},
    "norm_offset": 1.0,
    "tie_embeddings": True,
    "head_dim": 256,
    "sqrt_embedding": True,
    **_ATTENTION_BIAS,
}
_GEMMA_2: dict[str, Any] = {
    **_GEMMA,
    "norm_order": "both",
    "norm_names": _BOTH | _QK,
    "windows": "pattern",
    "window": 4096,
}


def _gemma_scalars(attention_cap: float | None, logits_cap: float | None) -> tuple[Scalar, ...]:
    return (
        Scalar("attention_multiplier", "query_pre_attn_scalar", 256, power=-0.5),
        Scalar("attention_soft_cap", "attn_logit_softcapping", attention_cap, optional=True),
        Scalar("logits_soft_cap", "final_logit_softcapping", logits_cap, optional=True),
    )


# The decoder's names of GELU and of its approximation by tanh.
_GELU = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_OLMO: dict[str, Any] = {
    "norm_order": "after",
    "norm_eps": ("rms_norm_eps", 1e-5),
    "norm_names": _AFTER | _QK,
    "qk_norm": "projection",
    **_ATTENTION_BIAS,
}

FAMILIES = {
    family.model_type: family
    for family in (
        Family("LlamaForCausalLM", "llama", mlp_bias_field="mlp_bias", **_ATTENTION_BIAS),
        Family("MistralForCausalLM", "mistral", windows="all", window=4096),
        Family("Qwen2ForCausalLM", "qwen2", qkv_bias=True, windows="last", window=4096),
        Family(
            "Qwen3ForCausalLM",
            "qwen3",
            head_dim=128,
            qk_norm="head",
            windows="last",
            window=4096,
            **_ATTENTION_BIAS,
        ),
        Family("GemmaForCausalLM", "gemma", **_GEMMA),
        Family(
            "Gemma2ForCausalLM", "gemma2", scalars=_gemma_scalars(50.0, 30.0), window_period=2, **_GEMMA_2
        ),
        Family(
            "Gemma3ForCausalLM",
            "gemma3_text",
            classifier="Gemma3Text",
            qk_norm="head",
            scalars=_gemma_scalars(None, None),
            rope_theta=1e6,
            window_period=6,
            full_rope="own",
            window_theta=10000.0,
            **_GEMMA_2,
        ),
        Family(
            "SeedOssForCausalLM",
            "seed_oss",
            head_dim=128,
            qkv_bias=True,
            qkv_bias_field="attention_bias",
            o_bias_field="attention_out_bias",
            mlp_bias_field="mlp_bias",
        ),
        Family(
            "GraniteForCausalLM",
            "granite",
            mlp_bias_field="mlp_bias",
            scalars=(
                Scalar("embedding_multiplier", "embedding_multiplier", 1.0),
                Scalar("attention_multiplier", "attention_multiplier", 1.0),
                Scalar("residual_multiplier", "residual_multiplier", 1.0),
                Scalar("logits_divisor", "logits_scaling", 1.0),
            ),
            **_ATTENTION_BIAS,
        ),
        Family("Olmo2ForCausalLM", "olmo2", **_OLMO),
        Family(
            "Olmo3ForCausalLM",
            "olmo3",
            rope_theta=500000.0,
            windows="pattern",
            window=4096,
            window_period=4,
            full_rope="own",
            **_OLMO,
        ),
        Family(
            "SmolLM3ForCausalLM",
            "smollm3",
            pad_id=128004,
            tie_embeddings=True,
            mlp_bias_field="mlp_bias",
            rope_theta=2000000.0,
            windows="unrotated",
            **_ATTENTION_BIAS,
        ),
        Family(
            "Exaone4ForCausalLM",
            "exaone4",
            norm_order="after",
            norm_eps=("rms_norm_eps", 1e-5),
            norm_names=_AFTER | _QK,
            qk_norm="head",
            windows="pattern",
            window=4096,
            window_period=4,
            full_rope="none",
        ),
        Family(
            "Cohere2ForCausalLM",
            "cohere2",
            norm="layer",
            norm_eps=("layer_norm_eps", 1e-5),
            norm_order="parallel",
            norm_names={"attn_norm": "input_layernorm"},
            tie_embeddings=True,
            scalars=(Scalar("logits_divisor", "logit_scale", 0.0625, power=-1.0),),
            rope_interleaved=True,
            windows="pattern",
            window=4096,
            window_period=4,
            full_rope="none",
            **_ATTENTION_BIAS,
        ),
        Family(
            "GPTNeoXForCausalLM",
            "gpt_neox",
            activations=_GELU,
            gated=False,
            norm="layer",
            norm_bias=True,
            norm_eps=("layer_norm_eps", 1e-5),
            norm_order="parallel_each",
            sequential="before",
            qkv_bias=True,
            o_bias=True,
            mlp_bias=True,
            qkv_bias_field="attention_bias",
            o_bias_field="attention_bias",
            partial_rotary=True,
            field_names={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
            layer_prefix="gpt_neox.layers",
            projections={"o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
            fused={"attention.query_key_value": ("q", "k", "v")},
            fused_by_head=True,
            top_names={
                "embedding": "gpt_neox.embed_in",
                "final_norm": "gpt_neox.final_layer_norm",
                "head": "embed_out",
            },
        ),
        Family(
            "GPT2LMHeadModel",
            "gpt2",
            classifier="GPT2",
            activations={"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"},
            gated=False,
            norm="layer",
            norm_bias=True,
            norm_eps=("layer_norm_eps", 1e-5),
            tie_embeddings=True,
            qkv_bias=True,
            o_bias=True,
            mlp_bias=True,
            learned_positions=True,
            field_names={
                "hidden_size": "n_embd",
                "intermediate_size": "n_inner",
                "num_hidden_layers": "n_layer",
                "num_attention_heads": "n_head",
                "max_position_embeddings": "n_positions",
                "layer_norm_eps": "layer_norm_epsilon",
                "hidden_act": "activation_function",
            },
            layer_prefix="transformer.h",
            projections={"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
            fused={"attn.c_attn": ("q", "k", "v")},
            stored_in_out=True,
            norm_names={"attn_norm": "ln_1", "mlp_norm": "ln_2"},
            top_names={
                "embedding": "transformer.wte",
                "position_embedding": "transformer.wpe",
                "final_norm": "transformer.ln_f",
                "head": "lm_head",
            },
            refused={
                "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": False,
                "add_cross_attention": False,
            },
        ),
        Family(
            "MixtralForCausalLM",
            "mixtral",
            norm_eps=("rms_norm_eps", 1e-5),
            rope_theta=1e6,
            windows="all",
            experts_field="num_local_experts",
            experts_per_token=2,
            expert_names={
                "router": "block_sparse_moe.gate",
                "gate": "block_sparse_moe.experts.{}.w1",
                "up": "block_sparse_moe.experts.{}.w3",
                "down": "block_sparse_moe.experts.{}.w2",
            },
            refused={"router_jitter_noise": 0.0},
        ),
        Family(
            "Qwen3MoeForCausalLM",
            "qwen3_moe",
            qk_norm="head",
            windows="switch",
            window=4096,
            experts_field="num_experts",
            experts_per_token=8,
            normalize_field="norm_topk_prob",
            field_names={"intermediate_size": "moe_intermediate_size"},
            expert_names={
                "router": "mlp.gate",
                "gate": "mlp.experts.{}.gate_proj",
                "up": "mlp.experts.{}.up_proj",
                "down": "mlp.experts.{}.down_proj",
            },
            refused={"decoder_sparse_step": 1, "mlp_only_layers": []},
            **_ATTENTION_BIAS,
        ),
        Family(
            "Phi3ForCausalLM",
            "phi3",
            norm_eps=("rms_norm_eps", 1e-5),
            partial_rotary=True,
            windows="all",
            fused={"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")},
            pad_id=32000,
        ),
    )
}
