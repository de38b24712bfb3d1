"""The search keeps the rows of an update, divides the devices, and says no where nothing can fit."""

import dataclasses

import jax
import pytest

from alignjax.errors import InputError
from alignjax.planning import show, suggest, targets
from alignjax.planning.run import Suggested


@pytest.fixture(scope="module")
def find(make_config, decoder):
    """Searches for the train step of a run on a target."""

    def best(topology, **changes):
        target = targets.parse(topology)
        config = make_config(align={"batch_size": 2, "accumulate": 8}, lora={"dropout": 0.0}, **changes)
        return suggest.best(
            config, decoder, "model", target, jax.devices()[: target.count],
            say=lambda _: None, pairs=1000, only=["policy"],
        )  # fmt: skip

    return best


@pytest.fixture(scope="module")
def plan(find):
    """What is found on two chips where one candidate of a kind is compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suggest, "_MOST", 1)
        patch.setattr(suggest, "_ROWS", (2,))
        return find("h100:2")


def test_what_is_found(plan):
    config, found = plan.setup.config, plan.suggested
    assert plan.fits and plan.setup.batching.mesh.size == 2 and plan.hours is not None
    # Rows of an update are kept, and a batch is divided over the parts of the rows.
    assert config.align.batch_size * config.align.accumulate == 16
    assert config.align.batch_size % (config.mesh.data * config.mesh.fsdp) == 0
    # There is room for every intermediate value, and 8 bits save nothing of a step that products bind.
    assert config.model.remat == "none" and config.model.weights == "float" and not found.changing
    for override in found.overrides:
        table, _, value = override.removeprefix("--config.").partition("=")
        found = config
        for name in table.split("."):
            found = getattr(found, name)
        assert str(found) == value


def test_what_is_said_of_results(plan):
    target = targets.parse("h100:2")
    text = show.text_of(plan, target)
    assert "The fastest that fits, by these estimates: --config.mesh.data=" in text
    assert "These leave results equal but for the rounding of sums; batch_size and accumulate keep" in text
    changing = ("--config.model.weights=int8",)
    said = Suggested((*changing, "--config.mesh.data=2"), changing, ("--config.mesh.data=2",), 2.5)
    text = show.text_of(dataclasses.replace(plan, suggested=said), target)
    assert "Of these, --config.model.weights=int8 change results a little, by rounding to 8 bits" in text
    assert "Without these: 2.50 hours with --config.mesh.data=2" in text
    alone = dataclasses.replace(plan, suggested=said._replace(equal=()))
    assert "Without these nothing that was tried fits." in show.text_of(alone, target)
    assert show.json_of(alone, target)["suggested"]["changing"] == changing


def test_another_result_has_to_save_a_tenth_of_the_hours(plan):
    faster, same = (dataclasses.replace(plan, lines=_faster(plan.lines, by)) for by in (0.85, 0.95))
    assert suggest._saves(faster, plan) and not suggest._saves(same, plan) and suggest._saves(same, None)
    assert suggest._fastest([plan, faster]) is faster and suggest._fastest([]) is None


def _faster(lines, by):
    (line,) = lines
    seconds = {bound: by * value for bound, value in line.timed.estimate.seconds.items()}
    return (line._replace(timed=line.timed._replace(estimate=line.timed.estimate._replace(seconds=seconds))),)


def test_what_can_never_fit(find, monkeypatch):
    monkeypatch.setattr(suggest, "_ROWS", (2,))
    with pytest.raises(InputError, match="no mesh of 2 devices divides model and leaves room"):
        find("gpu:0.00001GiB:2")


def _search(make_config, decoder, topology):
    target = targets.parse(topology)
    config = make_config(align={"batch_size": 2, "accumulate": 8}, lora={"dropout": 0.0})
    devices = jax.devices()[: target.count]
    return suggest._Search(config, decoder, "model", target, devices, 1000, None, ["policy"])


def test_candidates_are_every_mesh_that_divides_with_every_recomputation(make_config, decoder):
    search = _search(make_config, decoder, "h100:4")
    found = list(suggest._candidates(search, ()))
    assert len({one.overrides for one in found}) == len(found)
    # Two key/value heads: four parts do not divide them.
    meshes = {(one.config.mesh.data, one.config.mesh.fsdp, one.config.mesh.tensor) for one in found}
    assert meshes == {(4, 1, 1), (2, 2, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2)}
    assert {one.config.model.remat for one in found} == {"none", "products", "layers"}
    assert all(one.config.align.batch_size * one.config.align.accumulate == 16 for one in found)
    # The more is computed again, the longer it takes and the less it needs.
    same = [one for one in found if one.config.mesh.data == 4 and one.config.align.batch_size == 4]
    hours, needed = ({one.config.model.remat: getattr(one, f) for one in same} for f in ("hours", "needed"))
    assert hours["none"] == hours["products"] < hours["layers"]
    assert needed["none"] > needed["products"] > needed["layers"]


def test_8_bits_are_offered_where_they_are_possible_and_where_memory_is_short_the_least_comes_first(
    make_config, decoder
):
    search = _search(make_config, decoder, "h100:1")
    assert suggest._ordered(search, ())[0].config.model.remat == "none"
    (changing,) = suggest._changes(search.config)
    assert changing == ("--config.model.weights=int8", "--config.sampling.cache=int8")
    assert list(suggest._changes(make_config(lora={"rank": 0}))) == [changing[1:]]  # trained weights are not
    rounded = suggest._ordered(search, changing)
    assert all(one.config.model.weights == "int8" and changing[0] in one.overrides for one in rounded)
    assert list(suggest._changes(rounded[0].config)) == []
    least = min(one.needed for one in rounded)
    small = search.target.chip._replace(usable=float(least))
    first = suggest._ordered(search._replace(target=dataclasses.replace(search.target, chip=small)), changing)
    assert first[0].needed == least and first[0].config.model.remat == "layers"
    assert first[0].config.align.batch_size == 1


def test_long_rows_take_the_kernel_of_tpus(make_config, decoder):
    target, gpu = (targets.parse(name) for name in ("v5e:1x1", "h100"))
    long = make_config(model={"max_length": 1024})
    assert suggest._kernel(long, decoder, target) == "splash"
    assert suggest._kernel(make_config(model={"max_length": 1008}), decoder, target) == "xla"
    assert suggest._kernel(long, dataclasses.replace(decoder, sliding_window=2047), target) == "xla"
    assert suggest._kernel(long, decoder, gpu) == "xla"


def test_meshes_are_all_factorisations():
    assert sorted(suggest._meshes(4)) == [(1, 1, 4), (1, 2, 2), (1, 4, 1), (2, 1, 2), (2, 2, 1), (4, 1, 1)]
