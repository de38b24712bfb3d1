"""What a run is built from: devices that fit, settings that determine a value, and what a path means."""

import dataclasses

import jax
import pytest

from alignjax.config import Config, MeshSettings, from_mapping, presets
from alignjax.data.worlds import world_for
from alignjax.errors import InputError
from alignjax.models import config_from_hf
from alignjax.runtime.log import Log
from alignjax.stages.fingerprints import file_digest
from alignjax.workflow.groundwork import check_mesh
from alignjax.workflow.setup import Setup, Shape, content, make_setup, part, trainer_of

QUIET = Log(lambda line: None)


@pytest.fixture(scope="module")
def config() -> Config:
    values = presets.shared("pecan")
    presets.assistant(values)
    return from_mapping(values.to_dict())


@pytest.fixture
def on(config):
    """on(4, data=2, fsdp=2) is a run of the world `assistant` on the first four devices."""

    def make(count: int, **sizes: int) -> Setup:
        changed = dataclasses.replace(config, mesh=MeshSettings(**sizes))
        return make_setup(changed, devices=jax.devices()[:count], log=QUIET)

    return make


def test_the_mesh_takes_the_devices_it_is_given(on):
    setup = on(8, fsdp=2, tensor=2)
    assert tuple(setup.batching.mesh.shape.values()) == (2, 2, 2)
    check_mesh(setup, world_for("assistant"))
    assert tuple(on(1).batching.mesh.shape.values()) == (1, 1, 1)
    assert list(on(2).batching.mesh.devices.flat) == jax.devices()[:2]


@pytest.mark.parametrize(
    ("count", "sizes", "message"),
    [
        (8, {"fsdp": 3}, r"^config\.mesh: data=-1 x fsdp=3 x tensor=1 does not make 8 devices"),
        (8, {"data": 1, "tensor": 8}, r"^config\.mesh\.tensor: is 8, .* the 4 attention heads of the ref"),
        (5, {}, r"^config\.\w*\.?\w*batch_size: is \d+, must be a multiple of 5, the parts"),
    ],
)
def test_devices_that_do_not_fit_are_refused(on, count, sizes, message):
    with pytest.raises(InputError, match=message):
        check_mesh(on(count, **sizes), world_for("assistant"))


def test_a_kernel_for_other_devices_is_refused(config):
    model = dataclasses.replace(config.model, attention="cudnn")
    setup = make_setup(dataclasses.replace(config, model=model), devices=jax.devices()[:1], log=QUIET)
    message = r"^config\.model\.attention: cudnn .*, but it runs on cpu and .*dtype is float32"
    with pytest.raises(InputError, match=message):
        check_mesh(setup, world_for("assistant"))


def test_what_is_shared_is_of_the_configuration(config, tmp_path):
    config = dataclasses.replace(config, seed=5, ref_batch_size=16, resident_models="one")
    setup = make_setup(config, devices=jax.devices()[:1], log=QUIET, cache=tmp_path, memory=123)
    assert setup.seeds.root == 5 and setup.models.one
    assert (setup.batching.rows, setup.batching.num_buckets, setup.batching.memory) == (16, 1, 123)
    assert setup.world is not None and setup.world.name == "assistant" and not setup.population
    trainer = trainer_of(setup)
    assert trainer.logps is setup.logps and trainer.lora == config.lora and trainer.log is QUIET


def test_what_is_computed_again_is_chosen_once_and_said(config):
    automatic = dataclasses.replace(config, model=dataclasses.replace(config.model, remat="auto"))
    for memory, remat in ((None, "none"), (2**20, "layers")):  # of a CPU; of a device that is far too small
        said = []
        setup = make_setup(automatic, devices=jax.devices()[:1], log=Log(said.append), memory=memory)
        assert setup.config.model.remat == remat and any(remat in line for line in said)
    decoder = config_from_hf(dict(world_for("assistant").decoder_fields))
    shape = Shape(decoder, "model", 10, {"safety": decoder})
    setup = make_setup(automatic, devices=jax.devices()[:1], log=QUIET, shape=shape, memory=2**33)
    assert setup.shape is not None and setup.config.model.remat == "none"
    assert setup.shape.decoder.remat == setup.shape.scored_by["safety"].remat == "none"


def test_a_world_that_lists_its_prompts_is_a_population():
    values = presets.shared("pecan")
    presets.enumerable(values)
    setup = make_setup(from_mapping(values.to_dict()), devices=jax.devices()[:1], log=QUIET)
    assert setup.population and setup.world is not None and setup.world.enumeration is not None


def test_settings_of_a_stage_are_those_that_determine_its_value(config):
    def of(config, *fields):
        return part(make_setup(config, devices=jax.devices()[:1], log=QUIET), *fields)

    before = of(config, "align", "beta")
    assert set(before) == {"seed", "align", "beta"} and before["beta"] == config.beta

    def changed(**fields):
        return dataclasses.replace(config, align=dataclasses.replace(config.align, **fields))

    for fields in ({"log_every": 7}, {"checkpoint_every": 7}):
        assert of(changed(**fields), "align", "beta") == before
    for fields in ({"learning_rate": 0.5}, {"batch_size": 32}, {"patience": 3}, {"evals": 3}):
        assert of(changed(**fields), "align", "beta") != before
    assert of(dataclasses.replace(config, seed=1), "align", "beta") != before
    # Other fields are another stage's.
    assert of(dataclasses.replace(config, bootstrap=7), "align", "beta") == before
    model = dataclasses.replace(config.model, remat=True)
    assert of(dataclasses.replace(config, model=model), "model") == of(config, "model")
    model = dataclasses.replace(config.model, dtype="bfloat16")
    assert of(dataclasses.replace(config, model=model), "model") != of(config, "model")


def test_a_path_means_what_lies_there(on, tmp_path):
    setup, a, b = on(1), tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("1")
    assert content(setup, str(a)) == content(setup, str(b)) == file_digest(a)
    b.write_text("2")
    assert content(setup, str(a)) != content(setup, str(b))
    assert content(setup, "tfds:name:split") == "tfds:name:split"
    assert content(setup, None) is None and content(setup, "") == ""


def test_a_plan_reads_no_files(on, tmp_path):
    (tmp_path / "a").write_text("1")
    decoder = config_from_hf(dict(world_for("assistant").decoder_fields))
    plan = dataclasses.replace(on(1), shape=Shape(decoder, "a model", 100, {}))
    assert content(plan, str(tmp_path / "a")) == str(tmp_path / "a")
