"""From lines with prompts to lines with responses: what both ways of `alignjax sample` share."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import cli
from alignjax.data.files import read_rows
from alignjax.data.rows import Row
from alignjax.errors import InputError
from alignjax.models import Adapters, Model
from alignjax.policy import sampling
from alignjax.policy.encoding import Encoder, check_context, prompt_ids
from alignjax.runtime.metrics import progress

Line = tuple[str, dict[str, Any]]
"""Where a line stands, and the line."""


class Draws(NamedTuple):
    """How responses are drawn; fields as of the command's flags.

    Attributes:
      num_samples: K >= 1, responses per prompt.
      max_new_tokens: largest number of tokens of a response, EOS included.
      temperature: > 0.
      top_p: in (0, 1].
      seed: of the draws.
      greedy: take the most probable token at every step instead of drawing one.
      prompt_batch_size: prompts computed together, each with all its samples; None: see `policy.sample`.
    """

    num_samples: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    greedy: bool = False
    prompt_batch_size: int | None = None

    @property
    def plain(self) -> bool:
        """Whether responses are drawn from the policy itself."""
        return not self.greedy and self.temperature == 1.0 and self.top_p == 1.0


def check_draws(draws: Draws, output: str) -> None:
    """Refuses options out of range, and an output that cannot be written.

    Raises:
      InputError: names the flag.
    """
    if draws.num_samples < 1:
        raise InputError(f"--num_samples: is {draws.num_samples}; must be at least 1.")
    if draws.max_new_tokens < 1:
        raise InputError(f"--max_new_tokens: is {draws.max_new_tokens}; must be at least 1.")
    if not 0.0 < draws.temperature < float("inf"):
        raise InputError(
            f"--temperature: is {draws.temperature}; must be above 0. For the mode use --greedy."
        )
    if not 0.0 < draws.top_p <= 1.0:
        raise InputError(f"--top_p: is {draws.top_p}; must be above 0 and at most 1.")
    if draws.prompt_batch_size is not None and draws.prompt_batch_size < 1:
        raise InputError(f"--prompt_batch_size: is {draws.prompt_batch_size}; must be at least 1.")
    if draws.greedy and (draws.num_samples, draws.temperature, draws.top_p) != (1, 1.0, 1.0):
        raise InputError(
            "--greedy: draws nothing and gives one response; leave out --num_samples, --temperature and "
            "--top_p."
        )
    cli.check_output(output)


def read_prompts(path: str) -> list[Line]:
    """The lines of a file, each of which has a prompt.

    Args:
      path: JSON Lines, JSON, CSV, Parquet or Arrow; a file, a folder or a glob.

    Raises:
      InputError: no lines, or a line without a prompt.
    """
    lines = list(read_rows(path))
    if not lines:
        raise InputError(f"{path}: holds no lines; there is nothing to sample from.")
    for where, row in lines:
        Row(where, row).refuse_what_is_not_kept()
        if "prompt" not in row and "prompt_ids" not in row:
            raise InputError(f'{where}: column "prompt" (or "prompt_ids") is missing; add it.')
    return lines


def ids_of(lines: Sequence[Line], encoder: Encoder, model: Model, draws: Draws) -> list[np.ndarray]:
    """Token ids of every line's prompt, which fit the model's context with their responses.

    Args:
      lines: with prompts.
      encoder: of the model.
      model: whose context it is.
      draws: how long responses may be.

    Raises:
      InputError: names the line.
    """
    prompts = [prompt_ids(encoder, row, where) for where, row in lines]
    for (where, _), prompt in zip(lines, prompts, strict=True):
        check_context(model, encoder.path, where, prompt=len(prompt), response=draws.max_new_tokens)
    return prompts


def drawn_lines(
    model: Model, lora: Adapters | None, encoder: Encoder, lines: Sequence[Line], draws: Draws
) -> str:
    """Draws responses to every line's prompt, as JSON Lines.

    Args:
      model: the weights.
      lora: adapters on them; None: none.
      encoder: of the model.
      lines: with prompts.
      draws: how responses are drawn.

    Raises:
      InputError: a line that cannot be used, or a log-probability that is not finite.
    """
    prompts = ids_of(lines, encoder, model, draws)
    with progress(len(prompts), "sample", unit="prompt") as bar:
        shared = {"lora": lora, "prompt_batch_size": draws.prompt_batch_size, "progress": bar.update}
        key, densities = jax.random.key(draws.seed), None
        limits = {"num_samples": draws.num_samples, "max_new_tokens": draws.max_new_tokens}
        if draws.greedy:
            drawn = sampling.greedy(model, prompts, max_new_tokens=draws.max_new_tokens, **shared)
        elif draws.plain:
            drawn = sampling.sample(key, model, prompts, **limits, **shared)
        else:
            warp = {"temperature": draws.temperature, "top_p": draws.top_p}
            drawn, densities = sampling.sample_with_densities(key, model, prompts, **limits, **warp, **shared)
    if not np.isfinite(drawn.logps).all():
        raise InputError(
            f"{encoder.path}: gives a log-probability that is not finite; its weights are damaged."
        )
    return _render(model, [row for _, row in lines], drawn, densities)


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
