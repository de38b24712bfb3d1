"""Responses that are drawn, kept prompt by prompt, and read back."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from alignjax.config import SamplingSettings
from alignjax.data.records import Message
from alignjax.data.responses import Responses, read_responses, write_responses
from alignjax.data.tokenize import Template, TokenizedResponse
from alignjax.errors import InputError
from alignjax.policy import drawing as sampling
from alignjax.policy.drawing import draw, prompt_ids
from alignjax.policy.known_logps import logps_of_responses
from alignjax.runtime.line_log import LineLog

PROMPTS = ["a b", "b c", "c d", "d e", "e f", "f a", "a d", "b e"]
SETTINGS = SamplingSettings(num_prompts=99, num_samples=3, max_new_tokens=4)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def ids(reference):
    return prompt_ids(reference, Template("plain", "{prompt}"), PROMPTS, 2)


@pytest.fixture(scope="module")
def whole(reference, ids, batching):
    return draw(KEY, reference, PROMPTS, ids, SETTINGS, batching)


def flat(drawn):
    return [r.response_ids.tolist() for r in drawn.flat]


def test_prompts_are_tokenized_as_the_policy_is_shown_them(reference, ids):
    assert [row.tolist() for row in ids] == [[1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 1], [1, 4], [2, 5]]
    assert ids[0].dtype == np.int32
    cut = prompt_ids(reference, Template("plain", "c {prompt} d"), PROMPTS[:1], 2)
    assert cut[0].tolist() == [2, 4]  # the last two of c a b d


def test_draws_end_at_the_end_or_the_limit_and_are_decoded(whole, ids, reference):
    assert len(whole.texts) == len(whole.tokens) == 8 and {len(row) for row in whole.texts} == {3}
    words = " abcdef"
    for prompt, row, texts in zip(ids, whole.tokens, whole.texts, strict=True):
        for response, text in zip(row, texts, strict=True):
            tokens = response.response_ids.tolist()
            np.testing.assert_array_equal(response.prompt_ids, prompt)
            assert response.response_ids.dtype == np.int32
            assert 0 not in tokens[:-1] and (tokens[-1] == 0 or len(tokens) == 4)
            assert text.split() == [words[t] for t in tokens if t]
    assert len({tuple(tokens) for tokens in flat(whole)}) > 5


def test_the_log_probabilities_are_those_of_a_forward_pass_at_temperature_1(whole, reference, ids, batching):
    assert whole.logps.shape == (8, 3) and whole.logps.dtype == np.float32
    np.testing.assert_allclose(whole.logps, logps_of_responses(reference, whole, batching), atol=1e-5)
    settings = dataclasses.replace(SETTINGS, temperature=0.7, top_p=0.8)
    cold = draw(KEY, reference, PROMPTS[:2], ids[:2], settings, batching)
    assert cold.logps is not None
    np.testing.assert_allclose(cold.logps, logps_of_responses(reference, cold, batching), atol=1e-5)


def test_a_draw_is_a_function_of_key_and_place(whole, reference, ids, batching):
    again = draw(KEY, reference, PROMPTS, ids, SETTINGS, batching)
    assert flat(again) == flat(whole) and again.texts == whole.texts
    np.testing.assert_array_equal(again.logps, whole.logps)
    assert flat(draw(jax.random.key(4), reference, PROMPTS, ids, SETTINGS, batching)) != flat(whole)


def test_a_run_that_was_stopped_goes_on_with_the_same_draws(
    whole, reference, ids, batching, tmp_path, monkeypatch
):
    part, asked = tmp_path / "work" / "part.jsonl", []
    real = sampling.sample

    def stopped(key, model, prompts, *, places, keep, **options):
        """The process ends after the first prompts were kept: two, then one."""
        asked.append(places)
        kept = slice(0, 3 - len(asked))

        def some(rows, found):
            keep(rows[kept], type(found)(*(values[kept] for values in found)))
            raise KeyboardInterrupt

        real(key, model, prompts, places=places, keep=some, **options)

    monkeypatch.setattr(sampling, "sample", stopped)
    for left in ([0, 1, 2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7]):
        with pytest.raises(KeyboardInterrupt):
            draw(KEY, reference, PROMPTS, ids, SETTINGS, batching, part=part)
        assert asked[-1] == left
    monkeypatch.setattr(sampling, "sample", real)
    found = draw(KEY, reference, PROMPTS, ids, SETTINGS, batching, part=part)
    assert flat(found) == flat(whole) and found.texts == whole.texts
    assert found.logps is not None
    np.testing.assert_allclose(found.logps, whole.logps, atol=1e-5)
    # All are kept now: nothing is sampled.
    monkeypatch.setattr(sampling, "sample", stopped)
    kept = draw(KEY, reference, PROMPTS, ids, SETTINGS, batching, part=part)
    assert flat(kept) == flat(whole)
    np.testing.assert_array_equal(kept.logps, found.logps)
    assert len(asked) == 2


def test_draws_without_log_probabilities_leave_all_unknown(whole, reference, ids, batching, tmp_path):
    part = tmp_path / "part.jsonl"
    rows = [response.response_ids.tolist() for response in whole.tokens[0]]
    LineLog(part).append({"prompt_id": 0, "responses": rows})  # as older versions kept them
    found = draw(KEY, reference, PROMPTS, ids, SETTINGS, batching, part=part)
    assert flat(found) == flat(whole) and found.logps is None


def test_a_line_that_was_cut_off_is_drawn_again(whole, reference, ids, batching, tmp_path):
    part = tmp_path / "part.jsonl"
    draw(KEY, reference, PROMPTS, ids, SETTINGS, batching, part=part)
    content = part.read_bytes()
    part.write_bytes(content[: content.index(b"\n") + 9])  # the second line, and all after it
    assert flat(draw(KEY, reference, PROMPTS, ids, SETTINGS, batching, part=part)) == flat(whole)
    assert part.read_bytes() == content


def test_responses_come_back_from_their_file(whole, ids, tmp_path):
    path = tmp_path / "samples.jsonl"
    write_responses(path, whole, {"policy": "reference"})
    found = read_responses(path, PROMPTS, ids)
    assert found.prompts == PROMPTS and found.texts == whole.texts and flat(found) == flat(whole)
    assert found.tokens[1][0].prompt_ids.tolist() == [2, 3]
    np.testing.assert_array_equal(found.logps, whole.logps)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 24 and rows[4]["prompt_id"] == 1 and rows[4]["sample"] == 1
    # A line without them, as older files have it, leaves those of all unknown.
    del rows[4]["logps"]
    path.write_text("\n".join(map(json.dumps, rows)))
    older = read_responses(path, PROMPTS, ids)
    assert flat(older) == flat(whole) and older.logps is None
    assert rows[4]["prompt"] == "b c" and rows[4]["policy"] == "reference"


def test_prompts_of_messages_and_odd_texts_come_back(tmp_path):
    prompt = np.array([1], np.int32)
    odd = ["\u2028", "a\nb\r\x0b\x85", "", '"\\', "\U0001f600"]
    row = [TokenizedResponse(prompt, np.array([i, 0], np.int32)) for i in range(5)]
    given = Responses([(Message("user", "hi"), Message("assistant", "yes"))], [odd], [row])
    write_responses(tmp_path / "x.jsonl", given, {})
    found = read_responses(tmp_path / "x.jsonl", given.prompts, [prompt])
    assert found.texts == [odd] and flat(found) == flat(given)
    first = json.loads((tmp_path / "x.jsonl").read_bytes().split(b"\n")[0])
    assert first["prompt"] == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]


def test_a_file_of_more_prompts_is_refused(whole, ids, tmp_path):
    path = tmp_path / "samples.jsonl"
    write_responses(path, whole, {})
    with pytest.raises(InputError, match=r"samples\.jsonl:22: answers prompt 7 of 7"):
        read_responses(path, PROMPTS[:7], ids[:7])
