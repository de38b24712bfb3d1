"""The stages that a run will come to, and the work in each, by hand; finished runs agree in end_to_end."""

import dataclasses

from alignjax.config import Config, ConstraintSettings, from_mapping
from alignjax.workflow.itinerary import SAMPLING, SCORING, TRAINING, itinerary

COUNTS = {
    "reward train": {"pairs": 40},
    "safety train": {"pairs": 50},
    "align": {"pairs": 60},
    "prompts to sample": {"prompts": 7},
    "prompts to test": {"prompts": 30},
}


def config(method="pecan", **changes):
    settings = {
        "method": method,
        "model": {"path": "model", "max_length": 64, "max_prompt_length": 32},
        "data": {"sources": {name: {"path": "pairs.jsonl"} for name in ("reward", "safety")}},
        "constraints": {"safety": {"margin": 1.0}},
        "sampling": {"num_prompts": 10, "num_samples": 4, "max_new_tokens": 8},
        "evaluation": {"num_prompts": 20, "num_samples": 2, "max_new_tokens": 16},
        "align": {"epochs": 3.0},
    }
    return from_mapping(settings | changes)


def test_amounts_by_hand():
    found = {stage.name: (stage.kind, stage.amount) for stage in itinerary(config(), COUNTS)}
    assert found["reward"] == (TRAINING, 40) and found["safety"] == (TRAINING, 50)
    assert found["policy"] == (TRAINING, 3 * 60)
    # 7 prompts of the 10 that are asked for, 4 responses of 8 tokens; 20 of the 30 test prompts.
    assert found["samples"] == (SAMPLING, 7 * 4 * 8)
    assert found["evaluation samples/safety"] == (SAMPLING, 20 * 2 * 16)
    # Prompts of 32 tokens before the response, read by two policies; the reference's values are those of
    # drawing.
    assert found["scores"] == (SCORING, 7 * 4 * (32 + 8) * 2)
    assert found["pair_scores"] == (SCORING, 60 * 2 * 64 * 3)
    # The reference's by two policies; each of theirs by itself, the reference and the other; and the aligned
    # policy's by itself, the reference and two others.
    assert found["evaluation scores/baselines"] == (SCORING, 20 * 2 * (32 + 16) * (2 + 3 + 3))
    assert found["evaluation scores/aligned"] == (SCORING, 20 * 2 * (32 + 16) * 4)


def test_an_audit_adds_a_stage_for_every_attack():
    audited = config(audit={"attacks": ["unmerge", "top_p"], "top_ps": [0.5, 0.9], "num_prompts": 5})
    found = itinerary(audited, COUNTS)
    names = [stage.name for stage in found]
    assert names[names.index("evaluation") + 1 :] == ["audit/top_p", "audit/unmerge", "audit"]
    # 5 prompts, 4 responses of 16 tokens, at two strengths.
    assert found[-3].amount == 5 * 4 * 16 * 2
    full = config(audit={"attacks": ["all"]}, lora={"rank": 0})
    assert "audit/unmerge" not in [stage.name for stage in itinerary(full, COUNTS)]


def test_before_the_data_are_read_amounts_are_unknown_and_names_are_not():
    before, after = itinerary(config(), {}), itinerary(config(), COUNTS)
    assert [stage.name for stage in before] == [stage.name for stage in after]
    assert {stage.kind for stage in before if stage.amount is None} == {TRAINING, SAMPLING, SCORING}


def test_mocan_trains_the_scores_that_are_not_given_and_its_baselines():
    given = {"reward": {"function": "module:f"}}
    found = itinerary(config("mocan", scores=given, baselines={"single": True, "lams": [0.5]}), COUNTS)
    names = [stage.name for stage in found]
    assert "safety" in names and "reward" not in names
    baselines = ["baselines/reward", "baselines/safety", "baselines/lambda=0.5"]
    assert [name for name in names if name.startswith("baselines/")] == baselines
    drawn = [name for name in names if name.startswith("evaluation samples/")]
    assert drawn == [
        f"evaluation samples/{name}" for name in ("reference", "reward", "safety", "lambda=0.5", "aligned")
    ]


def test_pairs_of_samples_and_a_limit():
    of = lambda **relabel: {s.name: s.amount for s in itinerary(config("mocan", relabel=relabel), COUNTS)}  # noqa: E731
    samples = of(pairs="samples", pairs_per_prompt=5)
    assert samples["policy"] == 3 * 7 * 2  # 4 responses are two pairs
    assert samples["pair_scores"] == 1.0  # nothing is read: the samples have been scored
    assert of()["pair_scores"] == 60 * 2 * 64 * 2
    assert of(max_pairs=11)["policy"] == 3 * 11


def test_a_round_adds_its_stages_once_it_has_begun():
    several = config(rounds={"count": 3}, test={"labels": None})
    first = [stage.name for stage in itinerary(several, COUNTS)]
    second = [stage.name for stage in itinerary(several, COUNTS, [*first[:-1], "rounds/1 samples"])]
    assert first[-2:] == ["test", "evaluation"]
    assert second[len(first) - 1 :] == [
        "rounds/1 samples",
        "rounds/1.json",
        "rounds/2",
        "evaluation samples/round-2",
        "evaluation scores/round-2",
        "test/2",
        "evaluation",
    ]


def test_a_world_whose_responses_are_listed_is_not_sampled_for_the_test():
    listed = Config("pecan", constraints={"safety": ConstraintSettings(margin=1.0)})
    listed = dataclasses.replace(listed, data=dataclasses.replace(listed.data, world="enumerable"))
    names = [stage.name for stage in itinerary(listed, {})]
    assert "samples" in names and not [name for name in names if name.startswith("evaluation samples")]
