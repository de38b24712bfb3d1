"""Preference pairs of every dimension: read, cleaned, split by prompt, tokenized, counted."""

import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alignjax.config import DataSettings, ModelSettings, TestSettings
from alignjax.data.cleaning import canonical
from alignjax.data.findings import cut_findings
from alignjax.data.prompts import encode_prompts
from alignjax.data.records import PreferencePair, Prompt, prompt_key
from alignjax.data.responses import Responses
from alignjax.data.sources import chosen_places, make_sources, read_sources
from alignjax.data.tokenize import (
    Template,
    TokenizedPair,
    template_for,
    tokenize_pairs,
)
from alignjax.data.usable import check_shown
from alignjax.data.worlds import World
from alignjax.errors import InputError
from alignjax.runtime.seeds import Seeds

if TYPE_CHECKING:  # its import takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase


# Below these no interval of a slope or of a mean is to be believed: both rest on many pairs or prompts.
LEAST_HELD_OUT, LEAST_TEST = 20, 20


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
      test_prompts: prompts that nothing else uses (the same prompts where a world has no others). They are
        shuffled by seed, as `train_prompts` are: any prefix is a fair sample.
      counts: what was read, dropped and cut, by dimension.
      categories: by column, the category of every prompt that has one, by `prompt_key`.
      notes: what each source was taken for, the first row of every kind that was dropped, and findings.
      sampled: of `align` pairs that are the reference's samples, [n, 3] int: the prompt's number, and those
        of the chosen and the rejected response among its samples; None: they are pairs of the data.
    """

    dimensions: Mapping[str, Dimension]
    align: list[TokenizedPair]
    align_pairs: list[PreferencePair]
    human: Mapping[str, np.ndarray]
    train_prompts: list[Prompt]
    test_prompts: list[Prompt]
    counts: dict[str, dict[str, int]]
    categories: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sampled: np.ndarray | None = None

    def category_of(self, column: str, prompts: Sequence[Prompt]) -> list[str | None]:
        """The category of each prompt; None where its rows name none.

        Args:
          column: one that was asked for when the data were read.
          prompts: any prompts.
        """
        found = self.categories[column]
        return [found.get(prompt_key(prompt)) for prompt in prompts]

    def require_safe_labels(self, names: Sequence[str]) -> None:
        """Refuses constraints that ask for a rate where no label of a single response can calibrate it.

        Args:
          names: of the constraints, as `Config.rates` gives them.

        Raises:
          InputError: the held-out pairs of one of them do not say which responses are safe.
        """
        for name in names:
            dimension = self.dimensions.get(name)
            if dimension is None or not any(pair.safe for pair in dimension.held_out.texts):
                raise InputError(
                    f"config.constraints.{name}: asks for a rate of safe responses, but no pair of "
                    f"config.data.sources.{name} says which responses are safe (is_response_0_safe, "
                    "is_response_1_safe); ask for a margin or a level, or add these columns."
                )

    def require_enough(self, *, held_out: bool, most_test: int | None) -> None:
        """Refuses data on which no verdict can rest.

        Args:
          held_out: whether scores are calibrated on held-out pairs.
          most_test: number of test prompts that are used; None: all.

        Raises:
          InputError: a dimension has fewer than `LEAST_HELD_OUT` held-out pairs, or there are fewer than
            `LEAST_TEST` test prompts.
        """
        go_on = "(config.accept_uninformative=True continues anyway)"
        for name, dimension in self.dimensions.items() if held_out else ():
            if (count := len(dimension.held_out.labels)) < LEAST_HELD_OUT:
                raise InputError(
                    f"config.data.sources.{name}: {count} held-out pairs are too few to calibrate on; "
                    "give more pairs or raise config.data.held_out_fraction, for at least "
                    f"{LEAST_HELD_OUT} {go_on}."
                )
        count = len(self.test_prompts[:most_test])
        if count < LEAST_TEST:
            raise InputError(
                f"config.test: {count} test prompts are too few to show anything; give more prompts, or "
                f"raise config.test.share or config.test.prompts, for at least {LEAST_TEST} {go_on}."
            )


def load(
    settings: DataSettings,
    model: ModelSettings,
    names: Sequence[str],
    seeds: Seeds,
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    world: World | None,
    *,
    test_share: float = TestSettings().share,
    columns: Mapping[str, str] | None = None,
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
      test_share: of files, the share of the prompts that are kept for the test, `config.test.share`.
      columns: the column with the categories of each constraint that is asked by category,
        `Config.group_columns`.

    Raises:
      InputError: a file cannot be used, a dimension is left with nothing, or no row has a column of
        categories.
    """
    counts: dict[str, dict[str, int]] = {}
    columns = {} if columns is None else columns
    if world is None:
        check = functools.partial(check_shown, tokenizer, template, strict=settings.strict)
        found = read_sources(settings, names, seeds, test_share, columns, counts, check)
    else:
        found = make_sources(settings, names, seeds, world)
    raw = found.pairs

    def tokenize(pairs: Sequence[PreferencePair], name: str | None, part: str) -> Labelled:
        return _tokenize(tokenizer, template, model, pairs, name, counts.setdefault(part, {}))

    dimensions = {
        name: Dimension(tokenize(train, name, f"{name} train"), tokenize(held_out, name, f"{name} held out"))
        for name, (train, held_out) in raw.items()
    }
    # Files may hold one pair in either order; a world's pairs have one already.
    order = canonical if world is None else _as_it_is
    align_pairs, human = _union({name: [*map(order, train)] for name, (train, _) in raw.items()})
    align = tokenize(align_pairs, None, "align").tokens
    train_prompts = _shuffled(found.train_prompts, seeds.seed("sampling prompts"))
    test_prompts = _shuffled(found.test_prompts, seeds.seed("test prompts"))
    for name, prompts in (("prompts to sample", train_prompts), ("prompts to test", test_prompts)):
        wheres = [found.wheres.get(prompt_key(p), f"prompt {i}") for i, p in enumerate(prompts)]
        encoded = encode_prompts(tokenizer, template, prompts, wheres, most=model.max_prompt_length)
        counts[name] = {"prompts": len(prompts), "prompts_cut": encoded.num_cut}
    return Preferences(
        dimensions,
        align,
        align_pairs,
        human,
        train_prompts,
        test_prompts,
        counts,
        found.categories,
        (*found.notes, *(f"finding: {found}" for found in cut_findings(counts))),
    )


