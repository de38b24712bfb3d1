"""Makes the golden numbers of tests/models/test_rope.py with transformers on torch.

    python tools/make_rope_goldens.py [tests/models/goldens/rope.json]

Needs torch, which alignjax itself does not: run it in an environment of its own. Each entry is a config.json
as people have it, and the angular frequencies and the multiplier that transformers computes from it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "head_dim": 64,
    "max_position_embeddings": 163840,
}
QWEN: dict[str, Any] = {"hidden_size": 3584, "num_attention_heads": 28, "rope_theta": 1000000.0}
PHI: dict[str, Any] = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "num_attention_heads": 32,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}
# 48 of each, as in Phi-3.5-mini (a head of 96) and Phi-4-mini (three quarters of a head of 128).
SHORT = [1.0 + 0.02 * i for i in range(48)]
LONG = [1.0 + 0.03 * i**2 for i in range(48)]
LISTS: dict[str, Any] = {"short_factor": SHORT, "long_factor": LONG}
DEEPSEEK: dict[str, Any] = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "linear": {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3": {
        **LLAMA,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "yarn_qwen2": {
        **QWEN,
        "model_type": "qwen2",
        "max_position_embeddings": 32768,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    },
    "yarn_qwen3": {
        **QWEN,
        "model_type": "qwen3",
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
        },
    },
    "yarn_mscale": {**LLAMA, "rope_scaling": {**DEEPSEEK, "mscale": 1.0, "mscale_all_dim": 0.707}},
    "yarn_one_mscale": {**LLAMA, "rope_scaling": {**DEEPSEEK, "mscale": 0.5}},
    "yarn_given_factor": {
        **LLAMA,
        "rope_scaling": {**DEEPSEEK, "attention_factor": 1.25, "mscale": 1.0, "mscale_all_dim": 0.5},
    },
    "yarn_not_truncated": {
        **LLAMA,
        "rope_scaling": {**DEEPSEEK, "truncate": False, "beta_fast": 20, "beta_slow": 2},
    },
    "yarn_null_factor": {**LLAMA, "rope_scaling": {**DEEPSEEK, "factor": None}},
    "yarn_short_context": {**LLAMA, "rope_scaling": {**DEEPSEEK, "original_max_position_embeddings": 5}},
    "longrope_phi3": {**PHI, "rope_scaling": {"type": "longrope", **LISTS}},
    "longrope_phi4_mini": {
        **PHI,
        "num_attention_heads": 24,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {"type": "longrope", **LISTS},
    },
    "longrope_given_factor": {
        **PHI,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 8.0, **LISTS},
    },
    "longrope_given_attention_factor": {
        **PHI,
        "rope_scaling": {"type": "longrope", "attention_factor": 1.1, **LISTS},
    },
}


def main() -> None:
    """Writes the file given on the command line."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/models/goldens/rope.json")
    entries = {}
    for name, fields in CONFIGS.items():
        # The constructor takes lists and objects of its argument as its own.
        copy = json.loads(json.dumps(fields))
        config = AutoConfig.for_model(copy.pop("model_type"), **copy)
        kind = config.rope_parameters["rope_type"]
        values, factor = ROPE_INIT_FUNCTIONS[kind](config)
        entries[name] = {
            "config": fields,
            "frequencies": [float(f"{f:.9g}") for f in values.tolist()],
            "attention_factor": factor,
        }
        print(f"{name}: {kind}, {len(values)} frequencies, multiplier {factor:.6f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
