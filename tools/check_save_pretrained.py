"""Checks that transformers on torch reads what `save_pretrained` writes and computes the same logits.

python tools/check_save_pretrained.py write DIR       with alignjax
python tools/check_save_pretrained.py compare DIR     with torch and transformers; exits with 1 if they differ
"""

import dataclasses
import json
import sys
from pathlib import Path

TOKENS = 48
TOLERANCE = 1e-4  # both sides compute in float32, whatever the dtype of the stored weights
SHAPE = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "bos_id": 1,
    "eos_ids": (2,),
    "max_positions": 256,
}


def write(root: Path) -> None:
    """Saves a random model of every architecture with ids and logits beside it."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from alignjax.models import DecoderConfig, Model, RopeScaling, init_params, save_pretrained

    llama3 = RopeScaling("llama3", 4.0, 1.0, 4.0, 16)
    yarn = RopeScaling("yarn", 4.0, original_max_positions=32, mscale=0.8, mscale_all_dim=0.3, truncate=False)
    short, far = (1.0, 1.2, 1.6), (2.0, 3.0, 9.0)
    long = RopeScaling("longrope", 4.0, original_max_positions=64, short_factors=short, long_factors=far)
    phi = {**SHAPE, "hidden_size": 32}  # transformers derives the width of a head from it
    configs = {
        "llama": DecoderConfig("llama", **SHAPE),
        "llama_bfloat16": DecoderConfig("llama", **SHAPE, dtype="bfloat16"),
        "llama3": DecoderConfig("llama", **SHAPE, rope_scaling=llama3, rope_theta=5e5, tie_embeddings=True),
        "llama_linear": DecoderConfig("llama", **SHAPE, rope_scaling=RopeScaling("linear", 2.0)),
        "mistral": DecoderConfig("mistral", **SHAPE, sliding_window=7),
        "mistral_full": DecoderConfig("mistral", **SHAPE),
        "qwen2": DecoderConfig("qwen2", **SHAPE, qkv_bias=True, tie_embeddings=True),
        "qwen2_window": DecoderConfig("qwen2", **SHAPE, qkv_bias=True, sliding_window=7),
        "qwen3": DecoderConfig("qwen3", **SHAPE, qk_norm="head", norm_eps=1e-6),
        "qwen3_yarn": DecoderConfig("qwen3", **SHAPE, qk_norm="head", rope_scaling=yarn),
        "phi3": DecoderConfig("phi3", **phi, sliding_window=7),
        "phi4_mini": DecoderConfig("phi3", **phi, rope_scaling=long, rotary_dim=6, tie_embeddings=True),
        "phi3_given": DecoderConfig(
            "phi3", **phi, rope_scaling=dataclasses.replace(long, attention_factor=1.3), rotary_dim=6
        ),
    }
    for seed, (name, config) in enumerate(configs.items()):
        keys = iter(jax.random.split(jax.random.key(seed), 64))
        params = jax.tree.map(
            lambda x, keys=keys: x + 0.3 * jax.random.normal(next(keys), x.shape),
            init_params(next(keys), config),
        )
        params = jax.tree.map(lambda x, dtype=config.dtype: x.astype(dtype), params)
        ids = jax.random.randint(jax.random.key(100 + seed), (1, TOKENS), 0, config.vocab_size)
        model = Model(params=params, config=config)
        wide = model.replace(config=dataclasses.replace(config, dtype="float32"))
        logits = wide.apply(params, ids, jnp.arange(TOKENS)[None], jnp.ones_like(ids))
        save_pretrained(model, root / name)
        record = {"dtype": config.dtype, "ids": ids.tolist(), "logits": np.asarray(logits).tolist()}
        (root / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")


def compare(root: Path) -> int:
    """Loads each folder with transformers; prints the largest difference of logits; 1 if any is too large."""
    import torch  # pyright: ignore[reportMissingImports]  # runs in an environment of its own
    from transformers import AutoModelForCausalLM

    failures = 0
    for file in sorted(root.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        model, report = AutoModelForCausalLM.from_pretrained(
            root / file.stem, attn_implementation="eager", output_loading_info=True
        )
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        with torch.no_grad():
            logits = model.float()(torch.tensor(record["ids"])).logits
        difference = float((logits - torch.tensor(record["logits"])).abs().max())
        missing = [key for key, names in report.items() if names]
        good = difference <= TOLERANCE and not missing and dtype == record["dtype"]
        failures += not good
        found = f"difference {difference:.2e}, {missing or 'complete'}"
        print(f"{file.stem}: {dtype}, {type(model).__name__}, {found}")
    return int(failures > 0)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "compare"):
        sys.exit(__doc__)
    sys.exit(write(Path(sys.argv[2])) if sys.argv[1] == "write" else compare(Path(sys.argv[2])))
