"""Presets: accepted, made from the settings' defaults, and with the numbers that they are documented with."""

import pytest

from alignjax.config import Config, ConstraintSettings, JudgeSettings, from_mapping, presets, to_mapping
from alignjax.config.settings import METHODS
from alignjax.config.sizes import with_defaults
from alignjax.data.worlds import world_for
from alignjax.errors import InputError
from alignjax.records.codec import decode


@pytest.mark.parametrize("method", METHODS)
def test_shared_fields_are_the_defaults(method):
    expected = Config(
        method,
        constraints={"safety": ConstraintSettings()},
        judges={"reward": JudgeSettings(), "safety": JudgeSettings()},
    )
    assert decode(Config, presets.shared(method).to_dict(), "config") == expected


def test_a_field_that_is_none_takes_a_value_of_its_type(tiny):
    assert tiny.lam is None and tiny.align.patience is None and tiny.model.path is None
    tiny.lam, tiny.align.patience, tiny.model.path = 0.5, 3, "folder"
    with pytest.raises(TypeError):
        tiny.align.patience = "many"
    with pytest.raises(TypeError):
        tiny.lam = "much"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", presets.PRESETS)
def test_every_preset_is_accepted_once_its_files_are_named(load, method, preset):
    config = load(method).get_config(preset)
    if config.data.world is None:
        config.model.path = "model"
        for source in config.data.sources.values():
            source.path = "pairs.jsonl"
    built = from_mapping(with_defaults(config.to_dict()))  # own leaves sizes to its data
    assert isinstance(built, Config)
    assert from_mapping(to_mapping(built)) == built


@pytest.mark.parametrize("method", METHODS)
def test_a_near_miss_gets_the_nearest(load, method):
    every = "choose from tiny, enumerable, own, smollm2-135m, alpaca-7b, llama3-8b."
    near = {"tny": "did you mean tiny? ", "smollm2": "did you mean smollm2-135m? ", "": ""}
    for preset, hint in near.items():
        with pytest.raises(InputError) as refused:
            load(method).get_config(preset)
        assert str(refused.value) == f"configs/{method}.py: no preset {preset!r}; {hint}{every}"


# Of every preset: batch, micro-batches, epochs, learning rate, warm-up steps and evaluations of the run that
# makes the scores (pre-alignment or score model), then of the final alignment; rows of a scoring pass; beta.
TRAINING = {
    ("pecan", "tiny"): ((64, 1, 4.0, 3e-3, 20, 10), (64, 1, 5.0, 3e-3, 20, 10), 128, 0.5),
    ("mocan", "tiny"): ((64, 1, 2.0, 3e-3, 20, 4), (64, 1, 2.0, 3e-3, 20, 10), 128, 0.5),
    ("pecan", "enumerable"): ((256, 1, 10.0, 3e-3, 20, 10), (256, 1, 24.0, 3e-3, 20, 10), 128, 0.5),
    ("mocan", "enumerable"): ((64, 1, 1.0, 1e-3, 20, 10), (256, 1, 24.0, 3e-3, 20, 10), 128, 0.5),
    ("pecan", "smollm2-135m"): ((4, 1, 1.0, 5e-4, 6, 2), (4, 1, 1.0, 5e-4, 6, 2), 8, 0.1),
    ("mocan", "smollm2-135m"): ((8, 1, 1.0, 5e-4, 10, 2), (4, 1, 1.0, 5e-4, 6, 2), 8, 0.1),
    ("pecan", "alpaca-7b"): ((2, 8, 3.0, 5e-4, 100, 6), (2, 8, 3.0, 5e-4, 100, 6), 8, 0.1),
    ("mocan", "alpaca-7b"): ((2, 8, 3.0, 5e-4, 100, 6), (2, 8, 3.0, 5e-4, 100, 6), 8, 0.1),
    ("pecan", "llama3-8b"): ((2, 8, 3.0, 5e-4, 100, 6), (2, 8, 3.0, 5e-4, 100, 6), 8, 0.1),
    ("mocan", "llama3-8b"): ((2, 8, 3.0, 5e-4, 100, 6), (2, 8, 3.0, 5e-4, 100, 6), 8, 0.1),
}
# num_prompts, num_samples, max_new_tokens, top_p of the dual's samples and of the evaluation's.
SAMPLES = {
    "tiny": ((200, 64, 20, 1.0), (346, 12, 20, 1.0)),
    "enumerable": ((8, 4096, 4, 1.0), (8, 64, 4, 1.0)),
    "smollm2-135m": ((40, 8, 40, 1.0), (48, 2, 40, 1.0)),
    "alpaca-7b": ((1000, 128, 256, 0.9), (400, 4, 256, 0.9)),
    "llama3-8b": ((1000, 128, 256, 0.9), (400, 4, 256, 0.9)),
}


def _of(run):
    return run.batch_size, run.accumulate, run.epochs, run.learning_rate, run.warmup_steps, run.evals


@pytest.mark.parametrize(("method", "preset"), TRAINING)
def test_sizes_of_the_presets(load, method, preset):
    config = load(method).get_config(preset)
    scores = config.prealign if method == "pecan" else config.score_training
    found = _of(scores), _of(config.align), config.ref_batch_size, config.beta
    assert found == TRAINING[method, preset]
    assert config.get("beta_pre", config.beta) == config.beta
    (prompts, samples, tokens, top_p), evaluated = SAMPLES[preset]
    if (method, preset) == ("mocan", "tiny"):  # of nine policies: half the samples
        evaluated = (346, 6, 20, 1.0)
    if config.data.world is None:
        config.model.path = "model"
        for source in config.data.sources.values():
            source.path = "pairs.jsonl"
    built = from_mapping(config.to_dict())
    for given, expected in (
        (built.sampling, (prompts, samples, tokens, top_p)),
        (built.evaluation_sampling, evaluated),
    ):
        assert (given.num_prompts, given.num_samples, given.max_new_tokens, given.top_p) == expected
        assert given.temperature == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_the_world_of_the_first_preset_has_as_many_test_prompts_as_it_evaluates_on(load, method):
    config = load(method).get_config("tiny")
    world = world_for(config.data.world)
    assert len(world.prompts_test) == config.evaluation.num_prompts
    assert len(world.prompts_train) >= config.sampling.num_prompts


@pytest.mark.parametrize("method", METHODS)
def test_published_preset_has_the_published_numbers(load, method):
    config = load(method).get_config("alpaca-7b")
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (8, 16.0, 0.05)
    assert (config.align.schedule, config.align.weight_decay) == ("cosine", 0.05)
    assert config.align.batch_size * config.align.accumulate == 16
    assert (config.model.dtype, config.model.max_length) == ("bfloat16", 512)
    assert config.model.template.endswith("ASSISTANT:")
    assert (config.data.held_out_fraction, config.test.share) == (0.1, 0.1)
    assert load(method).get_config("llama3-8b").model.template == ""


@pytest.mark.parametrize("method", METHODS)
def test_unknown_preset_is_refused(load, method):
    with pytest.raises(ValueError, match=f"configs/{method}.py: no preset 'big'"):
        load(method).get_config("big")
