"""Tries meshes, remat and batch sizes, and names the fastest that fits."""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from alignjax.aot.measure import Measured
from alignjax.aot.shapes import bytes_per_device, decoder_params
from alignjax.config import Config, TrainingSettings
from alignjax.errors import InputError
from alignjax.models import DecoderConfig
from alignjax.planning.architectures import run_as
from alignjax.planning.run import Plan, make_plan, setup_of
from alignjax.planning.targets import Target
from alignjax.workflow.programs import new_adapters
from alignjax.workflow.setup import Setup

_MOST = 4  # candidates that are compiled, of those that arithmetic leaves
_FULL = 0.7  # share of the memory from which weights and optimizer leave little for anything else
_ROWS = (1, 2, 4)  # rows of a batch a part of the rows, that are tried
_RUNS = ("prealign", "align", "score_training")
_ANY_PAIRS = 2  # their number changes neither weights nor meshes


def best(
    config: Config,
    decoder: DecoderConfig,
    name: str,
    target: Target,
    devices: Sequence[Any],
    *,
    pairs: int,
    say: Callable[[str], None],
    **options: Any,
) -> Plan:
    """The plan of least hours among the candidates that fit; if none fits, the one that needs least.

    Candidates keep the rows of an update: batch size times accumulate. Arithmetic leaves out meshes whose
    weights and optimizer alone are too large, and puts first those that send least. Few are compiled: of
    every mesh its most promising batch before any mesh's second.

    Args:
      config: checked.
      decoder: the reference's shape.
      name: what it is called.
      target: the slice.
      devices: of `targets.devices`.
      pairs: as of `setup_of`.
      say: told of each candidate.
      options: of `make_plan`.

    Raises:
      InputError: no mesh divides the model and its batches.
    """
    candidates = _in_turns(_candidates(config, decoder, name, target, devices))
    if not candidates:
        raise InputError(
            f"--suggest: no mesh of {target.count} devices divides {name} and leaves room for its weights; "
            "take a larger slice."
        )
    known: dict[Hashable, Measured] = {}
    found: list[Plan] = []
    for one in candidates[:_MOST]:
        say(f"trying {' '.join(one.overrides)}")
        run = run_as(decoder, one.config.model)
        setup = setup_of(one.config, run, name, target.chip, devices, pairs=pairs)
        plan = make_plan(setup, target.chip, known=known, say=say, **options)
        found.append(dataclasses.replace(plan, overrides=tuple(one.overrides)))
    fitting = [one for one in found if one.fits]
    if not fitting:
        return min(found, key=lambda one: one.worst.needed)
    return min(fitting, key=lambda one: (one.hours if one.hours is not None else 0.0, one.worst.needed))


class _Candidate(NamedTuple):
    config: Config
    overrides: list[str]
    mesh: tuple[float, ...]  # smaller is tried first, of meshes
    batch: tuple[float, ...]  # smaller is tried first, on one mesh


def _in_turns(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """Every mesh's first, then every mesh's second; batches that come to the same once."""
    different = {tuple(one.overrides): one for one in candidates}.values()
    ordered = sorted(different, key=lambda one: (one.mesh, one.batch))
    turns = [
        (turn, one)
        for _, of_mesh in itertools.groupby(ordered, key=lambda one: one.mesh)
        for turn, one in enumerate(of_mesh)
    ]
    return [one for _, one in sorted(turns, key=lambda item: item[0])]


def _candidates(
    config: Config, decoder: DecoderConfig, name: str, target: Target, devices: Sequence[Any]
) -> Iterator[_Candidate]:
    for data, fsdp, tensor in _meshes(target.count):
        for rows in _ROWS:
            for remat in (True,) if config.model.remat else (False, True):
                one, overrides = _changed(config, data, fsdp, tensor, rows, remat=remat)
                try:
                    run = run_as(decoder, one.model)
                    setup = setup_of(one, run, name, target.chip, devices, pairs=_ANY_PAIRS)
                except InputError:
                    continue  # does not divide; another mesh may
                weights = _standing(setup, run, name)
                if weights <= target.chip.usable:
                    full = weights > _FULL * target.chip.usable
                    # Where memory is short, what takes least of it; else what computes least, and many rows.
                    batch = (-one.model.remat, rows) if full else (one.model.remat, -rows)
                    yield _Candidate(one, overrides, (tensor > 1, fsdp, tensor), batch)


def _standing(setup: Setup, decoder: DecoderConfig, name: str) -> float:
    """Bytes a chip of weights, adapters and optimizer, whatever the batch."""
    mesh = setup.batching.mesh
    body = bytes_per_device(decoder_params(decoder, mesh, where=name))
    lora = new_adapters(decoder, setup.config.lora, mesh)
    trained = body if lora is None else bytes_per_device(lora.params)
    # Two moments and a sum of gradients; fully trained weights stand beside the reference.
    return body + trained * 4


def _meshes(count: int) -> Iterator[tuple[int, int, int]]:
    for fsdp in _divisors(count):
        for tensor in _divisors(count // fsdp):
            yield count // fsdp // tensor, fsdp, tensor


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]


def _changed(
    config: Config, data: int, fsdp: int, tensor: int, rows: int, *, remat: bool
) -> tuple[Config, list[str]]:
    """The configuration on another mesh, with `rows` rows of a batch per part; rows of an update are kept."""
    parts = data * fsdp
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    overrides = [f"--config.mesh.{axis}={size}" for axis, size in sizes.items()]
    changes: dict[str, Any] = {"mesh": dataclasses.replace(config.mesh, **sizes)}
    if remat != config.model.remat:
        changes["model"] = dataclasses.replace(config.model, remat=remat)
        overrides.append(f"--config.model.remat={remat}")
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
