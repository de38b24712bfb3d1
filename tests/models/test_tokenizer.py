import pytest

from alignjax.errors import InputError
from alignjax.models.tokenizer import (
    begins_with_bos,
    byte_level_bpe,
    check_vocabulary,
    load_tokenizer,
    mark_special,
    scored_bpe,
    splitter,
    wrap,
)

SPACE = "\u2581"


def byte_vocabulary(*more):
    """GPT-2's alphabet of ASCII ("\u0120" is the space, "\u010a" the new line), then pieces."""
    return [*(chr(i) for i in range(33, 127)), "\u0120", "\u010a", *more]


def pieces(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).tokens


def test_byte_level_merges_in_order_of_priority():
    tokens = byte_vocabulary("bc", "ab", "abc")
    # "b c" before "a b": abc is a + bc, and no merge joins these two.
    late = byte_level_bpe(tokens, ["b c", "a b", "ab c"], "gpt-2", "f")
    assert pieces(late, "abc") == ["a", "bc"]
    early = byte_level_bpe(tokens, ["a b", "ab c", "b c"], "gpt-2", "f")
    assert pieces(early, "abc") == ["abc"]
    assert early.decode(early.encode("ab c!\n1", add_special_tokens=False).ids) == "ab c!\n1"


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        # The families' own rules: SmolLM, Qwen2 and Mistral take digits one by one, Llama 3 and DeepSeek by
        # threes, GPT-2 all.
        ("smollm", ["1", "2", "3", "4"]),
        ("qwen2", ["1", "2", "3", "4"]),
        ("llama-bpe", ["123", "4"]),
        ("deepseek-v3", ["123", "4"]),
        ("tekken", ["1", "2", "3", "4"]),
        ("gpt-2", ["1234"]),
    ],
)
def test_splitters_differ_on_digits(split, expected):
    tokens = byte_vocabulary("12", "123", "34", "1234")
    tokenizer = byte_level_bpe(tokens, ["1 2", "12 3", "123 4"], split, "f")
    assert pieces(tokenizer, "1234") == expected
    assert tokenizer.decode(tokenizer.encode("a 1234", add_special_tokens=False).ids) == "a 1234"


def test_qwen2_normalizes():
    composed, decomposed = "\u00e9", "e\u0301"
    tokens = byte_vocabulary(*(chr(i) for i in range(0xA1, 0x180)))
    tokenizer = byte_level_bpe(tokens, [], "qwen2", "f")
    assert pieces(tokenizer, composed) == pieces(tokenizer, decomposed)


def test_unknown_splitters_and_damaged_merges_are_refused():
    with pytest.raises(InputError, match='f: tokenizer splitter "poro" is not supported; use one of gpt-2'):
        byte_level_bpe(byte_vocabulary(), [], "poro", "f")
    with pytest.raises(InputError, match='f: merge "ab" has no space'):
        byte_level_bpe(byte_vocabulary("ab"), ["ab"], "gpt-2", "f")


def test_tekken_divides_at_capitals_and_takes_known_words_whole():
    tokens = byte_vocabulary("aB", "ab", "abab")
    divided = byte_level_bpe(tokens, ["a B"], "tekken", "f")
    assert pieces(divided, "aB") == ["a", "B"]  # the merge crosses two words
    assert pieces(byte_level_bpe(tokens, ["a B"], "qwen2", "f"), "aB") == ["aB"]
    # "abab" is reached by no merge.
    assert pieces(byte_level_bpe(tokens, ["a b"], "tekken", "f"), "abab") == ["abab"]
    assert pieces(byte_level_bpe(tokens, ["a b"], "qwen2", "f"), "abab") == ["ab", "ab"]


def test_a_splitter_that_is_not_named_is_known_by_the_vocabulary_or_refused():
    qwen = [f"t{i}" for i in range(151643)] + ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert splitter("default", qwen, "f") == splitter("", qwen, "f") == "qwen2"
    smollm = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "a"]
    assert splitter("default", smollm, "f") == "smollm" and splitter("llama-bpe", smollm, "f") == "llama-bpe"
    with pytest.raises(InputError, match="f: tokenizer.ggml.pre names no splitter, and the vocabulary of 96"):
        splitter("default", byte_vocabulary(), "f")


def test_bos_is_added_where_it_is_asked_for():
    tokens = byte_vocabulary("<s>")
    for adds, expected in ((True, [96, 64]), (False, [64])):
        made = wrap(byte_level_bpe(tokens, [], "gpt-2", "f"), {"bos_token": "<s>"}, add_bos=adds)
        assert made("a")["input_ids"] == expected
    assert begins_with_bos("llama-bpe") and not begins_with_bos("qwen2")


def scored(prefix_space=True):
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        SPACE,
        *"abc",
        "ab",
        "bc",
        SPACE + "a",
    ]
    # "bc" is the better piece than "ab": SentencePiece joins the best-scored neighbours first.
    scores = [0.0] * 259 + [-1.0] * 4 + [-9.0, -5.0, -7.0]
    return scored_bpe(tokens, scores, "<unk>", prefix_space=prefix_space)


def test_sentencepiece_joins_the_best_scored_neighbours_first():
    assert pieces(scored(prefix_space=False), "abc") == ["a", "bc"]
    assert pieces(scored(), "abc") == [SPACE + "a", "bc"]
    assert pieces(scored(), "b a") == [SPACE, "b", SPACE + "a"]


@pytest.mark.parametrize("text", ["abc", "a b  c", " a", "z\u00e9\n"])
def test_sentencepiece_gives_the_text_back(text):
    for prefix in (True, False):
        tokenizer = scored(prefix)
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
    # What has no piece is written in bytes.
    assert pieces(scored(prefix_space=False), "\n") == ["<0x0A>"]


def test_special_tokens_stay_whole():
    tokens = byte_vocabulary("<end>", "[keep]")
    types = [1] * (len(tokens) - 2) + [3, 4]
    tokenizer = byte_level_bpe(tokens, [], "gpt-2", "f")
    mark_special(tokenizer, tokens, types)
    assert pieces(tokenizer, "a<end>[keep]b") == ["a", "<end>", "[keep]", "b"]
    wrapped = wrap(tokenizer, {"eos_token": "<end>"}, "{{ messages }}")
    assert wrapped.eos_token_id == tokens.index("<end>") and wrapped.chat_template == "{{ messages }}"
    ids = wrapped.encode("a<end>[keep]", add_special_tokens=False)
    assert wrapped.decode(ids, skip_special_tokens=True) == "a[keep]"  # only control tokens are hidden


def test_vocabulary_against_embeddings(tiny_tokenizer):
    check_vocabulary(tiny_tokenizer, 23, "f")
    check_vocabulary(tiny_tokenizer, 64, "f")  # padded embeddings are common
    with pytest.raises(
        InputError, match="f: the tokenizer has token 't' with id 22, but the weights have only 22"
    ):
        check_vocabulary(tiny_tokenizer, 22, "f")


def test_folders(tiny_tokenizer, tmp_path):
    assert load_tokenizer(tmp_path) is None
    tiny_tokenizer.save_pretrained(str(tmp_path / "t"))
    back = load_tokenizer(tmp_path / "t")
    assert back is not None and back.get_vocab() == tiny_tokenizer.get_vocab()
    (tmp_path / "t" / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(InputError, match="t: transformers cannot load the tokenizer"):
        load_tokenizer(tmp_path / "t")


def test_a_sentencepiece_file_alone_names_what_reads_it(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(
        InputError, match="holds tokenizer.model but no tokenizer.json; install sentencepiece"
    ):
        load_tokenizer(tmp_path)
