"""Pairs a second in the DPO step: alignjax's train step against TRL's DPOTrainer on torch.

python benchmarks/dpo_step.py [--models 30m,135m] [--pairs even,hh,pku] [--repeats 5] [--peer PYTHON] [--json]

LoRA r 8 on all seven projections, float32, updates of 4 pairs, the reference's log-probabilities computed
before. Three kinds of pairs: `even`, prompts of 128 tokens with responses of 64 to 128; `hh` and `pku`, with
the lengths of 1,000 pairs of Anthropic's hh-rlhf (harmless) and of PKU-SafeRLHF, as SmolLM2's tokenizer cuts
them (at most 512 tokens of prompt and response, 256 of the prompt): `pair_lengths.json`. Token ids are
random. Weights are random too, saved once by us in two shapes: 30m (hidden 384, 8 layers, 6 heads on 2,
vocabulary 32,000) and 135m (SmolLM2's). Adapters begin with the same numbers.

Ours is the library's step on the library's batches, of shapes chosen for three epochs of all 1,000 pairs, two
batches of 2 pairs an update: with `remat` as it chooses by itself, and with the one that needs least memory.
TRL's is `training_step` of its trainer, then clipping, AdamW and the schedule as its loop runs them, on
batches of its collator; without gradient checkpointing, its fastest way. A turn has the same pairs on both
sides: ours are the first batches of an epoch, TRL's are the same pairs in an order of their own. Of `even`
pairs the order is the same, and the losses of the second step are compared too. Each side has a process of
its own and they take turns.
"""

import argparse
import dataclasses
import itertools
import json
import math
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring

PEER = "TRL"
BATCH, BETA, RANK, ALPHA, RATE, CLIP = 4, 0.1, 8, 16.0, 5e-4, 1.0
EPOCHS = 3  # that the shapes of batches are chosen for
LENGTHS = Path(__file__).parent / "pair_lengths.json"
SHAPES = {
    "30m": {"vocab_size": 32_000, "hidden": 384, "inner": 1024, "layers": 8, "heads": 6, "kv": 2},
    "135m": {"vocab_size": 49_152, "hidden": 576, "inner": 1536, "layers": 30, "heads": 9, "kv": 3},
}
# Updates of a turn; pairs of `even` lengths need few, those of real data enough to show their mean.
STEPS = {"30m": {"even": 2, "hh": 4, "pku": 4}, "135m": {"even": 1, "hh": 2, "pku": 2}}
TOLERANCE = {"first": 1e-4, "second": 1e-4}


