"""Sizes that follow from files, a model's folder and the device: counted here by hand."""

import json
from typing import Any

import pytest

from alignjax.config import presets, to_mapping
from alignjax.errors import InputError
from alignjax.models.shape_alone import read_shape
from alignjax.workflow import sizing


@pytest.fixture(scope="module")
def model(tmp_path_factory, chain_model):
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    return chain_model(
        tmp_path_factory.mktemp("sizing") / "model", {"ask": "yes", "yes": "yes"}, chat_template=template
    )


@pytest.fixture
def values(model, tmp_path):
    """The preset's values with 100 pairs for the reward, and the same pairs and 100 others for safety."""

    def rows(places, longest):
        pairs = [
            {"prompt": f"ask {'ask ' * 8}{i}", "chosen": "yes " * (i % longest + 1), "rejected": "no"}
            for i in places
        ]
        return "".join(json.dumps(pair) + "\n" for pair in pairs)

    (tmp_path / "reward.jsonl").write_text(rows(range(100), 40))
    (tmp_path / "safety.jsonl").write_text(rows(range(200), 40))
    config: Any = presets.shared("pecan")
    presets.own(config, "prealign")
    config.model.path = str(model)
    for name in ("reward", "safety"):
        config.data.sources[name].path = str(tmp_path / f"{name}.jsonl")
    return config.to_dict()


def test_the_same_data_and_device_give_the_same_sizes(values, one_device):
    first, said = sizing.sized(values)
    again, _ = sizing.sized(values)
    assert first == again and f"model.max_length={first.model.max_length}" in said
    # Prompts of ten words and a BOS; responses of up to 40 and the end.
    assert first.model.max_prompt_length == 16 and first.model.max_length == 64
    assert first.sampling.max_new_tokens == 48
    assert 80 < first.sampling.num_prompts < 160  # three fifths of 200 prompts
    assert first.evaluation.num_prompts == 200
    assert first.align.batch_size * first.align.accumulate == 16 and first.align.epochs == 3
    assert first.model.dtype == "float32"


def test_sizes_that_are_given_are_kept(values, one_device):
    values["sampling"]["num_prompts"] = 7
    config, said = sizing.sized(values)
    assert config.sampling.num_prompts == 7 and not [
        one for one in said if one.startswith("sampling.num_prompts")
    ]


def test_where_nothing_is_open_nothing_is_read(values, one_device):
    config, said = sizing.sized(values)
    missing = to_mapping(config)
    missing["model"]["path"] = "nowhere"
    assert said and sizing.sized(missing)[1] == []


def test_mistakes_are_told_before_anything_is_read(values):
    values["beta"] = -1.0
    values["model"]["path"] = "nowhere"
    with pytest.raises(InputError, match=r"config\.beta"):
        sizing.sized(values)
    values["beta"] = 0.1
    with pytest.raises(InputError, match="nowhere"):
        sizing.sized(values)


def test_the_shape_of_a_folder(model):
    shape = read_shape(model)
    assert (shape.num_layers, shape.max_positions, shape.vocab_size) == (1, 512, 5)
