"""Randomness of a run: a seed of its own for every purpose."""

import zlib
from typing import NamedTuple

import jax


class Seeds(NamedTuple):
    """Randomness: every purpose has its own, derived from the run's seed.

    Attributes:
      root: `config.seed`.
    """

    root: int

    def seed(self, purpose: str) -> int:
        """A 31-bit seed, a function of (root, purpose) alone."""
        return zlib.crc32(f"{self.root}/{purpose}".encode()) >> 1

    def key(self, purpose: str) -> jax.Array:
        """The random key of one purpose."""
        return jax.random.key(self.seed(purpose))
