"""The stages that test a policy on prompts that nothing else used, and align it again where it is refused."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from alignjax.config import determining
from alignjax.data.records import Prompt, prompt_key
from alignjax.data.responses import Responses
from alignjax.errors import InputError
from alignjax.evaluation import testing
from alignjax.evaluation.bounds import Measured
from alignjax.evaluation.human_labels import read_labels
from alignjax.evaluation.means import Basis, Scored, on_these_prompts, utilities_of
from alignjax.evaluation.verdict import look_share, power
from alignjax.policy.values import Policy
from alignjax.records.codec import read_record
from alignjax.records.evaluation import Round
from alignjax.records.verdict import TestRecord
from alignjax.runtime.files import write_record
from alignjax.scores.scorers import score_responses
from alignjax.stages import FolderRun, Looks, Run, Stage, Stored, Work
from alignjax.workflow import rounds, uses
from alignjax.workflow.answering import aligned, labelled_by, labels_at, stored_policy
from alignjax.workflow.dualizing import sample_prompts
from alignjax.workflow.measuring import Measurement, basis_of, kept_for_test, measured, prompts_of_test
from alignjax.workflow.question import Question
from alignjax.workflow.scoring import responses_stage
from alignjax.workflow.setup import Setup, content, part

LABELLED = "test/human labels"
"""The stage that tests the last policy with human labels."""


class Tested(NamedTuple):
    """The policy that was tested last, and those before it.

    Attributes:
      policies: on the test prompts: "aligned" is the last; of several rounds "one-shot" is the first.
      test: of the last; with human labels where there are any.
      tested_by: the stage that made it.
      tests: of every round, on calibrated scores.
      rounds: what every refused round but the last measured.
    """

    policies: Measurement
    test: TestRecord
    tested_by: str
    tests: list[TestRecord]
    rounds: list[Round]


def stage_of(number: int) -> str:
    """The stage that aligns in a round, from 1."""
    return "policy" if number == 1 else f"rounds/{number}"


def digest_of(prompts: Iterable[Prompt]) -> str:
    """Names a set of prompts, in whatever order they come; looks at them are counted under it."""
    return hashlib.sha256("\0".join(sorted(map(prompt_key, prompts))).encode()).hexdigest()


def until_accepted(run: Run, question: Question, first: Policy, baseline: Measurement) -> Tested:
    """Tests the policy; while it is refused and `config.rounds` allows, corrects it and tests again.

    Args:
      run: gives the values of stages.
      question: what every round works with.
      first: the policy of the one-shot round.
      baseline: the reference on the test prompts, and other policies.
    """
    setup, answer = question.setup, question.answer
    count = setup.config.rounds.count
    lam, policy = answer.multipliers, first
    tests, refused = list[TestRecord](), list[Round]()
    found = one_shot = None
    for number in range(1, count + 1):
        called = "aligned" if number == 1 else f"round-{number}"
        found = measured(run, setup, question.data, question.reference, {called: policy}, question.by, called)
        one_shot = found if number == 1 else one_shot
        tests.append(run.do(_test(question, baseline, found, called, number)))
        if tests[-1].accepted or number == count:
            break
        drawn = run.do(_round_samples(question, policy, number))
        refused.append(run.do(_round(question, policy, drawn, lam, number, refused[-1:])))
        lam = np.array(list(refused[-1].next_lam.values()))
        policy = run.do(_aligned_again(question, policy, lam, number + 1))
    assert found is not None and one_shot is not None
    called = next(iter(found.policies))
    policies = found.renamed(called, "aligned")
    test, tested_by = tests[-1], _test_name(len(tests))
    if setup.config.test.labels is not None:
        test, tested_by = run.do(_labelled_test(question, baseline, found, called)), LABELLED
    if len(tests) > 1:
        policies = one_shot.renamed("aligned", "one-shot").with_others(policies)
    return Tested(policies, test, tested_by, tests, refused)


def last_round(run: FolderRun, setup: Setup) -> int:
    """The round of a finished run's aligned policy: the one that the test accepted, or the last."""
    number, count = 1, setup.config.rounds.count
    # Not the last policy that is there: another question to the test may have accepted an earlier one.
    while number < count and not _accepted(run, number):
        number += 1
    return number


def last_policy(run: FolderRun, setup: Setup, reference: Policy) -> Stored[Policy]:
    """The aligned policy of a finished run, which it trained."""
    stage = stage_of(last_round(run, setup))
    return stored_policy(setup, reference, stage=stage, name="aligned", reads=labelled_by(stage))


def _accepted(run: FolderRun, number: int) -> bool:
    """Whether the test of a round accepted its policy.

    Raises:
      InputError: the run was not tested in this round.
    """
    return read_record(TestRecord, run.workdir / _test_file(number)).accepted


