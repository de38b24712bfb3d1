"""What every stage is given: the configuration, the run's folder, the log and explicit randomness."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from alignjax.config import Config
from alignjax.config_checks import check_batches
from alignjax.data import worlds
from alignjax.data.buckets import Bucket, choose_buckets
from alignjax.data.worlds import World
from alignjax.runtime.mesh import make_mesh, row_parts
from alignjax.runtime.metrics import MetricsWriter
from alignjax.stages import Stages, file_digest
from alignjax.workflow.residence import Residence

_SHORT_ROW = 48  # tokens


@dataclasses.dataclass(frozen=True)
class Context:
    """One run.

    Attributes:
      config: checked configuration.
      workdir: the run's folder.
      stages: the runner of its stages.
      metrics: the log of metrics.jsonl.
      say: prints a line for the user.
      devices: to run on; None: all there are.
    """

    config: Config
    workdir: Path
    stages: Stages
    metrics: MetricsWriter
    say: Callable[[str], None] = print
    devices: Sequence[Any] | None = None

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices as `config.mesh` arranges them.

        Raises:
          InputError: its sizes do not make as many devices, or do not divide the batches.
        """
        sizes = dataclasses.asdict(self.config.mesh)
        mesh = make_mesh(**sizes, devices=self.devices)
        check_batches(self.config, row_parts(mesh))
        return mesh

    @functools.cached_property
    def residence(self) -> Residence:
        """Models in device memory."""
        return Residence(one=self.config.resident_models == "one")

    def seed(self, purpose: str) -> int:
        """A 31-bit seed of its own for every purpose; a function of (config.seed, purpose) alone."""
        return zlib.crc32(f"{self.config.seed}/{purpose}".encode()) >> 1

    def key(self, purpose: str) -> jax.Array:
        """The random key of one purpose."""
        return jax.random.key(self.seed(purpose))

    def cache(self, stage: str, ending: str = "", *more: str) -> Path:
        """Where a stage keeps what an interrupted run goes on from.

        Under the stage's fingerprint: what other settings left behind is never gone on with.
        """
        name = "-".join((stage, *more, self.stages.fingerprints[stage][:16]))
        return self.workdir / "cache" / (f"{name}.{ending}" if ending else name)

    def buckets(self, lengths: np.ndarray) -> tuple[Bucket, ...]:
        """Shapes of batches for rows of these lengths, [n, 2] tokens and targets.

        Rounding up to 16 tokens keeps shapes few and products even; rows of an embedded world are so short
        that it would add half of their length again.
        """
        short = len(lengths) > 0 and int(lengths[:, 0].max()) <= _SHORT_ROW
        multiples = {"token_multiple": 2, "target_multiple": 2} if short else {}
        return choose_buckets(lengths, self.config.data.num_buckets, **multiples)

    @functools.cached_property
    def world(self) -> World | None:
        """The embedded world, or None where files are given."""
        name = self.config.data.world
        return None if name is None else worlds.world_for(name)

    @property
    def population(self) -> bool:
        """Whether the prompts are all there are, so that no interval comes from drawing them."""
        return self.world is not None and self.world.enumeration is not None

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """What the files that the run reads are, by content: model and data sets."""
        config = self.config
        files = {f"data.sources.{name}": source.path for name, source in config.data.sources.items()}
        files |= {f"scores.{name}": source.path for name, source in config.scores.items() if source.path}
        if config.data.prompts:
            files["data.prompts"] = config.data.prompts
        if config.model.path:
            files["model"] = config.model.path
        # A TFDS name is no file; its builder covers the content of what it prepared.
        return {name: file_digest(path) for name, path in files.items() if Path(path).exists()}
