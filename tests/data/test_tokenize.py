from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from alignjax.config import ModelSettings
from alignjax.data.records import Message, PreferencePair
from alignjax.data.tokenize import (
    Template,
    encode_prompt,
    encode_response,
    template_for,
    tokenize_pairs,
    tokenize_prompts,
    tokenize_responses,
)
from alignjax.errors import InputError

CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
ALTERNATE = "{{ raise_exception('Conversation roles must alternate') }}"
PLAIN = Template("plain", "{prompt}")


def byte_tokenizer(*, bos: str | None = "<s>", eos: str | None = "</s>", chat_template=None, adds=True):
    """One token a byte (ids 0..255), then the special tokens; padding is the EOS. It `adds` its BOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    special = {name: t for name, t in (("bos_token", bos), ("eos_token", eos), ("pad_token", eos)) if t}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=chat_template, **special)
    if bos and adds:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.convert_tokens_to_ids(bos))]
        )
    return made


TOKENIZER = byte_tokenizer()
# transformers types an id as anything that a special token's attribute may be.
BOS: Any = TOKENIZER.bos_token_id
EOS: Any = TOKENIZER.eos_token_id


def pair(prompt, chosen, rejected, where="f:1"):
    return PreferencePair(prompt, chosen, rejected, {"reward": 1.0}, where)


def test_plain_template_and_braces_in_the_prompt():
    ids = encode_prompt(TOKENIZER, Template("plain", "USER: {prompt} ASSISTANT:"), "{x} {prompt}")
    assert ids[0] == BOS
    assert TOKENIZER.decode(ids[1:]) == "USER: {x} {prompt} ASSISTANT:"


@pytest.mark.parametrize("text", ["{prompt}", "<s>{prompt}", "<s><s>{prompt}"])
def test_exactly_one_bos(text):
    assert encode_prompt(TOKENIZER, Template("plain", text), "hi").count(BOS) == 1


def test_no_bos_where_the_tokenizer_has_none():
    tokenizer = byte_tokenizer(bos=None)
    assert tokenizer.decode(encode_prompt(tokenizer, PLAIN, "hi")) == "hi"


def test_chat_template_with_its_own_bos_gets_no_second_one():
    tokenizer = byte_tokenizer(chat_template=CHATML)
    template = template_for(tokenizer)
    assert template == Template("chat") and template_for(TOKENIZER) == PLAIN
    expected = "<s>user\nhi</s>\n<s>assistant\n"
    assert tokenizer.decode(encode_prompt(tokenizer, template, "hi")) == expected
    turns = (Message("system", "be brief"), Message("user", "hi"))
    assert (
        tokenizer.decode(encode_prompt(tokenizer, template, turns)) == "<s>system\nbe brief</s>\n" + expected
    )


def test_bos_is_what_the_tokenizer_does_unless_it_is_asked_for():
    chat = byte_tokenizer(chat_template="{% for m in messages %}{{ m['content'] }}|{% endfor %}")
    none = byte_tokenizer(adds=False)

    def shown(tokenizer, template):
        return tokenizer.decode(encode_prompt(tokenizer, template, "hi"))

    # As transformers: nothing is added to what a chat template wrote.
    assert shown(chat, Template("chat")) == "hi|" and shown(chat, Template("chat", add_bos=True)) == "<s>hi|"
    assert shown(none, PLAIN) == "hi" and shown(none, Template("plain", "<s>{prompt}")) == "<s>hi"
    assert shown(none, Template("plain", "{prompt}", add_bos=True)) == "<s>hi"
    assert shown(TOKENIZER, Template("plain", "{prompt}", add_bos=False)) == "hi"
    with pytest.raises(InputError, match=r"add_bos \(or --add_bos\): is True, but the tokenizer has no BOS"):
        shown(byte_tokenizer(bos=None), Template("plain", "{prompt}", add_bos=True))


@pytest.mark.parametrize("text", ["ok", "ok</s>", "ok</s></s>", "ok</s>\n"])
def test_exactly_one_eos(text):
    ids = encode_response(TOKENIZER, text)
    assert ids[-1] == EOS and ids.count(EOS) == 1
    assert TOKENIZER.decode(ids[:-1]) == "ok"


def test_names_of_special_tokens_within_a_response_are_text():
    ids = encode_response(TOKENIZER, "a</s>b<s>")
    assert ids.count(EOS) == 1 and BOS not in ids
    assert TOKENIZER.decode(ids[:-1]) == "a</s>b<s>"


@settings(deadline=None, max_examples=60)
@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    chosen=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    max_length=st.integers(6, 50),
    share=st.floats(0.1, 0.9),
)
def test_cuts_and_counts(prompt, chosen, max_length, share):
    max_prompt_length = max(1, int(share * max_length))
    rows, counts = tokenize_pairs(
        TOKENIZER,
        PLAIN,
        [pair(prompt, chosen, "no")],
        max_length=max_length,
        max_prompt_length=max_prompt_length,
    )
    whole_prompt, whole = encode_prompt(TOKENIZER, PLAIN, prompt), encode_response(TOKENIZER, chosen)
    row = rows[0]
    assert row.prompt_ids.dtype == row.chosen_ids.dtype == np.int32
    assert row.prompt_ids[0] == BOS
    kept = len(row.prompt_ids) - 1
    assert row.prompt_ids[1:].tolist() == (whole_prompt[-kept:] if kept else [])
    assert len(row.prompt_ids) == min(len(whole_prompt), max_prompt_length)
    assert row.chosen_ids.tolist() == whole[: max_length - len(row.prompt_ids)]
    cut = [len(row.chosen_ids) < len(whole), len(row.rejected_ids) < 3]
    assert counts == (int(len(whole_prompt) > max_prompt_length), sum(cut))
    assert (row.chosen_ids[-1] == EOS) == (not cut[0])


def test_pairs_keep_their_order_and_share_nothing():
    pairs = [pair("p", "a", "b"), pair("q", "c", "d"), pair("p", "e", "f")]
    rows, _ = tokenize_pairs(TOKENIZER, PLAIN, pairs, max_length=20, max_prompt_length=10)
    texts = [[TOKENIZER.decode(ids, skip_special_tokens=True) for ids in row] for row in rows]
    assert texts == [["p", "a", "b"], ["q", "c", "d"], ["p", "e", "f"]]
    assert tokenize_pairs(TOKENIZER, PLAIN, [], max_length=20, max_prompt_length=10) == ([], (0, 0))


def test_responses_and_prompts_agree_with_pairs():
    given = [("prompt", "long answer")]
    (row,), counts = tokenize_responses(TOKENIZER, PLAIN, given, max_length=9, max_prompt_length=4)
    assert TOKENIZER.decode(row.prompt_ids) == "<s>mpt" and TOKENIZER.decode(row.response_ids) == "long "
    assert counts == (1, 1)
    prompts, cut = tokenize_prompts(TOKENIZER, PLAIN, ["prompt", "p"], max_prompt_length=4)
    assert prompts[0].tolist() == row.prompt_ids.tolist() and cut == 1
    only_bos, _ = tokenize_prompts(TOKENIZER, PLAIN, ["prompt"], max_prompt_length=1)
    assert only_bos[0].tolist() == [BOS]


TURNS = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))


def test_errors():
    def encode(prompt, template=PLAIN, tokenizer=TOKENIZER):
        encode_prompt(tokenizer, template, prompt)

    with pytest.raises(InputError, match="the prompt has 3 messages, but a plain template shows one"):
        encode(TURNS)
    with pytest.raises(InputError, match="the tokenizer has no chat template; give a plain template"):
        encode("x", Template("chat"))
    with pytest.raises(
        InputError, match=r"refuses the turns \(user, assistant, user\): Conversation roles must"
    ):
        encode(TURNS, Template("chat"), byte_tokenizer(chat_template=ALTERNATE))
    with pytest.raises(InputError, match=r"refuses the turns \(user\): Expected an expression"):
        encode("x", Template("chat"), byte_tokenizer(chat_template="{% if %}"))
    with pytest.raises(InputError, match="must not end with the assistant's turn"):
        encode(TURNS[:2], Template("chat"), byte_tokenizer(chat_template=CHATML))
    with pytest.raises(InputError, match="the prompt has no tokens"):
        encode("", tokenizer=byte_tokenizer(bos=None))
    with pytest.raises(InputError, match="the tokenizer has no EOS"):
        encode_response(byte_tokenizer(eos=None), "x")
    with pytest.raises(InputError, match=r"must contain \{prompt\} exactly once"):
        Template("plain", "USER:")
    with pytest.raises(InputError, match="use chat or plain"):
        Template("chatml")  # pyright: ignore[reportArgumentType]  # what is tested
    for length, prompt_length in ((10, 10), (10, 0)):
        with pytest.raises(InputError, match=f"max_prompt_length is {prompt_length}; it must be"):
            tokenize_pairs(TOKENIZER, PLAIN, [], max_length=length, max_prompt_length=prompt_length)
    with pytest.raises(InputError, match="data.jsonl:7: the prompt has 3 messages"):
        tokenize_pairs(
            TOKENIZER, PLAIN, [pair(TURNS, "a", "b", "data.jsonl:7")], max_length=9, max_prompt_length=4
        )
    with pytest.raises(InputError, match="f:1: differ; drop it"):
        unclean = pair("p", "a", "b")._replace(problem="differ")
        tokenize_pairs(TOKENIZER, PLAIN, [unclean], max_length=9, max_prompt_length=4)


def test_settings_choose_the_template():
    chat = byte_tokenizer(chat_template=CHATML)
    asked = ModelSettings(template_kwargs='{"thinking": false}', template_date="2025-01-02", add_bos=False)
    expected = Template("chat", kwargs={"thinking": False}, date="2025-01-02", add_bos=False)
    assert template_for(chat, asked) == expected
    assert template_for(chat, ModelSettings(template="{prompt}!")) == Template("plain", "{prompt}!")
    with pytest.raises(InputError, match="config.model.template_kwargs: .* only a chat template reads it"):
        template_for(TOKENIZER, asked)
