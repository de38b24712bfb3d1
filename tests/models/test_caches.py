"""Caches in int8, by hand; what is computed from them is in test_attention and test_refill."""

import jax.numpy as jnp
import numpy as np

from alignjax.models.caches import Stored, stored, with_slot


def test_one_scale_for_each_token_and_head():
    # The largest of 2.54 becomes 127 steps of 0.02, and -1.2 becomes -60 of them; zeros have a scale of 1.
    found = stored(jnp.array([[2.54, -1.2, 0.004], [0.0, 0.0, 0.0]]), int8=True)
    assert found.values.dtype == jnp.int8 and found.scale is not None
    np.testing.assert_array_equal(found.values, [[127, -60, 0], [0, 0, 0]])
    np.testing.assert_allclose(found.scale, [0.02, 1.0], rtol=1e-6)


def test_a_slot_is_written_with_its_scale():
    empty = Stored(jnp.zeros((1, 3, 2), jnp.int8), jnp.ones((1, 3)))
    filled = with_slot(empty, jnp.array([[254.0, -254.0]]), jnp.int32(1))
    np.testing.assert_array_equal(filled.values, [[[0, 0], [127, -127], [0, 0]]])
    np.testing.assert_array_equal(filled.scale, [[1.0, 2.0, 1.0]])
    plain = with_slot(Stored(jnp.zeros((1, 3, 2)), None), jnp.array([[0.5, 1.5]]), jnp.int32(2))
    np.testing.assert_array_equal(plain.values, [[[0, 0], [0, 0], [0.5, 1.5]]])
    assert plain.scale is None
