"""One layer of the decoder and its parts; letters as in `decoder`."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from alignjax.models.attention import RowIds, attend, attend_cached
from alignjax.models.branches import BranchMasks
from alignjax.models.caches import Stored, with_slot
from alignjax.models.config import DecoderConfig
from alignjax.models.experts import Experts
from alignjax.models.layers import RopeTables
from alignjax.models.rope import apply_rope
from alignjax.models.rows import along_rows
from alignjax.models.thin import thin_product

_ACTIVATIONS = {
    "silu": nn.silu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
}
Masks = Mapping[str, Array]
_ADAPTED = "adapted"  # x A of the adapters
LayerCache = tuple[Stored, Stored, Stored, Stored]  # k and v of prompts, then those of slots


class Norm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * (offset + scale) + bias over the last axis, computed in float32.

    With kind "layer" the mean of x is subtracted first.
    """

    eps: float
    axis_name: str = "embed"
    offset: float = 0.0
    kind: str = "rms"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises x [..., D]; the result has the dtype of x."""
        init = named(nn.initializers.constant(1.0 - self.offset), (self.axis_name,))
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        if self.kind == "layer":
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        factor = scale.astype(jnp.float32)
        if self.offset:
            factor = self.offset + factor
        wide = wide * jnp.broadcast_to(factor, wide.shape)
        if self.use_bias:
            zeros = named(nn.initializers.zeros_init(), (self.axis_name,))
            bias = self.param("bias", zeros, (x.shape[-1],), jnp.float32)
            wide = wide + jnp.broadcast_to(bias.astype(jnp.float32), wide.shape)
        return wide.astype(x.dtype)


class Linear(nn.Module):
    """x @ kernel + bias; in int8, (x @ kernel) * kernel_scale + bias."""

    features: int
    axes: tuple[str, str]
    use_bias: bool = False
    init_scale: float = 1.0  # variance, in units of 1 / fan-in
    int8: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [..., D] to [..., features] in the dtype of x."""
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "truncated_normal")
        stored = jnp.int8 if self.int8 else jnp.float32
        init = nn.initializers.zeros_init() if self.int8 else init  # int8 weights are made by rounding others
        kernel = self.param("kernel", named(init, self.axes), (x.shape[-1], self.features), stored)
        y = jnp.einsum("...d,df->...f", x, kernel.astype(x.dtype))
        if self.int8:
            # After the product and not before it, so that the compiler reads the weights as int8 and keeps no
            # converted copy. A scale that is rounded to bfloat16 would be a bias of the whole output.
            ones = named(nn.initializers.ones_init(), self.axes[1:])
            scale = self.param("kernel_scale", ones, (self.features,), jnp.float32).astype(jnp.float32)
            wide = y.astype(jnp.float32)
            y = (wide * jnp.broadcast_to(scale, wide.shape)).astype(x.dtype)
        if self.use_bias:
            zeros = named(nn.initializers.zeros_init(), self.axes[1:])
            bias = self.param("bias", zeros, (self.features,), jnp.float32)
            y = y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)
        return y


