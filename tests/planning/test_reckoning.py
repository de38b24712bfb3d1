"""Hours and memory by arithmetic, against counts on paper and what the compiler says of 7B."""

import dataclasses

import jax
import pytest

from alignjax.aot.chips import GIB, TPUS, any_gpu
from alignjax.aot.program import Program
from alignjax.config import LoraSettings
from alignjax.planning.architectures import SHAPES
from alignjax.planning.planner import Step
from alignjax.planning.reckoning import reckon
from alignjax.runtime.mesh import make_mesh

LLAMA = dataclasses.replace(SHAPES["llama-7b"], dtype="bfloat16", remat="layers")
WEIGHTS = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
# What the compiler for one v5e chip says of bfloat16 weights and of adapters of rank 8.
KINDS = {"parameters": round(12.55 * GIB), "adapters": round(0.07 * GIB)}


@pytest.fixture
def hours():
    """What is reckoned of one call of a program on a mesh of these sizes."""

    def of(program, decoder=LLAMA, chip=TPUS["v5e"], **sizes):
        count = 1
        for size in sizes.values():
            count *= size
        mesh = make_mesh(**{"data": 1, **sizes}, devices=jax.devices()[:count])
        return reckon([Step("policy", "it", program, 1, {"held": 5})], decoder, LoraSettings(), mesh, chip)

    return of


def test_a_train_step_is_bound_by_its_products(hours):
    step = Program(None, (), KINDS | {"optimizer": round(0.22 * GIB)}, rows=2, tokens=2048)
    found = hours(step)
    # Forward, again, and backward to the activations; 0.812 s were compiled, attention and adapters included.
    assert found.hours * 3600 == pytest.approx(3 * 2 * WEIGHTS * 2048 / (197e12 * 0.5))
    assert found.hours * 3600 == pytest.approx(0.812, rel=0.01)
    assert hours(step, dataclasses.replace(LLAMA, remat="none")).hours == pytest.approx(found.hours * 2 / 3)
    # Standing: arguments, a sum of gradients and what is held. Compiled: 14.82 GiB with all temporaries.
    assert found.standing == pytest.approx((12.55 + 0.07 + 0.22 + 0.07) * GIB + 5)
    assert found.needed / GIB == pytest.approx(14.82, abs=0.5)
    full = step._replace(kinds={**step.kinds, "adapters": 0})
    assert hours(full).hours == pytest.approx(found.hours * 4 / 3)
    # Where only the memory is known, the rates of a v5e stand in.
    assert hours(step, chip=any_gpu(16)).hours == found.hours


def test_a_sampler_is_bound_by_reading_its_weights_and_caches(hours):
    drawn = Program(None, (), KINDS, 16, 4096, cache=int(2.12 * GIB), loops=(256.0, 1.0), steps=lambda _: 1.0)
    found = hours(drawn)
    assert found.hours * 3600 == pytest.approx(256 * 14.74 * GIB / (819e9 * 0.8), rel=1e-3)
    assert found.standing == found.needed


def test_what_meshes_send(hours):
    # Eight parts of the weights: a chip gathers the seven others at every pass at half the rate of the links.
    kinds = {"parameters": round(1.6 * GIB), "adapters": round(0.07 * GIB), "optimizer": round(0.22 * GIB)}
    step = Program(None, (), kinds, rows=8, tokens=8)
    assert hours(step, fsdp=8).hours * 3600 == pytest.approx(3 * 7 * 1.6 * GIB / (200e9 * 0.5))
    # Copies of the weights send the adapters' gradients alone, there and back but for the own part.
    copies = hours(step, LLAMA, TPUS["v5e"]._replace(link_rate=1e6), data=8)
    assert copies.hours * 3600 == pytest.approx(0.07 * GIB * 2 * 7 / 8 / (1e6 * 0.5))
    # Parts of the heads sum hidden states after attention and after the feed-forward, in every pass.
    parts = hours(step, LLAMA, TPUS["v5e"]._replace(link_rate=1e6), tensor=8)
    assert parts.hours * 3600 == pytest.approx(3 * 2 * 32 * 8 * 4096 * 2 * 2 * 7 / 8 / (1e6 * 0.5))
