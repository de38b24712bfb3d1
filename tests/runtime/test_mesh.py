"""Mesh sizes, the table of logical axes, batches on devices, messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from alignjax.errors import InputError
from alignjax.models import DecoderConfig, init_params, logical_axes, lora_axes
from alignjax.runtime import mesh as meshes


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [((-1, 1, 1), (8, 1, 1)), ((-1, 2, 2), (2, 2, 2)), ((1, -1, 2), (1, 4, 2)), ((2, 4, 1), (2, 4, 1))],
)
def test_sizes(asked, sizes):
    mesh = meshes.make_mesh(*asked)
    assert tuple(mesh.shape.values()) == sizes and mesh.axis_names == ("data", "fsdp", "tensor")
    assert all(kind == AxisType.Auto for kind in mesh.axis_types)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((-1, 3, 1), r"data=-1 x fsdp=3 x tensor=1 does not make 8 devices"),
        ((2, 2, 1), r"data=2 x fsdp=2 x tensor=1 does not make 8 devices; the product must be 8"),
        ((-1, -1, 1), r"at most one of them -1"),
        ((0, 1, 1), r"data=0, fsdp=1, tensor=1 cannot be used; give sizes >= 1"),
    ],
)
def test_sizes_refused(asked, message):
    with pytest.raises(InputError, match=message):
        meshes.make_mesh(*asked)


def test_specs_from_the_table():
    mesh = meshes.make_mesh(1, 4, 2)
    axes = {
        "w": ("layers", "embed", "mlp"),
        "square": ("embed", "embed"),
        "scale": ("embed",),
        "free": (None,),
    }
    specs = jax.tree.map(lambda s: s.spec, meshes.tree_shardings(axes, mesh))
    assert specs == {
        "w": PartitionSpec(None, "fsdp", "tensor"),
        "square": PartitionSpec("fsdp"),
        "scale": PartitionSpec("fsdp"),
        "free": PartitionSpec(),
    }
    assert meshes.batch_sharding(mesh).spec == PartitionSpec(("data", "fsdp"))


def test_every_name_of_the_models_is_in_the_table():
    config = DecoderConfig(
        architecture="llama",
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=4,
    )
    mesh = meshes.make_mesh(1, 4, 2)
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    shardings = meshes.tree_shardings(logical_axes(config), mesh, like=params)
    assert jax.tree.structure(shardings) == jax.tree.structure(params)
    assert shardings["layers"]["q"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    meshes.tree_shardings(lora_axes(), mesh)


def test_messages_name_the_parameter():
    mesh = meshes.make_mesh(1, 4, 2)
    with pytest.raises(
        InputError, match=r"\['a'\]\['b'\] has a dimension named 'colour', .* use one of batch, vocab"
    ):
        meshes.tree_shardings({"a": {"b": ("colour",)}}, mesh)
    with pytest.raises(InputError, match=r"dimension 1 of parameter \['w'\] has size 6, .* over fsdp=4"):
        meshes.tree_shardings({"w": ("mlp", "embed")}, mesh, like={"w": jnp.zeros((4, 6))})


@pytest.mark.parametrize("devices", [1, 8])
def test_shard_batch(devices):
    mesh = meshes.make_mesh(-1, 1, 1, devices=jax.devices()[:devices])
    batch = {"x": np.arange(48).reshape(16, 3), "y": np.ones(16, np.float32)}
    placed = meshes.shard_batch(batch, mesh)
    jax.tree.map(np.testing.assert_array_equal, placed, batch)
    assert len(placed["x"].sharding.device_set) == devices
    assert placed["x"].addressable_shards[0].data.shape == (16 // devices, 3)


def test_rows_are_filled_up_to_what_the_mesh_divides():
    mesh = meshes.make_mesh(2, 2, 2)
    assert meshes.row_parts(mesh) == 4 and meshes.row_parts(None) == 1
    assert [meshes.batch_rows(16, count, mesh) for count in (1, 4, 5, 16, 99)] == [4, 4, 8, 16, 16]
    assert [meshes.batch_rows(16, count, None) for count in (1, 5, 99)] == [1, 5, 16]
    batch = {"x": np.arange(8)}
    assert meshes.placer(None)(batch) is batch
    assert len(meshes.placer(mesh)(batch)["x"].sharding.device_set) == 8


def test_an_array_is_made_of_its_parts():
    mesh, whole, made = meshes.make_mesh(2, 2, 2), np.arange(24).reshape(4, 6), []
    sharding = meshes.tree_shardings(("embed", "mlp"), mesh)

    def part(index):
        made.append(index)
        return whole[index]

    array = meshes.array_of_parts(whole.shape, sharding, part)
    np.testing.assert_array_equal(array, whole)
    assert array.sharding == sharding and len(made) == 4  # two copies of each along data
    replicated = meshes.array_of_parts((), meshes.replicated(mesh), lambda index: np.array(3.0)[index])
    assert replicated == 3 and replicated.is_fully_replicated


def test_shard_batch_refuses_rows_that_do_not_divide():
    mesh = meshes.make_mesh(4, 2, 1)
    with pytest.raises(
        InputError, match=r"12 rows does not divide over 8 devices \(data=4 x fsdp=2\); .* multiple of 8"
    ):
        meshes.shard_batch({"x": np.zeros((12, 2))}, mesh)