def _test_name(number: int) -> str:
    return "test" if number == 1 else f"test/{number}"


def _test_file(number: int) -> str:
    return "test.json" if number == 1 else f"rounds/{number}.test.json"


def _test(
    question: Question, baseline: Measurement, found: Measurement, called: str, number: int
) -> Stage[TestRecord]:
    """What the test prompts show of a policy: test.json, of later rounds rounds/NUMBER.test.json."""
    return _looking(
        question,
        lambda: _values(question, baseline, found, called),
        name=_test_name(number),
        file=_test_file(number),
        reads=_reads(baseline, found, called),
    )


def _labelled_test(
    question: Question, baseline: Measurement, found: Measurement, called: str
) -> Stage[TestRecord]:
    """What human labels on the last policy's responses show: human_labels.test.json.

    The labels are read and joined before the look is counted: a file that cannot be used costs no look.
    """
    setup = question.setup
    values = dict[str, Measured]()
    if setup.shape is None:
        values = _with_labels(question, baseline, found, called)
    return _looking(
        question,
        lambda: values,
        name=LABELLED,
        file="human_labels.test.json",
        reads=_reads(baseline, found, called),
        settings={"labels": content(setup, setup.config.test.labels)},
    )


def _looking(
    question: Question,
    values: Callable[[], Mapping[str, Measured]],
    *,
    name: str,
    file: str,
    reads: Sequence[str],
    settings: Mapping[str, str | None] = MappingProxyType({}),
) -> Stage[TestRecord]:
    """One look at the test prompts.

    Args:
      question: of the run.
      values: of every constraint, the reward and KL, on the test prompts.
      name: of the stage.
      file: that it writes.
      reads: stages that the values rest on, beside the dual and the calibration.
      settings: that determine the values, beside those of every test.
    """
    setup, config = question.setup, question.setup.config
    # All that are kept: config.test.prompts takes some of them, in an order that the seed decides.
    digest = digest_of(kept_for_test(setup, question.data))
    asked = {key: value for key, value in determining(config.test).items() if key != "labels"}

    def compute(work: Work) -> TestRecord:
        assert work.look is not None
        record = testing.test(
            values(),
            question.answer,
            work.look,
            confidence=config.confidence or 0.95,
            reward=config.test.reward,
            kl=config.test.kl,
            population=setup.population,
        )
        for line in testing.told(record, question.answer):
            setup.log.say(f"  {line}")
        return record

    return Stage(
        name=name,
        settings=part(setup, "confidence") | {"test": asked} | dict(settings),
        inputs=("dual", "calibration", *reads),
        outputs=(file,),
        compute=compute,
        save=lambda folder, record: write_record(folder / file, record),
        load=lambda folder, work: read_record(TestRecord, folder / file),
        abstract=lambda: TestRecord(1, 0.5, 0.5, {}, {}, accepted=False),
        looks=Looks(digest, functools.partial(look_share, planned=config.rounds.count)),
    )


def _values(
    question: Question, baseline: Measurement, found: Measurement, called: str
) -> dict[str, Measured]:
    """What the scores of the test prompts' responses show of a policy."""
    reference, policy = baseline.scores["reference"], found.scores[called]
    basis = on_these_prompts(_test_basis(question), len(policy.kl))
    return testing.measured(reference, policy, basis, question.answer)


def _reads(baseline: Measurement, found: Measurement, called: str) -> tuple[str, ...]:
    """What a test rests on: with more baselines beside the reference it is the same look."""
    return tuple(dict.fromkeys((*baseline.determined_by("reference"), *found.determined_by(called))))


def _with_labels(
    question: Question, baseline: Measurement, found: Measurement, called: str
) -> dict[str, Measured]:
    """The values of `_values` with the human labels that the configuration names."""
    setup, path = question.setup, question.setup.config.test.labels
    if path is None or not found.responses:
        raise InputError(
            f"config.test.labels: is {path}, but in this world every response is listed and none is drawn, "
            "so that there is nothing to label; leave it out."
        )
    human = read_labels(path, setup.config.dimensions)
    scores = {"reference": baseline.scores["reference"], "policy": found.scores[called]}
    responses = {"reference": baseline.responses["reference"], "policy": found.responses[called]}
    basis = on_these_prompts(_test_basis(question), len(scores["policy"].kl))
    values = _values(question, baseline, found, called)
    joined, unused = testing.with_labels(values, human, scores, responses, basis, question.answer)
    if unused:
        setup.log.say(f"  {unused} human labels fit no response of the aligned policy or the reference")
    return joined


def _test_basis(question: Question) -> Basis:
    setup, data = question.setup, question.data
    prompts = prompts_of_test(setup, data)
    return basis_of(data, question.calibration, question.answer, setup.config.dimensions, prompts)


