"""MoCAN: model-based constrained alignment by optimal dualization.

Huang et al. 2024, arXiv 2405.19544, algorithm MoCAN, with the calibration of docs/method.md.

  1. sample:      y           <-  K responses of pi_ref to each of N prompts
  2. score:       r, g        <-  a reward model, and minus a cost model for each constraint
  3. calibrate:   r, g        <-  logits of held-out labels
  4. dualize:     lambda*     <-  argmin over lambda >= 0 of D(lambda)
  5. relabel:     p           <-  sigma(s(y0) - s(y1)),  s = r + <lambda*, g>,  pairs of data or samples
  6. align:       pi          <-  DPO(pi_ref, p), once; baselines the same way at other multipliers
  7. test:        pi on prompts that nothing else used; where it is refused and config.rounds allows, 5 to 7
                  again at a corrected multiplier
  8. evaluate:    promised against delivered
"""

from alignjax.stages import Run
from alignjax.workflow import (
    aligned_pairs,
    answering,
    dial_policies,
    dialling,
    dualizing,
    eroding,
    evaluating,
    groundwork,
    measuring,
    product,
    scoring,
    testing,
)
from alignjax.workflow.judging import judged
from alignjax.workflow.outcome import Outcome
from alignjax.workflow.prepared import Prepared
from alignjax.workflow.question import question_of
from alignjax.workflow.setup import Setup


def prepared(run: Run, setup: Setup) -> Prepared:
    """The algorithm up to the multiplier; arguments and errors as of `mocan`."""
    reference = run.do(groundwork.reference(setup))
    data = run.do(groundwork.data(setup, reference))

    # 1. The reference's own samples, 2. scored by models that are given, or trained here.
    samples = run.do(scoring.samples(setup, reference, data))
    scorers, trained = scoring.scorers(run, setup, reference, data)
    data = aligned_pairs.with_pairs(setup, data, samples)
    scoring.require_scores(setup, data, samples, scorers)
    raw = run.do(scoring.raw_scores(setup, samples, scorers, trained))

    # 3. Calibrated on held-out labels, 4. the dual.
    calibration = run.do(scoring.calibrated(setup, data, scorers, raw))
    scoring.require_informative(setup, calibration)
    answer = run.do(dualizing.dualized(setup, data, raw, calibration))
    return Prepared(setup, reference, data, {}, scorers, raw, calibration, answer)


def mocan(run: Run, setup: Setup) -> Outcome:
    """The algorithm in values: each stage's is computed, loaded, or in a plan a shape, as the run decides.

    Args:
      run: gives the values of stages.
      setup: what stages are built from.

    Raises:
      InputError: data, model or scores cannot be used.
      InfeasibleError: the constraints cannot be met on the samples.
    """
    ready = prepared(run, setup)
    reference, data, scorers, calibration = ready.reference, ready.data, ready.by, ready.calibration

    # 5. The new labels, 6. align once, beside the baselines; or multiply those of single scores.
    pair_scores = run.do(aligned_pairs.pair_scores(setup, data, scorers, calibration, ready.raw))
    labels = run.do(answering.relabelled(setup, data, pair_scores, ready.answer))
    trained = answering.baselines(run, setup, reference, data, pair_scores)
    others, single = {"reference": reference, **trained}, dialling.single_of(setup, trained)
    if setup.config.align.skip:
        first = run.do(product.as_policy(ready, single))
        question = question_of(ready, again=product.later_rounds(ready, single))
    else:
        product.previewed(run, ready, lambda: single)
        first = run.do(answering.aligned(setup, reference, data, labels.values))
        question = question_of(ready, pair_scores)

    # 7. The test, and further rounds while it refuses.
    base = measuring.measured(run, setup, data, reference, others, scorers, "baselines")
    tested = testing.until_accepted(run, question, first, base)

    # 8. Promised against delivered.
    everyone = base.with_others(tested.policies)
    found = judged(run, setup, data, reference, everyone)
    stage = evaluating.evaluated(setup, data, everyone, calibration, ready.answer, tested, found)
    evaluation = run.do(stage)

    # 9. What is left of the margins under attack, and what no training has beside it, where that is asked.
    erosion = eroding.eroded(run, ready, everyone)
    dial = dial_policies.compared(run, ready, single, everyone)
    scores = question.pair_scores
    return Outcome(data, calibration, ready.answer, everyone, evaluation, tested, scores, erosion, dial)
