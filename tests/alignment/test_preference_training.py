"""`align`: the minimum of the loss by hand, the best epoch on held-out pairs, metrics and messages."""

from typing import Any

import jax
import numpy as np
import pytest

from alignjax.alignment import losses
from alignjax.alignment.preference_training import align
from alignjax.data.tokenize import TokenizedPair
from alignjax.errors import InputError
from alignjax.models import Model, is_neutral
from alignjax.policy.logps import preference_logps


def _pair(*ids: list[int]) -> TokenizedPair:
    return TokenizedPair(*(np.array(part, np.int32) for part in ids))


PAIRS = [_pair([1, 2], [3, 4], [5, 6]), _pair([7], [8, 9], [10])]
BETA = 0.5


@pytest.fixture(scope="module")
def model(policy) -> Model:
    config, params, _ = policy
    return Model(params, config)


def _logits(model: Model, lora: Any) -> np.ndarray:
    """Implicit reward differences beta (h_chosen - h_rejected), the logits of the labels."""
    moved = preference_logps(model, PAIRS, lora=lora, batch_size=2) - preference_logps(
        model, PAIRS, batch_size=2
    )
    return BETA * (moved[:, 0] - moved[:, 1])


def test_soft_labels_are_reached(model):
    """Two pairs can be fitted exactly, so the loss is lowest where sigma(beta (h_c - h_r)) is the label."""
    log: dict[int, dict[str, float]] = {}
    settings = {"num_epochs": 60, "batch_size": 2, "learning_rate": 2e-2, "log_every": 20}
    lora = align(model, PAIRS, [0.8, 0.3], beta=BETA, log=log.__setitem__, **settings)
    np.testing.assert_allclose(_logits(model, lora), [np.log(4.0), np.log(3 / 7)], atol=0.05)
    assert list(log) == [20, 40, 60]
    # The entropy of the labels is the lowest loss: (H(0.8) + H(0.3)) / 2 = (0.50040 + 0.61086) / 2.
    assert log[20]["loss"] > log[60]["loss"] > 0.5556 and log[60]["loss"] == pytest.approx(0.5556, abs=1e-3)
    again = align(model, PAIRS, [0.8, 0.3], beta=BETA, **settings)
    jax.tree.map(np.testing.assert_array_equal, lora.params, again.params)


def test_the_adapters_of_the_best_epoch_are_returned(model):
    """Held-out labels that contradict the training labels are fitted best before the first step."""
    records: list[tuple[int, float]] = []

    def log(step: int, record: dict[str, float]) -> None:
        if "eval_loss" in record:
            records.append((step, record["eval_loss"]))

    options = {"beta": BETA, "num_epochs": 3, "batch_size": 1, "loss": losses.ipo}
    lora = align(model, PAIRS, [1.0, 1.0], held_out=(PAIRS, [0.0, 0.0]), log=log, **options)
    assert is_neutral(lora)
    assert [step for step, _ in records] == [0, 2, 4, 6]
    # IPO at log-ratios of 0: (1 / (2 beta))^2.
    assert records[0][1] == pytest.approx(1.0)
    other = align(model, PAIRS, [1.0, 1.0], held_out=(PAIRS, [1.0, 1.0]), **options)
    assert (_logits(model, other) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": []}, "align: pairs is empty"),
        ({"labels": [1.0]}, r"labels of pairs have shape \(1,\) and lie in \[1, 1\]; .* each of the 2 pairs"),
        ({"labels": [1.0, 1.5]}, r"lie in \[1, 1.5\]; give one number in \[0, 1\]"),
        ({"labels": [0.5, np.nan]}, r"labels of pairs have shape \(2,\)"),
        ({"held_out": ([], [])}, "align: held_out is empty"),
        ({"beta": 0.0}, "align: beta is 0.0"),
        ({"num_epochs": 0}, "align: num_epochs is 0"),
        ({"batch_size": 0}, "preference_logps: batch_size is 0"),
        ({"rank": 0}, "lora.rank: is 0"),
        ({"learning_rate": -1.0}, "optimizer.learning_rate: -1.0 cannot be used"),
    ],
)
def test_arguments_refused(model, change, message):
    given: dict[str, Any] = {"pairs": PAIRS, "labels": [1.0, 0.0], "beta": BETA} | change
    with pytest.raises(InputError, match=message):
        align(model, **given)
