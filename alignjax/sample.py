"""Draws responses from a model, or from a finished run at any margin.

    python -m alignjax.sample --model=PATH [--adapter=FOLDER]
        --prompts=FILE.jsonl --output=FILE.jsonl
        --num_samples=K --max_new_tokens=T
        [--temperature=T] [--top_p=P] [--seed=S] [--greedy]
    python -m alignjax.sample --workdir=RUN
        (--margin=NAME=X | --rate=NAME=X | --multiplier=NAME=X)...
        --prompts=... --output=... --num_samples=K --max_new_tokens=T [--best_of=K] [...]

With --workdir nothing is trained: the dual is solved for what is asked on the run's own samples, and the
responses are drawn from the product of the run's policies of single dimensions with the weights that it
gives. The multipliers and their forecast are printed. A constraint that no flag names is asked as in the
run. Status 3: what is asked cannot be met. With --best_of=K the reference itself is sampled: of K draws one
is kept, with the weights of the forecast; a line then has "drawn_from", and its "logps" are the reference's.

Input lines: {"prompt"}, a text or a list of messages, or {"prompt_ids"}, token ids to which nothing is added.
Output, K lines per prompt: {"prompt", "response", "response_ids", "logps", "sample"}. "logps" (nats) is the
response's log-probability under the full policy at temperature 1, EOS included. With another temperature, or
top_p below 1, a line also has "drawn_logps", under the distribution that the response was drawn from.
"response" is null if the model has no tokenizer.
"""

from pathlib import Path

from absl import flags

from alignjax import cli, dial_flags
from alignjax.best_of_samples import sample_best_of
from alignjax.config import ModelSettings
from alignjax.errors import InputError
from alignjax.models import load_adapter, load_pretrained
from alignjax.policy.encoding import make_encoder
from alignjax.run_samples import sample_run
from alignjax.runtime.files import write_text
from alignjax.sample_lines import Draws, check_draws, drawn_lines, read_prompts

_OF_A_RUN = ("margin", "rate", "multiplier", "best_of", "allow_function")
_OF_A_MODEL = ("model", "adapter", "template", "template_kwargs", "template_date", "add_bos", "dtype")


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
      prompt_batch_size: prompts computed together, each with all its samples; None: see `policy.sample`.

    Raises:
      InputError: a file, a line or an option that cannot be used.
    """
    draws = Draws(num_samples, max_new_tokens, temperature, top_p, seed, greedy, prompt_batch_size)
    check_draws(draws, output_path)
    lines = read_prompts(prompts_path)
    model = load_pretrained(model_path, dtype=dtype)
    lora = load_adapter(adapter_path, model.config) if adapter_path else None
    encoder = make_encoder(
        model, model_path, template, template_kwargs, template_date=template_date, add_bos=add_bos
    )
    write_text(Path(output_path), drawn_lines(model, lora, encoder, lines, draws))


def _define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of a finished run, in place of --model.")
    dial_flags.define_flags()
    flags.DEFINE_integer("best_of", None, "With --workdir: keep one of so many draws of the reference.")
    flags.DEFINE_multi_string("allow_function", [], "module:function of --workdir's config.json to import.")
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
    flags.DEFINE_integer("prompt_batch_size", None, "Prompts computed together; default: chosen by memory.")


def _main() -> None:
    given = flags.FLAGS
    if given.max_new_tokens is None:
        raise InputError("--max_new_tokens is missing; give --max_new_tokens=...")
    if given.workdir:
        _sample_run()
        return
    if not given.model:
        raise InputError("--model is missing; give --model=..., or --workdir=... of a finished run.")
    for name in _OF_A_RUN:
        if flags.FLAGS[name].value:
            raise InputError(f"--{name}: is about a finished run; give --workdir=... in place of --model.")
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


def _sample_run() -> None:
    given = flags.FLAGS
    for name in _OF_A_MODEL:
        if flags.FLAGS[name].present:
            raise InputError(f"--{name}: the run of --workdir has its own; leave it out.")
    draws = Draws(
        given.num_samples,
        given.max_new_tokens,
        given.temperature,
        given.top_p,
        given.seed,
        given.greedy,
        given.prompt_batch_size,
    )
    wanted = dial_flags.wanted_of(given.margin, given.rate, given.multiplier)
    run, allowed = (Path(given.workdir), given.prompts, given.output, draws, wanted), given.allow_function
    if given.best_of is None:
        told = sample_run(*run, allowed=allowed)
    else:
        told = sample_best_of(*run, given.best_of, allowed=allowed)
    print("\n".join(told))


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["prompts", "output"])
