"""The mesh of a run: made of the devices it is given, refused by field before anything is trained."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import pytest

import alignjax
from alignjax.config import MeshSettings, from_mapping
from alignjax.errors import InputError
from alignjax.runtime.metrics import MetricsWriter
from alignjax.stages import Stages
from alignjax.workflow import training
from alignjax.workflow.context import Context


@pytest.fixture
def run_on(tmp_path):
    """run_on(4, data=2, fsdp=2) is a run of the preset tiny on the first four devices."""
    path = Path(alignjax.__file__).parents[1] / "configs" / "pecan.py"
    spec = importlib.util.spec_from_file_location("pecan_config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = from_mapping(module.get_config("tiny").to_dict())

    def make(count: int, **sizes: int) -> Context:
        on_mesh = dataclasses.replace(config, mesh=MeshSettings(**sizes))
        writer = MetricsWriter(tmp_path, active=False)
        return Context(on_mesh, tmp_path, Stages(tmp_path), writer, devices=jax.devices()[:count])

    return make


def test_the_mesh_takes_the_devices_it_is_given(run_on):
    context = run_on(8, fsdp=2, tensor=2)
    assert tuple(context.mesh.shape.values()) == (2, 2, 2) and context.mesh is context.mesh
    training.check_mesh(context)
    assert tuple(run_on(1).mesh.shape.values()) == (1, 1, 1)


@pytest.mark.parametrize(
    ("count", "sizes", "message"),
    [
        (8, {"fsdp": 3}, r"^config\.mesh: data=-1 x fsdp=3 x tensor=1 does not make 8 devices"),
        (8, {"data": 1, "tensor": 8}, r"^config\.mesh\.tensor: is 8, .* the 4 attention heads of the ref"),
        (5, {}, r"^config\.\w*\.?\w*batch_size: is \d+, must be a multiple of 5, the parts"),
    ],
)
def test_what_does_not_fit_is_refused(run_on, count, sizes, message):
    with pytest.raises(InputError, match=message):
        training.check_mesh(run_on(count, **sizes))


def test_a_kernel_for_other_devices_is_refused(run_on):
    context = run_on(1)
    model = dataclasses.replace(context.config.model, attention="cudnn")
    context = dataclasses.replace(context, config=dataclasses.replace(context.config, model=model))
    with pytest.raises(
        InputError, match=r"^config\.model\.attention: cudnn .*, but it runs on cpu and .*dtype is float32"
    ):
        training.check_mesh(context)
