"""The stages that sample policies on test prompts and score the responses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignjax.aot.program import Use
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses
from alignjax.data.tokenize import Template, TokenizedResponse, tokenize_prompts
from alignjax.data.worlds import Enumeration
from alignjax.evaluation.means import Basis, Scored
from alignjax.evaluation.response_stats import response_stats
from alignjax.policy.sampling import end_ids
from alignjax.policy.values import Policy
from alignjax.records.answer import DualAnswer
from alignjax.runtime.arrays import read_npz, write_npz
from alignjax.scores.scorers import require_tables, score_responses
from alignjax.stages import Run, Stage
from alignjax.workflow import own_samples, uses
from alignjax.workflow.calibrate import Calibrated
from alignjax.workflow.groundwork import Data
from alignjax.workflow.scoring import Scorers, responses_stage
from alignjax.workflow.setup import Setup, part


class Measurement(NamedTuple):
    """Policies on the test prompts. Mappings are by policy.

    Attributes:
      policies: the reference first.
      responses: of every policy; none in a world whose every response is listed.
      scores: of the responses.
      stages: names of the stages that made the scores.
    """

    policies: Mapping[str, Policy]
    responses: Mapping[str, Responses]
    scores: Mapping[str, Scored]
    stages: tuple[str, ...]

    def with_others(self, other: "Measurement") -> "Measurement":
        """These policies, then those of `other`."""
        return Measurement(
            {**self.policies, **other.policies},
            {**self.responses, **other.responses},
            {**self.scores, **other.scores},
            (*self.stages, *other.stages),
        )

    def renamed(self, old: str, new: str) -> "Measurement":
        """The same with one policy under another name."""

        def moved(values: Mapping[str, object]) -> dict[str, object]:
            return {new if name == old else name: value for name, value in values.items()}

        policies, responses, scores = (moved(one) for one in (self.policies, self.responses, self.scores))
        return self._replace(policies=policies, responses=responses, scores=scores)

    def determined_by(self, name: str) -> tuple[str, ...]:
        """The stages that one policy's scores rest on, whatever other policies were scored beside it."""
        drawn = name in self.responses
        return ("scores", f"evaluation samples/{name}" if drawn else self.policies[name].stage)


def prompts_of_test(setup: Setup, data: Data) -> list[Prompt]:
    """The prompts that the test and the evaluation use; all there are where they are listed."""
    kept = kept_for_test(setup, data)
    return kept if setup.population else kept[: setup.config.num_test_prompts]


def kept_for_test(setup: Setup, data: Data) -> list[Prompt]:
    """All prompts that nothing but the test and the evaluation may use, whether they do or not."""
    world = setup.world
    if world is not None and world.enumeration is not None:
        return [*world.enumeration.prompts]
    return data.pairs.test_prompts


def basis_of(
    data: Data,
    calibration: Calibrated,
    answer: DualAnswer,
    dimensions: tuple[str, ...],
    prompts: Sequence[Prompt],
) -> Basis:
    """What raw scores of responses to these prompts mean for the constraints of an answer."""
    columns = dict.fromkeys(unit.column for unit in answer.units.values() if unit.column is not None)
    categories = {column: data.pairs.category_of(column, prompts) for column in columns}
    return Basis(calibration.fit, answer.units, dimensions, categories)


def measured(
    run: Run,
    setup: Setup,
    data: Data,
    reference: Policy,
    policies: Mapping[str, Policy],
    by: Scorers,
    name: str,
) -> Measurement:
    """Samples and scores policies on the test prompts, each in a stage of its own.

    Args:
      run: gives the values of stages.
      setup: of the run.
      data: with the prompts.
      reference: pi_ref.
      policies: by name, as they are called in files.
      by: scorers.
      name: of the stage that scores them.
    """
    drawn = {}
    if not setup.population:
        prompts = prompts_of_test(setup, data)
        for called, policy in policies.items():
            stage, file = f"evaluation samples/{called}", f"evaluation_samples/{called}.jsonl"
            drawn[called] = run.do(responses_stage(setup, policy, data, prompts, stage, file, "evaluation"))
    scores = run.do(_scored(setup, data, reference, policies, drawn, by, name))
    return Measurement(policies, drawn, scores, (f"evaluation scores/{name}",))


def _scored(
    setup: Setup,
    data: Data,
    reference: Policy,
    policies: Mapping[str, Policy],
    drawn: Mapping[str, Responses],
    by: Scorers,
    name: str,
) -> Stage[dict[str, Scored]]:
    """Raw scores, KL and statistics of every policy's responses: evaluation_scores/NAME.npz."""
    world = setup.world
    made_by = [f"evaluation samples/{called}" for called in drawn] or [one.stage for one in policies.values()]
    file = f"evaluation_scores/{name}.npz"

    def compute(work: object) -> dict[str, Scored]:
        if world is not None and world.enumeration is not None:
            return _exact(setup, world.enumeration, data.template, reference, policies, by)
        return _sampled(setup, reference, policies, drawn, by)

    def save(folder: Path, found: Mapping[str, Scored]) -> None:
        arrays = {
            f"{called}.{field}": value
            for called, one in found.items()
            for field, value in one._asdict().items()
            if value is not None
        }
        write_npz(folder / file, **arrays)

    def load(folder: Path, work: object) -> dict[str, Scored]:
        arrays = read_npz(folder / file)
        return {
            called: Scored(
                arrays[f"{called}.raw"],
                arrays.get(f"{called}.weights"),
                arrays[f"{called}.kl"],
                arrays[f"{called}.stats"],
                arrays.get(f"{called}.truth"),
            )
            for called in policies
        }

    size = 1 + len(setup.config.constraints)
    prompts = len(prompts_of_test(setup, data))
    return Stage(
        name=f"evaluation scores/{name}",
        settings=part(setup, "refusals"),
        inputs=("scores", *dict.fromkeys(made_by)),
        outputs=(file,),
        compute=compute,
        save=save,
        load=load,
        abstract=lambda: {
            called: Scored(np.zeros((prompts, 1, size)), None, np.zeros(prompts), np.zeros((prompts, 4)))
            for called in policies
        },
        programs=lambda: _programs(setup, reference, policies, drawn, by),
    )


