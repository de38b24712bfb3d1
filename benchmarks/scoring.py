"""Log-probabilities of given responses: alignjax against transformers on torch.

python benchmarks/scoring.py --peer=PYTHON [--work=pairs-30m-64] [--repeats 5] [--json]

Works: pairs of a prompt of 128 tokens and two responses of 64 to 128 (64 and 256 of them for a model of 25
million parameters, 16 in SmolLM2-135M's shape), and 16 responses of 64 to 128 tokens to each of 32 prompts of
256. Random ids and weights, float32, 8 responses a batch. Each is measured as whole processes, start, reading
of the weights and compilation included, and the short ones also by processes that have compiled.

The peer is at its best: sequences sorted by length, right padding, the vocabulary head on the responses only.
It runs as installed and with glibc told to keep freed memory. Log-probabilities have to be equal to 1e-3
before anything is reported. Speeds are of response tokens.

torch comes with the extra `bench`, or with the interpreter that --peer names.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import numpy as np

PEER = "transformers"
BATCH = 8  # responses
SHORTEST, LONGEST = 64, 128  # tokens of a response
VOCABULARIES = {"30m": 32_000, "135m": 49_152}


class Work(NamedTuple):
    """What is scored.

    Attributes:
      size: of the model.
      prompts: number of prompts.
      prompt_tokens: length of each.
      responses: to each prompt; 2: pairs.
      ways: to measure it: `whole` processes, and `turns` after compilation.
    """

    size: str
    prompts: int
    prompt_tokens: int
    responses: int
    ways: tuple[str, ...] = ("whole", "turns")


WORKS = {
    "pairs-30m-64": Work("30m", 64, 128, 2),
    "pairs-30m-256": Work("30m", 256, 128, 2, ("whole",)),
    "pairs-135m-16": Work("135m", 16, 128, 2),
    "shared-30m": Work("30m", 32, 256, 16, ("whole",)),
}


def main() -> None:
    """Measures every work, or what one side does in its own process."""
    parser = measuring.parser_of(__doc__, repeats=5)
    parser.add_argument("--work", choices=[*WORKS, "all"], default="all")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # of the weights
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        _serve(given.serve, WORKS[given.work], given.folder, given.once)
        return
    tables, details = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in WORKS if given.work == "all" else [given.work]:
            work = WORKS[name]
            weights = Path(folder) / work.size
            if not weights.exists():
                make = f"import scoring; scoring.save_weights({work.size!r}, {str(weights)!r})"
                subprocess.run([sys.executable, "-c", make], cwd=Path(__file__).parent, check=True)
            for way in work.ways:
                measured = _measured(given, name, str(weights), way)
                _check_equal(name, measured)
                tokens = sum(len(ids) for _, ids in _responses(work))
                title = f"scoring: {name}, {'whole process' if way == 'whole' else 'after compilation'}"
                tables.append(measuring.speed_table(title, measured, amount=tokens, unit="tokens/s"))
                details[title] = _without_logps(measured)
    measuring.finish(given, tables, runs=details)


def _measured(given: argparse.Namespace, name: str, weights: str, way: str) -> dict[str, measuring.Measured]:
    arguments = [f"--work={name}", f"--folder={weights}"]
    if way == "whole":
        chosen = measuring.sides(__file__, given, PEER, [*arguments, "--once"])
        return measuring.whole_processes(chosen, given.repeats)
    return measuring.take_turns(measuring.sides(__file__, given, PEER, arguments), given.repeats)


def _check_equal(name: str, measured: dict[str, measuring.Measured]) -> None:
    found = {side: np.array(one.turns[0].told["logps"]) for side, one in measured.items()}
    first, *others = found.values()
    for other in others:
        if not np.allclose(first, other, atol=1e-3, rtol=0):
            raise SystemExit(f"scoring: {name}: log-probabilities differ by {np.abs(first - other).max()}.")


def _without_logps(measured: dict[str, measuring.Measured]) -> dict[str, Any]:
    runs = measuring.as_json(measured)
    for side in runs.values():
        for turn in [*side["turns"], side["first"] or {"told": {}}]:
            turn["told"].pop("logps", None)
    return runs


def _serve(side: str, work: Work, folder: str, once: bool) -> None:
    run = _ours(work, folder) if side == measuring.OURS else _theirs(work, folder)

    def told() -> dict[str, Any]:
        return {"logps": run().tolist()}

    if once:
        print(json.dumps(told()), flush=True)
    else:
        measuring.serve(told)


def _ours(work: Work, folder: str) -> Callable[[], np.ndarray]:
    import alignjax as aj
    from alignjax.data.tokenize import TokenizedPair, TokenizedResponse

    model, listed = aj.load_pretrained(folder), _responses(work)
    if work.responses == 2:
        pairs = [
            TokenizedPair(prompt, chosen, rejected)
            for (prompt, chosen), (_, rejected) in zip(listed[::2], listed[1::2], strict=True)
        ]
        return lambda: aj.policy.preference_logps(model, pairs, batch_size=BATCH // 2).reshape(-1)
    responses = [TokenizedResponse(*row) for row in listed]
    return lambda: aj.response_logps(model, responses, batch_size=BATCH)


def _theirs(work: Work, folder: str) -> Callable[[], np.ndarray]:
    import os

    import torch  # pyright: ignore[reportMissingImports]  # the extra `bench`
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    load = transformers.AutoModelForCausalLM.from_pretrained
    model: Any = load(folder, dtype=torch.float32).eval()
    listed = _responses(work)
    order = sorted(range(len(listed)), key=lambda i: -len(listed[i][1]))

    def run() -> np.ndarray:
        found = np.zeros(len(listed), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                chosen = order[start : start + BATCH]
                rows = [np.concatenate(listed[i]) for i in chosen]
                longest = max(map(len, rows))
                ids = torch.tensor(np.stack([np.pad(row, (0, longest - len(row))) for row in rows]))
                seen = torch.tensor(np.stack([np.arange(longest) < len(row) for row in rows]))
                hidden = model.model(ids.long(), attention_mask=seen.long(), use_cache=False)[0]
                prompt = work.prompt_tokens  # the same for all
                logits = model.lm_head(hidden[:, prompt - 1 : -1])
                targets = ids[:, prompt:].long()
                logps = torch.gather(logits, 2, targets[:, :, None])[:, :, 0] - torch.logsumexp(logits, 2)
                found[chosen] = (logps * seen[:, prompt:]).sum(1).numpy()
        return found

    return run


def _responses(work: Work) -> list[tuple[np.ndarray, np.ndarray]]:
    """Prompt and response of every response, those to one prompt one after another."""
    rng = np.random.default_rng(0)
    vocabulary = VOCABULARIES[work.size]
    rows = []
    for _ in range(work.prompts):
        prompt = rng.integers(3, vocabulary, work.prompt_tokens).astype(np.int32)
        for length in rng.integers(SHORTEST, LONGEST + 1, work.responses):
            rows.append((prompt, rng.integers(3, vocabulary, length).astype(np.int32)))
    return rows


def save_weights(size: str, folder: str) -> None:
    """Random weights of a model of this size, for both sides."""
    import jax

    from alignjax.models import DecoderConfig, Model, init_params, save_pretrained

    shapes = {"30m": (384, 1024, 8, 6, 2, 64), "135m": (576, 1536, 30, 9, 3, 64)}
    config = DecoderConfig("llama", VOCABULARIES[size], *shapes[size], rope_theta=1e5, tie_embeddings=True)
    save_pretrained(Model(init_params(jax.random.key(0), config), config), folder)


if __name__ == "__main__":
    main()
