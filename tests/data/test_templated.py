"""Texts that a template was already applied to: refused one by one, dropped and counted among good ones."""

import pytest

from alignjax.data.records import Message
from alignjax.data.templated import template_found
from alignjax.data.templates import Template
from alignjax.data.tokenize import encode_prompt
from alignjax.errors import InputError
from tests.data.test_turns import CHATML, GOLDENS, tokenizer_of

CHAT = tokenizer_of(CHATML)
DONE = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
PLAIN = Template("plain", "USER: {prompt} ASSISTANT:")


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        (DONE, "already ends with the assistant's header '<|im_start|>assistant'"),
        (f"{DONE}<think>\n\n</think>\n\n", "already has the chat template's '<|im_start|>assistant'"),
        ("<|im_start|>user\nHi<|im_end|>\n", "already has the chat template's '<|im_start|>user'"),
        ((Message("user", "x"), Message("assistant", "y"), Message("user", DONE)), "already ends"),
        ("\n\nHuman: Hi\n\nAssistant:", "header 'Assistant:'"),
        ("[INST] Hi [/INST]", "header '[/INST]'"),  # of another model
        ("### Instruction:\nHi\n\n### Response:\n", "header '### Response:'"),
    ],
)
def test_prompts_are_refused_one_by_one(prompt, part):
    with pytest.raises(InputError, match="set config.model.template") as caught:
        encode_prompt(CHAT, Template("chat"), prompt)
    assert part in str(caught.value)


def test_every_template_of_the_goldens_recognises_its_own_prompts():
    for name, family in GOLDENS["families"].items():
        tokenizer = tokenizer_of(family["template"], family["bos"], family["eos"])
        template = Template("chat", kwargs=family["kwargs"])
        done = str(tokenizer.decode(encode_prompt(tokenizer, template, "Hi")))
        assert template_found(tokenizer, template, done), name
        assert not template_found(tokenizer, template, "Hi", ("a", "b")), name
        assert not template_found(tokenizer, template, "What does <|im_end|> mean, and [/INST] in a text?"), (
            name
        )


def test_a_bare_template_takes_texts_as_they_are():
    bare = encode_prompt(CHAT, Template("plain", "{prompt}"), DONE)
    assert bare == encode_prompt(CHAT, Template("chat"), "Hi")


def test_plain_templates():
    for text in ("USER: Hi ASSISTANT:", "Human: Hi\n\nAssistant:"):
        assert "already ends with the assistant's header" in template_found(CHAT, PLAIN, text)
    assert not template_found(CHAT, PLAIN, "Who is the assistant?")


def test_a_reply_with_a_header():
    told = template_found(CHAT, Template("chat"), "Hi", ("a", "<|im_start|>assistant\nHello<|im_end|>"))
    assert told.startswith("the reply already has the chat template's '<|im_start|>assistant'")
