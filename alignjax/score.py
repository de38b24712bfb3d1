"""Log-probabilities of given responses, and their rewards.

    python -m alignjax.score --model=PATH [--adapter=FOLDER]
        --input=FILE.jsonl --output=FILE.jsonl
        [--reference=PATH --beta=B | --reward_model=PATH]

Input lines: {"prompt", "response"} (or "completion"), or {"prompt", "chosen", "rejected"};
"prompt" is a text or a list of messages; or any layout of pairs that `train` reads (docs/data-formats.md).
Token ids may be given in place of any text ("prompt_ids", "response_ids", "chosen_ids", "rejected_ids");
nothing is added to them.

Output: the same lines with "logps" (nats, the sum over the response's tokens, EOS included) and "num_tokens".
With a reference also "ref_logps" and "reward" = beta (logps - ref_logps). With a reward model also "reward",
its score of the response; higher is always better, so for a cost model it is minus the cost. A pair has
"chosen_logps", "rejected_logps" and so on; its "num_tokens" counts both responses.
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
from alignjax.config import ModelSettings
from alignjax.data.files import read_rows
from alignjax.data.records import prompt_json, read_unlabelled
from alignjax.data.rows import Row
from alignjax.data.templates import Template
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import (
    Lora,
    Model,
    ScoreModel,
    as_utility,
    load_adapter,
    load_pretrained,
    load_score_model,
)
from alignjax.policy.encoding import (
    Encoder,
    check_context,
    has_response,
    make_encoder,
    prompt_ids,
    response_ids,
    texts_of,
)
from alignjax.policy.logps import preference_logps, response_logps
from alignjax.runtime.files import write_text
from alignjax.runtime.metrics import progress
from alignjax.scores.learned import learned_scores
from alignjax.scores.reading import as_response, conversation_ids, same_tokenizer

_PAIR = ("chosen", "rejected")
# Columns by which a row is a pair of another layout.
_LAYOUTS = (
    *("response_0", "response_a", "response1", "human_ref_A", "conversation_a"),
    *("completions", "answers", "rejected"),
)


class Line(NamedTuple):
    """One line of the input.

    Attributes:
      where: file:line.
      row: the JSON object.
      columns: names of its responses: ("response",) or ("chosen", "rejected").
    """

    where: str
    row: dict[str, Any]
    columns: tuple[str, ...]


class Rewards(NamedTuple):
    """What is written beside the log-probabilities of n responses.

    Attributes:
      rewards: [n] float64; higher is better.
      ref_logps: [n] float32, nats, under the reference; None: the rewards are a reward model's.
    """

    rewards: np.ndarray
    ref_logps: np.ndarray | None = None


def score(
    model_path: str,
    input_path: str,
    output_path: str,
    *,
    adapter_path: str = "",
    reference_path: str = "",
    beta: float | None = None,
    reward_model_path: str = "",
    template: str = "",
    template_kwargs: str = "",
    template_date: str = ModelSettings().template_date,
    add_bos: bool | None = None,
    dtype: str = "float32",
    batch_size: int = 8,
) -> None:
    """Scores every line of a file and writes the lines with their scores.

    Args:
      model_path: Hugging Face folder or .gguf file.
      input_path: JSON Lines, JSON, CSV, Parquet or Arrow; a file, a folder or a glob.
      output_path: JSON Lines; written at the end, in one step.
      adapter_path: folder of a LoRA adapter for the model, in PEFT's layout; empty: none.
      reference_path: model that rewards are measured against; empty: none.
      beta: KL weight > 0 of these rewards; together with a reference only.
      reward_model_path: folder of a reward or cost model that gives the rewards instead; empty: none. Texts
        are read with its own tokenizer.
      template: text with {prompt}, for all models; empty: each tokenizer's own.
      template_kwargs: what the policy's chat template reads, as a JSON object.
      template_date: YYYY-MM-DD, what the policy's chat template takes for today.
      add_bos: whether the policy's prompts begin with a BOS; None: as its tokenizer and template do.
      dtype: of the weights and matrix products, "float32" or "bfloat16".
      batch_size: responses computed together.

    Raises:
      InputError: a file, a line or an option that cannot be used.
    """
    _check_options(reference_path, beta, reward_model_path, output_path, batch_size)
    lines = [line for where, row in read_rows(input_path) for line in _lines_of(where, row)]
    if not lines:
        raise InputError(f"{input_path}: holds no lines; there is nothing to score.")
    model = load_pretrained(model_path, dtype=dtype)
    lora = load_adapter(adapter_path, model.config) if adapter_path else None
    encoder = make_encoder(
        model, model_path, template, template_kwargs, template_date=template_date, add_bos=add_bos
    )
    responses = _encode(encoder, lines, model)
    logps = _logps(model, responses, batch_size, "log-probabilities", model_path, lora)
    del model, lora
    gc.collect()  # the weights of two models need not be held at once
    rewards = None
    if reference_path and beta is not None:
        reference = load_pretrained(reference_path, dtype=dtype)
        _check_reference(encoder, reference, reference_path)
        ref_logps = _logps(reference, responses, batch_size, "reference", reference_path)
        rewards = Rewards(beta * (logps.astype(np.float64) - ref_logps), ref_logps)
    if reward_model_path:
        scorer = load_score_model(reward_model_path, dtype=dtype)
        read = _as_scored(scorer, reward_model_path, template, lines, encoder)
        with progress(len(read), "rewards", unit="response") as bar:
            scores = learned_scores(scorer, read, batch_size=batch_size, progress=bar.update)
        rewards = Rewards(as_utility(scorer.kind, scores.astype(np.float64)))
    lengths = [len(r.response_ids) for r in responses]
    write_text(Path(output_path), _render(lines, logps, rewards, lengths))


def _check_options(
    reference: str, beta: float | None, reward_model: str, output: str, batch_size: int
) -> None:
    if beta is not None and not 0 < beta < math.inf:
        raise InputError(f"--beta: is {beta}; must be above 0.")
    if reward_model and (reference or beta is not None):
        raise InputError(
            f"--reward_model={reward_model}: its scores and those against --reference would both be "
            '"reward"; give --reward_model, or --reference with --beta.'
        )
    if reference and beta is None:
        raise InputError("--beta is missing: a reward against --reference needs it; give --beta=...")
    if beta is not None and not reference:
        raise InputError("--reference is missing: --beta weighs the reward against it; give both or neither.")
    if batch_size < 1:
        raise InputError(f"--batch_size: is {batch_size}; must be at least 1.")
    cli.check_output(output)


def _lines_of(where: str, row: dict[str, Any]) -> list[Line]:
    """A row as it is, or the pairs of a layout that `train` reads, such as dialogues and ranked lists."""
    Row(where, row).refuse_what_is_not_kept()
    if has_response(row, "prompt") and (_single(row) or _is_plain_pair(row)):
        return [Line(where, row, _columns(row, where))]
    if not any(name in row for name in _LAYOUTS):
        return [Line(where, row, _columns(row, where))]  # says what is missing
    names, pairs = read_unlabelled(where, row)
    rest = {name: value for name, value in row.items() if name not in ("completions", "answers")}
    return [
        Line(
            where,
            rest | {"prompt": prompt_json(pair.prompt), names[0]: pair.chosen, names[1]: pair.rejected},
            names,
        )
        for pair in pairs
    ]


def _single(row: dict[str, Any]) -> str:
    """The column of a single response, in KTO's data "completion"; empty: there is none."""
    return next((name for name in ("response", "completion") if has_response(row, name)), "")


