"""All responses to the evaluation prompts, for a reader to look through: as JSON, and as a first page."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe

from alignjax.report import tables
from alignjax.report.style import policy_mark
from alignjax.report.visible import cut

FOLD = 700  # characters of a response above which the rest is folded away
# What a page may hold of responses: a browser reads so much JSON in about a tenth of a second.
_MOST_CHARACTERS = 8_000_000
_CLIPS = (20_000, 5_000, 2_000, FOLD)  # characters of a single text, tried in this order


class Response(NamedTuple):
    """One response of one policy.

    Attributes:
      text: as the tokenizer decodes it.
      scores: calibrated, the reward first, then the dimensions of the constraints.
      refusal: whether it opens with a refusal.
      tokens: with the end token.
    """

    text: str
    scores: tuple[float, ...]
    refusal: bool
    tokens: int


class Sample(NamedTuple):
    """Responses of several policies to one prompt.

    Attributes:
      prompt: its text.
      responses: by policy, those that were drawn, in order.
      category: of the prompt; None: it has none.
    """

    prompt: str
    responses: Mapping[str, Sequence[Response]]
    category: str | None = None


class Shown(NamedTuple):
    """A response on the first page: what it is called, and its text in the part shown and the part folded."""

    label: str
    colour: str
    start: str
    rest: str
    facts: str


class Entry(NamedTuple):
    """A prompt of the first page with a response of every policy."""

    prompt: str
    facts: str
    answers: list[Shown]


class Browser(NamedTuple):
    """The section of the page.

    Attributes:
      data: what its script reads: JSON in which nothing can end the element that holds it.
      first: the first prompts, for a page whose script does not run.
      prompts: how many there are.
      notes: what is shown, and what is left out.
    """

    data: markupsafe.Markup
    first: list[Entry]
    prompts: int
    notes: list[str]


def browser(
    samples: Sequence[Sample],
    policies: Sequence[str],
    dimensions: Sequence[str],
    *,
    first: int,
    most: int = _MOST_CHARACTERS,
) -> Browser | None:
    """The section for some responses; None where there are none.

    Args:
      samples: all prompts.
      policies: in the order of the table; any others follow.
      dimensions: of the scores: "reward", then those of the constraints.
      first: prompts of a page.
      most: characters that the section may hold; less is shown of every prompt where there are more.
    """
    if not samples or not first:
        return None
    present = dict.fromkeys(name for one in samples for name in one.responses)
    order = [name for name in policies if name in present]
    order += [name for name in present if name not in order]
    draws, clip = _room(samples, most)
    prompts = [_prompt(one, order, len(dimensions), draws, clip) for one in samples]
    constraints = dimensions[1:]
    value = {
        "page": first,
        "fold": FOLD,
        "scores": list(dimensions),
        "policies": [
            {
                "label": tables.policy_label(name, constraints),
                "colour": policy_mark(name, constraints, order)[0],
            }
            for name in order
        ],
        "judged": order.index("aligned") if "aligned" in order else len(order) - 1,
        "prompts": prompts,
    }
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&":  # the content of a script element ends at </script, whatever holds it
        text = text.replace(character, f"\\u{ord(character):04x}")
    shown = [_entry(one, value) for one in prompts[:first]]
    return Browser(markupsafe.Markup(text), shown, len(samples), list(_notes(samples, draws, clip)))


def _room(samples: Sequence[Sample], most: int) -> tuple[int, int]:
    """How many draws of each policy are shown, and how many characters of a text at most."""
    available = max(len(some) for one in samples for some in one.responses.values())
    for clip in _CLIPS:
        used, fitting = 0, 0
        for k in range(available):
            used += sum(
                min(len(some[k].text), clip) + 40  # 40: its scores
                for one in samples
                for some in one.responses.values()
                if k < len(some)
            )
            if used > most:
                break
            fitting = k + 1
        if fitting:
            return fitting, clip
    return 1, _CLIPS[-1]


def _prompt(one: Sample, order: Sequence[str], size: int, draws: int, clip: int) -> dict[str, Any]:
    """One prompt for the script; numbers are rounded to what a reader can use."""
    responses = []
    for name in order:
        row = []
        for found in one.responses.get(name, ())[:draws]:
            scores = [_rounded(x) for x in found.scores]
            row.append([_text(found.text, clip), int(found.refusal), found.tokens, scores])
        responses.append(row)
    category = None if one.category is None else _text(one.category, clip)
    return {"p": _text(one.prompt, clip), "c": category, "d": _rises(one, size), "r": responses}


def _text(text: str, clip: int) -> str:
    """The visible text, with a remark where something is left out."""
    shown, left_out = cut(text, clip)
    return f"{shown} [{left_out:,} more characters are not on this page]" if left_out else shown


def _rises(one: Sample, size: int) -> list[float | None]:
    """Mean score of the aligned policy minus the reference's, over all draws; None where one has none."""
    ours, base = one.responses.get("aligned", ()), one.responses.get("reference", ())
    if not ours or not base:
        return [None] * size
    means = ([sum(r.scores[j] for r in some) / len(some) for j in range(size)] for some in (ours, base))
    return [_rounded(a - b) for a, b in zip(*means, strict=True)]


def _rounded(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def _entry(prompt: Mapping[str, Any], value: Mapping[str, Any]) -> Entry:
    """The first draw of every policy."""
    answers = []
    for policy, row in zip(value["policies"], prompt["r"], strict=True):
        if not row:
            continue
        text, refusal, tokens, scores = row[0]
        facts = [f"{n} {tables.format_number(x)}" for n, x in zip(value["scores"], scores, strict=True)]
        facts += [f"{tokens:,} tokens", *(["refusal"] if refusal else [])]
        answers.append(Shown(policy["label"], policy["colour"], text[:FOLD], text[FOLD:], ", ".join(facts)))
    rises = zip(value["scores"], prompt["d"], strict=True)
    facts = [f"{name} {rise:+.2f}" for name, rise in rises if rise is not None]
    line = f"aligned against reference, mean of all draws: {', '.join(facts)}" if facts else ""
    if prompt["c"] is not None:
        line = f"{prompt['c']}; {line}" if line else prompt["c"]
    return Entry(prompt["p"], line, answers)


def _notes(samples: Sequence[Sample], draws: int, clip: int) -> Iterator[str]:
    available = max(len(some) for one in samples for some in one.responses.values())
    yield f"{len(samples):,} prompts of the evaluation, {draws} of {available} responses of each policy."
    if draws < available:
        yield "The others are in evaluation_samples/."
    shown = (r for one in samples for some in one.responses.values() for r in some[:draws])
    longer = sum(len(response.text) > clip for response in shown)
    if longer:
        yield f"{longer:,} responses are cut after {clip:,} characters; evaluation_samples/ has them whole."
    yield r"Characters that would act on the page, such as those that turn the writing, are escapes: \u202e."
