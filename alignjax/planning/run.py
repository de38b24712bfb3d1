"""A plan: every program of a run measured once, what each stage holds and takes, whether all of it fits."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax

from alignjax.config import Config
from alignjax.config_checks import check_batches, check_kernel
from alignjax.errors import InputError
from alignjax.models import DecoderConfig, check_divides
from alignjax.planning.chips import Chip
from alignjax.planning.measure import Estimate, Measured, estimate, measure
from alignjax.planning.shapes import score_decoders
from alignjax.planning.stages import Counts, Step, counts_of, steps_of
from alignjax.planning.work import Program, Setting
from alignjax.policy.batch_sizing import rounded
from alignjax.runtime.mesh import make_mesh, row_parts


class Line(NamedTuple):
    """One program of one stage, measured.

    Attributes:
      step: what it is.
      program: its shapes.
      measured: what compiling says.
      estimate: seconds a call; None where it is not known.
      calls: in the whole run.
      needed: bytes a chip: of the program, and held beside it.
      fits: they are no more than the chip has.
    """

    step: Step
    program: Program
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
        return None if self.estimate is None else self.program.tokens / self.estimate.longest


@dataclasses.dataclass(frozen=True)
class Plan:
    """All lines, and what they were made for.

    Attributes:
      setting: of the run.
      chip: the chip.
      devices: how many.
      counts: of the data.
      share: of the largest length that rows are taken to have on average, for the hours.
      lines: in the order of the run.
      overrides: of the configuration, where they were searched for, as the command line takes them.
    """

    setting: Setting
    chip: Chip
    devices: int
    counts: Counts
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


def setting_of(
    config: Config, decoder: DecoderConfig, name: str, chip: Chip, devices: Sequence[Any]
) -> Setting:
    """What all programs share, checked as a run checks it.

    Raises:
      InputError: mesh sizes that do not make the devices or do not divide the model, batch sizes that the
        mesh does not divide, or rows longer than the model's context.
    """
    mesh = make_mesh(**dataclasses.asdict(config.mesh), devices=devices)
    check_batches(config, row_parts(mesh))
    check_divides(decoder, mesh, where=name)
    # A plan for GPUs is made by the CPU's compiler.
    platforms = {"gpu" if device.platform == "cpu" else device.platform for device in devices}
    check_kernel(config.model, platforms, decoder.head_dim, decoder.sliding_window)
    scored_by = score_decoders(config)
    for score, body in scored_by.items():
        check_divides(body, mesh, where=str(config.scores[score].path))
    if config.model.max_length > decoder.max_positions:
        raise InputError(
            f"config.model.max_length: is {config.model.max_length}; {name} has a context of "
            f"{decoder.max_positions} tokens; lower it."
        )
    return Setting(config, decoder, name, mesh, rounded(chip.usable), scored_by)


def make_plan(
    setting: Setting,
    chip: Chip,
    *,
    pairs: int,
    mean_length: int | None,
    world: DecoderConfig | None,
    only: Sequence[str] = (),
    known: dict[Any, Measured] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Measures every program of a run.

    Args:
      setting: of `setting_of`.
      chip: the chip.
      pairs: labelled pairs a dimension, where files hold them.
      mean_length: tokens of prompt and response on average, for the hours; None: `max_length`.
      world: the decoder of an embedded world.
      only: stages to plan; empty: all.
      known: programs measured before; those that are measured here are added.
      say: told of each program before it is compiled.

    Raises:
      InputError: a stage that the run does not have.
    """
    devices, counts = setting.mesh.size, counts_of(setting, pairs)
    share = 1.0 if mean_length is None else mean_length / setting.config.model.max_length
    steps = list(steps_of(setting, counts, world))
    unknown = sorted(set(only) - {step.stage for step in steps})
    if unknown:
        names = ", ".join(dict.fromkeys(step.stage for step in steps))
        raise InputError(f"--only={unknown[0]}: no such stage; this run has {names}.")
    chosen = [step for step in steps if not only or step.stage in only]
    known = {} if known is None else known
    lines = tuple(_lines(chosen, chip, devices, share, known, say))
    return Plan(setting, chip, devices, counts, share, lines)


def _lines(
    steps: Iterable[Step],
    chip: Chip,
    devices: int,
    share: float,
    known: dict[Any, Measured],
    say: Callable[[str], None],
) -> Iterable[Line]:
    for step in steps:
        program = step.make()
        key = _key(program)
        if key not in known:
            say(f"compiling {step.stage}: {step.what}")
            known[key] = measure(program, devices)
        found = known[key]
        needed = found.needed + sum(step.held.values())
        calls = -(-step.examples // program.rows) * share
        fits = not found.refused and needed <= chip.usable
        yield Line(step, program, found, estimate(found, chip), calls, needed, fits)


def _key(program: Program) -> Any:
    """Equal for programs that compile to the same."""
    leaves, structure = jax.tree.flatten(program.arguments)
    arrays = tuple(
        (leaf.shape, str(leaf.dtype), leaf.sharding) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
        for leaf in leaves
    )
    return program.function, structure, arrays
