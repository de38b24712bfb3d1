import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignjax.data.buckets import Bucket, RowCost
from alignjax.data.shared_rows import (
    Branches,
    RowShapes,
    branches_of,
    choose_row_shapes,
    make_shared_rows,
    responses_per_row,
    rows_per_batch,
    shared_batches,
)
from alignjax.data.tokenize import TokenizedResponse
from alignjax.errors import InputError

FREE = RowCost(0.0, 0.0)  # no work but that of tokens


def of(*rows):
    """(prompt, response) as lists of ids."""
    return [TokenizedResponse(np.array(prompt, np.int32), np.array(ids, np.int32)) for prompt, ids in rows]


def sized(*rows):
    """(number of the prompt, its length, length of the response)."""
    return [TokenizedResponse(np.full(length, k), np.ones(size, np.int32)) for k, length, size in rows]


def test_one_row_by_hand():
    # A prompt of 2 in 3 places, responses of 2, 0 and 1 tokens in 2 places each.
    group = of(([7, 8], [5, 0]), ([7, 8], []), ([7, 8], [6]))
    rows = make_shared_rows([group], Branches(3, 3, 2), 2)
    assert rows.tokens.tolist() == [[7, 8, 0, 5, 0, 0, 0, 6, 0], [0] * 9]
    assert rows.positions.tolist() == [[0, 1, 0, 2, 3, 0, 0, 2, 0], [0] * 9]
    assert rows.segment_ids.tolist() == [[1, 1, 0, 1, 1, 0, 0, 1, 0], [0] * 9]
    assert rows.branch_ids.tolist() == [[0, 0, 0, 1, 1, 0, 0, 3, 0], [0] * 9]
    assert rows.target_index.tolist() == [[1, 3, 1, 0, 0, 0], [0] * 6]
    assert rows.targets.tolist() == [[5, 0, 6, 0, 0, 0], [0] * 6]
    assert rows.target_slot.tolist() == [[0, 0, 2, -1, -1, -1], [-1] * 6]
    assert branches_of(rows, 3) == (3, 3, 2) and branches_of(rows, 1) is None


IDS = st.lists(st.integers(0, 2), min_size=1, max_size=3)
RESPONSES = st.lists(st.tuples(IDS, st.lists(st.integers(0, 2), max_size=9)), min_size=1, max_size=25)


@settings(deadline=None, max_examples=40)
@given(rows=RESPONSES, batch_size=st.integers(1, 20), parts=st.sampled_from([1, 2]))
def test_every_response_is_in_one_slot_behind_its_own_prompt(rows, batch_size, parts):
    responses, batch_size = of(*rows), batch_size * parts
    for count in (1, 2, 8):
        # Shapes that hold everything: 3 tokens of a prompt, 9 of a response.
        shapes = RowShapes(count, (Bucket(3 + 9 * count, 9 * count),))
        num_rows = rows_per_batch(responses, shapes, batch_size=batch_size, parts=parts)
        assert num_rows % parts == 0 and num_rows * count <= max(batch_size, parts * count)
        seen = []
        for batch in shared_batches(responses, shapes, num_rows=num_rows):
            assert responses_per_row(batch) == count and batch.rows.tokens.shape[0] == num_rows
            slots = zip(batch.weights.reshape(-1, count), batch.indices.reshape(-1, count), strict=True)
            for i, (weights, indices) in enumerate(slots):
                for slot in np.flatnonzero(weights):
                    response = responses[indices[slot]]
                    seen.append(indices[slot])
                    mine = batch.rows.target_slot[i] == slot
                    assert batch.rows.targets[i][mine].tolist() == response.response_ids.tolist()
                    before = batch.rows.tokens[i][batch.rows.target_index[i][mine]].tolist()
                    assert before == [*response.prompt_ids[-1:], *response.response_ids][: len(before)]
                    prompt = (batch.rows.segment_ids[i] > 0) & (batch.rows.branch_ids[i] == 0)
                    if count > 1:
                        assert batch.rows.tokens[i][prompt].tolist() == response.prompt_ids.tolist()
        assert sorted(seen) == list(range(len(responses)))


