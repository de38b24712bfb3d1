"""Batches written out by hand, small enough to check by eye."""

import jax
import numpy as np
import pytest

from alignjax.data.batches import PairBatch, ResponseBatch, Rows
from alignjax.models import DecoderConfig, init_lora, init_params

CONFIG = DecoderConfig(
    architecture="llama",
    vocab_size=11,
    hidden_size=16,
    intermediate_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
)


@pytest.fixture
def config() -> DecoderConfig:
    return CONFIG


@pytest.fixture(scope="session")
def policy():
    """Decoder, its parameters, and adapters of rank 2 that change nothing yet."""
    lora = init_lora(jax.random.key(1), CONFIG, rank=2, alpha=4.0)
    return CONFIG, init_params(jax.random.key(0), CONFIG), lora.params


def _rows(sequences, length, targets):
    """Rows of (prompt, [response, ...]): the responses one after the other, each continuing the prompt."""
    n = len(sequences)
    fields = {
        name: np.zeros((n, length), np.int32) for name in ("tokens", "positions", "segment_ids", "branch_ids")
    }
    index, ids = np.zeros((n, targets), np.int32), np.zeros((n, targets), np.int32)
    slot = np.full((n, targets), -1, np.int32)
    for b, (prompt, responses) in enumerate(sequences):
        tokens, positions, branches, t = list(prompt), list(range(len(prompt))), [0] * len(prompt), 0
        for branch, response in enumerate(responses):
            start = len(tokens)
            tokens += response
            positions += range(len(prompt), len(prompt) + len(response))
            branches += [branch + 1 if len(responses) > 1 else 0] * len(response)
            for j, target in enumerate(response):
                index[b, t] = len(prompt) - 1 if j == 0 else start + j - 1
                ids[b, t], slot[b, t], t = target, branch, t + 1
        for name, values in (("tokens", tokens), ("positions", positions), ("branch_ids", branches)):
            fields[name][b, : len(values)] = values
        fields["segment_ids"][b, : len(tokens)] = 1
    return Rows(**fields, target_index=index, targets=ids, target_slot=slot)


@pytest.fixture
def make_pairs():
    """[(prompt, chosen, rejected)], labels, reference log-probabilities, padding rows -> PairBatch."""

    def make(pairs, labels=None, ref=None, padding=0, length=16, targets=12):
        n, zeros = len(pairs), np.zeros(padding, np.float32)
        pairs = [(p, [c, r]) for p, c, r in pairs] + [([], [])] * padding
        ref_chosen, ref_rejected = (np.zeros(n), np.zeros(n)) if ref is None else ref
        padded = [
            np.concatenate([np.asarray(x, np.float32), zeros])
            for x in (np.ones(n) if labels is None else labels, ref_chosen, ref_rejected, np.ones(n))
        ]
        return PairBatch(
            _rows(pairs, length, targets), *padded, indices=np.arange(n + padding, dtype=np.int32)
        )

    return make


@pytest.fixture
def make_responses():
    """[(prompt, response)] -> ResponseBatch."""

    def make(responses, length=12, targets=8):
        n = len(responses)
        rows = _rows([(p, [r]) for p, r in responses], length, targets)
        return ResponseBatch(rows, np.ones(n, np.float32), np.arange(n, dtype=np.int32))

    return make
