"""Preference pairs from files or an embedded world, the side that each prompt is on, and its category."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.config import DataSettings, SourceSettings
from alignjax.data.cleaning import clean, problem_of
from alignjax.data.records import (
    DataSource,
    PreferencePair,
    Prompt,
    PromptRow,
    prompt_key,
    read_pairs,
    read_prompt_rows,
)
from alignjax.data.split import Sides, split_by_prompt
from alignjax.data.worlds import World
from alignjax.data.worlds.world import CATEGORIES
from alignjax.errors import InputError
from alignjax.runtime.seeds import Seeds

Counts = dict[str, dict[str, int]]
Check = Callable[[Sequence[PreferencePair]], Sequence[PreferencePair]]


class Sources(NamedTuple):
    """Pairs and prompts before they are tokenized.

    Attributes:
      pairs: pairs to train on and pairs held out, by dimension.
      train_prompts: prompts to sample the reference on, some more than once.
      test_prompts: prompts for the test alone, some more than once.
      categories: by column, the category of every prompt that has one, by `prompt_key`.
      notes: what each source was taken for, and the first row of every kind that was dropped.
      wheres: file:line of prompts, by `prompt_key`.
    """

    pairs: dict[str, tuple[list[PreferencePair], list[PreferencePair]]]
    train_prompts: list[Prompt]
    test_prompts: list[Prompt]
    categories: dict[str, dict[str, str]]
    notes: tuple[str, ...] = ()
    wheres: Mapping[str, str] = {}


def make_sources(settings: DataSettings, names: Sequence[str], seeds: Seeds, world: World) -> Sources:
    """The pairs of an embedded world, which label every dimension, and its prompts."""
    labels = settings.labels
    train = world.make_pairs(seeds.seed("pairs"), settings.num_pairs, labels=labels, split="train")
    held = world.make_pairs(seeds.seed("held-out"), settings.num_held_out, labels=labels, split="held_out")
    sides = (world.prompts_train, world.prompts_held_out, world.prompts_test)
    categories = {prompt: world.category(prompt) for side in sides for prompt in side}
    pairs = {name: (train, held) for name in names}
    return Sources(pairs, list(world.prompts_train), list(world.prompts_test), {CATEGORIES: categories})


def read_sources(
    settings: DataSettings,
    names: Sequence[str],
    seeds: Seeds,
    test_share: float,
    columns: Mapping[str, str],
    counts: Counts,
    check: Check,
) -> Sources:
    """Reads, cleans and splits the files of every dimension.

    Args:
      settings: where the files are and how they are split.
      names: of the dimensions.
      seeds: of the run.
      test_share: share of the prompts that are kept for the test; pairs on them are not used.
      columns: the column of categories of each constraint that is asked by category.
      counts: what was read and dropped is added.
      check: marks pairs that cannot be used for another reason than how they are written.

    Raises:
      InputError: a file cannot be used, a dimension is left with nothing, or no row has a column of
        categories.
    """
    pairs: dict[str, tuple[list[PreferencePair], list[PreferencePair]]] = {}
    notes: list[str] = []
    wanted = tuple(dict.fromkeys(columns.values()))
    held_out = _held_out_files(settings, names, wanted, counts, notes, check)
    train_prompts, test_prompts, rows = list[Prompt](), list[Prompt](), dict[str, list[PromptRow]]()
    for name in names:
        source = settings.sources.get(name, SourceSettings())
        if not source.path:
            continue  # config/checks.py knows which dimensions need no pairs
        read, counts[name] = _cleaned(_data_source(source, wanted), name, settings.strict, notes, check)
        # One split for all dimensions: a prompt held out for one is never trained on for another.
        sides = _apart(_split(settings, seeds, test_share, read), held_out, name, counts)
        pairs[name] = (
            _subset(sides.train, settings.max_train_pairs, seeds.seed(f"train {name}")),
            _subset(sides.held_out, settings.max_held_out_pairs, seeds.seed(f"held-out {name}")),
        )
        counts[name]["on_test_prompts"] = len(sides.test)
        train_prompts += [pair.prompt for pair in pairs[name][0]]
        test_prompts += [pair.prompt for pair in sides.test]
        rows[name] = [
            PromptRow(pair.prompt, pair.categories, pair.where) for pair in (*read, *held_out.get(name, ()))
        ]
    if settings.prompts:
        rows[""] = _prompt_rows(settings.prompts, wanted, settings.strict, counts, notes, check)
        known = _keys(held_out)
        bare = [
            PreferencePair(row.prompt, "", "", {}, row.where)
            for row in rows[""]
            if prompt_key(row.prompt) not in known
        ]
        if known:
            counts["prompts"] = counts.get("prompts", {}) | {"leaks": len(rows[""]) - len(bare)}
        sides = _split(settings, seeds, test_share, bare)
        train_prompts, test_prompts = ([p.prompt for p in side] for side in (sides.train, sides.test))
    categories = {
        column: _categories(
            settings, [name for name in columns if columns[name] == column], column, rows, counts
        )
        for column in wanted
    }
    wheres = {prompt_key(row.prompt): row.where for given in rows.values() for row in given}
    return Sources(pairs, train_prompts, test_prompts, categories, tuple(notes), wheres)


def _cleaned(
    source: DataSource, name: str, strict: bool, notes: list[str], check: Check
) -> tuple[list[PreferencePair], dict[str, int]]:
    """The usable pairs of a source and its counts; adds what it was taken for and the first of each kind."""
    found = check(read_pairs(source, _labels(source, name), strict=strict))
    read, kept = clean(found)
    counts = dict(kept._asdict())
    first: dict[str, str] = {}
    for pair in found:
        if pair.problem:
            first.setdefault(pair.kind, problem_of(pair))
    if not read:
        if len(found) == sum(bool(pair.problem) for pair in found):
            raise InputError(next(iter(first.values())))
        raise InputError(f"{source.path}: nothing is left for {name} after cleaning ({counts}).")
    taken = Counter(pair.format for pair in read)
    notes.append(f"{name}: {source.path} was taken for " + ", ".join(f"{k} ({n})" for k, n in taken.items()))
    notes.extend(f"{name}: {counts[kind]} {kind}, first: {problem}" for kind, problem in first.items())
    return read, counts


def _prompt_rows(
    path: str, wanted: tuple[str, ...], strict: bool, counts: Counts, notes: list[str], check: Check
) -> list[PromptRow]:
    """The usable lines of a file of prompts; others are counted, and the first of each kind is noted."""
    read = read_prompt_rows(path, wanted, strict=strict)
    marked = check(
        [
            PreferencePair(row.prompt, "", "", {}, row.where, problem=row.problem, kind=row.kind)
            for row in read
        ]
    )
    dropped = Counter(pair.kind for pair in marked if pair.problem)
    first: dict[str, str] = {}
    for pair in marked:
        if pair.problem:
            first.setdefault(pair.kind, problem_of(pair))
    if len(marked) == dropped.total():
        raise InputError(next(iter(first.values())))
    if dropped:
        counts["prompts"] = dict(dropped)
    notes.extend(f"prompts: {dropped[kind]} {kind}, first: {problem}" for kind, problem in first.items())
    return [row for row, pair in zip(read, marked, strict=True) if not pair.problem]


def _held_out_files(
    settings: DataSettings,
    names: Sequence[str],
    wanted: tuple[str, ...],
    counts: Counts,
    notes: list[str],
    check: Check,
) -> dict[str, list[PreferencePair]]:
    """The pairs of every dimension's own held-out file."""
    found: dict[str, list[PreferencePair]] = {}
    for name in names:
        source = settings.sources.get(name, SourceSettings())
        if source.path and source.held_out_path:
            apart = dataclasses.replace(_data_source(source, wanted), path=source.held_out_path)
            found[name], counts[f"{name} held-out file"] = _cleaned(
                apart, name, settings.strict, notes, check
            )
    return found


