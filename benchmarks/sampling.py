"""New tokens a second and peak memory: alignjax.policy.sample against transformers' generate on torch.

python benchmarks/sampling.py [--lengths=even|uneven] [--model=PATH] [--peer=PYTHON] [--repeats=5] [--json]

16 prompts x 8 samples. even: 64 new tokens each, no end of text. uneven: at most 256 tokens, and 1 of 75 ids
ends a response, so that their mean is about 75 tokens; the ids are the same on both sides, and the table
counts the tokens that each side drew.

Prompts of 20 to 60 random ids, temperature 1, top-p 0.9, float32. The weights are those of PATH, a model
folder or a .gguf file, or random ones in SmolLM2-135M's shape. Each side has a process of its own and all
take turns: ours, the peer as installed, and the peer with glibc told to keep freed memory, which helps torch.
The peer pads the prompts on the left and computes --peer_rows continuations at once, which is 128, all of
them, unless told otherwise: its fastest number in both cases. First runs, which compile, are reported apart.
Processor seconds, of all cores, tell less of what else the machine does. Ours also returns the
log-probability of every sample.

torch comes with the extra `bench`.
"""

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import measuring
import numpy as np

PROMPTS, SAMPLES = 16, 8
NEW_TOKENS = {"even": 64, "uneven": 256}
MEAN = 75
SHORTEST, LONGEST = 20, 60
VOCABULARY = 49_152
TOP_P = 0.9
PEER = "transformers"
Run = Callable[[], dict[str, Any]]


def main() -> None:
    """Starts a process for each side, lets them take turns and prints speeds, ratios and peak memory."""
    parser = measuring.parser_of(__doc__, repeats=5)
    parser.add_argument("--model", help="weights; default: random ones")
    parser.add_argument("--lengths", choices=tuple(NEW_TOKENS), default="even")
    parser.add_argument("--peer_rows", type=int, default=PROMPTS * SAMPLES)
    parser.add_argument("--save", help="only save the weights there, without an end of text")
    given = parser.parse_args()
    if given.save is not None:
        _save_weights(given.model, given.save)
    elif given.serve is not None:
        ours = given.serve == measuring.OURS
        measuring.serve(
            _ours(given.model, given.lengths)
            if ours
            else _theirs(given.model, given.lengths, given.peer_rows)
        )
    else:
        _compare(given)


def _compare(given: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        weights = [] if given.model is None else [f"--model={given.model}"]
        subprocess.run([sys.executable, __file__, *weights, f"--save={folder}"], check=True)
        options = [f"--model={folder}", f"--lengths={given.lengths}", f"--peer_rows={given.peer_rows}"]
        measured = measuring.take_turns(measuring.sides(__file__, given, PEER, options), given.repeats)
    means = {side: _mean_tokens(found) for side, found in measured.items()}
    mean = statistics.mean(means.values())
    for side, own in means.items():
        measuring.progress(f"{side}: {own:.1f} tokens a response")
        if abs(own - mean) > 0.15 * mean:
            raise SystemExit(f"sampling: {side} drew {own:.1f} tokens a response, the mean is {mean:.1f}.")
    # Tokens differ from side to side by chance: seconds are compared at the same number of them.
    scaled = {side: _scaled(found, mean / means[side]) for side, found in measured.items()}
    amount = mean * PROMPTS * SAMPLES
    table = measuring.speed_table(
        f"sampling: {given.lengths} lengths", scaled, amount=amount, unit="new tokens/s"
    )
    measuring.finish(given, [table], runs=measuring.as_json(measured), mean_tokens=means)


def _mean_tokens(found: measuring.Measured) -> float:
    return statistics.mean(turn.told["tokens"] for turn in found.turns) / (PROMPTS * SAMPLES)


def _scaled(found: measuring.Measured, factor: float) -> measuring.Measured:
    """The runs with their times multiplied."""
    turns = [
        turn._replace(seconds=factor * turn.seconds, processor=factor * turn.processor)
        for turn in found.turns
    ]
    return found._replace(turns=turns)


def _ours(folder: str, lengths: str) -> Run:
    import jax

    from alignjax.models import load_pretrained
    from alignjax.policy import sample

    model, prompts, most = load_pretrained(folder), _prompts(), NEW_TOKENS[lengths]
    model = model.replace(config=dataclasses.replace(model.config, eos_ids=tuple(_ends(lengths))))
    seeds = iter(range(1000))

    def run() -> dict[str, Any]:
        key = jax.random.key(next(seeds))
        drawn = sample(key, model, prompts, num_samples=SAMPLES, max_new_tokens=most, top_p=TOP_P)
        return {"tokens": int(drawn.lengths.sum())}

    return run


def _theirs(folder: str, lengths: str, rows: int) -> Run:
    import torch  # pyright: ignore[reportMissingImports]  # the extra `bench`
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    load = transformers.AutoModelForCausalLM.from_pretrained
    model: Any = load(folder, dtype=torch.float32).eval()
    prompts, most, ends = _prompts(), NEW_TOKENS[lengths], _ends(lengths)
    model.generation_config.eos_token_id = ends or None
    ids = torch.tensor(np.stack([np.pad(p, (LONGEST - len(p), 0)) for p in prompts]), dtype=torch.long)
    seen = torch.tensor(np.stack([np.arange(LONGEST) >= LONGEST - len(p) for p in prompts]), dtype=torch.long)
    together = max(1, rows // SAMPLES)
    is_end = torch.zeros(VOCABULARY, dtype=torch.bool)
    is_end[torch.tensor(ends, dtype=torch.long)] = True

    def run() -> dict[str, Any]:
        tokens = 0
        for start in range(0, PROMPTS, together):
            with torch.inference_mode():
                found = model.generate(
                    ids[start : start + together],
                    attention_mask=seen[start : start + together],
                    do_sample=True,
                    temperature=1.0,
                    top_p=TOP_P,
                    top_k=0,
                    num_return_sequences=SAMPLES,
                    max_new_tokens=most,
                    use_cache=True,
                    pad_token_id=0,
                )
            ended = is_end[found[:, LONGEST:]].long()
            before = ended.cumsum(dim=1) - ended  # ends before each token
            tokens += int((before == 0).sum())
        return {"tokens": tokens}

    return run


def _ends(lengths: str) -> list[int]:
    """Ids that end a response; padding of the peer, id 0, is not one of them."""
    if lengths == "even":
        return []
    ids = np.random.default_rng(1).choice(np.arange(3, VOCABULARY), VOCABULARY // MEAN, replace=False)
    return sorted(ids.tolist())


def _prompts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = np.linspace(SHORTEST, LONGEST, PROMPTS).astype(int)
    return [rng.integers(3, VOCABULARY, n).astype(np.int32) for n in lengths]


def _save_weights(path: str | None, folder: str) -> None:
    """The model without an end of text, for both sides."""
    import jax

    from alignjax.models import DecoderConfig, Model, init_params, load_pretrained, save_pretrained

    if path is None:
        sizes = (VOCABULARY, 576, 1536, 30, 9, 3, 64)
        shape = DecoderConfig("llama", *sizes, rope_theta=1e5, tie_embeddings=True)
        model = Model(init_params(jax.random.key(0), shape), shape)
    else:
        model = load_pretrained(path)
    endless = dataclasses.replace(model.config, eos_ids=())
    save_pretrained(model.replace(config=endless, tokenizer=None), folder)


if __name__ == "__main__":
    main()
