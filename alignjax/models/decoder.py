"""One decoder for all families of `families`, which differ only in configuration.

Letters: B rows, T tokens, D hidden, V vocabulary, L layers, H head width, KV key/value heads, G query heads
per key/value head, N prompts, P prompt tokens, K continuations of one prompt, S cache slots for their tokens.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax.data.shared_rows import Branches
from alignjax.models.attention import longest_text, visible_keys
from alignjax.models.block import Block, Norm, named, stored_products, times
from alignjax.models.config import DecoderConfig
from alignjax.models.families import FAMILIES
from alignjax.models.layers import LayerKinds, check_positions, layer_kinds, layer_ropes, of_layer
from alignjax.models.lora import Lora
from alignjax.models.mixture import Adapters, Mixture, bodies, check_linear, combined
from alignjax.models.rows import along_rows

Params = Any  # a nested dict of arrays


class Decoder(nn.Module):
    """Embedding, L scanned layers, final norm, output head."""

    config: DecoderConfig
    lora_scale: float = 0.0
    lora_dropout: float = 0.0

    def setup(self) -> None:
        """Declares embedding, layers, final norm and, if untied, the head."""
        c = self.config
        init = nn.initializers.normal(stddev=c.hidden_size**-0.5)
        axes = ("vocab", "embed")
        shape = (c.vocab_size, c.hidden_size)
        self.embedding = self.param("embedding", named(init, axes), shape, jnp.float32)
        self.layers = Block(c, self.lora_scale, self.lora_dropout)
        if c.learned_positions:
            positions = (c.max_positions, c.hidden_size)
            self.position_embedding = self.param(
                "position_embedding", named(init, (None, "embed")), positions, jnp.float32
            )
        self.final_norm = Norm(c.norm_eps, offset=c.norm_offset, kind=c.norm, use_bias=c.norm_bias)
        if not c.tie_embeddings:
            self.head = self.param("head", named(init, axes[::-1]), shape[::-1], jnp.float32)

    def hidden(
        self, tokens: Array, positions: Array, segment_ids: Array, branches: Array | Branches | None
    ) -> Array:
        """All arrays [B, T] int32 -> [B, T, D]."""
        check_positions(self.config, longest_text(positions.shape[1], branches))
        ropes = layer_ropes(self.config, positions)
        visible = visible_keys(self.config, positions, segment_ids, branches)

        def body(block: Block, h: Array, kind: LayerKinds | None) -> tuple[Array, None]:
            return block(h, *of_layer(kind, ropes, visible)), None

        if self.config.remat != "none":
            # prevent_cse is not needed inside a scan.
            body = nn.remat(body, prevent_cse=False, policy=_stored(self.config))
        h, _ = self._scan(body)(self.layers, self.embed(tokens, positions), layer_kinds(self.config))
        return self.final_norm(h)

    def prefill(self, tokens: Array, positions: Array, segment_ids: Array) -> tuple[Array, Array, Array]:
        """All arguments [N, P] -> hidden [N, P, D], k and v [L, N, P, KV, H]."""
        check_positions(self.config, positions.shape[1])
        ropes = layer_ropes(self.config, positions)
        visible = visible_keys(self.config, positions, segment_ids, None)

        def body(block: Block, h: Array, kind: LayerKinds | None) -> tuple[Array, tuple[Array, Array]]:
            return block.prefill(h, *of_layer(kind, ropes, visible))

        h, (k, v) = self._scan(body)(self.layers, self.embed(tokens, positions), layer_kinds(self.config))
        return self.final_norm(h), k, v

    def logits(self, hidden: Array) -> Array:
        """[..., D] -> [..., V] float32."""
        if self.config.tie_embeddings:
            equation, kernel = "...d,vd->...v", self.embedding
        else:
            equation, kernel = "...d,dv->...v", self.head
        logits = jnp.einsum(equation, hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
        divisor, cap = self.config.logits_divisor, self.config.logits_soft_cap
        logits = logits if divisor == 1.0 else logits / divisor
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def embed(self, tokens: Array, positions: Array) -> Array:
        """Tokens and positions [...] int32 -> [..., D] in the compute dtype."""
        c = self.config
        rows = jnp.take(self.embedding, tokens, axis=0, mode="clip").astype(c.dtype)
        factor = c.embedding_multiplier
        if FAMILIES[c.architecture].sqrt_embedding:
            # As it was in training: rounded to the compute dtype before the product.
            factor = float(np.asarray(factor, jnp.dtype(c.dtype)))
        rows = times(rows, factor)
        if c.learned_positions:
            rows += jnp.take(self.position_embedding, positions, axis=0, mode="clip").astype(c.dtype)
        return along_rows(rows)

    def normed(self, hidden: Array) -> Array:
        """Applies the final norm to [..., D]."""
        return self.final_norm(hidden)

    def _scan(self, body: Any) -> Any:
        return nn.scan(
            body,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )


def init_params(key: Array, config: DecoderConfig) -> Params:
    """Random float32 parameters: kernels of variance 1 / fan-in, an embedding of 1 / D, norms 1, biases 0.

    Args:
      key: PRNG key.
      config: the decoder's shape.

    Returns:
      {"embedding" [V, D], "layers": {"q": {"kernel" [L, D, heads * H]}, ...}, "final_norm", and "head" if
      untied}.
    """
    return _init_jit(key, config)


def logical_axes(config: DecoderConfig) -> Params:
    """The tree of `init_params` with the logical names of the axes in place of each array.

    Args:
      config: the decoder's shape.

    Returns:
      Tree of tuples of the names "layers", "embed", "heads", "kv_heads", "mlp", "vocab" and "head_dim".
    """
    specs = nn.get_partition_spec(_boxed_shapes(config))
    return jax.tree.map(tuple, specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))


def hidden_states(
    config: DecoderConfig,
    params: Params,
    tokens: Array,
    positions: Array,
    segment_ids: Array,
    branches: Array | Branches | None = None,
    *,
    lora: Adapters | None = None,
    dropout_key: Array | None = None,
) -> Array:
    """Hidden states after the final norm.

    Query i sees key j iff

        j <= i, segment_i = segment_j > 0, branch_j in {0, branch_i}, position_i - position_j < window,

    where layers without a window leave the last condition out.

    Args:
      config: the decoder's shape; static under jit.
      params: as `init_params` returns them, float32 or bfloat16.
      tokens: [B, T] int32 in [0, V).
      positions: [B, T] int32, rotary positions.
      segment_ids: [B, T] int32, 0 for padding, > 0 for a document.
      branches: [B, T] int32, 0 for the shared prompt, > 0 for a response; the places of both where they are
        the same in all rows, which saves the mask; None: all 0.
      lora: adapters; None: the base model. Of a mixture, the combined states, of which `unembed` makes the
        logits of the product policy.
      dropout_key: makes the adapters' dropout active; None: none. A mixture has no dropout.

    Returns:
      [B, T, D] in the compute dtype.

    Raises:
      InputError: a mixture on a decoder that caps its logits.
    """
    rows = (tokens, positions, segment_ids, branches)
    if isinstance(lora, Mixture):
        check_linear(config)

        def of_body(adapters: Any) -> Array:
            module, variables = bind(config, params, Lora(adapters))
            return module.apply(variables, *rows, method="hidden")

        return combined(lora, jax.vmap(of_body)(bodies(lora)))
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    module, variables = bind(config, params, lora)
    return module.apply(variables, *rows, rngs=rngs, method="hidden")


def unembed(config: DecoderConfig, params: Params, hidden: Array) -> Array:
    """Logits of hidden states.

    Args:
      config: the decoder's shape.
      params: as `init_params` returns them.
      hidden: [..., D].

    Returns:
      [..., V] float32.
    """
    # What `Decoder.setup` declares itself has to be there, used or not.
    names = [n for n in ("embedding", "head", "position_embedding") if n in params]
    module, variables = bind(config, {name: params[name] for name in names}, None)
    return module.apply(variables, hidden, method="logits")


def bind(config: DecoderConfig, params: Params, lora: Lora | None) -> tuple[Any, dict[str, Any]]:
    """The module and its variables; Any, since the type of `apply` includes mutated variables."""
    if lora is None:
        return Decoder(config), {"params": params}
    return Decoder(config, lora.scale, lora.dropout), {"params": params, "lora": lora.params}


def _stored(config: DecoderConfig) -> Any:
    """What of a layer beside its input is stored for the backward pass, as `jax.checkpoint` asks it."""
    if config.remat == "layers":
        return jax.checkpoint_policies.nothing_saveable
    return jax.checkpoint_policies.save_only_these_names(*stored_products(config))


@functools.partial(jax.jit, static_argnames="config")
def _init_jit(key: Array, config: DecoderConfig) -> Params:
    # Compiled, so that the forward pass by which Flax finds the parameters is left out.
    return nn.unbox(_init_boxed(key, config))


@functools.cache
def _boxed_shapes(config: DecoderConfig) -> Params:
    return jax.eval_shape(functools.partial(_init_boxed, config=config), jax.random.key(0))


def _init_boxed(key: Array, config: DecoderConfig) -> Params:
    def build(module: Decoder, ids: Array) -> Array:
        return module.logits(module.hidden(ids, ids, ids, ids))

    ids = jnp.zeros((1, 2), jnp.int32)
    return Decoder(config).init(key, ids, method=build)["params"]
