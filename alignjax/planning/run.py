"""A plan: every program of a run measured once, what each stage holds and takes, whether all of it fits."""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from alignjax.aot.chips import Chip
from alignjax.aot.measure import Estimate, Measured, estimate, measure
from alignjax.config import Config, check_kernel
from alignjax.errors import InputError
from alignjax.mocan import mocan
from alignjax.models import DecoderConfig, check_divides
from alignjax.pecan import pecan
from alignjax.planning import mean_rows
from alignjax.planning.architectures import score_decoders
from alignjax.planning.planner import Planner, Step, identity
from alignjax.policy.batch_sizing import rounded
from alignjax.runtime.log import Log
from alignjax.workflow.outcome import Outcome
from alignjax.workflow.setup import Setup, Shape, make_setup
from alignjax.workflow.stand_ins import Lengths


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


class Suggested(NamedTuple):
    """How the configuration of a plan differs from the one that was given.

    Attributes:
      overrides: as the command line takes them.
      changing: those of them that change results a little.
      equal: of the fastest that fits with none of these; empty: none is known.
      equal_hours: of that one; None: not known.
    """

    overrides: tuple[str, ...]
    changing: tuple[str, ...]
    equal: tuple[str, ...] = ()
    equal_hours: float | None = None


class Timed(NamedTuple):
    """One program of one stage at the rows that the hours are counted for.

    Attributes:
      step: what it is.
      measured: what compiling says.
      estimate: seconds a call; None where it is not known.
    """

    step: Step
    measured: Measured
    estimate: Estimate | None

    @property
    def hours(self) -> float | None:
        """Of all calls."""
        return None if self.estimate is None else self.step.calls * self.estimate.longest / 3600

    @property
    def tokens_per_second(self) -> float | None:
        """Read, or drawn by a sampler, on all chips together."""
        return None if self.estimate is None else self.step.program.tokens / self.estimate.longest


class Line(NamedTuple):
    """One program of one stage, measured.

    Attributes:
      longest: the program at the longest rows, which say how much memory it needs.
      timed: the same at rows of mean length, where these are given, which say how long it takes.
      needed: bytes a chip: of the program, and held beside it.
      fits: they are no more than the chip has.
    """

    longest: Timed
    timed: Timed
    needed: int
    fits: bool

    @property
    def step(self) -> Step:
        """What it is, at the longest rows."""
        return self.longest.step

    @property
    def measured(self) -> Measured:
        """What compiling says of the longest rows."""
        return self.longest.measured


@dataclasses.dataclass(frozen=True)
class Plan:
    """All lines, and what they were made for.

    Attributes:
      setup: of the run.
      name: of the reference.
      chip: the chip.
      devices: how many.
      counts: of the data.
      unseen: dimensions whose score models are taken to have the reference's shape.
      lengths: mean tokens that the hours are for; None: rows as long as they may be.
      lines: in the order of the run.
      partial: only some stages were asked for.
      suggested: how its configuration differs from the one that was given; None: it is that one.
    """

    setup: Setup
    name: str
    chip: Chip
    devices: int
    counts: Counts
    unseen: tuple[str, ...]
    lengths: Lengths | None
    lines: tuple[Line, ...]
    partial: bool = False
    suggested: Suggested | None = None

    @property
    def fits(self) -> bool:
        """Every stage does."""
        return all(line.fits for line in self.lines)

    @property
    def worst(self) -> Line:
        """The line that needs most memory."""
        return max(self.lines, key=lambda line: line.needed)

    @property
    def hours(self) -> float | None:
        """Of all lines, at rows of mean length where these were given."""
        return _total([line.timed.hours for line in self.lines])

    @property
    def longest_hours(self) -> float | None:
        """Of all lines, if all rows were as long as they may be."""
        return _total([line.longest.hours for line in self.lines])


def _total(hours: Sequence[float | None]) -> float | None:
    known = [one for one in hours if one is not None]
    return sum(known) if len(known) == len(hours) else None


def setup_of(
    config: Config,
    decoder: DecoderConfig,
    name: str,
    chip: Chip,
    devices: Sequence[Any],
    *,
    pairs: int,
) -> Setup:
    """What the stages of a planned run are built from, checked as a run checks it.

    Args:
      config: checked configuration.
      decoder: the reference's shape.
      name: what the reference is called.
      chip: the chip.
      devices: to compile for.
      pairs: labelled pairs a dimension, where files hold them.

    Raises:
      InputError: mesh sizes that do not make the devices or do not divide the model, batch sizes that the
        mesh does not divide, or rows longer than the model's context.
    """
    shape = Shape(decoder, name, pairs, score_decoders(config))
    setup = make_setup(
        config, devices=devices, log=Log(lambda _: None), shape=shape, memory=rounded(chip.usable)
    )
    mesh = setup.batching.mesh
    check_divides(decoder, mesh, where=name)
    # A plan for GPUs is made by the CPU's compiler.
    platforms = {"gpu" if device.platform == "cpu" else device.platform for device in devices}
    check_kernel(config.model, platforms, decoder.head_dim, decoder.sliding_window)
    for score, body in shape.scored_by.items():
        check_divides(body, mesh, where=str(config.scores[score].path))
    if config.model.max_length > decoder.max_positions:
        raise InputError(
            f"config.model.max_length: is {config.model.max_length}; {name} has a context of "
            f"{decoder.max_positions} tokens; lower it."
        )
    return setup


