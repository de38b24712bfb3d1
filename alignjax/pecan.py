"""PeCAN: preference-based constrained alignment by optimal dualization.

Huang et al. 2024, arXiv 2405.19544, algorithm PeCAN, with the calibration of docs/method.md.

  1. pre-align:   pi_r, pi_g  <-  DPO(pi_ref, labels of the reward; of each constraint)
  2. score:       r, g        <-  beta_pre log(pi_r / pi_ref, pi_g / pi_ref)  on samples of pi_ref
  3. calibrate:   r, g        <-  logits of held-out labels
  4. dualize:     lambda*     <-  argmin over lambda >= 0 of D(lambda)
  5. relabel:     p           <-  sigma(s(y0) - s(y1)),  s = r + <lambda*, g>
  6. align:       pi          <-  DPO(pi_ref, p), once
  7. test:        pi on prompts that nothing else used; where it is refused and config.rounds allows, 5 to 7
                  again at a corrected multiplier
  8. evaluate:    promised against delivered
"""

from alignjax.stages import Run
from alignjax.workflow import (
    aligned_pairs,
    answering,
    dial_policies,
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
    """The algorithm up to the multiplier; arguments and errors as of `pecan`."""
    names = setup.config.dimensions
    reference = run.do(groundwork.reference(setup))
    data = run.do(groundwork.data(setup, reference))

    # 1. Pre-align on each dimension alone.
    single = {name: run.do(scoring.prealigned(setup, reference, data, name)) for name in names}

    # 2. Implicit scores of the reference's own samples, 3. calibrated on held-out labels.
    samples = run.do(scoring.samples(setup, reference, data))
    scorers = scoring.implicit_scorers(setup, reference, single)
    raw = run.do(scoring.raw_scores(setup, samples, scorers, names))
    calibration = run.do(scoring.calibrated(setup, data, scorers, raw))
    scoring.require_informative(setup, calibration)

    # 4. The dual.
    answer = run.do(dualizing.dualized(setup, data, raw, calibration))
    return Prepared(setup, reference, data, single, scorers, raw, calibration, answer)


def pecan(run: Run, setup: Setup) -> Outcome:
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

    # 5. The new labels, 6. align once; or neither, where the product of the policies is the answer.
    others = {"reference": reference, **ready.single}
    if setup.config.align.skip:
        first = run.do(product.as_policy(ready, ready.single))
        question = question_of(ready, again=product.later_rounds(ready, ready.single))
    else:
        product.previewed(run, ready, lambda: ready.single)
        pair_scores = run.do(aligned_pairs.pair_scores(setup, data, scorers, calibration, ready.raw))
        labels = run.do(answering.relabelled(setup, data, pair_scores, ready.answer))
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
    dial = dial_policies.compared(run, ready, ready.single, everyone)
    scores = question.pair_scores
    return Outcome(data, calibration, ready.answer, everyone, evaluation, tested, scores, erosion, dial)
