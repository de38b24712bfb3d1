"""The peer of end_to_end.py: PeCAN by hand with TRL, PEFT, transformers and scipy, on the CPU.

    PYTHON benchmarks/end_to_end_peer.py FOLDER

FOLDER is what `end_to_end.py` made: the model, the pairs and prompts as token ids, and settings.json. It
trains two policies by DPO on the labels of one dimension each, draws responses of the reference, takes the
log-ratios of both policies as scores, solves the dual with L-BFGS-B and the exact slope, labels the pairs by
the combined score and trains the last policy. The base model is read once; adapters share it. The reference's
log-probabilities of the pairs are those that TRL computes before a training, and are not computed again for
the scores. The last line of the standard output is JSON: seconds of the stages, and what they found.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Runs all stages in order."""
    folder = Path(sys.argv[1])
    given: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    lines = (folder / "pairs_ids.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    prompts: list[list[int]] = json.loads((folder / "prompts_ids.json").read_text(encoding="utf-8"))
    clock, seconds = time.perf_counter(), dict[str, float]()

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - begun
        print(f"{name}: {seconds[name]:.1f} s", file=sys.stderr, flush=True)

    with timed("start"):
        import torch  # pyright: ignore[reportMissingImports]  # of the peer's environment
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(given["seed"])
        model: Any = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    losses = []
    for name in ("reward", "safety"):
        with timed(name):
            labels = np.array([pair[name] for pair in pairs])
            policy, loss, reference = train(model, pairs, labels, given, folder / "peer" / name)
            policy.save_pretrained(folder / "peer" / name)
            model = policy.unload()
            losses.append(loss)
    with timed("samples"):
        sequences = sample(model, prompts, given)
    with timed("scores"):
        model = with_adapters(model, folder / "peer", ("reward", "safety"))
        base = sequence_logps(model, sequences, None)
        logps = {name: sequence_logps(model, sequences, name) for name in ("reward", "safety")}
        shape = (len(prompts), given["num_samples"])
        ratios = {name: given["beta_pre"] * (found - base) for name, found in logps.items()}
        rewards, utilities = ratios["reward"].reshape(shape), ratios["safety"].reshape(shape)
    with timed("dual"):
        lam, margin = solve(rewards, utilities, given["beta"], given["fraction"])
    with timed("pair scores"):
        labels = relabel(model, pairs, reference, lam, given)
        model = model.unload()
    with timed("policy"):
        policy, loss, _ = train(model, pairs, labels, given, folder / "peer" / "policy")
        policy.save_pretrained(folder / "peer" / "policy")
        losses.append(loss)
    np.savez(folder / "peer" / "table.npz", rewards=rewards, utilities=utilities)
    tokens = float(np.mean([len(ids) - count for count, ids in sequences]))
    answer = {"lam": lam, "margin": margin}
    (folder / "peer" / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    told = {"stages": seconds, "losses": losses, "tokens": tokens} | answer
    print(json.dumps(told | {"total": time.perf_counter() - clock}))


def train(
    model: Any, pairs: Sequence[dict[str, Any]], labels: np.ndarray, given: dict[str, Any], folder: Path
) -> tuple[Any, float, np.ndarray]:
    """DPO with TRL on new LoRA adapters of all projections.

    Args:
      model: the base model.
      pairs: token ids of prompt, first and second response.
      labels: [n] 1 where the first response is better, else 0.
      given: settings.
      folder: for TRL's files.

    Returns:
      The model with adapters, the loss of the first step, and the reference's log-probabilities [n, 2] of
      first and second.
    """
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from peft import LoraConfig  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports]

    class Trainer(DPOTrainer):
        """TRL's trainer on pairs that are token ids already."""

        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

    rows = []
    for pair, first_wins in zip(pairs, labels, strict=True):
        chosen, rejected = ("first", "second") if first_wins else ("second", "first")
        ids = {"chosen_ids": pair[chosen], "rejected_ids": pair[rejected]}
        rows.append({"prompt_ids": pair["prompt"], **ids})
    arguments = DPOConfig(
        output_dir=str(folder),
        beta=given["beta"],
        learning_rate=given["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=given["warmup_steps"],
        weight_decay=0.0,
        max_grad_norm=1.0,
        per_device_train_batch_size=given["batch_size"],
        num_train_epochs=1,
        max_length=given["max_length"],
        precompute_ref_log_probs=True,
        save_strategy="no",
        logging_steps=1,
        seed=given["seed"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,  # it is faster without, in more memory
        disable_tqdm=True,
        report_to=[],
    )
    adapters = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder.parents[1] / "model"),
        peft_config=adapters,
    )
    trainer.train()
    known = trainer.train_dataset
    ordered = np.stack([known["ref_chosen_logps"], known["ref_rejected_logps"]], axis=1)
    turned = np.where(labels[:, None] > 0, ordered, ordered[:, ::-1])
    return trainer.model.eval(), trainer.state.log_history[0]["loss"], turned


def sample(
    model: Any, prompts: Sequence[Sequence[int]], given: dict[str, Any]
) -> list[tuple[int, list[int]]]:
    """Responses of the reference, all at once: length of the prompt and ids of prompt and response."""
    import torch  # pyright: ignore[reportMissingImports]

    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    seen = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        seen[row, longest - len(prompt) :] = 1
    ends = set(given["eos_ids"])
    with torch.inference_mode():
        found = model.eval().generate(
            ids,
            attention_mask=seen,
            do_sample=True,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            num_return_sequences=given["num_samples"],
            max_new_tokens=given["max_new_tokens"],
            use_cache=True,
            pad_token_id=0,
        )
    sequences = []
    for row, response in enumerate(found[:, longest:].tolist()):
        stop = next((i + 1 for i, token in enumerate(response) if token in ends), len(response))
        prompt = list(prompts[row // given["num_samples"]])
        sequences.append((len(prompt), [*prompt, *response[:stop]]))
    return sequences


def with_adapters(model: Any, folder: Path, names: Sequence[str]) -> Any:
    """The base model with trained adapters, none of them active yet."""
    from peft import PeftModel  # pyright: ignore[reportMissingImports]

    first, *others = names
    both = PeftModel.from_pretrained(model, folder / first, adapter_name=first)
    for name in others:
        both.load_adapter(folder / name, adapter_name=name)
    return both.eval()


def sequence_logps(model: Any, sequences: Sequence[tuple[int, list[int]]], adapter: str | None) -> np.ndarray:
    """Log-probabilities of responses, [n]; None: those of the base model.

    Rows of a batch have about the same length and end together, so that the head is computed on the
    responses only.
    """
    import torch  # pyright: ignore[reportMissingImports]

    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i][1]))
    found = np.zeros(len(sequences))
    if adapter is not None:
        model.set_adapter(adapter)
    for start in range(0, len(order), 8):
        batch = [sequences[i] for i in order[start : start + 8]]
        width = max(len(ids) for _, ids in batch)
        kept = max(len(ids) - count for count, ids in batch)
        tokens = torch.zeros((len(batch), width), dtype=torch.long)
        seen, targets = torch.zeros_like(tokens), torch.zeros((len(batch), kept))
        for row, (count, ids) in enumerate(batch):
            tokens[row, width - len(ids) :] = torch.tensor(ids)
            seen[row, width - len(ids) :] = 1
            targets[row, kept - (len(ids) - count) :] = 1
        places = (seen.cumsum(1) - 1).clamp(min=0)
        inputs = {"input_ids": tokens, "attention_mask": seen, "position_ids": places}
        with torch.inference_mode():
            if adapter is None:
                with model.disable_adapter():
                    logits = model(**inputs, logits_to_keep=kept + 1).logits[:, :-1]
            else:
                logits = model(**inputs, logits_to_keep=kept + 1).logits[:, :-1]
            chosen = logits.gather(2, tokens[:, -kept:, None])[..., 0]
            token_logps = (chosen - logits.logsumexp(2)) * targets
        for row, i in enumerate(order[start : start + 8]):
            found[i] = float(token_logps[row].double().sum())
    return found


