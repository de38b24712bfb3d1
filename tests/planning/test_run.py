"""A plan of a whole run: its stages are the run's, with what each holds and how often it computes."""

import dataclasses

import pytest

from alignjax.aot.shapes import bytes_per_device, decoder_params
from alignjax.errors import InputError
from alignjax.planning import show, targets
from alignjax.planning.run import make_plan, steps_of
from alignjax.workflow.programs import new_adapters


@pytest.fixture
def steps(make_setup, make_config):
    """Steps of a configuration by stage and program, and the bytes of weights and of adapters."""

    def of(method="pecan", decoder=None, **changes):
        config = make_config(method, **changes)
        setup = make_setup(config) if decoder is None else make_setup(config, decoder)
        shape, mesh = setup.shape.decoder, setup.batching.mesh
        found = {(step.stage, step.what): step for step in steps_of(setup)[0]}
        weights = bytes_per_device(decoder_params(shape, mesh, where="model"))
        lora = new_adapters(shape, config.lora, mesh)
        return found, weights, 0 if lora is None else bytes_per_device(lora.params)

    return of


@pytest.mark.parametrize("method", ["pecan", "mocan"])
def test_every_stage_of_a_run(method, steps):
    change = {} if method == "pecan" else {"baselines": {"single": False, "lams": (0.5,)}}
    stages = list(dict.fromkeys(stage for stage, _ in steps(method, **change)[0]))
    drawn = ["evaluation samples/reference", "evaluation scores/baselines"]
    drawn += ["evaluation samples/aligned", "evaluation scores/aligned"]
    if method == "pecan":
        drawn[1:1] = ["evaluation samples/reward", "evaluation samples/safety"]
        # Nothing is left to compute for the calibration: held-out pairs were judged in training.
        before = ["reward", "safety", "samples", "scores", "preview", "pair_scores", "policy"]
        assert stages == [*before, *drawn]
    else:
        drawn[1:1] = ["evaluation samples/lambda=0.5"]
        between = ["samples", "reward", "safety", "scores", "calibration", "pair_scores"]
        assert stages == [*between, "baselines/lambda=0.5", "policy", *drawn]


def test_what_is_measured(make_setup, make_config, chip):
    plan = make_plan(make_setup(make_config()), chip, only=["samples", "scores"])
    assert plan.fits and plan.partial and plan.hours is None  # of such a GPU nothing but memory is known
    assert {line.step.stage for line in plan.lines} == {"samples", "scores"}
    first, second = plan.lines[-2:]
    assert first.step.what != second.step.what and first.measured is second.measured  # compiled once
    for line in plan.lines:
        assert line.needed == line.measured.needed + sum(line.step.held.values())
        assert line.measured.flops > 0 and line.measured.traffic is not None and line.step.calls > 0
        assert line.timed.step is line.step and line.timed.measured is line.measured


def test_an_audit_is_planned_and_disalignment_reads_two_bodies(make_setup, make_config, chip, steps):
    audit = {"attacks": ["temperature", "disalign"], "temperatures": [0.5], "alphas": [0.5], "num_prompts": 8}
    found = steps(audit=audit)[0]
    for name in ("temperature", "disalign"):
        what = [what for stage, what in found if stage == f"audit/{name}"]
        assert what[0] == "sampler" and "log-probabilities of responses by safety" in what
    assert not [stage for stage, _ in steps()[0] if stage.startswith("audit")]
    setup = make_setup(make_config(audit=audit))
    plan = make_plan(setup, chip, only=["audit/temperature", "audit/disalign"])
    one, two = (line.measured.flops for line in plan.lines if line.step.what == "sampler")
    assert plan.fits and 1.5 * one < two < 2.5 * one


