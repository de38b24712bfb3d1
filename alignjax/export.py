"""Writes the aligned policy of a run as a Hugging Face folder.

    python -m alignjax.export --workdir=DIR --output=DIR [--adapter_only]

The adapter is merged into the weights; --adapter_only writes the adapter alone, in PEFT's layout.
"""

import dataclasses
from pathlib import Path

import jax
from absl import flags

from alignjax import cli
from alignjax.config import MeshSettings
from alignjax.errors import InputError
from alignjax.models import Model, merge_lora, save_adapter, save_pretrained
from alignjax.runs import read_config
from alignjax.runtime.metrics import MetricsWriter
from alignjax.stages import Stages
from alignjax.workflow import training
from alignjax.workflow.context import Context


def export(workdir: Path, output: Path, *, adapter_only: bool) -> None:
    """Writes the aligned policy.

    Raises:
      InputError: the folder is no finished run, `output` holds something, or the run trained no adapter.
    """
    # Weights are read and written by the host: one device will do, however many the run had.
    config = dataclasses.replace(read_config(workdir), mesh=MeshSettings())
    stages = Stages(workdir)
    records = stages.records()
    if records.get("policy", {}).get("status") != "done":
        raise InputError(
            f"{workdir}: stage policy is not done; run python -m alignjax.train with this --workdir first."
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output={output}: exists and is not an empty folder; name another.")
    cli.check_output(output, folder=True)
    stages.fingerprints.update({name: record["fingerprint"] for name, record in records.items()})
    context = Context(
        config, workdir, stages, MetricsWriter(workdir, active=False), devices=jax.local_devices()[:1]
    )
    reference = training.reference_policy(context)
    aligned = training.load_policy(context, "policy", reference, "aligned")
    model = aligned.model
    if adapter_only:
        if aligned.lora is None:
            raise InputError(
                "--adapter_only: this run trained all weights (config.lora.rank 0); leave the flag out."
            )
        save_adapter(aligned.lora, model.config, output)
        return
    params = model.params if aligned.lora is None else merge_lora(model.params, aligned.lora)
    save_pretrained(Model(params, model.config, model.tokenizer), output)


def _define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of a run whose policy is trained.")
    flags.DEFINE_string("output", "", "Folder to write; made where missing, not overwritten.")
    flags.DEFINE_bool("adapter_only", False, "Write the adapter alone.")


def _main() -> None:
    given = flags.FLAGS
    export(Path(given.workdir), Path(given.output), adapter_only=given.adapter_only)
    print(f"written: {given.output}")


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["workdir", "output"])
