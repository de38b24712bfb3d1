"""How many continuations are drawn together, by sums on paper; draws do not depend on it."""

import jax
import numpy as np
import pytest

from alignjax.models import DecoderConfig, Model, init_params
from alignjax.policy import batch_sizing, sample
from alignjax.runtime.mesh import make_mesh

GIB = 2**30
LLAMA_7B = DecoderConfig("llama", 32000, 4096, 11008, 32, 32, 32, 128, dtype="bfloat16")
SMALL = DecoderConfig("llama", 11, 16, 32, 2, 4, 2, 8, eos_ids=(2,))
PROMPTS = [np.array(ids, np.int32) for ids in ([1, 3, 4], [5] * 7, [1])]


@pytest.mark.parametrize(("samples", "prompts"), [(1, 128), (16, 8), (100, 1), (128, 1), (4096, 1)])
def test_without_a_limit_about_128_rows(samples, prompts):
    assert batch_sizing.drawn_together(SMALL, samples, 20, 16, None, None) == (prompts, samples)


def test_published_setting_on_a_chip_of_16_gib():
    # Weights: 32 (4 x 4096^2 + 3 x 4096 x 11008) + 2 x 32000 x 4096 = 6.738e9 of 2 bytes are 12.551 GiB; of
    # 15.75 GiB less a sixteenth 2.215 are left. A token's keys and values take 2 x 32 x 32 x 128 x 2 bytes =
    # 0.5 MiB, a row of 255 slots 127.5 MiB, a prompt of 256 tokens 128 MiB: 16 rows take 2.117 GiB with their
    # prompt, 32 rows 4.1.
    assert batch_sizing.num_weights(LLAMA_7B) == 6_738_149_376
    one = batch_sizing.drawn_together(LLAMA_7B, 128, 256, 256, None, int(15.75 * GIB))
    assert (
        batch_sizing.cache_bytes(LLAMA_7B, batch_sizing.Together(1, 16), 256, 256)
        == 16 * 255 * 2**19 + 256 * 2**19
    )
    assert one == (1, 16)
    # Shorter responses leave room for more of them, and so does a larger chip.
    assert batch_sizing.drawn_together(LLAMA_7B, 128, 128, 256, None, int(15.75 * GIB)) == (1, 32)
    assert batch_sizing.drawn_together(LLAMA_7B, 128, 256, 256, None, int(72 * GIB)) == (1, 128)
    assert batch_sizing.drawn_together(LLAMA_7B, 128, 256, 256, None, GIB) == (1, 1)


def test_on_a_mesh_parts_have_rows_of_their_own_and_share_the_weights():
    # fsdp 4 and tensor 2: an eighth of the weights and half of the cache a device.
    mesh = make_mesh(1, 4, 2)
    assert batch_sizing.drawn_together(LLAMA_7B, 128, 256, 256, mesh, int(15.75 * GIB)) == (4, 128)
    assert batch_sizing.drawn_together(LLAMA_7B, 128, 256, 256, mesh, 3 * GIB) == (4, 16)


def test_samples_are_divided_evenly():
    # Room for 4 rows: 6 samples are drawn by threes.
    memory = 0
    while batch_sizing.drawn_together(SMALL, 6, 9, 16, None, memory).samples < 3:
        memory += 1024
    assert batch_sizing.drawn_together(SMALL, 6, 9, 16, None, memory) == (1, 3)


@pytest.mark.parametrize("limit", ["one row", "four rows"])
def test_draws_do_not_depend_on_the_room(monkeypatch, limit):
    model = Model(init_params(jax.random.key(0), SMALL), SMALL)
    options = {"num_samples": 7, "max_new_tokens": 5, "top_p": 0.9}
    whole = sample(jax.random.key(1), model, PROMPTS, **options)
    together = batch_sizing.Together(1, 1) if limit == "one row" else batch_sizing.Together(2, 4)
    monkeypatch.setattr(batch_sizing, "drawn_together", lambda *_: together)
    found = sample(jax.random.key(1), model, PROMPTS, **options)
    np.testing.assert_array_equal(found.tokens, whole.tokens)
    np.testing.assert_array_equal(found.lengths, whole.lengths)
    np.testing.assert_allclose(found.logps, whole.logps, atol=1e-5)


def test_limits_are_whole_quarters():
    assert batch_sizing.rounded(15.76 * GIB) == 15.75 * GIB and batch_sizing.rounded(15.7 * GIB) == 15.5 * GIB
    assert batch_sizing.memory_of(None) is None  # a CPU does not say
