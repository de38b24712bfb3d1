"""Published figures of accelerators: memory, and the rates that a roofline estimate uses."""

from typing import NamedTuple

GIB = 2**30

# Share of each published figure that a whole program is assumed to reach. These are assumptions, not
# measurements, and are printed with every estimate.
EFFICIENCY = {"compute": 0.5, "memory": 0.8, "network": 0.5}
# Share of a GPU's memory that a process is assumed to use; XLA_PYTHON_CLIENT_MEM_FRACTION sets it.
GPU_SHARE = 0.9


class Chip(NamedTuple):
    """One accelerator.

    Attributes:
      name: as in `--topology`.
      flops: peak of bfloat16 matrix products, FLOP/s (T4: float16); None: unknown, so no times.
      hbm_rate: bytes/s of its memory; None: unknown.
      memory: bytes of its memory, as published.
      usable: bytes that a program, and whatever the process holds beside it, may take.
      link_rate: bytes/s sent to other chips over all links together, in one direction; None: unknown.
      source: where the figures are from.
    """

    name: str
    flops: float | None
    hbm_rate: float | None
    memory: float
    usable: float
    link_rate: float | None
    source: str


def _tpu(
    name: str, tflops: float, rate: float, memory: float, usable: float, links: float, page: str
) -> Chip:
    source = f"Google Cloud TPU documentation, page of {page}; usable memory as libtpu's compiler states it"
    return Chip(name, tflops * 1e12, rate * 1e9, memory * GIB, usable * GIB, links * 1e9, source)


def _gpu(name: str, tflops: float, rate: float, memory: float, links: float, sheet: str) -> Chip:
    source = f"NVIDIA's data sheet of {sheet}, dense products; usable memory {GPU_SHARE:.0%} by assumption"
    return Chip(name, tflops * 1e12, rate * 1e9, memory * GIB, GPU_SHARE * memory * GIB, links * 1e9, source)


# Links: the documentation gives Gbit/s one way (v5e 1,600, v5p 4,800, v6e 3,200, v4 2,400), here in GB/s.
TPUS = {
    "v4": _tpu("v4", 275, 1200, 32, 30.75, 300, "v4"),
    "v5e": _tpu("v5e", 197, 819, 16, 15.75, 200, "v5e"),
    "v5p": _tpu("v5p", 459, 2765, 95.73, 95.73, 600, "v5p"),
    "v6e": _tpu("v6e", 918, 1638, 32, 31.24, 400, "v6e"),
}
# Links: NVLink where there is one, else PCIe; one direction, half of the published total.
GPUS = {
    "a100-40": _gpu("a100-40", 312, 1555, 40, 300, "the A100 (SXM, 40 GB)"),
    "a100-80": _gpu("a100-80", 312, 2039, 80, 300, "the A100 (SXM, 80 GB)"),
    "h100": _gpu("h100", 989, 3350, 80, 450, "the H100 (SXM)"),
    "h200": _gpu("h200", 989, 4800, 141, 450, "the H200 (SXM)"),
    "l4": _gpu("l4", 121, 300, 24, 32, "the L4"),
    "l40s": _gpu("l40s", 362, 864, 48, 32, "the L40S"),
    "t4": _gpu("t4", 65, 300, 16, 16, "the T4, which has float16 but no bfloat16 products"),
}

_SQUARE = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
# Slices that Google Cloud offers; the compiler knows more.
SLICES = {"v4": _CUBE, "v5e": _SQUARE, "v5p": ("1x1x1", *_CUBE), "v6e": _SQUARE}


def any_gpu(gib: float) -> Chip:
    """A GPU of which only the memory is known.

    Args:
      gib: memory in GiB.
    """
    return Chip(f"gpu:{gib:g}GiB", None, None, gib * GIB, GPU_SHARE * gib * GIB, None, "its name")
