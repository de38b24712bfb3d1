"""The stages from the dual to the aligned policy."""

from collections.abc import Sequence

import jax
import numpy as np

from alignjax import dual
from alignjax.alignment import training
from alignjax.alignment.training import LabelledPairs
from alignjax.config import Config
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses
from alignjax.dual import Asked
from alignjax.policy.known_logps import kl_of_responses
from alignjax.policy.values import Policy
from alignjax.records.answer import DualAnswer
from alignjax.records.codec import read_record
from alignjax.records.evaluation import Round
from alignjax.runtime.files import write_record
from alignjax.scores import calibration as calib
from alignjax.scores.scorers import score_responses
from alignjax.stages import Run, Stage, Stored, Work
from alignjax.workflow import labels as labelling
from alignjax.workflow import rounds, uses
from alignjax.workflow.calibrate import Calibrated
from alignjax.workflow.groundwork import Data
from alignjax.workflow.labels import Labels
from alignjax.workflow.scoring import Scorers, abstract_policy, responses_stage
from alignjax.workflow.setup import Setup, part, trainer_of


def dualized(setup: Setup, calibration: Calibrated) -> Stage[DualAnswer]:
    """The multiplier and what it promises: dual.json.

    Computing raises InfeasibleError where no policy on the samples meets the constraints; the message names
    the most that can be met.
    """
    config = setup.config

    def compute(work: Work) -> DualAnswer:
        answer = answer_of(config, calibration, population=setup.population)
        dual.require_answer(answer)
        lam = ", ".join(f"{name} {value:.4f}" for name, value in (answer.lam or {}).items())
        assert answer.predicted is not None
        median = answer.predicted.ess.median
        setup.log.say(f"  lambda: {lam}; effective samples per prompt: {median:.1f} (median)")
        return answer

    return Stage(
        name="dual",
        settings=part(setup, "constraints", "lam", "beta", "bootstrap"),
        inputs=("calibration",),
        outputs=("dual.json",),
        compute=compute,
        save=lambda folder, answer: write_record(folder / "dual.json", answer),
        load=lambda folder, work: read_record(DualAnswer, folder / "dual.json"),
        abstract=lambda: _abstract_answer(config),
    )


def answer_of(config: Config, calibration: Calibrated, *, population: bool) -> DualAnswer:
    """What the dual says of a run's calibrated scores.

    Args:
      config: what is asked, beta, and the number of resamples.
      calibration: the table, and the fit whose uncertainty the intervals hold.
      population: whether the prompts are all there are.
    """
    table, key = calibration.table, jax.random.key(config.seed)
    return dual.answer(
        table.rewards,
        table.utilities,
        names=table.names,
        asked=[Asked(c.margin, c.level, c.fraction) for c in config.constraints.values()],
        beta=config.beta,
        lam=config.lam,
        num_resamples=config.bootstrap,
        seed=config.seed,
        calibration_draws=calib.relative_draws(key, calibration.fit, config.bootstrap),
        population=population,
    )


def relabelled(setup: Setup, data: Data, scores: np.ndarray, answer: DualAnswer) -> Stage[Labels]:
    """P(chosen preferred) under s = r + <lambda*, g> of every pair: labels.jsonl."""
    config, pairs = setup.config, data.pairs

    def compute(work: Work) -> Labels:
        values = labelling.relabel(
            scores,
            np.concatenate([[1.0], answer.multipliers]),
            scale=1.0 / config.beta_pre if config.raw_labels else 1.0,
            draws=config.hard_labels,
            key=setup.seeds.key("labels"),
        )
        metrics = labelling.label_metrics(values, pairs.human)
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


def last_policy(setup: Setup, reference: Policy) -> Stored[Policy]:
    """The aligned policy of a finished run: that of its last round."""
    count = setup.config.rounds.count
    stage = "policy" if count == 1 else f"rounds/{count}"
    return stored_policy(setup, reference, stage=stage, name="aligned", reads=labelled_by(stage))


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


