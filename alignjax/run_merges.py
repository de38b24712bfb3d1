"""The adapters of a finished run merged into one, at any margin: what `alignjax export --margin` writes."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from alignjax.models.merging import merged
from alignjax.policy.values import Policy
from alignjax.records.codec import read_record
from alignjax.records.product import Product
from alignjax.run_samples import opened
from alignjax.workflow import dialling, product, testing
from alignjax.workflow.dialling import Wanted
from alignjax.workflow.tempering import tempered


class Merge(NamedTuple):
    """Adapters of single dimensions merged in weight space.

    Attributes:
      policy: the merge as an adapter on the reference.
      lines: multipliers, forecast, and what was cut, for the card and the console.
    """

    policy: Policy
    lines: list[str]


def merge_of(
    workdir: Path, wanted: Wanted | None, *, rank: int | None = None, allowed: Collection[str] = ()
) -> Merge:
    """Merges the adapters of a run with the weights that answer a question.

    Args:
      workdir: the run's folder.
      wanted: what is asked; None: the product that the run ended with, see `config.align.skip`.
      rank: of the merged adapter; None: the sum of the ranks, which is exact in weight space.
      allowed: functions, module:function, that may be imported.

    Raises:
      InputError: the folder is no run, a stage that is needed is not done, or the run has no policies of
        single dimensions.
      InfeasibleError: what is asked cannot be met on the run's samples.
    """
    with opened(workdir, allowed) as (run, ready):
        single = dialling.factors(run, ready)
        if wanted is None:
            number = testing.last_round(run, ready.setup)
            run.load(product.stored_product(ready.setup, ready.reference, single, number=number))
            record = read_record(Product, workdir / product.file_of(number))
            found = dialling.dialled(ready, Wanted(multipliers=record.multipliers))
        else:
            found = dialling.dialled(ready, wanted)
            record = dialling.product_of(ready, found.answer.lam or {})
            record = tempered(ready, single, record, found.answer)
        weights = [record.weights[name] for name in single]
        total = merged(dialling.adapters_of(single), weights, rank=rank)
        policy = Policy("merged", ready.reference.load, total.lora, "merged", "")
        lines = [*dialling.said(found), *dialling.notes_of(record)]
        lines.append(
            f"weights of the adapters: {', '.join(f'{k} {v:.4f}' for k, v in record.weights.items())}"
        )
        if rank is not None:
            lines.append(f"cut to rank {rank}, which leaves out {total.lost:.2%} of the squared norm")
        return Merge(policy, lines)
