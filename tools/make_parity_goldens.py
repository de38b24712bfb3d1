"""Makes the golden models and numbers of tests/parity with transformers on torch.

    python tools/make_parity_goldens.py [tests/parity/goldens [name ...]]

Needs torch, which alignjax itself does not: run it in an environment of its own. Each model is a few thousand
random weights from a fixed seed. A folder holds config.json and model.safetensors as transformers writes
them, golden.safetensors (float32 logits [110, V] of prompt and response) and golden.json (ids, the response's
log-probability, greedy ids).
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]  # runs in an environment of its own
from safetensors.torch import save_file
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    Exaone4Config,
    Exaone4ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SeedOssConfig,
    SeedOssForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

PROMPT, RESPONSE, GREEDY = 10, 100, 64
SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": None,
    "attn_implementation": "eager",
}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Short, so that 110 positions are far beyond it and all three frequency bands occur.
    "original_max_position_embeddings": 32,
}
LINEAR: dict[str, Any] = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
PLAIN: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}


def models() -> Iterator[tuple[str, Any, Any]]:
    """Name -> model of every golden; the seed is set before each."""
    yield "llama", LlamaForCausalLM, LlamaConfig(**SHAPE, rope_parameters=PLAIN)
    yield "llama3_scaled", LlamaForCausalLM, LlamaConfig(**SHAPE, rope_parameters=LLAMA3, head_dim=8)
    yield (
        "llama_linear_tied",
        LlamaForCausalLM,
        LlamaConfig(**SHAPE, rope_parameters=LINEAR, tie_word_embeddings=True),
    )
    yield "mistral", MistralForCausalLM, MistralConfig(**SHAPE, rope_parameters=PLAIN, sliding_window=12)
    yield "qwen2", Qwen2ForCausalLM, Qwen2Config(**SHAPE, rope_parameters=PLAIN, tie_word_embeddings=True)
    yield "qwen3", Qwen3ForCausalLM, Qwen3Config(**SHAPE, rope_parameters=PLAIN, head_dim=8)
    biases: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}
    yield "llama_biased", LlamaForCausalLM, LlamaConfig(**SHAPE, rope_parameters=PLAIN, **biases)
    yield (
        "qwen3_biased",
        Qwen3ForCausalLM,
        Qwen3Config(**SHAPE, rope_parameters=PLAIN, head_dim=8, attention_bias=True),
    )
    yield "gemma", GemmaForCausalLM, GemmaConfig(**SHAPE, rope_parameters=PLAIN, head_dim=8)
    yield "seed_oss", SeedOssForCausalLM, SeedOssConfig(**SHAPE, rope_parameters=PLAIN, head_dim=8)
    multipliers: dict[str, Any] = {"embedding_multiplier": 3.0, "attention_multiplier": 0.3}
    multipliers |= {"residual_multiplier": 0.7, "logits_scaling": 0.8}
    yield "granite", GraniteForCausalLM, GraniteConfig(**SHAPE, rope_parameters=PLAIN, **multipliers)
    yield from hybrids()
    yield from long_contexts()
    yield from others()


def hybrids() -> Iterator[tuple[str, Any, Any]]:
    """Families with layers of two kinds; windows are shorter than the 110 positions."""
    four: dict[str, Any] = SHAPE | {"num_hidden_layers": 4, "sliding_window": 12}
    gemma: dict[str, Any] = {"head_dim": 8, "query_pre_attn_scalar": 24}
    # Caps low enough that they bend the scores of models this small.
    caps: dict[str, Any] = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}
    yield "gemma2", Gemma2ForCausalLM, Gemma2Config(**four, rope_parameters=PLAIN, **gemma, **caps)
    ropes = {"full_attention": LINEAR | {"rope_theta": 1e6}, "sliding_attention": PLAIN}
    kinds: dict[str, Any] = {
        "layer_types": ["sliding_attention"] * 2 + ["full_attention", "sliding_attention"]
    }
    yield "gemma3", Gemma3ForCausalLM, Gemma3TextConfig(**four, rope_parameters=ropes, **gemma, **kinds)
    yield "olmo2", Olmo2ForCausalLM, Olmo2Config(**SHAPE, rope_parameters=PLAIN)
    ropes = {"full_attention": YARN, "sliding_attention": PLAIN}
    yield "olmo3", Olmo3ForCausalLM, Olmo3Config(**four, rope_parameters=ropes)
    deep: dict[str, Any] = SHAPE | {"num_hidden_layers": 4}
    yield "smollm3", SmolLM3ForCausalLM, SmolLM3Config(**deep, rope_parameters=PLAIN)
    yield "exaone4", Exaone4ForCausalLM, Exaone4Config(**four, rope_parameters=PLAIN)
    yield "cohere2", Cohere2ForCausalLM, Cohere2Config(**four, rope_parameters=PLAIN, logit_scale=0.25)
    mixed: dict[str, Any] = {"use_sliding_window": True, "max_window_layers": 1}
    yield "qwen2_mixed", Qwen2ForCausalLM, Qwen2Config(**four, rope_parameters=PLAIN, **mixed)


def long_contexts() -> Iterator[tuple[str, Any, Any]]:
    """Phi-3, and scalings of the rotary frequencies for long contexts."""
    long: dict[str, Any] = {"rope_type": "longrope", "rope_theta": 10000.0}
    long |= {"short_factor": [1.0, 1.6], "long_factor": [2.0, 9.0]}
    # The frequencies of transformers change where a text goes beyond the original context.
    within: dict[str, Any] = SHAPE | {"original_max_position_embeddings": 128}
    yield "phi3", Phi3ForCausalLM, Phi3Config(**SHAPE, rope_parameters=PLAIN, sliding_window=12)
    yield "phi3_longrope", Phi3ForCausalLM, Phi3Config(**within, rope_parameters=long)
    # As Phi-4-mini: heads of 8, of which 6 entries rotate.
    partial = long | {"partial_rotary_factor": 0.75}
    partial |= {"short_factor": [1.0, 1.2, 1.6], "long_factor": [2.0, 3.0, 9.0]}
    shape: dict[str, Any] = within | {"hidden_size": 32, "tie_word_embeddings": True}
    yield "phi4_mini", Phi3ForCausalLM, Phi3Config(**shape, rope_parameters=partial)
    yield "qwen3_yarn", Qwen3ForCausalLM, Qwen3Config(**SHAPE, rope_parameters=YARN, head_dim=12)


def others() -> Iterator[tuple[str, Any, Any]]:
    """LayerNorm families and experts."""
    quarter: dict[str, Any] = SHAPE | {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.5}}
    yield "gpt_neox", GPTNeoXForCausalLM, GPTNeoXConfig(**quarter)
    yield "gpt_neox_sequential", GPTNeoXForCausalLM, GPTNeoXConfig(**quarter, use_parallel_residual=False)
    gpt2: dict[str, Any] = {
        "vocab_size": 61,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "bos_token_id": 1,
    }
    gpt2 |= {"eos_token_id": None, "attn_implementation": "eager"}
    yield "gpt2", GPT2LMHeadModel, GPT2Config(**gpt2)
    yield "mixtral", MixtralForCausalLM, MixtralConfig(**SHAPE, rope_parameters=PLAIN, num_local_experts=4)
    experts: dict[str, Any] = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 12}
    yield "qwen3_moe", Qwen3MoeForCausalLM, Qwen3MoeConfig(**SHAPE, rope_parameters=PLAIN, **experts)


def randomize(model) -> None:
    """Weights large enough that predictions are peaked, norms and biases away from 1 and 0."""
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.uniform_(0.5, 1.5)
        else:
            # Vectors are biases.
            parameter.data.normal_(0.0, 0.5 if parameter.ndim == 1 else 0.35)


@torch.no_grad()
def golden(model):
    """Logits, log-probability and greedy ids of one model."""
    ids = torch.randint(2, SHAPE["vocab_size"], (1, PROMPT + RESPONSE))
    logits = model(ids).logits[0].float()
    logps = torch.log_softmax(logits.double(), -1)
    targets = ids[0, PROMPT:]
    token_logps = logps[PROMPT - 1 : -1].gather(1, targets[:, None])[:, 0]
    current, gap = ids[:, :PROMPT], float("inf")
    for _ in range(GREEDY):
        best = model(current).logits[0, -1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        current = torch.cat([current, best.indices[None, :1]], 1)
    generated = model.generate(ids[:, :PROMPT], do_sample=False, max_new_tokens=GREEDY, pad_token_id=0)
    if not torch.equal(generated, current):
        raise SystemExit("generate() and a full forward for each token disagree; choose another seed.")
    if gap < 1e-3:
        raise SystemExit(f"the two best logits come within {gap}; choose another seed.")
    numbers = {
        "prompt_ids": ids[0, :PROMPT].tolist(),
        "response_ids": targets.tolist(),
        "response_logp": float(token_logps.sum()),
        "greedy_ids": current[0, PROMPT:].tolist(),
        "smallest_greedy_gap": gap,
    }
    return logits, numbers


def main() -> None:
    """Writes every golden below the folder given on the command line."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/parity/goldens")
    for seed, (name, cls, config) in enumerate(models()):
        if len(sys.argv) > 2 and name not in sys.argv[2:]:
            continue
        torch.manual_seed(seed)
        model = cls(config).eval()
        randomize(model)
        logits, numbers = golden(model)
        folder = root / name
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        save_file({"logits": logits.contiguous()}, folder / "golden.safetensors")
        (folder / "golden.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")
        count = sum(p.numel() for p in model.parameters())
        print(f"{name}: {count} parameters, smallest greedy gap {numbers['smallest_greedy_gap']:.4f}")


if __name__ == "__main__":
    main()
