"""What a plain call refuses, and in which words."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.dual.arguments import Inputs, check_beta, checked, floats, is_traced, on_host
from alignjax.errors import InputError

R, G = np.zeros((2, 3)), np.zeros((2, 3, 1))


def put(array: np.ndarray, at: Any, value: float) -> np.ndarray:
    array = array.copy()
    array[at] = value
    return array


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "rewards flat": (
        {"rewards": R[0]},
        r"rewards has shape \(3,\), must be \[prompts, samples\], neither of them 0",
    ),
    "rewards empty": ({"rewards": R[:0]}, r"rewards has shape \(0, 3\)"),
    "utilities": ({"utilities": G[:, :2]}, r"utilities has shape \(2, 2, 1\).*shape \(2, 3\).*stack them"),
    "no constraint": ({"utilities": G[..., :0]}, r"utilities has shape \(2, 3, 0\)"),
    "mask": ({"mask": np.ones(3, bool)}, r"mask has shape \(3,\), must be \(2, 3\)"),
    "masked prompt": (
        {"mask": np.array([[1, 0, 0], [0, 0, 0]], bool)},
        "prompt 1 has no sample left.*unmask one",
    ),
    "importance 0": ({"importance": put(np.ones((2, 3)), 0, 0)}, "prompt 0 has no sample left"),
    "reward nan": (
        {"rewards": put(R, (1, 2), np.nan)},
        r"rewards\[1, 2\] is nan \(prompt 1, sample 2, 1 in all\)",
    ),
    "utility inf": (
        {"utilities": put(G, (0, 1, 0), np.inf)},
        r"utilities\[0, 1, 0\] is inf \(prompt 0, sample 1",
    ),
    "weights shape": ({"prompt_weights": np.ones(3)}, r"prompt_weights has shape \(3,\), must be \(2,\)"),
    "weights < 0": (
        {"prompt_weights": np.array([1, -2])},
        r"prompt_weights\[1\] is -2.0, must be finite and at least 0",
    ),
    "weights nan": ({"importance": put(np.ones((2, 3)), (1, 0), np.nan)}, r"importance\[1, 0\] is nan"),
    "weights 0": ({"prompt_weights": np.zeros(2)}, "prompt_weights is 0 everywhere; give some prompt"),
    "margins": (
        {"vectors": {"margins": np.ones(2)}},
        r"margins has shape \(2,\), must be \(1,\), one number",
    ),
    "margins nan": ({"vectors": {"margins": [np.nan]}}, r"margins is \[nan\], must be finite"),
    "start": ({"vectors": {"start": [-1.0]}}, r"start is \[-1.0\], must be at least 0"),
    "lams": ({"vectors": {"lams": [1.0]}}, r"lams has shape \(1,\), must be \(points, 1\)"),
    "sweep": ({"vectors": {"sweep": np.ones((2, 3))}}, r"margins has shape \(2, 3\), must be \(points, 1\)"),
    "no point": ({"vectors": {"lams": np.ones((0, 1))}}, r"lams has shape \(0, 1\)"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_errors_name_the_function_the_value_and_the_remedy(changes, message):
    with pytest.raises(InputError, match=f"^dual.solve: .*{message}") as caught:
        checked(Inputs(R, G)._replace(**changes), "dual.solve")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("beta", [0, -1.0, np.nan, np.inf, [1.0, 2.0]])
def test_beta(beta):
    with pytest.raises(InputError, match=r"^dual.solve: beta is .* must be a finite number greater than 0"):
        check_beta(beta, "dual.solve")


def test_good_inputs_become_float64_but_float32_scores_and_nan_where_absent_passes():
    inputs = Inputs(
        put(R, (0, 0), np.nan).astype(np.float32),
        put(G, (0, 0, 0), np.inf).tolist(),
        np.array([[0, 1, 1], [1, 1, 1]]),
        [1, 2],
        vectors={"margins": [-1], "levels": None},
    )
    found = checked(inputs, "dual.solve")
    assert found.rewards.dtype == np.float32
    assert found.utilities.dtype == found.prompt_weights.dtype == np.float64
    assert found.mask.dtype == bool and found.importance is None
    assert list(found.vectors) == ["margins"] and found.vectors["margins"].tolist() == [-1.0]
    assert check_beta(np.float32(0.5), "dual.solve") == 0.5


def test_traced_is_seen_anywhere_in_a_tree():
    seen = []
    jax.make_jaxpr(lambda x: seen.append(is_traced(Inputs(R, G, vectors={"start": x}))) or x)(jnp.ones(1))
    assert seen == [True] and not is_traced(Inputs(R, G))


@pytest.mark.parametrize(("kind", "expected"), [(jnp.float16, jnp.float32), (jnp.float32, jnp.float32)])
def test_floats_takes_the_rewards_type_and_at_least_float32(kind, expected):
    found = floats(
        Inputs(R.astype(kind), G, None, np.ones(2), vectors={"margins": np.ones(1), "levels": None})
    )
    assert found.rewards.dtype == found.utilities.dtype == found.prompt_weights.dtype == expected
    assert found.vectors["margins"].dtype == expected and found.vectors["levels"] is None


def test_on_host_is_float64_inside_and_as_before_outside():
    with on_host():
        inside = jnp.asarray(1.0)
    assert inside.dtype == jnp.float64 and inside.devices() == {jax.devices("cpu")[0]}
    assert jnp.asarray(1.0).dtype == jnp.float32
