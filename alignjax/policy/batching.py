"""How the rows of a forward pass are batched: one place for what a run computes and what a plan compiles."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from alignjax.data.batches import pair_lengths
from alignjax.data.buckets import Bucket, RowCost, choose_buckets
from alignjax.data.shared_rows import RowShapes, choose_row_shapes
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.models import DecoderConfig
from alignjax.policy.row_cost import row_cost
from alignjax.runtime.mesh import batch_rows, row_parts

MOST_BUCKETS = 8  # where nobody says how many
_SHORT_ROW = 48  # tokens


class Batching(NamedTuple):
    """Shapes of the batches of forward passes, where nothing is differentiated.

    Attributes:
      mesh: the devices that rows are divided over.
      rows: most rows of a batch, on all devices together; >= 1.
      num_buckets: most shapes of batches, see `choose_buckets`.
      memory: bytes per device that the sampler may use; None: as much as the device says it has.
    """

    mesh: Mesh
    rows: int
    num_buckets: int
    memory: int | None

    def buckets(self, lengths: np.ndarray, cost: RowCost | None = None) -> tuple[Bucket, ...]:
        """Shapes of the rows of a data set, the largest last.

        Rounding up to 16 tokens keeps shapes few and matrix products even. Rows of at most 48 tokens, as in
        an embedded world, are rounded up to 2: 16 would add half of their length again.

        Args:
          lengths: [n, 2] int, tokens and targets of each row, see `data.batches.pair_lengths`.
          cost: of a row and of a compilation, see `row_cost`; None: not known.

        Raises:
          InputError: there are no rows.
        """
        short = len(lengths) > 0 and int(lengths[:, 0].max()) <= _SHORT_ROW
        multiples = {"token_multiple": 2, "target_multiple": 2} if short else {}
        return choose_buckets(lengths, self.num_buckets, cost=cost, **multiples)

    def pair_buckets(self, config: DecoderConfig, pairs: Sequence[TokenizedPair]) -> tuple[Bucket, ...]:
        """Shapes of the rows of pairs that a decoder reads once; arguments and errors as of `buckets`."""
        return self.buckets(pair_lengths(pairs), row_cost(config, 1.0))

    def response_shapes(self, config: DecoderConfig, responses: Sequence[TokenizedResponse]) -> RowShapes:
        """Shapes of the rows of a data set of responses, which share prompts; rounded up as in `buckets`.

        Args:
          config: the decoder that reads them.
          responses: n responses with their prompts.

        Raises:
          InputError: there are no responses.
        """
        options = {"batch_size": self.rows, "num_buckets": self.num_buckets, "mesh": self.mesh}
        return shapes_for(config, responses, **options)

    def batch_size(self, count: int) -> int:
        """Rows of each batch of a data set of `count` rows; a multiple of the parts of the mesh."""
        return batch_rows(self.rows, count, self.mesh)


def shapes_for(
    config: DecoderConfig,
    responses: Sequence[TokenizedResponse],
    *,
    batch_size: int,
    num_buckets: int = MOST_BUCKETS,
    mesh: Mesh | None = None,
) -> RowShapes:
    """How responses share rows when a decoder reads them once; see `data.shared_rows.choose_row_shapes`.

    Args:
      config: the decoder.
      responses: n >= 1 responses with their prompts.
      batch_size: responses per batch.
      num_buckets: most shapes.
      mesh: the devices that rows are divided over; None: one.
    """
    longest = max((len(prompt) + len(ids) for prompt, ids in responses), default=0)
    multiples = {"prompt_multiple": 2, "response_multiple": 2} if longest <= _SHORT_ROW else {}
    return choose_row_shapes(
        responses,
        row_cost(config, 1.0),
        batch_size=batch_size,
        parts=row_parts(mesh),
        masked=config.attention == "splash",
        num_buckets=num_buckets,
        **multiples,
    )


def pair_buckets_for(config: DecoderConfig, pairs: Sequence[TokenizedPair]) -> tuple[Bucket, ...]:
    """Shapes of the rows of pairs that a decoder reads once, where no `Batching` says how many there may be.

    Args:
      config: the decoder.
      pairs: n >= 1 pairs.
    """
    return choose_buckets(pair_lengths(pairs), MOST_BUCKETS, cost=row_cost(config, 1.0))
