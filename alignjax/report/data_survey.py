"""What `python -m alignjax.data` prints of a file of preference pairs."""

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence

from alignjax.data.survey import Sizes, Survey
from alignjax.data.token_survey import Segment, Shown, ShownPair, Spread, Tokens
from alignjax.report.printable import clipped, printable

_WIDTH = 80
_INDENT = 16
_MOST = 400  # characters of a name or a message
_MARKS = {"prompt": ".", "response": "+", "end": "=", "cut": "-"}
# Grey, green, yellow on its own ground, red: what is trained is green and yellow.
_COLOURS = {"prompt": "90", "response": "32", "end": "30;43", "cut": "31"}
_LEGEND = (
    ". prompt, not trained   + response, trained   = end token, trained",
    "- cut, not seen",
    "tokens are set apart by |",
)
_LOSSES = {
    "turns": "their oldest turns",
    "text": "the beginning of a turn",
    "header": "all but their end, the system turn and the header of the assistant too",
}


@dataclasses.dataclass(frozen=True)
class Surveyed:
    """All that is known of one file.

    Attributes:
      survey: without a tokenizer.
      model: path of the model, or empty.
      shown: how the model is shown a conversation; None without a model.
      tokens: lengths in tokens; None without a model.
      by_length: sizes of the responses, in tokens with a model.
      pairs: some rows.
      findings: sentences that a reader must not miss.
    """

    survey: Survey
    model: str
    shown: Shown | None
    tokens: Tokens | None
    by_length: Sizes
    pairs: Sequence[ShownPair]
    findings: Sequence[str]


def survey_text(found: Surveyed, *, colour: bool) -> str:
    """What is known of a file, in lines of about 80 characters.

    Args:
      found: of the file.
      colour: for a terminal: parts of rows in colours, every second token underlined in place of the marks.

    Returns:
      Lines without a newline at the end. Whatever the file holds, nothing in them acts on a terminal.
    """
    lines = [clipped(found.survey.path, _MOST), ""]
    for name, texts in _fields(found):
        for text in texts:
            lines += _wrapped(name, text)
            name = ""
    if found.pairs:
        lines += ["", *(_legend(found, colour))]
    for pair in found.pairs:
        lines += ["", *_pair(found.survey, pair, colour)]
    if found.findings:
        lines += ["", "findings"]
        for finding in found.findings:
            lines += textwrap.wrap(
                clipped(finding, 2 * _MOST), _WIDTH, initial_indent="  - ", subsequent_indent="    "
            )
    return "\n".join(lines)


def _fields(found: Surveyed) -> Iterator[tuple[str, list[str]]]:
    survey = found.survey
    yield "rows", [f"{survey.read:,} read, {survey.used:,} used"]
    yield "taken for", [", ".join(f"{name} ({count:,})" for name, count in survey.formats.items())]
    yield "columns", [clipped(", ".join(survey.recognised.columns), _MOST)]
    label = survey.recognised.label
    yield (
        "label",
        [
            f"{clipped(label, 80)}: {clipped(survey.recognised.label_means, 160)}"
            if label
            else "none: chosen is the better response"
        ],
    )
    yield (
        "dropped",
        [f"{one.rows:,} {kind}, first: {clipped(one.first, _MOST)}" for kind, one in survey.dropped.items()]
        or ["none"],
    )
    yield from _counted(survey, found.by_length)
    if found.shown is not None and found.tokens is not None:
        yield from _of_model(found.model, found.shown, found.tokens, survey)


def _counted(survey: Survey, by_length: Sizes) -> Iterator[tuple[str, list[str]]]:
    yield "balance", [_balance(survey)]
    yield "lengths", [_sizes(by_length)]
    repeats = survey.repeats
    yield (
        "repeats",
        [
            f"{repeats.rows:,} repeated rows, {repeats.turned:,} of them with the responses in the other "
            f"order; {repeats.both_orders:,} pairs with both labels"
        ],
    )
    yield (
        "prompts",
        [
            f"{repeats.prompts:,} distinct, {repeats.prompts_repeated:,} with several pairs (at most "
            f"{repeats.most:,})"
        ],
    )
    if survey.held_out is not None:
        held = survey.held_out
        first = f", first: {clipped(held.first, _MOST)}" if held.first else ""
        yield (
            "held out",
            [
                f"{clipped(held.path, _MOST)}: {held.pairs:,} pairs; {held.leaks:,} pairs of this file are "
                f"on its prompts{first}"
            ],
        )


def _balance(survey: Survey) -> str:
    balance, share = survey.balance, 1.0 / survey.used
    first, second = (clipped(name, 40) for name in (survey.recognised.first, survey.recognised.second))
    return (
        f"{first} preferred {balance.first * share:.1%}, {second} {balance.second * share:.1%}, ties "
        f"{balance.ties * share:.1%}; {balance.soft:,} soft labels"
    )


