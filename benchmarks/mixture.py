"""Time of decoding with mixtures of two and three adapters against one adapter, at equal batch.

python benchmarks/mixture.py [--rows 1,4,8,32] [--repeats 5] [--json]

One prompt of 64 tokens, 32 new tokens a row.
A model of 25 million random weights (384 hidden, 8 layers, 32,000 words), float32, adapters of rank 8 on all
seven projections, temperature 1, no end of text; rows are continuations of the prompt. A mixture computes the
reference and every adapter, so two adapters are three bodies. The kinds take turns in one process; a ratio is
the median over turns of a mixture by one adapter in the same turn, of seconds and of processor seconds (of
all cores), which tell less of what else the machine does. First runs, which compile, are not counted.
"""

import argparse
import time

import jax
import measuring
import numpy as np

from alignjax.models import Adapters, DecoderConfig, Lora, Model, init_lora, init_params, mixture_of
from alignjax.policy import sample

SHAPE = DecoderConfig("llama", 32_000, 384, 1024, 8, 6, 2, 64, tie_embeddings=True)
PROMPT = 64
RANK = 8


def main() -> None:
    """Prints seconds and ratios for every number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", default="1,4,8,32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--new_tokens", type=int, default=32)
    given = measuring.with_json(parser).parse_args()
    model = Model(init_params(jax.random.key(0), SHAPE), SHAPE)
    loras = [_adapter(seed) for seed in (1, 2, 3)]
    kinds: dict[str, Adapters] = {
        "one adapter": loras[0],
        "mixture of 2": mixture_of(loras[:2], [0.7, 0.5]),
        "mixture of 3": mixture_of(loras, [0.7, 0.5, 0.3]),
    }
    lines = []
    for rows in map(int, given.rows.split(",")):
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        for _ in range(given.repeats + 1):
            for name, lora in kinds.items():
                turns[name].append(_seconds(model, lora, rows, given.new_tokens))
        measured = {name: np.array(times[1:]) for name, times in turns.items()}
        for name, times in measured.items():
            (wall, processor), ratios = np.median(times, axis=0), times / measured["one adapter"]
            by_wall, by_processor = np.median(ratios, axis=0)
            each = " ".join(f"{x:.2f}" for x in times[:, 0])
            found = (f"{wall:.3f}", f"{by_wall:.2f}", f"{processor:.3f}", f"{by_processor:.2f}")
            lines.append([str(rows), name, *found, each])
            measuring.progress(" ".join(lines[-1]))
    columns = ["rows", "adapters", "seconds", "ratio", "processor s", "ratio", "turns, s"]
    measuring.finish(given, [measuring.Table("mixture", columns, lines)])


def _adapter(seed: int) -> Lora:
    lora = init_lora(jax.random.key(seed), SHAPE, rank=RANK, alpha=2.0 * RANK)
    return lora.replace(params=jax.tree.map(lambda x: x + 0.01, lora.params))


def _seconds(model: Model, lora: Adapters, rows: int, new_tokens: int) -> tuple[float, float]:
    """Seconds and processor seconds of one call of the sampler."""
    prompt = np.random.default_rng(0).integers(1, SHAPE.vocab_size, PROMPT).astype(np.int32)
    start, processor = time.perf_counter(), time.process_time()
    sample(
        0,
        model,
        [prompt],
        num_samples=rows,
        max_new_tokens=new_tokens,
        lora=lora,
        prompt_batch_size=1,
    )
    return time.perf_counter() - start, time.process_time() - processor


if __name__ == "__main__":
    main()