def _sampled(
    setup: Setup,
    reference: Policy,
    policies: Mapping[str, Policy],
    drawn: Mapping[str, Responses],
    by: Scorers,
) -> dict[str, Scored]:
    """Responses that were sampled from each policy."""
    require_tables(by, setup.unscored, drawn=list(drawn.values()))
    # First, because the same pass gives the log-probabilities that log-ratios are made of.
    kl = {
        name: setup.logps.kl_of_responses(policy, reference, drawn[name]).mean(axis=1)
        for name, policy in policies.items()
    }
    for name, policy in policies.items():
        if policy is reference:
            own_samples.use_drawing(setup.logps, by.values(), drawn[name], setup.log.say)
    # One score after the other, and not one policy after the other: each model is read once.
    columns = [{name: scorer.responses(some) for name, some in drawn.items()} for scorer in by.values()]
    world, found = setup.world, {}
    for name, policy in policies.items():
        some = drawn[name]
        truth = None
        if world is not None:
            pairs = zip(some.prompts, some.texts, strict=True)
            truth = np.stack([world.true_scores(str(prompt), texts) for prompt, texts in pairs])
        found[name] = Scored(
            raw=np.stack([column[name] for column in columns], axis=-1),
            weights=None,
            kl=kl[name],
            stats=response_stats(some, end_ids(policy.model), setup.config.refusals).mean(axis=1),
            truth=truth,
        )
    return found


def _exact(
    setup: Setup,
    world: Enumeration,
    template: Template,
    reference: Policy,
    policies: Mapping[str, Policy],
    by: Scorers,
) -> dict[str, Scored]:
    """All responses of every prompt, with each policy's probabilities."""
    listed = all_responses(world, template, reference)
    require_tables(by, setup.unscored, drawn=[listed])
    scores = score_responses(by, listed)
    stats = response_stats(listed, end_ids(reference.model), setup.config.refusals)
    ref, found = setup.logps.of_responses(reference, listed), {}
    for name, policy in policies.items():
        logps = setup.logps.of_responses(policy, listed)
        weights = np.exp(logps)
        kl = np.sum(weights * (logps - ref), axis=1)
        found[name] = Scored(scores, weights, kl, np.einsum("ty,tyd->td", weights, stats), world.scores)
    return found


def all_responses(world: Enumeration, template: Template, reference: Policy) -> Responses:
    """Every response to every prompt of a world that lists them."""
    prompts = list(world.prompts)
    limit = max(len(prompt.split()) for prompt in prompts)
    ids, _ = tokenize_prompts(reference.tokenizer, template, prompts, max_prompt_length=limit)
    rows = [tokens[:length] for tokens, length in zip(world.tokens, world.lengths, strict=True)]
    listed = [[TokenizedResponse(prompt, row) for row in rows] for prompt in ids]
    return Responses([*prompts], [list(world.texts)] * len(prompts), listed)


def _programs(
    setup: Setup,
    reference: Policy,
    policies: Mapping[str, Policy],
    drawn: Mapping[str, Responses],
    by: Scorers,
) -> list[Use]:
    world = setup.world
    if world is not None and world.enumeration is not None:
        listed = _listed(world.enumeration)
        every = {"reference": reference, **policies}
        found = [uses.response_logps(policy, listed, setup.batching) for policy in every.values()]
        return found + list(uses.scoring_responses(by.values(), listed, setup.batching))
    batching = setup.batching
    others = {name: policy for name, policy in policies.items() if policy is not reference}
    found = [uses.divergence(policy, reference, drawn[name], batching) for name, policy in others.items()]
    for name, policy in policies.items():
        if policy is reference:
            found += own_samples.programs_of(by.values(), drawn[name], batching)
    for scorer in by.values():
        for name, policy in others.items():
            known = policy.name, reference.name
            found += uses.scoring_responses([scorer], drawn[name], batching, known=known)
    return found


def _listed(world: Enumeration) -> Responses:
    """Shapes of `all_responses`."""
    width = max(len(prompt.split()) for prompt in world.prompts)
    prompt = np.zeros(width, np.int32)
    row = [
        TokenizedResponse(prompt, tokens[:n]) for tokens, n in zip(world.tokens, world.lengths, strict=True)
    ]
    count = len(world.prompts)
    return Responses([*world.prompts], [list(world.texts)] * count, [row] * count)