def _keys(held_out: Mapping[str, Sequence[PreferencePair]]) -> set[str]:
    return {prompt_key(pair.prompt) for pairs in held_out.values() for pair in pairs}


def _apart(
    sides: Sides, held_out: Mapping[str, Sequence[PreferencePair]], name: str, counts: Counts
) -> Sides:
    """The sides of a dimension with its own held-out file, if any, and no prompt of such a file elsewhere.

    Prompts that the hash holds out stay held out: a dimension without such a file holds them out as well.
    Pairs of the dimension's training file on prompts of its held-out file are leaks, dropped and counted;
    those of another dimension's held-out file are held out here too.
    """
    if not held_out:
        return sides
    known, own = _keys(held_out), {prompt_key(pair.prompt) for pair in held_out.get(name, ())}
    outside, held = [], list(held_out.get(name, ()))
    leaks = 0
    for side in sides:
        left = [pair for pair in side if prompt_key(pair.prompt) not in known]
        moved = [pair for pair in side if prompt_key(pair.prompt) in known - own]
        leaks += len(side) - len(left) - len(moved)
        outside.append(left)
        held += moved
    counts[name]["leaks"] = leaks
    train, hashed, test = outside
    if not train:
        raise InputError(f"{name}: no pairs are left to train on without the prompts of the held-out files.")
    return Sides(train, [*held, *hashed], test)


