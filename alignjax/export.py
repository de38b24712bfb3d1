"""Writes a model of a run as a Hugging Face folder. Trains nothing.

    python -m alignjax.export --workdir=DIR --output=DIR
        [--adapter_only] [--dtype=TYPE]
        [--stage=NAME | (--margin=NAME=X | --rate=NAME=X | --multiplier=NAME=X)... [--rank=R]]

The adapter is added to the weights in float32, and the sums are written as --dtype, by default the run's
config.model.dtype; rounding them to bfloat16 loses a part of the adapter, which is printed. --adapter_only
writes the adapter alone, in PEFT's layout, with the path of its base. --stage names another stage that
trained a model: a pre-aligned policy, a baseline, or a score model, written in Safe-RLHF's layout. README.md
beside a policy is its model card: what was asked, forecast, delivered and shown.

--margin, --rate and --multiplier write another margin without another training: the adapters of single
dimensions, added up with the weights that the dual gives. The sum is exact in the weights, and near to the
policy of the forecast, not equal; no test was made of it, and the card says so. --rank cuts it by singular
values. A run that ended with the product of its policies (config.align.skip) is written so without flags.
"""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from alignjax import cli, dial_flags
from alignjax.alignment.score_training import TrainedScore
from alignjax.config import Config, MeshSettings
from alignjax.errors import InputError
from alignjax.models import (
    Lora,
    Model,
    base_of,
    load_pretrained,
    merge_lora,
    save_adapter,
    save_pretrained,
    save_score_model,
)
from alignjax.models.quantized import widened_params
from alignjax.policy.values import Policy
from alignjax.records.answer import DualAnswer
from alignjax.records.codec import read_record
from alignjax.records.evaluation import Evaluation
from alignjax.report.model_card import model_card
from alignjax.run_merges import merge_of
from alignjax.runs import read_config
from alignjax.runtime.files import write_text
from alignjax.runtime.log import Log
from alignjax.stages import FolderRun, Stored
from alignjax.stages.ledger import read_ledger
from alignjax.stages.lock import locked
from alignjax.workflow import answering, groundwork, scoring, testing
from alignjax.workflow.dialling import Wanted
from alignjax.workflow.setup import Setup, make_setup


def export(
    workdir: Path,
    output: Path,
    *,
    adapter_only: bool,
    stage: str = "",
    dtype: str = "",
    wanted: Wanted | None = None,
    rank: int | None = None,
    allowed: Collection[str] = (),
) -> float | None:
    """Writes the aligned policy, or what another stage trained.

    Args:
      workdir: the run's folder.
      output: folder to write; made where missing, not overwritten.
      adapter_only: write the adapter alone.
      stage: that trained the model; empty: the aligned policy's.
      dtype: of the weights that are written, "float32" or "bfloat16"; empty: the run's `config.model.dtype`.
      wanted: merge the adapters of single dimensions with the weights that answer this; None: do not.
      rank: of the merged adapter; None: the sum of the ranks.
      allowed: functions, module:function, that may be imported for `wanted`.

    Returns:
      How much of the adapter rounding to `dtype` loses, |rounded - exact| / |adapter| over the adapted
      weights (Frobenius norms); None: no adapter was merged.

    Raises:
      InputError: the folder is no run, the stage is not done or a file of it is damaged, `output` holds
        something, the run trained no adapter, an unknown dtype, or an adapter whose base is an adapter too.
    """
    if dtype not in ("", "float32", "bfloat16"):
        raise InputError(f"--dtype={dtype}: must be float32 or bfloat16.")
    if dtype and adapter_only:
        raise InputError(f"--dtype={dtype}: an adapter is written in float32; leave --dtype out.")
    # Weights are read and written by the host: one device will do, however many the run had.
    config = dataclasses.replace(read_config(workdir), mesh=MeshSettings())
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output={output}: exists and is not an empty folder; name another.")
    cli.check_output(output, folder=True)
    if wanted is not None or (config.align.skip and not stage):
        if stage:
            raise InputError("--stage: was trained at its own margin; leave it out, or the other flags.")
        merge = merge_of(workdir, wanted, rank=rank, allowed=allowed)
        lost = _write(merge.policy, output, config, workdir, adapter_only, dtype)
        write_text(output / "README.md", _card(workdir, output, config, stage, merge.lines))
        return lost
    if rank is not None:
        raise InputError("--rank: is of a merge; give --margin, --rate or --multiplier too, or leave it out.")
    with locked(workdir):
        setup = make_setup(config, devices=jax.local_devices()[:1], log=Log(lambda line: None))
        run = FolderRun(workdir, lambda folder: "", setup.log.say, may_compute=())
        reference = run.load(groundwork.reference(setup))
        if setup.config.method == "mocan" and stage in setup.config.dimensions:
            if adapter_only:
                raise InputError("--adapter_only: a score model has a head too; leave the flag out.")
            trained = run.load(scoring.stored_score(setup, reference, stage))
            return _write_score_model(trained, reference, output, dtype)
        policy = run.load(_stored(run, setup, reference, stage))
        lost = _write(policy, output, config, workdir, adapter_only, dtype)
        write_text(output / "README.md", _card(workdir, output, config, stage))
        return lost


