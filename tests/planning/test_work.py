"""Programs of a run as shapes: their arguments are those of the run, their memory is what the run takes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.alignment.step import AdapterSettings, init_state
from alignjax.data.batches import PairBatch, make_pair_rows
from alignjax.data.tokenize import TokenizedPair
from alignjax.errors import InputError
from alignjax.models import decoder_shardings, init_lora, init_params, place_lora
from alignjax.planning import abstract, show, targets, work
from alignjax.planning.measure import measure
from alignjax.planning.run import make_plan
from alignjax.planning.stages import counts_of, steps_of
from alignjax.runtime.mesh import shard_batch
from alignjax.workflow.compiled import Layout, dpo_steps


def the_real_step(setting, program):
    """State, frozen weights, batch and compiled step as a run makes them."""
    mesh, settings = setting.mesh, setting.config.lora
    params = init_params(jax.random.key(0), setting.decoder)
    params = jax.device_put(params, decoder_shardings(setting.decoder, mesh, where="model"))
    lora = place_lora(init_lora(jax.random.key(1), setting.decoder, rank=settings.rank, alpha=16.0), mesh)
    optimizer = work.optimizer_of(setting.config.align, 100)
    steps = dpo_steps(setting.decoder, AdapterSettings(lora.scale, settings.dropout), 0.1, optimizer)
    state = init_state(lora.params, steps.tx, jax.random.key(2), mesh=mesh)
    rng = np.random.default_rng(0)
    ids = lambda n: rng.integers(3, 96, n).astype(np.int32)  # noqa: E731
    pairs = [TokenizedPair(ids(1), ids(60), ids(61)) for _ in range(program.rows)]
    numbers = np.zeros(program.rows, np.float32)
    rows = make_pair_rows(pairs, work.pair_bucket(setting.config.model.max_length), program.rows)
    batch = PairBatch(rows, numbers, numbers - 9, numbers - 9, numbers + 1, numbers.astype(np.int32))
    return steps.train(Layout.of(state)), state, params, shard_batch(batch, mesh)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_shapes_are_those_of_a_run(sizes, make_setting, make_config):
    axes = dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))
    setting = make_setting(make_config(mesh=axes), devices=int(np.prod(sizes)))
    program = work.dpo_step(setting, setting.config.align, 0.1, 100)
    _, *real = the_real_step(setting, program)
    planned = program.arguments

    def same(shape, array):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
        assert shape.sharding.is_equivalent_to(array.sharding, array.ndim)

    jax.tree.map(same, planned, tuple(real))
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(real)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        for shard in leaf.addressable_shards
        if shard.device == jax.devices()[0]
    )
    batch = abstract.bytes_per_device(planned[2])
    assert sum(program.kinds.values()) + batch == pytest.approx(held, abs=64)  # the step and the key


def test_the_compiled_estimate_is_what_a_step_takes(make_setting, make_config):
    # Arguments and results of a compiled program are what lies on the device before and after it.
    setting = make_setting(make_config(lora={"rank": 4}))
    program = work.dpo_step(setting, setting.config.align, 0.1, 100)
    found = measure(program, 1)
    step, state, params, batch = the_real_step(setting, program)
    inputs = jax.tree.leaves((state, params, batch))
    size = sum(x.nbytes for x in inputs if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)) + 8
    assert found.arguments == pytest.approx(size, rel=0.01)
    before = live_bytes()
    state, metrics = step(state, params, batch)
    jax.block_until_ready(metrics)
    # The state is donated: a step leaves nothing behind but its metrics.
    assert live_bytes() - before == pytest.approx(sum(x.nbytes for x in metrics.values()), abs=4096)
    assert found.results < 2**16 and found.temporaries > 0


def live_bytes() -> int:
    return sum(x.nbytes for x in jax.live_arrays() if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def test_flops_of_a_scoring_pass_by_hand(make_setting, make_config):
    setting = make_setting(make_config())
    program = work.pair_logps(setting, 100, adapted=False)
    bucket, rows = work.pair_bucket(64), 8
    # A layer: q and o 32 x 32, k and v 32 x 16, gate, up and down 32 x 64; attention 2 x T^2 x heads x width.
    layer = 2 * bucket.tokens * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 4 * bucket.tokens**2 * 32
    head = 2 * bucket.targets * 32 * 96
    assert measure(program, 1).flops == pytest.approx(rows * (2 * layer + head), rel=0.01)


def test_rows_of_pairs_hold_two_responses():
    assert work.pair_bucket(512) == (1024, 1024) and work.pair_bucket(20) == (39 + 1, 38)


@pytest.mark.parametrize("method", ["pecan", "mocan"])
def test_every_stage_of_a_run(method, make_setting, make_config, chip):
    setting = make_setting(make_config(method))
    plan = make_plan(setting, chip, pairs=1000, mean_length=32, world=None)
    assert plan.fits and plan.share == 0.5 and plan.hours is None  # of such a GPU nothing but memory is known
    stages = list(dict.fromkeys(line.step.stage for line in plan.lines))
    between = ["pairs", "reward", "safety", "samples", "scores", "labels", "policy", "evaluation"]
    if method == "mocan":
        between = ["samples", "reward", "safety", "scores", "labels", "pairs", "policy", "evaluation"]
    assert stages == between
    for line in plan.lines:
        assert line.needed == line.measured.needed + sum(line.step.held.values())
        assert line.measured.flops > 0 and line.measured.traffic is not None and line.calls > 0


def test_counts_of_calls(make_setting, make_config):
    config = make_config(data={"held_out_fraction": 0.1})
    setting = make_setting(config)
    counts = counts_of(setting, 1000)
    assert counts == (900, 100, 900)
    examples = {(s.stage, s.what): s.examples for s in steps_of(setting, counts, None)}
    assert examples["policy", "train step"] == 3 * 900  # three epochs
    assert examples["samples", "sampler"] == 8 * 4
    # Two policies on the held-out pairs of both dimensions and on the pairs to align on.
    assert examples["labels", "log-probabilities by policies"] == 2 * (100 + 900)
    # Reference, two pre-aligned and the aligned one, each scored by the reference and by both.
    assert examples["evaluation", "log-probabilities by policies"] == 4 * 3 * 32


def test_full_fine_tuning_holds_the_reference_beside_what_it_trains(make_setting, make_config):
    setting = make_setting(make_config(lora={"rank": 0}))
    weights = abstract.bytes_per_device(work.reference_params(setting))
    steps = {(s.stage, s.what): s for s in steps_of(setting, counts_of(setting, 1000), None)}
    program = steps["policy", "train step"].make()
    assert program.kinds["parameters"] == weights and program.kinds["adapters"] == 0
    assert program.kinds["optimizer"] == pytest.approx(2 * weights, rel=0.01)
    # Two pre-aligned policies, the best weights, and the reference.
    assert sum(steps["policy", "train step"].held.values()) == 4 * weights


def test_a_folders_model_takes_the_references_place(make_setting, make_config):
    scores = {name: {"path": "folder"} for name in ("reward", "safety")}
    setting = make_setting(make_config("mocan", scores=scores, lora={"rank": 4}))
    steps = {(s.stage, s.what): s for s in steps_of(setting, counts_of(setting, 1000), None)}
    assert steps["scores", "reward of samples"].held == {}
    lora = work.adapter(setting)
    assert lora is not None
    one = abstract.bytes_per_device(lora.params)
    assert sum(steps["evaluation", "safety of responses"].held.values()) == one  # the aligned policy's


def test_a_folders_model_has_its_own_shape(tmp_path, make_setting, make_config, chip):
    (tmp_path / "config.json").write_text(
        '{"architectures": ["LlamaModelForScore"], "vocab_size": 96, "hidden_size": 64, "score_type": "cost",'
        ' "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 32}'
    )
    scores = {"reward": {"path": "not-here"}, "safety": {"path": str(tmp_path)}}
    setting = make_setting(make_config("mocan", scores=scores, lora={"rank": 4}))
    assert (work.score_model(setting, "reward").config.hidden_size, setting.decoder.num_layers) == (32, 2)
    model = work.score_model(setting, "safety")
    assert (model.config.hidden_size, model.config.num_layers, model.kind) == (64, 3, "cost")
    # Embedding; three layers of q, k, v, o, three feed-forward matrices and norms; norm, head and its bias.
    weights = 96 * 64 + 3 * (4 * 64 * 64 + 3 * 64 * 32 + 2 * 64) + 64 + 64 + 1
    program = work.response_scores(setting, "safety", 32, 8, adapted=False)
    normalizer = 4 * len(jax.tree.leaves(model.normalizer))
    assert program.kinds["parameters"] == 4 * weights + normalizer
    plan = make_plan(setting, chip, pairs=100, mean_length=None, world=None, only=["scores"])
    text = show.text_of(plan, targets.parse("gpu:16GiB"))
    assert "taken to have the reference's shape: reward (not-here)." in text


def test_a_folder_that_is_no_score_model(tmp_path, make_setting, make_config):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "vocab_size": 7}')
    scores = {name: {"path": str(tmp_path)} for name in ("reward", "safety")}
    with pytest.raises(InputError, match="config.json: architecture LlamaForCausalLM is not a score model"):
        make_setting(make_config("mocan", scores=scores))


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
def test_refusals(changes, devices, message, make_setting, make_config):
    with pytest.raises(InputError, match=message):
        make_setting(make_config(**changes), devices=devices)


def test_a_stage_that_is_not_there(make_setting, make_config, chip):
    with pytest.raises(InputError, match="--only=polcy: no such stage; this run has pairs, reward"):
        make_plan(make_setting(make_config()), chip, pairs=100, mean_length=None, world=None, only=["polcy"])


def test_what_does_not_fit(make_setting, make_config, chip, decoder):
    small = chip._replace(usable=200_000.0)
    setting = make_setting(make_config(), dataclasses.replace(decoder, vocab_size=2048))
    plan = make_plan(setting, small, pairs=100, mean_length=None, world=None, only=["pairs"])
    assert not plan.fits and plan.worst.needed > 200_000