def _is_plain_pair(row: dict[str, Any]) -> bool:
    """Whether both responses are there as a text, one message, or token ids; or one of them is not there."""
    here = [name for name in _PAIR if has_response(row, name)]
    plain = [
        name for name in here if name not in row or not isinstance(row[name], list) or len(row[name]) == 1
    ]
    return bool(here) and (len(here) == 1 or here == plain)


def _columns(row: dict[str, Any], where: str) -> tuple[str, ...]:
    single, pair = _single(row), [name for name in _PAIR if has_response(row, name)]
    if single and pair:
        raise InputError(
            f'{where}: has "{single}" and "{pair[0]}"; give one response, or chosen and rejected.'
        )
    if not has_response(row, "prompt"):
        raise InputError(f'{where}: column "prompt" (or "prompt_ids") is missing; add it.')
    if single:
        return (single,)
    if not pair:
        raise InputError(f'{where}: column "response" is missing (or "chosen" and "rejected"); add it.')
    missing = [name for name in _PAIR if name not in pair]
    if missing:
        raise InputError(f'{where}: column "{missing[0]}" is missing; a pair needs chosen and rejected.')
    return _PAIR


def _encode(encoder: Encoder, lines: Sequence[Line], model: Model | ScoreModel) -> list[TokenizedResponse]:
    """All responses in order: one for a single line, two for a pair."""
    responses = []
    for where, row, columns in lines:
        prompt = prompt_ids(encoder, row, where)
        for name in columns:
            response = response_ids(encoder, row, name, where)
            check_context(model, encoder.path, where, prompt=len(prompt), response=len(response))
            responses.append(TokenizedResponse(prompt, response))
    return responses


