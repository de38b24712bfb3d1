"""The test of a policy on prompts that nothing else used: what is verified of each constraint."""

from collections.abc import Mapping

import numpy as np

from alignjax.data.responses import Responses
from alignjax.errors import InputError
from alignjax.evaluation import verdict as judging
from alignjax.evaluation.bounds import Measured
from alignjax.evaluation.human_labels import Answers, HumanLabels, join, labelled
from alignjax.evaluation.means import Basis, Scored, in_groups, uncertain_columns, utilities_of
from alignjax.records.answer import Asked, DualAnswer
from alignjax.records.verdict import TestRecord, Verdict
from alignjax.runtime.work import Look
from alignjax.scores import calibration as calib


def measured(reference: Scored, policy: Scored, basis: Basis, answer: DualAnswer) -> dict[str, Measured]:
    """What the test prompts show of every constraint, of the reward's gain ("reward") and of KL ("kl").

    A margin is the difference to the reference, prompt by prompt; a level or a rate is the policy's own mean.
    A group's constraint is measured on its own prompts.

    Args:
      reference: scores of its responses.
      policy: of the policy that is tested.
      basis: of the test prompts, see `means.on_these_prompts`.
      answer: which says how each constraint was asked.

    Returns:
      "reward", the constraints in the answer's order, "kl".
    """
    count = len(policy.kl)
    rows = in_groups(basis, count)
    ours, base = (scored.mean(utilities_of(scored, basis)) for scored in (policy, reference))
    columns, base_columns = uncertain_columns(policy, basis), uncertain_columns(reference, basis)
    everyone = np.ones(count, bool)
    found = {}
    for j, name in enumerate(("reward", *answer.names)):
        unit = None if j == 0 else basis.units[name]
        relative = j == 0 or not is_level(answer.asked[name])
        moves, covariance = columns[j]
        values = ours[:, j]
        if relative:
            values, moves = values - base[:, j], moves - base_columns[j][0]
        here = everyone if j == 0 else rows[:, j - 1]
        # A group's utilities are its prompts' over its share: on its own prompts they are as they are.
        share = 1.0 if unit is None or unit.share is None else unit.share
        bounds = None
        if unit is not None and unit.rate is not None:
            bounds = (-1.0, 1.0) if relative else (0.0, 1.0)
        found[name] = Measured(values[here] * share, moves[here] * share, covariance, bounds)
        if relative and (unit is None or (unit.rate is None and unit.tail is None)):
            place = 0 if unit is None else basis.dimensions.index(unit.dimension)
            found[name] = found[name]._replace(stretch=calib.stretch(basis.calibration, place))
    found["kl"] = Measured(policy.kl, np.zeros((count, 0)), np.zeros((0, 0)))
    return found


def with_labels(
    values: Mapping[str, Measured],
    human: HumanLabels,
    scores: Mapping[str, Scored],
    responses: Mapping[str, Responses],
    basis: Basis,
    answer: DualAnswer,
) -> tuple[dict[str, Measured], int]:
    """The measured values with human labels on the responses, and how many labels fit none of them.

    Tails take no labels: a label says how good a response is, and the tail is about the worst of many.

    Args:
      values: of `measured`.
      human: of `read_labels`.
      scores: of "reference" and "policy".
      responses: of the same two.
      basis: of the test prompts.
      answer: of the dual.

    Returns:
      The values, and the number of labels that no verdict rests on.

    Raises:
      InputError: a label of the wrong kind, or not one that fits a response.
    """
    count = len(scores["policy"].kl)
    rows = in_groups(basis, count)
    ours, base = (utilities_of(scores[name], basis) for name in ("policy", "reference"))
    prompts, found = responses["policy"].prompts, dict(values)
    given = {one.where for some in human.responses.values() for one in some}
    given |= {one.where for some in human.pairs.values() for one in some}
    used = set[str]()
    for j, name in enumerate(("reward", *answer.names)):
        unit = None if j == 0 else basis.units[name]
        if unit is not None and unit.tail is not None:
            continue
        here = np.arange(count) if j == 0 else np.flatnonzero(rows[:, j - 1])
        share = 1.0 if unit is None or unit.share is None else unit.share
        answers = Answers(
            [prompts[i] for i in here],
            [responses["policy"].texts[i] for i in here],
            [responses["reference"].texts[i] for i in here],
            ours[here, :, j] * share,
            base[here, :, j] * share,
        )
        dimension = "reward" if unit is None else unit.dimension
        relative = j == 0 or not is_level(answer.asked[name])
        rate = unit is not None and unit.rate is not None
        joined = join(human, dimension, answers, relative=relative, rate=rate)
        if joined.labels is not None:
            # Pairs, where there are any, take the place of labels on single responses, and only for a margin.
            pairs = human.pairs.get(dimension, ()) if relative else ()
            read = pairs or human.responses.get(dimension, ())
            used |= {one.where for one in read} - set(joined.unused)
        found[name] = labelled(found[name], joined)
    if not used:
        raise InputError(
            f"human labels: none of the {len(given)} labels fits a response to a test prompt; label the "
            "responses in evaluation_samples/, with their prompts as they stand there."
        )
    return found, len(given - used)


