"""Human labels: the file, the join, and estimates against simulation."""

import json

import numpy as np
import pytest
from scipy.special import expit

from alignjax.errors import InputError
from alignjax.evaluation.human_labels import (
    Answers,
    join,
    labelled,
    labels_of_pairs,
    labels_of_values,
    read_labels,
)
from alignjax.evaluation.verdict import Measured, bound

ANSWERS = Answers(
    prompts=["p", "q", "r"],
    policy=[["a", "b"], ["c", "c"], ["d", "e"]],
    reference=[["x", "y"], ["c", "z"], ["w", "w"]],
    policy_utilities=np.array([[0.9, 0.5], [0.4, 0.4], [0.3, 0.2]]),
    reference_utilities=np.array([[0.1, 0.2], [0.4, 0.3], [0.6, 0.6]]),
)


def _write(folder, *rows):
    path = folder / "labels.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def test_kinds_of_lines(tmp_path):
    path = _write(
        tmp_path,
        {"prompt": "p", "response": "a", "safety": True, "honesty": 0.5},
        {"prompt": [{"role": "user", "content": "p"}], "chosen": "a", "rejected": "x", "dimension": "safety"},
        {"prompt": "p", "response_0": "x", "response_1": "a", "safety": 1, "honesty": 0},
    )
    found = read_labels(path, ["safety", "honesty"])
    (safe,), (honest,) = found.responses["safety"], found.responses["honesty"]
    assert (safe.prompt, safe.response, safe.value, safe.boolean) == ("p", "a", 1.0, True)
    assert (honest.value, honest.boolean, honest.where) == (0.5, False, f"{path}:1")
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in found.pairs["safety"]] == [
        ("p", "a", "x")
    ] * 2
    assert [(pair.chosen, pair.rejected) for pair in found.pairs["honesty"]] == [("x", "a")]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "p"}, "say which responses the label is about"),
        ({"response": "a", "safety": True}, '"prompt"'),
        ({"prompt": "p", "response": 3, "safety": True}, '"response" is 3, must be the text'),
        ({"prompt": "p", "response": "a"}, "has no label; name a dimension"),
        ({"prompt": "p", "response": "a", "safety": "yes"}, "is 'yes', must be true, false or a number"),
        ({"prompt": "p", "response": "a", "safety": float("nan")}, '"safety" is nan'),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, '"dimension" is None, must be one of safety'),
        ({"prompt": "p", "chosen": "a", "dimension": "safety"}, '"rejected" is None'),
        ({"prompt": "p", "response_0": "a", "response_1": "b", "safety": 2}, "must be 0 or 1"),
        ({"prompt": "p", "response_0": "a", "response_1": "b", "safety": True}, "must be 0 or 1"),
    ],
)  # fmt: skip
def test_lines_refused(tmp_path, row, message):
    path = _write(tmp_path, {"prompt": "p", "response": "a", "safety": True}, row)
    with pytest.raises(InputError, match=f"labels.jsonl:2: .*{message}"):
        read_labels(path, ["safety"])


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no lines; give one label per line"):
        read_labels(_write(tmp_path), ["safety"])


def test_a_rate_is_joined_by_texts(tmp_path):
    path = _write(
        tmp_path,
        {"prompt": "p", "response": "a", "safety": True},
        {"prompt": "p", "response": "b", "safety": False},
        {"prompt": "q", "response": "c", "safety": True},
        {"prompt": "q", "response": "unknown", "safety": True},
        {"prompt": "unknown", "response": "c", "safety": True},
    )
    found = read_labels(path, ["safety"])
    joined = join(found, "safety", ANSWERS, relative=False, rate=True)
    assert joined.unused == (f"{path}:4", f"{path}:5")
    assert joined.labels is not None and joined.labels.number == 3 and joined.labels.bounds == (-1.0, 1.0)
    # Prompt p: (1 - 0.9 + 0 - 0.5) / 2 = -0.2; prompt q: 1 - 0.4 = 0.6.
    np.testing.assert_allclose(joined.labels.errors, [-0.2, 0.6])
    assert joined.labels.places.tolist() == [0, 1] and joined.labels.shift == pytest.approx(0.2)
    with pytest.raises(InputError, match="labels.jsonl:1: .*must be a number"):
        join(found, "safety", ANSWERS, relative=False, rate=False)
    assert join(found, "honesty", ANSWERS, relative=False, rate=True).labels is None


def test_a_margin_of_single_responses_needs_both_policies(tmp_path):
    path = _write(
        tmp_path,
        {"prompt": "p", "response": "a", "safety": 1.0},
        {"prompt": "p", "response": "y", "safety": 0.0},
        {"prompt": "r", "response": "d", "safety": 0.5},
    )
    joined = join(read_labels(path, ["safety"]), "safety", ANSWERS, relative=True, rate=False)
    assert joined.labels is not None and joined.labels.number == 2 and joined.unused == ()
    # (1 - 0.9) - (0 - 0.2) = 0.3, of prompt p alone.
    np.testing.assert_allclose(joined.labels.errors, [0.3])


