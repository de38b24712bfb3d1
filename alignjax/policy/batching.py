"""How the rows of a forward pass are batched: one place for what a run computes and what a plan compiles."""

from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from alignjax.data.buckets import Bucket, choose_buckets
from alignjax.runtime.mesh import batch_rows

_SHORT_ROW = 48  # tokens


class Batching(NamedTuple):
    """Shapes of the batches of forward passes, where nothing is differentiated.

    Attributes:
      mesh: the devices that rows are divided over.
      rows: most rows of a batch, on all devices together; >= 1.
      num_buckets: most shapes of batches; more pad less and compile longer.
      memory: bytes per device that the sampler may use; None: as much as the device says it has.
    """

    mesh: Mesh
    rows: int
    num_buckets: int
    memory: int | None

    def buckets(self, lengths: np.ndarray) -> tuple[Bucket, ...]:
        """Shapes of the rows of a data set, the largest last.

        Rounding up to 16 tokens keeps shapes few and matrix products even. Rows of at most 48 tokens, as in
        an embedded world, are rounded up to 2: 16 would add half of their length again.

        Args:
          lengths: [n, 2] int, tokens and targets of each row, see `data.batches.pair_lengths`.

        Raises:
          InputError: there are no rows.
        """
        short = len(lengths) > 0 and int(lengths[:, 0].max()) <= _SHORT_ROW
        multiples = {"token_multiple": 2, "target_multiple": 2} if short else {}
        return choose_buckets(lengths, self.num_buckets, **multiples)

    def batch_size(self, count: int) -> int:
        """Rows of each batch of a data set of `count` rows; a multiple of the parts of the mesh."""
        return batch_rows(self.rows, count, self.mesh)
