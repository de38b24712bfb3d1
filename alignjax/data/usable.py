"""Which pairs a model's template can show: not templated already, and of turns that it takes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignjax.data.prompts import shown_texts
from alignjax.data.records import PreferencePair, Prompt
from alignjax.data.templated import template_found
from alignjax.data.templates import Template
from alignjax.errors import InputError

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase


def check_shown(
    tokenizer: "PreTrainedTokenizerBase", template: Template, pairs: Sequence[PreferencePair], *, strict: bool
) -> list[PreferencePair]:
    """The same pairs, those that the template cannot show with that as their problem.

    Args:
      tokenizer: of the model.
      template: by which prompts will be shown.
      pairs: as they were read.
      strict: stop at the first.

    Raises:
      InputError: this holds for most of the pairs, so that dropping them would hide that it is the wrong
        template, or for one of them if `strict`.
    """
    refused: dict[tuple[str, ...], str] = {}  # templates refuse by the order of the roles
    marked: list[PreferencePair] = []
    first, found = "", 0
    for pair in pairs:
        told, kind = "", ""
        if not pair.problem:
            told = template_found(tokenizer, template, pair.prompt, (pair.chosen, pair.rejected))
            kind = "templated"
        if not pair.problem and not told:
            roles = () if isinstance(pair.prompt, str) else tuple(turn.role for turn in pair.prompt)
            if roles not in refused:
                refused[roles] = _refusal(tokenizer, template, pair.prompt)
            told, kind = refused[roles], "unshown"
        if told:
            found += 1
            first = first or f"{pair.where}: {told}"
            if strict:
                raise InputError(first)
            pair = pair._replace(problem=told, kind=kind)
        marked.append(pair)
    if found > sum(not pair.problem for pair in marked):
        raise InputError(first)
    return marked


def _refusal(tokenizer: "PreTrainedTokenizerBase", template: Template, prompt: Prompt) -> str:
    """Why the template cannot show a prompt; empty: it can."""
    where = "a row"
    try:
        shown_texts(tokenizer, template, [prompt], [where])
    except InputError as error:
        return str(error).removeprefix(f"{where}: ")
    return ""
