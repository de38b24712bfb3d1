"""Tries meshes, batch sizes, recomputation and weights in 8 bits, and names the fastest that fits."""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from alignjax.aot.measure import Measured
from alignjax.config import Config, TrainingSettings
from alignjax.errors import InputError
from alignjax.models import DecoderConfig
from alignjax.planning.architectures import run_as
from alignjax.planning.planner import Step
from alignjax.planning.reckoning import reckon
from alignjax.planning.run import Plan, Suggested, is_of, make_plan, setup_of, steps_at_mean, steps_of
from alignjax.planning.targets import Target
from alignjax.workflow.setup import Setup
from alignjax.workflow.stand_ins import Lengths

_MOST = 3  # candidates that are compiled, of those with equal results and of those with others
_ROOM = 0.9  # share of the memory up to which arithmetic is believed
_NEAR = 1.1  # candidates whose hours are reckoned to be within a tenth of the best's are compiled too
_GAIN = 0.9  # another result has to save a tenth of the hours
_ROWS = (1, 2, 4)  # rows of a batch a part of the rows, that are tried
_REMAT = ("none", "products", "layers")
# From rows of so many tokens on, the compiler's own attention holds gigabytes of scores.
_LONG_ROW = 2048
_RUNS = ("prealign", "align", "score_training")


def best(
    config: Config,
    decoder: DecoderConfig,
    name: str,
    target: Target,
    devices: Sequence[Any],
    *,
    pairs: int,
    say: Callable[[str], None],
    lengths: Lengths | None = None,
    only: Sequence[str] = (),
) -> Plan:
    """The plan of least hours among the candidates that fit; if none fits, the one that needs least.

    Candidates keep the rows of an update: batch size times accumulate. They are ordered by arithmetic
    (`reckoning`), and few of each kind are compiled: of those whose results are the configuration's own, and
    of those that hold weights or caches in 8 bits, which change results a little and have to save a tenth of
    the hours.

    Args:
      config: checked.
      decoder: the reference's shape.
      name: what it is called.
      target: the slice.
      devices: of `targets.devices`.
      pairs: as of `setup_of`.
      say: told of each candidate.
      lengths: as of `make_plan`.
      only: as of `make_plan`.

    Raises:
      InputError: no mesh divides the model and its batches.
    """
    search = _Search(config, decoder, name, target, devices, pairs, lengths, only)
    known: dict[Hashable, Measured] = {}
    equal = _tried(search, (), known, say)
    other = [plan for changing in _changes(config) for plan in _tried(search, changing, known, say)]
    if not equal and not other:
        raise InputError(
            f"--suggest: no mesh of {target.count} devices divides {name} and leaves room for its weights; "
            "take a larger slice."
        )
    own = _fastest(equal)
    found = [plan for plan in other if _saves(plan, own)] + ([] if own is None else [own])
    chosen = _fastest(found) or min((*equal, *other), key=lambda one: one.worst.needed)
    assert chosen.suggested is not None, "every candidate says what it is"
    if own is None or not chosen.suggested.changing:
        return chosen
    assert own.suggested is not None, "every candidate says what it is"
    instead = chosen.suggested._replace(equal=own.suggested.overrides, equal_hours=own.hours)
    return dataclasses.replace(chosen, suggested=instead)


class _Search(NamedTuple):
    """What all candidates share; attributes as the arguments of `best`."""

    config: Config
    decoder: DecoderConfig
    name: str
    target: Target
    devices: Sequence[Any]
    pairs: int
    lengths: Lengths | None
    only: Sequence[str]

    def setup(self, config: Config) -> Setup:
        run = run_as(self.decoder, config.model)
        return setup_of(config, run, self.name, self.target.chip, self.devices, pairs=self.pairs)


class _Candidate(NamedTuple):
    config: Config
    overrides: tuple[str, ...]
    hours: float
    needed: float


def _changes(config: Config) -> Iterator[tuple[str, ...]]:
    """Settings that change results a little and save memory, as the command line takes them, together."""
    found = []
    if config.model.weights == "float" and config.lora.rank:
        found.append("--config.model.weights=int8")
    if config.sampling.cache == "model":
        found.append("--config.sampling.cache=int8")
    if found:
        yield tuple(found)


def _tried(
    search: _Search,
    changing: tuple[str, ...],
    known: dict[Hashable, Measured],
    say: Callable[[str], None],
) -> list[Plan]:
    """Plans of the most promising candidates with these changes of results; none if no weights fit."""
    chip, found = search.target.chip, list[Plan]()
    reckoned = None  # hours of the best that fits
    for one in _ordered(search, changing)[:_MOST]:
        if reckoned is not None and one.hours > _NEAR * reckoned:
            break
        say(f"trying {' '.join(one.overrides)}")
        plan = make_plan(
            search.setup(one.config), chip, lengths=search.lengths, only=search.only, known=known, say=say
        )
        found.append(dataclasses.replace(plan, suggested=Suggested(one.overrides, changing)))
        if plan.fits and reckoned is None:
            reckoned = one.hours
    return found


