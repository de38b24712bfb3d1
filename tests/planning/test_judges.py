"""Judges in a plan: their stages and how often their programs run; nothing is read."""

from alignjax.planning.run import steps_of


def test_judges_are_planned_as_models_of_the_references_size(make_setup, make_config):
    """Judged are 96 responses of 3 policies, and 48 comparisons of 3 pairs in both orders."""
    judges = {
        "safety": {"preset": "wildguard", "path": "guard", "prompts": "own.jsonl"},
        "reward": {"preset": "general", "path": "chat"},
    }
    config = make_config("mocan", judges=judges, baselines={"single": False, "lams": (0.5,)})
    setup = make_setup(config)
    found = {(step.stage, step.what): step for step in steps_of(setup)[0] if "judge" in step.stage}
    questions = {"evaluation by the judge of safety": 96, "evaluation by the judge of reward": 48}
    assert set(found) == {(stage, what) for stage in questions for what in ("sampler", "sampler's prompts")}
    for (stage, _), step in found.items():
        assert step.calls == -(-questions[stage] // step.program.rows)
    steps = [step for step in steps_of(setup)[0] if step.what == "sampler"]
    drawn = [step.stage for step in steps if step.stage.startswith("evaluation samples for")]
    assert drawn == [
        f"evaluation samples for safety/{name}" for name in ("reference", "lambda=0.5", "aligned")
    ]


def test_a_cost_model_that_judges_is_planned_for_every_policy(make_setup, make_config):
    judges = {"safety": {"preset": "cost", "path": "cost"}}
    setup = make_setup(make_config("pecan", judges=judges))
    stage = "evaluation by the judge of safety"
    found = [step for step in steps_of(setup)[0] if step.stage == stage]
    assert [step.what for step in found] == ["judge of safety of responses"]
    assert found[0].calls == 4 * 8 * 4 / 8  # policies, prompts, responses; 8 rows a batch