def main() -> None:
    """Measures each model with each kind of pairs."""
    parser = measuring.parser_of(__doc__, repeats=5)
    parser.add_argument("--models", default="30m,135m")
    parser.add_argument("--pairs", default="even,hh,pku")
    parser.add_argument(
        "--accumulate", type=int, default=2, help="ours: an update's 4 pairs in so many batches"
    )
    parser.add_argument("--peer_accumulate", type=int, default=1, help="the same of the peer")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # what a process of a side works on
    parser.add_argument("--remat", default="auto", help=argparse.SUPPRESS)  # of that process
    given = parser.parse_args()
    if given.serve is not None:
        work = Path(given.work)
        ours = given.serve == measuring.OURS
        side = _ours(work, given.remat, given.accumulate) if ours else _theirs(work, given.peer_accumulate)
        measuring.serve(side)
        return
    tables, details = [], {}
    for model in given.models.split(","):
        for kind in given.pairs.split(","):
            with tempfile.TemporaryDirectory() as folder:
                steps = _prepare(Path(folder), model, kind, BATCH // given.accumulate)
                batches = f"--accumulate={given.accumulate}", f"--peer_accumulate={given.peer_accumulate}"
                arguments = (f"--work={folder}", *batches)
                sides = measuring.sides(__file__, given, PEER, arguments)
                if len(sides) > 1:
                    sides.insert(1, _least_memory(sides[0]))
                found = measuring.take_turns(sides, given.repeats)
            _check_losses(found, kind)
            name = f"dpo_step_{model}_{kind}"
            amount = steps * BATCH
            tables.append(measuring.speed_table(name, found, amount=amount, unit="pairs/s", digits=2))
            details[name] = measuring.as_json(found)
    measuring.finish(given, tables, **details)


def _least_memory(ours: measuring.Side) -> measuring.Side:
    """Our step where the backward pass computes every layer again."""
    return ours._replace(name=f"{ours.name}, remat=layers", command=(*ours.command, "--remat=layers"))


def _prepare(folder: Path, model: str, kind: str, rows_at_a_time: int) -> int:
    """Writes the weights, and the batches of both sides; returns the updates of a turn."""
    import jax
    import numpy as np

    from alignjax.data.batches import pair_batches, pair_lengths
    from alignjax.models import DecoderConfig, Model, init_lora, init_params, save_pretrained
    from alignjax.policy.batching import Batching
    from alignjax.policy.row_cost import row_cost
    from alignjax.runtime.mesh import make_mesh

    s = SHAPES[model]
    shape = DecoderConfig(
        *("llama", s["vocab_size"], s["hidden"], s["inner"], s["layers"], s["heads"], s["kv"], 64),
        rope_theta=1e5,
        tie_embeddings=True,
    )
    save_pretrained(Model(init_params(jax.random.key(0), shape), shape), folder / "model")
    new = init_lora(jax.random.key(1), shape, rank=RANK, alpha=ALPHA).params["layers"]
    begin: dict[str, Any] = {name: np.asarray(pair["a"]) for name, pair in new.items()}
    np.savez(folder / "adapters.npz", **begin)
    rows = _pairs(kind, shape.vocab_size)
    pairs = _tokenized(rows)
    batching = Batching(make_mesh(1, 1, 1, devices=jax.devices()[:1]), rows_at_a_time, 8, None)
    lengths = pair_lengths(pairs)
    buckets = batching.buckets(lengths, row_cost(shape, EPOCHS, trained=True))
    shuffled = pair_batches(pairs, batch_size=rows_at_a_time, buckets=buckets, seed=0, shuffle=True)
    steps = STEPS[model][kind]
    first = itertools.islice(shuffled, steps * BATCH // rows_at_a_time)
    ours = [[int(i) for i in batch.indices] for batch in first]
    theirs = [i for batch in ours for i in batch]
    if kind != "even":
        random.Random(0).shuffle(theirs)
    plan = {
        "pairs": rows,
        "buckets": [list(bucket) for bucket in buckets],
        "ours": ours,
        "theirs": [theirs[n : n + BATCH] for n in range(0, len(theirs), BATCH)],
    }
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return steps


def _pairs(kind: str, vocabulary: int) -> list[list[list[int]]]:
    """1,000 pairs of random ids: prompt, chosen, rejected."""
    draw = random.Random(0)
    if kind == "even":
        lengths = [[128, draw.randint(64, 128), draw.randint(64, 128)] for _ in range(1000)]
    else:
        lengths = json.loads(LENGTHS.read_text(encoding="utf-8"))[kind]
    return [[[draw.randrange(3, vocabulary) for _ in range(n)] for n in pair] for pair in lengths]


def _tokenized(rows: list[list[list[int]]]) -> list[Any]:
    import numpy as np

    from alignjax.data.tokenize import TokenizedPair

    return [TokenizedPair(*(np.array(ids, np.int32) for ids in row)) for row in rows]


def _ours(work: Path, remat: str, accumulate: int) -> Callable[[], dict[str, Any]]:
    """Our train step; the batches are made in the turn, as in a run."""
    import jax
    import numpy as np

    from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
    from alignjax.alignment.remat import Training, least_remat
    from alignjax.alignment.step import AdapterSettings, dpo_loss_fn, init_state, make_train_step
    from alignjax.data.batches import Bucket, pair_batches
    from alignjax.models import init_lora, load_pretrained
    from alignjax.models.lora import TARGETS
    from alignjax.policy.logps import preference_logps

    plan = json.loads((work / "plan.json").read_text(encoding="utf-8"))
    buckets = [Bucket(*sizes) for sizes in plan["buckets"]]
    used = sorted({i for batch in plan["ours"] for i in batch})
    model, pairs = load_pretrained(work / "model"), _tokenized(plan["pairs"])
    rows_at_a_time = BATCH // accumulate
    training = Training(rows_at_a_time, buckets[-1].tokens, RANK, TARGETS)
    remat = least_remat(model.config, training, None) if remat == "auto" else remat
    model = model.replace(config=dataclasses.replace(model.config, remat=remat))
    ref = np.zeros((len(pairs), 2), np.float32)
    ref[used] = preference_logps(model, [pairs[i] for i in used], batch_size=rows_at_a_time)
    lora = init_lora(jax.random.key(1), model.config, rank=RANK, alpha=ALPHA)
    tx, schedule = make_optimizer(
        OptimizerSettings(
            RATE,
            total_steps=1000,
            warmup_steps=0,
            schedule="constant",
            weight_decay=0.0,
            accumulate=accumulate,
        )
    )
    step = make_train_step(dpo_loss_fn(model.config, AdapterSettings(lora.scale), beta=BETA), tx, schedule)
    batches = pair_batches(
        pairs,
        batch_size=rows_at_a_time,
        ref_chosen=ref[:, 0],
        ref_rejected=ref[:, 1],
        buckets=buckets,
        seed=0,
        shuffle=True,
    )
    state = init_state(lora.params, tx, jax.random.key(2))

    def run() -> dict[str, Any]:
        nonlocal state
        losses = []
        for n in range(len(plan["ours"])):
            state, metrics = step(state, model.params, jax.device_put(batches[n]))
            losses.append(metrics["loss"])
        means = np.array(losses).reshape(-1, accumulate).mean(axis=1)
        return {"losses": means.tolist(), "remat": remat}

    return run


def _theirs(work: Path, accumulate: int) -> Callable[[], dict[str, Any]]:
    """TRL's step, as its loop runs it, an update's pairs in so many batches."""
    import os

    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]  # the extra `bench`
    from trl.trainer.dpo_trainer import (  # pyright: ignore[reportMissingImports]
        DataCollatorForPreference,
    )

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    plan = json.loads((work / "plan.json").read_text(encoding="utf-8"))
    trainer, size = _trainer(work), BATCH // accumulate
    trainer.current_gradient_accumulation_steps = accumulate  # its loop would set it
    model = trainer.model.train()
    collate = DataCollatorForPreference(pad_token_id=0)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    examples = [[dict(zip(names, plan["pairs"][i], strict=True)) for i in batch] for batch in plan["theirs"]]
    for batch in examples:
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, collate(batch))
        for example, first, second in zip(batch, chosen, rejected, strict=True):
            example |= {"ref_chosen_logps": float(first), "ref_rejected_logps": float(second)}
    begin = np.load(work / "adapters.npz")
    for name, weight in model.named_parameters():
        if "lora_A" in name:
            # base_model.model.model.layers.3.self_attn.q_proj.lora_A.default.weight
            words = name.split(".")
            layer, projection = words[words.index("layers") + 1], words[-4].removesuffix("_proj")
            weight.data = torch.tensor(begin[projection][int(layer)].T.copy())
    trained = [one for one in model.parameters() if one.requires_grad]

    def run() -> dict[str, Any]:
        losses = []
        for batch in examples:
            parts = (batch[n : n + size] for n in range(0, BATCH, size))
            losses.append(sum(float(trainer.training_step(model, collate(part))) for part in parts))
            torch.nn.utils.clip_grad_norm_(trained, CLIP)
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
            model.zero_grad()
        return {"losses": losses}

    return run