def test_responses_of_similar_lengths_share_rows():
    """Of five responses the shortest is in the row that is not full: 2 x 40 and 2 x 8 and 2 x 8 places."""
    responses = sized(*((1, 16, size) for size in (7, 40, 2, 39, 8)))
    shapes = RowShapes(2, (Bucket(16 + 16, 16), Bucket(16 + 80, 80)))
    held = [
        (batch.rows.tokens.shape[1], np.asarray(batch.indices)[batch.weights > 0].tolist())
        for batch in shared_batches(responses, shapes, num_rows=1)
    ]
    assert held == [(32, [4, 0]), (32, [2]), (96, [1, 3])]


@pytest.mark.parametrize(
    ("rows", "batch_size", "count"),
    [
        ([(k, 256, 96) for k in range(4) for _ in range(16)], 16, 16),
        ([(k, 256, 96) for k in range(4) for _ in range(16)], 8, 8),  # no row is more than a batch
        ([(k, 256, 96) for k in range(4) for _ in range(3)], 16, 4),  # 256 + 4 x 96 instead of two rows
        ([(k, 16, 96) for k in range(4) for _ in range(3)], 16, 1),  # here an empty slot is too dear
        ([(k, 256, 96) for k in range(9)], 16, 1),
    ],
)
def test_the_number_of_responses_a_row_is_what_saves_most(rows, batch_size, count):
    shapes = choose_row_shapes(sized(*rows), FREE, batch_size=batch_size)
    assert shapes.number == count


def test_shapes_are_divided_by_prompts_or_by_responses_whichever_pads_less():
    # Long prompts have short responses, so that no shape that holds all rows is small.
    prompts = [(k, 16 if k % 2 else 160, 8) for k in range(8) for _ in range(4)]
    by_prompt = choose_row_shapes(sized(*prompts), FREE, batch_size=16, num_buckets=2)
    assert by_prompt == (4, (Bucket(16 + 32, 32), Bucket(160 + 32, 32)))
    responses = [(k, 16, 8 if k % 2 else 160) for k in range(8) for _ in range(4)]
    by_response = choose_row_shapes(sized(*responses), FREE, batch_size=4, num_buckets=2)
    assert by_response == (4, (Bucket(16 + 32, 32), Bucket(16 + 640, 640)))
    # A compilation may cost more than it saves, and fewer may be allowed.
    dear = choose_row_shapes(sized(*prompts), RowCost(0.0, 1e6), batch_size=16, num_buckets=2)
    assert len(dear.buckets) == 1
    assert choose_row_shapes(sized(*prompts), FREE, batch_size=16, num_buckets=1).buckets == dear.buckets


def test_a_kernel_that_computes_whole_squares_wants_fewer_responses_a_row():
    # A token costs 1, a score 0.01. Rows of 1, 2, 4 responses have 64, 80, 112 tokens, so that each response
    # costs 64 + 41, 40 + 32, 28 + 31.4; with eight of them in 176 tokens 22 + 38.7.
    responses = sized(*[(0, 48, 16)] * 8)
    cost = RowCost(0.01, 0.0)
    assert choose_row_shapes(responses, cost, batch_size=8, masked=True).number == 4
    assert choose_row_shapes(responses, cost, batch_size=8).number == 8


def test_errors():
    with pytest.raises(InputError, match="row 0 of a batch has no prompt tokens"):
        make_shared_rows([of(([], [1]))], Branches(2, 2, 2), 1)
    with pytest.raises(InputError, match="a prompt of 1 tokens and 2 responses of up to 3; it holds"):
        make_shared_rows([of(([1], [1, 2, 3]), ([1], []))], Branches(2, 2, 2), 1)
    with pytest.raises(InputError, match="there are no rows"):
        choose_row_shapes([], FREE, batch_size=2)
