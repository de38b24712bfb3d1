"""Draws responses from a finished run at any margin: what `alignjax sample --workdir` does.

The run's policies of single dimensions are multiplied with the weights that the dual gives for what is asked.
Nothing is trained, and the run's folder is only read.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax

from alignjax import mocan, pecan
from alignjax.allowed_functions import refuse_functions
from alignjax.config import MeshSettings
from alignjax.policy.encoding import Encoder
from alignjax.runs import read_config
from alignjax.runtime.files import write_text
from alignjax.runtime.log import Log
from alignjax.sample_lines import Draws, check_draws, drawn_lines, read_prompts
from alignjax.stages import FolderRun
from alignjax.stages.lock import locked
from alignjax.workflow import dialling
from alignjax.workflow.dialling import Wanted
from alignjax.workflow.prepared import Prepared
from alignjax.workflow.setup import make_setup
from alignjax.workflow.tempering import tempered

_PREPARED = {"pecan": pecan.prepared, "mocan": mocan.prepared}


def sample_run(
    workdir: Path,
    prompts_path: str,
    output_path: str,
    draws: Draws,
    wanted: Wanted,
    *,
    allowed: Collection[str] = (),
) -> list[str]:
    """Draws from the product of a run's policies at the multipliers that answer a question.

    Args:
      workdir: the run's folder.
      prompts_path: as of `sample`.
      output_path: as of `sample`.
      draws: how responses are drawn.
      wanted: what is asked; nothing: what the run asked.
      allowed: functions, module:function, that may be imported.

    Returns:
      What was found, in lines: multipliers, forecast, and what was drawn from.

    Raises:
      InputError: the folder is no run, a stage that is needed is not done, the run has no policies of single
        dimensions, or a line or an option cannot be used.
      InfeasibleError: what is asked cannot be met on the run's samples.
    """
    check_draws(draws, output_path)
    lines = read_prompts(prompts_path)
    with opened(workdir, allowed) as (run, ready):
        found = dialling.dialled(ready, wanted)
        single = dialling.factors(run, ready)
        product = dialling.product_of(ready, found.answer.lam or {})
        product = tempered(ready, single, product, found.answer)
        policy = dialling.product_policy(ready.reference, single, product)
        told = [
            *dialling.said(found),
            *dialling.notes_of(product),
            _drawn_from(product.weights),
            *_unlike_the_forecast(ready, draws),
        ]
        text = drawn_lines(policy.model, policy.lora, encoder_of(ready), lines, draws)
    write_text(Path(output_path), text)
    return told


@contextmanager
def opened(workdir: Path, allowed: Collection[str] = ()) -> Iterator[tuple[FolderRun, Prepared]]:
    """A finished run up to its multiplier, on one device; nothing in the folder is computed or written.

    Args:
      workdir: the run's folder, locked meanwhile.
      allowed: functions, module:function, that may be imported.

    Raises:
      InputError: the folder is no run, a stage is not done, or its configuration names a function that is not
        allowed.
    """
    config = dataclasses.replace(read_config(workdir), mesh=MeshSettings())
    refuse_functions(config, allowed, workdir)
    with locked(workdir):
        setup = make_setup(
            config, devices=jax.local_devices()[:1], log=Log(lambda line: None), cache=workdir / "cache"
        )
        run = FolderRun(workdir, lambda folder: "", setup.log.say, may_compute=())
        yield run, _PREPARED[config.method](run, setup)


def encoder_of(ready: Prepared) -> Encoder:
    """How the run's reference reads the prompts of a file: as it reads those of the run."""
    where = ready.setup.config.model.path or "the run's reference"
    return Encoder(
        ready.reference.tokenizer, ready.data.template, ready.reference.model.config.vocab_size, where
    )


def _unlike_the_forecast(ready: Prepared, draws: Draws) -> list[str]:
    """Where responses are drawn in another way than those that the forecast rests on."""
    own = ready.setup.config.sampling
    if not draws.greedy and (draws.temperature, draws.top_p) == (own.temperature, own.top_p):
        return []
    return [
        f"the forecast is of responses drawn with --temperature={own.temperature:g} --top_p={own.top_p:g}, "
        "these are drawn in another way"
    ]


def _drawn_from(weights: Mapping[str, float]) -> str:
    """The product in one line, and what it is not."""
    shown = ", ".join(f"{name} {value:.3f}" for name, value in weights.items())
    return (
        f"drawn from the product of {len(weights)} policies and the reference, weights {shown}: "
        f"{len(weights) + 1} forward passes for each token. It is normalised token by token, so that it is "
        "near to the policy of the forecast, not equal; config.dial=product measures it."
    )
