import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models.config import DecoderConfig
from alignjax.models.layers import layer_kinds, layer_ropes, layer_windows, norm_widths, of_layer
from alignjax.models.rope import RopeScaling

SHAPE = ("llama", 11, 8, 12, 4, 2, 1, 4)  # four layers, two query heads and one key head of width 4
POSITIONS = jnp.array([[0, 3]])


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({}, {"attn_norm": 8, "mlp_norm": 8}),
        ({"norm_order": "parallel"}, {"attn_norm": 8}),
        ({"norm_order": "after"}, {"attn_post_norm": 8, "mlp_post_norm": 8}),
        (
            {"norm_order": "both"},
            dict.fromkeys(("attn_norm", "mlp_norm", "attn_post_norm", "mlp_post_norm"), 8),
        ),
        ({"qk_norm": "head"}, {"attn_norm": 8, "mlp_norm": 8, "q_norm": 4, "k_norm": 4}),
        ({"qk_norm": "projection"}, {"attn_norm": 8, "mlp_norm": 8, "q_norm": 8, "k_norm": 4}),
    ],
)
def test_the_norms_of_a_layer(options, widths):
    assert norm_widths(DecoderConfig(*SHAPE, **options)) == widths


def test_equal_layers_choose_nothing():
    config = DecoderConfig(*SHAPE, sliding_window=5)
    assert layer_kinds(config) is None
    assert layer_windows(config) == (5,) and layer_windows(DecoderConfig(*SHAPE)) == (None,)
    tables = layer_ropes(config, POSITIONS)
    assert len(tables) == 1 and of_layer(None, tables, ["mask"]) == (tables[0], "mask")


def test_each_layer_gets_its_tables_and_its_mask():
    config = DecoderConfig(
        *SHAPE,
        rope_theta=100.0,
        rope_scaling=RopeScaling("linear", 2.0),
        sliding_window=5,
        window_layers=(True, False, True, False),
        rope_layers=(True, True, True, False),
        window_rope_theta=16.0,
    )
    kinds, windows = layer_kinds(config), layer_windows(config)
    assert kinds is not None and windows == (5, None)
    masks = [jnp.array([True, False]), jnp.array([True, True])]
    # At position 3: base 16 and H = 4 give 1 and 1/4 radians per token, base 100 divided by 2 gives 0.5 and
    # 0.05, and the last layer does not rotate.
    angles = [[3, 0.75], [1.5, 0.15], [3, 0.75], [0, 0]]
    for layer, (angle, window) in enumerate(zip(angles, [5, None, 5, None], strict=True)):
        kind = type(kinds)(kinds.windowed[layer], kinds.rope[layer])
        (cos, sin), mask = of_layer(kind, layer_ropes(config, POSITIONS), masks)
        np.testing.assert_allclose(cos[0, 1], np.cos(angle), rtol=1e-5)
        np.testing.assert_allclose(sin[0, 1], np.sin(angle), rtol=1e-5, atol=1e-7)
        assert mask.tolist() == [True, window is None]
