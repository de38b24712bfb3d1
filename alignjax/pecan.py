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

from alignjax.workflow import present, steps
from alignjax.workflow.context import Context
from alignjax.workflow.scorers import ImplicitScorer
from alignjax.workflow.scoring import ResponseLogps


def pecan(context: Context) -> str:
    """Runs every stage; returns the last table.

    Raises:
      InputError: data, model or scores cannot be used.
      InfeasibleError: the constraints cannot be met on the samples.
    """
    names = context.config.dimensions
    start = steps.prepare(context)

    # 1. Pre-align on each dimension alone.
    policies = {name: steps.prealign(context, start, name) for name in names}

    # 2. Implicit scores of the reference's own samples.
    logps = ResponseLogps(context)
    scorers = {name: ImplicitScorer(context, start.reference, policies[name], logps) for name in names}
    raw = steps.score(context, steps.sample(context, start), scorers, names)

    # 3. Calibrated on held-out labels, 4. the dual, 5. the new labels.
    steps.calibrate(context, start, scorers, raw)
    steps.solve(context, raw)
    labels = steps.relabel(context, start, scorers)

    # 6. Align once, 7. audit, and tell.
    policies = {"reference": start.reference, **policies, "aligned": steps.align(context, start, labels)}
    steps.evaluate(context, start, scorers, policies, logps, ["policy"])
    return present.present(context, start.data)