def _aligned_again(question: Question, begin: Policy, lam: np.ndarray, number: int) -> Stage[Policy]:
    """A further alignment, from the last policy's weights, at a corrected multiplier."""
    if question.again is not None:
        return question.again(number, lam)
    setup, data = question.setup, question.data
    labels = labels_at(setup, data, question.pair_scores, question.answer, lam)
    stage = stage_of(number)
    return aligned(
        setup, question.reference, data, labels, stage=stage, reads=labelled_by(stage), begin=begin
    )


def _round_samples(question: Question, policy: Policy, number: int) -> Stage[Responses]:
    setup, data = question.setup, question.data
    name, file = f"rounds/{number} samples", f"rounds/{number}.samples.jsonl"
    return responses_stage(setup, policy, data, sample_prompts(setup, data), name, file, "sampling")


def _round(
    question: Question,
    policy: Policy,
    drawn: Responses,
    lam: np.ndarray,
    number: int,
    before: Sequence[Round],
) -> Stage[Round]:
    """What a refused policy achieves where the reference was sampled, and what follows: rounds/N.json."""
    setup, answer, file = question.setup, question.answer, f"rounds/{number}.json"

    def compute(work: Work) -> Round:
        # First: the log-ratios of scores are made of what the same pass gives.
        kl = setup.logps.kl_of_responses(policy, question.reference, drawn).mean(axis=1)
        result = _corrected(question, score_responses(question.by, drawn), kl, lam, number, before)
        for name, value in result.lam.items():
            met = f"margin {result.achieved[name]:.3f}, aims at {result.aim[name]:.3f}"
            follows = f"lambda {value:.4f} -> {result.next_lam[name]:.4f}"
            setup.log.say(f"  round {number}: {name} {met}; {follows}")
        return result

    def abstract() -> Round:
        zeros = dict.fromkeys(answer.names, 0.0)
        return Round(number, zeros, zeros, zeros, zeros, zeros, 0.0, 0.0)

    return Stage(
        name=file,
        settings=part(setup, "rounds", "confidence"),
        inputs=(f"rounds/{number} samples", _test_name(number)),
        outputs=(file,),
        compute=compute,
        save=lambda folder, found: write_record(folder / file, found),
        load=lambda folder, work: read_record(Round, folder / file),
        abstract=abstract,
        programs=lambda: [
            uses.divergence(policy, question.reference, drawn, setup.batching),
            *uses.scoring_responses(
                question.by.values(),
                drawn,
                setup.batching,
                known=(policy.name, question.reference.name),
            ),
        ],
    )


def _corrected(
    question: Question, raw: np.ndarray, kl: np.ndarray, lam: np.ndarray, number: int, before: Sequence[Round]
) -> Round:
    """The multiplier that follows, from what the policy does on the prompts of the dual."""
    setup, answer, config = question.setup, question.answer, question.setup.config
    prompts = sample_prompts(setup, question.data)
    basis = basis_of(question.data, question.calibration, answer, config.dimensions, prompts)
    none = np.zeros((len(prompts), 4))
    reference = Scored(question.raw, None, np.zeros(len(prompts)), none)
    policy = Scored(raw, None, kl, none)
    ours, base = (one.mean(utilities_of(one, basis)).mean(axis=0) for one in (policy, reference))
    table = utilities_of(reference, basis)
    slopes = rounds.predicted_slopes(table[..., 0], table[..., 1:], lam, answer.beta)
    achieved = (ours - base)[1:]
    if before:
        slopes = rounds.measured_slopes(before[-1], lam, achieved, slopes)
    asked = np.array([answer.asked[name].margin for name in answer.names], np.float64)
    values = testing.measured(reference, policy, on_these_prompts(basis, len(prompts)), answer)
    return rounds.corrected(
        number,
        answer.names,
        lam,
        achieved,
        asked=asked,
        room=_room(question, values),
        slopes=slopes,
        reward=float(ours[0]),
        kl=float(np.mean(kl)),
        step=config.rounds.step,
    )


def _room(question: Question, values: dict[str, Measured]) -> np.ndarray:
    """How far above what was asked the next policy must be for the test to show it in 9 of 10 runs, [m]."""
    setup, names = question.setup, question.answer.names
    config = setup.config
    # Not less than what the next look spends, so that the room is rather too large.
    error = (1.0 - (config.confidence or 0.95)) * 0.8 / config.rounds.count / len(names)
    share = len(prompts_of_test(setup, question.data)) / max(len(values["kl"].values), 1)
    rooms = []
    for name in names:
        count = max(round(len(values[name].values) * share), 2)
        found = power(values[name], error, prompts=count, population=setup.population)
        rooms.append(0.0 if found is None else found.above)
    return np.array(rooms)
