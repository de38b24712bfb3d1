"""A whole PeCAN run against the same work with TRL, PEFT, transformers and scipy, as whole processes.

python benchmarks/end_to_end.py --peer PYTHON [--model PATH | --size 135m] [--pairs 64] [--repeats 3]

Two pre-alignments by DPO, responses of the reference, log-ratios under three models, the dual, new labels,
the final DPO. Equal on both sides: the weights (those of PATH, or random ones: 135m is SmolLM2's shape), the
token ids of pairs and prompts, LoRA r 8 on seven projections, pairs, steps, batch, rate, lengths, float32.
Random words stand for text: prompts of 48 tokens, responses of 32 to 64; 8 prompts x 8 samples x 32 new
tokens.

Ours is the run's own stages on a folder, as `alignjax train` computes and saves them, up to the final policy:
without held-out losses, calibration, guard, test, evaluation and report, which the peer lacks. It also reads
and tokenizes the text and has the intervals of the dual, which the peer (end_to_end_peer.py) has not. "Cold"
begins without any compiled program, "warm" is a second run with the first one's cache.

First losses must be ln 2 on both sides, and our solver must find the peer's multiplier on the peer's scores.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measuring
import numpy as np

_PEER = "TRL, transformers, scipy"
_PROMPT, _SHORTEST, _LONGEST = 48, 32, 64  # words
_HELD_OUT, _SHARE = 4, 0.15  # pairs that are held out, and those for the test; share of prompts of each
_LABELS = {"reward": "better_response_id", "safety": "safer_response_id"}
_SETTINGS: dict[str, Any] = {
    "seed": 0,
    "beta": 0.1,
    "beta_pre": 0.1,
    "batch_size": 4,
    "learning_rate": 5e-4,
    "warmup_steps": 2,
    "max_length": 128,
    "num_prompts": 8,
    "num_samples": 8,
    "max_new_tokens": 32,
    "fraction": 0.5,
}
# Vocabulary, hidden and inner width, layers, heads, heads of keys, width of a head.
_SIZES = {"30m": (32_000, 384, 1024, 8, 6, 2, 64), "135m": (49_152, 576, 1536, 30, 9, 3, 64)}
# What a stage of ours is called on the peer's side.
_STAGES = {
    "reading": ("reference", "data"),
    "reward": ("reward",),
    "safety": ("safety",),
    "samples": ("samples",),
    "scores": ("scores", "calibration"),
    "dual": ("dual",),
    "pair scores": ("pair_scores", "labels"),
    "policy": ("policy",),
}


def main() -> None:
    """Makes the data, lets both sides run in turns and prints the tables."""
    parser = measuring.parser_of(__doc__, repeats=3)
    parser.add_argument("--model", help="a model folder or a .gguf file")
    parser.add_argument("--size", choices=_SIZES, default="135m", help="of random weights")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        _SERVED[given.serve](given)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _helper(given, "make", folder)
        measured = measuring.whole_processes(_sides(given, folder), given.repeats)
        for side, found in measured.items():
            for turn in found.turns:
                wrong = [loss for loss in turn.told["losses"] if abs(loss - math.log(2)) > 1e-3]
                if wrong:
                    raise SystemExit(f"{side}: first losses {turn.told['losses']}, must be ln 2.")
        told = _helper(given, "check", folder) if (folder / "peer").exists() else {}
    tables = [_speeds(measured), _stages(measured)]
    measuring.finish(given, tables, check=told, settings=_SETTINGS, runs=measuring.as_json(measured))


def _sides(given: argparse.Namespace, folder: Path) -> list[measuring.Side]:
    """Ours without and with compiled programs at hand, the peer as installed and with freed memory kept."""
    ours = (sys.executable, __file__, f"--folder={folder}")
    theirs = (given.peer, str(Path(__file__).with_name("end_to_end_peer.py")), str(folder))
    known = [
        measuring.Side("alignjax, cold", (*ours, "--serve=cold")),
        measuring.Side("alignjax, warm", (*ours, "--serve=warm")),
        measuring.Side(_PEER, theirs),
        measuring.Side(f"{_PEER}, freed memory kept", theirs, measuring.KEEP_MEMORY),
    ]
    chosen = {int(number) for number in given.sides.split(",")}
    if 0 not in chosen:
        raise SystemExit(f"--sides={given.sides}: must have 0, ours, which the others are compared with.")
    return [side for side, number in zip(known, (0, 0, 1, 2), strict=True) if number in chosen]


def _helper(given: argparse.Namespace, task: str, folder: Path) -> dict[str, Any]:
    """A task in a process of its own: this one stays small, since its memory counts into its children's."""
    command = [sys.executable, __file__, f"--serve={task}", f"--folder={folder}", f"--pairs={given.pairs}"]
    command += [f"--model={given.model}"] if given.model else [f"--size={given.size}"]
    (side,) = measuring.whole_processes([measuring.Side(task, tuple(command))], 1).values()
    return side.turns[0].told


