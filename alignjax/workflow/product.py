"""The stages of the product of policies: as the answer itself, and as a preview of the alignment."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from alignjax.aot import shapes
from alignjax.aot.program import Use
from alignjax.config import SamplingSettings
from alignjax.config.dial import has_product
from alignjax.data import responses
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses
from alignjax.errors import InputError
from alignjax.policy import drawing
from alignjax.policy.values import Policy
from alignjax.records.codec import read_record
from alignjax.records.product import Product
from alignjax.runtime.files import write_record
from alignjax.scores.functions import prompt_text
from alignjax.stages import Run, Stage, Stored, Work
from alignjax.workflow import stand_ins, uses
from alignjax.workflow.dialling import (
    Wanted,
    adapters_of,
    dialled,
    notes_of,
    own_multipliers,
    product_of,
    product_policy,
)
from alignjax.workflow.dualizing import sample_prompts
from alignjax.workflow.prepared import Prepared
from alignjax.workflow.scoring import abstract_responses
from alignjax.workflow.setup import Setup, part
from alignjax.workflow.tempering import programs_of, tempered

_TEMPERED_ON = 16  # prompts, for a preview
_SHOWN = 200  # characters of a text in the log


def file_of(number: int) -> str:
    """Where the product of a round, from 1, is kept."""
    return "product.json" if number == 1 else f"rounds/{number}.product.json"


def stage_of(number: int) -> str:
    """The stage that makes it."""
    return "product" if number == 1 else f"product/{number}"


def as_policy(
    ready: Prepared, single: Mapping[str, Policy], *, number: int = 1, lam: np.ndarray | None = None
) -> Stage[Policy]:
    """The product of policies as the aligned policy, without a training: product.json.

    Args:
      ready: of the run.
      single: by dimension, the policies that are multiplied.
      number: of the round.
      lam: [m], multipliers of the constraints; None: those of the dual.
    """
    setup = ready.setup
    found: list[Product] = []  # the record behind the policy, which is what is saved

    def compute(work: Work) -> Policy:
        multipliers = own_multipliers(ready, lam)
        answer = ready.answer if lam is None else dialled(ready, Wanted(multipliers=multipliers)).answer
        record = tempered(ready, single, product_of(ready, multipliers), answer)
        for note in notes_of(record):
            setup.log.say(f"  {note}")
        shown = ", ".join(f"{name} {value:.4f}" for name, value in record.weights.items())
        setup.log.say(f"  nothing is trained: the product of {len(single)} policies, weights {shown}")
        found[:] = [record]
        return _policy(ready.reference, single, record, number, work)

    return Stage.of(
        stored_product(setup, ready.reference, single, number=number),
        compute=compute,
        save=lambda folder, policy: write_record(folder / file_of(number), found[0]),
        abstract=lambda: abstract_product(setup, ready.reference, single, stage_of(number), "aligned"),
        programs=lambda: programs_of(
            ready, abstract_product(setup, ready.reference, single, stage_of(number), "aligned")
        ),
    )


def later_rounds(ready: Prepared, single: Mapping[str, Policy]) -> Callable[[int, np.ndarray], Stage[Policy]]:
    """The products of further rounds: (number, corrected multipliers) -> stage."""
    return lambda number, lam: as_policy(ready, single, number=number, lam=lam)


def stored_product(
    setup: Setup, reference: Policy, single: Mapping[str, Policy], *, number: int = 1
) -> Stored[Policy]:
    """What `as_policy` found; arguments as there."""
    before = "dual" if number == 1 else f"rounds/{number - 1}.json"
    fields = ("beta", "beta_pre") if setup.config.method == "pecan" else ("beta",)
    return Stored(
        name=stage_of(number),
        settings=part(setup, "sampling", *fields),
        inputs=(before, *(policy.stage for policy in single.values())),
        outputs=(file_of(number),),
        load=lambda folder, work: _policy(
            reference, single, read_record(Product, folder / file_of(number)), number, work
        ),
    )


def _policy(
    reference: Policy, single: Mapping[str, Policy], record: Product, number: int, work: Work
) -> Policy:
    return product_policy(
        reference,
        single,
        record,
        name="aligned",
        stage=stage_of(number),
        fingerprint=work.fingerprint,
    )


def abstract_product(
    setup: Setup, reference: Policy, single: Mapping[str, Policy], stage: str, name: str
) -> Policy:
    """The product of a plan: shapes of stacked adapters on the reference's weights."""
    mixture = shapes.mixture(adapters_of(single), setup.batching.mesh)
    return Policy(name, reference.load, mixture, stage, "")


