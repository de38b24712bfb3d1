"""Memory of a training by hand, what the compiler says of the same batches, and what is chosen from both."""

import dataclasses

import pytest

from alignjax.alignment.remat import (
    Training,
    least_remat,
    standing_bytes,
    stored_bytes,
    working_bytes,
)
from alignjax.models import DecoderConfig
from alignjax.models.lora import TARGETS
from alignjax.planning.architectures import SHAPES

GIB = 2**30
TINY = DecoderConfig("llama", 100, 16, 32, 3, 4, 2, 4)  # q and o are 16 wide, k and v 8
ALPACA = dataclasses.replace(SHAPES["alpaca-7b"], dtype="bfloat16", weights="int8")
PAIRS = Training(rows=2, tokens=1024, rank=8, targets=TARGETS)


def test_stored_bytes_by_hand():
    training = Training(rows=2, tokens=5, rank=4, targets=("q", "down"))
    tokens = 3 * 2 * 5 * 4  # layers, rows, tokens, bytes of a float32
    assert stored_bytes(TINY, training, "layers") == tokens * 16
    # The layer's input, q, k, v, o, gate, up, and x A of two adapters.
    assert stored_bytes(TINY, training, "products") == tokens * (16 + 16 + 8 + 8 + 16 + 32 + 32 + 8)
    after = dataclasses.replace(TINY, architecture="olmo2", norm_order="after")
    more = stored_bytes(after, training, "products") - stored_bytes(TINY, training, "products")
    assert more == tokens * 16  # the result of down, which a norm reads
    split = training._replace(tensor=2)
    assert stored_bytes(TINY, split, "products") == tokens * (16 + 8 + 4 + 4 + 16 + 16 + 16 + 8)


def test_standing_bytes_by_hand():
    lora = Training(1, 8, 4, ("q", "down"))
    weights = 4 * (3 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 32) + 2 * 100 * 16)
    assert standing_bytes(TINY, lora) == weights + 7 * 4 * 3 * 4 * (16 + 16 + 32 + 16)
    assert standing_bytes(TINY, lora._replace(rank=0, shares=2)) == (weights + 7 * weights) / 2


@pytest.mark.parametrize(
    ("rows", "tokens", "attention", "remat", "temporaries"),
    [
        (2, 1024, "xla", "layers", 1.83),
        (2, 1024, "xla", "products", 6.67),
        (1, 1024, "xla", "products", 3.69),
        (1, 8192, "splash", "layers", 6.03),
    ],
)
def test_what_the_compiler_for_v5e_needs(rows, tokens, attention, remat, temporaries):
    """GiB of temporaries, by `plan` with int8 weights, libtpu 0.0.42."""
    training = PAIRS._replace(rows=rows, tokens=tokens)
    decoder = dataclasses.replace(ALPACA, attention=attention)
    found = (stored_bytes(decoder, training, remat) + working_bytes(decoder, training)) / GIB
    assert found == pytest.approx(temporaries, rel=0.11)


def test_the_least_that_fits_is_chosen():
    v5e, h100 = int(15.75 * GIB), 72 * GIB
    assert least_remat(ALPACA, PAIRS, v5e) == "products"
    assert least_remat(ALPACA, PAIRS, 10 * GIB) == "layers"
    assert least_remat(ALPACA, PAIRS, 2 * GIB) == "layers"  # nothing fits: the least memory
    assert least_remat(ALPACA, PAIRS._replace(rows=1), h100) == "none"
    wide = dataclasses.replace(ALPACA, weights="float")
    assert least_remat(wide, PAIRS, v5e) == "layers"
    assert least_remat(TINY, Training(64, 48, 8, TARGETS), None) == "none"
    assert least_remat(SHAPES["smollm2-135m"], PAIRS, None) == "products"
