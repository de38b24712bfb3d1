"""Preference pairs of every dimension: read, cleaned, split by prompt, tokenized, counted."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alignjax.config import DataSettings, ModelSettings, SourceSettings
from alignjax.data.records import (
    DataSource,
    PreferencePair,
    Prompt,
    clean,
    prompt_key,
    read_pairs,
    read_prompts,
)
from alignjax.data.responses import Responses
from alignjax.data.split import split_by_prompt
from alignjax.data.tokenize import (
    Template,
    TokenizedPair,
    template_for,
    tokenize_pairs,
    tokenize_prompts,
)
from alignjax.data.worlds import World
from alignjax.errors import InputError
from alignjax.runtime.seeds import Seeds

if TYPE_CHECKING:  # its import takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase


class Labelled(NamedTuple):
    """Tokenized pairs of one dimension with P(chosen preferred).

    Attributes:
      tokens: n pairs.
      labels: [n] float32 in [0, 1].
      groups: [n] int64, equal where the prompt is equal.
      texts: the same n pairs as text.
    """

    tokens: list[TokenizedPair]
    labels: np.ndarray
    groups: np.ndarray
    texts: list[PreferencePair]


class Dimension(NamedTuple):
    """Pairs to learn a score from, and pairs held out to stop, calibrate and judge it."""

    train: Labelled
    held_out: Labelled


@dataclasses.dataclass(frozen=True)
class Preferences:
    """All that the data stage hands on.

    Attributes:
      dimensions: by name; a dimension that has no pairs is not there.
      align: pairs of all dimensions, each once, for the final alignment; `align_pairs` their text.
      human: by dimension, [n] labels of the `align` pairs, nan where a pair has none.
      train_prompts: prompts to sample the reference on.
      eval_prompts: prompts that no training has seen (the same prompts where a world has no others).
      counts: what was read, dropped and cut, by dimension.
    """

    dimensions: Mapping[str, Dimension]
    align: list[TokenizedPair]
    align_pairs: list[PreferencePair]
    human: Mapping[str, np.ndarray]
    train_prompts: list[Prompt]
    eval_prompts: list[Prompt]
    counts: dict[str, dict[str, int]]


def load(
    settings: DataSettings,
    model: ModelSettings,
    names: Sequence[str],
    seeds: Seeds,
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    world: World | None,
) -> Preferences:
    """Reads or makes the preference data, and tokenizes it.

    Args:
      settings: where the data are and how they are split.
      model: largest lengths.
      names: of the dimensions, the reward first.
      seeds: of the run.
      tokenizer: of the reference.
      template: how a prompt is shown.
      world: an embedded world, whose pairs are made; None: files are read.

    Raises:
      InputError: a file cannot be used, or a dimension is left with nothing.
    """
    counts: dict[str, dict[str, int]] = {}
    if world is None:
        raw = _from_files(settings, names, seeds, counts)
    else:
        raw = _from_world(settings, names, seeds, world)

    def tokenize(pairs: Sequence[PreferencePair], name: str | None, part: str) -> Labelled:
        return _tokenize(tokenizer, template, model, pairs, name, counts.setdefault(part, {}))

    dimensions = {
        name: Dimension(tokenize(train, name, f"{name} train"), tokenize(held_out, name, f"{name} held out"))
        for name, (train, held_out) in raw.items()
    }
    align_pairs, human = _union({name: train for name, (train, _) in raw.items()})
    align = tokenize(align_pairs, None, "align").tokens
    train_prompts, eval_prompts = _prompts(settings, seeds, world, raw)
    for name, prompts in (("prompts to sample", train_prompts), ("prompts to evaluate", eval_prompts)):
        _, cut = tokenize_prompts(tokenizer, template, prompts, max_prompt_length=model.max_prompt_length)
        counts[name] = {"prompts": len(prompts), "prompts_cut": cut}
    return Preferences(dimensions, align, align_pairs, human, train_prompts, eval_prompts, counts)


def abstract(
    names: Sequence[str], pair: TokenizedPair, train: int, held_out: int, prompts: int, *, signed: bool
) -> Preferences:
    """Data sets that repeat one pair, for a plan.

    Args:
      names: of the dimensions, which all label the same pairs.
      pair: the row.
      train: pairs to learn from.
      held_out: pairs held out.
      prompts: prompts to sample and to evaluate on.
      signed: whether the pairs say which responses are safe.
    """

    def labelled(count: int) -> Labelled:
        text = PreferencePair("", "", "", {}, "", (True, False) if signed else None)
        return Labelled(
            [pair] * count, np.zeros(count, np.float32), np.zeros(count, np.int64), [text] * count
        )

    dimension = Dimension(labelled(train), labelled(held_out))
    learn = dimension.train
    return Preferences(
        dict.fromkeys(names, dimension), learn.tokens, learn.texts, {}, [""] * prompts, [""] * prompts, {}
    )


def pairs_of_samples(
    preferences: Preferences, drawn: Responses, most: int, rng: np.random.Generator
) -> Preferences:
    """The same with other pairs to align on: different responses to one prompt, at most `most` per prompt.

    Raises:
      InputError: no prompt has two different responses.
    """
    texts, tokens = [], []
    for prompt, responses, ids in zip(drawn.prompts, drawn.texts, drawn.tokens, strict=True):
        order = rng.permutation(len(responses)).tolist()
        kept = 0
        for i, j in zip(order[0::2], order[1::2], strict=False):
            if kept == most or responses[i] == responses[j]:
                continue
            kept += 1
            texts.append(PreferencePair(prompt, responses[i], responses[j], {}, f"samples, {i} and {j}"))
            tokens.append(TokenizedPair(ids[i].prompt_ids, ids[i].response_ids, ids[j].response_ids))
    if not tokens:
        raise InputError("samples: no prompt has two different responses; raise temperature or num_samples.")
    counts = preferences.counts | {"pairs of samples": {"pairs": len(tokens)}}
    return dataclasses.replace(preferences, align=tokens, align_pairs=texts, human={}, counts=counts)


def at_most(preferences: Preferences, most: int | None, seed: int) -> Preferences:
    """The same with at most `most` of the pairs to align on, drawn by seed; None keeps all."""
    places = _places(len(preferences.align), most, seed)
    if len(places) == len(preferences.align):
        return preferences
    return dataclasses.replace(
        preferences,
        align=[preferences.align[i] for i in places],
        align_pairs=[preferences.align_pairs[i] for i in places],
        human={name: labels[places] for name, labels in preferences.human.items()},
        counts=preferences.counts | {"aligned on": {"pairs": len(places)}},
    )


def template_of(template: str, tokenizer: "PreTrainedTokenizerBase", world: World | None) -> Template:
    """The configured template, else the world's, else the tokenizer's own."""
    if template:
        return Template("plain", template)
    return world.template if world is not None else template_for(tokenizer)


Raw = dict[str, tuple[list[PreferencePair], list[PreferencePair]]]
"""Pairs to train on and pairs held out, by dimension."""


def _from_world(settings: DataSettings, names: Sequence[str], seeds: Seeds, world: World) -> Raw:
    labels = settings.labels
    train = world.make_pairs(seeds.seed("pairs"), settings.num_pairs, labels=labels, split="train")
    held = world.make_pairs(seeds.seed("held-out"), settings.num_held_out, labels=labels, split="held_out")
    return {name: (train, held) for name in names}


def _from_files(
    settings: DataSettings, names: Sequence[str], seeds: Seeds, counts: dict[str, dict[str, int]]
) -> Raw:
    raw: Raw = {}
    for name in names:
        source = settings.sources.get(name, SourceSettings())
        if not source.path:
            continue  # config/checks.py knows which dimensions need no pairs
        pairs, kept = clean(read_pairs(_data_source(source), _labels(source, name)))
        counts[name] = dict(kept._asdict())
        if not pairs:
            raise InputError(f"{source.path}: nothing is left for {name} after cleaning ({counts[name]}).")
        # One split for all dimensions: a prompt held out for one is never trained on for another.
        train, held = split_by_prompt(pairs, fraction=settings.held_out_fraction, seed=seeds.root)
        raw[name] = (
            _subset(train, settings.max_train_pairs, seeds.seed(f"train {name}")),
            _subset(held, settings.max_held_out_pairs, seeds.seed(f"held-out {name}")),
        )
    return raw


def _data_source(source: SourceSettings) -> DataSource:
    return DataSource(**{f.name: getattr(source, f.name) for f in dataclasses.fields(source)})


def _labels(source: SourceSettings, name: str) -> str | dict[str, str]:
    return {name: source.label} if source.label else name


def _subset(pairs: Sequence[PreferencePair], most: int | None, seed: int) -> list[PreferencePair]:
    return [pairs[i] for i in _places(len(pairs), most, seed)]


def _places(count: int, most: int | None, seed: int) -> list[int]:
    """So many of `count` places, drawn by seed, in order; None: all."""
    if most is None or count <= most:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, size=most, replace=False).tolist())


def _union(
    train: Mapping[str, Sequence[PreferencePair]],
) -> tuple[list[PreferencePair], dict[str, np.ndarray]]:
    """Every pair of every dimension once, and each dimension's labels on them."""
    places: dict[tuple[str, str, str], int] = {}
    pairs: list[PreferencePair] = []
    labels: dict[str, dict[int, float]] = {name: {} for name in train}
    for name, members in train.items():
        for pair in members:
            key = (prompt_key(pair.prompt), pair.chosen, pair.rejected)
            place = places.setdefault(key, len(pairs))
            if place == len(pairs):
                pairs.append(pair)
            labels[name][place] = pair.labels[name]
    human = {
        name: np.array([given.get(i, np.nan) for i in range(len(pairs))], np.float32)
        for name, given in labels.items()
    }
    return pairs, human


