"""Programs compiled for TPU slices that are not here."""

import dataclasses
import importlib.util
from typing import NamedTuple

import pytest

from alignjax.aot import shapes
from alignjax.aot.chips import Chip
from alignjax.aot.measure import estimate, measure
from alignjax.data.tokenize import TokenizedPair
from alignjax.models import Model
from alignjax.planning import targets
from alignjax.planning.run import setup_of
from alignjax.workflow import programs
from alignjax.workflow.setup import Setup

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="TPU programs need libtpu: pip install libtpu"
)


class Case(NamedTuple):
    """A run on a slice."""

    setup: Setup
    model: Model
    pairs: list[TokenizedPair]
    chip: Chip


@pytest.fixture(autouse=True)
def _no_cloud(monkeypatch):
    for name, value in targets.COMPILER_ALONE.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def on(make_config, decoder):
    """What the stages of a run are built from on a slice, its model and longest pairs, and the chip."""

    def make(topology, decoder=decoder, **changes):
        target = targets.parse(topology)
        found = targets.devices(target)
        assert len(found) == target.count
        config = make_config(lora={"dropout": 0.0}, **changes)
        setup = setup_of(config, decoder, "model", target.chip, found, pairs=100)
        model = shapes.model(decoder, setup.batching.mesh, where="model")
        pairs = [programs.longest_pair(config.model.max_length)] * 100
        return Case(setup, model, pairs, target.chip)

    return make


def dpo_step(case, count=100):
    """The final alignment's on `count` pairs."""
    setup = case.setup
    lora = programs.new_adapters(case.model.config, setup.config.lora, setup.batching.mesh)
    pairs = case.pairs[:1] * count
    return programs.dpo_step(case.model, lora, setup.config.align, pairs, setup.batching, beta=0.1)


def test_scoring_on_one_chip(on):
    case = on("v5e:1x1")
    program = programs.pair_logps(case.model, None, case.pairs, case.setup.batching)
    found = measure(program, 1)
    # The same products as on a CPU, see tests/workflow/test_programs.py; the weights and the batch are the
    # arguments. A row of 1 + 63 + 63 tokens is rounded up to 128.
    tokens = positions = 128
    layer = 2 * tokens * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 4 * tokens**2 * 32
    assert found.flops == pytest.approx(8 * (2 * layer + 2 * positions * 32 * 96), rel=0.01)
    # A chip keeps arrays in tiles of at least 8 x 128 numbers: small ones take more than they hold.
    assert sum(program.kinds.values()) <= found.arguments < 16 * 2**20
    assert found.traffic is not None and found.traffic.unknown_loops == 0 and not found.traffic.sent
    seconds = estimate(found, case.chip)
    assert seconds is not None and seconds.longest == max(seconds.seconds.values()) > 0


def test_gradients_are_summed_over_four_chips(on):
    program = dpo_step(on("v5e:2x2", align={"batch_size": 8}))
    found = measure(program, 4)
    assert found.traffic is not None
    # Adapters in float32, by a ring: each chip sends 2 x 3/4 of them. Scalars add a little.
    assert sum(found.traffic.sent.values()) == pytest.approx(1.5 * program.kinds["adapters"], rel=0.1)


def test_the_tpus_own_attention_holds_no_scores(on, decoder):
    # Rows of 1,023 tokens: 4 of 8 pairs on a chip with 4 heads of 1,023^2 scores in float32 are 67 MB.
    needed, flops = {}, {}
    for kernel in ("xla", "splash"):
        long = dataclasses.replace(decoder, max_positions=512, attention=kernel)
        model, mesh = {"attention": kernel, "max_length": 512}, {"data": 2, "tensor": 2}
        found = measure(dpo_step(on("v5e:2x2", long, model=model, mesh=mesh, align={"batch_size": 8})), 4)
        needed[kernel], flops[kernel] = found.temporaries, found.flops
    scores = 4 * 4 * 1023**2 * 4  # on one chip, all at once
    assert needed["splash"] < needed["xla"] < 0.6 * scores  # the compiler's own holds a part at a time
    assert flops["splash"] > 0.9 * flops["xla"]


@pytest.mark.slow
def test_collectives_of_fixed_work_a_chip_grow_by_less_than_a_tenth(on):
    sent = {}
    for topology, chips in (("v5e:4x4", 16), ("v5e:16x16", 256)):
        case = on(topology, align={"batch_size": chips}, prealign={"batch_size": chips}, ref_batch_size=chips)
        found = measure(dpo_step(case, 10 * chips), chips)
        assert found.traffic is not None
        sent[chips] = sum(found.traffic.sent.values())
    assert 0 < sent[256] < 1.1 * sent[16]


def test_what_is_too_large_is_told_and_not_raised(on, decoder):
    # An embedding and a head of 2^26 x 32 float32 each: 16 GiB where 15.75 are.
    case = on("v5e:1x1", dataclasses.replace(decoder, vocab_size=2**26))
    found = measure(programs.pair_logps(case.model, None, case.pairs, case.setup.batching), 1)
    assert found.refused and found.needed > case.chip.usable and found.traffic is None