def _write(
    policy: Policy, output: Path, config: Config, workdir: Path, adapter_only: bool, dtype: str
) -> float | None:
    """Writes the adapter alone, or the merged model; returns what rounding loses."""
    if adapter_only:
        _write_adapter(policy, output, config, workdir)
        return None
    model = policy.model
    if model.config.weights == "int8":  # into the weights that were rounded for the run
        path = config.model.path or workdir / "reference"
        model = load_pretrained(path, dtype=config.model.dtype, adapter=config.model.adapter)
    params, lost = _merged(model.params, policy.adapter, dtype)
    save_pretrained(Model(params, model.config, model.tokenizer), output)
    return lost


def _card(workdir: Path, output: Path, config: Config, stage: str, merge: Sequence[str] | None = None) -> str:
    """The model card, from the records of the run."""
    answer, evaluation = workdir / "dual.json", workdir / "evaluation.json"
    ledger = read_ledger(workdir)
    data: Any = ledger.stages["data"].settings["data"] if "data" in ledger.stages else {}
    # What identifies a run's data is the digest of a file's content in place of its path.
    digests = {name: source["path"] for name, source in data.get("sources", {}).items() if source["path"]}
    return model_card(
        config,
        read_record(DualAnswer, answer) if answer.is_file() else None,
        read_record(Evaluation, evaluation) if evaluation.is_file() else None,
        digests={} if config.data.world else digests,
        version=ledger.alignjax,
        command=f"alignjax export --workdir={workdir.name} --output={output.name}"
        + (f" --stage={stage}" if stage else ""),
        stage=stage,
        merge=merge,
    )


def _stored(run: FolderRun, setup: Setup, reference: Policy, stage: str) -> Stored[Policy]:
    """The finished stage of a policy."""
    if not stage:
        return testing.last_policy(run, setup, reference)
    if setup.config.method == "pecan" and stage in setup.config.dimensions:
        return scoring.stored_prealigned(setup, reference, stage)
    reads = answering.labelled_by(stage)
    return answering.stored_policy(setup, reference, stage=stage, name=stage, reads=reads)


def _write_adapter(policy: Policy, output: Path, config: Config, workdir: Path) -> None:
    """Writes the adapter alone, with the path of the weights that it was trained on."""
    if policy.adapter is None:
        raise InputError(
            "--adapter_only: this run trained all weights (config.lora.rank 0); leave the flag out."
        )
    base = Path(config.model.path or workdir / "reference")
    below = config.model.adapter or base_of(base)[1]
    if below:
        raise InputError(
            f"--adapter_only: the run began at an adapter, {below}, so that its own adapter fits no model of "
            "a folder; leave the flag out to write the merged model."
        )
    save_adapter(policy.adapter, policy.model.config, output, base_model=str(base.resolve()))


def _merged(params: Any, lora: Lora | None, dtype: str) -> tuple[Any, float | None]:
    """The weights with the adapter added in float32, as `dtype`, and what rounding loses; see `export`."""
    stored = jnp.dtype(dtype or params["embedding"].dtype)
    if lora is None:
        return jax.tree.map(lambda leaf: leaf.astype(stored), params), None
    adapted = {name: params["layers"][name]["kernel"] for name in lora.params["layers"]}
    layers = {name: {"kernel": kernel.astype(jnp.float32)} for name, kernel in adapted.items()}
    exact = merge_lora({"layers": layers}, lora)["layers"]
    lost = added = 0.0
    merged = dict(params["layers"])
    for name in adapted:
        total = exact[name]["kernel"]
        rounded = total.astype(stored)
        merged[name] = {**merged[name], "kernel": rounded}
        lost += float(jnp.sum(jnp.square(rounded.astype(jnp.float32) - total)))
        added += float(jnp.sum(jnp.square(total - layers[name]["kernel"])))
    whole = jax.tree.map(lambda leaf: leaf.astype(stored), {**params, "layers": merged})
    return whole, (lost / added) ** 0.5 if added else 0.0


def _write_score_model(trained: TrainedScore, reference: Policy, output: Path, dtype: str) -> float | None:
    model, lora = trained.load()
    merged, lost = _merged(widened_params(model.params["decoder"]), lora, dtype)
    whole = dataclasses.replace(model.config, weights="float")
    model = model.replace(params={**model.params, "decoder": merged}, config=whole)
    save_score_model(model.replace(tokenizer=reference.model.tokenizer), output)
    return lost


def _define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of a run whose policy is trained.")
    flags.DEFINE_string("output", "", "Folder to write; made where missing, not overwritten.")
    flags.DEFINE_bool("adapter_only", False, "Write the adapter alone.")
    flags.DEFINE_string("dtype", "", "Type of the weights written, float32 or bfloat16; default: the run's.")
    dial_flags.define_flags()
    flags.DEFINE_integer("rank", None, "Rank of a merged adapter; default: the sum of the ranks.")
    flags.DEFINE_multi_string("allow_function", [], "module:function of config.json to import.")
    flags.DEFINE_string("stage", "", "Stage that trained the model; default: that of the aligned policy.")


def _main() -> None:
    given = flags.FLAGS
    asked = given.margin or given.rate or given.multiplier
    lost = export(
        Path(given.workdir),
        Path(given.output),
        adapter_only=given.adapter_only,
        stage=given.stage,
        dtype=given.dtype,
        wanted=dial_flags.wanted_of(given.margin, given.rate, given.multiplier) if asked else None,
        rank=given.rank,
        allowed=given.allow_function,
    )
    print(f"written: {given.output}")
    if lost is not None:
        print(f"rounding the merged weights lost {lost:.2%} of the adapter (relative to its norm)")


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["workdir", "output"])