def _speeds(measured: Mapping[str, measuring.Measured]) -> measuring.Table:
    """Seconds of whole processes; how many times as fast ours is, cold and warm, stands beside the peer's."""
    ours = [found for name, found in measured.items() if name.startswith(measuring.OURS)]
    rows = []
    for name, found in measured.items():
        row = [name]
        for field in ("seconds", "processor"):
            ratios = [f"{found.median(field) / one.median(field):.2f}" for one in ours]
            row += [f"{found.median(field):.1f}", *(["", ""] if found in ours else ratios)]
        ratio = "" if found in ours else f"{ours[0].median('peak_mib') / found.median('peak_mib'):.2f}"
        rows.append([*row, f"{found.median('peak_mib'):,.0f}", ratio])
    speeds = [unit for name in ("seconds", "processor s") for unit in (name, "cold is", "warm is")]
    return measuring.Table("end_to_end", ["side", *speeds, "peak MiB", "cold has"], rows)


def _stages(measured: Mapping[str, measuring.Measured]) -> measuring.Table:
    """Seconds by stage, medians over turns; what is left of a process is its start and end."""
    names = ["start", *_STAGES]
    columns = []
    for found in measured.values():
        each = [_by_stage(turn) for turn in found.turns]
        columns.append([float(np.median([stages[name] for stages in each])) for name in names])
    rows = [[name, *(f"{column[i]:.1f}" for column in columns)] for i, name in enumerate(names)]
    return measuring.Table("end_to_end_stages", ["seconds", *measured], rows)


def _by_stage(turn: measuring.Turn) -> dict[str, float]:
    told = turn.told["stages"]
    found = {name: sum(told.get(one, 0.0) for one in {name, *ours}) for name, ours in _STAGES.items()}
    return found | {"start": turn.seconds - sum(found.values())}


def make(given: argparse.Namespace) -> None:
    """The model, the pairs as text and as token ids, and the settings, under the folder."""
    from alignjax.config import from_mapping
    from alignjax.stages.run import MemoryRun
    from alignjax.workflow import groundwork
    from alignjax.workflow.setup import make_setup

    folder: Path = given.folder
    words = _save_model(given.model, _SIZES[given.size], folder / "model")
    _write_pairs(folder, words, given.pairs)
    setup, run = make_setup(from_mapping(_config(folder))), MemoryRun()
    reference = run.do(groundwork.reference(setup))
    data = run.do(groundwork.data(setup, reference))
    pairs, template = data.pairs, data.template
    if len(pairs.align) != given.pairs:
        raise SystemExit(f"end_to_end: {len(pairs.align)} pairs to align on, not {given.pairs}.")
    with (folder / "pairs_ids.jsonl").open("w", encoding="utf-8") as file:
        for i, pair in enumerate(pairs.align):
            ids = {"prompt": pair.prompt_ids, "first": pair.chosen_ids, "second": pair.rejected_ids}
            row: dict[str, Any] = {name: np.asarray(found).tolist() for name, found in ids.items()}
            row |= {name: int(labels[i]) for name, labels in pairs.human.items()}
            file.write(json.dumps(row) + "\n")
    from alignjax.policy import drawing

    prompts = pairs.train_prompts[: _SETTINGS["num_prompts"]]
    ids = drawing.prompt_ids(reference, template, prompts, setup.config.model.max_prompt_length)
    (folder / "prompts_ids.json").write_text(json.dumps([one.tolist() for one in ids]), encoding="utf-8")
    settings = _SETTINGS | {"eos_ids": list(reference.model.config.eos_ids)}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")