def _split(settings: DataSettings, seeds: Seeds, test_share: float, pairs: Sequence[PreferencePair]) -> Sides:
    return split_by_prompt(pairs, fraction=settings.held_out_fraction, seed=seeds.root, test=test_share)


def _categories(
    settings: DataSettings,
    asking: Sequence[str],
    column: str,
    rows: Mapping[str, Sequence[PromptRow]],
    counts: Counts,
) -> dict[str, str]:
    """The category of every prompt in one column: that of the first row that has one.

    Args:
      settings: where the files are, for messages.
      asking: the constraints that are asked by this column's categories; their own rows come first.
      column: its name.
      rows: of every dimension, and of the file of prompts under "".
      counts: of the categories is added.

    Raises:
      InputError: no row has a category; the message names the first constraint that asks for one.
    """
    ordered = [row for name in sorted(rows, key=lambda name: name not in asking) for row in rows[name]]
    found: dict[str, str] = {}
    conflicts = 0
    for row in ordered:
        if (category := row.categories.get(column)) is not None:
            conflicts += found.setdefault(prompt_key(row.prompt), category) != category
    if not found:
        paths = [source.path for source in settings.sources.values()] + [settings.prompts or ""]
        raise InputError(
            f"config.constraints.{asking[0]}.groups.column: is {column!r}, which no row of "
            f"{', '.join(dict.fromkeys(path for path in paths if path))} has; name the column of the "
            "prompts' categories."
        )
    prompts = {prompt_key(row.prompt) for row in ordered}
    counts[f"categories in {column}"] = {
        "categories": len(set(found.values())),
        "prompts": len(prompts),
        "prompts_without": len(prompts - set(found)),
        "rows_in_conflict": conflicts,
    }
    return found


def chosen_places(count: int, most: int | None, seed: int) -> list[int]:
    """So many of `count` places, drawn by seed, in order; None: all."""
    if most is None or count <= most:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, size=most, replace=False).tolist())


def _data_source(source: SourceSettings, columns: tuple[str, ...]) -> DataSource:
    fields = {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
    del fields["held_out_path"]
    return DataSource(**fields, categories=columns)


def _labels(source: DataSource, name: str) -> str | dict[str, str]:
    return {name: source.label} if source.label else name


def _subset(pairs: Sequence[PreferencePair], most: int | None, seed: int) -> list[PreferencePair]:
    return [pairs[i] for i in chosen_places(len(pairs), most, seed)]
