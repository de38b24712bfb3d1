"""One program compiled ahead of time: the memory it needs, what it computes and moves, how long it takes."""

import re
from importlib import metadata
from typing import Any, NamedTuple

import jax

from alignjax.errors import InputError
from alignjax.planning import hlo
from alignjax.planning.chips import EFFICIENCY, GIB, Chip
from alignjax.planning.products import product_flops
from alignjax.planning.traffic import Traffic, traffic_of
from alignjax.planning.work import Program

# Two ways in which libtpu says what a program would need, arguments included.
_FULL = re.compile(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)(?: of|\) exceeds)", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Measured(NamedTuple):
    """What compiling says of a program; bytes are of one chip.

    Attributes:
      arguments: bytes of its arguments.
      temporaries: bytes of what it makes and drops, keys and values included, and of its code.
      results: bytes of results that take no argument's place.
      flops: of matrix products, on one chip.
      traffic: bytes moved; None where it was not compiled to the end.
      refused: the compiler found no place for it.
    """

    arguments: int
    temporaries: int
    results: int
    flops: float
    traffic: Traffic | None
    refused: bool

    @property
    def needed(self) -> int:
        """Bytes while it runs."""
        return self.arguments + self.temporaries + self.results


def measure(program: Program, devices: int) -> Measured:
    """Compiles a program for the devices that its arguments' shardings name.

    Args:
      program: of `planning.work`.
      devices: how many there are.

    Raises:
      InputError: the compiled program cannot be read.
      jax.errors.JaxRuntimeError: the compiler failed for another reason than memory.
    """
    traced = program.function.trace(*program.arguments)
    flops = product_flops(traced.jaxpr, program.loops) / devices
    arguments = sum(program.kinds.values())
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        found = _FULL.search(str(error))
        if found is None:
            raise
        used = round(float(found[1]) * _UNITS[found[2].upper()])
        return Measured(arguments, used - arguments, 0, flops, None, refused=True)
    memory = compiled.memory_analysis()
    if memory is None:
        raise RuntimeError("the backend does not say what memory a program needs.")
    own = memory.argument_size_in_bytes
    results = max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes)
    # The peak counts code too, and is less than the sum where results are written as temporaries go.
    temporaries = max(
        memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        memory.peak_memory_in_bytes - own - results,
    )
    module = hlo.parse(_text(compiled))
    traffic = traffic_of(module, devices=devices, trips=program.loops)
    return Measured(own, temporaries, results, flops, traffic, refused=False)


def _text(compiled: Any) -> str:
    """The compiled program as text; a compiler newer than the reader may write what that does not know."""
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError:
        wanted = next((one for one in metadata.requires("jax") or () if one.startswith("libtpu")), "libtpu")
        raise InputError(
            f"--topology: jaxlib {metadata.version('jaxlib')} cannot read what this libtpu compiled; install "
            f"the release that goes with it, pip install '{wanted.partition(';')[0].strip()}'."
        ) from None


class Estimate(NamedTuple):
    """How long one call takes if one bound binds.

    Attributes:
      seconds: by bound: compute, memory, network.
      bound: the one that takes longest.
    """

    seconds: dict[str, float]
    bound: str

    @property
    def longest(self) -> float:
        """Seconds a call."""
        return self.seconds[self.bound]


def estimate(measured: Measured, chip: Chip) -> Estimate | None:
    """Roofline estimate: each bound alone, at the share of the published figure that EFFICIENCY names.

        seconds = max(FLOPs / (peak e_c), bytes / (rate e_m), bytes sent / (link rate e_n))

    Returns:
      None where the chip's figures are unknown or the program was not compiled.
    """
    traffic = measured.traffic
    if traffic is None or chip.flops is None or chip.hbm_rate is None or chip.link_rate is None:
        return None
    seconds = {
        "compute": measured.flops / (chip.flops * EFFICIENCY["compute"]),
        "memory": traffic.memory / (chip.hbm_rate * EFFICIENCY["memory"]),
        "network": sum(traffic.sent.values()) / (chip.link_rate * EFFICIENCY["network"]),
    }
    return Estimate(seconds, max(seconds, key=lambda name: seconds[name]))


def gib(size: float) -> float:
    """Bytes in GiB."""
    return size / GIB
