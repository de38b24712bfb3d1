"""Products with the thin matrices of adapters."""

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_vjp
def thin_product(x: Array, w: Array) -> Array:
    """Returns x w, where one side of w is the rank of an adapter.

    The gradient of w sums over the rows of x and of the result. It is computed with the thin one of them on
    the left, which is the one that a compiler transposes for it: transposing the other one, and with it what
    is elementwise before it, takes longer than the product with the frozen weights.

    Args:
      x: [..., D].
      w: [D, F], in the dtype of x.

    Returns:
      [..., F].
    """
    return jnp.einsum("...d,df->...f", x, w)


def _forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return thin_product(x, w), (x, w)


def _backward(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, w = kept
    rows = tuple(range(x.ndim - 1))
    sums = (rows, rows), ((), ())
    if x.shape[-1] <= slope.shape[-1]:
        of_w = jax.lax.dot_general(x, slope, sums)
    else:
        of_w = jax.lax.dot_general(slope, x, sums).T
    return jnp.einsum("...f,df->...d", slope, w), of_w


thin_product.defvjp(_forward, _backward)
