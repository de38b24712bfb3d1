"""The devices that a plan is made for: a TPU slice that is not here, or simulated ones in a GPU's place."""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from alignjax.aot.chips import GPUS, SLICES, TPUS, Chip, any_gpu
from alignjax.errors import InputError

_GPU = re.compile(r"(?P<name>gpu:(?P<gib>\d+(\.\d+)?)GiB|[a-z0-9]+(-\d+)?)(:(?P<count>\d+))?")


# What the TPUs' compiler would else look for on a cloud's machine, and complain of; which chips it compiles
# for, a topology's name says. Several plans may be made at once.
COMPILER_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What a topology's name means.

    Attributes:
      name: as given.
      chip: figures of one chip.
      count: chips.
      simulated: the compiler is that of the CPU: a GPU's own needs an attached one.
    """

    name: str
    chip: Chip
    count: int
    simulated: bool


def compile_only() -> None:
    """Makes this process one that compiles and uses no device; to be called before JAX looks for any."""
    jax.config.update("jax_platforms", "cpu")
    # A program for devices that are not there cannot be read back from a cache.
    jax.config.update("jax_enable_compilation_cache", False)
    os.environ |= COMPILER_ALONE


def parse(name: str) -> Target:
    """Reads a topology's name: `v5e:4x4`, `h100:8`, `gpu:80GiB:8`.

    Raises:
      InputError: an unknown name; the message lists those that are known.
    """
    kind, _, size = name.partition(":")
    if kind in TPUS and size in SLICES[kind]:
        sides = [int(side) for side in size.split("x")]
        count = 1
        for side in sides:
            count *= side
        return Target(name, TPUS[kind], count, simulated=False)
    if kind in TPUS:
        raise InputError(
            f"--topology={name}: {kind} has no slice {size or 'of no size'!r}; use "
            f"{', '.join(f'{kind}:{known}' for known in SLICES[kind])}."
        )
    match = _GPU.fullmatch(name)
    count = int(match["count"] or 1) if match is not None else 0
    if match is not None and count >= 1:
        if match["gib"] is not None and float(match["gib"]) > 0:
            return Target(name, any_gpu(float(match["gib"])), count, simulated=True)
        if match["name"] in GPUS:
            return Target(name, GPUS[match["name"]], count, simulated=True)
    slices = "; ".join(f"{kind}:{', '.join(sizes)}" for kind, sizes in SLICES.items())
    raise InputError(
        f"--topology={name}: no such topology; known are TPU slices {slices}; GPUs {', '.join(GPUS)}, or any "
        "by its memory as gpu:80GiB, with :COUNT for several."
    )


def devices(target: Target) -> Sequence[Any]:
    """Devices to compile for.

    Raises:
      InputError: libtpu is not installed, the compiler refuses the slice, or too few devices are simulated.
    """
    if target.simulated:
        found = jax.devices("cpu")
        if len(found) < target.count:
            raise InputError(
                f"--topology={target.name}: {len(found)} devices are simulated; set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={target.count}."
            )
        return found[: target.count]
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"--topology={target.name}: TPU programs are compiled by libtpu, which is missing; pip install "
            "libtpu (no TPU is needed)."
        )
    options: dict[str, Any] = {}
    if target.chip.name == "v4":  # a chip has two cores, which a program sees as one
        options["chip_config_name"] = "megacore"
    if target.count == 1:  # the default is a host with four chips
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=target.name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"--topology={target.name}: libtpu refuses it: {error}") from None
