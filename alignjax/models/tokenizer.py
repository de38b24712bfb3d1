"""Tokenizers, read from a Hugging Face folder or built from the tables in a GGUF file."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from alignjax.errors import InputError

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")

# llama.cpp names splitters by the model family that introduced them; these are the families' expressions.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    "llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST,
    "qwen2": _WORDS + r"\p{N}" + _REST,
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
    _quiet_transformers()
    from transformers import AutoTokenizer

    log = logging.getLogger("transformers")
    level = log.level
    # It warns of ids outside the vocabulary, which `check_vocabulary` refuses.
    log.setLevel(logging.ERROR)
    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # tokenizers raises the bare class
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: transformers cannot load the tokenizer ({reason}); repair its files."
        ) from None
    finally:
        log.setLevel(level)


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
      split: llama.cpp's name of the splitter into words.
      where: the file, for messages.

    Returns:
      The tokenizer.

    Raises:
      InputError: an unknown splitter, or a damaged merge.
    """
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[_pair(merge, where) for merge in merges],
        )
    )
    steps: list[pre_tokenizers.PreTokenizer]
    if split in ("smollm", "default", "gpt-2"):
        steps = [pre_tokenizers.Digits(individual_digits=True)] if split == "smollm" else []
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
    elif split in _SPLITS:
        words = pre_tokenizers.Split(Regex(_SPLITS[split]), behavior="isolated")
        steps = [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        known = ", ".join(["default", "gpt-2", "smollm", *_SPLITS])
        raise InputError(f'{where}: tokenizer splitter "{split}" is not supported; use one of {known}.')
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


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
    tokenizer: Tokenizer, special: Mapping[str, str], chat_template: str | None = None
) -> "PreTrainedTokenizerBase":
    """Makes a transformers tokenizer from a `tokenizers` one.

    Args:
      tokenizer: the tokenizer.
      special: special tokens, as {"bos_token": "<s>", ...}.
      chat_template: in jinja; None: none.

    Returns:
      The transformers tokenizer.
    """
    _quiet_transformers()
    from transformers import PreTrainedTokenizerFast

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
