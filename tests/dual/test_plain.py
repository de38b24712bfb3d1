"""Plain calls: which programs they compile, and that the same functions can be traced."""

import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import dual
from alignjax.dual import samples
from alignjax.dual.arguments import on_host
from alignjax.dual.plain import aligned, compiled, module_of, on_all_cores, room_for

# Programs of an answer with resamples, two of them for samples and for quarters of these. More, or one twice,
# and `alignjax solve` starts later: each takes 0.2 to 1 s to compile. JAX's own random numbers take up to 3.
PROGRAMS = ["_newton", "describe", "describe", "prompt_moments"]


def test_an_answer_compiles_these_programs_and_for_another_question_none(make_problem, caplog):
    rewards, utilities = make_problem(4, n=11, k=18, m=1)  # a shape of this test alone

    def answered(margin: float) -> dual.DualAnswer:
        asked = [dual.Asked(margin)]
        return dual.answer(rewards, utilities, names=("g",), asked=asked, beta=0.5, num_resamples=3)

    with jax.log_compiles():
        answered(0.2)
        found = sorted(re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text))
        caplog.clear()
        answered(0.3)
        again = re.findall(r"Finished XLA compilation", caplog.text)
    assert [name for name in found if name in PROGRAMS] == PROGRAMS
    assert len(found) <= len(PROGRAMS) + 3 and again == []


def test_a_table_too_large_to_be_kept_twice_is_solved_the_same(make_problem, monkeypatch):
    """5 prompts of 9 samples, in chunks of 2 and of 1; the shape is of this test alone."""
    rewards, utilities = (x.astype(np.float32) for x in make_problem(3, n=5, k=9, m=1))
    given = {"beta": 0.7, "margins": [0.2], "mask": np.arange(45).reshape(5, 9) % 4 > 0}
    with monkeypatch.context() as patch:
        patch.setattr(samples, "CHUNK_ELEMENTS", 18)
        patch.setattr(samples, "_NUMPY_ELEMENTS", 9)
        parts = dual.solve(rewards, utilities, **given)
    whole = dual.solve(rewards, utilities, **given)
    for a, b in zip(parts, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_compiled_function_gives_numpy_in_the_types_given_and_is_traced_as_it_is():
    @compiled
    def halves(x):
        return x / 2

    found = halves(np.array([1.0, 3.0]))
    assert isinstance(found, np.ndarray) and found.dtype == np.float64 and found.tolist() == [0.5, 1.5]
    traced = jax.jit(lambda x: halves(x) + 1)(jnp.array([1.0, 3.0], jnp.float32))
    assert traced.dtype == jnp.float32 and traced.tolist() == [1.5, 2.5]


def test_jax_wherever_one_value_is_its_own():
    assert module_of(np.ones(2), 1.0, {"none": None}) is np
    assert module_of(np.ones(2), [jnp.ones(2)]) is jnp


@pytest.mark.parametrize("array", [np.arange(7.0)[1:], np.arange(12, dtype=np.float32).reshape(3, 4).T])
def test_aligned_arrays_hold_the_same_and_programs_read_them_in_place(array):
    out = aligned(array)
    np.testing.assert_array_equal(out, array)
    assert out.flags.c_contiguous and out.dtype == array.dtype and aligned(out) is out
    room = room_for((64, 3), np.float64)
    with on_host():
        assert jax.device_put(room).unsafe_buffer_pointer() == room.ctypes.data


def test_all_cores_keep_the_order_and_hand_on_what_is_raised():
    lock, seen = threading.Lock(), set()

    def work(number: int) -> np.ndarray:
        with lock:
            seen.add(number)
        return np.log(np.array(0.0)) + number  # no warning: as on the caller's own thread

    found = on_all_cores(work, 23)
    assert seen == set(range(23)) and np.isneginf(found).all()
    assert on_all_cores(lambda number: number**2, 23) == [number**2 for number in range(23)]
    with pytest.raises(ZeroDivisionError):
        on_all_cores(lambda number: 1 // (number - 5), 23)
