"""The programs of a run at rows of mean length, by which its hours are counted."""

import dataclasses
import re
from collections.abc import Sequence

from alignjax.aot.measure import Measured
from alignjax.aot.program import Program
from alignjax.aot.traffic import Traffic
from alignjax.config import ModelSettings
from alignjax.errors import InputError
from alignjax.models.model_cache import ModelCache
from alignjax.planning.planner import Step, together
from alignjax.policy.known_logps import LogpsCache
from alignjax.workflow.setup import Setup
from alignjax.workflow.stand_ins import Lengths

# Programs that take a smaller share of the hours at the longest rows are not compiled a second time.
SMALL = 0.02
_GIVEN = re.compile(r"(\d+)(\+(\d+))?")


def parse(given: str, settings: ModelSettings) -> Lengths | None:
    """Reads mean lengths: `16+75`, tokens of a prompt and of a response, or `91`, both together.

    One number is divided as the longest rows are, in the ratio of `max_prompt_length` to the rest.

    Args:
      given: of the flag; empty: None.
      settings: the limits of tokens.

    Raises:
      InputError: it is no such text, or longer than rows may be.
    """
    if not given:
        return None
    match = _GIVEN.fullmatch(given)
    if match is None:
        raise InputError(
            f"--mean_length={given}: is not of the form PROMPT+RESPONSE, such as 16+75; give mean tokens "
            "of a prompt and of a response, or one number for both together."
        )
    if match[3] is None:
        both = int(match[1])
        prompt = max(1, round(both * settings.max_prompt_length / settings.max_length))
        found = Lengths(prompt, both - prompt)
    else:
        found = Lengths(int(match[1]), int(match[3]))
    longest = min(settings.max_prompt_length, settings.max_length - 1)
    if not 1 <= found.prompt <= longest or not 1 <= found.response <= settings.max_length - found.prompt:
        raise InputError(
            f"--mean_length={given}: stands for prompts of {found.prompt} and responses of {found.response} "
            f"tokens; prompts have 1 to {longest} (config.model.max_prompt_length), responses at least 1, "
            f"and both together at most {settings.max_length} (config.model.max_length)."
        )
    return found


def at_mean(setup: Setup, lengths: Lengths) -> Setup:
    """The same run on rows of these lengths."""
    assert setup.shape is not None, "of a plan"
    return dataclasses.replace(
        setup,
        shape=setup.shape._replace(lengths=lengths),
        logps=LogpsCache(setup.batching, None),
        models=ModelCache(one=setup.config.resident_models == "one"),
    )


def paired(longest: Sequence[Step], mean: Sequence[Step]) -> list[tuple[Step, Step]]:
    """Every program of a run at the longest rows and at mean rows.

    Args:
      longest: uses of the run on the longest rows.
      mean: those of the same run on mean rows.
    """
    assert [(step.stage, step.what) for step in longest] == [(step.stage, step.what) for step in mean]
    return together(list(zip(longest, mean, strict=True)))


def scaled(measured: Measured, longest: Program, mean: Program) -> Measured:
    """What a program needs at mean rows, by arithmetic: in the ratio of tokens, or of a sampler's steps.

    Args:
      measured: of the longest rows.
      longest: the program.
      mean: the same at mean rows.
    """
    ratio = mean.tokens / longest.tokens if longest.steps is None else mean.loops[0] / longest.loops[0]
    traffic = None if measured.traffic is None else Traffic()
    if measured.traffic is not None and traffic is not None:
        traffic.add(measured.traffic, ratio)
    return measured._replace(flops=ratio * measured.flops, traffic=traffic)


def drawing(step: Step, lengths: Lengths) -> Step:
    """A sampler's step with as many turns of its loop as a mean response takes; others as they are."""
    program = step.program
    if program.steps is None:
        return step
    mean = min(lengths.response, program.tokens // program.rows)
    turns = (program.steps(mean), *program.loops[1:])
    return step._replace(program=program._replace(loops=turns, tokens=program.rows * mean))