def _sizes(sizes: Sizes) -> str:
    if sizes.preferred is None or sizes.other is None or sizes.longer is None:
        return "no pair has a preferred response"
    return (
        f"preferred responses {sizes.preferred:.1f} {sizes.unit} on average, the others {sizes.other:.1f}; "
        f"the preferred one is the longer in {sizes.longer:.1%} of {sizes.pairs:,} pairs"
    )


def _of_model(model: str, shown: Shown, tokens: Tokens, survey: Survey) -> Iterator[tuple[str, list[str]]]:
    yield "model", [clipped(model, _MOST)]
    dated = f"the tokenizer's chat template, at the date {shown.date}"
    yield "template", [dated if shown.template == "chat" else clipped(shown.template, _MOST)]
    yield (
        "prompts begin",
        [f"with {clipped(shown.begins, 80)}" if shown.begins else "with no special token added"],
    )
    if shown.opening:
        yield "replies begin", [f"with {clipped(shown.opening, 160)}, which is trained"]
    yield "end token", [f"{clipped(shown.end, 80)} (id {shown.end_id})"]
    drawn = "all" if tokens.pairs == survey.used else f"{tokens.pairs:,} of {survey.used:,}"
    yield (
        "tokens",
        [
            f"of {drawn} pairs",
            f"prompts: {_spread(tokens.prompt)}",
            f"responses: {_spread(tokens.response)}",
            f"together: {_spread(tokens.together)}",
        ],
    )
    yield "cut", _cut(tokens)
    if tokens.unknown:
        yield (
            "unknown",
            [f"{tokens.unknown:,} of {tokens.total:,} tokens stand for words that the tokenizer lacks"],
        )


def _spread(spread: Spread) -> str:
    return f"median {spread.median:,}, 95% at most {spread.high:,}, longest {spread.longest:,}"


def _cut(tokens: Tokens) -> list[str]:
    prompts = sum(tokens.prompts_cut.values())
    lines = [f"{prompts:,} prompts are longer than {tokens.max_prompt_length:,} (max_prompt_length)"]
    lines += [f"  {count:,} lose {_LOSSES[kind]}" for kind, count in tokens.prompts_cut.items() if count]
    return [
        *lines,
        f"{tokens.responses_cut:,} responses do not fit {tokens.max_length:,} (max_length) with their prompt "
        "and lose their end",
    ]


def _wrapped(name: str, text: str) -> list[str]:
    head = f"  {name:<{_INDENT - 2}}"
    inner = text[: len(text) - len(text.lstrip())]
    return textwrap.wrap(
        text.strip(), _WIDTH, initial_indent=head + inner, subsequent_indent=" " * _INDENT + inner
    ) or [head.rstrip()]


def _legend(found: Surveyed, colour: bool) -> list[str]:
    if found.tokens is None:
        return ["rows as they are; with --model, as the model will see them"]
    if not colour:
        return ["rows as the model will see them", *(f"  {line}" for line in _LEGEND)]
    names = {"prompt": "prompt", "response": "response, trained", "end": "end token, trained", "cut": "cut"}
    return [
        "rows as the model sees them: "
        + "  ".join(f"\x1b[{_COLOURS[part]}m{name}\x1b[0m" for part, name in names.items())
    ]


def _pair(survey: Survey, pair: ShownPair, colour: bool) -> list[str]:
    lines = [clipped(pair.where, _MOST)]
    first, second = survey.recognised.first, survey.recognised.second
    preferred = {first: pair.label, second: 1.0 - pair.label}
    for name, parts in (("prompt", pair.prompt), (first, pair.first), (second, pair.second)):
        count = sum(part.count for part in parts)
        better = f", preferred with probability {preferred[name]:g}" if name in preferred else ""
        lines.append(f"  {clipped(name, 40)}: {count:,} {pair.unit}{better}")
        for part in parts:
            lines += _segment(part, pair.unit, colour)
    return lines


def _segment(part: Segment, unit: str, colour: bool) -> list[str]:
    """A part's tokens, a mark before every line; on a terminal every second token is underlined."""
    shown = [printable(piece) for piece in part.pieces]
    if part.left_out:
        shown.insert(len(shown) // 2, f"[{part.left_out:,} {unit} left out]")
    mark = f"    {_MARKS[part.part]} "
    joint = "" if colour or unit != "tokens" else "|"
    lines, line, length = list[str](), "", 0
    for i, piece in enumerate(shown):
        for start in range(0, max(len(piece), 1), _WIDTH - len(mark)):
            text = piece[start : start + _WIDTH - len(mark)]
            set_apart = joint if length and not start else ""
            if length + len(set_apart) + len(text) > _WIDTH - len(mark):
                lines.append(line)
                line, length, set_apart = "", 0, ""
            line += set_apart + (_coloured(text, part.part, i % 2 == 1) if colour else text)
            length += len(set_apart) + len(text)
    return [mark + line for line in (*lines, line)]


def _coloured(text: str, part: str, second: bool) -> str:
    return f"\x1b[{'4;' if second else ''}{_COLOURS[part]}m{text}\x1b[0m"
