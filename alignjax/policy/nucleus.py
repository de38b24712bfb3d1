"""Ids drawn in proportion to weights, from all of them or from the likeliest that make up a share.

The V weights of a row come in blocks. An id is drawn in two levels, first its block, then it within the
block: two random numbers a draw, where adding Gumbel noise takes V of them and, on a CPU, as long as the
layers of a small model. Nothing is sorted.

Letters: R rows, V ids, C blocks of W ids.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


def in_blocks(weights: Array) -> Array:
    """[R, V] -> [R, C, W], C and W about the square root of V; the last block ends in ids without weight."""
    vocab = weights.shape[1]
    width = 1 << ((vocab - 1).bit_length() + 1) // 2
    filled = jnp.pad(weights, ((0, 0), (0, -vocab % width)))
    return filled.reshape(weights.shape[0], -1, width)


def from_all(keys: Array, weights: Array, sums: Array) -> Array:
    """Ids [R] int32 of probability weights / sum(weights).

    Args:
      keys: [R] PRNG keys.
      weights: [R, C, W] float32, >= 0.
      sums: [R, C] float32, of each block.
    """
    return _two_levels(keys, sums, weights.shape[2], functools.partial(_at, weights))


def from_nucleus(keys: Array, weights: Array, sums: Array, top_p: Array) -> Array:
    """Ids [R] int32, as `from_all` but among the fewest likeliest ids that make up `top_p` of the weight.

    An id is drawn from all. It is in the nucleus if the ids that are likelier make up less than `top_p`; of
    ids that are as likely, the lower goes first. If it is not, the whole nucleus goes before it, and the next
    id is drawn from those that go before it. So what is found has exactly the distribution asked for, and as
    a refused id lies anywhere in the mass behind the nucleus, 1 + log(1 / top_p) draws do on average.

    Args:
      keys: [R] PRNG keys.
      weights: [R, C, W] float32, >= 0.
      sums: [R, C] float32, of each block.
      top_p: [] float32, in (0, 1].

    Reference: Holtzman et al. 2019, arXiv 1904.09751, section 3.1.
    """
    needed = top_p * jnp.sum(sums, axis=1)
    width = weights.shape[2]
    numbered = jax.vmap(jax.random.fold_in, in_axes=(0, None))

    def judge(number: Array, token: Array) -> _Trial:
        own = _at(_at(weights, token // width), token % width)
        sums = _sums_before(weights, token, own)
        before = jnp.sum(sums, axis=1)
        # The likeliest id is in the nucleus however small top_p is; weights of nan must not go on for ever.
        return _Trial(number + 1, token, own, sums, (before < needed) | ~(before > 0))

    def try_again(last: _Trial) -> _Trial:
        def block_of(block: Array) -> Array:
            ids = (block * width)[:, None] + jnp.arange(width, dtype=jnp.int32)[None]
            return _before(_at(weights, block), ids, last.token, last.own)

        token = _two_levels(numbered(keys, last.number), last.sums, width, block_of)
        return judge(last.number, jnp.where(last.found, last.token, token))

    first = judge(jnp.int32(0), from_all(numbered(keys, jnp.int32(0)), weights, sums))
    return jax.lax.while_loop(lambda last: ~jnp.all(last.found), try_again, first).token


class _Trial(NamedTuple):
    """An id of each row, drawn from those that go before the one of the trial before."""

    number: Array  # [] int32, trials so far
    token: Array  # [R] int32
    own: Array  # [R] float32, its weight
    sums: Array  # [R, C] float32, weight in each block of the ids that go before it
    found: Array  # [R] bool, it is in the nucleus


def _two_levels(keys: Array, sums: Array, width: int, block_of: Callable[[Array], Array]) -> Array:
    """Ids [R] from the blocks' sums [R, C]; `block_of` gives the weights [R, W] in the blocks [R] chosen."""
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    block = jax.vmap(invert)(uniform[:, 0], sums)
    return block * width + jax.vmap(invert)(uniform[:, 1], block_of(block))


def invert(uniform: Array, weights: Array) -> Array:
    """Index [] int32 of probability weights / sum(weights), weights [C] >= 0, by a number in [0, 1)."""
    total = jnp.cumsum(weights)
    # Sums in a tree may round up on a zero weight; such an index must not be found.
    found = (total > uniform * total[-1]) & (weights > 0)
    return jnp.argmax(jnp.where(found, 2, jnp.where(weights > 0, 1, 0))).astype(jnp.int32)


def _at(rows: Array, index: Array) -> Array:
    """Element index[r] of each of rows [R, C, ...] -> [R, ...]."""
    return jax.vmap(functools.partial(jax.lax.dynamic_index_in_dim, keepdims=False))(rows, index)


def _before(weights: Array, ids: Array, token: Array, own: Array) -> Array:
    """Weights [R, W] of ids [R, W] that go before token [R], of weight own [R]; 0 in place of the others."""
    ids, token, own = (jnp.broadcast_to(x, weights.shape) for x in (ids, token[:, None], own[:, None]))
    return jnp.where((weights > own) | ((weights == own) & (ids < token)), weights, 0.0)


def _sums_before(weights: Array, token: Array, own: Array) -> Array:
    """Sums [R, C] over blocks of weights [R, C, W] of the ids that go before token [R], of weight own [R].

    Of ids as likely as the token, all or none of a block go before it, but for the token's block, which is
    looked at apart: an array of all ids beside the weights would double what is read.
    """
    blocks = jnp.arange(weights.shape[1], dtype=jnp.int32)[None]
    home, width = token // weights.shape[2], weights.shape[2]
    within = _before(_at(weights, home), jnp.arange(width, dtype=jnp.int32)[None], token % width, own)
    early = jnp.broadcast_to((blocks < home[:, None])[:, :, None], weights.shape)
    own = jnp.broadcast_to(own[:, None, None], weights.shape)
    sums = jnp.sum(jnp.where((weights > own) | ((weights == own) & early), weights, 0.0), axis=2)
    return jnp.where(blocks == home[:, None], jnp.sum(within, axis=1, keepdims=True), sums)