def solve(rewards: np.ndarray, utilities: np.ndarray, beta: float, fraction: float) -> tuple[float, float]:
    """Lambda* of one constraint by L-BFGS-B on the dual with its exact slope, and the margin asked.

    The margin is `fraction` of that of the tilt to the utility alone.

    Args:
      rewards: [N, K].
      utilities: [N, K].
      beta: KL weight.
      fraction: in (0, 1).
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp, softmax

    alone = float(np.mean(np.sum(softmax(utilities / beta, axis=1) * utilities, axis=1)))
    margin = fraction * (alone - float(utilities.mean()))
    level = float(utilities.mean()) + margin

    def dual(lam: np.ndarray) -> tuple[float, np.ndarray]:
        tilt = (rewards + lam[0] * utilities) / beta
        value = beta * float(np.mean(np.asarray(logsumexp(tilt, axis=1)))) - lam[0] * level
        slope = float(np.mean(np.sum(softmax(tilt, axis=1) * utilities, axis=1))) - level
        return value, np.array([slope])

    options = {"ftol": 1e-15, "gtol": 1e-10}
    found = minimize(dual, np.ones(1), jac=True, method="L-BFGS-B", bounds=[(0.0, None)], options=options)
    return float(found.x[0]), margin


def relabel(
    model: Any, pairs: Sequence[dict[str, Any]], reference: np.ndarray, lam: float, given: dict[str, Any]
) -> np.ndarray:
    """Labels [n] drawn with the probability that the combined score gives, 1 where the first is better."""
    both = [(len(pair["prompt"]), pair["prompt"] + pair[which]) for pair in pairs for which in _RESPONSES]
    score = np.zeros((len(pairs), 2))
    for name, weight in (("reward", 1.0), ("safety", lam)):
        score += weight * given["beta_pre"] * (sequence_logps(model, both, name).reshape(-1, 2) - reference)
    probability = 1.0 / (1.0 + np.exp(score[:, 1] - score[:, 0]))
    rng = np.random.default_rng(given["seed"])
    return (rng.random(len(pairs)) < probability).astype(int)


_RESPONSES = ("first", "second")

if __name__ == "__main__":
    main()
