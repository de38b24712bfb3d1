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

import numpy as np

from alignjax.config import to_mapping
from alignjax.models import Model
from alignjax.stages import write_json
from alignjax.workflow import assess, dualize, labels, preferences, present, scoring, training
from alignjax.workflow.context import Context
from alignjax.workflow.scoring import Policy
from alignjax.workflow.training import LabelledPairs


def pecan(context: Context) -> str:
    """Runs every stage; returns the last table.

    Raises:
      InputError: data, model or scores cannot be used.
      InfeasibleError: the constraints cannot be met on the samples.
    """
    config, stages, workdir = context.config, context.stages, context.workdir
    settings, names = to_mapping(config), config.dimensions

    def part(*fields: str) -> dict[str, object]:
        return {"seed": config.seed, **{field: settings[field] for field in fields}}

    # 0. The reference policy and the labelled pairs.
    world, files = context.world, {"files": context.digests}
    stages.run(
        "reference",
        lambda: training.train_reference(context, world) if world is not None else None,
        settings=part("reference", "reference_examples", "model") | {"world": config.data.world} | files,
        outputs=["reference"] if world is not None else [],
    )
    model: Model = training.load_reference(context)
    reference = Policy("reference", model, None, stages.fingerprints["reference"])
    template = preferences.template_of(context, scoring.tokenizer_of(model))
    data = preferences.load(context, scoring.tokenizer_of(model), template)
    stages.run(
        "data",
        lambda: write_json(workdir / "data.json", data.counts),
        settings=part("data", "model") | {"dimensions": list(names)} | files,
        inputs=["reference"],
        outputs=["data.json"],
    )
    for name, counts in data.counts.items():
        context.say(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in counts.items()))

    # 1. Pre-align on each dimension alone.
    scorers = {}
    for name in names:
        train, held_out = data.dimensions[name]
        stages.run(
            name,
            lambda name=name, train=train, held_out=held_out: training.train_dpo(
                context,
                name,
                reference,
                LabelledPairs(train.tokens, train.labels),
                LabelledPairs(held_out.tokens, held_out.labels),
                config.prealign,
                beta=config.beta_pre,
            ),
            settings=part("prealign", "lora", "beta_pre"),
            inputs=["data"],
            outputs=[f"{name}/best"],
        )
        scorers[name] = training.load_policy(context, name, reference, name)

    # 2. Implicit scores of the reference's own samples.
    samples = workdir / "samples.jsonl"
    stages.run(
        "samples",
        lambda: scoring.write_responses(
            samples, scoring.draw(context, reference, template, data.train_prompts, config.sampling), {}
        ),
        settings=part("sampling"),
        inputs=["data"],
        outputs=["samples.jsonl"],
    )

    def score() -> None:
        drawn = scoring.read_responses(samples, context, reference, template, data.train_prompts)
        found, _ = scoring.response_scores(context, reference, scorers, drawn, config.beta_pre)
        scoring.write_npz(workdir / "scores_raw.npz", scores=found)

    stages.run("scores", score, settings=part(), inputs=["samples", *names], outputs=["scores_raw.npz"])
    with np.load(workdir / "scores_raw.npz") as stored:
        raw = stored["scores"]

    # 3. Calibrated on held-out labels, 4. the dual, 5. the new labels.
    stages.run(
        "calibration",
        lambda: dualize.calibrate(context, data, reference, scorers, raw),
        settings=part("calibrate", "calibration", "accept_uninformative"),
        inputs=["scores"],
        outputs=["calibration.json", "scores.npz"],
    )
    stages.run(
        "dual",
        lambda: dualize.dualize(context, raw),
        settings=part("constraints", "lam", "beta", "bootstrap"),
        inputs=["calibration"],
        outputs=["dual.json"],
    )
    stages.run(
        "labels",
        lambda: labels.relabel(context, data, reference, scorers),
        settings=part("hard_labels", "raw_labels"),
        inputs=["dual"],
        outputs=["labels.jsonl"],
    )

    # 6. Align once, 7. audit, and tell.
    stages.run(
        "policy",
        lambda: training.train_dpo(
            context,
            "policy",
            reference,
            LabelledPairs(data.align, labels.read_labels(workdir)),
            None,
            config.align,
            beta=config.beta,
        ),
        settings=part("align", "lora", "beta"),
        inputs=["labels"],
        outputs=["policy/best"],
    )
    aligned = training.load_policy(context, "policy", reference, "aligned")
    stages.run(
        "evaluation",
        lambda: assess.evaluate(context, data, template, reference, scorers, aligned),
        settings=part("evaluation", "bootstrap"),
        inputs=["policy"],
        outputs=["evaluation.json", "evaluation_scores.npz"],
    )
    return present.present(context, data)
