"""What a row of tokens costs beside a compilation: the number of shapes follows from the amount of work."""

from alignjax.data.buckets import RowCost
from alignjax.models import DecoderConfig
from alignjax.models.lora import num_layer_weights

# What a compilation is worth, in tokens: on two CPU cores a dozen seconds, in which they pass so many weights
# times tokens; for a model that needs an accelerator half a minute of a chip, one token for so many weights.
# The device itself is not asked: batches must be the same on all devices.
_ON_CPU = 4e11
_ON_ACCELERATOR = 1e5


def row_cost(config: DecoderConfig, passes: float) -> RowCost:
    """Work of a row of T tokens in units of the products that one token takes: T + square T^2.

    Args:
      config: the decoder; attention takes 2 (heads) (head width) multiplications for each pair of tokens of a
        row and layer, everything else one for each weight and token.
      passes: how often each row is computed.

    Returns:
      The cost, with that of a compilation: many tokens of a small model, whose tokens are fast, fewest at 200
      million weights, and many again of a model that only an accelerator trains.
    """
    weights = config.num_layers * num_layer_weights(config)
    pairs = 2 * config.num_layers * config.num_heads * config.head_dim
    return RowCost(pairs / weights, (_ON_CPU / weights + weights / _ON_ACCELERATOR) / passes)