def _trainer(work: Path) -> Any:
    """TRL's trainer on LoRA adapters of all projections; its own data set is a stand-in."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from peft import LoraConfig  # pyright: ignore[reportMissingImports]
    from tokenizers import Tokenizer, models  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports]

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="</s>")
    arguments = DPOConfig(
        output_dir=str(work / "trl"),
        beta=BETA,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        per_device_train_batch_size=BATCH,
        max_steps=1000,
        precompute_ref_log_probs=True,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(work / "model", dtype="float32"),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "a b"}] * BATCH),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.create_optimizer_and_scheduler(1000)
    return trainer


def _check_losses(found: dict[str, measuring.Measured], kind: str) -> None:
    """The first loss is log 2 on every side; of equal batches the second is the same, too."""
    seconds = {}
    for side, measured in found.items():
        first = measured.first
        assert first is not None
        losses = [*first.told["losses"], *measured.turns[0].told["losses"]]
        if abs(losses[0] - math.log(2)) > TOLERANCE["first"]:
            raise SystemExit(f"dpo_step: the first loss of {side} is {losses[0]}, not log 2.")
        seconds[side] = losses[1]
    gap = max(seconds.values()) - min(seconds.values())
    if kind == "even" and gap > TOLERANCE["second"]:
        raise SystemExit(f"dpo_step: the sides differ in the second loss: {seconds}.")
    print(f"losses of the second step: {seconds}", file=sys.stderr)


if __name__ == "__main__":
    main()
