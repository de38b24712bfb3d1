"""Draws responses from a model.

    python -m alignjax.sample --model=PATH [--adapter=FOLDER]
        --prompts=FILE.jsonl --output=FILE.jsonl
        --num_samples=K --max_new_tokens=T
        [--temperature=T] [--top_p=P] [--seed=S] [--greedy]

Input lines: {"prompt"}, a text or a list of messages, or {"prompt_ids"}, token ids to which nothing is added.
Output, K lines per prompt: {"prompt", "response", "response_ids", "logps", "sample"}. "logps" (nats) is the
response's log-probability under the full policy at temperature 1, EOS included. With another temperature, or
top_p below 1, a line also has "drawn_logps", under the distribution that the response was drawn from.
"response" is null if the model has no tokenizer.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from alignjax import cli
from alignjax.config import ModelSettings
from alignjax.data.files import read_rows
from alignjax.data.rows import Row
from alignjax.errors import InputError
from alignjax.models import Model, load_adapter, load_pretrained
from alignjax.policy import sampling
from alignjax.policy.encoding import check_context, make_encoder, prompt_ids
from alignjax.runtime.files import write_text
from alignjax.runtime.metrics import progress


def sample(
    model_path: str,
    prompts_path: str,
    output_path: str,
    *,
    adapter_path: str = "",
    num_samples: int = 1,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    greedy: bool = False,
    template: str = "",
    template_kwargs: str = "",
    template_date: str = ModelSettings().template_date,
    add_bos: bool | None = None,
    dtype: str = "float32",
    prompt_batch_size: int | None = None,
) -> None:
    """Draws K responses to the prompt of every line of a file and writes them.

    Args:
      model_path: Hugging Face folder or .gguf file.
      prompts_path: JSON Lines, JSON, CSV, Parquet or Arrow; a file, a folder or a glob.
      output_path: JSON Lines; written at the end, in one step.
      adapter_path: folder of a LoRA adapter for the model, in PEFT's layout; empty: none.
      num_samples: K >= 1.
      max_new_tokens: largest number of tokens of a response, EOS included.
      temperature: > 0.
      top_p: in (0, 1].
      seed: of the draws.
      greedy: take the most probable token at every step instead of drawing one.
      template: text with {prompt}; empty: the tokenizer's own.
      template_kwargs: what the chat template reads, as a JSON object.
      template_date: YYYY-MM-DD, what a chat template takes for today.
      add_bos: whether prompts begin with a BOS; None: as the tokenizer and the template do.
      dtype: of the weights and matrix products, "float32" or "bfloat16".
      prompt_batch_size: prompts computed together; None: enough for about 128 responses.

    Raises:
      InputError: a file, a line or an option that cannot be used.
    """
    _check_options(num_samples, max_new_tokens, temperature, top_p, greedy, prompt_batch_size, output_path)
    lines = list(read_rows(prompts_path))
    if not lines:
        raise InputError(f"{prompts_path}: holds no lines; there is nothing to sample from.")
    for where, row in lines:
        Row(where, row).refuse_what_is_not_kept()
        if "prompt" not in row and "prompt_ids" not in row:
            raise InputError(f'{where}: column "prompt" (or "prompt_ids") is missing; add it.')
    model = load_pretrained(model_path, dtype=dtype)
    lora = load_adapter(adapter_path, model.config) if adapter_path else None
    encoder = make_encoder(
        model, model_path, template, template_kwargs, template_date=template_date, add_bos=add_bos
    )
    prompts = [prompt_ids(encoder, row, where) for where, row in lines]
    for (where, _), prompt in zip(lines, prompts, strict=True):
        check_context(model, model_path, where, prompt=len(prompt), response=max_new_tokens)
    with progress(len(prompts), "sample", unit="prompt") as bar:
        shared = {"lora": lora, "prompt_batch_size": prompt_batch_size, "progress": bar.update}
        key, densities = jax.random.key(seed), None
        limits = {"num_samples": num_samples, "max_new_tokens": max_new_tokens}
        if greedy:
            drawn = sampling.greedy(model, prompts, max_new_tokens=max_new_tokens, **shared)
        elif temperature == 1.0 and top_p == 1.0:
            drawn = sampling.sample(key, model, prompts, **limits, **shared)
        else:
            warp = {"temperature": temperature, "top_p": top_p}
            drawn, densities = sampling.sample_with_densities(key, model, prompts, **limits, **warp, **shared)
    if not np.isfinite(drawn.logps).all():
        raise InputError(
            f"{model_path}: gives a log-probability that is not finite; its weights are damaged."
        )
    write_text(Path(output_path), _render(model, [row for _, row in lines], drawn, densities))


def _check_options(
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    greedy: bool,
    prompt_batch_size: int | None,
    output: str,
) -> None:
    if num_samples < 1:
        raise InputError(f"--num_samples: is {num_samples}; must be at least 1.")
    if max_new_tokens < 1:
        raise InputError(f"--max_new_tokens: is {max_new_tokens}; must be at least 1.")
    if not 0.0 < temperature < float("inf"):
        raise InputError(f"--temperature: is {temperature}; must be above 0. For the mode use --greedy.")
    if not 0.0 < top_p <= 1.0:
        raise InputError(f"--top_p: is {top_p}; must be above 0 and at most 1.")
    if prompt_batch_size is not None and prompt_batch_size < 1:
        raise InputError(f"--prompt_batch_size: is {prompt_batch_size}; must be at least 1.")
    if greedy and (num_samples, temperature, top_p) != (1, 1.0, 1.0):
        raise InputError(
            "--greedy: draws nothing and gives one response; leave out --num_samples, --temperature and "
            "--top_p."
        )
    cli.check_output(output)


def _render(
    model: Model, rows: Sequence[dict[str, Any]], drawn: sampling.Samples, densities: np.ndarray | None
) -> str:
    rendered = []
    ends = sampling.end_ids(model)
    for i, row in enumerate(rows):
        given = {name: row[name] for name in ("prompt", "prompt_ids") if name in row}
        for k, length in enumerate(drawn.lengths[i]):
            ids = drawn.tokens[i, k, :length].tolist()
            text = None
            if model.tokenizer is not None:
                # The EOS does not belong to the text, even if the tokenizer does not list it as special.
                shown = ids[:-1] if ids[-1] in ends else ids
                text = model.tokenizer.decode(shown, skip_special_tokens=True)
            logps = float(drawn.logps[i, k])
            line = {**given, "response": text, "response_ids": ids, "logps": logps}
            if densities is not None:
                line["drawn_logps"] = float(densities[i, k])
            line["sample"] = k
            rendered.append(json.dumps(line, ensure_ascii=False))
    return "\n".join(rendered) + "\n"


def _define_flags() -> None:
    flags.DEFINE_string("model", "", "Hugging Face folder or .gguf file.")
    flags.DEFINE_string("adapter", "", "Folder of a LoRA adapter for --model, in PEFT's layout.")
    flags.DEFINE_string("prompts", "", "JSON Lines, JSON, CSV, Parquet or Arrow: a file, a folder or a glob.")
    flags.DEFINE_string("output", "", "JSON Lines file to write.")
    flags.DEFINE_integer("num_samples", 1, "Responses per prompt.")
    flags.DEFINE_integer("max_new_tokens", None, "Largest number of tokens of a response, EOS included.")
    flags.DEFINE_float("temperature", 1.0, "Above 0; below 1 sharpens.")
    flags.DEFINE_float("top_p", 1.0, "Mass of the nucleus, in (0, 1]; 1: all tokens.")
    flags.DEFINE_integer("seed", 0, "Seed of the draws.")
    flags.DEFINE_bool("greedy", False, "Take the most probable token at every step.")
    flags.DEFINE_string("template", "", "Text with {prompt}; default: the chat template, or the bare prompt.")
    flags.DEFINE_string("template_kwargs", "", "What --model's chat template reads, as a JSON object.")
    flags.DEFINE_string(
        "template_date", ModelSettings().template_date, "What a chat template takes for today."
    )
    flags.DEFINE_bool("add_bos", None, "Begin prompts with a BOS, or not; default: as the tokenizer does.")
    flags.DEFINE_string("dtype", "float32", "Type of weights and matrix products: float32 or bfloat16.")
    flags.DEFINE_integer("prompt_batch_size", None, "Prompts computed together; default: 128 / num_samples.")


def _main() -> None:
    given = flags.FLAGS
    if given.max_new_tokens is None:
        raise InputError("--max_new_tokens is missing; give --max_new_tokens=...")
    sample(
        given.model,
        given.prompts,
        given.output,
        num_samples=given.num_samples,
        max_new_tokens=given.max_new_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        seed=given.seed,
        greedy=given.greedy,
        template=given.template,
        template_kwargs=given.template_kwargs,
        template_date=given.template_date,
        add_bos=given.add_bos,
        dtype=given.dtype,
        adapter_path=given.adapter,
        prompt_batch_size=given.prompt_batch_size,
    )


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["model", "prompts", "output"])
