"""One decoder for all families of `families`, which differ only in configuration.

Letters: B rows, T tokens, D hidden, V vocabulary, L layers, H head width, KV key/value heads, G query heads
per key/value head, N prompts, P prompt tokens, K continuations of one prompt, S cache slots for their tokens.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax.models.attention import RowIds, apply_rope, attend, attend_cached, rope_tables, visible_keys
from alignjax.models.config import DecoderConfig
from alignjax.models.families import FAMILIES
from alignjax.models.lora import TARGETS, Lora
from alignjax.models.rows import along_rows

Params = Any  # a nested dict of arrays
Masks = Mapping[str, Array]
LayerCache = tuple[Array, Array, Array, Array]  # k and v of prompts [N, KV, P, H], of slots [N, K, KV, S, H]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * (offset + scale) over the last axis, computed in float32."""

    eps: float
    axis_name: str = "embed"
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises x [..., D]; the result has the dtype of x."""
        init = _named(nn.initializers.constant(1.0 - self.offset), (self.axis_name,))
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        factor = scale.astype(jnp.float32)
        if self.offset:
            factor = self.offset + factor
        return (wide * jnp.broadcast_to(factor, wide.shape)).astype(x.dtype)


class Linear(nn.Module):
    """x @ kernel + bias."""

    features: int
    axes: tuple[str, str]
    use_bias: bool = False
    init_scale: float = 1.0  # variance, in units of 1 / fan-in

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [..., D] to [..., features] in the dtype of x."""
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "truncated_normal")
        kernel = self.param("kernel", _named(init, self.axes), (x.shape[-1], self.features), jnp.float32)
        y = jnp.einsum("...d,df->...f", x, kernel.astype(x.dtype))
        if self.use_bias:
            zeros = _named(nn.initializers.zeros_init(), self.axes[1:])
            bias = self.param("bias", zeros, (self.features,), jnp.float32)
            y = y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)
        return y


