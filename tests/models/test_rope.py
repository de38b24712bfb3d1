import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.models import decode_step, empty_cache, hidden_states, init_params, prefill
from alignjax.models.rope import (
    Rope,
    RopeScaling,
    apply_rope,
    attention_factor,
    check_length,
    frequencies,
    rope_stretch,
    rotary_tables,
)
from alignjax.models.rope_config import read_rope, rope_from_hf, rope_parameters, rope_to_hf

# Of transformers 5.23 (tools/make_rope_goldens.py).
GOLDENS = json.loads((Path(__file__).parent / "goldens" / "rope.json").read_text())
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 16,
    "short_factor": [1.0, 2.0],
    "long_factor": [3, 4.0],
}


def shape(config):
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return {"head_dim": head_dim, "max_positions": config["max_position_embeddings"]}


def read(rope, head_dim=4, max_positions=64):
    return read_rope(rope, head_dim=head_dim, max_positions=max_positions, where="config.json")


@pytest.mark.parametrize("name", GOLDENS)
def test_frequencies_and_multiplier_are_those_of_transformers(name):
    golden = GOLDENS[name]
    rope = rope_from_hf(golden["config"], **shape(golden["config"]), where="config.json")
    ours = frequencies(rope.theta, rope.width, rope.scaling)
    # theirs are float32
    np.testing.assert_allclose(ours, golden["frequencies"], rtol=3e-6)
    assert attention_factor(rope.scaling) == pytest.approx(golden["attention_factor"], rel=1e-12)


@pytest.mark.parametrize("name", GOLDENS)
def test_written_in_the_old_form_and_in_the_new_one(name):
    config = GOLDENS[name]["config"]
    rope = rope_from_hf(config, **shape(config), where="config.json")
    fields = json.loads(json.dumps(rope_to_hf(rope, **shape(config))))
    old = {k: v for k, v in fields.items() if k != "rope_parameters"}
    new = {
        k: v for k, v in fields.items() if k not in ("rope_scaling", "rope_theta", "partial_rotary_factor")
    }
    for form in (fields, old, new):
        assert rope_from_hf(form, **shape(config), where="config.json") == rope
    assert (
        read_rope(rope_parameters(rope, head_dim=shape(config)["head_dim"]), **shape(config), where="")
        == rope
    )


def test_phi3_is_written_as_transformers_4_accepts_it():
    # It wants a type and two lists, and nothing else.
    config = GOLDENS["longrope_phi3"]["config"]
    fields = rope_to_hf(rope_from_hf(config, **shape(config), where=""), **shape(config))
    assert fields["rope_scaling"] == config["rope_scaling"]
    assert fields["original_max_position_embeddings"] == 4096


def test_the_first_names_of_longrope():
    rope = read(LONGROPE)
    assert rope.scaling is not None and rope.scaling.kind == "longrope"
    for name in ("su", "yarn"):
        assert read({"type": name} | {k: v for k, v in LONGROPE.items() if k != "rope_type"}) == rope


def test_frequencies_by_hand():
    # R = 4, theta = 100: 1 and 100^(-1/2).
    np.testing.assert_allclose(frequencies(100.0, 4, None), [1.0, 0.1], rtol=1e-15)
    assert rope_stretch(0.3, RopeScaling("linear", 3.0)) == pytest.approx(0.1)
    # Llama 3 with an original context of 100 tokens: a frequency f makes 100 f / 2 pi turns in it.
    # 8 turns are over the high factor 4: kept. Half a turn is under the low factor 1: divided by 8.
    # 2.5 turns are half way between: the mean of f and f / 8.
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 100)
    f = 2 * math.pi / 100
    assert rope_stretch(8 * f, scaling) == pytest.approx(8 * f)
    assert rope_stretch(0.5 * f, scaling) == pytest.approx(0.5 * f / 8)
    assert rope_stretch(2.5 * f, scaling) == pytest.approx(2.5 * f * (1 + 1 / 8) / 2)