def previewed(run: Run, ready: Prepared, single: Callable[[], Mapping[str, Policy]]) -> None:
    """Draws from the product on a few prompts and shows them, before hours are spent on the alignment.

    Args:
      run: gives the values of stages.
      ready: of the run.
      single: gives the policies that are multiplied, by dimension, where there are any.
    """
    setup = ready.setup
    if not setup.config.align.preview:
        return
    if not has_product(setup.config):
        setup.log.say(
            "no preview: it is drawn from the product of policies that are adapters for one score each, and "
            "this run has none, or asks by category or as a tail"
        )
        return
    if setup.shape is None:
        try:
            own_multipliers(ready)
        except InputError as error:  # rates that only the alignment can keep together are no reason to stop
            setup.log.say(f"no preview: {error}")
            return
    run.do(_preview(ready, single()))


def _preview(ready: Prepared, single: Mapping[str, Policy]) -> Stage[Responses]:
    """One response of the product to each of a few prompts: preview.jsonl."""
    setup = ready.setup
    config = setup.config
    prompts = sample_prompts(setup, ready.data)[: config.align.preview]
    settings = dataclasses.replace(config.sampling, num_samples=1)
    file = "preview.jsonl"

    def ids() -> list[np.ndarray]:
        limit = config.model.max_prompt_length
        if setup.shape is not None:
            return stand_ins.prompts(config.model, setup.shape.lengths, len(prompts))
        return drawing.prompt_ids(ready.reference, ready.data.template, prompts, limit)

    def compute(work: Work) -> Responses:
        record = product_of(ready, own_multipliers(ready))
        record = tempered(ready, single, record, ready.answer, most=_TEMPERED_ON)
        policy = product_policy(ready.reference, single, record, fingerprint=work.fingerprint)
        drawn = drawing.draw(setup.seeds.key("preview"), policy, prompts, ids(), settings, setup.batching)
        for line in _shown(prompts, [row[0] for row in drawn.texts]):
            setup.log.say(f"  {line}")
        return drawn

    inputs = ("dual", *(policy.stage for policy in single.values()))
    fields = ("beta", "beta_pre") if config.method == "pecan" else ("beta",)
    return Stage(
        name="preview",
        settings=part(setup, "sampling", *fields) | {"prompts": len(prompts)},
        inputs=inputs,
        outputs=(file,),
        compute=compute,
        save=lambda folder, drawn: responses.write_responses(folder / file, drawn, {"policy": "product"}),
        load=lambda folder, work: responses.read_responses(folder / file, prompts, ids()),
        abstract=lambda: abstract_responses(setup, prompts, settings),
        programs=lambda: _preview_programs(ready, single, ids(), settings),
    )


def _preview_programs(
    ready: Prepared, single: Mapping[str, Policy], ids: Sequence[np.ndarray], settings: SamplingSettings
) -> list[Use]:
    setup = ready.setup
    policy = abstract_product(setup, ready.reference, single, "preview", "product")
    tried = programs_of(ready, policy, most=_TEMPERED_ON)
    return [*tried, *uses.draws(policy, ids, settings, setup.batching)]


def _shown(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[str]:
    lines = ["drawn from the product of the policies, before the alignment (preview.jsonl):"]
    for prompt, text in zip(prompts, texts, strict=True):
        lines += [f"  prompt: {_cut(prompt_text(prompt))}", f"  response: {_cut(text)}"]
    return lines


def _cut(text: str) -> str:
    """A text in one line of the log."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
