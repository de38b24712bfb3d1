"""New tokens a second and peak memory: alignjax.policy.sample against transformers' generate on torch.

python benchmarks/sampling.py [--model PATH] [--repeats 3]     16 prompts x 8 samples x 64 new tokens

Prompts of 20 to 60 random ids, temperature 1, top-p 0.9, float32, no end of text on either side. The weights
are those of PATH, a model folder or a .gguf file, or random ones in SmolLM2-135M's shape. Each side has a
process of its own and all take turns: ours, the peer as installed, and the peer with glibc told to keep freed
memory, which helps torch. The peer computes all 128 continuations at once, its fastest way, and pads the
prompts on the left. First runs, which compile, are reported apart. Processor seconds, of all cores, tell less
of what else the machine does. Ours also returns the log-probability of every sample.

torch comes with the extra `bench`.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alignjax.models import DecoderConfig, Model, init_params, load_pretrained, save_pretrained
from alignjax.policy import sample

PROMPTS, SAMPLES, NEW_TOKENS = 16, 8, 64
SHORTEST, LONGEST = 20, 60
TOP_P = 0.9
SHAPE = DecoderConfig("llama", 49_152, 576, 1536, 30, 9, 3, 64, rope_theta=1e5, tie_embeddings=True)
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
SIDES = {"alignjax": {}, "transformers": {}, "transformers, memory kept": KEEP_MEMORY}


def main() -> None:
    """Starts a process for each side, lets them take turns and prints speeds, ratios and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", default=",".join(str(i) for i in range(len(SIDES))), help="such as 0,2")
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # the side that this process is
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve, given.model)
        return
    sides = [list(SIDES)[int(i)] for i in given.sides.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        _save_weights(given.model, folder)
        workers = {side: _start(side, folder) for side in sides}
        first = {side: _turn(worker)["seconds"] for side, worker in workers.items()}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        processor: dict[str, list[float]] = {side: [] for side in sides}
        peak = dict.fromkeys(sides, 0.0)
        for _ in range(given.repeats):
            for side, worker in workers.items():
                told = _turn(worker)
                seconds[side].append(told["seconds"])
                processor[side].append(told["processor"])
                peak[side] = told["peak_mib"]
        for worker in workers.values():
            worker.communicate()
    total = PROMPTS * SAMPLES * NEW_TOKENS
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    print(
        f"{'':<28}{'tokens/s':>9}{'ours is':>9}{'processor s':>13}{'peak MiB':>10}{'first run s':>13}"
        "   runs, s"
    )
    for side in sides:
        ratio = f"{medians[side] / medians[sides[0]]:.2f}"
        used = statistics.median(processor[side])
        each = ", ".join(f"{t:.1f}" for t in seconds[side])
        print(f"{side:<28}{total / medians[side]:>9.0f}{ratio:>9}{used:>13.1f}", end="")
        print(f"{peak[side]:>10.0f}{first[side]:>13.1f}   {each}")


def serve(side: str, folder: str) -> None:
    """One side: a run for every line that comes in, told as a line of JSON."""
    run = _ours(folder) if side == "alignjax" else _theirs(folder)
    for _ in sys.stdin:
        begun, processor = time.perf_counter(), time.process_time()
        run()
        told = {
            "seconds": time.perf_counter() - begun,
            "processor": time.process_time() - processor,
            "peak_mib": _peak_mib(),
        }
        print(json.dumps(told), flush=True)


def _ours(folder: str) -> Callable[[], None]:
    model, prompts = load_pretrained(folder), _prompts()

    def run() -> None:
        drawn = sample(
            jax.random.key(0), model, prompts, num_samples=SAMPLES, max_new_tokens=NEW_TOKENS, top_p=TOP_P
        )
        if not (drawn.lengths == NEW_TOKENS).all():
            raise SystemExit("sampling: a sample of ours ended early.")

    return run


def _theirs(folder: str) -> Callable[[], None]:
    import torch  # pyright: ignore[reportMissingImports]  # the extra `bench`
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    load = transformers.AutoModelForCausalLM.from_pretrained
    model: Any = load(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    prompts = _prompts()
    ids = torch.tensor(np.stack([np.pad(p, (LONGEST - len(p), 0)) for p in prompts]), dtype=torch.long)
    seen = torch.tensor(np.stack([np.arange(LONGEST) >= LONGEST - len(p) for p in prompts]), dtype=torch.long)

    def run() -> None:
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=seen,
                do_sample=True,
                temperature=1.0,
                top_p=TOP_P,
                top_k=0,
                num_return_sequences=SAMPLES,
                max_new_tokens=NEW_TOKENS,
                use_cache=True,
                pad_token_id=0,
            )
        if found.shape != (PROMPTS * SAMPLES, LONGEST + NEW_TOKENS):
            raise SystemExit(f"sampling: the peer returned {tuple(found.shape)}; a sample of it ended early.")

    return run


def _prompts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = np.linspace(SHORTEST, LONGEST, PROMPTS).astype(int)
    return [rng.integers(3, SHAPE.vocab_size, n).astype(np.int32) for n in lengths]


def _save_weights(path: str | None, folder: str) -> None:
    """The model without an end of text, for both sides."""
    if path is None:
        model = Model(init_params(jax.random.key(0), SHAPE), SHAPE)
    else:
        model = load_pretrained(path)
    endless = dataclasses.replace(model.config, eos_ids=())
    save_pretrained(model.replace(config=endless, tokenizer=None), folder)


def _start(side: str, folder: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--serve", side, "--model", folder]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=os.environ | SIDES[side])


def _turn(worker: subprocess.Popen[str]) -> dict[str, float]:
    if worker.stdin is None or worker.stdout is None:
        raise SystemExit("sampling: a process without pipes.")
    worker.stdin.write("go\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def _peak_mib() -> float:
    """Of this process alone; what getrusage tells may be the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
