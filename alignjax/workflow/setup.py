"""What the stages of a run are built from: the configuration, devices, seeds, the log and what is shared."""

import dataclasses
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from alignjax.alignment.remat import Training, least_remat
from alignjax.alignment.training import Trainer
from alignjax.config import Config, check_batches, determining
from alignjax.data import worlds
from alignjax.data.folders import files_of
from alignjax.data.worlds import World
from alignjax.models import DecoderConfig, config_from_hf
from alignjax.models.model_cache import ModelCache
from alignjax.models.shape_alone import read_shape
from alignjax.policy.batch_sizing import memory_of
from alignjax.policy.batching import Batching
from alignjax.policy.known_logps import LogpsCache
from alignjax.runtime.log import Log
from alignjax.runtime.mesh import make_mesh, row_parts
from alignjax.runtime.profiling import Profile
from alignjax.runtime.seeds import Seeds
from alignjax.stages.fingerprints import file_digest
from alignjax.workflow.stand_ins import Lengths


class Shape(NamedTuple):
    """What a plan knows in place of weights and files.

    Attributes:
      decoder: of the reference.
      name: of the reference, for messages.
      pairs: labelled pairs of each dimension.
      scored_by: decoders of score models from folders, by dimension; others are planned as the reference's.
      lengths: of prompts and responses on average; None: all rows are as long as they may be.
    """

    decoder: DecoderConfig
    name: str
    pairs: int
    scored_by: dict[str, DecoderConfig]
    lengths: Lengths | None = None


@dataclasses.dataclass(frozen=True)
class Setup:
    """What the functions in `workflow.stages` build stages from. Below them, functions take values.

    Attributes:
      config: checked configuration.
      batching: mesh and batch shapes.
      log: of the run.
      logps: log-probabilities that are known.
      models: weights in device memory.
      unscored: file that lists the responses which score tables lack; None: none is written.
      shape: of a plan; None in a run.
      traces: folder for the traces that `config.profile` asks for; None: none are written.
    """

    config: Config
    batching: Batching
    log: Log
    logps: LogpsCache
    models: ModelCache
    unscored: Path | None = None
    shape: Shape | None = None
    traces: Path | None = None

    @property
    def seeds(self) -> Seeds:
        """Randomness of the run."""
        return Seeds(self.config.seed)

    @property
    def world(self) -> World | None:
        """The embedded world; None where files are given."""
        name = self.config.data.world
        return None if name is None else worlds.world_for(name)

    @property
    def population(self) -> bool:
        """Whether the prompts are all there are, so that no uncertainty comes from drawing them."""
        return self.world is not None and self.world.enumeration is not None


def make_setup(
    config: Config,
    *,
    devices: Sequence[Any] | None = None,
    log: Log | None = None,
    cache: Path | None = None,
    unscored: Path | None = None,
    shape: Shape | None = None,
    memory: int | None = None,
    traces: Path | None = None,
) -> Setup:
    """Arranges the devices and opens the caches of a run.

    Args:
      config: checked configuration.
      devices: to run on, arranged as `config.mesh` says; None: all there are.
      log: of the run; None: lines are printed and no metrics kept.
      cache: folder for log-probabilities that later processes can use; None: kept in memory.
      unscored: as in `Setup`.
      shape: of a plan; None in a run.
      memory: bytes per device that the sampler may use; None: what the devices say they have.
      traces: as in `Setup`.

    Raises:
      InputError: the mesh does not make as many devices, or does not divide the batches.
    """
    sizes = {name: getattr(config.mesh, name) for name in ("data", "fsdp", "tensor")}
    mesh = make_mesh(**sizes, devices=devices)
    check_batches(config, row_parts(mesh))
    log = Log() if log is None else log
    if config.model.remat == "auto":
        remat = _least_remat(config, None if shape is None else shape.decoder, mesh, memory)
        log.say(f"  model.remat: {remat}, by the memory of the device")
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat))
        shape = None if shape is None else _with_remat(shape, remat)
    batching = Batching(mesh, config.ref_batch_size, config.data.num_buckets, memory)
    return Setup(
        config,
        batching,
        log,
        LogpsCache(batching, cache),
        ModelCache(one=config.resident_models == "one"),
        unscored,
        shape,
        traces,
    )


def _least_remat(config: Config, decoder: DecoderConfig | None, mesh: Mesh, memory: int | None) -> str:
    """What every training of a run computes again: the least that fits the memory with its longest rows."""
    if decoder is None:
        decoder = _decoder_of(config)
    run = config.prealign if config.method == "pecan" else config.score_training
    tensor, rows = mesh.shape["tensor"], max(config.align.batch_size, run.batch_size) // row_parts(mesh)
    training = Training(
        rows=max(1, rows),
        tokens=-(-2 * config.model.max_length // 16) * 16,  # both responses of a pair
        rank=config.lora.rank,
        targets=config.lora.targets,
        shares=mesh.shape["fsdp"] * tensor,
        tensor=tensor,
    )
    return least_remat(decoder, training, memory_of(mesh) if memory is None else memory)


def _decoder_of(config: Config) -> DecoderConfig:
    """The reference's shape as the run computes with it."""
    settings, world = config.model, config.data.world
    if world is None:
        found = read_shape(settings.path or "")
    else:
        found = config_from_hf(dict(worlds.world_for(world).decoder_fields))
    return dataclasses.replace(
        found, dtype=settings.dtype, weights=settings.weights, attention=settings.attention
    )


def _with_remat(shape: Shape, remat: str) -> Shape:
    """A plan's decoders with what was chosen."""
    scored_by = {name: dataclasses.replace(body, remat=remat) for name, body in shape.scored_by.items()}
    return shape._replace(decoder=dataclasses.replace(shape.decoder, remat=remat), scored_by=scored_by)


def part(setup: Setup, *fields: str) -> dict[str, Any]:
    """The settings that determine a stage's value: the seed, and of these fields what affects results."""
    return {"seed": setup.config.seed, **{name: determining(getattr(setup.config, name)) for name in fields}}


def content(setup: Setup, path: str | None) -> str | None:
    """What a path of the configuration means for a result: a digest of what lies there.

    A name that is no path, as of a TFDS data set, stands for itself; so does every path in a plan, which
    reads no data and no weights.
    """
    if not path or setup.shape is not None:
        return path
    if glob.has_magic(path) and not path.startswith("tfds:") and not Path(path).exists():
        return " ".join(file_digest(file) for file in files_of(path))
    found = Path(path).expanduser()
    return file_digest(found) if found.exists() else path


def trainer_of(setup: Setup) -> Trainer:
    """What all trainings of the run share."""
    asked = setup.config.profile
    profile = None if setup.traces is None else Profile(setup.traces, asked.first, asked.steps)
    return Trainer(setup.batching, setup.seeds, setup.log, setup.config.lora, setup.logps, profile)
