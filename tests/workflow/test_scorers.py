"""Scorers: numbers by hand, and every fault of a function or a table named."""

import hashlib
import json

import numpy as np
import pytest

from alignjax.data.preferences import Labelled
from alignjax.data.records import Message, PreferencePair
from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedResponse
from alignjax.data.worlds import world_for
from alignjax.errors import InputError
from alignjax.models import init_score_model
from alignjax.policy.known_logps import LogpsCache, logps_of_pairs, logps_of_responses
from alignjax.scores import scorers as module
from alignjax.scores.lookup import read_lookup
from alignjax.scores.scorers import (
    FunctionScorer,
    ImplicitScorer,
    LearnedScorer,
    TableScorer,
    function_scorer,
    require_tables,
    score_pair_sets,
    score_pairs,
    score_responses,
    table_digests,
    true_scorer,
)

TALK = (Message("user", "hi"), Message("assistant", "hello"))
PAIRS = [PreferencePair("p", "good", "bad", {}, ""), PreferencePair(TALK, "yes", "no", {}, "")]
TOKEN = TokenizedResponse(np.array([1], np.int32), np.array([2], np.int32))
DRAWN = Responses(["p", TALK], [["good", "so so"], ["yes", "yes"]], [[TOKEN] * 2] * 2)


def lengths(prompts, responses):
    return [len(p) + len(r) / 10 for p, r in zip(prompts, responses, strict=True)]


def test_a_function_scores_pairs_and_responses():
    scorer = FunctionScorer("lengths", lengths)
    # Messages are shown as one text, "hi\nhello" of 8 characters.
    np.testing.assert_allclose(scorer.pairs([], PAIRS), [[1.4, 1.3], [8.3, 8.2]])
    np.testing.assert_allclose(scorer.responses(DRAWN), [[1.4, 1.5], [8.3, 8.3]])
    assert scorer.pairs([], PAIRS).dtype == np.float64


def test_a_function_is_asked_prompt_by_prompt():
    asked = []
    scorer = FunctionScorer("f", lambda p, r: asked.append((p, r)) or [0.0] * len(r))
    scorer.responses(DRAWN)
    assert asked == [(["p", "p"], ["good", "so so"]), (["hi\nhello"] * 2, ["yes", "yes"])]


def failing(prompts, responses):
    raise KeyError("key")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (failing, "raised KeyError: 'key'"),
        (lambda p, r: [0.0], "gave (1,) scores for 2 responses; give one each."),
        (lambda p, r: 1.0, "gave () scores for 2 responses; give one each."),
        (lambda p, r: [[0.0], [1.0]], "gave (2, 1) scores for 2 responses; give one each."),
        (lambda p, r: ["x", "y"], "raised ValueError: could not convert string to float"),
        (lambda p, r: [0.0, float("nan")], "gave nan for response 1; a score must be finite."),
        (lambda p, r: [float("-inf"), 0.0], "gave -inf for response 0; a score must be finite."),
    ],
)
def test_a_broken_function_is_named_with_the_prompt(function, message):
    scorer = FunctionScorer("my:f", function)
    for ask in (lambda: scorer.pairs([], PAIRS), lambda: scorer.responses(DRAWN)):
        with pytest.raises(InputError) as caught:
            ask()
        assert str(caught.value).startswith(f"my:f: prompt 0 ('p'): {message}")


def test_the_prompt_of_a_failure_is_the_one_that_failed():
    scorer = FunctionScorer("my:f", lambda p, r: [0.0] if "hello" in p[0] else [0.0, 1.0])
    with pytest.raises(InputError, match=r"^my:f: prompt 1 \('hi\\nhello'\): gave"):
        scorer.pairs([], PAIRS)


def test_a_configured_function_is_imported():
    assert function_scorer("math:hypot", "config.scores.reward.function").name == "math:hypot"
    with pytest.raises(InputError, match=r"^config.scores.reward.function: math:none cannot be imported"):
        function_scorer("math:none", "config.scores.reward.function")


def test_a_world_scores_by_its_truth():
    world = world_for("enumerable")
    assert world.enumeration is not None
    drawn = Responses(["b c", "a b"], [["a", "b b"], ["", "c"]], [[TOKEN] * 2] * 2)
    found = score_responses({n: true_scorer(world, i) for i, n in enumerate(world.dimensions)}, drawn)
    assert found.shape == (2, 2, 2)
    for i, (prompt, texts) in enumerate(zip(["b c", "a b"], drawn.texts, strict=True)):
        at = world.enumeration.prompts.index(prompt)
        for k, text in enumerate(texts):
            truth = world.enumeration.scores[at, world.enumeration.texts.index(text)]
            np.testing.assert_allclose(found[i, k], truth)
    assert true_scorer(world, 1).name == "the true safety"


