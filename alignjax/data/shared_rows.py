"""Rows of one prompt and several responses to it, for forward passes over given responses.

The prompt is read once for all M responses of its row. Its tokens begin at place 0, those of response s at
place P + s r; what a part leaves over is padding. Since the parts have fixed places, attention needs no mask
of the whole row: the prompt sees itself, and a response sees the prompt and itself (`models.branches`).

Letters: B rows, M responses per row, P places of the prompt, r of each response, T = P + M r tokens and
R = M r targets per row.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.data.batches import (
    ResponseBatch,
    Rows,
    empty_rows,
    response_batch,
    response_lengths,
)
from alignjax.data.buckets import Bucket, RowCost, choose_buckets, plan_batches
from alignjax.data.tokenize import TokenizedResponse
from alignjax.errors import InputError

MOST = 16  # responses per row: with more of them, little of a row is left that sharing could save


class Branches(NamedTuple):
    """Places of a prompt and its responses in a row.

    Attributes:
      prompt: P.
      number: M, responses per row.
      length: r, places of each response.
    """

    prompt: int
    number: int
    length: int

    @property
    def bucket(self) -> Bucket:
        """The shape of the row: T tokens and R targets."""
        targets = self.number * self.length
        return Bucket(self.prompt + targets, targets)

    def ids(self) -> np.ndarray:
        """[T] int32, 0 in the prompt's places and s + 1 in those of response s."""
        of_responses = np.repeat(np.arange(1, self.number + 1, dtype=np.int32), self.length)
        return np.concatenate([np.zeros(self.prompt, np.int32), of_responses])