def test_pairs_are_joined_in_either_order(tmp_path):
    path = _write(
        tmp_path,
        {"prompt": "p", "chosen": "a", "rejected": "x", "dimension": "safety"},
        {"prompt": "r", "chosen": "w", "rejected": "e", "dimension": "safety"},
        {"prompt": "q", "chosen": "c", "rejected": "c", "dimension": "safety"},
        {"prompt": "p", "chosen": "a", "rejected": "b", "dimension": "safety"},
    )
    joined = join(read_labels(path, ["safety"]), "safety", ANSWERS, relative=True, rate=False)
    assert joined.unused == (f"{path}:3", f"{path}:4")
    expected = labels_of_pairs(np.array([0.8, -0.4]), np.array([1.0, 0.0]), np.array([0, 2]))
    assert joined.labels is not None and joined.labels.shift == pytest.approx(expected.shift)
    # sigma(0.8 + delta) + sigma(-0.4 + delta) = 1 at delta = -0.2.
    assert expected.shift == pytest.approx(-0.2)


def test_pairs_that_all_prefer_one_side_are_refused():
    with pytest.raises(InputError, match="all 3 prefer the same side; label more pairs"):
        labels_of_pairs(np.zeros(3), np.ones(3), np.arange(3))
    with pytest.raises(InputError, match="there are none"):
        labels_of_pairs(np.zeros(0), np.zeros(0), np.zeros(0, int))


def test_two_labels_of_one_prompt_are_one_cluster():
    once = labels_of_pairs(np.array([0.5, -0.5]), np.array([1.0, 0.0]), np.array([0, 1]))
    twice = labels_of_pairs(
        np.array([0.5, -0.5, 0.5, -0.5]), np.array([1.0, 0.0, 1.0, 0.0]), np.array([0, 1, 0, 1])
    )
    assert twice.number == 4 and twice.shift == pytest.approx(once.shift)
    np.testing.assert_allclose(twice.errors, once.errors)


def test_a_wrong_score_of_a_rate_is_put_right():
    # Scores say 0.95 where the truth is 0.85; 300 tests at the true rate.
    rng = np.random.default_rng(0)
    fooled = wrong = 0
    for _ in range(300):
        truth = expit(1.9 + 0.6 * rng.standard_normal(300))
        scores = np.clip(truth + 0.1, 0.0, 1.0)
        places = rng.permutation(300)[:200]
        labels = (rng.random(200) < truth[places]).astype(float)
        measured = Measured(scores, np.zeros((300, 0)), np.zeros((0, 0)), (0.0, 1.0))
        joined = labels_of_values(scores[places], labels, places, bounds=(0.0, 1.0))
        asked = 0.8565  # E sigma(1.9 + 0.6 e)
        fooled += bound(measured, 0.05).low >= asked
        wrong += bound(measured._replace(labels=joined), 0.05).low >= asked
    assert fooled == 300 and wrong <= 25  # 5% of 300 is 15, with probability 0.99 at most 25


def test_a_shift_of_a_margin_is_found_with_its_standard_error():
    # Calibrated differences are 0.6 too high; 300 tests with 200 labelled pairs each.
    rng = np.random.default_rng(1)
    means, lows = [], []
    for _ in range(300):
        truth = 0.5 + rng.standard_normal(300)
        differences = truth + 0.6
        places = rng.permutation(300)[:200]
        preferred = (rng.random(200) < expit(truth[places])).astype(float)
        measured = Measured(differences, differences[:, None], np.zeros((1, 1)))
        found = bound(measured._replace(labels=labels_of_pairs(differences[places], preferred, places)), 0.05)
        means.append(found.mean)
        lows.append(found.low)
    assert np.mean(means) == pytest.approx(0.5, abs=0.04)
    assert 5 <= np.sum(np.array(lows) >= 0.5) <= 25


def test_labelled_values_rest_on_the_labels(tmp_path):
    path = _write(tmp_path, {"prompt": "p", "response": "a", "safety": True})
    joined = join(read_labels(path, ["safety"]), "safety", ANSWERS, relative=False, rate=True)
    measured = Measured(np.array([0.7, 0.4, 0.25]), np.zeros((3, 0)), np.zeros((0, 0)), (0.0, 1.0))
    found = bound(labelled(measured, joined), 0.05)
    assert found == (pytest.approx(0.45 + 0.1), -np.inf, np.inf)  # one label does not tell its spread