class Block(nn.Module):
    """One layer: attention and gated feed-forward, each added to its input.

    `DecoderConfig.norm_order` says where the norms are.
    """

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
        linear = functools.partial(Linear, int8=c.weights == "int8")
        self.q = linear(heads, ("embed", "heads"), c.qkv_bias)
        self.k = linear(kv, ("embed", "kv_heads"), c.qkv_bias)
        self.v = linear(kv, ("embed", "kv_heads"), c.qkv_bias)
        self.o = linear(c.hidden_size, ("heads", "embed"), c.o_bias, residual)
        if c.num_experts:
            self.experts = Experts(c, residual)
        else:
            if c.gated:
                self.gate = linear(c.intermediate_size, ("embed", "mlp"), c.mlp_bias)
            self.up = linear(c.intermediate_size, ("embed", "mlp"), c.mlp_bias)
            self.down = linear(c.hidden_size, ("mlp", "embed"), c.mlp_bias, residual)
        norm = functools.partial(Norm, c.norm_eps, offset=c.norm_offset, kind=c.norm, use_bias=c.norm_bias)
        if c.norm_order != "after":
            self.attn_norm = norm()
        if c.norm_order in ("before", "both", "parallel_each"):
            self.mlp_norm = norm()
        if c.norm_order in ("after", "both"):
            self.attn_post_norm, self.mlp_post_norm = norm(), norm()
        if c.qk_norm == "head":
            self.q_norm, self.k_norm = norm("head_dim"), norm("head_dim")
        if c.qk_norm == "projection":
            self.q_norm, self.k_norm = norm("heads"), norm("kv_heads")

    def __call__(self, h: Array, rope: RopeTables, visible: Array | BranchMasks | RowIds) -> Array:
        """Training and scoring: h [B, T, D] -> [B, T, D]; `visible` is one of `visible_keys`."""
        return self.prefill(h, rope, visible)[0]

    def prefill(
        self, h: Array, rope: RopeTables, visible: Array | BranchMasks | RowIds
    ) -> tuple[Array, tuple[Array, Array]]:
        """The same, and the keys and values [B, T, KV, H] that were used."""
        keep = self._kept(h)
        q, k, v = self._qkv(h, rope, keep)
        c = self.config
        x = attend(q, k, v, visible, kernel=c.attention, soft_cap=c.attention_soft_cap)
        return self._added(h, x, keep), (k, v)

    def decode(
        self, h: Array, layer_cache: LayerCache, rope: RopeTables, masks: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, Array]]:
        """One token per continuation: h [N, K, D] -> [N, K, D], and its keys and values [N, K, KV, H]."""
        q, k, v = self._qkv(h, rope, {})
        x = attend_cached(q, k, v, *layer_cache, *masks, soft_cap=self.config.attention_soft_cap)
        return self._added(h, x, {}), (k, v)

    def decode_into(
        self,
        h: Array,
        layer_cache: LayerCache,
        rope: RopeTables,
        masks: tuple[Array, Array],
        slot: Array,
    ) -> tuple[Array, tuple[Stored, Stored]]:
        """The same, but returns the continuations' cache with slot `slot` filled."""
        q, k, v = self._qkv(h, rope, {})
        prompt_k, prompt_v, cache_k, cache_v = layer_cache
        # Write the slot before reading the cache: in the other order the compiler copies the whole cache.
        cache_k, cache_v = with_slot(cache_k, k, slot), with_slot(cache_v, v, slot)
        caches = (prompt_k, prompt_v, cache_k, cache_v)
        x = attend_cached(q, k, v, *caches, *masks, soft_cap=self.config.attention_soft_cap)
        return self._added(h, x, {}), (cache_k, cache_v)

    def _kept(self, h: Array) -> Masks:
        """Dropout masks of the adapters' inputs, by the first projection that reads them; {}: no dropout.

        All masks are drawn at once, from 16 bits per entry. A program that draws at four places takes minutes
        to compile for a TPU, and 16 bits take half as much work as 32.
        """
        if self.lora_dropout == 0.0 or not self.has_rng("dropout"):
            return {}
        c = self.config
        widths = {"q": c.hidden_size, "o": c.num_heads * c.head_dim, "gate": c.hidden_size}
        widths["down"] = c.intermediate_size  # experts have no adapters, and so no masks
        if not c.gated:
            widths["up"] = widths.pop("gate")
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

    def _qkv(self, h: Array, rope: RopeTables, keep: Masks) -> tuple[Array, Array, Array]:
        c = self.config
        x = h if c.norm_order == "after" else self.attn_norm(h)
        q, k, v = jax.lax.optimization_barrier(self._project(("q", "k", "v"), x, keep))
        if c.qk_norm == "projection":
            q, k = self.q_norm(q), self.k_norm(k)
        q = q.reshape(*h.shape[:2], c.num_heads, c.head_dim)
        k = k.reshape(*h.shape[:2], c.num_kv_heads, c.head_dim)
        v = v.reshape(*h.shape[:2], c.num_kv_heads, c.head_dim)
        if c.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        # Attention divides by sqrt(H). Another multiplier goes into the rotation of the queries, which is in
        # float32, so that every kernel serves and nothing is rounded twice.
        of_q = 1.0 if c.attention_multiplier is None else c.attention_multiplier * c.head_dim**0.5
        q_rope = rope if of_q == 1.0 else (rope[0] * of_q, rope[1] * of_q)
        rotate = functools.partial(apply_rope, interleaved=c.rope_interleaved)
        return rotate(q, *q_rope), rotate(k, *rope), v

    def _added(self, h: Array, attended: Array, keep: Masks) -> Array:
        """Adds attention [B, T, heads, H], projected, and then the feed-forward layer to h [B, T, D]."""
        c = self.config
        x = self._project(("o",), attended.reshape(*attended.shape[:2], -1), keep)[0]
        if c.norm_order in ("parallel", "parallel_each"):
            norm = self.attn_norm if c.norm_order == "parallel" else self.mlp_norm
            return along_rows(h + times(x + self._mlp(norm(h), keep), c.residual_multiplier))
        if c.norm_order != "before":
            x = self.attn_post_norm(x)
        h = along_rows(h + times(x, c.residual_multiplier))
        x = self._mlp(h if c.norm_order == "after" else self.mlp_norm(h), keep)
        if c.norm_order != "before":
            x = self.mlp_post_norm(x)
        return along_rows(h + times(x, c.residual_multiplier))

    def _mlp(self, x: Array, keep: Masks) -> Array:
        if self.config.num_experts:
            return self.experts(x)
        act = _ACTIVATIONS[self.config.activation]
        if self.config.gated:
            gate, up = self._project(("gate", "up"), x, keep)
            inner = act(gate) * up
        else:
            inner = act(self._project(("up",), x, keep)[0])
        return self._project(("down",), inner, keep)[0]

    def _project(self, names: tuple[str, ...], x: Array, keep: Masks) -> list[Array]:
        """Applies each named projection and its adapter to x: y = x W + scale (x A) B.

        Results have the names of their projections, see `stored_products`.
        """
        linears = {"q": self.q, "k": self.k, "v": self.v, "o": self.o}
        if not self.config.num_experts:
            linears |= {"up": self.up, "down": self.down}
            if self.config.gated:
                linears["gate"] = self.gate
        outputs = [linears[name](x) for name in names]
        adapted = [n for n in names if self.has_variable("lora", n)]
        if not adapted:
            return [checkpoint_name(y, name) for y, name in zip(outputs, names, strict=True)]
        if names[0] in keep:
            x = jnp.where(keep[names[0]], x / (1.0 - self.lora_dropout), jnp.zeros((), x.dtype))
        pairs = [self.get_variable("lora", n) for n in adapted]
        # One product for all adapters that read x: the gradient of A is a thin product x^T dy, whose time
        # depends on the number of products rather than on their width.
        inner = thin_product(x, jnp.concatenate([p["a"] for p in pairs], axis=1).astype(x.dtype))
        inner = checkpoint_name(inner, _ADAPTED)
        start = 0
        for name, pair in zip(adapted, pairs, strict=True):
            rank = pair["a"].shape[1]
            b = (self.lora_scale * pair["b"]).astype(x.dtype)
            outputs[names.index(name)] += thin_product(inner[..., start : start + rank], b)
            start += rank
        return [checkpoint_name(y, name) for y, name in zip(outputs, names, strict=True)]


def stored_products(config: DecoderConfig) -> tuple[str, ...]:
    """Names of the results from which a layer's backward pass needs no product of the weights once more.

    That of `down` is one of them only where a norm reads it: otherwise its sum with the layer's input is the
    next layer's input, which is stored anyway. Experts have no names and are computed again.
    """
    last = ("down",) if config.norm_order in ("both", "after") else ()
    return (_ADAPTED, "q", "k", "v", "o", "gate", "up", *last)


def times(x: Array, factor: float) -> Array:
    """Returns x * factor, with the product in float32 and rounded once."""
    return x if factor == 1.0 else (x.astype(jnp.float32) * factor).astype(x.dtype)


def named(init: nn.initializers.Initializer, axes: tuple[str | None, ...]) -> Any:
    """An initializer with named axes; Any, because flax types the box and not the array in it."""
    return nn.with_logical_partitioning(init, axes)
