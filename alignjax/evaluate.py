"""Evaluates the policies of a finished run again, and writes the report. Trains nothing.

    python -m alignjax.evaluate --workdir=DIR [--labels=FILE.jsonl] [--audit=all] [--prefill=TEXT]
        [--system_prompt=TEXT] [--dial=product,merged,best_of] [--allow_function=module:function ...]

--labels joins what people said of the responses under evaluation_samples/ (docs/data-formats.md); the
verdicts then rest on them, as a further look at the test prompts. Status 5: what was asked is not verified.
--audit samples the aligned policy in other ways and measures what is left of its margins (docs/audit.md):
all, or some of temperature, top_p, truncation, prefill, system, unmerge, disalign, separated by commas.
--dial evaluates policies of the same multiplier that need no training beside the aligned one: the product of
the policies of single dimensions, the merge of their adapters, and draw-K.
A function that the folder's configuration names is not imported unless the command line names it too.
"""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from absl import flags

from alignjax import cli
from alignjax.allowed_functions import refuse_functions
from alignjax.config import Config, check
from alignjax.errors import InputError, NotVerifiedError
from alignjax.runs import Finished, read_config, run
from alignjax.stages.ledger import read_ledger

_MAY_COMPUTE = (
    "preview",
    "product",
    "evaluation",
    "test",
    "audit",
    "dial",
)  # samples, scores, tests and records


def evaluate(
    workdir: Path,
    *,
    allowed: Collection[str] = (),
    labels: str | None = None,
    audit: Sequence[str] = (),
    prefill: str | None = None,
    system: str | None = None,
    dial: Sequence[str] = (),
) -> Finished:
    """Computes the evaluation of a run again.

    Args:
      workdir: the run's folder.
      allowed: functions, module:function, that may be imported.
      labels: JSON Lines of human labels, which the folder's configuration names from now on; None: those that
        it names, if any.
      audit: attacks, which `config.audit.attacks` of the folder names from now on; none: those
        that it names, if any.
      prefill: `config.audit.prefill`, likewise; None: as it is.
      system: `config.audit.system`, likewise; None: as it is.
      dial: `config.dial`, likewise; none: as it is.

    Raises:
      InputError: the folder is no run, a stage before the evaluation is not done with its settings, an attack
        is unknown, or the configuration names a function that is not allowed.
    """
    config = read_config(workdir)
    refuse_functions(config, allowed, workdir)
    if labels is not None:
        if not Path(labels).is_file():
            raise InputError(f"--labels={labels}: is no file; name the JSON Lines file of human labels.")
        config = dataclasses.replace(config, test=dataclasses.replace(config.test, labels=labels))
    config = dataclasses.replace(config, dial=tuple(dial) or config.dial)
    config = with_audit(config, audit, prefill, system)
    redo = "evaluation" if "evaluation" in read_ledger(workdir).stages else ""
    return run(config, workdir, redo=redo, may_compute=_MAY_COMPUTE)


def with_audit(config: Config, attacks: Sequence[str], prefill: str | None, system: str | None) -> Config:
    """The configuration with what the command asks of the audit; it is checked.

    Args:
      config: of the run.
      attacks: to try; none: as configured.
      prefill: text that responses are made to begin with; None: as configured.
      system: text of another system prompt; None: as configured.

    Raises:
      InputError: an attack is unknown, or lacks what it needs.
    """
    asked = config.audit
    asked = asked if not attacks else dataclasses.replace(asked, attacks=tuple(attacks))
    asked = asked if prefill is None else dataclasses.replace(asked, prefill=prefill)
    asked = asked if system is None else dataclasses.replace(asked, system=system)
    if not asked.attacks and (prefill is not None or system is not None):
        raise InputError("--prefill and --system_prompt are of an audit; add --audit=all, or name attacks.")
    config = dataclasses.replace(config, audit=asked)
    check(config)
    return config


def _define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of a run whose policy is trained.")
    flags.DEFINE_multi_string("allow_function", [], "module:function of config.json to import.")
    flags.DEFINE_list("audit", [], "Attacks on the aligned policy to try, or all.")
    flags.DEFINE_string("prefill", None, "Text that the attack prefill makes every response begin with.")
    flags.DEFINE_string("system_prompt", None, "Text of the attack system.")
    flags.DEFINE_list("dial", [], "Evaluate these beside the policy: product, merged, best_of.")
    flags.DEFINE_string("labels", None, "JSON Lines of human labels on responses of the policies.")


def _main() -> None:
    given = flags.FLAGS
    finished = evaluate(
        Path(given.workdir),
        allowed=given.allow_function,
        labels=given.labels,
        audit=given.audit,
        prefill=given.prefill,
        system=given.system_prompt,
        dial=given.dial,
    )
    finished.show(Path(given.workdir) / "report.html")
    if finished.unverified:
        raise NotVerifiedError(finished.unverified)


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["workdir"])
