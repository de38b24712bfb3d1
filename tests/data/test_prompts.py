"""Prompts of several turns: shown by plain templates, and cut by whole turns."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignjax.data.rows import Message
from alignjax.data.templates import Template
from alignjax.data.tokenize import encode_prompt, encode_response, tokenize_prompts
from alignjax.errors import InputError
from tests.data.test_tokenize import TOKENIZER, byte_tokenizer

CHAT = byte_tokenizer(
    bos=None,
    chat_template="{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}",
)
TURNS = (
    *(Message("system", "S"), Message("user", "one"), Message("assistant", "two")),
    *(Message("user", "three"), Message("assistant", "four"), Message("user", "last")),
)


def shown(template, prompt):
    return TOKENIZER.decode(encode_prompt(TOKENIZER, template, prompt))


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (99, "[s]S[u]one[a]two[u]three[a]four[u]last[a]"),
        (40, "[s]S[u]three[a]four[u]last[a]"),
        (29, "[s]S[u]three[a]four[u]last[a]"),
        (28, "[s]S[u]last[a]"),
        (14, "[s]S[u]last[a]"),
        (12, "[s]S[u]st[a]"),
        (11, "[s]S[u]t[a]"),
        (10, "S[u]last[a]"[-10:]),  # no room for what the template writes
    ],
)
def test_whole_turns_are_dropped_before_one_is_cut(most, expected):
    (ids,), cut = tokenize_prompts(CHAT, Template("chat"), [TURNS], max_prompt_length=most)
    assert CHAT.decode(ids) == expected and len(ids) <= most and cut == (most < 41)


def test_one_text_is_cut_within_its_template():
    plain = Template("plain", "USER: {prompt} ASSISTANT:")
    (ids,), cut = tokenize_prompts(TOKENIZER, plain, ["0123456789"], max_prompt_length=22)
    assert TOKENIZER.decode(ids) == "<s>USER: 6789 ASSISTANT:" and cut == 1


def test_plain_templates_repeat_for_every_turn():
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    human = Template("plain", "\n\nHuman: {prompt}\n\nAssistant:")
    assert shown(human, turns) == "<s>\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    # Safe-RLHF: the beginning once, and the end token after an earlier reply.
    begun = Template("plain", "BEGIN: {turn}USER: {prompt} ASSISTANT:")
    assert shown(begun, turns) == "<s>BEGIN: USER: a ASSISTANT: b</s>USER: c ASSISTANT:"
    assert shown(begun, "a") == "<s>BEGIN: USER: a ASSISTANT:"
    with pytest.raises(InputError, match="the prompt has 2 messages, but a plain template"):
        shown(human, (Message("system", "s"), Message("user", "a")))
    with pytest.raises(InputError, match="at most once"):
        Template("plain", "{turn}{turn}{prompt}")


def test_the_space_before_a_reply_is_kept():
    human = Template("plain", "\n\nHuman: {prompt}\n\nAssistant:")
    for text in ("ok", " ok"):
        assert TOKENIZER.decode(encode_response(TOKENIZER, text, human)) == " ok</s>"
    for end in ("", "\n", " "):  # nothing to set the reply apart from
        template = Template("plain", "{prompt}" + end)
        assert TOKENIZER.decode(encode_response(TOKENIZER, "ok", template)) == "ok</s>"


def test_a_word_that_the_tokenizer_cannot_encode_is_one_line():
    backend = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert encode_prompt(words, Template("plain", "{prompt}"), "a a") == [0, 0]
    with pytest.raises(InputError, match="the tokenizer cannot encode a text .* such as 'hello there'; use"):
        encode_prompt(words, Template("plain", "{prompt}"), "hello there")
