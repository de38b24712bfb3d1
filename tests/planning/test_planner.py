"""What a plan notes of stages: each kept result once, and what is held while a program runs."""

import jax
import jax.numpy as jnp
import pytest

from alignjax.alignment.score_training import TrainedScore
from alignjax.aot import shapes
from alignjax.aot.program import Program, Use
from alignjax.models import Lora, Model
from alignjax.models.model_cache import ModelCache
from alignjax.planning.planner import Planner, identity, together
from alignjax.policy.values import Policy
from alignjax.runtime.mesh import make_mesh, replicated
from alignjax.stages import Stage

FIRST, SECOND = jax.jit(lambda *arrays: arrays), jax.jit(lambda *arrays: len(arrays))


@pytest.fixture
def mesh():
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture
def array(mesh):
    """array(n): so many float32, a new array with every call."""
    return lambda n: jax.ShapeDtypeStruct((n,), jnp.float32, sharding=replicated(mesh))


def use(*arguments, what="pass", function=FIRST, examples=4.0, rows=1, held=None, key=None):
    return Use(what, lambda: Program(function, arguments, {}, rows, 8), examples, held or {}, key)


def stage(name, *programs, value=None):
    return Stage(
        name=name, settings={}, compute=lambda work: value, abstract=lambda: value, programs=lambda: programs
    )


def adapted(array, size):
    lora = Lora({"q": array(size)}, 1.0, 0.0)
    return Policy("policy", lambda: pytest.fail("its weights are another's"), lora, "policy", "")


def test_values_give_back_what_the_stage_says(array):
    planner, policy = Planner(ModelCache(one=False)), adapted(array, 3)
    assert planner.do(stage("policy", use(array(1)), value=policy)) is policy
    assert [(step.stage, step.what, step.calls) for step in planner.steps] == [("policy", "pass", 4)]


def test_held_are_the_values_so_far_that_the_program_is_not_given(array):
    planner, first, second = Planner(ModelCache(one=False)), adapted(array, 10), adapted(array, 100)
    planner.do(stage("one", use(array(5)), value=first))
    planner.do(stage("two", use(first.lora), value=second))
    planner.do(stage("three", use(first.lora, held={"best weights": 7}), use(array(1), what="other")))
    # Bytes of float32. A stage's own value is not held while it is computed.
    held = [dict(step.held) for step in planner.steps]
    assert held == [
        {},
        {},
        {"trained policies": 400, "best weights": 7},
        {"trained policies": 440},
    ]


def test_weights_of_a_trained_policy_and_of_score_models_are_held_and_shared_ones_once(array, decoder):
    planner, body = Planner(ModelCache(one=False)), array(50)
    own = Model({"embed": body}, decoder)
    planner.do(stage("policy", value=Policy("policy", lambda: own, None, "policy", "")))
    score = {"decoder": body, "head": array(2)}
    planner.do(stage("reward", value=TrainedScore(lambda: (score, None))))  # pyright: ignore[reportArgumentType]
    planner.do(stage("last", use(array(1))))
    assert dict(planner.steps[0].held) == {"trained policies": 200, "trained score models": 8}


@pytest.mark.parametrize("one", [False, True])
def test_a_model_that_the_cache_lets_go_is_not_held(one, array, decoder):
    cache = ModelCache(one=one)
    planner = Planner(cache)
    reference = Model({"embed": array(10)}, decoder)
    other = Model({"embed": array(1000)}, decoder)
    load = lambda: cache.get("reference", lambda: reference)  # noqa: E731
    planner.do(stage("reference", value=Policy("reference", load, None, "reference", "")))

    def scoring() -> Program:
        return Program(FIRST, (cache.get("score", lambda: other).params,), {}, 1, 8)

    planner.do(stage("scores", Use("score", scoring, 1, {})))
    planner.do(stage("samples", Use("draw", lambda: Program(FIRST, (load().params,), {}, 1, 8), 1, {})))
    scores, samples = planner.steps
    # Both lie in the cache under one kind here: both are language models.
    assert dict(scores.held) == ({} if one else {"reference": 40})
    assert dict(samples.held) == ({} if one else {"reference": 4000})


def test_a_result_that_is_kept_is_computed_once(array):
    planner = Planner(ModelCache(one=False))
    planner.do(stage("one", use(array(1), key="a"), use(array(1), key="b", what="b")))
    planner.do(stage("two", use(array(1), key="a"), use(array(1))))
    assert [(step.stage, step.what, step.calls) for step in planner.steps] == [
        ("one", "pass", 4),
        ("one", "b", 4),
        ("two", "pass", 4),
    ]


def test_one_program_of_one_stage_is_one_step(array):
    planner = Planner(ModelCache(one=False))
    planner.do(
        stage(
            "one",
            use(array(1), examples=5, rows=2),
            use(array(1), examples=3, rows=2, held={"optimizer": 6}),
            use(array(2), examples=1),
            use(array(1), examples=1, function=SECOND),
        )
    )
    # 5 rows by twos are three calls, 3 rows two.
    assert [(step.calls, dict(step.held)) for step in planner.steps] == [
        (5, {"optimizer": 6}),
        (1, {}),
        (1, {}),
    ]


def test_uses_are_one_step_where_they_are_one_program_at_both_lengths(array):
    planner = Planner(ModelCache(one=False))
    planner.do(stage("one", use(array(1)), use(array(1)), use(array(1))))
    first, second, third = planner.uses
    shorter = [step._replace(program=Program(FIRST, (array(n),), {}, 1, 8)) for step, n in
               ((first, 2), (second, 2), (third, 3))]  # fmt: skip
    found = together(list(zip(planner.uses, shorter, strict=True)))
    assert [(step.calls, mean.calls) for step, mean in found] == [(8, 8), (4, 4)]
    assert [step.calls for step in planner.steps] == [12]


def test_what_compiles_to_the_same(array, mesh):
    one, same, longer = (Program(FIRST, (3, array(n)), {}, 1, 8) for n in (4, 4, 5))
    assert identity(one) == identity(same) != identity(longer)
    assert identity(one) != identity(one._replace(function=SECOND))
    assert identity(one) != identity(one._replace(arguments=(4, array(4))))
    assert shapes.copies(one.arguments[1]) == one.arguments[1]
    assert shapes.copies(one.arguments[1]) is not one.arguments[1]
