"""The stage of the reference's samples where another program drew them."""

import dataclasses
from collections.abc import Sequence

from alignjax.data.given_responses import Expected, read_given
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses
from alignjax.policy import drawing
from alignjax.policy.values import Policy
from alignjax.stages import Stage, Work
from alignjax.workflow.groundwork import Data
from alignjax.workflow.setup import Setup, content


def given_samples(
    drawn: Stage[Responses], setup: Setup, policy: Policy, data: Data, prompts: Sequence[Prompt]
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
    settings, limit = setup.config.sampling, setup.config.model.max_prompt_length
    path = settings.responses
    assert path is not None, "without a file the run draws its samples itself"

    def compute(work: Work) -> Responses:
        ids = drawing.prompt_ids(policy, data.template, prompts, limit)
        expected = Expected(prompts, ids, settings.num_samples, settings.max_new_tokens)
        lacking = None if setup.unscored is None else setup.unscored.with_name("unsampled.jsonl")
        found, counts = read_given(path, expected, policy.tokenizer, data.template, lacking=lacking)
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
