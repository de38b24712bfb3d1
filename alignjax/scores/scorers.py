"""Where the score of a dimension comes from: a pre-aligned policy, a score model, a function, the truth."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alignjax.data.preferences import Labelled
from alignjax.data.records import PreferencePair, Prompt, prompt_key
from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedPair
from alignjax.data.worlds import World
from alignjax.errors import InputError
from alignjax.models import Lora, ScoreModel, as_utility
from alignjax.policy.batching import Batching
from alignjax.policy.known_logps import LogpsCache, digest, distinct
from alignjax.policy.values import Policy
from alignjax.runtime.files import remove
from alignjax.runtime.metrics import progress
from alignjax.scores.functions import load_function, prompt_text
from alignjax.scores.implicit import implicit_scores
from alignjax.scores.learned import learned_pair_scores, learned_scores
from alignjax.scores.lookup import Lookup, look_up, write_unscored
from alignjax.scores.reading import Reader

Wanted = tuple[Prompt, str]
"""A prompt and a response whose score is wanted."""


class Scorer(Protocol):
    """Scores of one dimension: higher is better, higher is safer."""

    def pairs(self, tokens: Sequence[TokenizedPair], texts: Sequence[PreferencePair]) -> np.ndarray:
        """Scores of both responses of n pairs, [n, 2] float64: chosen, rejected."""
        ...

    def responses(self, drawn: Responses) -> np.ndarray:
        """Scores of sampled responses, [N, K] float64."""
        ...


@dataclasses.dataclass(frozen=True)
class ImplicitScorer:
    """beta_pre log(pi / pi_ref) of a pre-aligned policy.

    Attributes:
      reference: pi_ref.
      policy: pi.
      beta_pre: KL weight of the pre-alignment.
      logps: log-probabilities that are known; shared, so that the reference's are computed once for all
        dimensions.
      batching: shapes of batches.
    """

    reference: Policy
    policy: Policy
    beta_pre: float
    logps: LogpsCache
    batching: Batching

    def pairs(self, tokens: Sequence[TokenizedPair], texts: Sequence[PreferencePair]) -> np.ndarray:
        """As `Scorer.pairs`; the texts are not read."""
        own, ref = (self.logps.of_pairs(p, tokens) for p in (self.policy, self.reference))
        return np.asarray(implicit_scores(own, ref, beta_pre=self.beta_pre), np.float64)

    def responses(self, drawn: Responses) -> np.ndarray:
        """As `Scorer.responses`."""
        own, ref = (self.logps.of_responses(p, drawn) for p in (self.policy, self.reference))
        return np.asarray(implicit_scores(own, ref, beta_pre=self.beta_pre), np.float64)


@dataclasses.dataclass(frozen=True)
class LearnedScorer:
    """A score model's reward, or minus its cost. What it reads several times in one call it reads once.

    Attributes:
      name: of the dimension.
      load: gives the reward or cost model and its adapters, or None.
      batching: shapes of batches.
      reader: gives texts the score model's own ids; None: it reads the policy's ids.
    """

    name: str
    load: Callable[[], tuple[ScoreModel, Lora | None]]
    batching: Batching
    reader: Reader | None = None

    def pairs(self, tokens: Sequence[TokenizedPair], texts: Sequence[PreferencePair]) -> np.ndarray:
        """As `Scorer.pairs`; the texts are read by a score model of another tokenizer alone."""
        if self.reader is not None:
            tokens = self.reader.pairs(tokens, texts)
        tokens, places = distinct(tokens)
        model, lora = self.load()
        with progress(len(tokens), f"{self.name} of pairs", unit="") as bar:
            scores = learned_pair_scores(
                model,
                tokens,
                lora=lora,
                batch_size=self.batching.rows,
                buckets=self.batching.pair_buckets(model.config, tokens),
                progress=bar.update,
                mesh=self.batching.mesh,
            )
        return np.asarray(as_utility(model.kind, scores), np.float64)[places]

    def responses(self, drawn: Responses) -> np.ndarray:
        """As `Scorer.responses`."""
        flat, places = distinct(drawn.flat if self.reader is None else self.reader.responses(drawn))
        model, lora = self.load()
        with progress(len(flat), f"{self.name} of {drawn.described}", unit="") as bar:
            scores = learned_scores(
                model,
                flat,
                lora=lora,
                batch_size=self.batching.rows,
                shapes=self.batching.response_shapes(model.config, flat),
                progress=bar.update,
                mesh=self.batching.mesh,
            )
        return np.asarray(as_utility(model.kind, scores), np.float64)[places].reshape(len(drawn.tokens), -1)


@dataclasses.dataclass(frozen=True)
class FunctionScorer:
    """Any function of texts; higher is better, higher is safer.

    Attributes:
      name: of the function, for messages.
      function: (prompts, responses), lists of equal length -> as many floats. It is called with the responses
        to one prompt at a time.
    """

    name: str
    function: Callable[[list[str], list[str]], Any]

    def pairs(self, tokens: Sequence[TokenizedPair], texts: Sequence[PreferencePair]) -> np.ndarray:
        """As `Scorer.pairs`; the tokens are not read."""
        return np.stack([self._call(i, p.prompt, [p.chosen, p.rejected]) for i, p in enumerate(texts)])

    def responses(self, drawn: Responses) -> np.ndarray:
        """As `Scorer.responses`."""
        rows = zip(drawn.prompts, drawn.texts, strict=True)
        return np.stack([self._call(i, prompt, texts) for i, (prompt, texts) in enumerate(rows)])

    def _call(self, place: int, prompt: Prompt, texts: list[str]) -> np.ndarray:
        text = prompt_text(prompt)
        where = f"{self.name}: prompt {place} ({text[:60]!r})"
        try:
            scores = np.asarray(self.function([text] * len(texts), list(texts)), np.float64)
        except Exception as error:  # the user's own code: whatever it raises is about the scores
            raise InputError(f"{where}: raised {type(error).__name__}: {error}") from error
        if scores.shape != (len(texts),):
            raise InputError(
                f"{where}: gave {scores.shape} scores for {len(texts)} responses; give one each."
            )
        if not np.isfinite(scores).all():
            bad = int(np.argmin(np.isfinite(scores)))
            raise InputError(f"{where}: gave {scores[bad]} for response {bad}; a score must be finite.")
        return scores


@dataclasses.dataclass(frozen=True)
class TableScorer:
    """Scores that were computed elsewhere.

    Attributes:
      name: of the dimension.
      path: the file they were read from, for messages.
      scores: by prompt and response; `require_tables` sees to it that none is missing.
    """

    name: str
    path: str
    scores: Lookup

    def pairs(self, tokens: Sequence[TokenizedPair], texts: Sequence[PreferencePair]) -> np.ndarray:
        """As `Scorer.pairs`; the tokens are not read."""
        return self.look_up(_wanted(texts)).reshape(-1, 2)

    def responses(self, drawn: Responses) -> np.ndarray:
        """As `Scorer.responses`."""
        return self.look_up(_drawn(drawn)).reshape(len(drawn.prompts), -1)

    def look_up(self, wanted: Sequence[Wanted]) -> np.ndarray:
        """Scores [n] of n responses; nan where the file has none."""
        prompts, texts = zip(*wanted, strict=True) if wanted else ((), ())
        return look_up(self.scores, prompts, texts)


def _wanted(pairs: Sequence[PreferencePair]) -> list[Wanted]:
    return [(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]


def _drawn(drawn: Responses) -> list[Wanted]:
    rows = zip(drawn.prompts, drawn.texts, strict=True)
    return [(prompt, text) for prompt, texts in rows for text in texts]


def require_tables(
    scorers: Mapping[str, Scorer],
    path: Path | None,
    *,
    drawn: Sequence[Responses] = (),
    pairs: Sequence[Sequence[PreferencePair]] = (),
) -> None:
    """Refuses to continue while a table lacks scores of these responses.

    Args:
      scorers: by dimension.
      path: file that then lists all responses without a score; None: none is written.
      drawn: sampled responses.
      pairs: pairs of responses.

    Raises:
      InputError: names the dimension, how many are missing, the first prompt, and the file.
    """
    wanted = [one for part in drawn for one in _drawn(part)] + [
        one for part in pairs for one in _wanted(part)
    ]
    wanted = list(dict.fromkeys(wanted))
    lacking, notes = set[int](), list[str]()
    for name, scorer in scorers.items():
        if not isinstance(scorer, TableScorer) or not wanted:
            continue
        missing = np.flatnonzero(np.isnan(scorer.look_up(wanted))).tolist()
        lacking |= set(missing)
        if missing:
            first = prompt_text(wanted[missing[0]][0])[:60]
            notes.append(
                f"{scorer.path}: has no {name} score for {len(missing)} of {len(wanted)} responses, the "
                f"first to prompt {first!r}"
            )
    if notes and path is not None:
        prompts, texts = zip(*(wanted[i] for i in sorted(lacking)), strict=True)
        count = write_unscored(path, prompts, texts)
        notes[-1] += f". Score the {count} lines of {path}, add them, and run again"
    if notes:
        raise InputError(f"{'; '.join(notes)}.")
    if path is not None:
        remove(path)


def table_digests(scorers: Mapping[str, Scorer], use: Callable[[TableScorer], np.ndarray]) -> dict[str, str]:
    """A digest, by dimension, of what tables say of the responses at hand.

    A table may grow during a run. What determines a stage is the scores it reads, not the whole file.
    """
    tables = {name: scorer for name, scorer in scorers.items() if isinstance(scorer, TableScorer)}
    return {name: hashlib.sha256(use(table).tobytes()).hexdigest() for name, table in tables.items()}


def true_scorer(world: World, dimension: int) -> FunctionScorer:
    """An embedded world's own score."""

    def of(prompts: list[str], responses: list[str]) -> np.ndarray:
        return world.true_scores(prompts[0], responses)[:, dimension]

    return FunctionScorer(f"the true {world.dimensions[dimension]}", of)


