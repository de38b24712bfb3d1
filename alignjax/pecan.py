"""PeCAN: preference-based constrained alignment by optimal dualization.

Huang et al. 2024, arXiv 2405.19544, algorithm PeCAN, with the calibration of docs/method.md.

  1. pre-align:   pi_r, pi_g  <-  DPO(pi_ref, labels of the reward; of each constraint)
  2. score:       r, g        <-  beta_pre log(pi_r / pi_ref, pi_g / pi_ref)  on samples of pi_ref
  3. calibrate:   r, g        <-  logits of held-out labels
  4. dualize:     lambda*     <-  argmin over lambda >= 0 of D(lambda)
  5. relabel:     p           <-  sigma(s(y0) - s(y1)),  s = r + <lambda*, g>
  6. align:       pi          <-  DPO(pi_ref, p), once
  7. evaluate:    promised against delivered
"""

from alignjax.stages import Run
from alignjax.workflow import answering, evaluating, groundwork, scoring
from alignjax.workflow.outcome import Outcome
from alignjax.workflow.setup import Setup


def pecan(run: Run, setup: Setup) -> Outcome:
    """The algorithm in values: each stage's is computed, loaded, or in a plan a shape, as the run decides.

    Args:
      run: gives the values of stages.
      setup: what stages are built from.

    Raises:
      InputError: data, model or scores cannot be used.
      InfeasibleError: the constraints cannot be met on the samples.
    """
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

    # 4. The dual, 5. the new labels, 6. align once.
    answer = run.do(answering.dualized(setup, calibration))
    pair_scores = run.do(scoring.pair_scores(setup, data, scorers, calibration))
    labels = run.do(answering.relabelled(setup, data, pair_scores, answer))
    policy = run.do(answering.aligned(setup, reference, data, labels.values))

    # 7. Promised against delivered.
    policies = {"reference": reference, **single, "aligned": policy}
    responses = evaluating.responses_of(run, setup, data, policies)
    evaluation = run.do(evaluating.evaluated(setup, data, policies, responses, scorers, calibration, answer))
    return Outcome(data, calibration, answer, policies, responses, evaluation, [])