def branches_of(rows: Rows, count: int) -> Branches | None:
    """The places in rows of M = `count` responses, from shapes alone; None for one, which has no branches."""
    if count == 1:
        return None
    tokens, targets = rows.tokens.shape[1], rows.targets.shape[1]
    return Branches(tokens - targets, count, targets // count)


def responses_per_row(batch: ResponseBatch) -> int:
    """M of a batch, from shapes alone."""
    return batch.weights.shape[0] // batch.rows.tokens.shape[0]


class RowShapes(NamedTuple):
    """Shapes of the batches of a data set of responses.

    Attributes:
      number: M, responses per row.
      buckets: shapes of rows, in increasing order.
    """

    number: int
    buckets: tuple[Bucket, ...]


def choose_row_shapes(
    responses: Sequence[TokenizedResponse],
    cost: RowCost,
    *,
    batch_size: int,
    parts: int = 1,
    masked: bool = False,
    num_buckets: int = 3,
    prompt_multiple: int = 16,
    response_multiple: int = 8,
) -> RowShapes:
    """Chooses how many responses share a row, and the shapes of rows, by the work of all batches.

    Sharing saves reading the prompt again. It costs something where the responses of a row differ in length
    or do not fill it. With one response per row the batches are those of `response_batches`.

    Args:
      responses: n >= 1 responses with their prompts.
      cost: of the tokens and scores of a row, and of a compilation.
      batch_size: responses per batch; a row never holds more than a device's share of them.
      parts: of the mesh that rows are divided into.
      masked: attention computes the whole square of a row, and not only the scores that are visible.
      num_buckets: most shapes.
      prompt_multiple: P is a multiple of this.
      response_multiple: r is a multiple of this.

    Returns:
      The cheapest of rows with 1, 2, 4, ... responses.

    Raises:
      InputError: no responses.
    """
    lengths = response_lengths(responses)
    multiples = {"token_multiple": prompt_multiple, "target_multiple": response_multiple}
    best = RowShapes(1, choose_buckets(lengths, num_buckets, cost=cost, **multiples))
    least = _total(lengths, best, cost, _rows_alone(len(responses), batch_size, parts), masked)
    prompts = _by_prompt(responses)
    count, largest = 2, max(map(len, prompts))
    while count < 2 * largest and count <= min(MOST, batch_size // parts):
        groups = _groups(responses, prompts, count)
        sizes = _sizes(responses, groups, count)
        rows = _rows_shared(len(groups), count, batch_size, parts)
        for buckets in _chains(sizes, num_buckets, prompt_multiple, response_multiple * count, cost):
            shapes = RowShapes(count, buckets)
            total = _total(sizes, shapes, cost, rows, masked)
            if total < least:
                best, least = shapes, total
        count *= 2
    return best


def rows_per_batch(
    responses: Sequence[TokenizedResponse], shapes: RowShapes, *, batch_size: int, parts: int = 1
) -> int:
    """B, the rows of a batch of `batch_size` responses; arguments as of `choose_row_shapes`.

    There are fewer where there are fewer responses, and at least one in each part of a mesh.
    """
    if shapes.number == 1:
        return _rows_alone(len(responses), batch_size, parts)
    groups = sum(-(-len(indices) // shapes.number) for indices in _by_prompt(responses))
    return _rows_shared(groups, shapes.number, batch_size, parts)


def shared_batches(
    responses: Sequence[TokenizedResponse], shapes: RowShapes, *, num_rows: int
) -> Iterator[ResponseBatch]:
    """Batches of all responses; those to equal prompts, wherever they are in the list, share rows.

    Args:
      responses: n responses with their prompts.
      shapes: of `choose_row_shapes`.
      num_rows: B >= 1, of `rows_per_batch`.

    Yields:
      Batches in which every response occurs once.

    Raises:
      InputError: a prompt or a response that fits no bucket, an empty prompt, or num_rows < 1.
    """
    count = shapes.number
    if count == 1:
        plan = plan_batches(response_lengths(responses), shapes.buckets, batch_size=num_rows)
        yield from (response_batch(responses, bucket, indices, num_rows) for bucket, indices in plan)
        return
    groups = _groups(responses, _by_prompt(responses), count)
    plan = plan_batches(_sizes(responses, groups, count), _parts(shapes), batch_size=num_rows)
    for (prompt, targets), chosen in plan:
        branches = Branches(prompt, count, targets // count)
        held = [groups[i] for i in chosen]
        rows = make_shared_rows([[responses[i] for i in group] for group in held], branches, num_rows)
        weights, indices = np.zeros((num_rows, count), np.float32), np.zeros((num_rows, count), np.int32)
        for row, group in enumerate(held):
            weights[row, : len(group)], indices[row, : len(group)] = 1.0, group
        yield ResponseBatch(rows, weights.reshape(-1), indices.reshape(-1))


def make_shared_rows(
    groups: Sequence[Sequence[TokenizedResponse]], branches: Branches, num_rows: int
) -> Rows:
    """Rows of one prompt and up to M responses.

    Args:
      groups: responses to one prompt each; at most `num_rows` groups, the other rows are padding.
      branches: places in the row.
      num_rows: B.

    Returns:
      Rows of [B, T] and [B, R]; slots without a response have no targets.

    Raises:
      InputError: an empty prompt, or parts that do not fit.
    """
    rows = empty_rows(num_rows, branches.bucket)
    for i, group in enumerate(groups):
        prompt, longest = group[0].prompt_ids, max(len(response.response_ids) for response in group)
        if len(prompt) == 0:
            raise InputError(
                f"row {i} of a batch has no prompt tokens, so nothing predicts its first response token."
            )
        if len(prompt) > branches.prompt or longest > branches.length or len(group) > branches.number:
            raise InputError(
                f"row {i} of a batch has a prompt of {len(prompt)} tokens and {len(group)} responses of up "
                f"to {longest}; it holds {branches.prompt} and {branches.number} of {branches.length}. "
                "Choose the shapes from all lengths."
            )
        _fill(Rows(*(np.asarray(field)[i] for field in rows)), group, branches)
    return rows


def _fill(row: Rows, group: Sequence[TokenizedResponse], branches: Branches) -> None:
    """Writes one prompt and its responses into a row, whose fields are views of the batch's."""
    prompt = group[0].prompt_ids
    length = len(prompt)
    row.tokens[:length] = prompt
    row.positions[:length] = np.arange(length)
    row.segment_ids[:length] = 1
    target = 0
    for slot, (_, ids) in enumerate(group):
        start, last = branches.prompt + slot * branches.length, target + len(ids)
        part = slice(start, start + len(ids))
        row.tokens[part] = ids
        row.positions[part] = length + np.arange(len(ids))
        row.segment_ids[part] = 1
        row.branch_ids[part] = slot + 1
        # The last prompt token predicts the first token of every response; every other target is predicted by
        # the token before it. Targets have no gaps between them, so that the product with the vocabulary can
        # skip the columns behind the last.
        row.target_index[target:last] = np.arange(start - 1, start - 1 + len(ids))
        row.target_index[target : min(target + 1, last)] = length - 1
        row.targets[target:last] = ids
        row.target_slot[target:last] = slot
        target = last


def _by_prompt(responses: Sequence[TokenizedResponse]) -> list[list[int]]:
    """Indices of the responses to each prompt, in the order in which prompts first occur."""
    found: dict[bytes, list[int]] = {}
    for i, response in enumerate(responses):
        found.setdefault(np.asarray(response.prompt_ids, np.int32).tobytes(), []).append(i)
    return list(found.values())


def _groups(
    responses: Sequence[TokenizedResponse], prompts: Sequence[Sequence[int]], count: int
) -> list[list[int]]:
    """Indices of the responses of each row: of similar lengths, the shortest in a row that is not full."""
    groups = []
    for indices in prompts:
        order = sorted(indices, key=lambda i: -len(responses[i].response_ids))
        groups += [order[start : start + count] for start in range(0, len(order), count)]
    return groups


def _sizes(responses: Sequence[TokenizedResponse], groups: Sequence[Sequence[int]], count: int) -> np.ndarray:
    """Places that the prompt and the responses of each row need: [rows, 2] int64."""
    sizes = [
        (len(responses[group[0]].prompt_ids), count * len(responses[group[0]].response_ids))
        for group in groups
    ]
    return np.array(sizes, np.int64).reshape(-1, 2)


def _chains(
    sizes: np.ndarray, num_buckets: int, prompt_multiple: int, target_multiple: int, cost: RowCost
) -> Iterable[tuple[Bucket, ...]]:
    """Ways to cover all rows with shapes that increase: few or many, divided by prompts or by responses."""
    # The first are divided by all places of a row, the others, which may be more, by those of one part.
    of_one_part = RowCost(0.0, cost.compilation)
    for number, given in ((1, None), (2, None), (num_buckets, None), (num_buckets, of_one_part)):
        number = min(number, num_buckets)
        found = choose_buckets(
            sizes, number, token_multiple=prompt_multiple, target_multiple=target_multiple, cost=given
        )
        yield tuple(Bucket(prompt + targets, targets) for prompt, targets in found)
        found = choose_buckets(
            sizes[:, ::-1],
            number,
            token_multiple=target_multiple,
            target_multiple=prompt_multiple,
            cost=given,
        )
        yield tuple(Bucket(prompt + targets, targets) for targets, prompt in found)


def _parts(shapes: RowShapes) -> list[Bucket]:
    """Places of the prompt and of all responses in rows of these shapes, as `_sizes` counts them."""
    return [Bucket(tokens - targets, targets) for tokens, targets in shapes.buckets]


def _rows_alone(responses: int, batch_size: int, parts: int) -> int:
    return min(batch_size, -(-responses // parts) * parts)


def _rows_shared(groups: int, count: int, batch_size: int, parts: int) -> int:
    return min(max(batch_size // count // parts, 1), -(-groups // parts)) * parts


def _total(sizes: np.ndarray, shapes: RowShapes, cost: RowCost, num_rows: int, masked: bool) -> float:
    """Work of all batches and compilations, in units of a token's products."""
    alone = shapes.number == 1
    buckets = shapes.buckets if alone else _parts(shapes)
    plan = plan_batches(sizes, buckets, batch_size=num_rows)
    work = {bucket: _row_work(bucket, shapes.number, cost.square, masked) for bucket in buckets}
    return num_rows * sum(work[one.bucket] for one in plan) + cost.compilation * len({p.bucket for p in plan})


def _row_work(sizes: Bucket, count: int, square: float, masked: bool) -> float:
    """Work of a row: of its tokens, and of its scores, the whole square or those that are visible."""
    if count == 1:
        return sizes.tokens + square * sizes.tokens**2
    prompt, targets = sizes
    tokens = prompt + targets
    scores = tokens**2 if masked else prompt**2 + targets * (prompt + targets // count)
    return tokens + square * scores
