"""What a run does, stage after stage: which programs, how often, and what is held in memory meanwhile."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from alignjax.config import SamplingSettings, ScoreSettings
from alignjax.config_checks import given
from alignjax.data.worlds import world_for
from alignjax.models import DecoderConfig
from alignjax.planning import work
from alignjax.planning.abstract import bytes_per_device
from alignjax.planning.work import Program, Setting


class Counts(NamedTuple):
    """How much data there is.

    Attributes:
      pairs: labelled pairs that each dimension learns from; all dimensions label the same.
      held_out: pairs held out of each.
      align: pairs of the final alignment.
    """

    pairs: int
    held_out: int
    align: int


class Step(NamedTuple):
    """One program of one stage.

    Attributes:
      stage: as the run calls it.
      what: the program in words.
      make: its shapes; building them is cheap, compiling is not.
      examples: rows that go through it in the whole run.
      held: bytes a chip that the run holds beside the program's own arguments, by kind.
    """

    stage: str
    what: str
    make: Callable[[], Program]
    examples: float
    held: Mapping[str, int]


def counts_of(setting: Setting, pairs: int) -> Counts:
    """The data of a run.

    Args:
      setting: of the run.
      pairs: labelled pairs of each dimension, for files, whose number the configuration does not tell.
    """
    config = setting.config
    if config.data.world is not None:
        train, held_out = config.data.num_pairs, config.data.num_held_out
    else:
        held_out = max(1, round(pairs * config.data.held_out_fraction))
        train = max(1, pairs - held_out)
        train = min(train, config.data.max_train_pairs or train)
        held_out = min(held_out, config.data.max_held_out_pairs or held_out)
    align = train
    if config.relabel.pairs == "samples":
        align = config.sampling.num_prompts * config.relabel.pairs_per_prompt
    return Counts(train, held_out, min(align, config.relabel.max_pairs or align))


def steps_of(setting: Setting, counts: Counts, world: DecoderConfig | None) -> Iterator[Step]:
    """Every program of the configured method, in the order of the run.

    Args:
      setting: of the run.
      counts: of its data.
      world: the decoder of an embedded world, whose reference is trained first; None: weights are read.
    """
    config = setting.config
    if world is not None:
        size, examples = config.reference, config.reference_examples
        yield Step(
            "reference", "train step", lambda: work.reference_step(setting, world, examples),
            size.epochs * examples, {"best and first weights": 2 * _world_bytes(setting, world)},
        )  # fmt: skip
    yield from (_pecan if config.method == "pecan" else _mocan)(setting, counts)


class _Held(NamedTuple):
    """Bytes a chip of what a run may hold."""

    trained: int  # what one optax run trains, a copy
    adapted: bool  # that is adapters, on weights that are there anyway
    body: int  # the reference

    def beside(self, policies: int, *, training: bool = False) -> dict[str, int]:
        """Held beside a program: so many trained policies; while one trains, its first and best weights.

        Of full fine-tuning the reference is held too: what is trained is a copy.
        """
        held = {"trained policies": policies * self.trained}
        if training:
            held["first and best weights"] = self.trained + (self.trained if self.adapted else self.body)
        return {name: size for name, size in held.items() if size}


def _held(setting: Setting) -> _Held:
    body, lora = bytes_per_device(work.reference_params(setting)), work.adapter(setting)
    trained = body if lora is None else bytes_per_device(lora.params)
    return _Held(trained, lora is not None, body)


def _world_bytes(setting: Setting, world: DecoderConfig) -> int:
    wide = dataclasses.replace(world, dtype="float32")
    return bytes_per_device(work.reference_params(setting._replace(decoder=wide)))


def _pecan(setting: Setting, counts: Counts) -> Iterator[Step]:
    config, held = setting.config, _held(setting)
    names = config.dimensions
    logps = _Scores(setting, counts, held, learned=(), resident=len(names))
    yield logps.of_pairs(
        "pairs", "log-probabilities by the reference", counts.pairs + counts.held_out, False, {}
    )
    run = config.prealign
    for i, name in enumerate(names):
        yield Step(
            name, "train step", lambda: work.dpo_step(setting, run, config.beta_pre, counts.pairs),
            run.epochs * counts.pairs, held.beside(i, training=True),
        )  # fmt: skip
        yield logps.of_pairs(
            name,
            "held-out log-probabilities",
            run.evals * counts.held_out,
            True,
            held.beside(i, training=True),
        )
    yield from _samples(setting, held, len(names))
    drawn = config.sampling.num_prompts * config.sampling.num_samples
    yield logps.of_responses("scores", "log-probabilities by the reference", config.sampling, drawn, False)
    yield logps.of_responses(
        "scores", "log-probabilities by policies", config.sampling, len(names) * drawn, True
    )
    scored = (counts.held_out + counts.align) * len(names)
    yield logps.of_pairs("labels", "log-probabilities by policies", scored, True, held.beside(len(names) - 1))
    yield from _align(setting, counts, held, "policy", len(names), 1)
    yield from _evaluate(setting, held, len(names) + 2, logps)


def _mocan(setting: Setting, counts: Counts) -> Iterator[Step]:
    config, held = setting.config, _held(setting)
    names = config.dimensions
    sources = {name: config.scores.get(name, ScoreSettings()) for name in names}
    trained = [n for n, s in sources.items() if not given(s)]
    folders = [n for n, s in sources.items() if s.path]
    run = config.score_training
    scores = _Scores(
        setting, counts, held, learned=(*trained, *folders), resident=len(trained), folders=folders
    )
    yield from _samples(setting, held, 0)
    for i, name in enumerate(trained):
        make = functools.partial(work.score_step, setting, name, counts.pairs)
        yield Step(
            name, "train step", make,
            run.epochs * counts.pairs, held.beside(i, training=True),
        )  # fmt: skip
        yield scores.pairs_by(name, name, "held-out scores", (run.evals + 1) * counts.held_out, i + 2)
    drawn = config.sampling.num_prompts * config.sampling.num_samples
    for name in (*trained, *folders):
        yield scores.responses_by(name, "scores", f"{name} of samples", drawn, config.sampling.max_new_tokens)
    labelled = counts.held_out * len(names) * bool(config.calibrate) + counts.align
    for name in (*trained, *folders):
        yield scores.pairs_by(name, "labels", f"{name} of pairs", labelled, len(trained))
    logps = _Scores(setting, counts, held, learned=(), resident=0)
    yield logps.of_pairs(
        "pairs", "log-probabilities by the reference", counts.align, False, held.beside(len(trained))
    )
    baselines = len(config.baseline_weights())
    yield from _align(setting, counts, held, "policy", len(trained) + baselines, 1 + baselines)
    if config.rounds.count > 1:
        yield from _rounds(setting, counts, held, scores, len(trained) + baselines + 1)
    last = 1 if config.rounds.count > 1 else 0
    yield from _evaluate(setting, held, 2 + baselines + last, scores)


class _Scores(NamedTuple):
    """Who scores: policies by their log-probabilities, or score models."""

    setting: Setting
    counts: Counts
    held: _Held
    learned: tuple[str, ...]
    resident: int  # trained adapters that are held while something is scored
    folders: tuple[str, ...] | list[str] = ()

    def of_pairs(
        self, stage: str, what: str, examples: float, adapted: bool, held: Mapping[str, int]
    ) -> Step:
        """Log-probabilities of pairs."""
        make = lambda: work.pair_logps(self.setting, self.counts.pairs, adapted=adapted)  # noqa: E731
        return Step(stage, what, make, examples, held)

    def of_responses(
        self, stage: str, what: str, asked: SamplingSettings, examples: float, adapted: bool
    ) -> Step:
        """Log-probabilities of sampled responses."""
        drawn, new = asked.num_prompts * asked.num_samples, asked.max_new_tokens
        make = lambda: work.response_logps(self.setting, drawn, new, adapted=adapted)  # noqa: E731
        return Step(stage, what, make, examples, self._beside(adapted))

    def pairs_by(self, name: str, stage: str, what: str, examples: float, copies: int) -> Step:
        """Scores of pairs by one score model."""
        adapted = name not in self.folders and self.held.adapted
        make = lambda: work.pair_scores(self.setting, name, self.counts.pairs, adapted=adapted)  # noqa: E731
        return Step(stage, what, make, examples, self._of_model(name, copies))

    def responses_by(self, name: str, stage: str, what: str, drawn: float, new: int) -> Step:
        """Scores of sampled responses by one score model."""
        adapted = name not in self.folders and self.held.adapted
        make = lambda: work.response_scores(self.setting, name, int(drawn), new, adapted=adapted)  # noqa: E731
        return Step(stage, what, make, drawn, self._of_model(name, self.resident))

    def _of_model(self, name: str, copies: int) -> dict[str, int]:
        """A folder's model takes the reference's place; one that was trained sits on it or beside it."""
        own = 0 if name in self.folders else 1
        held = self.held.beside(max(0, copies - own))
        if not self.held.adapted and name not in self.folders:
            held["reference"] = self.held.body
        return held

    def _beside(self, adapted: bool) -> dict[str, int]:
        held = self.held.beside(self.resident - (1 if adapted else 0))
        if adapted and not self.held.adapted:
            held["reference"] = self.held.body
        return held


def _samples(setting: Setting, held: _Held, policies: int) -> Iterator[Step]:
    asked = setting.config.sampling
    yield Step(
        "samples", "sampler", lambda: work.sampler(setting, asked, adapted=False),
        asked.num_prompts * asked.num_samples, held.beside(policies),
    )  # fmt: skip


def _align(
    setting: Setting, counts: Counts, held: _Held, stage: str, policies: int, runs: int
) -> Iterator[Step]:
    config = setting.config
    yield Step(
        stage, "train step" + (f" ({runs} runs with the baselines)" if runs > 1 else ""),
        lambda: work.dpo_step(setting, config.align, config.beta, counts.align),
        runs * config.align.epochs * counts.align, held.beside(policies, training=True),
    )  # fmt: skip


def _rounds(setting: Setting, counts: Counts, held: _Held, scores: _Scores, policies: int) -> Iterator[Step]:
    config, asked = setting.config, setting.config.sampling
    drawn, more = asked.num_prompts * asked.num_samples, config.rounds.count - 1
    beside = held.beside(policies)
    yield Step("rounds", "sampler", lambda: work.sampler(setting, asked, adapted=held.adapted),
               (more + 1) * drawn, beside)  # fmt: skip
    yield Step("rounds", "KL", lambda: work.divergence(setting, drawn, asked.max_new_tokens),
               (more + 1) * drawn, beside)  # fmt: skip
    for name in scores.learned:
        step = scores.responses_by(name, "rounds", f"{name} of samples", drawn, asked.max_new_tokens)
        yield step._replace(examples=(more + 1) * drawn)
    train = lambda: work.dpo_step(setting, config.align, config.beta, counts.align)  # noqa: E731
    yield Step("rounds", "train step", train,
               more * config.align.epochs * counts.align, held.beside(policies, training=True))  # fmt: skip


def _evaluate(setting: Setting, held: _Held, policies: int, scores: _Scores) -> Iterator[Step]:
    """Every policy is sampled, scored and compared with the reference; `policies` counts the reference."""
    config, asked = setting.config, setting.config.evaluation
    drawn, new = asked.num_prompts * asked.num_samples, asked.max_new_tokens
    beside = held.beside(policies - 1 + scores.resident)
    world = None if config.data.world is None else world_for(config.data.world).enumeration
    if world is not None:
        listed = len(world.prompts) * len(world.tokens)
        step = scores.of_responses("evaluation", "log-probabilities of every response", asked, 1, True)
        yield step._replace(examples=policies * listed, held=beside)
        return
    yield Step("evaluation", "sampler", lambda: work.sampler(setting, asked, adapted=held.adapted),
               policies * drawn, beside)  # fmt: skip
    yield Step("evaluation", "KL", lambda: work.divergence(setting, drawn, new), policies * drawn, beside)
    if scores.learned:
        for name in scores.learned:
            step = scores.responses_by(name, "evaluation", f"{name} of responses", drawn, new)
            yield step._replace(examples=policies * drawn, held={**step.held, **beside})
        return
    examples = policies * (1 + len(config.dimensions)) * drawn
    step = scores.of_responses("evaluation", "log-probabilities by policies", asked, examples, True)
    yield step._replace(held=beside)
