"""Writes a model of a run as a Hugging Face folder. Trains nothing.

    python -m alignjax.export --workdir=DIR --output=DIR [--adapter_only] [--stage=NAME]

The adapter is merged into the weights; --adapter_only writes the adapter alone, in PEFT's layout. --stage
names another stage that trained a model: a pre-aligned policy, a baseline, or a score model, written in
Safe-RLHF's layout.
"""

import dataclasses
from pathlib import Path

import jax
from absl import flags

from alignjax import cli
from alignjax.alignment.score_training import TrainedScore
from alignjax.config import MeshSettings
from alignjax.errors import InputError
from alignjax.models import (
    Model,
    merge_lora,
    save_adapter,
    save_pretrained,
    save_score_model,
)
from alignjax.policy.values import Policy
from alignjax.runs import read_config
from alignjax.runtime.log import Log
from alignjax.stages import FolderRun, Stored
from alignjax.stages.lock import locked
from alignjax.workflow import answering, groundwork, scoring, testing
from alignjax.workflow.setup import Setup, make_setup


def export(workdir: Path, output: Path, *, adapter_only: bool, stage: str = "") -> None:
    """Writes the aligned policy, or what another stage trained.

    Args:
      workdir: the run's folder.
      output: folder to write; made where missing, not overwritten.
      adapter_only: write the adapter alone.
      stage: that trained the model; empty: the aligned policy's.

    Raises:
      InputError: the folder is no run, the stage is not done or a file of it is damaged, `output` holds
        something, or the run trained no adapter.
    """
    # Weights are read and written by the host: one device will do, however many the run had.
    config = dataclasses.replace(read_config(workdir), mesh=MeshSettings())
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output={output}: exists and is not an empty folder; name another.")
    cli.check_output(output, folder=True)
    with locked(workdir):
        setup = make_setup(config, devices=jax.local_devices()[:1], log=Log(lambda line: None))
        run = FolderRun(workdir, lambda folder: "", setup.log.say, may_compute=())
        reference = run.load(groundwork.reference(setup))
        if setup.config.method == "mocan" and stage in setup.config.dimensions:
            if adapter_only:
                raise InputError("--adapter_only: a score model has a head too; leave the flag out.")
            _write_score_model(run.load(scoring.stored_score(setup, reference, stage)), reference, output)
        else:
            policy = run.load(_stored(run, setup, reference, stage))
            _write_policy(policy, output, adapter_only=adapter_only)


def _stored(run: FolderRun, setup: Setup, reference: Policy, stage: str) -> Stored[Policy]:
    """The finished stage of a policy."""
    if not stage:
        return testing.last_policy(run, setup, reference)
    if setup.config.method == "pecan" and stage in setup.config.dimensions:
        return scoring.stored_prealigned(setup, reference, stage)
    reads = answering.labelled_by(stage)
    return answering.stored_policy(setup, reference, stage=stage, name=stage, reads=reads)


def _write_policy(policy: Policy, output: Path, *, adapter_only: bool) -> None:
    model = policy.model
    if adapter_only:
        if policy.lora is None:
            raise InputError(
                "--adapter_only: this run trained all weights (config.lora.rank 0); leave the flag out."
            )
        save_adapter(policy.lora, model.config, output)
        return
    params = model.params if policy.lora is None else merge_lora(model.params, policy.lora)
    save_pretrained(Model(params, model.config, model.tokenizer), output)


def _write_score_model(trained: TrainedScore, reference: Policy, output: Path) -> None:
    model, lora = trained.load()
    if lora is not None:
        merged = merge_lora(model.params["decoder"], lora)
        model = model.replace(params={**model.params, "decoder": merged})
    save_score_model(model.replace(tokenizer=reference.model.tokenizer), output)


def _define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of a run whose policy is trained.")
    flags.DEFINE_string("output", "", "Folder to write; made where missing, not overwritten.")
    flags.DEFINE_bool("adapter_only", False, "Write the adapter alone.")
    flags.DEFINE_string("stage", "", "Stage that trained the model; default: that of the aligned policy.")


def _main() -> None:
    given = flags.FLAGS
    export(Path(given.workdir), Path(given.output), adapter_only=given.adapter_only, stage=given.stage)
    print(f"written: {given.output}")


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["workdir", "output"])
