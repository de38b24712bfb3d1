"""A model: what the rest of the library passes around."""

from typing import TYPE_CHECKING, Any, Self

import flax.struct
from jax import Array

from alignjax.models.config import DecoderConfig
from alignjax.models.decoder import hidden_states, unembed
from alignjax.models.lora import Lora

if TYPE_CHECKING:  # its import takes seconds, and arrays need none of it
    from transformers import PreTrainedTokenizerBase


@flax.struct.dataclass
class Model:
    """Weights with what is needed to use them; a pytree whose only leaves are the weights.

    Attributes:
      params: as `init_params` returns them.
      config: the decoder's shape; static.
      tokenizer: or None for a folder without one; static.
    """

    params: Any
    config: DecoderConfig = flax.struct.field(pytree_node=False)
    tokenizer: "PreTrainedTokenizerBase | None" = flax.struct.field(pytree_node=False, default=None)

    if TYPE_CHECKING:  # flax.struct adds it

        def replace(self, **changes: Any) -> Self:
            """The same with other values of some fields."""
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
        """Logits [B, T, V] float32; see `hidden_states` for the arguments."""
        hidden = hidden_states(self.config, params, tokens, positions, segment_ids, branch_ids, lora=lora)
        return unembed(self.config, params, hidden)
