"""Draws ids in proportion to weights, from all ids or from the nucleus, the likeliest ids of a given mass.

The V weights of a row are arranged in blocks. A draw has two levels: first a block, then an id within it.
That takes two random numbers per draw. Adding Gumbel noise instead would take V random numbers and, on a CPU,
as long as the layers of a small model. Nothing is sorted.

Letters: R rows, V ids, C blocks of W ids.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


def in_blocks(weights: Array) -> Array:
    """Arranges weights [R, V] in blocks [R, C, W], C and W about the square root of V.

    The last block is filled up with ids of weight 0.
    """
    vocab = weights.shape[1]
    width = 1 << ((vocab - 1).bit_length() + 1) // 2
    filled = jnp.pad(weights, ((0, 0), (0, -vocab % width)))
    return filled.reshape(weights.shape[0], -1, width)


def from_all(keys: Array, weights: Array, sums: Array) -> Array:
    """Draws ids with probability weights / sum(weights).

    Args:
      keys: [R] PRNG keys.
      weights: [R, C, W] float32, >= 0.
      sums: [R, C] float32, sum of each block.

    Returns:
      [R] int32.
    """
    return _two_levels(keys, sums, weights.shape[2], functools.partial(_at, weights))


def from_nucleus(keys: Array, weights: Array, sums: Array, top_p: Array) -> Array:
    """Draws ids as `from_all` does, restricted to the nucleus: the fewest likeliest ids of mass `top_p`.

    Ids are ranked by weight, ties by the lower id. An id is drawn from all ids and accepted if the ids ranked
    before it have less than `top_p` of the mass, that is, if it is in the nucleus. If it is rejected, the
    whole nucleus is ranked before it, and the next id is drawn from the ids ranked before it. The accepted id
    therefore has exactly the distribution wanted. A rejected id is distributed over the mass outside the
    nucleus, so the mean number of draws is 1 + log(1 / top_p).

    Args:
      keys: [R] PRNG keys.
      weights: [R, C, W] float32, >= 0.
      sums: [R, C] float32, sum of each block.
      top_p: [] float32, in (0, 1].

    Returns:
      [R] int32.

    Reference: Holtzman et al. 2019, arXiv 1904.09751, section 3.1.
    """
    needed = top_p * jnp.sum(sums, axis=1)
    width = weights.shape[2]
    numbered = jax.vmap(jax.random.fold_in, in_axes=(0, None))

    def judge(number: Array, token: Array) -> _Trial:
        own = _at(_at(weights, token // width), token % width)
        sums = _sums_before(weights, token, own)
        before = jnp.sum(sums, axis=1)
        # The likeliest id is in the nucleus however small top_p is; with nan the second term ends the loop.
        return _Trial(number + 1, token, own, sums, (before < needed) | ~(before > 0))

    def try_again(last: _Trial) -> _Trial:
        def block_of(block: Array) -> Array:
            ids = (block * width)[:, None] + jnp.arange(width, dtype=jnp.int32)[None]
            return _before(_at(weights, block), ids, last.token, last.own)

        token = _two_levels(numbered(keys, last.number), last.sums, width, block_of)
        return judge(last.number, jnp.where(last.found, last.token, token))

    first = judge(jnp.int32(0), from_all(numbered(keys, jnp.int32(0)), weights, sums))
    return jax.lax.while_loop(lambda last: ~jnp.all(last.found), try_again, first).token


def mass(weights: Array, sums: Array, top_p: Array) -> Array:
    """The share of all weight that the nucleus has: at least `top_p`, by at most its last id more.

    The weight of that id is found by bisection over the bits of a float32, which have the order of the
    numbers where none is negative: 32 sums over all ids, with nothing sorted.

    Args:
      weights: [R, C, W] float32, >= 0.
      sums: [R, C] float32, sum of each block.
      top_p: [] float32, in (0, 1].

    Returns:
      [R] float32, in (0, 1].
    """
    total = jnp.sum(sums, axis=1)
    needed = top_p * total
    bits = jax.lax.bitcast_convert_type(weights, jnp.int32)

    def above(bound: Array) -> Array:
        """Weight [R] of the ids whose bits are above a bound [R]."""
        larger = bits > jnp.broadcast_to(bound[:, None, None], bits.shape)
        return jnp.sum(jnp.sum(jnp.where(larger, weights, 0.0), axis=2), axis=1)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) // 2
        fewer = above(middle) < needed
        return jnp.where(fewer, low, middle), jnp.where(fewer, middle, high)

    # The last id's weight is the smallest number above which there is less than what is needed.
    ends = jnp.full_like(bits[:, 0, 0], -1), jnp.max(bits, axis=(1, 2))
    _, last = jax.lax.fori_loop(0, 32, halve, ends)
    own = jax.lax.bitcast_convert_type(last, jnp.float32)
    ties = jnp.sum(bits == jnp.broadcast_to(last[:, None, None], bits.shape), axis=(1, 2))
    before = above(last)
    taken = jnp.clip(jnp.ceil((needed - before) / own), 1.0, ties.astype(jnp.float32))
    return jnp.minimum((before + taken * own) / total, 1.0)


class _Trial(NamedTuple):
    """An id of each row, drawn from the ids ranked before the previous trial's."""

    number: Array  # [] int32, trials so far
    token: Array  # [R] int32
    own: Array  # [R] float32, its weight
    sums: Array  # [R, C] float32, in each block the weight of the ids ranked before it
    found: Array  # [R] bool, the id is in the nucleus