def _as_scored(
    scorer: ScoreModel, path: str, template: str, lines: Sequence[Line], of_model: Encoder
) -> list[TokenizedResponse]:
    """All responses as the reward model reads them: by its own tokenizer, never in another's ids."""
    tokenizer = scorer.tokenizer
    if not _same_ids(scorer, of_model):
        lines = [line._replace(row=_texts_alone(line, path)) for line in lines]
    if tokenizer is None or tokenizer.chat_template is None or template or scorer.reads == "response":
        return _encode(make_encoder(scorer, path, template), lines, scorer)
    wheres = [where for where, _, columns in lines for _ in columns]
    texts = [texts_of(row, name, where) for where, row, columns in lines for name in columns]
    read = conversation_ids(tokenizer, texts, template=Template("chat"), pad_id=scorer.pad_id, wheres=wheres)
    for ids, where in zip(read, wheres, strict=True):
        check_context(scorer, path, where, prompt=len(ids) - 1, response=1)
    return [as_response(ids) for ids in read]


def _texts_alone(line: Line, path: str) -> dict[str, Any]:
    """A line without its token ids, whose texts the reward model reads instead."""
    names = ("prompt", *line.columns)
    if missing := [name for name in names if name not in line.row]:
        raise InputError(
            f'{line.where}: "{missing[0]}" is given as token ids of --model alone, and --reward_model={path} '
            "has another vocabulary; give the text."
        )
    return {name: line.row[name] for name in names}


def _same_ids(scorer: ScoreModel, of_model: Encoder) -> bool:
    """Whether ids mean the same to the reward model; without two tokenizers, only sizes can be compared."""
    if scorer.tokenizer is None or of_model.tokenizer is None:
        return scorer.config.vocab_size == of_model.vocab_size
    return same_tokenizer(scorer.tokenizer, of_model.tokenizer)


def _check_reference(encoder: Encoder, reference: Model, path: str) -> None:
    """Refuses a reference with another vocabulary: it reads the ids that the model's tokenizer made."""
    if reference.config.vocab_size != encoder.vocab_size:
        raise InputError(
            f"--reference={path}: its vocabulary has {reference.config.vocab_size} ids and that of --model "
            f"{encoder.vocab_size}; give two models with the same tokenizer."
        )
    ours, theirs = encoder.tokenizer, reference.tokenizer
    if ours is not None and theirs is not None and ours.get_vocab() != theirs.get_vocab():
        raise InputError(
            f"--reference={path}: its tokenizer differs from that of --model; give two models with the same "
            "tokenizer."
        )


