"""Programs as shapes: their arguments are those of a run, and their memory is what a step takes."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.alignment.step import init_state
from alignjax.aot import shapes
from alignjax.aot.measure import measure
from alignjax.config import LoraSettings, SamplingSettings, ScoreModelSettings, TrainingSettings
from alignjax.data.batches import pair_batches, response_batches
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.models import (
    DecoderConfig,
    Lora,
    Model,
    decoder_shardings,
    init_lora,
    init_params,
    init_score_model,
    place_head,
    place_lora,
)
from alignjax.policy.batching import Batching
from alignjax.policy.divergence import completion_kl_jit
from alignjax.runtime.mesh import make_mesh, shard_batch
from alignjax.workflow import programs, sampling_programs

DECODER = DecoderConfig("llama", 96, 32, 64, 2, 4, 2, 8, max_positions=256, eos_ids=(2,), remat=True)
LORA = LoraSettings(rank=4, dropout=0.1)
RUN = TrainingSettings(batch_size=8, epochs=3.0)
MAX_LENGTH = 64
PAIRS = 20


class Real(NamedTuple):
    """What a run has."""

    model: Model
    lora: Lora
    pairs: list[TokenizedPair]
    batching: Batching


def _batching(data: int = 1, fsdp: int = 1, tensor: int = 1, memory: int | None = None) -> Batching:
    devices = jax.devices()[: data * fsdp * tensor]
    return Batching(make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=devices), 8, 3, memory)


def _real(batching: Batching) -> Real:
    where = decoder_shardings(DECODER, batching.mesh, where="model")
    model = Model(jax.device_put(init_params(jax.random.key(0), DECODER), where), DECODER)
    lora = init_lora(jax.random.key(1), DECODER, rank=4, alpha=LORA.alpha, dropout=LORA.dropout)
    rng = np.random.default_rng(0)
    ids = lambda n: rng.integers(3, 96, n).astype(np.int32)  # noqa: E731
    pairs = [TokenizedPair(ids(1), ids(MAX_LENGTH - 1), ids(MAX_LENGTH - 1)) for _ in range(PAIRS)]
    return Real(model, place_lora(lora, batching.mesh), pairs, batching)


def _abstract(batching: Batching) -> tuple[Model, Lora, list[TokenizedPair]]:
    lora = programs.new_adapters(DECODER, LORA, batching.mesh)
    assert lora is not None
    pairs = [programs.longest_pair(MAX_LENGTH)] * PAIRS
    return shapes.model(DECODER, batching.mesh, where="model"), lora, pairs


def _dpo_step(batching: Batching):
    model, lora, pairs = _abstract(batching)
    return programs.dpo_step(model, lora, RUN, pairs, batching, beta=0.1)


def _real_dpo_arguments(real: Real):
    """State, frozen weights and first batch, as a run makes them."""
    batching = real.batching
    batch = next(
        iter(
            pair_batches(
                real.pairs, batch_size=8, buckets=batching.buckets(np.array([[2 * MAX_LENGTH - 1] * 2])),
                labels=np.ones(PAIRS, np.float32), ref_chosen=np.zeros(PAIRS, np.float32),
                ref_rejected=np.zeros(PAIRS, np.float32),
            )
        )
    )  # fmt: skip
    optimizer = programs.optimizer_of(RUN, -(-PAIRS // 8))
    adapter = programs.adapter_settings(real.lora)
    steps = programs.dpo_steps(DECODER, adapter, 0.1, programs.losses.dpo, optimizer)
    state = init_state(real.lora.params, steps.tx, jax.random.key(2), mesh=batching.mesh)
    step = steps.train(programs.Layout.of(state))
    return step, (state, real.model.params, shard_batch(batch, batching.mesh))


def _assert_same(planned, real) -> None:
    def same(shape, array) -> None:
        if isinstance(shape, jax.ShapeDtypeStruct):
            assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
            assert shape.sharding.is_equivalent_to(array.sharding, array.ndim)
        else:
            assert shape == array

    assert jax.tree.structure(planned) == jax.tree.structure(real)
    jax.tree.map(same, planned, real)


MESHES = pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])


@MESHES
def test_the_train_step_is_that_of_a_run(sizes):
    batching = _batching(*sizes)
    program = _dpo_step(batching)
    step, arguments = _real_dpo_arguments(_real(batching))
    assert program.function is step  # equal settings share the compiled step
    _assert_same(program.arguments, arguments)
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(arguments)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        for shard in leaf.addressable_shards
        if shard.device == jax.devices()[0]
    )
    batch = shapes.bytes_per_device(program.arguments[2])
    assert sum(program.kinds.values()) + batch == pytest.approx(held, abs=64)  # the step and the key


@MESHES
def test_score_models_are_those_of_a_run(sizes):
    batching = _batching(*sizes)
    real, (model, lora, pairs) = _real(batching), _abstract(batching)
    body = init_score_model(jax.random.key(3), real.model, kind="cost")
    body = body.replace(params={**body.params, "head": place_head(body.params["head"], batching.mesh)})
    planned = shapes.score_model_on(model, batching.mesh, kind="cost")
    assert jax.tree.map(lambda x: (x.shape, x.dtype), planned) == jax.tree.map(
        lambda x: (x.shape, x.dtype), body
    )
    program = programs.score_step(planned, lora, RUN, ScoreModelSettings(), pairs, batching, signs=True)
    state, frozen, batch = program.arguments
    assert set(state.trainable) == {"lora", "head"} and frozen is planned.params["decoder"]
    assert batch.chosen_sign.shape == (8,) and "head" not in frozen
    scores = programs.pair_scores(planned, lora.replace(dropout=0.0), pairs, batching)
    assert scores.kinds["parameters"] == shapes.bytes_per_device(planned)
    assert (scores.rows, scores.tokens) == (8, 8 * 128)


def test_the_compiled_estimate_is_what_a_step_takes():
    # Arguments and results of a compiled program are what lies on the device before and after it.
    batching = _batching()
    found = measure(_dpo_step(batching), 1)
    step, arguments = _real_dpo_arguments(_real(batching))
    size = sum(x.nbytes for x in jax.tree.leaves(arguments) if not _is_key(x)) + 8
    assert found.arguments == pytest.approx(size, rel=0.01)
    state, params, batch = arguments
    del arguments
    before = _live_bytes()
    state, metrics = step(state, params, batch)
    jax.block_until_ready(metrics)
    # The state is donated: a step leaves nothing behind but its metrics.
    assert _live_bytes() - before == pytest.approx(sum(x.nbytes for x in metrics.values()), abs=4096)
    assert found.results < 2**16 and found.temporaries > 0


def _is_key(array) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _live_bytes() -> int:
    return sum(x.nbytes for x in jax.live_arrays() if not _is_key(x))


def test_flops_of_a_scoring_pass_by_hand():
    batching = _batching()
    model, _, pairs = _abstract(batching)
    program = programs.pair_logps(model, None, pairs, batching)
    tokens = targets = 128  # of 1 + 63 + 63 tokens, rounded up
    # A layer: q and o 32 x 32, k and v 32 x 16, gate, up and down 32 x 64; attention 2 x T^2 x heads x width.
    layer = 2 * tokens * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 4 * tokens**2 * 32
    head = 2 * targets * 32 * 96
    assert program.tokens == 8 * tokens
    assert measure(program, 1).flops == pytest.approx(8 * (2 * layer + head), rel=0.01)


def test_rows_of_pairs_hold_two_responses():
    batching = _batching()
    for max_length, expected in ((512, (1024, 1024)), (20, (39 + 1, 38))):
        pair = programs.longest_pair(max_length)
        model = shapes.model(dataclasses.replace(DECODER, max_positions=2048), batching.mesh, where="model")
        rows = programs.pair_logps(model, None, [pair], batching).arguments[3]
        assert (rows.tokens.shape[1], rows.targets.shape[1]) == expected


def test_full_fine_tuning_trains_a_copy_of_the_weights():
    batching = _batching()
    model, _, pairs = _abstract(batching)
    program = programs.dpo_step(model, None, RUN, pairs, batching, beta=0.1)
    weights = shapes.bytes_per_device(model.params)
    assert program.kinds["parameters"] == weights and program.kinds["adapters"] == 0
    assert program.kinds["optimizer"] == pytest.approx(2 * weights, rel=0.01)
    assert program.arguments[1] is None
    # The first weights are the reference's, which are there anyway; the best so far are a copy.
    held = programs.held_while_training(model.params, own_start=False, judged=True)
    assert held == {"best weights": weights}
    assert programs.new_adapters(DECODER, LoraSettings(rank=0), batching.mesh) is None


def test_the_corpus_of_a_reference_leaves_out_an_incomplete_batch():
    batching = _batching()
    model, _, _ = _abstract(batching)
    rows = [programs.longest_response(4, 20)] * 30
    program = programs.sft_step(model, dataclasses.replace(RUN, epochs=1.0), rows, batching)
    assert (program.rows, program.tokens) == (8, 8 * 24)
    corpus = [TokenizedResponse(np.ones(4, np.int32), np.ones(20, np.int32))] * 30
    batches = response_batches(
        corpus, batch_size=8, buckets=batching.buckets(np.array([[24, 20]])), drop_remainder=True
    )
    assert len(batches) == 3
    optimizer = programs.optimizer_of(dataclasses.replace(RUN, epochs=1.0), 3)
    assert program.function is programs.sft_steps(DECODER, optimizer).train(
        programs.Layout.of(program.arguments[0])
    )


def test_weights_that_policy_and_reference_share_are_given_once():
    batching = _batching()
    model, lora, _ = _abstract(batching)
    rows = [programs.longest_response(4, 20)] * 5
    adapted = programs.divergence(model, lora.replace(dropout=0.0), model, rows, batching)
    other = shapes.model(DECODER, batching.mesh, where="model")
    full = programs.divergence(other, None, model, rows, batching)
    weights = shapes.bytes_per_device(model.params)
    assert (adapted.kinds["parameters"], full.kinds["parameters"]) == (weights, 2 * weights)
    assert adapted.function is completion_kl_jit and adapted.rows == 5


def test_a_sampler_draws_what_memory_has_room_for():
    # A token takes 2 x 2 layers x 2 heads x 8 numbers of 4 bytes: 256 bytes; a row has 8 slots, a prompt 16
    # tokens. A call draws one group of prompts.
    model, _, _ = _abstract(_batching())
    prompts = [np.zeros(16, np.int32)] * 100
    asked = SamplingSettings(num_samples=16, max_new_tokens=8)
    weights = shapes.bytes_per_device(model.params)
    for memory in (2**30, int((weights + 150_000) * 16 / 15)):
        batching = _batching(memory=memory)
        found = sampling_programs.sampler(model, None, prompts, asked, batching)
        grid = found.arguments[2]
        assert (found.rows, found.tokens) == (16 * grid.group, 128 * grid.group)
        assert found.cache == 256 * grid.columns * (8 * grid.rows + 16)
        # All of full length: steps of a column, each group of columns in turn.
        assert found.loops == (8 * -(-16 // grid.rows) / grid.groups, 1.0)
        assert found.cache <= (2**28 if memory == 2**30 else 150_000)
        read = sampling_programs.prompt_reader(model, None, prompts, asked, batching)
        assert (read.rows, read.tokens, read.cache) == (grid.group, 16 * grid.group, found.cache)
    assert 256 * (grid.columns + 1) * (8 * grid.rows + 16) > 150_000  # there is no room for another column
    half = dataclasses.replace(asked, cache="int8")
    rounded = sampling_programs.sampler(model, None, prompts, half, _batching(memory=2**30))
    grid = rounded.arguments[2]
    assert rounded.cache == 8 * (8 + 4) * grid.columns * (8 * grid.rows + 16)