def test_dimensions_are_stacked_in_the_order_given():
    scorers = {
        "reward": FunctionScorer("f", lengths),
        "safety": FunctionScorer("g", lambda p, r: [7.0] * len(r)),
    }
    np.testing.assert_allclose(score_pairs(scorers, [], PAIRS)[0], [[1.4, 7.0], [1.3, 7.0]])
    assert score_responses(scorers, DRAWN).shape == (2, 2, 2)


@pytest.fixture
def table(tmp_path):
    """table(row, row) is a scorer of safety from a file of such rows."""

    def write(*rows):
        path = tmp_path / "scores.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return TableScorer("safety", str(path), read_lookup(path, "safety"))

    return write


def row(prompt, response, safety):
    shown = prompt if isinstance(prompt, str) else [m._asdict() for m in prompt]
    return {"prompt": shown, "response": response, "utilities": {"safety": safety}}


FULL = [row("p", "good", 1.0), row("p", "bad", -1.0), row("p", "so so", 0.5), row(TALK, "yes", 2.0),
        row(TALK, "no", -2.0)]  # fmt: skip


def test_a_table_is_read_by_prompt_and_response(table):
    scorer = table(*FULL)
    np.testing.assert_array_equal(scorer.pairs([], PAIRS), [[1.0, -1.0], [2.0, -2.0]])
    np.testing.assert_array_equal(scorer.responses(DRAWN), [[1.0, 0.5], [2.0, 2.0]])
    assert np.isnan(scorer.look_up([("p", "yes"), ("q", "good")])).all() and scorer.look_up([]).shape == (0,)


def test_missing_scores_are_refused_and_listed_once(table, tmp_path):
    scorers = {"reward": FunctionScorer("f", lengths), "safety": table(*FULL[:2])}
    path = tmp_path / "unscored.jsonl"
    with pytest.raises(InputError) as caught:
        require_tables(scorers, path, drawn=[DRAWN], pairs=[PAIRS])
    # good, so so, yes, bad and no are five; the first three of FULL's other rows are missing.
    assert str(caught.value) == (
        f"{tmp_path / 'scores.jsonl'}: has no safety score for 3 of 5 responses, the first to prompt 'p'. "
        f"Score the 3 lines of {path}, add them, and run again."
    )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["response"] for line in lines] == ["so so", "yes", "no"]
    assert lines[1]["prompt"] == [m._asdict() for m in TALK]


def test_tables_of_several_dimensions_share_one_list(table, tmp_path):
    one = table(*FULL[:1], *FULL[2:])
    two = TableScorer("honesty", "other.jsonl", {k: v for k, v in one.scores.items() if k[1] != "good"})
    path = tmp_path / "unscored.jsonl"
    with pytest.raises(
        InputError, match=r"no safety score for 1 of 4 .*; other\.jsonl: has no honesty score for 2"
    ):
        require_tables({"safety": one, "honesty": two}, path, pairs=[PAIRS])
    assert [json.loads(line)["response"] for line in path.read_text().splitlines()] == ["good", "bad"]


def test_without_a_file_nothing_is_written(table, tmp_path):
    scorers = {"safety": table(*FULL[:2])}
    with pytest.raises(
        InputError, match=r"no safety score for 2 of 4 responses, the first to prompt 'hi\\nhello'\.$"
    ):
        require_tables(scorers, None, pairs=[PAIRS])
    assert [p.name for p in tmp_path.iterdir()] == ["scores.jsonl"]


def test_full_tables_leave_no_list_behind(table, tmp_path):
    path = tmp_path / "unscored.jsonl"
    path.write_text("of an earlier run")
    require_tables({"safety": table(*FULL)}, path, drawn=[DRAWN], pairs=[PAIRS])
    assert not path.exists()
    require_tables({"safety": table(*FULL)}, path)


