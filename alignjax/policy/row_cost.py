"""What a row of tokens costs beside a compilation: the number of shapes follows from the amount of work."""

from alignjax.data.buckets import RowCost
from alignjax.models import DecoderConfig
from alignjax.models.lora import num_layer_weights

# What a compilation is worth, in tokens. Two CPU cores compile a train step in a dozen seconds and a forward
# pass in one, in which they pass so many weights times tokens; a model that needs an accelerator takes half a
# minute of a chip, one token for so many weights. The device itself is not asked: batches must be the same on
# all devices.
_STEP_ON_CPU = 4e11
_FORWARD_ON_CPU = 6e10
_ON_ACCELERATOR = 1e5


def row_cost(config: DecoderConfig, passes: float, *, trained: bool = False) -> RowCost:
    """Work of a row of T tokens in units of the products that one token takes: T + square T^2.

    Args:
      config: the decoder; attention takes 2 (heads) (head width) multiplications for each pair of tokens of a
        row and layer, everything else one for each weight and token.
      passes: how often each row is computed.
      trained: whether a pass is a train step, forward and backward.

    Returns:
      The cost, with that of a compilation: many tokens of a small model, whose tokens are fast, fewest at
      some hundred million weights, and many again of a model that only an accelerator passes.
    """
    on_cpu = _STEP_ON_CPU if trained else _FORWARD_ON_CPU
    weights = config.num_layers * num_layer_weights(config)
    pairs = 2 * config.num_layers * config.num_heads * config.head_dim
    return RowCost(pairs / weights, (on_cpu / weights + weights / _ON_ACCELERATOR) / passes)