def _fastest(plans: Sequence[Plan]) -> Plan | None:
    """The plan of least hours of those that fit; where none are known, the one that needs least memory."""
    fitting = [one for one in plans if one.fits]
    return min(fitting, key=lambda one: (one.hours or 0.0, one.worst.needed), default=None)


def _saves(plan: Plan, own: Plan | None) -> bool:
    """Whether another result is worth it: nothing else fits, or a tenth of the hours is saved."""
    if own is None:
        return True
    return plan.hours is not None and own.hours is not None and plan.hours < _GAIN * own.hours


def _ordered(search: _Search, changing: tuple[str, ...]) -> list[_Candidate]:
    """What is expected to fit, the fastest first; then the rest, what needs least first."""
    most = _ROOM * search.target.chip.usable
    return sorted(
        _candidates(search, changing),
        key=lambda one: (late := one.needed > most, one.needed if late else one.hours),
    )


def _candidates(search: _Search, changing: tuple[str, ...]) -> Iterator[_Candidate]:
    config, target = _with_changes(search.config, changing), search.target
    seen = set[tuple[str, ...]]()
    for data, fsdp, tensor in _meshes(target.count):
        for rows in _ROWS:
            base, overrides = _changed(config, data, fsdp, tensor, rows)
            if (key := tuple(overrides)) in seen:
                continue
            seen.add(key)
            attention = _kernel(base, search.decoder, target)
            base = dataclasses.replace(base, model=dataclasses.replace(base.model, attention=attention))
            try:
                setup = search.setup(base)
            except InputError:
                continue  # does not divide; another mesh may
            steps = [step for step in _steps(setup, search.lengths) if is_of(step, search.only)]
            for remat in _REMAT:
                model = dataclasses.replace(base.model, remat=remat)
                run = run_as(search.decoder, model)
                found = reckon(steps, run, base.lora, setup.batching.mesh, target.chip)
                if found.standing > target.chip.usable:
                    continue
                more = [
                    f"--config.model.{field}={value}"
                    for field, value in (("remat", remat), ("attention", attention))
                    if value != getattr(config.model, field)
                ]
                full = dataclasses.replace(base, model=model)
                yield _Candidate(full, (*changing, *overrides, *more), found.hours, found.needed)


def _steps(setup: Setup, lengths: Lengths | None) -> list[Step]:
    if lengths is None:
        return steps_of(setup)[0]
    return [mean for _, mean in steps_at_mean(setup, lengths)]


def _kernel(config: Config, decoder: DecoderConfig, target: Target) -> str:
    """The attention to take: that of TPUs for long rows, where it serves the model."""
    longest = 2 * config.model.max_length
    serves = decoder.sliding_window is None or decoder.sliding_window >= longest
    long = longest >= _LONG_ROW and config.model.attention == "xla" and not target.simulated
    return "splash" if long and serves else config.model.attention


def _with_changes(config: Config, changing: tuple[str, ...]) -> Config:
    """The configuration with the settings that `_changes` names."""
    if "--config.model.weights=int8" in changing:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights="int8"))
    if "--config.sampling.cache=int8" in changing:
        config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, cache="int8"))
    return config


def _meshes(count: int) -> Iterator[tuple[int, int, int]]:
    for fsdp in _divisors(count):
        for tensor in _divisors(count // fsdp):
            yield count // fsdp // tensor, fsdp, tensor


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]


def _changed(config: Config, data: int, fsdp: int, tensor: int, rows: int) -> tuple[Config, list[str]]:
    """The configuration on another mesh, with `rows` rows of a batch per part; rows of an update are kept."""
    parts = data * fsdp
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    overrides = [f"--config.mesh.{axis}={size}" for axis, size in sizes.items()]
    changes: dict[str, Any] = {"mesh": dataclasses.replace(config.mesh, **sizes)}
    for run in (name for name in _RUNS if _is_used(config, name)):
        old: TrainingSettings = getattr(config, run)
        total = old.batch_size * old.accumulate
        batch = min(parts * rows, -(-total // parts) * parts)
        accumulate = max(1, round(total / batch))
        if (batch, accumulate) != (old.batch_size, old.accumulate):
            changes[run] = dataclasses.replace(old, batch_size=batch, accumulate=accumulate)
            overrides += [f"--config.{run}.batch_size={batch}", f"--config.{run}.accumulate={accumulate}"]
    reference = -(-config.ref_batch_size // parts) * parts
    if reference != config.ref_batch_size:
        changes["ref_batch_size"] = reference
        overrides.append(f"--config.ref_batch_size={reference}")
    return dataclasses.replace(config, **changes), overrides


def _is_used(config: Config, run: str) -> bool:
    return run == "align" or (run == "prealign") == (config.method == "pecan")
