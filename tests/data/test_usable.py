"""Pairs that a template cannot show: dropped and counted among good ones, refused where they are most."""

import pytest

from alignjax.data.records import Message, PreferencePair
from alignjax.data.templates import Template
from alignjax.data.usable import check_shown
from alignjax.errors import InputError
from tests.data.test_tokenize import ALTERNATE
from tests.data.test_turns import CHATML, tokenizer_of

CHAT = tokenizer_of(CHATML)
DONE = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def pair(prompt, where="f:1"):
    return PreferencePair(prompt, "a", "b", {"r": 1.0}, where)


def test_one_odd_row_is_dropped_and_a_templated_file_is_refused():
    good = [pair("p"), pair("q")]
    marked = check_shown(CHAT, Template("chat"), [*good, pair(DONE)], strict=False)
    assert marked[:2] == good and marked[2].kind == "templated"
    with pytest.raises(InputError, match="^f:1: the prompt already ends with"):
        check_shown(CHAT, Template("chat"), [*good, pair(DONE)], strict=True)
    with pytest.raises(InputError, match="^f:1: the prompt already ends with"):
        check_shown(CHAT, Template("chat"), [pair("p"), pair(DONE), pair(DONE)], strict=False)


def test_turns_that_the_template_refuses():
    alternating = tokenizer_of("{% if messages[0].role == 'system' %}" + ALTERNATE + "{% endif %}" + CHATML)
    system = (Message("system", "s"), Message("user", "u"))
    answered = (Message("user", "u"), Message("assistant", "a"))
    rows = [pair("p"), pair(system, "f:2"), pair("q"), pair(answered, "f:4"), pair("r"), pair("s")]
    marked = check_shown(alternating, Template("chat"), rows, strict=False)
    assert [one.kind for one in marked if one.problem] == ["unshown", "unshown"]
    assert marked[1].problem.startswith(
        "the chat template refuses the turns (system, user): Conversation roles"
    )
    assert marked[3].problem.startswith("the prompt must not end with the assistant's turn")
    with pytest.raises(InputError, match=r"^f:2: the chat template refuses"):
        check_shown(alternating, Template("chat"), rows[:2] + rows[1:2], strict=False)
    plain = Template("plain", "{prompt}")
    (kept, refused) = check_shown(CHAT, plain, [pair("p"), pair(system)], strict=False)
    assert not kept.problem and "but a plain template shows one of the user" in refused.problem


def test_rows_with_another_problem_keep_it():
    known = pair("")._replace(problem="is broken", kind="malformed")
    assert check_shown(CHAT, Template("chat"), [known, pair("p")], strict=True)[0] == known
