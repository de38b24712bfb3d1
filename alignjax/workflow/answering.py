"""The stages from the multiplier to a policy: new labels, and one alignment on them."""

import numpy as np

from alignjax.alignment import training
from alignjax.alignment.training import LabelledPairs
from alignjax.policy.values import Policy
from alignjax.records.answer import DualAnswer
from alignjax.scores import units as in_units
from alignjax.stages import Run, Stage, Stored, Work
from alignjax.workflow import labels as labelling
from alignjax.workflow import uses
from alignjax.workflow.groundwork import Data
from alignjax.workflow.labels import Labels
from alignjax.workflow.scoring import abstract_policy
from alignjax.workflow.setup import Setup, part, trainer_of


def relabelled(
    setup: Setup,
    data: Data,
    scores: np.ndarray,
    answer: DualAnswer,
) -> Stage[Labels]:
    """P(chosen preferred) under s = r + <lambda*, g> of every pair: labels.jsonl."""
    config, pairs = setup.config, data.pairs

    def compute(work: Work) -> Labels:
        values = labels_at(setup, data, scores, answer, answer.multipliers)
        metrics = labelling.label_metrics(values, pairs.human)
        if free := _in_no_group(data, answer):
            setup.log.say(f"  {free} pairs are in no category that is asked for: labelled by reward alone")
        setup.log.rewind("labels", -1)
        setup.log.write("labels", 0, metrics)
        setup.log.say(f"  {_told(len(values), metrics)}")
        return Labels(values, pairs.align_pairs)

    return Stage(
        name="labels",
        settings=part(setup, "hard_labels", *(("raw_labels",) if config.method == "pecan" else ())),
        inputs=("dual", "pair_scores"),
        outputs=("labels.jsonl",),
        compute=compute,
        save=labelling.save,
        load=lambda folder, work: labelling.load(folder),
        abstract=lambda: Labels(np.zeros(len(pairs.align), np.float32)),
    )


def _in_no_group(data: Data, answer: DualAnswer) -> int:
    """How many pairs no constraint of the dual is about."""
    prompts = [pair.prompt for pair in data.pairs.align_pairs]
    categories = _categories(data, answer)
    about = [in_units.belongs(unit, categories, len(prompts)) for unit in answer.units.values()]
    return int((~np.any(about, axis=0)).sum()) if about else 0


def _categories(data: Data, answer: DualAnswer) -> dict[str, list[str | None]]:
    """By column that some constraint of the dual groups by, the category of every pair's prompt."""
    prompts = [pair.prompt for pair in data.pairs.align_pairs]
    columns = dict.fromkeys(unit.column for unit in answer.units.values() if unit.column is not None)
    return {column: data.pairs.category_of(column, prompts) for column in columns}


def labels_at(
    setup: Setup, data: Data, scores: np.ndarray, answer: DualAnswer, lam: np.ndarray
) -> np.ndarray:
    """P(chosen preferred) under s = r + <lam, g(x)> of every pair, [n] float32.

    Args:
      setup: of the run.
      data: the pairs and the categories of their prompts.
      scores: [n, 2, 1+m] calibrated scores by dimension.
      answer: of the dual, whose units say what g is.
      lam: [m] multipliers of its constraints.
    """
    config = setup.config
    utilities = in_units.utilities(answer.units, scores, config.dimensions, _categories(data, answer))
    return labelling.relabel(
        np.concatenate([scores[..., :1], utilities], axis=-1),
        np.concatenate([[1.0], lam]),
        scale=1.0 / config.beta_pre if config.raw_labels else 1.0,
        draws=config.hard_labels,
        key=setup.seeds.key("labels"),
    )


def aligned(
    setup: Setup,
    reference: Policy,
    data: Data,
    labels: np.ndarray,
    *,
    stage: str = "policy",
    name: str = "aligned",
    reads: str = "labels",
    begin: Policy | None = None,
) -> Stage[Policy]:
    """One DPO from the reference.

    Args:
      setup: of the run.
      reference: pi_ref.
      data: the pairs.
      labels: [n] P(chosen preferred).
      stage: its name, and that of the folder of its checkpoints.
      name: of the policy.
      reads: the stage that determines the labels.
      begin: a trained policy to begin at; None: the reference.
    """
    config, trainer = setup.config, trainer_of(setup)
    train = LabelledPairs(data.pairs.align, labels)
    beta = config.beta

    def compute(work: Work) -> Policy:
        policy = training.train_dpo(
            trainer, stage, reference, train, None, config.align, work, beta=beta, begin=begin
        )
        return policy._replace(name=name)

    return Stage.of(
        stored_policy(setup, reference, stage=stage, name=name, reads=reads),
        compute=compute,
        save=lambda folder, policy: training.save_outcome(folder / stage, policy.outcome),
        slim=lambda policy: policy._replace(outcome=None),
        abstract=lambda: abstract_policy(setup, reference, stage, name),
        programs=lambda: uses.dpo(
            trainer, name, reference, train, None, config.align, beta=beta, begin=begin
        ),
    )


def stored_policy(setup: Setup, reference: Policy, *, stage: str, name: str, reads: str) -> Stored[Policy]:
    """What `aligned` trained; arguments as there."""
    trainer = trainer_of(setup)
    return Stored(
        name=stage,
        settings=part(setup, "align", "lora", "beta"),
        inputs=(reads,),
        outputs=(f"{stage}/best", f"{stage}/last"),
        load=lambda folder, work: training.load_policy(folder / stage, trainer, stage, name, reference, work),
    )


def labelled_by(stage: str) -> str:
    """The stage that determines the labels of a stage that aligns: of the policy, a baseline, a round."""
    if stage.startswith("baselines/"):
        return "pair_scores"
    number = stage.removeprefix("rounds/")
    return f"rounds/{int(number) - 1}.json" if stage != number and number.isdecimal() else "labels"


def baselines(run: Run, setup: Setup, reference: Policy, data: Data, scores: np.ndarray) -> dict[str, Policy]:
    """MoCAN: policies aligned to single scores and to fixed multipliers, on the same pairs."""
    trained = {}
    for name, weights in setup.config.baseline_weights().items():
        labels = labelling.relabel(scores, np.array(weights))
        stage = f"baselines/{name}"
        trained[name] = run.do(
            aligned(setup, reference, data, labels, stage=stage, name=name, reads="pair_scores")
        )
    return trained


def _told(count: int, metrics: dict[str, float]) -> str:
    """The labels in one line."""
    flips = [
        f"{value:.1%} of the {name.rpartition('/')[2]} labels"
        for name, value in metrics.items()
        if name.startswith("labels/flip_rate/")
    ]
    against = f"{', '.join(flips)} were flipped relative to the human labels; " if flips else ""
    return f"{count} pairs; {against}mean entropy {metrics['labels/entropy']:.3f} nats"
