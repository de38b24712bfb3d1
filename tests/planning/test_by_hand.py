"""FLOPs of the programs that a plan lists, against counts on paper; nothing is compiled."""

import dataclasses

import pytest

from alignjax.aot import shapes
from alignjax.aot.products import product_flops
from alignjax.planning.run import steps_at_mean, steps_of
from alignjax.workflow import programs
from alignjax.workflow.stand_ins import Lengths

# Two layers: projections q, k, v, o, gate, up, down; 4 heads of 8; a vocabulary of 96; adapters of rank 8.
SIZES = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)]
LAYERS, HEADS, RANK = 2, 32, 8
FROZEN = 2 * sum(a * b for a, b in SIZES)  # of one token in one layer
ADAPTED = 2 * RANK * sum(a + b for a, b in SIZES)
HEAD = 2 * 32 * 96  # of one target
SCORE = 4 * HEADS  # of one query and one key: their score, and the value


def flops(program):
    return product_flops(program.function.trace(*program.arguments).jaxpr, program.loops)


@pytest.fixture(scope="module")
def setup(make_setup, make_config):
    return make_setup(make_config(lora={"rank": RANK, "dropout": 0.0}))


@pytest.fixture(scope="module")
def found(setup):
    """Programs of a run by stage and name."""
    return {(step.stage, step.what): step for step in steps_of(setup)[0]}


# Backward to the activations is as much as forward, to an adapter as much again; attention has four products.
# Recomputed with `products`: attention. With `layers`: everything but the last projection, whose result no
# gradient needs, up to the thin side of its adapter.
_LAST = 2 * (64 * 32 + RANK * 32)


@pytest.mark.parametrize(
    ("remat", "again"),
    [("none", 0), ("products", SCORE * 128), ("layers", FROZEN + ADAPTED + SCORE * 128 - _LAST)],
)
def test_a_train_step_with_every_recomputation(remat, again, setup, decoder):
    config, mesh = setup.config, setup.batching.mesh
    model = shapes.model(dataclasses.replace(decoder, remat=remat), mesh, where="model")
    lora = programs.new_adapters(decoder, config.lora, mesh)
    pairs = [programs.longest_pair(64)] * 8
    program = programs.dpo_step(model, lora, config.align, pairs, setup.batching, beta=0.1)
    # Eight rows of 1 + 63 + 63 tokens in 128, with 126 targets in 128.
    token = LAYERS * (2 * FROZEN + 3 * ADAPTED + 3 * SCORE * 128 + again)
    assert flops(program) == 8 * 128 * (token + 2 * HEAD)


def test_rows_that_responses_share_compute_no_score_that_is_not_seen(found):
    program = found["scores", "log-probabilities of responses by reward"].program
    # Two rows of a prompt of 16 and four responses of 8 tokens: the prompt sees itself, a response both.
    tokens, scores = 16 + 4 * 8, 16**2 + 4 * 8 * (16 + 8)
    assert (program.rows, program.tokens) == (8, 2 * tokens)
    layer = tokens * (FROZEN + ADAPTED) + SCORE * scores
    assert flops(program) == 2 * (LAYERS * layer + 4 * 8 * HEAD)


def test_the_sampler_and_the_reading_of_its_prompts(found, setup):
    drawing, reading = (found["samples", name] for name in ("sampler", "sampler's prompts"))
    # Eight prompts with four samples each, all at once: every one of eight steps reads 16 tokens of the
    # prompt and 8 slots, 7 rounded up, for each of 32 rows.
    assert drawing.calls == reading.calls == 1 and drawing.program.loops[0] == 8
    row = LAYERS * (FROZEN + SCORE * (16 + 8)) + HEAD
    assert flops(drawing.program) == 8 * 32 * row
    assert flops(reading.program) == 8 * 16 * LAYERS * (FROZEN + SCORE * 16)
    # At a mean length of 5 there are fewer steps, each with the same work.
    pairs = steps_at_mean(setup, Lengths(16, 5))
    (one,) = (mean for step, mean in pairs if (step.stage, step.what) == ("samples", "sampler"))
    turns = one.program.loops[0]
    assert 5 < turns < 8 and flops(one.program) == pytest.approx(turns * 32 * row)
