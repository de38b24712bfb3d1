"""Temporary memory of compiled functions at the shape of SmolLM2-135M; no weights, no timing.

    python benchmarks/memory.py [--json]

1. Log-probabilities, batch 4 of 512 tokens, half of them the response, value alone and with the gradient of
LoRA
   adapters: ours against the same trunk with whole logits.
2. The DPO train step, LoRA r 8 on all seven projections, remat, batch 4 (prompt 128, responses up to 128
each).
"""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import measuring
import numpy as np

from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
from alignjax.alignment.step import AdapterSettings, dpo_loss_fn, init_state, make_train_step
from alignjax.data.batches import Bucket, PairBatch, ResponseBatch, Rows
from alignjax.models import DecoderConfig, Lora, Model, hidden_states, init_lora, init_params, unembed
from alignjax.policy import completion_logps

CONFIG = DecoderConfig(
    "llama", 49152, 576, 1536, 30, 9, 3, 64, rope_theta=100000.0, tie_embeddings=True, remat=True
)  # fmt: skip
BATCH, TOKENS, TARGETS = 4, 512, 256
PAIR_BUCKET = Bucket(128 + 2 * 128, 2 * 128)


def main() -> None:
    """Prints a table of MiB."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = measuring.with_json(parser).parse_args()
    params = jax.eval_shape(functools.partial(init_params, config=CONFIG), jax.random.key(0))
    lora = jax.eval_shape(lambda key: init_lora(key, CONFIG, rank=8, alpha=16.0), jax.random.key(0))
    rows = abstract_rows(BATCH, TOKENS, TARGETS)
    work = f"log-probabilities, {BATCH} x {TOKENS} tokens, {TARGETS} of them response"
    with_adapters = "the same with the gradient of LoRA adapters on all projections, remat"
    lines = []
    for name, wrap in ((work, lambda f: f), (with_adapters, with_gradient)):
        ours, whole = (temporaries(wrap(f), lora, params, rows) for f in (chunked, whole_logits))
        lines.append([name, f"{ours:.0f}", f"{whole:,.0f}", f"{ours / whole:.2f}"])
    step = f"whole DPO step, LoRA r 8, remat, {BATCH} pairs, {PAIR_BUCKET.tokens} tokens a row"
    lines.append([step, f"{dpo_step(params, lora):.0f}", "", ""])
    measuring.finish(
        given, [measuring.Table("memory", ["work, MiB", "ours", "whole logits", "ratio"], lines)]
    )


def abstract_rows(batch: int, tokens: int, targets: int) -> Rows:
    """Shapes of `batch` rows."""
    wide, narrow = (jax.ShapeDtypeStruct((batch, n), np.int32) for n in (tokens, targets))
    return Rows(wide, wide, wide, wide, narrow, narrow, narrow)  # pyright: ignore[reportArgumentType]  # shapes only


def chunked(lora: Any, params: Any, rows: Rows) -> jax.Array:
    """Ours: [B]."""
    ones = jnp.ones(rows.tokens.shape[0], jnp.float32)
    batch = ResponseBatch(rows, ones, ones.astype(jnp.int32))
    return completion_logps(Model(params, CONFIG), batch, lora=lora)


def whole_logits(lora: Lora, params: Any, rows: Rows) -> jax.Array:
    """The same sums from [B, T, V] logits."""
    hidden = hidden_states(
        CONFIG, params, *(jnp.asarray(a) for a in (rows.tokens, rows.positions, rows.segment_ids)), lora=lora
    )
    logps = jax.nn.log_softmax(unembed(CONFIG, params, hidden)[:, :-1])
    token = jnp.take_along_axis(logps, jnp.asarray(rows.tokens)[:, 1:, None], axis=2)[..., 0]
    return jnp.sum(token * (jnp.asarray(rows.branch_ids)[:, 1:] > 0), axis=1)


def with_gradient(f: Any) -> Any:
    """Value and gradient with respect to the first argument."""
    return jax.value_and_grad(lambda lora, params, rows: jnp.sum(f(lora, params, rows)))


def dpo_step(params: Any, lora: Any) -> float:
    """MiB of temporaries of the whole train step."""
    tx, schedule = make_optimizer(OptimizerSettings(learning_rate=1e-4, total_steps=100))
    step = make_train_step(dpo_loss_fn(CONFIG, AdapterSettings(lora.scale), beta=0.1), tx, schedule)
    state = jax.eval_shape(lambda tree, key: init_state(tree, tx, key), lora.params, jax.random.key(0))
    numbers, places = (jax.ShapeDtypeStruct((BATCH,), kind) for kind in (np.float32, np.int32))
    rows = abstract_rows(BATCH, *PAIR_BUCKET)
    batch: Any = PairBatch(rows, numbers, numbers, numbers, numbers, places)  # pyright: ignore[reportArgumentType]  # shapes only
    return temporaries(step, state, params, batch)


def temporaries(f: Any, *args: Any) -> float:
    """MiB of temporary memory of f compiled for arguments of these shapes."""
    compiled = (f if hasattr(f, "lower") else jax.jit(f)).lower(*args).compile()
    memory = compiled.memory_analysis()
    if memory is None:
        raise SystemExit("memory: this backend does not say what memory a program needs; run it on the CPU.")
    return memory.temp_size_in_bytes / 2**20


if __name__ == "__main__":
    main()
