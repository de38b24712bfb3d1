"""Sizes by rule: worked by hand for a small and a published amount of data, and what is given is kept."""

import pytest

from alignjax.config import Config, from_mapping
from alignjax.config.settings import METHODS
from alignjax.config.sizes import (
    DataSize,
    DeviceSize,
    ModelSize,
    decided,
    left_open,
    with_defaults,
    with_sizes,
)
from alignjax.errors import InputError

SMALL = DataSize(400, 240, {"reward": 300, "safety": 200, "align": 500}, 30, 90, 41)
LARGE = DataSize(40_000, 32_000, {"reward": 30_000, "safety": 30_000, "align": 30_000}, 700, 3000, 500)
# Llama 3 8B on a card of 80 GiB, and a tiny model on a CPU.
BIG = ModelSize(8_000_000_000, 32, 4096, 14336, 32, 128_256, 2048)
TINY = ModelSize(100_000, 2, 64, 128, 4, 258, 256)
CARD, CPU = DeviceSize(80 * 2**30, 1, 1, True), DeviceSize(2**33, 1, 1, False)


def own(load, method="pecan", **changes):
    """The preset's values, with files named."""
    config = load(method).get_config("own")
    config.model.path = "model"
    for source in config.data.sources.values():
        source.path = "pairs.jsonl"
    for path, value in changes.items():
        table, _, field = path.partition("__")
        config[table][field] = value
    return config.to_dict()


def test_little_data_by_hand(load):
    sizes = decided(own(load), SMALL, TINY, CPU)
    assert (sizes["data.held_out_fraction"], sizes["test.share"]) == (0.2, 0.2)
    # 30 tokens in steps of 16; 90 likewise; responses of 41 have room: 96 - 32 is 64, more than 48.
    assert (sizes["model.max_prompt_length"], sizes["model.max_length"]) == (32, 96)
    assert sizes["sampling.max_new_tokens"] == sizes["evaluation.max_new_tokens"] == 48
    # 8,000 // 240 is 33, in steps of 8 it is 32; 80 test prompts are few.
    assert (sizes["sampling.num_prompts"], sizes["sampling.num_samples"]) == (240, 32)
    assert (sizes["evaluation.num_prompts"], sizes["evaluation.num_samples"]) == (400, 8)
    assert sizes["model.dtype"] == "float32"
    # The smaller dimension has 200 pairs: 3 epochs of 12 steps of 16.
    run = [sizes[f"prealign.{name}"] for name in ("batch_size", "accumulate", "epochs", "warmup_steps")]
    assert run == [16, 1, 3.0, 3]
    assert sizes["align.warmup_steps"] == 9  # 500 * 3 / 16 = 93 steps
    assert sizes["ref_batch_size"] == 128


def test_much_data_and_a_large_model_by_hand(load):
    sizes = decided(own(load, "mocan"), LARGE, BIG, CARD)
    assert (sizes["data.held_out_fraction"], sizes["test.share"]) == (0.1, 0.1)
    # Prompts of 700 tokens; of the context of 2,048 both have what they need but no more than is there.
    assert (sizes["model.max_prompt_length"], sizes["model.max_length"]) == (704, 2048)
    assert sizes["sampling.max_new_tokens"] == 512
    assert (sizes["sampling.num_prompts"], sizes["sampling.num_samples"]) == (1000, 32)
    assert (sizes["evaluation.num_prompts"], sizes["evaluation.num_samples"]) == (40_000, 4)
    assert sizes["model.dtype"] == "bfloat16"
    # 0.8 * 80 GiB less 16e9 bytes of weights and 0.26e9 of logits is 52.5e9. A row of 4,096 tokens takes
    # 4,096 * 2 * (12 * 4,096 + 4 * 14,336) = 0.87e9 for a layer, 8 * 32 * 4,096^2 = 4.29e9 for attention,
    # both twice, and 32 * 4,096 * 4,096 * 2 = 1.07e9 for the layers' inputs: 11.4e9, so four fit.
    assert (sizes["align.batch_size"], sizes["align.accumulate"]) == (4, 16)
    assert (sizes["score_training.batch_size"], sizes["score_training.epochs"]) == (4, 2.0)
    assert sizes["align.warmup_steps"] == 93  # 30,000 * 2 / 64 / 10
    assert sizes["ref_batch_size"] == 8  # 52.5e9 / 5.16e9 is 10


def test_rows_divide_over_the_devices(load):
    six = CARD._replace(parts=6, shares=1)
    sizes = decided(own(load), SMALL, TINY, six)
    assert (sizes["align.batch_size"], sizes["align.accumulate"]) == (12, 2)
    assert sizes["ref_batch_size"] % 6 == 0
    tight = decided(own(load), LARGE, BIG, CARD._replace(memory=2**34))  # one row, even where it may not fit
    assert tight["align.batch_size"] == tight["ref_batch_size"] == 1


def test_what_is_given_is_kept_and_the_rest_follows_from_it(load):
    values = own(load, sampling__num_prompts=100, model__max_length=64, align__batch_size=4)
    sizes = decided(values, SMALL, TINY, CPU)
    assert not {"sampling.num_prompts", "model.max_length", "align.batch_size"} & set(sizes)
    assert sizes["sampling.num_samples"] == 80 and sizes["align.accumulate"] == 4
    assert sizes["sampling.max_new_tokens"] == 32  # 64 less the prompt's 32


@pytest.mark.parametrize("method", METHODS)
def test_a_preset_with_its_sizes_is_a_configuration(load, method):
    values = own(load, method)
    run = "prealign" if method == "pecan" else "score_training"
    assert f"{run}.epochs" in left_open(values) and "model.max_length" in left_open(values)
    for data, model, device in ((SMALL, TINY, CPU), (LARGE, BIG, CARD)):
        config = from_mapping(with_sizes(values, decided(values, data, model, device)))
        assert config.data.max_train_pairs is None and config.data.max_held_out_pairs is None
        assert isinstance(config, Config) and config.relabel.max_pairs is None
    with pytest.raises(InputError, match="config"):
        from_mapping(values)


def test_only_files_have_sizes_that_follow_from_them(load, tiny):
    assert left_open(tiny.to_dict()) == []
    values = tiny.to_dict()
    values["sampling"]["num_prompts"] = None
    assert left_open(values) == []
    filled = with_defaults(own(load))
    assert filled["sampling"]["num_prompts"] == 64 and left_open(filled) == []
