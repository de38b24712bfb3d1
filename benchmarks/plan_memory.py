"""What a plan says of a program's memory, beside what it takes: a DPO step of SmolLM2-135M's shape, CPU.

    python benchmarks/plan_memory.py

The plan's figures come from compiling shapes. Then the same step is run on random weights: the arrays that
are its arguments, and by how much the process's resident memory grows at most while a step runs.
"""

import gc
import resource
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.alignment import compiled, losses
from alignjax.alignment.step import AdapterSettings, init_state
from alignjax.aot import shapes
from alignjax.aot.chips import any_gpu
from alignjax.aot.measure import measure
from alignjax.aot.program import Program
from alignjax.config import from_mapping, presets
from alignjax.models import decoder_shardings, init_lora, init_params, place_lora
from alignjax.planning import architectures
from alignjax.planning.run import setup_of
from alignjax.planning.unnamed_files import with_placeholder_paths
from alignjax.runtime.mesh import shard_batch
from alignjax.workflow import programs
from alignjax.workflow.setup import Setup, Shape

_MIB = 2**20
_PAIRS = 1000


def main() -> None:
    """Prints a table of MiB."""
    found = compare(make_setup())
    print(f"jax {jax.__version__}, DPO step of {found.rows} rows of {found.tokens} tokens, MiB")
    print(f"{'':<28}{'planned':>9}{'measured':>9}")
    print(f"{'arguments':<28}{found.arguments[0]:>9.0f}{found.arguments[1]:>9.0f}")
    print(f"{'temporaries and results':<28}{found.temporaries[0]:>9.0f}{found.temporaries[1]:>9.0f}")


class Found(NamedTuple):
    """MiB, planned and measured."""

    rows: int
    tokens: int
    arguments: tuple[float, float]
    temporaries: tuple[float, float]


def compare(setup: Setup) -> Found:
    """Plans the DPO step of a run and runs it twice; the second time counts."""
    program = planned_step(setup)
    planned = measure(program, 1)
    step, (state, params, batch) = real_step(setup, program)
    held = size_of((state, params, batch))
    state, metrics = step(state, params, batch)
    metrics["loss"].block_until_ready()
    gc.collect()
    before = resident()
    with Watch() as watch:
        state, metrics = step(state, params, batch)
        metrics["loss"].block_until_ready()
    rose = watch.most - before
    own = planned.temporaries + planned.results
    sizes = program.rows, program.tokens // program.rows
    return Found(*sizes, (planned.arguments / _MIB, held / _MIB), (own / _MIB, rose / _MIB))


class Watch:
    """Looks at the process's resident memory every few milliseconds; `most` is the largest it saw."""

    def __init__(self) -> None:
        self.most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        """Begins."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends."""
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self.most = max(self.most, resident())


def resident() -> int:
    """Resident memory of the process, bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


def make_setup() -> Setup:
    """The preset smollm2-135m on one device."""
    values: Any = presets.shared("pecan")
    presets.smollm2(values)
    values.prealign.update(presets.small_steps())
    config = from_mapping(with_placeholder_paths(values.to_dict()))
    decoder, name = architectures.decoder_of(config.model, "", "smollm2-135m")
    return setup_of(config, decoder, name, any_gpu(64), jax.devices()[:1], pairs=_PAIRS)


def planned_step(setup: Setup) -> Program:
    """The DPO step of the final alignment as shapes."""
    config, batching, shape = setup.config, setup.batching, shape_of(setup)
    model = shapes.model(shape.decoder, batching.mesh, where=shape.name)
    lora = programs.new_adapters(shape.decoder, config.lora, batching.mesh)
    pairs = [programs.longest_pair(config.model.max_length)] * _PAIRS
    return programs.dpo_step(model, lora, config.align, pairs, batching, beta=config.beta)


def real_step(setup: Setup, program: Program) -> tuple[Any, tuple[Any, ...]]:
    """The compiled step of a run and arrays in the shapes of the program."""
    config, mesh, shape = setup.config, setup.batching.mesh, shape_of(setup)
    where = decoder_shardings(shape.decoder, mesh, where=shape.name)
    make = jax.jit(lambda key: init_params(key, shape.decoder), out_shardings=where)
    params = make(jax.random.key(0))
    lora = init_lora(jax.random.key(1), shape.decoder, rank=config.lora.rank, alpha=config.lora.alpha)
    lora = place_lora(lora, mesh)
    optimizer = compiled.optimizer_of(config.align, -(-_PAIRS // program.rows))
    adapter = AdapterSettings(lora.scale, config.lora.dropout)
    steps = compiled.dpo_steps(shape.decoder, adapter, config.beta, losses.dpo, optimizer)
    state = init_state(lora.params, steps.tx, jax.random.key(2), mesh=mesh)
    batch = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), program.arguments[2])
    step = steps.train(compiled.Layout.of(state))
    return step, (state, params, shard_batch(batch, mesh))


def shape_of(setup: Setup) -> Shape:
    """What stands for the weights; a setup of `make_setup` has it."""
    assert setup.shape is not None
    return setup.shape


def size_of(tree: Any) -> int:
    """Bytes of all arrays but keys."""
    return sum(x.nbytes for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


if __name__ == "__main__":
    main()