def _two_levels(keys: Array, sums: Array, width: int, block_of: Callable[[Array], Array]) -> Array:
    """Ids [R] from the blocks' sums [R, C]; `block_of` maps the chosen blocks [R] to weights [R, W]."""
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    block = jax.vmap(invert)(uniform[:, 0], sums)
    return block * width + jax.vmap(invert)(uniform[:, 1], block_of(block))


def invert(uniform: Array, weights: Array) -> Array:
    """Inverts the cumulative distribution of weights at a uniform number.

    Args:
      uniform: [] float32 in [0, 1).
      weights: [C] float32, >= 0.

    Returns:
      [] int32, an index with probability weights / sum(weights).
    """
    total = jnp.cumsum(weights)
    # A cumulative sum computed as a tree may round up at a weight of 0; such an index must not be drawn.
    found = (total > uniform * total[-1]) & (weights > 0)
    return jnp.argmax(jnp.where(found, 2, jnp.where(weights > 0, 1, 0))).astype(jnp.int32)


def _at(rows: Array, index: Array) -> Array:
    """Element index[r] of each of rows [R, C, ...] -> [R, ...]."""
    return jax.vmap(functools.partial(jax.lax.dynamic_index_in_dim, keepdims=False))(rows, index)


def _before(weights: Array, ids: Array, token: Array, own: Array) -> Array:
    """Weights [R, W] of ids [R, W] that are ranked before token [R] of weight own [R]; 0 for the others."""
    ids, token, own = (jnp.broadcast_to(x, weights.shape) for x in (ids, token[:, None], own[:, None]))
    return jnp.where((weights > own) | ((weights == own) & (ids < token)), weights, 0.0)


def _sums_before(weights: Array, token: Array, own: Array) -> Array:
    """In each block, the sum [R, C] of the weights [R, C, W] ranked before token [R], of weight own [R].

    Ids as likely as the token are ranked before it if their block is earlier. The token's own block, where
    ids have to be compared, is computed separately: an array of all ids would double the memory that is read.
    """
    blocks = jnp.arange(weights.shape[1], dtype=jnp.int32)[None]
    home, width = token // weights.shape[2], weights.shape[2]
    within = _before(_at(weights, home), jnp.arange(width, dtype=jnp.int32)[None], token % width, own)
    early = jnp.broadcast_to((blocks < home[:, None])[:, :, None], weights.shape)
    own = jnp.broadcast_to(own[:, None, None], weights.shape)
    sums = jnp.sum(jnp.where((weights > own) | ((weights == own) & early), weights, 0.0), axis=2)
    return jnp.where(blocks == home[:, None], jnp.sum(within, axis=1, keepdims=True), sums)