def test_counts_of_calls(steps, make_setup, make_config, chip):
    found, _, _ = steps(data={"held_out_fraction": 0.1})
    calls = {name: step.calls for name, step in found.items()}
    # 900 pairs to learn from and 100 held out, by 8 rows a call: 113 and 13.
    assert calls["policy", "train step"] == 338  # three epochs of 900
    assert calls["reward", "held-out log-probabilities"] == 75  # six times 100
    # The reference's log-probabilities of all pairs, once for all dimensions and the final alignment.
    assert calls["reward", "log-probabilities of pairs by reference"] == 113 + 13
    assert not any("by reference" in what for stage, what in calls if stage in ("safety", "policy"))
    assert calls["pair_scores", "log-probabilities of pairs by safety"] == 113
    # 32 responses of each of four policies, four batches: under both that score, but not under the one that
    # drew them. The pass that computes KL gives its own and the reference's; the reference's samples are
    # compared with what drawing gave.
    assert calls["evaluation scores/baselines", "KL"] == 2 * 4
    assert calls["evaluation scores/baselines", "log-probabilities of responses by reference"] == 4
    assert calls["evaluation scores/aligned", "KL"] == 4
    assert ("evaluation scores/aligned", "log-probabilities of responses by reference") not in calls
    for name in ("reward", "safety"):
        assert calls["evaluation scores/baselines", f"log-probabilities of responses by {name}"] == 2 * 4
        assert calls["evaluation scores/aligned", f"log-probabilities of responses by {name}"] == 4
    plan = make_plan(make_setup(make_config(data={"held_out_fraction": 0.1})), chip, only=["samples"])
    assert plan.counts == (900, 100, 900)


def test_what_is_held_beside_adapters(steps):
    found, _, one = steps(lora={"rank": 4})
    held = {name: dict(step.held) for name, step in found.items()}
    step = found["reward", "train step"].program
    assert held["reward", "train step"] == {"first weights": one, "best weights": one}
    assert held["reward", "held-out log-probabilities"] == {
        "first weights": one,
        "best weights": one,
        "optimizer": step.kinds["optimizer"],
    }
    assert held["samples", "sampler"] == {"trained policies": 2 * one}
    # The policy's own adapters are the program's arguments.
    assert held["scores", "log-probabilities of responses by reference"] == {"trained policies": 2 * one}
    assert held["scores", "log-probabilities of responses by reward"] == {"trained policies": one}
    # The final alignment keeps its last weights: no best ones are held.
    assert held["policy", "train step"] == {"trained policies": 2 * one, "first weights": one}
    assert held["evaluation samples/aligned", "sampler"] == {"trained policies": 2 * one}
    by_reference = held["evaluation scores/baselines", "log-probabilities of responses by reference"]
    assert by_reference == {"trained policies": 3 * one}
    assert held["evaluation scores/aligned", "KL"] == {"trained policies": 2 * one}


def test_full_fine_tuning_holds_the_reference_beside_what_it_trains(steps):
    found, weights, _ = steps(lora={"rank": 0})
    program, held = found["policy", "train step"].program, dict(found["policy", "train step"].held)
    assert program.kinds["parameters"] == weights and program.kinds["adapters"] == 0
    assert program.kinds["optimizer"] == pytest.approx(2 * weights, rel=0.01)
    assert held == {"reference": weights, "trained policies": 2 * weights}
    # What is judged is the copy that is trained; it starts at the reference's own weights.
    assert dict(found["reward", "held-out log-probabilities"].held) == {
        "reference": weights,
        "best weights": weights,
        "optimizer": program.kinds["optimizer"],
    }
    assert dict(found["samples", "sampler"].held) == {"trained policies": 2 * weights}


def test_fully_trained_score_models_are_copies_of_the_body(steps):
    found, weights, _ = steps("mocan", lora={"rank": 0})
    score = found["scores", "reward of responses"]
    held = dict(score.held)
    # The reference, and the cost model, whose head has a bias.
    model = score.program.kinds["parameters"]
    assert held["reference"] == weights and held["trained score models"] == model + 4


@pytest.mark.parametrize("resident", ["one", "all"])
def test_a_folders_model_takes_the_references_place(resident, steps):
    scores = {name: {"path": "folder"} for name in ("reward", "safety")}
    found, weights, one = steps("mocan", scores=scores, lora={"rank": 4}, resident_models=resident)
    model = found["scores", "reward of responses"].program.kinds["parameters"]
    held = dict(found["evaluation scores/aligned", "safety of responses"].held)
    assert held.pop("trained policies") == one  # the aligned one's
    beside = {} if resident == "one" else {"reference": weights, "score models": model}
    assert held == beside
    assert dict(found["scores", "reward of responses"].held) == (
        {} if resident == "one" else {"reference": weights, "score models": model + 4}
    )
    assert "score models" not in found["policy", "train step"].held or resident == "all"


