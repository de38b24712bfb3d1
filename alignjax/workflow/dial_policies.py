"""The stages that evaluate policies of the run's multiplier without a training: product, merge, draw-K."""

from collections.abc import Mapping

import numpy as np

from alignjax.dual.statistics import mean_figure, resampling_weights
from alignjax.evaluation.audit import Resampling, result_of
from alignjax.evaluation.dial import distances, draw_k
from alignjax.evaluation.means import Basis, Scored, on_these_prompts, uncertain_means
from alignjax.models import Mixture
from alignjax.models.merging import merged
from alignjax.policy.values import Policy
from alignjax.records.codec import read_record
from alignjax.records.dial import DialPolicy, DialRecord
from alignjax.runtime.files import write_record
from alignjax.stages import Run, Stage, Work
from alignjax.workflow import product
from alignjax.workflow.dialling import adapters_of
from alignjax.workflow.measuring import Measurement, basis_of, measured, prompts_of_test
from alignjax.workflow.prepared import Prepared
from alignjax.workflow.setup import Setup, part

_FILE = "dial.json"


def compared(
    run: Run, ready: Prepared, single: Mapping[str, Policy], everyone: Measurement
) -> DialRecord | None:
    """What the policies of `config.dial` reach beside the aligned one, on the test prompts: dial.json.

    They are estimates: the test spends its error on the run's own policy alone.

    Args:
      run: gives the values of stages.
      ready: of the run.
      single: by dimension, the policies that a product is made of; may be empty where none is asked for.
      everyone: the reference and the aligned policy on the test prompts.

    Returns:
      The record; None where no such policy is asked for.
    """
    setup = ready.setup
    wanted = [name for name in dict.fromkeys(setup.config.dial) if name != "best_of"]
    if setup.config.align.skip:  # then the aligned policy is the product
        wanted = [name for name in wanted if name != "product"]
    if not setup.config.dial:
        return None
    found = everyone
    if wanted:
        answer = run.do(product.as_policy(ready, single)) if not setup.config.align.skip else None
        source = everyone.policies["aligned"] if answer is None else answer
        policies = {name: _policy(setup, name, source, single) for name in wanted}
        more = measured(run, setup, ready.data, ready.reference, policies, ready.by, "dial")
        found = everyone.with_others(more)
    return run.do(_compared(ready, found, wanted, factors=len(single)))


def _policy(setup: Setup, name: str, source: Policy, single: Mapping[str, Policy]) -> Policy:
    """The product, or the merge of its adapters with the same weights."""
    if name == "product" or setup.shape is not None:
        # A plan knows no weights; a merge runs the programs of one adapter, of a larger rank.
        lora = source.lora if name == "product" else next(iter(single.values())).lora
    else:
        assert isinstance(source.lora, Mixture), "the product's"
        weights = np.asarray(source.lora.weights).tolist()
        lora = merged(adapters_of(single), weights).lora
    return source._replace(name=name, lora=lora)


def _compared(ready: Prepared, found: Measurement, wanted: list[str], *, factors: int) -> Stage[DialRecord]:
    setup, answer = ready.setup, ready.answer
    config = setup.config
    names = ["aligned", *wanted, *(["best_of"] if "best_of" in config.dial else [])]
    costs = {name: _cost(setup, name, factors) for name in names}

    def compute(work: Work) -> DialRecord:
        count = len(found.scores["reference"].kl)
        prompts = prompts_of_test(setup, ready.data)
        basis = on_these_prompts(
            basis_of(ready.data, ready.calibration, answer, config.dimensions, prompts), count
        )
        record = _record(ready, found.scores, basis, names, costs)
        for line in told(record):
            setup.log.say(f"  {line}")
        return record

    return Stage(
        name="dial",
        settings=part(setup, "bootstrap", "confidence")
        | {"policies": names, "skip": config.align.skip}
        | ({"draws": config.sampling.num_samples} if setup.population else {}),
        inputs=("dual", "calibration", *dict.fromkeys(found.stages)),
        outputs=(_FILE,),
        compute=compute,
        save=lambda folder, record: write_record(folder / _FILE, record),
        load=lambda folder, work: read_record(DialRecord, folder / _FILE),
        abstract=lambda: DialRecord({}, {}, setup.population, {}),
    )


def _record(
    ready: Prepared,
    scores: Mapping[str, Scored],
    basis: Basis,
    names: list[str],
    costs: Mapping[str, tuple[int, int, int]],
) -> DialRecord:
    setup, answer = ready.setup, ready.answer
    config, reference = setup.config, scores["reference"]
    count = len(reference.kl)
    # The resamples of evaluation.json, so that the aligned policy has the same intervals.
    rng = np.random.default_rng(setup.seeds.seed("evaluate"))
    weights = resampling_weights(rng, count, config.bootstrap, population=setup.population)
    lam, beta = answer.multipliers, config.beta
    shown = {"reference": reference, **{name: scores[name] for name in names if name != "best_of"}}
    if "best_of" in names:
        draws = np.random.default_rng(setup.seeds.seed("dial"))
        shown["best_of"] = draw_k(reference, basis, lam, beta, count=config.sampling.num_samples, rng=draws)
    uncertain = uncertain_means(shown, basis, setup.seeds.key("calibration"), config.bootstrap)
    by = Resampling(weights, uncertain)
    policies = {}
    for name in names:
        distance = None
        if name != "best_of":
            distance = mean_figure(distances(shown[name], reference, basis, lam, beta), weights)
        result = result_of(name, shown, basis, answer.names, by)
        policies[name] = DialPolicy(result, *costs[name], name == "aligned", distance)
    asked = {name: one.margin for name, one in answer.asked.items()}
    return DialRecord(dict(answer.lam or {}), asked, setup.population, policies)


def _cost(setup: Setup, name: str, factors: int) -> tuple[int, int, int]:
    """Forward passes a token, draws, and final trainings."""
    if name == "best_of":
        config = setup.config
        draws = config.sampling.num_samples if setup.population else config.evaluation_sampling.num_samples
        return 1, draws, 0
    if name == "product" or (name == "aligned" and setup.config.align.skip):
        return 1 + factors, 1, 0
    return 1, 1, int(name == "aligned")


def told(record: DialRecord) -> list[str]:
    """The record in lines for the console.

    Args:
      record: of the policies.
    """
    lines = []
    for name, one in record.policies.items():
        margins = ", ".join(f"margin of {k} {v.mean:.2f}" for k, v in one.result.margins.items())
        away = "" if one.distance is None else f", {one.distance.mean:.2f} nats from the tilted policy"
        shown = "tested" if one.tested else "an estimate"
        lines.append(
            f"{name}: {margins}, reward gain {one.result.reward_gain.mean:.2f}, KL {one.result.kl.mean:.2f}"
            f"{away}; {one.passes} passes a token, {one.draws} draws, {one.trainings} trainings ({shown})"
        )
    return lines
