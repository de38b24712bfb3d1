"""One program compiled ahead of time: the memory it needs, what it computes and moves, how long it takes."""

import re
from importlib import metadata
from typing import Any, NamedTuple

import jax

from alignjax.aot import hlo
from alignjax.aot.chips import EFFICIENCY, GIB, Chip
from alignjax.aot.products import product_flops
from alignjax.aot.program import Program
from alignjax.aot.traffic import Traffic, traffic_of
from alignjax.errors import InputError

# The two messages in which libtpu states the memory that a program would need, arguments included.
_FULL = re.compile(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)(?: of|\) exceeds)", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Measured(NamedTuple):
    """What the compiler reports about a program; bytes are per chip.

    Attributes:
      arguments: bytes of its arguments.
      temporaries: bytes of intermediate values, caches of keys and values included, and of its code.
      results: bytes of results that are not written over an argument.
      flops: of matrix products, on one chip.
      traffic: bytes moved; None where the compiler refused it.
      refused: whether the compiler refused it for want of memory.
    """

    arguments: int
    temporaries: int
    results: int
    flops: float
    traffic: Traffic | None
    refused: bool

    @property
    def needed(self) -> int:
        """Bytes that it needs while it runs."""
        return self.arguments + self.temporaries + self.results


def measure(program: Program, devices: int) -> Measured:
    """Compiles a program for the devices that the shardings of its arguments name.

    Args:
      program: a function and the shapes of its arguments.
      devices: number of these devices.

    Raises:
      InputError: libtpu is newer than jaxlib, which cannot read the compiled program.
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
        raise RuntimeError("the backend does not report the memory that a program needs.")
    own = memory.argument_size_in_bytes
    results = max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes)
    # The peak includes code. It is below the sum where results take the place of temporaries.
    temporaries = max(
        memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        memory.peak_memory_in_bytes - own - results,
    )
    module = hlo.parse(_text(compiled))
    traffic = traffic_of(module, devices=devices, trips=program.loops)
    return Measured(own, temporaries, results, flops, traffic, refused=False)


def _text(compiled: Any) -> str:
    """The compiled program as text; jaxlib cannot print what a much newer compiler wrote."""
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError:
        wanted = next((one for one in metadata.requires("jax") or () if one.startswith("libtpu")), "libtpu")
        raise InputError(
            f"--topology: jaxlib {metadata.version('jaxlib')} cannot read what this libtpu compiled; install "
            f"the release that goes with it, pip install '{wanted.partition(';')[0].strip()}'."
        ) from None


class Estimate(NamedTuple):
    """Roofline estimate of the time of one call.

    Attributes:
      seconds: time that each of compute, memory and network alone would take.
      bound: the one of them that takes longest.
    """

    seconds: dict[str, float]
    bound: str

    @property
    def longest(self) -> float:
        """Seconds per call."""
        return self.seconds[self.bound]


def estimate(measured: Measured, chip: Chip) -> Estimate | None:
    """Roofline estimate at the shares of the published figures that EFFICIENCY names.

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
