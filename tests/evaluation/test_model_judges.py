"""Judges that are models: answers of a small model, rulings by hand from answers that are given."""

import json

import numpy as np
import pytest

from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedResponse
from alignjax.evaluation.model_judges import (
    Questioner,
    by_comparison,
    by_guard,
    by_score_model,
    record_of,
    safe_rate,
)
from alignjax.models import load_pretrained
from alignjax.records.codec import decode, encode
from alignjax.records.evaluation import JudgeRecord
from alignjax.runtime.line_log import LineLog

FOLLOWING = {"bomb": "unsafe", "unsafe": "S1,S9", "sorry": "safe", "hello": "hello", "<unk>": "</s>"}


@pytest.fixture(scope="module")
def judge(tmp_path_factory, chain_model):
    """A model that answers `unsafe S1,S9` to what ends with bomb and `safe` to what ends with sorry."""
    return load_pretrained(
        chain_model(tmp_path_factory.mktemp("judge") / "model", FOLLOWING, max_positions=48)
    )


def drawn(*texts):
    """Responses to as many prompts as there are lists of texts."""
    tokens = [[TokenizedResponse(np.zeros(1, np.int32), np.zeros(1, np.int32))] * len(row) for row in texts]
    return Responses([f"prompt {i}" for i in range(len(texts))], [list(row) for row in texts], tokens)


def answering(tmp_path, *answers):
    """A questioner whose answers are all known, so that no model is read."""
    log = LineLog(tmp_path / "answers.jsonl")
    log.append(*({"question": i, "answer": answer} for i, answer in enumerate(answers)))

    def load():
        raise AssertionError("nothing is left to ask")

    return Questioner(load, None, "judge", log)


def test_answers_are_the_most_probable_text(judge, tmp_path):
    words = [["bomb"], ["hello", "sorry"], ["what"], ["hello"]]
    ids = [np.array(judge.tokenizer(" ".join(row), add_special_tokens=False)["input_ids"]) for row in words]
    log = LineLog(tmp_path / "answers.jsonl")
    found = Questioner(lambda: judge, None, "judge", log).ask(ids, 4)
    assert found == ["unsafe S1,S9", "safe", "", "hello hello hello hello"]
    # What was answered is not asked again; a question without room is not asked.
    first = log.read()
    assert sorted(row["question"] for row in first) == [0, 1, 2, 3]
    long = np.full(45, judge.tokenizer.convert_tokens_to_ids("bomb"))
    again = Questioner(lambda: judge, None, "judge", log).ask([*ids, long, long[:44]], 4)
    assert again == [*found, None, "unsafe S1,S9"] and log.read()[:4] == first


def test_a_stopped_judge_asks_the_others_alone(judge, tmp_path):
    log = LineLog(tmp_path / "answers.jsonl")
    log.append({"question": 1, "answer": "said before"})
    ids = [np.array([judge.tokenizer.convert_tokens_to_ids("bomb")])] * 3
    found = Questioner(lambda: judge, None, "judge", log).ask(ids, 4)
    assert found == ["unsafe S1,S9", "said before", "unsafe S1,S9"]


def test_a_guards_ruling_by_hand(judge, tmp_path):
    # Of two policies, two prompts, two responses each; the last answer says nothing, one was too long.
    answers = ["safe", "unsafe\nS1,S2", "unsafe\nS2", "unsafe", "safe", "safe", None, "hm"]
    some = {"reference": drawn("ab", "cd"), "aligned": drawn("ef", "gh")}
    asked = answering(tmp_path, *answers)
    ruling, lines = by_guard(asked, judge.tokenizer, "llama-guard", some, own="", where="w")
    assert ruling.safe is not None
    np.testing.assert_allclose(ruling.safe, [[0.5, 0.0], [1.0, np.nan]])
    # Prompt 0: aligned is always safe, the reference half the time: 1 of 2 wins and 1 of 2 ties.
    np.testing.assert_allclose(ruling.judged.shares[1, 0], [0.75, np.nan])
    np.testing.assert_allclose(ruling.judged.shares[0, 1], [0.25, np.nan])
    assert (ruling.judged.judge, ruling.judged.comparisons, ruling.judged.lead) == ("llama-guard", 2, None)
    assert (ruling.asked, ruling.unread, ruling.too_long) == (7, 1, 1)
    assert lines[3] == {"policy": "reference", "prompt_id": 1, "response": "d", "answer": "unsafe"}
    record = record_of(ruling, own_prompts=True, trained_on=3, cut=1)
    assert record.hazards == {"reference": {"S1": 1, "S2": 2}, "aligned": {}}
    assert record.safe is not None and list(record.safe) == ["reference", "aligned"]
    assert record.safe["reference"].mean == pytest.approx(0.25)
    assert record.safe["aligned"].mean == pytest.approx(1.0)
    assert (record.prompts, record.trained_on, record.prompts_cut) == (2, 3, 1)
    assert decode(JudgeRecord, json.loads(json.dumps(encode(record))), "judge") == record


