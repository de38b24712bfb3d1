"""Weights on a mesh: read into their parts, equal to those of one device; meshes that do not divide."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Lora,
    Model,
    decoder_shardings,
    init_lora,
    init_params,
    init_score_model,
    load_pretrained,
    load_score_model,
    place_lora,
    save_pretrained,
    save_score_model,
)
from alignjax.models.weights import assemble, slots
from alignjax.runtime.mesh import make_mesh

CONFIG = DecoderConfig("qwen3", 11, 16, 32, 2, 4, 2, 8, qk_norm="head", eos_ids=(2, 9))


@pytest.fixture(scope="module")
def model():
    return Model(init_params(jax.random.key(0), CONFIG), CONFIG)


def test_a_folder_is_read_into_its_parts(model, tmp_path):
    mesh = make_mesh(2, 2, 2)
    save_pretrained(model, tmp_path / "model")
    found = load_pretrained(tmp_path / "model", mesh=mesh).params
    jax.tree.map(np.testing.assert_array_equal, found, model.params)
    q = found["layers"]["q"]["kernel"]
    assert q.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    assert q.addressable_shards[0].data.shape == (2, 8, 16)
    # 11 tokens do not divide over tensor=2: the vocabulary stays whole.
    assert found["embedding"].sharding.spec == PartitionSpec(None, "fsdp")
    assert all(leaf.sharding.mesh == mesh for leaf in jax.tree.leaves(found))


def test_a_score_model_is_read_into_its_parts(model, tmp_path):
    scored = init_score_model(jax.random.key(1), model, kind="cost")
    save_score_model(scored, tmp_path / "cost")
    found = load_score_model(tmp_path / "cost", mesh=make_mesh(1, 4, 2))
    jax.tree.map(np.testing.assert_array_equal, found.params, scored.params)
    assert found.params["head"]["kernel"].sharding.spec == PartitionSpec("fsdp")
    assert found.params["decoder"]["layers"]["o"]["kernel"].sharding.spec == PartitionSpec(
        None, "tensor", "fsdp"
    )


def test_a_part_is_read_once_however_many_devices_hold_it():
    """data=4 copies two parts along fsdp: each tensor is read twice and not eight times."""
    tensors = {slot.names[0]: np.zeros(slot.shape, np.float32) for slot in slots(CONFIG)[:2]}
    reads = []

    def read(name):
        reads.append(name)
        return tensors[name]

    shardings = decoder_shardings(CONFIG, make_mesh(4, 2, 1), where="model")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assemble(
        slots(CONFIG)[:2],
        shapes,
        read,
        dtype="float32",
        ignore=lambda _: False,
        where="file",
        shardings=shardings,
    )
    assert sorted(reads) == sorted([*tensors, *tensors])


def test_adapters_lie_beside_their_projections():
    lora = init_lora(jax.random.key(0), CONFIG, rank=2, alpha=4.0, targets=("q", "down"))
    placed = place_lora(lora, make_mesh(2, 2, 2))
    assert isinstance(placed, Lora) and placed.scale == lora.scale
    jax.tree.map(np.testing.assert_array_equal, placed.params, lora.params)
    specs = jax.tree.map(lambda leaf: leaf.sharding.spec, placed.params)["layers"]
    assert specs["q"] == {"a": PartitionSpec(None, "fsdp"), "b": PartitionSpec(None, None, "tensor")}
    assert specs["down"] == {"a": PartitionSpec(None, "tensor"), "b": PartitionSpec(None, None, "fsdp")}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((1, 1, 8), r"config\.mesh\.tensor: is 8, .* divide the 4 attention heads of here; .* divisor of 4"),
        ((2, 1, 4), r"config\.mesh\.tensor: is 4, .* divide the 2 key and value heads of here"),
    ],
)
def test_heads_that_do_not_divide_are_refused(sizes, message):
    with pytest.raises(InputError, match=message):
        decoder_shardings(CONFIG, make_mesh(*sizes), where="here")


def test_a_folder_that_does_not_divide_is_refused_before_its_weights_are_read(model, tmp_path):
    save_pretrained(model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"config\.mesh\.tensor: is 4, .* heads of .*model; choose"):
        load_pretrained(tmp_path / "model", mesh=make_mesh(2, 1, 4))
