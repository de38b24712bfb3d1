"""DPO with TRL and PEFT, on the CPU, in an environment of its own: `alternatives.py --peer` starts it.

    PYTHON benchmarks/alternatives_trl.py SETTINGS.json

The settings are those of `alternatives.Dpo`. Pairs are lines with prompt, chosen and rejected, and with their
token ids as alignjax has them: training starts only if TRL's tokenization gives the same ids. The best of the
evaluated steps is kept, as alignjax keeps it. Writes the merged model.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Trains one policy and saves it."""
    given: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    trainer = make_trainer(given)
    check_ids(trainer.train_dataset, given["train"])
    trainer.train()
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(given["output"])
    trainer.processing_class.save_pretrained(given["output"])


def make_trainer(given: dict[str, Any]) -> Any:
    """TRL's trainer on LoRA adapters of all projections."""
    from datasets import load_dataset  # pyright: ignore[reportMissingImports]  # of the other environment
    from peft import LoraConfig  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM, AutoTokenizer, EarlyStoppingCallback
    from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports]

    parts = {"train": given["train"], "test": given["held_out"]}
    data = load_dataset("json", data_files=parts, cache_dir=given["scratch"])
    texts = data.select_columns(["prompt", "chosen", "rejected"])
    steps = math.ceil(given["epochs"] * math.ceil(len(texts["train"]) / given["batch_size"]))
    every = max(1, steps // given["evals"])
    arguments = DPOConfig(
        output_dir=given["scratch"],
        beta=given["beta"],
        learning_rate=given["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=given["warmup_steps"],
        weight_decay=0.0,
        max_grad_norm=given["clip_norm"],
        per_device_train_batch_size=given["batch_size"],
        per_device_eval_batch_size=128,
        num_train_epochs=given["epochs"],
        max_length=given["max_length"],
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=every,
        save_steps=every,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        seed=given["seed"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
    )
    adapters = LoraConfig(
        r=given["rank"], lora_alpha=given["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(given["model"], dtype="float32"),
        args=arguments,
        train_dataset=texts["train"],
        eval_dataset=texts["test"],
        processing_class=AutoTokenizer.from_pretrained(given["model"]),
        peft_config=adapters,
        callbacks=[EarlyStoppingCallback(given["patience"])],
    )


def check_ids(dataset: Any, path: str) -> None:
    """Stops where TRL's ids of the pairs are not those of the file."""
    with Path(path).open(encoding="utf-8") as file:
        for number, (line, row) in enumerate(zip(file, dataset, strict=True), 1):
            wanted = json.loads(line)
            for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
                if list(row[name]) != wanted[name]:
                    raise SystemExit(f"{path}:{number}: TRL has {name} {row[name]}, wanted {wanted[name]}.")


if __name__ == "__main__":
    main()