def test_a_digest_of_a_table_is_of_the_scores_in_use(table):
    def digest(*rows):
        scorers = {"reward": FunctionScorer("f", lengths), "safety": table(*rows)}
        return table_digests(scorers, lambda one: one.pairs([], PAIRS))

    expected = hashlib.sha256(np.array([[1.0, -1.0], [2.0, -2.0]]).tobytes()).hexdigest()
    assert digest(*FULL) == {"safety": expected}
    assert digest(*FULL, row("q", "new", 3.0)) == {"safety": expected}  # more lines change nothing
    assert digest(row("p", "good", 1.5), *FULL[1:]) != {"safety": expected}


def test_an_implicit_score_is_a_scaled_log_ratio(reference, other, pairs, batching):
    cache = LogpsCache(batching)
    scorer = ImplicitScorer(reference, other, 0.5, cache, batching)
    found = scorer.pairs(pairs, [])
    by_hand = 0.5 * (
        np.asarray(logps_of_pairs(other, pairs, batching), np.float64)
        - logps_of_pairs(reference, pairs, batching)
    )
    np.testing.assert_allclose(found, by_hand, atol=1e-5)
    assert found.dtype == np.float64 and np.abs(found).max() > 0.1
    responses = [[TokenizedResponse(p.prompt_ids, ids) for ids in p[1:]] for p in pairs]
    drawn = Responses(["a"] * 6, [["", ""]] * 6, responses)
    np.testing.assert_allclose(scorer.responses(drawn), by_hand, atol=1e-4)
    # The reference's are shared by all dimensions.
    assert cache.of_responses(reference, drawn) is cache.of_responses(reference, drawn)
    np.testing.assert_allclose(
        cache.of_responses(reference, drawn), logps_of_responses(reference, drawn, batching), atol=1e-5
    )


@pytest.mark.parametrize(("kind", "sign"), [("reward", 1.0), ("cost", -1.0)])
def test_a_cost_is_turned_over(model, pairs, batching, kind, sign):
    import jax

    score_model = init_score_model(jax.random.key(1), model, kind=kind)
    plain = init_score_model(jax.random.key(1), model, kind="reward")
    scorer = LearnedScorer("safety", lambda: (score_model, None), batching)
    base = LearnedScorer("safety", lambda: (plain, None), batching)
    np.testing.assert_allclose(scorer.pairs(pairs, []), sign * base.pairs(pairs, []), atol=1e-6)
    row = [[TokenizedResponse(p.prompt_ids, p.chosen_ids), TokenizedResponse(p.prompt_ids, p.rejected_ids)]
           for p in pairs]  # fmt: skip
    drawn = Responses(["a"] * 6, [["", ""]] * 6, row)
    np.testing.assert_allclose(scorer.responses(drawn), scorer.pairs(pairs, []), atol=1e-5)


def test_what_a_score_model_reads_twice_in_one_call_it_reads_once(model, pairs, batching, monkeypatch):
    import jax

    score_model = init_score_model(jax.random.key(1), model, kind="reward")
    scorer = LearnedScorer("safety", lambda: (score_model, None), batching)
    alone = scorer.pairs(pairs[:5], [])
    # Two dimensions whose held-out pairs are partly the same; the sixth pair is the first again.
    sets = {
        name: Labelled(tokens, np.ones(len(tokens)), np.arange(len(tokens)), texts_of(tokens))
        for name, tokens in {"reward": pairs[:4], "safety": pairs[2:]}.items()
    }
    read = []
    for name in ("learned_pair_scores", "learned_scores"):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda m, rows, real=real, **k: read.append(len(rows)) or real(m, rows, **k)
        )
    found = score_pair_sets({"safety": scorer}, sets)
    assert read == [5]
    np.testing.assert_allclose(found["reward"][..., 0], alone[:4], atol=1e-5)
    np.testing.assert_allclose(found["safety"][..., 0], alone[[2, 3, 4, 0]], atol=1e-5)
    row = [[TokenizedResponse(p.prompt_ids, p.chosen_ids)] * 2 for p in pairs]
    scores = scorer.responses(Responses(["a"] * 6, [["", ""]] * 6, row))
    assert read == [5, 5]
    np.testing.assert_allclose(scores, np.repeat(alone[[0, 1, 2, 3, 4, 0], :1], 2, axis=1), atol=1e-5)


def texts_of(tokens):
    """Texts of pairs, equal where the tokens are."""
    shown = [[" ".join(map(str, ids)) for ids in pair] for pair in tokens]
    return [PreferencePair(prompt, chosen, rejected, {}, "") for prompt, chosen, rejected in shown]