def test_a_folders_model_has_its_own_shape(tmp_path, make_setup, make_config, chip):
    (tmp_path / "config.json").write_text(
        '{"architectures": ["LlamaModelForScore"], "vocab_size": 96, "hidden_size": 64, "score_type": "cost",'
        ' "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 32}'
    )
    scores = {"reward": {"path": "not-here"}, "safety": {"path": str(tmp_path)}}
    setup = make_setup(make_config("mocan", scores=scores, lora={"rank": 4}))
    found = {(step.stage, step.what): step for step in steps_of(setup)[0]}
    reward, safety = (
        found["scores", f"{name} of responses"].program.arguments[0] for name in ("reward", "safety")
    )
    assert (reward.config.hidden_size, reward.config.num_layers, reward.kind) == (32, 2, "reward")
    assert (safety.config.hidden_size, safety.config.num_layers, safety.kind) == (64, 3, "cost")
    plan = make_plan(setup, chip, only=["scores"])
    text = show.text_of(plan, targets.parse("gpu:16GiB"))
    assert "taken to have the reference's shape: reward (not-here)." in text


def test_scores_from_functions_and_tables_compile_nothing(steps):
    scores = {"reward": {"function": "not_here:score"}, "safety": {"table": "not-here.jsonl"}}
    found, _, _ = steps("mocan", scores=scores)
    assert {stage for stage, _ in found}.isdisjoint({"reward", "safety", "scores", "calibration"})


def test_rounds_begin_at_the_policy_before(steps):
    found, _, one = steps(
        "mocan", lora={"rank": 4}, rounds={"count": 2}, baselines={"single": False, "lams": ()}
    )
    # Two score models with heads, the first policy; the second round's first weights are that policy's.
    held = dict(found["rounds/2", "train step"].held)
    assert held.pop("trained policies") == one and "first weights" not in held
    # A plan takes every test to refuse: all rounds are in it.
    assert found["rounds/1 samples", "sampler"].calls == found["samples", "sampler"].calls
    sampler = found["evaluation samples/aligned", "sampler"]
    assert found["evaluation samples/round-2", "sampler"].calls == sampler.calls
    assert {what for stage, what in found if stage == "rounds/1.json"} == {
        "KL",
        "reward of responses",
        "safety of responses",
    }


def test_a_folder_that_is_no_score_model(tmp_path, make_setup, make_config):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "vocab_size": 7}')
    scores = {name: {"path": str(tmp_path)} for name in ("reward", "safety")}
    with pytest.raises(InputError, match="config.json: architecture LlamaForCausalLM is not a score model"):
        make_setup(make_config("mocan", scores=scores))


@pytest.mark.parametrize(
    ("changes", "devices", "message"),
    [
        (
            {"model": {"attention": "splash"}},
            1,
            "model.attention: splash is for TPUs .* it runs on gpu",
        ),
        ({"model": {"attention": "cudnn"}}, 1, "cudnn is for NVIDIA GPUs, .* config.model.dtype is float32"),
        ({"mesh": {"data": 3}}, 8, "config.mesh: data=3 .* does not make 8 devices"),
        (
            {"mesh": {"data": 1, "tensor": 8}},
            8,
            "config.mesh.tensor: is 8, which does not divide the 4 attention",
        ),
        ({"align": {"batch_size": 6}}, 4, "config.align.batch_size: is 6, must be a multiple of 4"),
        ({"model": {"max_length": 300}}, 1, "config.model.max_length: is 300; model has a context of 256"),
    ],
)
def test_refusals(changes, devices, message, make_setup, make_config):
    with pytest.raises(InputError, match=message):
        make_setup(make_config(**changes), devices=devices)


def test_a_stage_that_is_not_there(make_setup, make_config, chip):
    with pytest.raises(
        InputError, match="--only=polcy: no such stage .*; this run has reward, safety, samples"
    ):
        make_plan(make_setup(make_config()), chip, only=["polcy"])


def test_a_name_stands_for_the_stages_under_it(make_setup, make_config, chip):
    plan = make_plan(make_setup(make_config()), chip, only=["evaluation samples"])
    assert [line.step.stage.partition("/")[2] for line in plan.lines if line.step.what == "sampler"] == [
        "reference", "reward", "safety", "aligned",
    ]  # fmt: skip


def test_what_does_not_fit(make_setup, make_config, chip, decoder):
    small = chip._replace(usable=200_000.0)
    setup = make_setup(make_config(), dataclasses.replace(decoder, vocab_size=2048))
    plan = make_plan(setup, small, only=["pair_scores"])
    assert not plan.fits and plan.worst.needed > 200_000
