"""Tokenizers, read from a Hugging Face folder or built from the tables in a GGUF file."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from alignjax.errors import InputError
from alignjax.models.tokenizer_checks import check_tokenizer_file, probe
from alignjax.runtime.faults import is_panic

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")

# llama.cpp names splitters by the model family that introduced them; these are the families' expressions.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
# Expressions that are applied one after the other to what is left of the text.
_SPLITS = {
    "llama-bpe": (_WORDS + r"\p{N}{1,3}" + _REST,),
    "dbrx": (_WORDS + r"\p{N}{1,3}" + _REST,),
    "smaug-bpe": (_WORDS + r"\p{N}{1,3}" + _REST,),
    "qwen2": (_WORDS + r"\p{N}" + _REST,),
    "deepseek-r1-qwen": (_WORDS + r"\p{N}" + _REST,),
    "stablelm2": (_WORDS + r"\p{N}" + _REST,),
    "tekken": (_TEKKEN,),
    "deepseek-v3": _DEEPSEEK3,
}
# GPT-2's own expression, after digits were set apart one by one or not.
_LIKE_GPT2 = {
    **dict.fromkeys(("gpt-2", "olmo", "phi-2", "mpt"), False),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), True),
}
_NORMALIZED = ("qwen2", "deepseek-r1-qwen")  # to NFC
# Families whose words are tokens whole where the vocabulary has them; they begin a text with a BOS.
_WHOLE_WORDS = ("llama-bpe", "tekken")
# Tokens at ids that no other family has there, for files without the splitter's name.
_RECOGNISED = {
    "llama-bpe": {128000: "<|begin_of_text|>", 128001: "<|end_of_text|>"},
    "qwen2": {151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>"},
    "gpt-2": {50256: "<|endoftext|>", 0: "!", 50255: "\u0120gazed"},
    "smollm": {0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>", 3: "<repo_name>"},
}
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6


def load_tokenizer(path: str | Path) -> "PreTrainedTokenizerBase | None":
    """Reads the tokenizer of a Hugging Face folder.

    Args:
      path: the folder.

    Returns:
      The tokenizer, or None if the folder has no tokenizer file.

    Raises:
      InputError: transformers cannot use the tokenizer files.
    """
    path = Path(path)
    if not any((path / name).is_file() for name in _FILES):
        return None
    check_tokenizer_file(path / "tokenizer.json")
    _quiet_transformers()
    from transformers import AutoTokenizer

    log = logging.getLogger("transformers")
    level = log.level
    # It warns of ids outside the vocabulary, which `check_vocabulary` refuses.
    log.setLevel(logging.ERROR)
    try:
        # Not left out: a folder with code of its own would ask on standard input whether to run it.
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except BaseException as error:  # tokenizers raises the bare class Exception, or panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        if not (path / "tokenizer.json").is_file() and (path / "tokenizer.model").is_file():
            raise InputError(
                f"{path}: holds tokenizer.model but no tokenizer.json; install sentencepiece and "
                "protobuf, which read it, or save it with transformers, which writes tokenizer.json."
            ) from None
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: transformers cannot load the tokenizer ({reason}); repair its files."
        ) from None
    finally:
        log.setLevel(level)
    probe(tokenizer, str(path))
    return tokenizer


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", vocab_size: int, where: str) -> None:
    """Refuses a tokenizer that can produce an id without a row in the embedding.

    Args:
      tokenizer: of the model.
      vocab_size: rows of the embedding.
      where: the file or folder, for messages.

    Raises:
      InputError: names the token with the largest id.
    """
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= vocab_size:
        raise InputError(
            f"{where}: the tokenizer has token {token!r} with id {largest}, but the weights have only "
            f"{vocab_size} embeddings; use the tokenizer that belongs to the weights."
        )


def byte_level_bpe(tokens: Sequence[str], merges: Sequence[str], split: str, where: str) -> Tokenizer:
    """Makes a byte-level BPE tokenizer, as of GPT-2, from its vocabulary and merges ("left right").

    Args:
      tokens: text of each id, bytes in GPT-2's printable alphabet.
      merges: in order of priority.
      split: llama.cpp's name of the splitter into words, as `splitter` gives it.
      where: the file, for messages.

    Returns:
      The tokenizer.

    Raises:
      InputError: an unknown splitter, or a damaged merge.
    """
    split = splitter(split, tokens, where)
    pairs = [_pair(merge, where) for merge in merges]
    vocab = {token: i for i, token in enumerate(tokens)}
    for left, right in pairs:
        if not {left, right, left + right} <= vocab.keys():
            raise InputError(f'{where}: merge "{left} {right}" is not of the tokens; the file is damaged.')
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=split in _WHOLE_WORDS))
    steps: list[pre_tokenizers.PreTokenizer]
    if split in _LIKE_GPT2:
        steps = [pre_tokenizers.Digits(individual_digits=True)] if _LIKE_GPT2[split] else []
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
    else:
        steps = [pre_tokenizers.Split(Regex(words), behavior="isolated") for words in _SPLITS[split]]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    if split in _NORMALIZED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def splitter(split: str, tokens: Sequence[str], where: str) -> str:
    """llama.cpp's name of the splitter into words, found by the vocabulary where a file names none.

    Args:
      split: what the file says; empty or "default": nothing.
      tokens: text of each id.
      where: the file, for messages.

    Returns:
      A name that `byte_level_bpe` knows.

    Raises:
      InputError: an unknown name, or none and the vocabulary is not recognised.
    """
    known = ", ".join([*_LIKE_GPT2, *_SPLITS])
    if split in _LIKE_GPT2 or split in _SPLITS:
        return split
    if split not in ("", "default"):
        raise InputError(f'{where}: tokenizer splitter "{split}" is not supported; use one of {known}.')
    for name, there in _RECOGNISED.items():
        if all(i < len(tokens) and tokens[i] == token for i, token in there.items()):
            return name
    raise InputError(
        f"{where}: tokenizer.ggml.pre names no splitter, and the vocabulary of {len(tokens)} tokens is not "
        f"one that tells; set it to one of {known}."
    )


def begins_with_bos(split: str) -> bool:
    """Whether a family of byte-level BPE tokenizers begins texts with a BOS, where the file does not say.

    Args:
      split: as `splitter` gives it.
    """
    return split in _WHOLE_WORDS


def scored_bpe(
    tokens: Sequence[str], scores: Sequence[float], unknown: str, *, prefix_space: bool
) -> Tokenizer:
    """Makes a SentencePiece BPE tokenizer (Llama 1 and 2, Mistral) from its pieces and their scores.

    SentencePiece repeatedly joins the neighbouring pieces whose joint piece has the best score. That is BPE
    with a merge for every way to divide a piece in two, ordered by the piece's score.

    Args:
      tokens: text of each id; "▁" stands for a space, "<0x0A>" for a byte.
      scores: pieces with larger scores are joined first.
      unknown: the token for text that cannot be encoded.
      prefix_space: put a space before the text, as SentencePiece does by default.

    Returns:
      The tokenizer.
    """
    vocab = {token: i for i, token in enumerate(tokens)}
    merges: list[tuple[float, int, tuple[str, str]]] = []
    for i, token in enumerate(tokens):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                merges.append((-scores[i], i, (left, right)))
    ordered = [pair for *_, pair in sorted(merges, key=lambda m: m[:2])]
    bpe = models.BPE(vocab=vocab, merges=ordered, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    spaces = [normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), *spaces] if prefix_space else spaces
    )
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix_space:
        steps.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def mark_special(tokenizer: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Registers control and user-defined tokens, so that they are recognised in text as one token each.

    Args:
      tokenizer: changed in place.
      tokens: text of each id.
      types: llama.cpp's type of each token.
    """
    control = [t for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    user = [t for t, kind in zip(tokens, types, strict=True) if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in user])


def wrap(
    tokenizer: Tokenizer,
    special: Mapping[str, str],
    chat_template: str | None = None,
    *,
    add_bos: bool = False,
) -> "PreTrainedTokenizerBase":
    """Makes a transformers tokenizer from a `tokenizers` one.

    Args:
      tokenizer: the tokenizer.
      special: special tokens, as {"bos_token": "<s>", ...}.
      chat_template: in jinja; None: none.
      add_bos: texts begin with the BOS, which must be among the special tokens.

    Returns:
      The transformers tokenizer.
    """
    _quiet_transformers()
    from transformers import PreTrainedTokenizerFast

    if add_bos and "bos_token" in special:
        bos = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    if chat_template is not None:
        wrapped.chat_template = chat_template
    return wrapped


def _pair(merge: str, where: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space:
        raise InputError(f'{where}: merge "{merge}" has no space between its two parts; the file is damaged.')
    return left, right


def _quiet_transformers() -> None:
    """Suppresses one notice: on import transformers says that it found no torch, which is not needed here."""
    logging.getLogger("transformers").addFilter(_not_about_torch)


def _not_about_torch(record: logging.LogRecord) -> bool:
    return "PyTorch was not found" not in record.getMessage()
