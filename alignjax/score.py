"""Log-probabilities of given responses, and the rewards they imply against a reference.

    python -m alignjax.score --model=PATH --input=FILE.jsonl --output=FILE.jsonl [--reference=PATH --beta=B]

Input lines: {"prompt", "response"} or {"prompt", "chosen", "rejected"}; "prompt" is a text or a list of
messages; in place of any text its token ids, taken as they are ("prompt_ids", "response_ids", "chosen_ids",
"rejected_ids"). Output: the same lines with "logps" (nats, a sum over the response's tokens, EOS included)
and "num_tokens"; with a reference also "ref_logps" and "reward" = beta (logps - ref_logps). Pairs have
"chosen_logps", "rejected_logps" and so on; their "num_tokens" counts both.
"""

import gc
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from alignjax import cli
from alignjax.data.files import read_json_lines
from alignjax.data.tokenize import TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import Model, load_pretrained
from alignjax.policy.encoding import (
    Encoder,
    check_context,
    has_response,
    make_encoder,
    prompt_ids,
    response_ids,
)
from alignjax.policy.logps import response_logps
from alignjax.runtime.files import write_text
from alignjax.runtime.metrics import progress

_PAIR = ("chosen", "rejected")


class Line(NamedTuple):
    """One line of the input.

    Attributes:
      where: file:line.
      row: the object.
      columns: its responses: ("response",) or ("chosen", "rejected").
    """

    where: str
    row: dict[str, Any]
    columns: tuple[str, ...]


def score(
    model_path: str,
    input_path: str,
    output_path: str,
    *,
    reference_path: str = "",
    beta: float | None = None,
    template: str = "",
    dtype: str = "float32",
    batch_size: int = 8,
) -> None:
    """Scores every line of a file and writes the lines with their scores.

    Args:
      model_path: Hugging Face folder or .gguf file.
      input_path: JSON Lines, plain or gzip.
      output_path: JSON Lines; written at the end, in one step.
      reference_path: model that rewards are measured against; empty: no rewards.
      beta: KL weight > 0 of the reward; with a reference only.
      template: text with {prompt}; empty: the tokenizer's own.
      dtype: of the weights and matrix products, "float32" or "bfloat16".
      batch_size: responses computed together.

    Raises:
      InputError: a file, a line or an option that cannot be used.
    """
    _check_options(reference_path, beta, output_path, batch_size)
    lines = [Line(where, row, _columns(row, where)) for where, row in read_json_lines(input_path)]
    if not lines:
        raise InputError(f"{input_path}: holds no lines; there is nothing to score.")
    model = load_pretrained(model_path, dtype=dtype)
    encoder = make_encoder(model, model_path, template)
    responses = _encode(encoder, lines, model)
    logps = _logps(model, responses, batch_size, "log-probabilities", model_path)
    del model
    gc.collect()  # the weights of two models need not be held at once
    ref_logps = None
    if reference_path:
        reference = load_pretrained(reference_path, dtype=dtype)
        _check_reference(encoder, reference, reference_path)
        ref_logps = _logps(reference, responses, batch_size, "reference", reference_path)
    lengths = [len(r.response_ids) for r in responses]
    write_text(Path(output_path), _render(lines, logps, ref_logps, lengths, beta))


def _check_options(reference: str, beta: float | None, output: str, batch_size: int) -> None:
    if beta is not None and not 0 < beta < math.inf:
        raise InputError(f"--beta: is {beta}; must be above 0.")
    if reference and beta is None:
        raise InputError("--beta is missing: a reward against --reference needs it; give --beta=...")
    if beta is not None and not reference:
        raise InputError("--reference is missing: --beta weighs the reward against it; give both or neither.")
    if batch_size < 1:
        raise InputError(f"--batch_size: is {batch_size}; must be at least 1.")
    cli.check_output(output)


