"""Columns and rows of the sampler, by sums on paper; draws do not depend on them (see test_refill)."""

import dataclasses

import pytest

from alignjax.models import DecoderConfig
from alignjax.planning.architectures import SHAPES
from alignjax.policy import batch_sizing
from alignjax.policy.batch_sizing import Asked, Grid, busy_share
from alignjax.runtime.mesh import make_mesh

GIB = 2**30
LLAMA_7B = DecoderConfig("llama", 32000, 4096, 11008, 32, 32, 32, 128, dtype="bfloat16")
PUBLISHED = Asked(num_prompts=1000, num_samples=128, max_new_tokens=256, width=256)


def grid_of(config, asked, mesh=None, memory=None, *, bodies=1, int8=False):
    return batch_sizing.grid_of(config, asked, mesh, memory, bodies=bodies, int8=int8)


def test_published_setting_on_a_chip_of_16_gib():
    # Weights: 32 (4 x 4096^2 + 3 x 4096 x 11008) + 2 x 32000 x 4096 = 6.738e9 of 2 bytes are 12.551 GiB; of
    # 15.75 GiB less a sixteenth 2.215 are left. A token's keys and values take 2 x 32 x 32 x 128 x 2 bytes =
    # 0.5 MiB, a row of 256 slots and a prompt of 256 tokens 128 MiB each: one column of 16 rows takes 2.125
    # GiB with its prompt; two columns of 12 rows would take 3.2.
    assert batch_sizing.num_weights(LLAMA_7B) == 6_738_149_376
    assert batch_sizing.cache_bytes(LLAMA_7B, Grid(1, 2, 16, 1), 256, 256) == 2 * (16 * 256 + 256) * 2**19
    assert grid_of(LLAMA_7B, PUBLISHED, memory=int(15.75 * GIB)) == (1, 1, 16, 1)
    # Weights of half the bytes leave room for more rows, and so does a larger chip: up to 256.
    small = dataclasses.replace(LLAMA_7B, weights="int8")
    eight = grid_of(small, PUBLISHED, memory=int(15.75 * GIB))
    assert eight.columns * eight.rows == 60
    both = grid_of(small, PUBLISHED, memory=int(15.75 * GIB), int8=True)
    assert both.columns * both.rows == 112
    # Of three bodies a row takes three times as much, and is counted three times.
    product = grid_of(small, PUBLISHED, memory=int(15.75 * GIB), bodies=3, int8=True)
    held = batch_sizing.cache_bytes(small, product, 256, 256, 3, int8=True)
    assert 1 <= product.columns * product.rows <= 112 // 9
    assert 3 * held <= 15.75 * GIB * 15 / 16 - batch_sizing.weight_bytes(small)
    large = grid_of(LLAMA_7B, PUBLISHED, memory=72 * GIB)
    assert large.columns * large.rows == 256 and large.rows < 16
    assert grid_of(LLAMA_7B, PUBLISHED, memory=GIB) == (1, 1, 1, 1)


def test_int8_takes_a_scale_for_each_token_and_head():
    # Per token 2 x 32 x 32 heads of 128 bytes and 4 for the scale.
    assert batch_sizing.cache_bytes(LLAMA_7B, Grid(1, 1, 2, 1), 11, 5, 3, int8=True) == 3 * 37 * 2048 * 132


@pytest.mark.parametrize("asked", [Asked(3, 2, 20, 16), Asked(1000, 1, 20, 16), Asked(1, 4000, 2, 16)])
def test_without_a_limit_at_most_128_rows_and_no_more_than_are_asked_for(asked):
    grid = grid_of(LLAMA_7B, asked)
    rows = grid.columns * grid.rows
    assert rows <= min(128, asked.num_prompts * asked.num_samples)
    assert grid.columns <= asked.num_prompts and grid.rows <= asked.num_samples
    assert grid.columns % grid.group == 0 and rows >= 6


@pytest.mark.parametrize(("asked", "rows"), [(Asked(8, 8, 32, 48), 8), (Asked(16, 8, 64, 64), 8)])
def test_rows_of_short_responses_are_not_idle_where_all_are_cut_off(asked, rows):
    # 6 rows for 8 samples would take two rounds, and idle in a third of them where no response ends early.
    shape = SHAPES["smollm2-135m"]
    grid = grid_of(shape, asked)
    assert grid.rows == rows and busy_share(grid, asked.num_samples, asked.max_new_tokens, 64) == 1.0
    # Long ones take turns: half of the rows wait less for the longest sample of a column.
    assert grid_of(shape, asked._replace(max_new_tokens=256)).rows < rows


def test_on_a_mesh_parts_have_rows_of_their_own_and_share_the_weights():
    # fsdp 4 and tensor 2: an eighth of the weights and half of the cache a device. In 15.75 GiB a part has
    # room for 256 rows beside its prompts: (256 + columns) x 64 MiB are at most 13.2 GiB.
    mesh = make_mesh(1, 4, 2)
    grid = grid_of(LLAMA_7B, PUBLISHED, mesh, int(15.75 * GIB))
    needed = batch_sizing.cache_bytes(LLAMA_7B, grid, 256, 256) / 2
    assert grid.parts == 4 and 100 < grid.columns * grid.rows <= 256
    assert needed + 2 * 6_738_149_376 / 8 <= 15.75 * GIB * 15 / 16
    tight = grid_of(LLAMA_7B, PUBLISHED, mesh, 3 * GIB)
    assert tight.columns * tight.rows < 20


def test_busy_share_by_hand():
    # Six samples of equal length by rows of one column: two rows take three rounds, four rows two, of which
    # the second is half empty.
    assert busy_share(Grid(1, 3, 2, 1), 6, 10, 10) == 1.0
    assert busy_share(Grid(1, 3, 4, 1), 6, 10, 10) == pytest.approx(6 / 8)
    # One sample in each column and no limit that matters: lengths are geometric. A row of its own never
    # waits. Of two columns in a group the longer one counts: its mean is 2 m - 1 / (2 p - p^2), p = 1 / m.
    m = 50.0
    longer = 2 * m - 1 / (2 / m - 1 / m**2)
    assert busy_share(Grid(1, 2, 1, 1), 1, 5000, m) == 1.0
    assert busy_share(Grid(1, 2, 1, 2), 1, 5000, m) == pytest.approx(m / longer, rel=0.05)


def test_steps_of_a_group():
    # Two groups of one column with two rows draw six samples of 10 tokens in 30 steps each, in turn.
    assert batch_sizing.steps_of_group(Grid(1, 2, 2, 1), 6, 10, 10) == 15.0
    assert batch_sizing.steps_of_group(Grid(1, 2, 2, 2), 6, 10, 10) == 30.0


@pytest.mark.parametrize("mean", [1.0, 3.0, 19.5, 20.0])
def test_lengths_have_the_mean_that_is_asked_for(mean):
    ends = batch_sizing._ending(mean, 20)
    assert sum((1 - ends) ** t for t in range(20)) == pytest.approx(mean, rel=1e-6)


def test_limits_are_whole_quarters():
    assert batch_sizing.rounded(15.76 * GIB) == 15.75 * GIB and batch_sizing.rounded(15.7 * GIB) == 15.5 * GIB
    assert batch_sizing.memory_of(None) is None  # a CPU does not say