def _tokenize(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    model: ModelSettings,
    pairs: Sequence[PreferencePair],
    name: str | None,
    counts: dict[str, int],
) -> Labelled:
    tokens, cut = tokenize_pairs(
        tokenizer, template, pairs, max_length=model.max_length, max_prompt_length=model.max_prompt_length
    )
    counts.update({"pairs": len(tokens), **cut._asdict()})
    labels = [0.5 if name is None else pair.labels[name] for pair in pairs]
    groups = [zlib.crc32(prompt_key(pair.prompt).encode()) for pair in pairs]
    return Labelled(tokens, np.array(labels, np.float32), np.array(groups, np.int64), list(pairs))


def _prompts_of_file(settings: DataSettings, seeds: Seeds) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to sample and to evaluate on, by the same split as pairs: none is on both sides."""
    prompts = read_prompts(settings.prompts or "")
    bare = [PreferencePair(prompt, "", "", {}, "") for prompt in prompts]
    sides = split_by_prompt(bare, fraction=settings.held_out_fraction, seed=seeds.root)
    train, held = ([pair.prompt for pair in side] for side in sides)
    return train, held


def _prompts(
    settings: DataSettings, seeds: Seeds, world: World | None, raw: Raw
) -> tuple[list[Prompt], list[Prompt]]:
    """Distinct prompts to sample and to evaluate on, shuffled by seed: any prefix is a fair sample."""
    if world is not None:
        train, held = list(world.prompts_train), list(world.prompts_eval)
    elif settings.prompts:
        train, held = _prompts_of_file(settings, seeds)
    else:
        train, held = ([pair.prompt for parts in raw.values() for pair in parts[side]] for side in (0, 1))
    parts = []
    for side, prompts in (("sampling", train), ("evaluation", held)):
        distinct = sorted({prompt_key(prompt): prompt for prompt in prompts}.items())
        order = np.random.default_rng(seeds.seed(f"{side} prompts")).permutation(len(distinct))
        parts.append([distinct[i][1] for i in order])
    return parts[0], parts[1]
