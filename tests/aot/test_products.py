"""FLOPs of matrix products against counts by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from alignjax.aot.products import product_flops
from alignjax.models.attention import RowIds
from alignjax.models.splash import attend_splash
from alignjax.runtime.mesh import make_mesh

# [4, 8] x [8, 16] is 4 * 16 results of 8 products and sums: 2 * 4 * 8 * 16 = 1,024.
ONE = 1024.0


def _flops(f, *shapes, trips=()):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return product_flops(jax.jit(f).trace(*arrays).jaxpr, trips)


def test_one_product_and_a_batch_of_them():
    assert _flops(lambda a, b: a @ b, (4, 8), (8, 16)) == ONE
    assert _flops(lambda a, b: jnp.einsum("nab,nbc->nac", a, b), (3, 4, 8), (3, 8, 16)) == 3 * ONE


def test_a_scan_counts_every_turn():
    def f(h, ws):
        return jax.lax.scan(lambda h, w: (h @ w, None), h, ws)[0]

    assert _flops(f, (4, 8), (5, 8, 8)) == 5 * 2 * 4 * 8 * 8


def test_remat_is_counted_where_it_recomputes():
    # The gradient of w alone takes two products: forward, and x^T dy. With remat the forward product is done
    # again before the second.
    def loss(w, x):
        return jnp.sum(jnp.sin(x @ w))

    def kept(w, x):
        return jax.grad(loss)(w, x)

    def redone(w, x):
        return jax.grad(jax.checkpoint(loss))(w, x)

    assert _flops(kept, (8, 16), (4, 8)) == 2 * ONE
    assert _flops(redone, (8, 16), (4, 8)) == 3 * ONE


@pytest.mark.parametrize(("trips", "turns"), [((), 1), ((7.0,), 7)])
def test_a_loop_without_a_bound_takes_the_turns_it_is_given(trips, turns):
    def f(h, w):
        return jax.lax.while_loop(lambda h: jnp.sum(h) < 9.0, lambda h: h @ w, h)

    assert _flops(f, (4, 8), (8, 8), trips=trips) == turns * 2 * 4 * 8 * 8


def test_of_branches_the_dearest():
    def f(h, w):
        return jax.lax.cond(jnp.sum(h) > 0, lambda h: h @ w @ w, lambda h: h @ w, h)

    assert _flops(f, (4, 8), (8, 8)) == 2 * 2 * 4 * 8 * 8


def test_a_kernel_is_counted_for_each_block_and_each_device():
    length, width = 256, 16
    heads_of_rows = (2, length, 4, width)

    def traced(sharding=None):
        arrays = [jax.ShapeDtypeStruct(heads_of_rows, jnp.float32, sharding=sharding)] * 3
        segments = jax.ShapeDtypeStruct((2, length), jnp.int32)
        with jax.numpy_rank_promotion("allow"):  # of jax's own code
            attention = jax.jit(lambda q, k, v, segments: attend_splash(q, k, v, RowIds(segments, None)))
            return attention.trace(*arrays, segments).jaxpr

    # Rows x heads x two products of T x T x H, as if no block were hidden.
    whole = 2 * 4 * 2 * 2 * length**2 * width
    assert product_flops(traced()) == whole
    mesh = make_mesh(data=2, tensor=4)
    divided = traced(NamedSharding(mesh, PartitionSpec(("data",), None, "tensor", None)))
    assert any(equation.primitive.name == "shard_map" for equation in divided.eqns)
    assert product_flops(divided) == whole


def test_as_xla_counts_them_where_nothing_loops():
    def f(a, b):
        return jnp.sum(jnp.einsum("nab,nbc->nac", a, b))

    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 64, 128), (3, 128, 256))]
    cost: Any = jax.jit(f).lower(*arrays).compile().cost_analysis()
    # XLA adds the sum over 3 * 64 * 256 results.
    ours = _flops(f, *(array.shape for array in arrays))
    assert ours == pytest.approx(cost["flops"], rel=0.01)
