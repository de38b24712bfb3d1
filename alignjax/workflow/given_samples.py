"""The stage of the reference's samples where another program drew them."""

from collections.abc import Callable, Sequence

import numpy as np

from alignjax.config import determining
from alignjax.data import responses
from alignjax.data.given_responses import Expected, read_given
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses
from alignjax.policy.values import Policy
from alignjax.stages import Stage, Work
from alignjax.workflow.groundwork import Data
from alignjax.workflow.setup import Setup, content, part


def given_samples(
    setup: Setup,
    policy: Policy,
    data: Data,
    prompts: Sequence[Prompt],
    ids: Callable[[], list[np.ndarray]],
    abstract: Callable[[], Responses],
) -> Stage[Responses]:
    """The responses of `config.sampling.responses`: samples.jsonl.

    They are scored as the run's own are, the reference's log-probabilities included; which policy they were
    drawn from is for the user to see to.

    Args:
      setup: of the run.
      policy: the reference.
      data: its template.
      prompts: N prompts.
      ids: their tokens.
      abstract: the responses of a plan.
    """
    settings, file = setup.config.sampling, "samples.jsonl"
    path = settings.responses
    assert path is not None, "without a file the run draws its samples itself"

    def compute(work: Work) -> Responses:
        expected = Expected(prompts, ids(), settings.num_samples, settings.max_new_tokens)
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

    return Stage(
        name="samples",
        settings=part(setup) | {"sampling": determining(settings) | {"responses": content(setup, path)}},
        inputs=("data",),
        outputs=(file,),
        compute=compute,
        save=lambda folder, drawn: responses.write_responses(folder / file, drawn, {}),
        load=lambda folder, work: responses.read_responses(folder / file, prompts, ids())._replace(
            policy=policy.name
        ),
        abstract=abstract,
    )
