"""What a file of preference pairs is, and what a model will see of it; the command is `alignjax.data`."""

import dataclasses
from collections.abc import Sequence

from alignjax.config import ModelSettings, check_template
from alignjax.data.records import DataSource, PreferencePair, read_pairs
from alignjax.data.sources import chosen_places
from alignjax.data.survey import DIMENSION, sizes, survey, survey_findings
from alignjax.data.token_survey import (
    shown_by,
    shown_pair,
    text_pair,
    token_findings,
    tokenized,
)
from alignjax.data.tokenize import template_for
from alignjax.data.usable import check_shown
from alignjax.errors import InputError
from alignjax.models.tokenizer_alone import read_tokenizer
from alignjax.report.data_survey import Surveyed


def look_at(
    paths: Sequence[str],
    source: DataSource,
    settings: ModelSettings,
    *,
    model_path: str = "",
    held_out: str = "",
    show: int = 2,
    max_rows: int = 10_000,
    seed: int = 0,
) -> list[Surveyed]:
    """Reads files of preference pairs as a run does, and says what is in them.

    Args:
      paths: files, folders or globs, or tfds:NAME:SPLIT; each is looked at by itself.
      source: columns and format; its path is not read.
      settings: how prompts are shown, and the largest lengths.
      model_path: Hugging Face folder or .gguf file, of which only the tokenizer is read; empty: nothing that
        needs a tokenizer is said.
      held_out: file of held-out pairs, whose prompts are looked for; empty: none.
      show: number of rows shown.
      max_rows: most pairs that are tokenized, drawn by seed.
      seed: of this draw.

    Returns:
      What each file holds.

    Raises:
      InputError: an option, a file or all of its rows cannot be used.
    """
    _check_options(paths, settings, show, max_rows)
    others = None
    if held_out:
        others = (held_out, _read(dataclasses.replace(source, path=held_out)))
    return [
        _one(
            dataclasses.replace(source, path=path),
            settings,
            others,
            model_path=model_path,
            show=show,
            places=(max_rows, seed),
        )
        for path in paths
    ]


def _check_options(paths: Sequence[str], settings: ModelSettings, show: int, max_rows: int) -> None:
    if not paths:
        raise InputError("no file is named; give one, as in: python -m alignjax.data pairs.jsonl")
    if show < 0:
        raise InputError(f"--show: is {show}; must be at least 0.")
    if max_rows < 1:
        raise InputError(f"--max_rows: is {max_rows}; must be at least 1.")
    check_template(settings, "--")
    if not settings.max_prompt_length < settings.max_length:
        raise InputError(
            f"--max_prompt_length: is {settings.max_prompt_length}, must be less than --max_length "
            f"({settings.max_length})."
        )


def _read(source: DataSource) -> list[PreferencePair]:
    return read_pairs(source, {DIMENSION: source.label}, strict=False)


def _one(
    source: DataSource,
    settings: ModelSettings,
    held_out: tuple[str, Sequence[PreferencePair]] | None,
    *,
    model_path: str,
    show: int,
    places: tuple[int, int],
) -> Surveyed:
    read = _read(source)
    if not model_path:
        found, used = survey(source, read, held_out)
        pairs = [text_pair(pair) for pair in used[:show]]
        return Surveyed(found, "", None, None, found.sizes, pairs, survey_findings(found, found.sizes))
    tokenizer = read_tokenizer(model_path)
    template = template_for(tokenizer, settings)
    marked = check_shown(tokenizer, template, read, strict=False)
    found, used = survey(source, marked, held_out)
    most, seed = places
    drawn = [used[i] for i in chosen_places(len(used), most, seed)]
    tokens, whole = tokenized(tokenizer, template, drawn, settings)
    lengths = [(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in whole]
    by_length = sizes(drawn, lengths, "tokens")
    return Surveyed(
        found,
        model_path,
        shown_by(tokenizer, template, whole[0].prompt_ids),
        tokens,
        by_length,
        [shown_pair(tokenizer, template, pair, settings) for pair in used[:show]],
        [*survey_findings(found, by_length), *token_findings(tokens)],
    )