def _save_model(path: str | None, size: tuple[int, ...], folder: Path) -> list[str]:
    """Writes the model for both sides; returns words that are one token each."""
    import jax

    from alignjax.models import DecoderConfig, Model, init_params, load_pretrained, save_pretrained

    if path is not None:
        model = load_pretrained(path)
        assert model.tokenizer is not None
        save_pretrained(model, folder)
        vocabulary = sorted(model.tokenizer.get_vocab())
        return [word[1:] for word in vocabulary if word[0] == "Ġ" and word[1:].islower() and len(word) > 3]
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ends = 1  # <end>
    shape = DecoderConfig("llama", *size, rope_theta=1e5, tie_embeddings=True, eos_ids=(ends,))
    words = [f"w{i}" for i in range(2, shape.vocab_size)]
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<end>", *words])}
    table = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=table, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    )
    save_pretrained(Model(init_params(jax.random.key(0), shape), shape, tokenizer), folder)
    return words


def _write_pairs(folder: Path, words: list[str], count: int) -> None:
    """Pairs of random words with random labels: `count` to train on, a few that are held out or for the test.

    A prompt's side in a run depends on the prompt alone, so it is known here.
    """
    from alignjax.data.records import PreferencePair
    from alignjax.data.split import split_by_prompt

    rng = np.random.default_rng(0)
    pool = []
    for _ in range(2 * count + 100):
        lengths = (_PROMPT, *rng.integers(_SHORTEST, _LONGEST, 2))
        prompt, first, second = (" ".join(rng.choice(words, n)) for n in lengths)
        pool.append(PreferencePair(prompt, first, second, {}, ""))
    sides = split_by_prompt(pool, fraction=_SHARE, seed=_SETTINGS["seed"], test=_SHARE)
    kept = [*sides.train[:count], *sides.held_out[:_HELD_OUT], *sides.test[:_HELD_OUT]]
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for pair in kept:
            row = {"prompt": pair.prompt, "response_0": pair.chosen, "response_1": pair.rejected}
            labels = {name: int(rng.integers(0, 2)) for name in _LABELS.values()}
            file.write(json.dumps(row | labels) + "\n")


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of our side, without what the peer does not do."""
    from shared import load_preset

    values: dict[str, Any] = load_preset("pecan", "smollm2-135m").to_dict()
    length, rows = _SETTINGS["max_length"], _SETTINGS["batch_size"]
    values["model"] |= {"path": str(folder / "model"), "template": "{prompt}", "add_bos": False}
    values["model"] |= {"max_length": length, "max_prompt_length": length // 2}
    for name, label in _LABELS.items():
        values["data"]["sources"][name] |= {"path": str(folder / "pairs.jsonl"), "label": label}
    values["data"] |= {"held_out_fraction": _SHARE, "max_train_pairs": None, "max_held_out_pairs": None}
    values["test"] |= {"share": _SHARE}
    steps = {name: _SETTINGS[name] for name in ("batch_size", "learning_rate", "warmup_steps")}
    for run in ("prealign", "align"):
        values[run] |= steps | {"epochs": 1.0, "evals": 1, "log_every": 1}
    drawn = ("num_prompts", "num_samples", "max_new_tokens")
    values["sampling"] |= {name: _SETTINGS[name] for name in drawn}
    values["constraints"]["safety"]["fraction"] = _SETTINGS["fraction"]
    values |= {"seed": _SETTINGS["seed"], "beta": _SETTINGS["beta"], "beta_pre": _SETTINGS["beta_pre"]}
    values |= {"calibrate": False, "confidence": None, "accept_uninformative": True, "hard_labels": 1}
    return values | {"ref_batch_size": 2 * rows, "bootstrap": 100, "log_to": "none"}


def ours(given: argparse.Namespace) -> None:
    """Our side, cold or warm: all stages up to the final policy, on a folder of the run."""
    import dataclasses
    import time

    begun = time.perf_counter()
    cache = given.folder / "compiled"
    if given.serve == "cold":
        shutil.rmtree(cache, ignore_errors=True)
    from alignjax import runs
    from alignjax.config import from_mapping
    from alignjax.runtime.compile_cache import use_compile_cache
    from alignjax.runtime.log import Log
    from alignjax.runtime.metrics import read_metrics
    from alignjax.workflow import aligned_pairs, answering, dualizing, groundwork, scoring
    from alignjax.workflow.setup import make_setup

    use_compile_cache(str(cache))
    config, workdir = from_mapping(_config(given.folder)), given.folder / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    with runs.opened(workdir, config=config) as (run, metrics):
        setup = make_setup(config, log=Log(runs.say, metrics), cache=workdir / "cache")
        reference = run.do(groundwork.reference(setup))
        data = run.do(groundwork.data(setup, reference))
        single = {}
        for name, labels in data.pairs.human.items():
            aligned = answering.aligned(setup, reference, data, labels, stage=name, name=name, reads="data")
            single[name] = run.do(aligned)
        samples = run.do(scoring.samples(setup, reference, data))
        by = scoring.implicit_scorers(setup, reference, single)
        raw = run.do(scoring.raw_scores(setup, samples, by, config.dimensions))
        no_labels = data._replace(pairs=dataclasses.replace(data.pairs, dimensions={}))
        calibration = run.do(scoring.calibrated(setup, no_labels, by, raw))  # scores as they are
        answer = run.do(dualizing.dualized(setup, data, raw, calibration))
        pair_scores = run.do(aligned_pairs.pair_scores(setup, data, by, calibration, raw))
        relabelled = run.do(answering.relabelled(setup, data, pair_scores, answer))
        run.do(answering.aligned(setup, reference, data, relabelled.values))
        stages = {name: record.seconds for name, record in run.ledger.stages.items()}
    rows = read_metrics(workdir / "metrics.jsonl")
    first = {row["stage"]: row["loss"] for row in rows if row["step"] == 1}
    losses = [first[name] for name in ("reward", "safety", "policy")]
    tokens = float(np.mean([len(ids.response_ids) for row in samples.tokens for ids in row]))
    assert answer.lam is not None
    found = {"losses": losses, "lam": answer.lam["safety"], "tokens": tokens}
    told = {"stages": stages, "total": time.perf_counter() - begun} | found
    print(json.dumps(told))


def check(given: argparse.Namespace) -> None:
    """Our solver on the peer's scores must find the peer's multiplier."""
    import alignjax as aj

    told = json.loads((given.folder / "peer" / "answer.json").read_text(encoding="utf-8"))
    with np.load(given.folder / "peer" / "table.npz") as table:
        rewards, utilities = table["rewards"], table["utilities"]
    found = aj.dual.solve(
        rewards, utilities[..., None], beta=_SETTINGS["beta"], margins=np.array([told["margin"]])
    )
    lam = float(np.asarray(found.lam)[0])
    if not abs(lam - told["lam"]) < 1e-4 * (1 + abs(told["lam"])):
        raise SystemExit(f"end_to_end: lambda on the peer's scores is {lam}, the peer's {told['lam']}.")
    print(json.dumps({"ours": lam, "peer": told["lam"]}))


_SERVED = {"make": make, "cold": ours, "warm": ours, "check": check}

if __name__ == "__main__":
    main()
