"""The model type that the rest of the library uses."""

from typing import TYPE_CHECKING, Any, Self

import flax.struct
from jax import Array

from alignjax.models.config import DecoderConfig
from alignjax.models.decoder import hidden_states, unembed
from alignjax.models.lora import Lora

if TYPE_CHECKING:  # importing it takes seconds, and arrays do not need it
    from transformers import PreTrainedTokenizerBase


@flax.struct.dataclass
class Model:
    """Weights, shape and tokenizer of a decoder; a pytree whose only leaves are the weights.

    Attributes:
      params: as `init_params` returns them.
      config: the decoder's shape; static.
      tokenizer: None if the folder has none; static.
    """

    params: Any
    config: DecoderConfig = flax.struct.field(pytree_node=False)
    tokenizer: "PreTrainedTokenizerBase | None" = flax.struct.field(pytree_node=False, default=None)

    if TYPE_CHECKING:  # flax.struct adds it

        def replace(self, **changes: Any) -> Self:
            """A copy with other values of some fields."""
            ...

    def apply(
        self,
        params: Any,
        tokens: Array,
        positions: Array,
        segment_ids: Array,
        branch_ids: Array | None = None,
        lora: Lora | None = None,
    ) -> Array:
        """Logits of rows of tokens.

        Args:
          params: as `init_params` returns them; usually `self.params`.
          tokens: [B, T] int32.
          positions: [B, T] int32.
          segment_ids: [B, T] int32, 0 for padding.
          branch_ids: [B, T] int32; None: all 0.
          lora: adapters; None: the base model.

        Returns:
          [B, T, V] float32. See `hidden_states` for what a token sees.
        """
        hidden = hidden_states(self.config, params, tokens, positions, segment_ids, branch_ids, lora=lora)
        return unembed(self.config, params, hidden)
