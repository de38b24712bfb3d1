"""Where replies begin and end under chat templates, against TRL's token ids and by hand."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from alignjax.data.records import PreferencePair
from alignjax.data.rows import Message
from alignjax.data.templates import Template
from alignjax.data.tokenize import encode_response, tokenize_pairs
from alignjax.data.turns import end_id_of_chat
from alignjax.errors import InputError
from tests.data.test_tokenize import byte_tokenizer

# Of tools/make_template_goldens.py, by TRL 1.16.
GOLDENS = json.loads((Path(__file__).parent / "goldens" / "templates.json").read_text())
CHATML = GOLDENS["families"]["chatml"]["template"]


def tokenizer_of(template, bos=None, eos="<|endoftext|>"):
    backend = byte_tokenizer(bos=None, eos=None).backend_tokenizer
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in GOLDENS["special"]])
    backend.add_tokens([AddedToken(t, normalized=False) for t in GOLDENS["added"]])
    special = {"eos_token": eos} | ({"bos_token": bos} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **special)


@pytest.mark.parametrize("name", list(GOLDENS["families"]))
def test_ids_are_those_of_trl(name):
    family = GOLDENS["families"][name]
    tokenizer = tokenizer_of(family["template"], family["bos"], family["eos"])
    template = Template("chat", kwargs=family["kwargs"])
    pairs = [
        PreferencePair(
            tuple(Message(*turn) for turn in row["prompt"]), row["chosen"], row["rejected"], {"r": 1.0}, "f:1"
        )
        for row in GOLDENS["rows"]
    ]
    rows, _ = tokenize_pairs(tokenizer, template, pairs, max_length=500, max_prompt_length=400)
    line_end = tokenizer.encode("\n", add_special_tokens=False)
    for found, (prompt, *replies) in zip(rows, family["ids"], strict=True):
        assert found.prompt_ids.tolist() == prompt
        for ours, theirs in zip((found.chosen_ids, found.rejected_ids), replies, strict=True):
            # A response ends with the token that ends the turn, where sampling stops; TRL trains on the line
            # end after it as well, in templates that have one there.
            after = theirs[len(ours) :]
            assert ours.tolist() == theirs[: len(ours)] and after in ([], line_end)
            assert ours[-1] in (tokenizer.eos_token_id, end_id_of_chat(tokenizer))


def test_the_templates_end_token_ends_responses_and_samples():
    tokenizer = tokenizer_of(CHATML)
    ids = encode_response(tokenizer, "Paris.", Template("chat"))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.decode(ids) == "Paris.<|im_end|>" and ids[-1] == end == end_id_of_chat(tokenizer)
    assert encode_response(tokenizer, "Paris.<|im_end|>\n", Template("chat")) == ids
    # A plain template knows nothing of turns.
    assert tokenizer.decode(encode_response(tokenizer, "Paris.")) == "Paris.<|endoftext|>"


def test_a_template_that_ends_turns_with_nothing_or_with_no_token():
    silent = tokenizer_of("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}")
    # It opens no turn at the end of a prompt either, so that the model itself has to.
    assert silent.decode(encode_response(silent, "a", Template("chat"))) == "assistant: a<|endoftext|>"
    loose = tokenizer_of(CHATML.replace("<|im_end|>", "<|stop|>"))
    with pytest.raises(InputError, match=r"ends the assistant's turn with '<\|stop\|>', which is no token"):
        encode_response(loose, "a", Template("chat"))
    assert end_id_of_chat(loose) is None and end_id_of_chat(tokenizer_of(None)) is None
    assert loose.decode(encode_response(loose, "a")) == "a<|endoftext|>"


def test_a_reply_with_its_own_thoughts_gets_no_empty_ones():
    family = GOLDENS["families"]["qwen3"]
    tokenizer = tokenizer_of(family["template"], eos=family["eos"])
    own = encode_response(tokenizer, "<think>\nhm\n</think>\n\nYes", Template("chat"))
    assert tokenizer.decode(own) == "<think>\nhm\n</think>\n\nYes<|im_end|>"
    empty = encode_response(tokenizer, "Yes", Template("chat"))
    assert tokenizer.decode(empty) == "<think>\n\n</think>\n\nYes<|im_end|>"
