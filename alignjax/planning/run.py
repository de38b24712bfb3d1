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
from alignjax.planning.architectures import score_decoders
from alignjax.planning.planner import Planner, Step, identity
from alignjax.policy.batch_sizing import rounded
from alignjax.runtime.log import Log
from alignjax.workflow.outcome import Outcome
from alignjax.workflow.setup import Setup, Shape, make_setup


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


class Line(NamedTuple):
    """One program of one stage, measured.

    Attributes:
      step: what it is.
      measured: what compiling says.
      estimate: seconds a call; None where it is not known.
      calls: in the whole stage, at the mean length of rows.
      needed: bytes a chip: of the program, and held beside it.
      fits: they are no more than the chip has.
    """

    step: Step
    measured: Measured
    estimate: Estimate | None
    calls: float
    needed: int
    fits: bool

    @property
    def hours(self) -> float | None:
        """Of all calls."""
        return None if self.estimate is None else self.calls * self.estimate.longest / 3600

    @property
    def tokens_per_second(self) -> float | None:
        """Read, or drawn by a sampler, on all chips together."""
        return None if self.estimate is None else self.step.program.tokens / self.estimate.longest


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
      share: of the largest length that rows are taken to have on average, for the hours.
      lines: in the order of the run.
      overrides: of the configuration, where they were searched for, as the command line takes them.
    """

    setup: Setup
    name: str
    chip: Chip
    devices: int
    counts: Counts
    unseen: tuple[str, ...]
    share: float
    lines: tuple[Line, ...]
    overrides: tuple[str, ...] = ()

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
        """Of the whole run."""
        known = [line.hours for line in self.lines]
        return None if any(one is None for one in known) else sum(one for one in known if one is not None)


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
    planner = Planner(setup.models)
    outcome = (pecan if setup.config.method == "pecan" else mocan)(planner, setup)
    return planner.steps, outcome


def make_plan(
    setup: Setup,
    chip: Chip,
    *,
    mean_length: int | None,
    only: Sequence[str] = (),
    known: dict[Hashable, Measured] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Measures every program of a run.

    Args:
      setup: of `setup_of`.
      chip: the chip.
      mean_length: tokens of prompt and response on average, for the hours; None: `max_length`.
      only: stages to plan, such as `policy`, or `baselines` for all stages under that name; empty: all.
      known: programs measured before; those that are measured here are added.
      say: told of each program before it is compiled.

    Raises:
      InputError: a stage that the run does not have, or that compiles nothing.
    """
    assert setup.shape is not None, "of `setup_of`"
    steps, outcome = steps_of(setup)
    for name in only:
        if not any(_is_of(step, name) for step in steps):
            names = ", ".join(dict.fromkeys(step.stage for step in steps))
            raise InputError(f"--only={name}: no such stage compiles a program; this run has {names}.")
    chosen = [step for step in steps if not only or any(_is_of(step, name) for name in only)]
    devices, config = setup.batching.mesh.size, setup.config
    share = 1.0 if mean_length is None else mean_length / config.model.max_length
    lines = tuple(_lines(chosen, chip, devices, share, {} if known is None else known, say))
    pairs = outcome.data.pairs
    learned = next(iter(pairs.dimensions.values()))
    counts = Counts(len(learned.train.tokens), len(learned.held_out.tokens), len(pairs.align))
    sources = config.scores.items() if config.method == "mocan" else ()
    unseen = (name for name, source in sources if source.path and name not in setup.shape.scored_by)
    return Plan(setup, setup.shape.name, chip, devices, counts, tuple(unseen), share, lines)


def _is_of(step: Step, name: str) -> bool:
    """Whether a step is of the stage of this name, or of one under it."""
    return step.stage == name or step.stage.startswith(f"{name}/")


def _lines(
    steps: Sequence[Step],
    chip: Chip,
    devices: int,
    share: float,
    known: dict[Hashable, Measured],
    say: Callable[[str], None],
) -> Iterator[Line]:
    for step in steps:
        key = identity(step.program)
        if key not in known:
            say(f"compiling {step.stage}: {step.what}")
            known[key] = measure(step.program, devices)
        found = known[key]
        needed = found.needed + sum(step.held.values())
        fits = not found.refused and needed <= chip.usable
        yield Line(step, found, estimate(found, chip), step.calls * share, needed, fits)
