"""MoCAN: model-based constrained alignment by optimal dualization.

Huang et al. 2024, arXiv 2405.19544, algorithm MoCAN, with the calibration of docs/method.md.

  1. sample:      y           <-  K responses of pi_ref to each of N prompts
  2. score:       r, g        <-  a reward model, and minus a cost model for each constraint
  3. calibrate:   r, g        <-  logits of held-out labels
  4. dualize:     lambda*     <-  argmin over lambda >= 0 of D(lambda)
  5. relabel:     p           <-  sigma(s(y0) - s(y1)),  s = r + <lambda*, g>,  pairs of data or samples
  6. align:       pi          <-  DPO(pi_ref, p), once; baselines the same way at other multipliers;
                  with config.rounds again, at multipliers corrected by what was achieved
  7. evaluate:    promised against delivered
"""

from alignjax.workflow import present, rounds, steps
from alignjax.workflow.context import Context
from alignjax.workflow.scoring import ResponseLogps


def mocan(context: Context) -> str:
    """Runs every stage; returns the last table.

    Raises:
      InputError: data, model or scores cannot be used.
      InfeasibleError: the constraints cannot be met on the samples.
    """
    start = steps.prepare(context)

    # 1. The reference's own samples, 2. scored by models that are given, or trained here.
    drawn = steps.sample(context, start)
    scorers = {name: steps.scorer(context, start, name) for name in context.config.dimensions}
    trained = [name for name in scorers if name in context.stages.fingerprints]
    start = steps.with_pairs(context, start, drawn)
    steps.require_scores(context, start, drawn, scorers)
    raw = steps.score(context, drawn, scorers, trained)

    # 3. Calibrated on held-out labels, 4. the dual, 5. the new labels.
    steps.calibrate(context, start, scorers, raw)
    steps.solve(context, raw)
    labels = steps.relabel(context, start, scorers)

    # 6. Align once, 7. audit beside the baselines, and tell.
    policies = {"reference": start.reference, **steps.baselines(context, start)}
    first = steps.align(context, start, labels)
    last = rounds.refine(context, start, scorers, first)
    policies |= {} if last is first else {"one-shot": first._replace(name="one-shot")}
    policies["aligned"] = last
    stages = [
        name for name in context.stages.fingerprints if name.startswith(("policy", "baselines", "rounds"))
    ]
    steps.evaluate(context, start, scorers, policies, ResponseLogps(context), stages)
    return present.present(context, start.data)
