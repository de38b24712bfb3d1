"""The stage of the reference's samples where another program drew them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignjax.data.given_responses import Expected, read_given, require_enough
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses
from alignjax.data.tokenize import Template
from alignjax.policy import drawing
from alignjax.policy.values import Policy
from alignjax.stages import Stage, Work
from alignjax.workflow.setup import Setup, content

if TYPE_CHECKING:  # groundwork asks for the responses before anything is trained
    from alignjax.workflow.groundwork import Data


def given_samples(
    drawn: Stage[Responses], setup: Setup, policy: Policy, data: "Data", prompts: Sequence[Prompt]
) -> Stage[Responses]:
    """The stage `drawn`, with the responses of `config.sampling.responses` in place of those it would draw.

    They are scored as the run's own are, the reference's log-probabilities included; which policy they were
    drawn from is for the user to see to.

    Args:
      drawn: the stage that samples the reference.
      setup: of the run.
      policy: the reference.
      data: its template.
      prompts: N prompts.
    """
    settings = setup.config.sampling
    path = settings.responses
    assert path is not None, "without a file the run draws its samples itself"

    def compute(work: Work) -> Responses:
        expected = _expected(setup, policy, data.template, prompts)
        found, counts = read_given(path, expected, policy.tokenizer, data.template, lacking=_lacking(setup))
        setup.log.say(f"  {counts.used} responses of {path}")
        if left := counts.spare + counts.elsewhere:
            setup.log.say(
                f"  {left} not used: {counts.spare} beyond {settings.num_samples} a prompt, "
                f"{counts.elsewhere} to other prompts"
            )
        if counts.cut:
            setup.log.say(f"  {counts.cut} were cut to {settings.max_new_tokens} tokens")
        return found

    given = {"responses given": content(setup, path)}
    return dataclasses.replace(drawn, settings={**drawn.settings, **given}, compute=compute, programs=tuple)


def require_given(setup: Setup, policy: Policy, template: Template, prompts: Sequence[Prompt]) -> None:
    """Refuses a file of `config.sampling.responses` with too few responses, before anything is trained.

    Args:
      setup: of the run.
      policy: the reference.
      template: how prompts are shown to it.
      prompts: those that are sampled.

    Raises:
      InputError: too few responses to some prompts; unsampled.jsonl lists them.
    """
    if setup.config.sampling.responses is not None:
        expected = _expected(setup, policy, template, prompts)
        require_enough(setup.config.sampling.responses, expected, lacking=_lacking(setup))


def _expected(setup: Setup, policy: Policy, template: Template, prompts: Sequence[Prompt]) -> Expected:
    sampling = setup.config.sampling
    ids = drawing.prompt_ids(policy, template, prompts, setup.config.model.max_prompt_length)
    lengths = sampling.num_samples, sampling.max_new_tokens
    return Expected(prompts, ids, *lengths, sampling.temperature, sampling.top_p)


def _lacking(setup: Setup) -> Path | None:
    return None if setup.unscored is None else setup.unscored.with_name("unsampled.jsonl")