def refined(
    run: Run,
    setup: Setup,
    reference: Policy,
    data: Data,
    by: Scorers,
    scores: np.ndarray,
    calibration: Calibrated,
    answer: DualAnswer,
    first: Policy,
) -> tuple[Policy, list[Round]]:
    """MoCAN: further rounds, if `config.rounds.count` asks for any.

    Args:
      run: computes or loads the stages.
      setup: of the run.
      reference: pi_ref.
      data: the pairs.
      by: scorers.
      scores: [n, 2, 1+m] calibrated scores of the pairs.
      calibration: of the scores.
      answer: of the dual.
      first: the policy of the one-shot round.

    Returns:
      The policy of the last round, and what every round measured; `first` and nothing where there is one.
    """
    count = setup.config.rounds.count
    if count == 1:
        return first, []
    lam, policy, measured = answer.multipliers, first, list[Round]()
    for number in range(1, count + 1):
        prompts = data.pairs.train_prompts[: setup.config.sampling.num_prompts]
        drawn = run.do(_round_samples(setup, policy, data, prompts, number))
        measured.append(run.do(_round(setup, reference, policy, drawn, by, calibration, answer, lam, number)))
        if number == count:
            break
        lam = np.array(list(measured[-1].next_lam.values()))
        labels = labelling.relabel(scores, np.concatenate([[1.0], lam]))
        policy = run.do(
            aligned(
                setup,
                reference,
                data,
                labels,
                stage=f"rounds/{number + 1}",
                reads=f"rounds/{number}.json",
                begin=policy,
            )
        )
    return policy, measured


def _round_samples(
    setup: Setup, policy: Policy, data: Data, prompts: Sequence[Prompt], number: int
) -> Stage[Responses]:
    name = f"rounds/{number} samples"
    return responses_stage(setup, policy, data, prompts, name, f"rounds/{number}.samples.jsonl", "sampling")


def _round(
    setup: Setup,
    reference: Policy,
    policy: Policy,
    drawn: Responses,
    by: Scorers,
    calibration: Calibrated,
    answer: DualAnswer,
    lam: np.ndarray,
    number: int,
) -> Stage[Round]:
    """What a round's policy achieves where the reference was sampled: rounds/NUMBER.json."""
    file = f"rounds/{number}.json"

    def compute(work: Work) -> Round:
        kl = kl_of_responses(policy, reference, drawn, setup.batching)
        scores = score_responses(by, drawn) @ calibration.fit.matrix.T
        step = setup.config.rounds.step
        result = rounds.corrected(number, lam, scores, kl, calibration.table, answer, step=step)
        for name, value in result.lam.items():
            met = f"margin {result.achieved[name]:.3f} of {result.asked[name]:.3f}"
            setup.log.say(f"  round {number}: lambda of {name} {value:.4f}, {met}, KL {result.kl:.3f}")
        return result

    def abstract() -> Round:
        zeros = dict.fromkeys(answer.names, 0.0)
        return Round(number, zeros, zeros, zeros, zeros, 0.0, 0.0)

    return Stage(
        name=file,
        settings=part(setup, "rounds"),
        inputs=(f"rounds/{number} samples",),
        outputs=(file,),
        compute=compute,
        save=lambda folder, found: write_record(folder / file, found),
        load=lambda folder, work: read_record(Round, folder / file),
        abstract=abstract,
        programs=lambda: [
            uses.divergence(policy, reference, drawn, setup.batching),
            *uses.scoring_responses(by.values(), drawn, setup.batching),
        ],
    )


def _told(count: int, metrics: dict[str, float]) -> str:
    """The labels in one line."""
    flips = [
        f"{value:.1%} of the {name.rpartition('/')[2]} labels"
        for name, value in metrics.items()
        if name.startswith("labels/flip_rate/")
    ]
    against = f"{', '.join(flips)} were flipped relative to the human labels; " if flips else ""
    return f"{count} pairs; {against}mean entropy {metrics['labels/entropy']:.3f} nats"


def _abstract_answer(config: Config) -> DualAnswer:
    """An answer with multiplier 0 on a table of zeros: a plan reads only its names."""
    size = len(config.constraints)
    return dual.answer(
        np.zeros((1, 2)),
        np.zeros((1, 2, size)),
        names=tuple(config.constraints),
        asked=[Asked(margin=0.0)] * size,
        beta=config.beta,
        lam=0.0,
        num_resamples=0,
    )