def function_scorer(path: str, field: str) -> FunctionScorer:
    """The function that a configuration names as module:function; see `load_function`."""
    return FunctionScorer(path, load_function(path, field))


def score_pairs(
    scorers: Mapping[str, Scorer], tokens: Sequence[TokenizedPair], texts: Sequence[PreferencePair]
) -> np.ndarray:
    """Scores of both responses of every pair by every dimension, in the order given: [n, 2, 1+m] float64."""
    return np.stack([scorer.pairs(tokens, texts) for scorer in scorers.values()], axis=-1)


def score_pair_sets(scorers: Mapping[str, Scorer], sets: Mapping[str, Labelled]) -> dict[str, np.ndarray]:
    """Scores of several sets of pairs in one call, so that batches are full and no pair is scored twice.

    Args:
      scorers: by dimension.
      sets: pairs, by name; a pair may be in several of them.

    Returns:
      By name, [n, 2, 1+m] float64, as of `score_pairs`.
    """
    if not sets:
        return {}
    places: dict[tuple[str, ...], int] = {}
    tokens, texts, where = list[TokenizedPair](), list[PreferencePair](), dict[str, list[int]]()
    for name, pairs in sets.items():
        where[name] = []
        for ids, text in zip(pairs.tokens, pairs.texts, strict=True):
            key = (digest(ids), prompt_key(text.prompt), text.chosen, text.rejected)
            where[name].append(places.setdefault(key, len(tokens)))
            if len(places) > len(tokens):
                tokens.append(ids)
                texts.append(text)
    scores = score_pairs(scorers, tokens, texts)
    return {name: scores[rows] for name, rows in where.items()}


def score_responses(scorers: Mapping[str, Scorer], drawn: Responses) -> np.ndarray:
    """Scores of sampled responses by every dimension, in the order given: [N, K, 1+m] float64."""
    return np.stack([scorer.responses(drawn) for scorer in scorers.values()], axis=-1)