def target(asked: Asked) -> float | None:
    """The number that a constraint's mean is compared with: the level or rate, else the margin."""
    if asked.level is not None:
        return asked.level
    return asked.rate if asked.rate is not None else asked.margin


def is_level(asked: Asked) -> bool:
    """Whether the policy's own mean is asked for, and not its difference to the reference."""
    return asked.level is not None or asked.rate is not None


def test(
    values: Mapping[str, Measured],
    answer: DualAnswer,
    look: Look,
    *,
    confidence: float,
    reward: float | None,
    kl: float | None,
    population: bool,
) -> TestRecord:
    """One look at the test prompts.

    Where no gain of reward is asked for, the verdict says whether the reward is above the reference's; where
    no KL is, whether it is what the forecast led to expect, the upper end of its interval; a forecast behind
    a closed gate leads to expect nothing. Neither then counts for acceptance.

    Args:
      values: of `measured`.
      answer: of the dual.
      look: which look this is, and how much of the error it may spend.
      confidence: of all that is called verified in all looks at these prompts.
      reward: gain over the reference that is asked for; None: none.
      kl: the most that is asked for, nats; None: nothing.
      population: True where the prompts are all there are.
    """
    asked = {name: target(answer.asked[name]) for name in answer.names}
    extra = {"reward": reward, "kl": kl}
    error = (1.0 - confidence) * look.share
    verdicts = judging.judge(values, {**asked, **extra}, error=error, population=population)
    each = 1.0 - verdicts["kl"].confidence
    gate_open = answer.gate is None or answer.gate.open
    if kl is None and answer.predicted is not None and gate_open:
        expected = answer.predicted.kl.high
        verdicts["kl"] = judging.verdict(values["kl"], expected, each, upper=True, population=population)
    return TestRecord(
        look=look.number,
        share=look.share,
        spent=look.spent,
        verdicts=verdicts,
        power=judging.powers(values, verdicts, population=population),
        accepted=judging.accepted(verdicts, {**asked, **extra}),
    )


def told(record: TestRecord, answer: DualAnswer) -> list[str]:
    """The record in lines for the console: what was asked and shown, and what a test of this size shows.

    Args:
      record: of the test.
      answer: of the dual, which names the constraints.
    """
    lines = [f"look {record.look} at these test prompts; {record.spent:.0%} of the error is spent"]
    for name, one in record.verdicts.items():
        lines.append(sentence(name, one))
        line = record.power.get(name)
        if line is not None and name in answer.names:
            lines.append(
                f"{name}: {line.prompts} test prompts show what is {line.above:.2f} above what was asked in "
                f"{line.probability * 100:.0f} of 100 runs"
            )
    return lines


def sentence(name: str, one: Verdict) -> str:
    """A verdict in words, with its numbers.

    Args:
      name: of a constraint, or "reward" or "kl".
      one: its verdict.
    """
    if name == "kl":
        asked = "" if one.asked is None else f"expected at most {one.asked:.2f}, "
        shown = "no bound" if one.high is None else f"at most {one.high:.2f}"
        return (
            f"KL: {asked}delivered {one.mean:.2f}, {shown} with confidence {one.confidence:.3g}: {one.state}"
        )
    what = "reward above the reference's" if name == "reward" else name
    asked = "" if one.asked is None else f"asked {one.asked:.2f}, "
    shown = "no bound" if one.low is None else f"at least {one.low:.2f}"
    text = (
        f"{what}: {asked}delivered {one.mean:.2f}, {shown} with confidence {one.confidence:.3g}: {one.state}"
    )
    if one.more is not None:
        text += f"; about {one.more} more test prompts would decide it"
    return text