def abstract(
    names: Sequence[str], pair: TokenizedPair, train: int, held_out: int, prompts: int
) -> Preferences:
    """Data sets that repeat one pair, for a plan; it says which response is safe, as pairs may.

    Args:
      names: of the dimensions, which all label the same pairs.
      pair: the row.
      train: pairs to learn from.
      held_out: pairs held out.
      prompts: prompts to sample and to test on.
    """

    def labelled(count: int) -> Labelled:
        text = PreferencePair("", "", "", {}, "", (True, False))
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
    texts, tokens, places = [], [], list[tuple[int, int, int]]()
    for number, (prompt, responses, ids) in enumerate(
        zip(drawn.prompts, drawn.texts, drawn.tokens, strict=True)
    ):
        order = rng.permutation(len(responses)).tolist()
        kept = 0
        for i, j in zip(order[0::2], order[1::2], strict=False):
            if kept == most or responses[i] == responses[j]:
                continue
            kept += 1
            texts.append(PreferencePair(prompt, responses[i], responses[j], {}, f"samples, {i} and {j}"))
            tokens.append(TokenizedPair(ids[i].prompt_ids, ids[i].response_ids, ids[j].response_ids))
            places.append((number, i, j))
    if not tokens:
        raise InputError("samples: no prompt has two different responses; raise temperature or num_samples.")
    counts = preferences.counts | {"pairs of samples": {"pairs": len(tokens)}}
    return dataclasses.replace(
        preferences, align=tokens, align_pairs=texts, human={}, counts=counts, sampled=np.array(places)
    )


def at_most(preferences: Preferences, most: int | None, seed: int) -> Preferences:
    """The same with at most `most` of the pairs to align on, drawn by seed; None keeps all."""
    places = chosen_places(len(preferences.align), most, seed)
    if len(places) == len(preferences.align):
        return preferences
    return dataclasses.replace(
        preferences,
        align=[preferences.align[i] for i in places],
        align_pairs=[preferences.align_pairs[i] for i in places],
        human={name: labels[places] for name, labels in preferences.human.items()},
        counts=preferences.counts | {"aligned on": {"pairs": len(places)}},
        sampled=None if preferences.sampled is None else preferences.sampled[places],
    )


def template_of(
    settings: ModelSettings, tokenizer: "PreTrainedTokenizerBase", world: World | None
) -> Template:
    """The configured template, else the world's, else the tokenizer's own."""
    if world is not None and not settings.template:
        return dataclasses.replace(world.template, add_bos=settings.add_bos)
    return template_for(tokenizer, settings)


def _as_it_is(pair: PreferencePair) -> PreferencePair:
    return pair


def _union(
    train: Mapping[str, Sequence[PreferencePair]],
) -> tuple[list[PreferencePair], dict[str, np.ndarray]]:
    """Every pair of every dimension once, and each dimension's labels on them: their mean."""
    places: dict[tuple[str, str, str], int] = {}
    pairs: list[PreferencePair] = []
    labels: dict[str, dict[int, list[float]]] = {name: {} for name in train}
    for name, members in train.items():
        for pair in members:
            key = (prompt_key(pair.prompt), pair.chosen, pair.rejected)
            place = places.setdefault(key, len(pairs))
            if place == len(pairs):
                pairs.append(pair)
            labels[name].setdefault(place, []).append(pair.labels[name])
    human = {
        name: np.array([np.mean(given.get(i, [np.nan])) for i in range(len(pairs))], np.float32)
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


def _shuffled(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """Distinct prompts in an order that depends on them and the seed alone."""
    distinct = sorted({prompt_key(prompt): prompt for prompt in prompts}.items())
    order = np.random.default_rng(seed).permutation(len(distinct))
    return [distinct[i][1] for i in order]
