"""The search keeps the rows of an update, divides the devices, and says no where nothing can fit."""

import jax
import pytest

from alignjax.errors import InputError
from alignjax.planning import suggest, targets


@pytest.fixture
def find(make_config, decoder):
    """Searches for the train step of a run on a target."""

    def best(topology, **changes):
        target = targets.parse(topology)
        config = make_config(align={"batch_size": 2, "accumulate": 8}, lora={"dropout": 0.0}, **changes)
        return suggest.best(
            config, decoder, "model", target, jax.devices()[: target.count],
            say=lambda _: None, pairs=1000, mean_length=None, only=["policy"],
        )  # fmt: skip

    return best


def test_what_is_found(find, monkeypatch):
    monkeypatch.setattr(suggest, "_MOST", 2)
    plan = find("h100:4")
    config = plan.setup.config
    assert plan.fits and plan.setup.batching.mesh.size == 4 and plan.hours is not None
    # Two rows and eight micro-batches do not divide over four parts; four rows and four do.
    assert config.align.batch_size * config.align.accumulate == 16
    assert config.align.batch_size % (config.mesh.data * config.mesh.fsdp) == 0
    for override in plan.overrides:
        table, _, value = override.removeprefix("--config.").partition("=")
        found = config
        for name in table.split("."):
            found = getattr(found, name)
        assert str(found) == value


def test_what_can_never_fit(find):
    with pytest.raises(InputError, match="no mesh of 2 devices divides model and leaves room"):
        find("gpu:0.00001GiB:2")


def test_every_mesh_has_its_turn_and_equal_batches_are_tried_once(make_config, decoder):
    target = targets.parse("h100:4")
    config = make_config(align={"batch_size": 2, "accumulate": 2}, lora={"dropout": 0.0})
    found = suggest._in_turns(
        suggest._candidates(config, decoder, "model", target, jax.devices()[: target.count])
    )
    # The update has four rows: on data x fsdp = 4 they are one a part, however many are asked for.
    assert len({tuple(one.overrides) for one in found}) == len(found)
    sizes = [(one.config.mesh.data, one.config.mesh.fsdp, one.config.mesh.tensor) for one in found]
    # Two key/value heads: four parts do not divide them. Little sent first.
    meshes = [(4, 1, 1), (2, 2, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2)]
    assert sizes[: len(meshes)] == meshes and set(sizes[len(meshes) :]) <= set(meshes)


def test_where_memory_is_short_the_smallest_batch_is_tried_first(make_config, decoder, monkeypatch):
    target, config = targets.parse("h100:1"), make_config(align={"batch_size": 2, "accumulate": 8})
    first = {}
    for full in (0.0, 1.0):
        monkeypatch.setattr(suggest, "_FULL", full)
        found = suggest._candidates(config, decoder, "model", target, jax.devices()[:1])
        first[full] = suggest._in_turns(found)[0].config.align.batch_size
    assert first == {0.0: 1, 1.0: 4}


def test_meshes_are_all_factorisations():
    assert sorted(suggest._meshes(4)) == [(1, 1, 4), (1, 2, 2), (1, 4, 1), (2, 1, 2), (2, 2, 1), (4, 1, 1)]