def steps_of(setup: Setup) -> tuple[list[Step], Outcome]:
    """Every program of the configured method, in the order of the run, and what the run would hand back."""
    planner, outcome = _walked(setup)
    return planner.steps, outcome


def steps_at_mean(setup: Setup, lengths: Lengths) -> list[tuple[Step, Step]]:
    """Every program at the longest rows and at rows of these lengths."""
    return _with_mean(_walked(setup)[0].uses, setup, lengths)


def _with_mean(uses: Sequence[Step], setup: Setup, lengths: Lengths) -> list[tuple[Step, Step]]:
    mean = _walked(mean_rows.at_mean(setup, lengths))[0].uses
    return mean_rows.paired(uses, [mean_rows.drawing(step, lengths) for step in mean])


def _walked(setup: Setup) -> tuple[Planner, Outcome]:
    planner = Planner(setup.models)
    return planner, (pecan if setup.config.method == "pecan" else mocan)(planner, setup)


def make_plan(
    setup: Setup,
    chip: Chip,
    *,
    lengths: Lengths | None = None,
    only: Sequence[str] = (),
    known: dict[Hashable, Measured] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Measures every program of a run.

    Args:
      setup: of `setup_of`.
      chip: the chip.
      lengths: mean tokens of prompts and responses, for the hours: programs are compiled a second time at
        such rows, see `mean_rows`. None: all rows are as long as they may be.
      only: stages to plan, such as `policy`, or `baselines` for all stages under that name; empty: all.
      known: programs measured before; those that are measured here are added.
      say: told of each program before it is compiled.

    Raises:
      InputError: a stage that the run does not have, or that compiles nothing.
    """
    assert setup.shape is not None, "of `setup_of`"
    planner, outcome = _walked(setup)
    steps = planner.steps
    for name in only:
        if not any(is_of(step, [name]) for step in steps):
            names = ", ".join(dict.fromkeys(step.stage for step in steps))
            raise InputError(f"--only={name}: no such stage compiles a program; this run has {names}.")
    config, devices = setup.config, setup.batching.mesh.size
    every = [(step, step) for step in steps]
    if lengths is not None:
        every = _with_mean(planner.uses, setup, lengths)
    chosen = [(step, mean) for step, mean in every if is_of(step, only)]
    lines = tuple(_lines(chosen, chip, devices, {} if known is None else known, say))
    pairs = outcome.data.pairs
    learned = next(iter(pairs.dimensions.values()))
    counts = Counts(len(learned.train.tokens), len(learned.held_out.tokens), len(pairs.align))
    sources = config.scores.items() if config.method == "mocan" else ()
    unseen = (name for name, source in sources if source.path and name not in setup.shape.scored_by)
    return Plan(setup, setup.shape.name, chip, devices, counts, tuple(unseen), lengths, lines, bool(only))


def is_of(step: Step, names: Sequence[str]) -> bool:
    """Whether a step is of a stage of one of these names, or of one under it; without names, always."""
    return not names or any(step.stage == name or step.stage.startswith(f"{name}/") for name in names)


def _lines(
    steps: Sequence[tuple[Step, Step]],
    chip: Chip,
    devices: int,
    known: dict[Hashable, Measured],
    say: Callable[[str], None],
) -> Iterator[Line]:
    """Lines of steps at the longest and at mean rows."""

    def timed(step: Step, rows: str) -> Timed:
        key = identity(step.program)
        if key not in known:
            say(f"compiling {step.stage}: {step.what}{rows}")
            known[key] = measure(step.program, devices)
        return Timed(step, known[key], estimate(known[key], chip))

    longest = [timed(step, "") for step, _ in steps]
    whole = _total([one.hours for one in longest])
    for one, (step, mean) in zip(longest, steps, strict=True):
        needed = one.measured.needed + sum(step.held.values())
        fits = not one.measured.refused and needed <= chip.usable
        if mean is step:
            short = one
        elif whole is not None and one.hours is not None and one.hours < mean_rows.SMALL * whole:
            found = mean_rows.scaled(one.measured, step.program, mean.program)
            short = Timed(mean, found, estimate(found, chip))
        else:
            short = timed(mean, ", mean rows")
        yield Line(one, short, needed, fits)
