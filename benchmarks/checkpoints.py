"""What saving costs the training loop at the shape of SmolLM2-135M.

    python benchmarks/checkpoints.py [--full] [--steps=10] [--every=4] [--rounds=3] [--json]

DPO steps with checkpoints and without, in turns. LoRA r 8 on all seven projections, remat, batches of 4 pairs
(prompt 128, responses 128 each); --full trains all weights, whose state is 1.6 GB. Weights are random: time
does not depend on them. What is still being written at the end is waited for and counted.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import measuring
import numpy as np
from memory import BATCH, CONFIG, PAIR_BUCKET

from alignjax.alignment.loop import FitSettings, fit
from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
from alignjax.alignment.step import AdapterSettings, dpo_loss_fn, init_state, make_train_step
from alignjax.data.batches import pair_batches
from alignjax.data.tokenize import TokenizedPair
from alignjax.models import init_lora, init_params
from alignjax.runtime.checkpoint import Checkpoints


def main() -> None:
    """Prints a table of seconds a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    for name, default in (("steps", 10), ("every", 4), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = measuring.with_json(parser).parse_args()
    train = training(full=given.full)
    train(1, None)  # compiles
    ratios, lines = [], []
    for number in range(given.rounds):
        order = (None, given.every) if number % 2 == 0 else (given.every, None)
        seconds = {every: train(given.steps, every) for every in order}
        ratios.append(seconds[given.every] / seconds[None])
        each = f"{seconds[None]:.3f}", f"{seconds[given.every]:.3f}", f"{ratios[-1]:.3f}"
        lines.append([str(number + 1), *each])
        measuring.progress(" ".join(lines[-1]))
    lines.append(["median", "", "", f"{statistics.median(ratios):.3f}"])
    name = "checkpoints_full" if given.full else "checkpoints"
    columns = ["round", "without, s a step", f"every {given.every} steps, s a step", "ratio"]
    measuring.finish(given, [measuring.Table(name, columns, lines)])


def training(*, full: bool) -> Any:
    """train(steps, every) -> seconds a step, the last save complete."""
    tx, schedule = make_optimizer(OptimizerSettings(learning_rate=5e-4, total_steps=100))
    params = init_params(jax.random.key(0), CONFIG)
    lora = init_lora(jax.random.key(1), CONFIG, rank=8, alpha=16.0)
    adapter = None if full else AdapterSettings(lora.scale)
    step = make_train_step(dpo_loss_fn(CONFIG, adapter, beta=0.1), tx, schedule)
    batch = a_batch()

    def train(steps: int, every: int | None) -> float:
        state = init_state(params if full else lora.params, tx, jax.random.key(2))
        settings = FitSettings("benchmark", steps, log_every=steps, checkpoint_every=every)
        with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder) / "series") as checkpoints:
            start = time.perf_counter()
            fit(
                state,
                step,
                None if full else params,
                lambda start: itertools.repeat(batch),
                settings,
                checkpoints=checkpoints if every is not None else None,
            )
            checkpoints.wait()
            return (time.perf_counter() - start) / steps

    return train


def a_batch() -> Any:
    """One batch of pairs that fill their bucket."""
    rng = np.random.default_rng(0)
    ids = [[rng.integers(0, CONFIG.vocab_size, 128).astype(np.int32) for _ in range(3)] for _ in range(BATCH)]
    zeros = np.zeros(BATCH, np.float32)
    return pair_batches(
        [TokenizedPair(*row) for row in ids],
        labels=zeros + 1,
        ref_chosen=zeros,
        ref_rejected=zeros,
        batch_size=BATCH,
        buckets=(PAIR_BUCKET,),
    )[0]


if __name__ == "__main__":
    main()
