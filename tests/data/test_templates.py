"""Chat templates are programs of strangers: what they may do, and what they must not."""

import datetime
import time

import pytest

from alignjax.data import templates
from alignjax.data.rows import Message
from alignjax.data.templates import Template, render
from alignjax.data.tokenize import encode_prompt
from alignjax.errors import InputError
from tests.data.test_tokenize import byte_tokenizer

ASKED = (Message("user", "hi"),)


def shown(source, template=None, generation=True):
    tokenizer = byte_tokenizer(chat_template=source)
    return render(tokenizer, template or Template("chat"), [ASKED], ["f:1"], generation=generation)[0]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 3 sec"),
        ("{{ '%100000000000d'|format(1) }}", "."),
        ("{{ 'x' * 10**10 }}", "more than 1 GB of memory"),
        ("{{ 'x' * 20000000 }}", "a text of 20000000 characters"),
        (
            "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
            "GB",
        ),
        ("{{ 1/0 }}", "division by zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "."),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 9**(10**9) }}", "."),
    ],
)
def test_hostile_templates_end_in_one_line(source, problem, monkeypatch):
    if problem == "GB":  # a busy machine copies slowly: it shall meet the limit of memory all the same
        monkeypatch.setattr(templates, "_SECONDS", 20.0)
    start = time.monotonic()
    with pytest.raises(
        InputError, match=f"f:1: the chat template refuses the turns .user.: .*{problem}"
    ) as e:
        shown(source)
    assert "\n" not in str(e.value) and time.monotonic() - start < 30
    assert shown("{{ messages[0].content }}") == "hi"  # the next one is rendered


def test_the_date_is_that_of_the_template():
    source = "{{ strftime_now('%d %B %Y') }}|{{ date_string }}"
    assert shown(source) == "26 July 2024|26 Jul 2024"
    assert shown(source, Template("chat", date="2025-01-02")) == "02 January 2025|02 Jan 2025"
    assert str(datetime.date.today().year) not in shown(source)


def test_arguments_reach_the_template_and_tokens_have_their_names():
    source = "{{ bos_token }}{% if thinking is defined %}{{ thinking }}{% endif %}{{ messages|tojson }}"
    assert shown(source) == '<s>[{"role": "user", "content": "hi"}]'
    assert shown(source, Template("chat", kwargs={"thinking": False})).startswith("<s>False[")
    assert shown("{% generation %}a{% endgeneration %}{{ eos_token }}") == "a</s>"


def test_many_conversations_keep_their_order_and_name_the_one_that_is_refused():
    source = (
        "{% if messages[0].content == '77' %}{{ raise_exception('no 77') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    tokenizer = byte_tokenizer(chat_template=source)
    turns = [[Message("user", str(i))] for i in range(100)]
    wheres = [f"f:{i}" for i in range(100)]
    kept = [i for i in range(100) if i != 77]
    texts = render(
        tokenizer, Template("chat"), [turns[i] for i in kept], [wheres[i] for i in kept], generation=True
    )
    assert texts == [str(i) for i in kept]
    with pytest.raises(InputError, match="f:77: the chat template refuses the turns .user.: no 77"):
        render(tokenizer, Template("chat"), turns, wheres, generation=True)


def test_a_tokenizer_with_several_templates_uses_its_default():
    several = byte_tokenizer()
    several.chat_template = {"default": "{{ messages[0].content }}!", "tool_use": "x"}
    assert several.decode(encode_prompt(several, Template("chat"), "hi")) == "hi!"
    several.chat_template = {"tool_use": "x"}
    with pytest.raises(InputError, match="chat templates named tool_use, and none is named default"):
        encode_prompt(several, Template("chat"), "hi")