def test_wins_of_a_guard_are_counted_over_pairs_of_responses(judge, tmp_path):
    """The formula against its definition."""
    rng = np.random.default_rng(0)
    said = rng.integers(0, 2, (3, 4, 5))  # policies, prompts, responses
    answers = np.where(said.ravel(), "Harmful response: no", "Harmful response: yes").tolist()
    some = {name: drawn(*["abcde"] * 4) for name in ("reference", "one", "two")}
    ruling, _ = by_guard(answering(tmp_path, *answers), judge.tokenizer, "wildguard", some, own="", where="w")
    assert ruling.hazards is None
    for a in range(3):
        for b in range(3):
            for i in range(4):
                wins = [(x > y) + 0.5 * (x == y) for x in said[a, i] for y in said[b, i]]
                assert ruling.judged.shares[a, b, i] == pytest.approx(np.mean(wins))


def test_a_comparison_by_hand(judge, tmp_path):
    # Asked: reference first, then aligned first, each on three prompts.
    answers = ["Verdict: A", "Verdict: C", "Verdict: B", "Verdict: A", "Verdict: A", "no idea"]
    some = {"reference": drawn("ab", "cd", "ef"), "aligned": drawn("gh", "ij", "kl")}
    asked = answering(tmp_path, *answers)
    ruling, lines = by_comparison(asked, judge.tokenizer, "safety", some, own="", where="w")
    # Prompt 0: each won where it was first. Prompt 1: a tie, then aligned wins. Prompt 2: one order alone.
    np.testing.assert_allclose(ruling.judged.shares[1, 0], [0.5, 0.75, np.nan])
    np.testing.assert_allclose(ruling.judged.shares[0, 1], [0.5, 0.25, np.nan])
    assert ruling.judged.lead is not None
    np.testing.assert_allclose(ruling.judged.lead, [0.5, 0.25, np.nan])
    assert (ruling.asked, ruling.unread, ruling.too_long, ruling.safe) == (6, 1, 0, None)
    assert lines[4] == {"first": "aligned", "second": "reference", "prompt_id": 1, "answer": "Verdict: A"}
    assert record_of(ruling, own_prompts=False, trained_on=0, cut=0).safe is None


def test_the_lower_cost_wins_and_a_cost_below_zero_is_safe():
    # One prompt, two responses; utilities are minus costs.
    utilities = {"reference": np.array([[1.0, -2.0]]), "aligned": np.array([[1.0, 0.0]])}
    ruling = by_score_model("cost", utilities)
    assert ruling.safe is not None
    np.testing.assert_allclose(ruling.safe, [[0.5], [0.5]])
    # Aligned against the reference: 1 ties with 1 and beats -2, 0 loses to 1 and beats -2.
    np.testing.assert_allclose(ruling.judged.shares[1, 0], [(0.5 + 1 + 0 + 1) / 4])
    rewards = by_score_model("reward", utilities)
    assert rewards.safe is None
    np.testing.assert_allclose(rewards.judged.shares, ruling.judged.shares)


def test_wilsons_interval():
    # 83 safe of 83: the low end is 1 / (1 + z^2 / 83) = 0.9558.
    every = safe_rate(np.ones(83))
    assert (every.mean, every.high) == (1.0, 1.0) and every.low == pytest.approx(0.955765, abs=1e-5)
    # Ends are where the normal test of p just does not reject 30 of 100: |0.3 - p| = z sqrt(p (1 - p) / 100).
    some = safe_rate(np.repeat([1.0, 0.0, np.nan], [30, 70, 5]))
    for end in (some.low, some.high):
        assert abs(0.3 - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 100))
    assert some.mean == pytest.approx(0.3) and some.low < 0.3 < some.high
    assert np.isnan(safe_rate(np.array([np.nan])).mean)


def test_answers_do_not_depend_on_the_batch(judge):
    """A question alone, and among others of other lengths."""
    bomb, sorry = (judge.tokenizer.convert_tokens_to_ids(word) for word in ("bomb", "sorry"))
    questions = [np.array([sorry] * n + [bomb if n % 2 else sorry]) for n in range(1, 12)]
    asked = Questioner(lambda: judge, None, "judge")
    together = asked.ask(questions, 3)
    assert together == [asked.ask([one], 3)[0] for one in questions[:2]] * 5 + together[:1]
