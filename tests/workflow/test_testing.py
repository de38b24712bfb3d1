"""The rounds of tests, on a run of shapes whose tests say what they are told to."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import pytest

from alignjax.aot.chips import any_gpu
from alignjax.config import Config, RoundSettings, from_mapping, presets
from alignjax.data.worlds import world_for
from alignjax.models import config_from_hf
from alignjax.pecan import pecan
from alignjax.planning.run import setup_of
from alignjax.records.verdict import TestRecord
from alignjax.runtime.files import write_record
from alignjax.stages import FolderRun, Stage
from alignjax.workflow.outcome import Outcome
from alignjax.workflow.setup import make_setup
from alignjax.workflow.testing import LABELLED, digest_of, last_policy, stage_of


class Scripted:
    """Gives shapes in place of values; the test of each round accepts or not, as it is told.

    Attributes:
      stages: those that were asked for, by name.
    """

    def __init__(self, accepts: Sequence[bool]):
        self.accepts = list(accepts)
        self.stages = dict[str, Stage[Any]]()

    def do(self, stage: Stage[Any]) -> Any:
        assert stage.name not in self.stages, "each stage is asked for once"
        self.stages[stage.name] = stage
        value = stage.abstract()
        if isinstance(value, TestRecord):
            assert stage.looks is not None
            return dataclasses.replace(value, look=len(self.tests), accepted=self.accepts.pop(0))
        return value

    @property
    def tests(self) -> list[str]:
        """The stages that looked at the test prompts."""
        return [name for name, stage in self.stages.items() if stage.looks is not None]

    def after(self, first: str) -> list[str]:
        """Names of the stages from one on."""
        names = list(self.stages)
        return names[names.index(first) :]


@pytest.fixture(scope="module")
def config() -> Config:
    values: Any = presets.shared("pecan")
    presets.assistant(values)
    values.lora.rank = 2
    return from_mapping(values.to_dict())


@pytest.fixture
def play(config):
    """play(False, True, count=3) is the run whose first test refuses, and what the method hands back."""
    world = world_for("assistant")

    def run(
        *accepts: bool, count: int, labels: str | None = None, prompts: int | None = None
    ) -> tuple[Scripted, Outcome]:
        test = dataclasses.replace(config.test, labels=labels, prompts=prompts or config.test.prompts)
        changed = dataclasses.replace(config, rounds=RoundSettings(count=count), test=test)
        decoder = config_from_hf(dict(world.decoder_fields))
        setup = setup_of(changed, decoder, "the world's", any_gpu(16), jax.devices()[:1], pairs=0)
        scripted = Scripted(accepts)
        outcome = pecan(scripted, setup)
        assert not scripted.accepts
        return scripted, outcome

    return run


def scored(name: str) -> list[str]:
    return [f"evaluation samples/{name}", f"evaluation scores/{name}"]


@pytest.mark.parametrize(("accepted", "count"), [(True, 1), (False, 1), (True, 3)])
def test_an_accepted_policy_is_the_last_and_so_is_one_without_further_rounds(accepted, count, play):
    run, outcome = play(accepted, count=count)
    assert run.after("evaluation scores/baselines")[1:] == [*scored("aligned"), "test", "evaluation"]
    assert list(outcome.measured.policies) == ["reference", "reward", "safety", "aligned"]
    tested = outcome.tested
    assert (tested.tested_by, tested.rounds, len(tested.tests)) == ("test", [], 1)
    assert tested.test == tested.tests[0] and tested.test.accepted == accepted
    assert "test" in run.stages["evaluation"].inputs


def test_a_refused_policy_is_aligned_again_until_a_test_accepts(play):
    run, outcome = play(False, True, count=3)
    again = ["rounds/1 samples", "rounds/1.json", "rounds/2"]
    expected = [*scored("aligned"), "test", *again, *scored("round-2"), "test/2", "evaluation"]
    assert run.after("evaluation samples/aligned") == expected
    assert list(outcome.measured.policies) == ["reference", "reward", "safety", "one-shot", "aligned"]
    assert outcome.measured.policies["aligned"].stage == "rounds/2" == stage_of(2)
    assert outcome.measured.policies["one-shot"].stage == "policy" == stage_of(1)
    tested = outcome.tested
    assert tested.tested_by == "test/2" and tested.test.accepted and len(tested.rounds) == 1
    assert [one.accepted for one in tested.tests] == [False, True]
    # What corrects the multiplier follows the refusal; what it is aligned on follows the correction.
    assert "test" in run.stages["rounds/1.json"].inputs
    assert run.stages["rounds/2"].inputs == ("rounds/1.json",)
    assert "test/2" in run.stages["evaluation"].inputs and "test" not in run.stages["evaluation"].inputs


@pytest.mark.parametrize(
    ("accepted", "stage"), [([True], "policy"), ([False, True], "rounds/2"), ([False, False], "rounds/3")]
)
def test_the_last_policy_of_a_folder_is_that_of_the_round_that_was_accepted(
    accepted, stage, play, config, tmp_path
):
    """Also where a further round lies there, of a question that refused more."""
    _, outcome = play(True, count=3)
    record = outcome.tested.test
    names = ["test.json", "rounds/2.test.json"]
    for name, value in zip(names, [*accepted, False], strict=False):
        write_record(tmp_path / name, dataclasses.replace(record, accepted=value))
    setup = make_setup(dataclasses.replace(config, rounds=RoundSettings(count=3)), devices=jax.devices()[:1])
    run = FolderRun(tmp_path, lambda folder: "")
    assert last_policy(run, setup, outcome.measured.policies["reference"]).name == stage


def test_a_policy_that_no_test_accepts_ends_as_refused(play):
    run, outcome = play(False, False, False, count=3)
    assert run.tests == ["test", "test/2", "test/3"] and "rounds/3 samples" not in run.stages
    assert run.stages["rounds/3"].inputs == ("rounds/2.json",)
    tested = outcome.tested
    assert tested.tested_by == "test/3" and not tested.test.accepted and len(tested.rounds) == 2
    assert outcome.measured.policies["aligned"].stage == "rounds/3"


def test_human_labels_are_a_further_look_at_the_last_policy(play, tmp_path):
    run, outcome = play(False, True, False, count=2, labels=str(tmp_path / "labels.jsonl"))
    assert run.tests == ["test", "test/2", LABELLED]
    tested = outcome.tested
    assert tested.tested_by == LABELLED and not tested.test.accepted
    # The rounds are those of the scores.
    assert [one.accepted for one in tested.tests] == [False, True] and len(tested.rounds) == 1
    assert LABELLED in run.stages["evaluation"].inputs
    assert "evaluation samples/round-2" in run.stages[LABELLED].inputs


def test_all_tests_look_at_the_same_prompts_and_each_rests_on_its_policy_alone(play):
    run, _ = play(False, True, True, count=2, labels="labels.jsonl")
    assert len({run.stages[name].looks.prompts for name in run.tests}) == 1
    for name, policy in (("test", "aligned"), ("test/2", "round-2")):
        samples = [f"evaluation samples/{one}" for one in ("reference", policy)]
        assert set(run.stages[name].inputs) == {"dual", "calibration", "scores", *samples}
    # Where the file lies does not make another look, what it says does.
    assert "labels" not in run.stages["test"].settings["test"]
    assert run.stages[LABELLED].settings["labels"] == "labels.jsonl"


def test_fewer_prompts_or_another_order_are_no_fresh_prompts(play, config):
    assert digest_of(["a", "b"]) == digest_of(["b", "a"]) != digest_of(["a"])
    assert digest_of(["ab"]) != digest_of(["a", "b"])
    found = set()
    for number in (10, 20):
        run, _ = play(True, count=1, prompts=number)
        assert run.stages["test"].settings["test"]["prompts"] == number < config.sampling.num_prompts
        found.add(run.stages["test"].looks.prompts)
    assert len(found) == 1


def test_shares_of_the_error(play):
    run, _ = play(False, True, count=2)
    looks = run.stages["test"].looks
    # Two looks are planned: each has half of 0.8; the first beyond them 0.2 / 2.
    assert [looks.share([0.4] * n) for n in (0, 1)] == pytest.approx([0.4, 0.4])
    assert looks.share([0.4, 0.4]) == pytest.approx(0.1)