class Block(nn.Module):
    """One layer: attention and gated feed-forward, each applied after a norm and added to its input."""

    config: DecoderConfig
    lora_scale: float = 0.0
    lora_dropout: float = 0.0

    def setup(self) -> None:
        """Declares the layer's parts under the names that adapters and checkpoints use."""
        c = self.config
        heads, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        # The two projections that write to the residual stream are initialised small, so that its variance
        # does not grow with depth.
        residual = 1.0 / (2 * c.num_layers)
        norm = functools.partial(RMSNorm, c.norm_eps, offset=c.norm_offset)
        self.attn_norm = norm()
        self.q = Linear(heads, ("embed", "heads"), c.qkv_bias)
        self.k = Linear(kv, ("embed", "kv_heads"), c.qkv_bias)
        self.v = Linear(kv, ("embed", "kv_heads"), c.qkv_bias)
        self.o = Linear(c.hidden_size, ("heads", "embed"), c.o_bias, residual)
        self.mlp_norm = norm()
        self.gate = Linear(c.intermediate_size, ("embed", "mlp"), c.mlp_bias)
        self.up = Linear(c.intermediate_size, ("embed", "mlp"), c.mlp_bias)
        self.down = Linear(c.hidden_size, ("mlp", "embed"), c.mlp_bias, residual)
        if c.qk_norm:
            self.q_norm, self.k_norm = norm("head_dim"), norm("head_dim")

    def __call__(self, h: Array, rope: tuple[Array, Array], visible: Array | RowIds) -> Array:
        """Training and scoring: h [B, T, D] -> [B, T, D]; `visible` is from `visible_keys`."""
        return self.prefill(h, rope, visible)[0]

    def prefill(
        self, h: Array, rope: tuple[Array, Array], visible: Array | RowIds
    ) -> tuple[Array, tuple[Array, Array]]:
        """The same, and the keys and values [B, T, KV, H] that were used."""
        keep = self._kept(h)
        q, k, v = self._qkv(h, rope, keep)
        h = along_rows(h + self._out(attend(q, k, v, visible, kernel=self.config.attention), keep))
        return along_rows(h + self._mlp(h, keep)), (k, v)

    def decode(
        self, h: Array, layer_cache: LayerCache, rope: tuple[Array, Array], masks: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, Array]]:
        """One token per continuation: h [N, K, D] -> [N, K, D], and its keys and values [N, K, KV, H]."""
        q, k, v = self._qkv(h, rope, {})
        h = along_rows(h + self._out(attend_cached(q, k, v, *layer_cache, *masks), {}))
        return along_rows(h + self._mlp(h, {})), (k, v)

    def decode_into(
        self,
        h: Array,
        layer_cache: LayerCache,
        rope: tuple[Array, Array],
        masks: tuple[Array, Array],
        step: Array,
    ) -> tuple[Array, tuple[Array, Array]]:
        """The same, but returns the continuations' cache with slot `step` filled."""
        q, k, v = self._qkv(h, rope, {})
        prompt_k, prompt_v, cache_k, cache_v = layer_cache
        # Write the slot before reading the cache: in the other order the compiler copies the whole cache.
        cache_k, cache_v = (
            jax.lax.dynamic_update_slice_in_dim(cache, new[:, :, :, None], step, axis=3)
            for cache, new in ((cache_k, k), (cache_v, v))
        )
        h = along_rows(
            h + self._out(attend_cached(q, k, v, prompt_k, prompt_v, cache_k, cache_v, *masks), {})
        )
        return along_rows(h + self._mlp(h, {})), (cache_k, cache_v)

    def _kept(self, h: Array) -> Masks:
        """Dropout masks of the adapters' inputs, by the first projection that reads them; {}: no dropout.

        All masks are drawn at once, from 16 bits per entry. A program that draws at four places takes minutes
        to compile for a TPU, and 16 bits take half as much work as 32.
        """
        if self.lora_dropout == 0.0 or not self.has_rng("dropout"):
            return {}
        c = self.config
        widths = {"q": c.hidden_size, "o": c.num_heads * c.head_dim, "gate": c.hidden_size}
        widths["down"] = c.intermediate_size
        read_by = {"q": ("q", "k", "v"), "gate": ("gate", "up")}
        sizes = {
            name: width
            for name, width in widths.items()
            if any(self.has_variable("lora", reader) for reader in read_by.get(name, (name,)))
        }
        shape = (*h.shape[:2], sum(sizes.values()))
        bits = jax.random.bits(self.make_rng("dropout"), shape, jnp.uint16)
        kept = bits < jnp.uint16(min(round((1.0 - self.lora_dropout) * 2**16), 2**16 - 1))
        ends = list(itertools.accumulate(sizes.values()))
        return dict(zip(sizes, jnp.split(kept, ends[:-1], axis=2), strict=True))

    def _qkv(self, h: Array, rope: tuple[Array, Array], keep: Masks) -> tuple[Array, Array, Array]:
        c = self.config
        q, k, v = jax.lax.optimization_barrier(self._project(("q", "k", "v"), self.attn_norm(h), keep))
        q = q.reshape(*h.shape[:2], c.num_heads, c.head_dim)
        k = k.reshape(*h.shape[:2], c.num_kv_heads, c.head_dim)
        v = v.reshape(*h.shape[:2], c.num_kv_heads, c.head_dim)
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        # Attention divides by sqrt(H). Another multiplier goes into the rotation of the queries, which is in
        # float32, so that every kernel serves and nothing is rounded twice.
        of_q = 1.0 if c.attention_multiplier is None else c.attention_multiplier * c.head_dim**0.5
        q_rope = rope if of_q == 1.0 else (rope[0] * of_q, rope[1] * of_q)
        return apply_rope(q, *q_rope), apply_rope(k, *rope), v

    def _out(self, x: Array, keep: Masks) -> Array:
        out = self._project(("o",), x.reshape(*x.shape[:2], -1), keep)[0]
        return _times(out, self.config.residual_multiplier)

    def _mlp(self, h: Array, keep: Masks) -> Array:
        gate, up = self._project(("gate", "up"), self.mlp_norm(h), keep)
        act = nn.silu(gate) if self.config.activation == "silu" else nn.gelu(gate, approximate=True)
        out = self._project(("down",), act * up, keep)[0]
        return _times(out, self.config.residual_multiplier)

    def _project(self, names: tuple[str, ...], x: Array, keep: Masks) -> list[Array]:
        """Applies each named projection and its adapter to x: y = x W + scale (x A) B."""
        linears = dict(
            zip(TARGETS, (self.q, self.k, self.v, self.o, self.gate, self.up, self.down), strict=True)
        )
        outputs = [linears[name](x) for name in names]
        adapted = [n for n in names if self.has_variable("lora", n)]
        if not adapted:
            return outputs
        if names[0] in keep:
            x = jnp.where(keep[names[0]], x / (1.0 - self.lora_dropout), jnp.zeros((), x.dtype))
        pairs = [self.get_variable("lora", n) for n in adapted]
        # One product for all adapters that read x: the gradient of A is a thin product x^T dy, whose time
        # depends on the number of products rather than on their width.
        inner = jnp.einsum(
            "...d,dr->...r", x, jnp.concatenate([p["a"] for p in pairs], axis=1).astype(x.dtype)
        )
        start = 0
        for name, pair in zip(adapted, pairs, strict=True):
            rank = pair["a"].shape[1]
            b = (self.lora_scale * pair["b"]).astype(x.dtype)
            outputs[names.index(name)] += jnp.einsum("...r,rf->...f", inner[..., start : start + rank], b)
            start += rank
        return outputs


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
        self.embedding = self.param("embedding", _named(init, axes), shape, jnp.float32)
        self.layers = Block(c, self.lora_scale, self.lora_dropout)
        self.final_norm = RMSNorm(c.norm_eps, offset=c.norm_offset)
        if not c.tie_embeddings:
            self.head = self.param("head", _named(init, axes[::-1]), shape[::-1], jnp.float32)

    def hidden(self, tokens: Array, positions: Array, segment_ids: Array, branch_ids: Array | None) -> Array:
        """All arguments [B, T] int32 -> [B, T, D]."""
        rope = rope_tables(self.config, positions)
        visible = visible_keys(self.config, positions, segment_ids, branch_ids)

        def body(block: Block, h: Array, _: None) -> tuple[Array, None]:
            return block(h, rope, visible), None

        if self.config.remat:
            # prevent_cse is not needed inside a scan.
            body = nn.remat(body, prevent_cse=False, policy=jax.checkpoint_policies.nothing_saveable)
        h, _ = self._scan(body)(self.layers, self.embed(tokens), None)
        return self.final_norm(h)

    def prefill(self, tokens: Array, positions: Array, segment_ids: Array) -> tuple[Array, Array, Array]:
        """All arguments [N, P] -> hidden [N, P, D], k and v [L, N, P, KV, H]."""
        rope = rope_tables(self.config, positions)
        visible = visible_keys(self.config, positions, segment_ids, None)

        def body(block: Block, h: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            return block.prefill(h, rope, visible)

        h, (k, v) = self._scan(body)(self.layers, self.embed(tokens), None)
        return self.final_norm(h), k, v

    def logits(self, hidden: Array) -> Array:
        """[..., D] -> [..., V] float32."""
        if self.config.tie_embeddings:
            equation, kernel = "...d,vd->...v", self.embedding
        else:
            equation, kernel = "...d,dv->...v", self.head
        logits = jnp.einsum(equation, hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
        divisor = self.config.logits_divisor
        return logits if divisor == 1.0 else logits / divisor

    def embed(self, tokens: Array) -> Array:
        """[...] int32 -> [..., D] in the compute dtype."""
        c = self.config
        rows = jnp.take(self.embedding, tokens, axis=0, mode="clip").astype(c.dtype)
        factor = c.embedding_multiplier
        if FAMILIES[c.architecture].sqrt_embedding:
            # As it was in training: rounded to the compute dtype before the product.
            factor = float(np.asarray(factor, jnp.dtype(c.dtype)))
        return along_rows(_times(rows, factor))

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
    return nn.unbox(_init_boxed(key, config))


def logical_axes(config: DecoderConfig) -> Params:
    """The tree of `init_params` with the logical names of the axes in place of each array.

    Args:
      config: the decoder's shape.

    Returns:
      Tree of tuples of the names "layers", "embed", "heads", "kv_heads", "mlp", "vocab" and "head_dim".
    """
    boxed = jax.eval_shape(functools.partial(_init_boxed, config=config), jax.random.key(0))
    specs = nn.get_partition_spec(boxed)
    return jax.tree.map(tuple, specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))


def hidden_states(
    config: DecoderConfig,
    params: Params,
    tokens: Array,
    positions: Array,
    segment_ids: Array,
    branch_ids: Array | None = None,
    *,
    lora: Lora | None = None,
    dropout_key: Array | None = None,
) -> Array:
    """Hidden states after the final norm.

    Query i sees key j iff

        j <= i, segment_i = segment_j > 0, branch_j in {0, branch_i}, position_i - position_j < window.

    Args:
      config: the decoder's shape; static under jit.
      params: as `init_params` returns them, float32 or bfloat16.
      tokens: [B, T] int32 in [0, V).
      positions: [B, T] int32, rotary positions.
      segment_ids: [B, T] int32, 0 for padding, > 0 for a document.
      branch_ids: [B, T] int32, 0 for the shared prompt, > 0 for a response; None: all 0.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.

    Returns:
      [B, T, D] in the compute dtype.
    """
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    module, variables = bind(config, params, lora)
    return module.apply(variables, tokens, positions, segment_ids, branch_ids, rngs=rngs, method="hidden")


def unembed(config: DecoderConfig, params: Params, hidden: Array) -> Array:
    """Logits of hidden states.

    Args:
      config: the decoder's shape.
      params: as `init_params` returns them.
      hidden: [..., D].

    Returns:
      [..., V] float32.
    """
    names = ("embedding",) if config.tie_embeddings else ("embedding", "head")
    module, variables = bind(config, {name: params[name] for name in names}, None)
    return module.apply(variables, hidden, method="logits")


def _times(x: Array, factor: float) -> Array:
    """Returns x * factor, with the product in float32 and rounded once."""
    return x if factor == 1.0 else (x.astype(jnp.float32) * factor).astype(x.dtype)


def _named(init: nn.initializers.Initializer, axes: tuple[str, ...]) -> Any:
    """An initializer with named axes; Any, because flax types the box and not the array in it."""
    return nn.with_logical_partitioning(init, axes)


def bind(config: DecoderConfig, params: Params, lora: Lora | None) -> tuple[Any, dict[str, Any]]:
    """The module and its variables; Any, since the type of `apply` includes mutated variables."""
    if lora is None:
        return Decoder(config), {"params": params}
    return Decoder(config, lora.scale, lora.dropout), {"params": params, "lora": lora.params}


def _init_boxed(key: Array, config: DecoderConfig) -> Params:
    def build(module: Decoder, ids: Array) -> Array:
        return module.logits(module.hidden(ids, ids, ids, ids))

    ids = jnp.zeros((1, 2), jnp.int32)
    return Decoder(config).init(key, ids, method=build)["params"]
