"""The devices that a plan is made for: a TPU slice that is not here, or simulated ones in a GPU's place."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class Lender(NamedTuple):
    """Who lends a slice for a session at a time.

    Attributes:
      slice: the TPU slice.
      hours: of one session, at most; a run that is stopped is resumed by the same command.
    """

    slice: str
    hours: float


# Notebooks that lend a TPU. A session of Kaggle's ends after 9 hours, one of Colab's after at most 12.
LENDERS = {
    "kaggle": Lender("v5e:2x4", 9.0),
    "colab-v5e": Lender("v5e:1x1", 12.0),
    "colab-v6e": Lender("v6e:1x1", 12.0),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What a topology's name means.

    Attributes:
      name: as given.
      chip: figures of one chip.
      count: chips.
      simulated: the compiler is that of the CPU: a GPU's own needs an attached one.
      slice: of a TPU, as its compiler calls it.
      session_hours: the longest session of one who lends it; None: it is not lent by the session.
    """

    name: str
    chip: Chip
    count: int
    simulated: bool
    slice: str = ""
    session_hours: float | None = None

    def sessions(self, hours: float) -> int | None:
        """Sessions that a run of so many hours takes; None where there are none."""
        return None if self.session_hours is None else math.ceil(hours / self.session_hours)


def compile_only() -> None:
    """Makes this process one that compiles and uses no device; to be called before JAX looks for any."""
    jax.config.update("jax_platforms", "cpu")
    # A program for devices that are not there cannot be read back from a cache.
    jax.config.update("jax_enable_compilation_cache", False)
    os.environ |= COMPILER_ALONE


def parse(name: str) -> Target:
    """Reads a topology's name: `v5e:4x4`, `kaggle`, `h100:8`, `gpu:80GiB:8`.

    Raises:
      InputError: an unknown name; the message lists those that are known.
    """
    if name in LENDERS:
        lender = LENDERS[name]
        return dataclasses.replace(parse(lender.slice), name=name, session_hours=lender.hours)
    kind, _, size = name.partition(":")
    if kind in TPUS and size in SLICES[kind]:
        sides = [int(side) for side in size.split("x")]
        count = 1
        for side in sides:
            count *= side
        return Target(name, TPUS[kind], count, simulated=False, slice=name)
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
        f"--topology={name}: no such topology; known are TPU slices {slices}; {', '.join(LENDERS)}; GPUs "
        f"{', '.join(GPUS)}, or any by its memory as gpu:80GiB, with :COUNT for several."
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
        return topologies.get_topology_desc(platform="tpu", topology_name=target.slice, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"--topology={target.name}: libtpu refuses it: {error}") from None
