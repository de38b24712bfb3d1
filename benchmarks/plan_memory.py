"""What a plan says of a program's memory, beside what the program takes: a DPO step at SmolLM2-135M's shape, CPU.

    python benchmarks/plan_memory.py

The plan's figures come from compiling shapes. Then the same step is run on random weights: arrays that are alive
before and after it, and the growth of the process's peak resident memory while it runs. The peak holds the
allocator's slack and the thread pools' buffers too.
"""

import resource
from typing import Any

import jax
import numpy as np

from alignjax import presets
from alignjax.alignment.step import AdapterSettings, init_state
from alignjax.config import from_mapping
from alignjax.models import decoder_shardings, init_lora, init_params, place_lora
from alignjax.planning import shapes, work
from alignjax.planning.chips import any_gpu
from alignjax.planning.inputs import filled
from alignjax.planning.measure import measure
from alignjax.planning.run import setting_of
from alignjax.runtime.mesh import shard_batch
from alignjax.workflow.compiled import Layout, dpo_steps
from alignjax.workflow.training import optimizer_of

_MIB = 2**20
_PAIRS = 1000


def main() -> None:
    """Prints a table of MiB."""
    setting = make_setting()
    program = work.dpo_step(setting, setting.config.align, setting.config.beta, _PAIRS)
    planned = measure(program, 1)
    step, arguments = real_step(setting, program)
    held = size_of(arguments)
    before = peak()
    step(*arguments)[1]["loss"].block_until_ready()
    rose = peak() - before
    print(
        f"jax {jax.__version__}, DPO step of {program.rows} rows of {program.tokens // program.rows} tokens, MiB"
    )
    print(f"{'':<32}{'planned':>10}{'measured':>10}")
    print(f"{'arguments':<32}{planned.arguments / _MIB:>10.0f}{held / _MIB:>10.0f}")
    print(
        f"{'temporaries and results':<32}{(planned.temporaries + planned.results) / _MIB:>10.0f}{rose / _MIB:>10.0f}"
    )


def make_setting() -> work.Setting:
    """The preset smollm2-135m on one device."""
    values: Any = presets.shared("pecan")
    presets.smollm2(values)
    values.prealign = presets.training()
    values.prealign.update(presets.small_steps())
    config = from_mapping(filled(values.to_dict()))
    decoder, name = shapes.decoder_of(config.model, "", "smollm2-135m")
    return setting_of(config, decoder, name, any_gpu(64), jax.devices()[:1])


def real_step(setting: work.Setting, program: work.Program) -> tuple[Any, tuple[Any, ...]]:
    """The compiled step of a run and arrays in the shapes of the program."""
    config, mesh = setting.config, setting.mesh
    where = decoder_shardings(setting.decoder, mesh, where=setting.name)
    make = jax.jit(lambda key: init_params(key, setting.decoder), out_shardings=where)
    params = make(jax.random.key(0))
    lora = init_lora(jax.random.key(1), setting.decoder, rank=config.lora.rank, alpha=config.lora.alpha)
    lora = place_lora(lora, mesh)
    optimizer = optimizer_of(config.align, -(-_PAIRS // program.rows))
    steps = dpo_steps(setting.decoder, AdapterSettings(lora.scale), config.beta, optimizer)
    state = init_state(lora.params, steps.tx, jax.random.key(2), mesh=mesh)
    batch = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), program.arguments[2])
    step = steps.train(Layout.of(state))
    shapes_ = program.arguments
    step.lower(*shapes_).compile()  # so that compiling does not count
    return step, (state, params, shard_batch(batch, mesh))


def size_of(tree: Any) -> int:
    """Bytes of all arrays but keys."""
    leaves = [
        leaf for leaf in jax.tree.leaves(tree) if not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    return sum(leaf.nbytes for leaf in leaves)


def peak() -> int:
    """Largest resident memory of the process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