def test_yarn_by_hand():
    # theta = e^8, R = 8: f_i = e^(-2 i). The original context is 2 pi e^4, so that f_i makes e^(4 - 2 i)
    # turns: e^4 (kept: as many as beta_fast), e^2 (half way), 1 = beta_slow and fewer (divided by 2).
    context = round(2 * math.pi * math.e**4)
    scaling = RopeScaling(
        "yarn", 2.0, original_max_positions=context, beta_fast=math.e**4, beta_slow=1.0, truncate=False
    )
    e = math.e
    expected = [1.0, e**-2 * 0.75, e**-4 / 2, e**-6 / 2]
    np.testing.assert_allclose(frequencies(e**8, 8, scaling), expected, rtol=1e-3)  # the context is rounded
    assert attention_factor(scaling) == pytest.approx(1 + 0.1 * math.log(2))


def test_longrope_by_hand():
    # theta = 10000, R = 4: 1 and 0.01, divided by the short factors. The context grows 4 times from 16:
    # the multiplier is sqrt(1 + log 4 / log 16) = sqrt(1.5).
    rope = read(LONGROPE)
    np.testing.assert_allclose(frequencies(rope.theta, rope.width, rope.scaling), [1.0, 0.005], rtol=1e-15)
    assert attention_factor(rope.scaling) == pytest.approx(math.sqrt(1.5))
    assert attention_factor(read(LONGROPE, max_positions=16).scaling) == 1.0


def test_zero_is_the_default_of_an_option_of_yarn():
    assert read(YARN | {"beta_fast": 0, "beta_slow": None, "mscale": 0}) == read(YARN)


def test_texts_beyond_the_original_context_of_longrope_are_refused():
    scaling = read(LONGROPE).scaling
    check_length(scaling, 16)
    check_length(RopeScaling("yarn", 4.0, original_max_positions=16), 17)
    check_length(None, 10**9)
    with pytest.raises(
        InputError, match="rows of 17 tokens are beyond the original context of the model, 16"
    ):
        check_length(scaling, 17)


def test_rows_and_continuations_beyond_the_original_context_are_refused(kinds):
    scaling = RopeScaling(
        "longrope", 2.0, original_max_positions=8, short_factors=(1.5,), long_factors=(4.0,)
    )
    config = dataclasses.replace(kinds["phi3"], rope_scaling=scaling)
    params = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))

    def row(length):
        return jnp.zeros((1, length), jnp.int32)

    def score(length):
        def run(params):
            return hidden_states(config, params, row(length), row(length), row(length))

        return run

    def sample(slots):
        def run(params):
            _, prompt = prefill(config, params, row(5), row(5), row(5))
            cache = empty_cache(config, 1, 1, slots)
            return decode_step(config, params, row(1), row(1), prompt, cache, jnp.int32(0))

        return run

    for of_length, fits in ((score, 8), (sample, 3)):
        jax.eval_shape(of_length(fits), params)
        with pytest.raises(InputError, match="rows of 9 tokens are beyond the original context"):
            jax.eval_shape(of_length(fits + 1), params)