def _logps(
    model: Model,
    responses: Sequence[TokenizedResponse],
    batch_size: int,
    description: str,
    path: str,
    lora: Lora | None = None,
) -> np.ndarray:
    pairs = _pairs_of(responses)
    with progress(len(responses), description, unit="response") as bar:
        if pairs is None:
            values = response_logps(model, responses, lora=lora, batch_size=batch_size, progress=bar.update)
        else:
            values = preference_logps(
                model,
                pairs,
                lora=lora,
                batch_size=-(-batch_size // 2),
                progress=lambda done: bar.update(2 * done),
            ).reshape(-1)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: gives a log-probability that is not finite; its weights are damaged.")
    return values


def _pairs_of(responses: Sequence[TokenizedResponse]) -> list[TokenizedPair] | None:
    """The pairs that all responses come from, so that a prompt is read once; None: not all come in pairs."""
    couples = list(zip(responses[::2], responses[1::2], strict=False))
    if 2 * len(couples) != len(responses) or any(a.prompt_ids is not b.prompt_ids for a, b in couples):
        return None
    return [TokenizedPair(a.prompt_ids, a.response_ids, b.response_ids) for a, b in couples]


def _render(lines: Sequence[Line], logps: np.ndarray, rewards: Rewards | None, lengths: Sequence[int]) -> str:
    rendered, i = [], 0  # i: number of the response
    for _, row, columns in lines:
        row = dict(row)
        total = 0
        for name in columns:
            prefix = "" if len(columns) == 1 else f"{name}_"
            row[f"{prefix}logps"] = float(logps[i])
            row[f"{prefix}num_tokens"] = lengths[i]
            total += lengths[i]
            if rewards is not None:
                if rewards.ref_logps is not None:
                    row[f"{prefix}ref_logps"] = float(rewards.ref_logps[i])
                row[f"{prefix}reward"] = float(rewards.rewards[i])
            i += 1
        row["num_tokens"] = total
        rendered.append(json.dumps(row, ensure_ascii=False))
    return "\n".join(rendered) + "\n"


def _define_flags() -> None:
    flags.DEFINE_string("model", "", "Hugging Face folder or .gguf file.")
    flags.DEFINE_string("input", "", "JSON Lines, JSON, CSV, Parquet or Arrow: a file, a folder or a glob.")
    flags.DEFINE_string("output", "", "JSON Lines file to write.")
    flags.DEFINE_string("adapter", "", "Folder of a LoRA adapter for --model, in PEFT's layout.")
    flags.DEFINE_string("reference", "", "Model that rewards are measured against; needs --beta.")
    flags.DEFINE_float("beta", None, "Reward = beta (logps - ref_logps); above 0; needs --reference.")
    flags.DEFINE_string("reward_model", "", "Reward model, or cost model: then the reward is minus the cost.")
    flags.DEFINE_string("template", "", "Text with {prompt}; default: the chat template, or the bare prompt.")
    flags.DEFINE_string("template_kwargs", "", "What --model's chat template reads, as a JSON object.")
    flags.DEFINE_string(
        "template_date", ModelSettings().template_date, "What a chat template takes for today."
    )
    flags.DEFINE_bool("add_bos", None, "Begin prompts with a BOS, or not; default: as the tokenizer does.")
    flags.DEFINE_string("dtype", "float32", "Type of weights and matrix products: float32 or bfloat16.")
    flags.DEFINE_integer("batch_size", 8, "Responses computed together.")


def _main() -> None:
    given = flags.FLAGS
    score(
        given.model,
        given.input,
        given.output,
        adapter_path=given.adapter,
        reference_path=given.reference,
        beta=given.beta,
        reward_model_path=given.reward_model,
        template=given.template,
        template_kwargs=given.template_kwargs,
        template_date=given.template_date,
        add_bos=given.add_bos,
        dtype=given.dtype,
        batch_size=given.batch_size,
    )


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["model", "input", "output"])