def _columns(row: dict[str, Any], where: str) -> tuple[str, ...]:
    single, pair = has_response(row, "response"), [name for name in _PAIR if has_response(row, name)]
    if single and pair:
        raise InputError(
            f'{where}: has "response" and "{pair[0]}"; give one response, or chosen and rejected.'
        )
    if not has_response(row, "prompt"):
        raise InputError(f'{where}: column "prompt" (or "prompt_ids") is missing; add it.')
    if single:
        return ("response",)
    if not pair:
        raise InputError(f'{where}: column "response" is missing (or "chosen" and "rejected"); add it.')
    missing = [name for name in _PAIR if name not in pair]
    if missing:
        raise InputError(f'{where}: column "{missing[0]}" is missing; a pair needs chosen and rejected.')
    return _PAIR


def _encode(encoder: Encoder, lines: Sequence[Line], model: Model) -> list[TokenizedResponse]:
    """All responses in order: one for a single line, two for a pair."""
    responses = []
    for where, row, columns in lines:
        prompt = prompt_ids(encoder, row, where)
        for name in columns:
            response = response_ids(encoder, row, name, where)
            check_context(model, encoder.path, where, prompt=len(prompt), response=len(response))
            responses.append(TokenizedResponse(prompt, response))
    return responses


def _check_reference(encoder: Encoder, reference: Model, path: str) -> None:
    """The reference scores the model's ids, so that they must mean the same to it."""
    if reference.config.vocab_size != encoder.vocab_size:
        raise InputError(
            f"--reference={path}: its vocabulary has {reference.config.vocab_size} ids, that of --model "
            f"{encoder.vocab_size}; both must have one tokenizer."
        )
    ours, theirs = encoder.tokenizer, reference.tokenizer
    if ours is not None and theirs is not None and ours.get_vocab() != theirs.get_vocab():
        raise InputError(
            f"--reference={path}: its tokenizer differs from that of --model; both must have one."
        )


def _logps(
    model: Model, responses: Sequence[TokenizedResponse], batch_size: int, description: str, path: str
) -> np.ndarray:
    with progress(len(responses), description, unit="response") as bar:
        values = response_logps(model, responses, batch_size=batch_size, progress=bar.update)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: gives a log-probability that is not finite; its weights are damaged.")
    return values


def _render(
    lines: Sequence[Line],
    logps: np.ndarray,
    ref_logps: np.ndarray | None,
    lengths: Sequence[int],
    beta: float | None,
) -> str:
    rendered, place = [], 0
    for _, row, columns in lines:
        row = dict(row)
        total = 0
        for name in columns:
            prefix = "" if name == "response" else f"{name}_"
            row[f"{prefix}logps"] = float(logps[place])
            row[f"{prefix}num_tokens"] = lengths[place]
            total += lengths[place]
            if ref_logps is not None and beta is not None:
                row[f"{prefix}ref_logps"] = float(ref_logps[place])
                row[f"{prefix}reward"] = beta * (float(logps[place]) - float(ref_logps[place]))
            place += 1
        row["num_tokens"] = total
        rendered.append(json.dumps(row, ensure_ascii=False))
    return "\n".join(rendered) + "\n"


def _define_flags() -> None:
    flags.DEFINE_string("model", "", "Hugging Face folder or .gguf file.")
    flags.DEFINE_string("input", "", "JSON Lines file, plain or gzip.")
    flags.DEFINE_string("output", "", "JSON Lines file to write.")
    flags.DEFINE_string("reference", "", "Model that rewards are measured against; needs --beta.")
    flags.DEFINE_float("beta", None, "Reward = beta (logps - ref_logps); above 0; needs --reference.")
    flags.DEFINE_string("reward_model", "", "Model with a scalar score head; not supported by this version.")
    flags.DEFINE_string("template", "", "Text with {prompt}; default: the chat template, or the prompt.")
    flags.DEFINE_string("dtype", "float32", "Of weights and matrix products: float32 or bfloat16.")
    flags.DEFINE_integer("batch_size", 8, "Responses computed together.")


def _main() -> None:
    given = flags.FLAGS
    if given.reward_model:
        raise InputError(
            f"--reward_model={given.reward_model}: scalar score models are not supported by this version; "
            "use --reference with --beta for an implicit reward."
        )
    score(
        given.model,
        given.input,
        given.output,
        reference_path=given.reference,
        beta=given.beta,
        template=given.template,
        dtype=given.dtype,
        batch_size=given.batch_size,
    )


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["model", "input", "output"])