def test_rotation_by_hand():
    # At position 2 the pair (x0, x2) turns by 2 radians and (x1, x3) by 0.2: (1, 0) goes to (cos 2, sin 2),
    # (0, 1) to (-sin 0.2, cos 0.2).
    x = jnp.array([1.0, 0.0, 0.0, 1.0]).reshape(1, 1, 1, 4)
    tables = rotary_tables(jnp.array([[2]]), [1.0, 0.1])
    expected = [math.cos(2), -math.sin(0.2), math.sin(2), math.cos(0.2)]
    np.testing.assert_allclose(apply_rope(x, *tables).ravel(), expected, rtol=1e-6)
    # With neighbours as pairs (1, 0) and (0, 1) are next to each other.
    turned = apply_rope(x, *tables, interleaved=True)
    expected = [math.cos(2), math.sin(2), -math.sin(0.2), math.cos(0.2)]
    np.testing.assert_allclose(turned.ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_only_the_first_entries_rotate_and_both_tables_are_multiplied(interleaved):
    x = jax.random.normal(jax.random.key(0), (2, 3, 2, 10))
    positions = jnp.array([[0, 1, 2], [5, 6, 9]])
    tables = rotary_tables(positions, [1.0, 0.3, 0.1])
    turned = apply_rope(x, *tables, interleaved=interleaved)
    np.testing.assert_array_equal(turned[..., 6:], x[..., 6:])
    np.testing.assert_array_equal(turned[..., :6], apply_rope(x[..., :6], *tables, interleaved=interleaved))
    double = apply_rope(x, *rotary_tables(positions, [1.0, 0.3, 0.1], 2.0), interleaved=interleaved)
    np.testing.assert_allclose(double[..., :6], 2 * turned[..., :6], rtol=1e-6)
    np.testing.assert_array_equal(double[..., 6:], x[..., 6:])


def test_rotation_keeps_norms_and_depends_on_distance_only():
    keys = jax.random.split(jax.random.key(0))
    q, k = (jax.random.normal(key, (1, 1, 1, 4)) for key in keys)

    def turn(x, at):
        return apply_rope(x, *rotary_tables(jnp.array([[at]]), [1.0, 0.1]))

    def score(i, j):
        return float(jnp.sum(turn(q, i) * turn(k, j)))

    np.testing.assert_allclose(score(7, 3), score(104, 100), rtol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(turn(q, 31)), jnp.linalg.norm(q), rtol=1e-6)


def test_one_object_for_each_type_of_layer():
    kinds = {"full_attention": {"rope_theta": 7.0}, "sliding_attention": {"rope_theta": 5.0}}
    fields = {"rope_parameters": kinds}
    for layer_type, theta in (("full_attention", 7.0), ("sliding_attention", 5.0)):
        rope = rope_from_hf(fields, head_dim=4, max_positions=9, where="c", layer_type=layer_type)
        assert rope == Rope(theta, None, 4)
    with pytest.raises(InputError, match=r"c: .* has an object for each type of layer, but none for a model"):
        rope_from_hf(fields, head_dim=4, max_positions=9, where="c")


def test_old_and_new_forms_must_agree():
    fields = {
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "linear", "factor": 3.0},
    }
    with pytest.raises(InputError, match=r'"factor" is 2.0 in rope_scaling and 3.0 in rope_parameters'):
        rope_from_hf(fields, head_dim=4, max_positions=9, where="c")
    fields["rope_parameters"]["factor"] = 2.0
    assert rope_from_hf(fields, head_dim=4, max_positions=9, where="c").scaling == RopeScaling("linear", 2.0)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, 'rope type "dynamic" is not supported, because its freq'),
        ({"rope_type": "mrope"}, 'rope type "mrope" is not supported; use default, linear, llama3, yarn'),
        ({"rope_type": ["yarn"]}, "is not supported"),
        ({"rope_type": "yarn", "original_max_position_embeddings": 8}, '"factor"; found None'),
        (YARN | {"factor": "4"}, "needs a positive number \"factor\"; found '4'"),
        (YARN | {"beta_fast": -1}, 'needs a positive number "beta_fast"; found -1'),
        (YARN | {"attention_factor": 0}, 'needs a positive number "attention_factor"; found 0'),
        (YARN | {"attention_factor": True}, 'needs a positive number "attention_factor"; found True'),
        (YARN | {"original_max_position_embeddings": 1.5}, "original_max_position_embeddings is below 2"),
        (YARN | {"rope_theta": 1.0}, '"rope_theta" is 1, must be above 1'),
        (YARN | {"rope_theta": 10**400}, '"rope_theta" is 1000'),
        (YARN | {"factor": math.nan}, 'needs a positive number "factor"; found nan'),
        (LONGROPE | {"short_factor": [1.0]}, 'needs a list "short_factor" of 2 positive numbers, one for'),
        (LONGROPE | {"long_factor": None}, 'needs a list "long_factor" of 2 positive numbers'),
        (LONGROPE | {"long_factor": [1.0, 0.0]}, 'needs a list "long_factor" of 2 positive numbers'),
        (LONGROPE | {"short_factor": [1.0, 1e-320]}, "no finite numbers"),
        (LONGROPE | {"original_max_position_embeddings": None}, '"original_max_position_embeddings"; found'),
        ({"partial_rotary_factor": 0.3}, "partial_rotary_factor is 0.3, so that 1 of the 4 entries"),
        ({"partial_rotary_factor": 2}, "partial_rotary_factor is 2, so that 8 of the 4 entries"),
        ({"partial_rotary_factor": 0}, '"partial_rotary_factor" is 0, must be a positive number'),
    ],
)
def test_what_cannot_be_used_is_refused(rope, message):
    with pytest.raises(InputError) as caught:
        read(rope)
    assert message in str(caught.value) and str(caught.value).startswith("config.json: ")
