"""Pairs as a model will see them: lengths in tokens, what is cut, and rows with every token and its part.

The ids are those that a run trains on, by the same encoders.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alignjax.config import ModelSettings
from alignjax.data.findings import cut_findings
from alignjax.data.prompts import Cut, encode_prompts
from alignjax.data.records import PreferencePair
from alignjax.data.templates import Template
from alignjax.data.tokenize import TokenizedPair, tokenize_pairs
from alignjax.data.turns import assistant_turn

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

MANY_UNKNOWN = 0.01  # share of the tokens from which unknown ones are a finding
_ANY = 2**40  # tokens: no limit
_MOST_PIECES = 120  # tokens of a part that are shown; the first and the last half of these
_CONTEXT = 4  # tokens before one that can change its text


@dataclasses.dataclass(frozen=True)
class Spread:
    """Of lengths: the median, the length that 95% do not exceed, and the longest."""

    median: int
    high: int
    longest: int


@dataclasses.dataclass(frozen=True)
class Shown:
    """How the model is shown a conversation.

    Attributes:
      template: the plain text, or "chat": the tokenizer's chat template.
      date: what a chat template takes for today; None for a plain text.
      begins: the special token that prompts begin with; empty: none.
      opening: what stands between a prompt and the reply and is trained, such as an empty block of thoughts.
      end: the token that ends a response.
      end_id: its id.
    """

    template: str
    date: str | None
    begins: str
    opening: str
    end: str
    end_id: int


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Lengths in tokens, and what is cut.

    Attributes:
      pairs: pairs that were tokenized, drawn by seed from all.
      max_length: most tokens of prompt and response together.
      max_prompt_length: most tokens of a prompt.
      prompt: lengths of prompts as they are before they are cut.
      response: lengths of responses, the end token included.
      together: prompt and the longer response.
      prompts_cut: prompts that are too long, by what they lose: "turns", the oldest turns; "text", the
        beginning of a turn; "header", all but the end, the system turn and the header too.
      responses_cut: responses that lose their end.
      unknown: tokens of words that the tokenizer does not know.
      total: tokens of all prompts and responses.
    """

    pairs: int
    max_length: int
    max_prompt_length: int
    prompt: Spread
    response: Spread
    together: Spread
    prompts_cut: Mapping[str, int]
    responses_cut: int
    unknown: int
    total: int


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a row.

    Attributes:
      part: "prompt"; "response", which is trained; "end", the end token, which is trained; "cut", which the
        model does not see.
      pieces: texts of its tokens, or one text where there is no tokenizer.
      count: its tokens, or characters.
      left_out: of these, those that are not among the pieces, between the first and the last half of them.
    """

    part: str
    pieces: tuple[str, ...]
    count: int
    left_out: int = 0


@dataclasses.dataclass(frozen=True)
class ShownPair:
    """A row as the model sees it.

    Attributes:
      where: its place in the file.
      unit: of the counts, tokens or characters.
      label: probability that the first response is preferred.
      prompt: its parts.
      first: parts of the first response.
      second: parts of the second response.
    """

    where: str
    unit: str
    label: float
    prompt: tuple[Segment, ...]
    first: tuple[Segment, ...]
    second: tuple[Segment, ...]


def shown_by(tokenizer: "PreTrainedTokenizerBase", template: Template, prompt: np.ndarray) -> Shown:
    """How the model is shown a conversation.

    Args:
      tokenizer: of the model.
      template: how prompts are shown.
      prompt: [P] ids of any prompt that is not cut.

    Raises:
      InputError: the template has no token that ends a response.
    """
    turn = assistant_turn(tokenizer, template)
    chat = template.kind == "chat"
    return Shown(
        template="chat" if chat else template.text,
        date=template.date if chat else None,
        begins=str(tokenizer.bos_token) if prompt[0] == tokenizer.bos_token_id else "",
        opening=turn.opening,
        end=turn.end,
        end_id=turn.end_id,
    )


def tokenized(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    pairs: Sequence[PreferencePair],
    settings: ModelSettings,
) -> tuple[Tokens, list[TokenizedPair]]:
    """Tokenizes pairs, and measures what they are before and after they are cut.

    Args:
      tokenizer: of the model.
      template: how prompts are shown.
      pairs: n >= 1 cleaned pairs.
      settings: the largest lengths.

    Returns:
      The lengths, and the n pairs before they are cut.

    Raises:
      InputError: a prompt that the template cannot show, or impossible lengths.
    """
    limits = {"max_length": settings.max_length, "max_prompt_length": settings.max_prompt_length}
    whole, _ = tokenize_pairs(tokenizer, template, pairs, max_length=_ANY + 1, max_prompt_length=_ANY)
    prompt, first, second = (np.array([len(ids) for ids in column]) for column in zip(*whole, strict=True))
    together = prompt + np.maximum(first, second)
    too_long = (prompt > settings.max_prompt_length) | (together > settings.max_length)
    long = [pair for pair, is_long in zip(pairs, too_long, strict=True) if is_long]
    _, cut = tokenize_pairs(tokenizer, template, long, **limits)  # also checks the limits
    how = encode_prompts(
        tokenizer, template, [pair.prompt for pair in long], most=settings.max_prompt_length
    ).how
    unknown = tokenizer.unk_token_id
    return Tokens(
        pairs=len(pairs),
        **limits,
        prompt=_spread(prompt),
        response=_spread(np.concatenate([first, second])),
        together=_spread(together),
        prompts_cut=_by_loss(how),
        responses_cut=cut.responses_cut,
        unknown=0 if unknown is None else sum(int((ids == unknown).sum()) for pair in whole for ids in pair),
        total=int(prompt.sum() + first.sum() + second.sum()),
    ), whole


def token_findings(found: Tokens) -> list[str]:
    """What a reader should not miss of lengths and words, in sentences.

    Args:
      found: lengths and what is cut.
    """
    counts = {
        "pairs": found.pairs,
        "prompts_cut": sum(found.prompts_cut.values()),
        "responses_cut": found.responses_cut,
    }
    sentences = cut_findings({"tokenized": counts})
    if lost := found.prompts_cut["header"]:
        sentences.append(
            f"{lost:,} prompts are cut so short that the system turn and the template's header are lost; "
            "raise max_prompt_length."
        )
    if found.unknown > MANY_UNKNOWN * found.total:
        share = found.unknown / found.total
        sentences.append(f"{share:.1%} of the tokens stand for unknown words; is it the right tokenizer?")
    return sentences


def _by_loss(how: Sequence[Cut]) -> dict[str, int]:
    counts = Counter(how)
    return {kind: counts[kind] for kind in ("turns", "text", "header")}


def _spread(lengths: np.ndarray) -> Spread:
    high = np.quantile(lengths, 0.95, method="inverted_cdf")
    return Spread(int(np.median(lengths)), int(high), int(lengths.max()))


def shown_pair(
    tokenizer: "PreTrainedTokenizerBase", template: Template, pair: PreferencePair, settings: ModelSettings
) -> ShownPair:
    """One pair with the text of every token, divided into what is trained, what is not, and what is cut.

    Args:
      tokenizer: of the model.
      template: how prompts are shown.
      pair: a cleaned pair.
      settings: the largest lengths.

    Raises:
      InputError: a prompt that the template cannot show, or impossible lengths.
    """
    limits = {"max_length": settings.max_length, "max_prompt_length": settings.max_prompt_length}
    ((whole, *full),), _ = tokenize_pairs(
        tokenizer, template, [pair], max_length=_ANY + 1, max_prompt_length=_ANY
    )
    ((prompt, *kept),), _ = tokenize_pairs(tokenizer, template, [pair], **limits)
    lost = len(whole) - len(prompt)
    parts = [Segment("cut", (), lost, lost)] if lost else []
    parts.append(_segment(tokenizer, "prompt", prompt))
    responses = []
    for ids, seen in zip(full, kept, strict=True):
        if len(seen) < len(ids):
            cut = [_segment(tokenizer, "response", seen), _segment(tokenizer, "cut", ids[len(seen) :])]
        else:
            cut = [_segment(tokenizer, "response", ids[:-1]), _segment(tokenizer, "end", ids[-1:])]
        responses.append(tuple(part for part in cut if part.count))
    (label,) = pair.labels.values()
    return ShownPair(pair.where, "tokens", label, tuple(parts), *responses)


def text_pair(pair: PreferencePair) -> ShownPair:
    """One pair without a tokenizer: its texts.

    Args:
      pair: a cleaned pair.
    """
    prompt = pair.prompt
    texts = [prompt] if isinstance(prompt, str) else [f"{turn.role}: {turn.content}" for turn in prompt]
    (label,) = pair.labels.values()
    return ShownPair(
        pair.where,
        "characters",
        label,
        tuple(_text("prompt", text) for text in texts),
        (_text("response", pair.chosen),),
        (_text("response", pair.rejected),),
    )


def _text(part: str, text: str) -> Segment:
    half = 3 * _MOST_PIECES
    if len(text) <= 2 * half:
        return Segment(part, (text,), len(text))
    return Segment(part, (text[:half], text[-half:]), len(text), len(text) - 2 * half)


def _segment(tokenizer: "PreTrainedTokenizerBase", part: str, ids: np.ndarray) -> Segment:
    if len(ids) <= _MOST_PIECES:
        return Segment(part, tuple(pieces(tokenizer, ids.tolist())), len(ids))
    half = _MOST_PIECES // 2
    shown = (*pieces(tokenizer, ids[:half].tolist()), *pieces(tokenizer, ids[-half:].tolist()))
    return Segment(part, shown, len(ids), len(ids) - _MOST_PIECES)


def pieces(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[str]:
    """The text of every token where it stands; tokens that are parts of one character are joined.

    Args:
      tokenizer: of the model.
      ids: T ids.

    Returns:
      At most T texts, which joined are the text of all, special tokens included.
    """

    def text(start: int, end: int) -> str:
        found: Any = tokenizer.decode(
            list(ids[start:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(found)

    found: list[str] = []
    start = 0
    for end in range(1, len(ids) + 1):
        context = max(0, start - _CONTEXT)
        piece = text(context, end)[len(text(context, start)) :]
        # An unfinished character is shown with the tokens that end it, at most four bytes.
        if piece.endswith("\ufffd") and end < len(ids) and end - start < 4:
            continue
        found.append(piece)
        start = end
    return found
