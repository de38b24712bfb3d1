"""Hours and memory of a run by arithmetic on shapes, good enough to say what is worth compiling.

    compute = passes 2 W tokens / chips,  memory = weights read at every pass or step of sampling,
    network = weights gathered over `fsdp` + hidden states summed over `tensor` + gradients summed over `data`

each at the rates of the chip; the longest of the three is what a call takes. W: entries of the matrices.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh

from alignjax.alignment.remat import Training, stored_bytes, working_bytes
from alignjax.aot.chips import EFFICIENCY, TPUS, Chip
from alignjax.aot.program import Program
from alignjax.config import LoraSettings
from alignjax.models import DecoderConfig
from alignjax.models.lora import num_layer_weights
from alignjax.planning.planner import Step
from alignjax.runtime.mesh import row_parts

# Forward, and backward to the activations; with all weights trained, backward to these too.
_TRAINED = 2.0
_RECOMPUTED = {"none": 0.0, "products": 0.0, "layers": 1.0}  # forward passes through a layer's products


class Reckoned(NamedTuple):
    """What arithmetic expects of a run.

    Attributes:
      hours: of all its programs.
      needed: bytes a chip of the program that needs most.
      standing: the same without what a train step keeps for its backward pass.
    """

    hours: float
    needed: float
    standing: float


def reckon(
    steps: Sequence[Step], decoder: DecoderConfig, lora: LoraSettings, mesh: Mesh, chip: Chip
) -> Reckoned:
    """Hours and memory of a run whose programs were noted with another `remat` than the decoder's.

    Args:
      steps: of the run; their shapes and counts are read.
      decoder: the reference's shape, with the `remat` that is asked about.
      lora: the adapters that are trained.
      mesh: the devices.
      chip: one of them; where its rates are unknown those of a v5e stand in, since only the order counts.
    """
    rates = TPUS["v5e"] if chip.flops is None else chip
    hours = sum(step.calls * _seconds(step.program, decoder, mesh, rates) for step in steps) / 3600
    standing = [_standing(step) for step in steps]
    kept = [_kept(step.program, decoder, lora, mesh) for step in steps]
    return Reckoned(hours, max(a + b for a, b in zip(standing, kept, strict=True)), max(standing))


def _seconds(program: Program, decoder: DecoderConfig, mesh: Mesh, rates: Chip) -> float:
    """Of one call."""
    assert rates.flops is not None and rates.hbm_rate is not None and rates.link_rate is not None
    weights = decoder.num_layers * num_layer_weights(decoder)
    trains = program.kinds.get("optimizer", 0) > 0
    passes = 1.0
    if trains:
        full = program.kinds["adapters"] == 0
        passes = _TRAINED + _RECOMPUTED[str(decoder.remat)] + full
    turns, cache = passes, 0
    if program.steps is not None:
        turns, cache = program.loops[0], program.cache
    read = turns * (sum(program.kinds.values()) + cache)
    seconds = {
        "compute": passes * 2 * weights * program.tokens / mesh.size / rates.flops,
        "memory": read / rates.hbm_rate,
        "network": _sent(program, decoder, mesh, turns, passes, trains=trains) / rates.link_rate,
    }
    return max(value / EFFICIENCY[bound] for bound, value in seconds.items())


def _sent(
    program: Program, decoder: DecoderConfig, mesh: Mesh, turns: float, passes: float, *, trains: bool
) -> float:
    """Bytes that a chip sends in one call."""
    data, fsdp, tensor = (mesh.shape[axis] for axis in ("data", "fsdp", "tensor"))
    gathered = turns * program.kinds.get("parameters", 0) * (fsdp - 1)
    tokens = program.tokens / row_parts(mesh)
    sums = 2 * decoder.num_layers * tokens * decoder.hidden_size * jnp.dtype(decoder.dtype).itemsize
    summed = passes * sums * 2 * (tensor - 1) / tensor
    trained = program.kinds.get("adapters", 0) or program.kinds.get("parameters", 0)
    gradients = trains * trained * 2 * (data - 1) / data
    return gathered + summed + gradients


def _standing(step: Step) -> float:
    """Bytes a chip of arguments, caches and what is held; with the sum of gradients where a step trains."""
    program = step.program
    trained = program.kinds.get("adapters", 0) or program.kinds.get("parameters", 0)
    sums = trained if program.kinds.get("optimizer", 0) else 0
    return sum(program.kinds.values()) + program.cache + sum(step.held.values()) + sums


def _kept(program: Program, decoder: DecoderConfig, lora: LoraSettings, mesh: Mesh) -> float:
    """Bytes a chip that a train step stores for its backward pass and needs in it; 0 of other programs."""
    if not program.kinds.get("optimizer", 0):
        return 0.0
    tensor, rows = mesh.shape["tensor"], -(-program.rows // row_parts(mesh))
    shares = mesh.shape["fsdp"] * tensor
    batch = Training(rows, program.tokens // program.rows, lora.rank, lora.targets, shares, tensor)
    return stored_bytes(decoder, batch, str(decoder.remat)) + working_bytes(decoder, batch)
