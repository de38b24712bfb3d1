"""The stages in which judges of the configuration are asked about the policies' responses."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.aot.program import Use
from alignjax.aot.shapes import score_model as abstract_score_model
from alignjax.config import GUARDS, SCORE_MODELS, JudgeSettings, SamplingSettings
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses
from alignjax.evaluation import judges
from alignjax.evaluation.judge_prompts import ANSWER_TOKENS
from alignjax.evaluation.judges import Judged
from alignjax.evaluation.model_judges import (
    Questioner,
    Ruling,
    by_comparison,
    by_guard,
    by_score_model,
    record_of,
)
from alignjax.models import Model, ScoreModel, load_pretrained, load_score_model
from alignjax.models.tokenizer_alone import read_tokenizer
from alignjax.policy.values import Policy
from alignjax.records.evaluation import JudgeRecord
from alignjax.runtime.arrays import read_npz, write_npz
from alignjax.runtime.files import write_text
from alignjax.runtime.line_log import LineLog
from alignjax.scores.reading import reader_of
from alignjax.scores.scorers import LearnedScorer
from alignjax.stages import Run, Stage, Work
from alignjax.workflow import uses
from alignjax.workflow.groundwork import Data, with_kernel
from alignjax.workflow.judge_sources import asked_of, settings_of
from alignjax.workflow.measuring import Measurement
from alignjax.workflow.scoring import responses_stage
from alignjax.workflow.setup import Setup, content

Lines = list[dict[str, Any]]


class Judging(NamedTuple):
    """What judges found that a stage asked; mappings are by dimension.

    Attributes:
      rulings: who wins.
      records: as evaluation.json has them.
      stages: names of the stages.
    """

    rulings: Mapping[str, Ruling]
    records: Mapping[str, JudgeRecord]
    stages: tuple[str, ...]


def judged(run: Run, setup: Setup, data: Data, reference: Policy, measured: Measurement) -> Judging:
    """Asks every judge that is a model, and functions with prompts of their own, each in a stage of its own.

    Args:
      run: gives the values of stages.
      setup: of the run.
      data: its template, and the prompts that are trained on.
      reference: pi_ref.
      measured: all policies on the test prompts, the reference first.

    Raises:
      InputError: a prompt or a folder cannot be used.
    """
    rulings, records, stages = dict[str, Ruling](), dict[str, JudgeRecord](), list[str]()
    for name, asked in asked_of(setup, data.pairs, data.template, reference).items():
        drawn, made_by = measured.responses, measured.stages
        own = asked.prompts is not None
        if asked.prompts is not None:
            drawn, made_by = _drawn(run, setup, data, measured, name, asked.prompts)
        stage = _ruled(setup, data, reference, drawn, name, made_by)
        rulings[name] = run.do(stage)
        stages.append(stage.name)
        records[name] = record_of(rulings[name], own_prompts=own, trained_on=asked.trained_on, cut=asked.cut)
        if setup.shape is None:
            _tell(setup, name, records[name])
    return Judging(rulings, records, tuple(stages))


def _drawn(
    run: Run, setup: Setup, data: Data, measured: Measurement, name: str, prompts: Sequence[Prompt]
) -> tuple[dict[str, Responses], tuple[str, ...]]:
    """Every policy's responses to a judge's own prompts, and the stages that drew them."""
    found, stages = dict[str, Responses](), list[str]()
    of_file = content(setup, setup.config.judges[name].prompts)
    for called, policy in measured.policies.items():
        stage, file = f"evaluation samples for {name}/{called}", f"judge_samples/{name}/{called}.jsonl"
        drawing = responses_stage(setup, policy, data, prompts, stage, file, "evaluation")
        drawing = dataclasses.replace(drawing, settings={**drawing.settings, "prompts": of_file})
        found[called] = run.do(drawing)
        stages.append(stage)
    return found, tuple(stages)


def _ruled(
    setup: Setup,
    data: Data,
    reference: Policy,
    drawn: Mapping[str, Responses],
    name: str,
    made_by: tuple[str, ...],
) -> Stage[Ruling]:
    """What one judge finds: judges/NAME.npz, and judges/NAME.jsonl with every answer of a model."""
    judge = setup.config.judges[name]
    arrays, answers = f"judges/{name}.npz", f"judges/{name}.jsonl"
    called = judge.preset or judge.function
    prompts = len(next(iter(drawn.values())).prompts)
    kept = dict[str, Lines]()  # from `compute` to `save`

    def compute(work: Work) -> Ruling:
        if judge.preset is None:
            ruling, kept[name] = _by_function(name, judge, drawn), []
        elif judge.preset in SCORE_MODELS:
            ruling, kept[name] = _by_scores(setup, data, reference, name, judge, drawn)
        else:
            ruling, kept[name] = _by_words(setup, name, judge, drawn, work)
        return ruling

    def save(folder: Path, ruling: Ruling) -> None:
        fields = {"shares": ruling.judged.shares, "lead": ruling.judged.lead, "safe": ruling.safe}
        fields |= {"hazards": ruling.hazards}
        counts = np.array([ruling.judged.comparisons, ruling.asked, ruling.unread, ruling.too_long])
        there = {key: value for key, value in fields.items() if value is not None}
        write_npz(folder / arrays, counts=counts, **there)
        write_text(folder / answers, "".join(json.dumps(line) + "\n" for line in kept.pop(name)))

    def load(folder: Path, work: Work) -> Ruling:
        found = read_npz(folder / arrays)
        comparisons, *counts = found["counts"].tolist()
        who = Judged(called, found["shares"], comparisons, found.get("lead"))
        return Ruling(tuple(drawn), who, found.get("safe"), *counts, hazards=found.get("hazards"))

    def abstract() -> Ruling:
        shares = np.full((len(drawn), len(drawn), prompts), 0.5)
        return Ruling(tuple(drawn), Judged(called, shares, 1, None), None, 0)

    return Stage(
        name=f"evaluation by the judge of {name}",
        settings={"judge": settings_of(setup, judge), "dtype": setup.config.model.dtype},
        inputs=tuple(dict.fromkeys(made_by)),
        outputs=(arrays, answers),
        compute=compute,
        save=save,
        load=load,
        abstract=abstract,
        programs=lambda: _programs(setup, reference, name, judge, drawn),
    )


def _by_function(name: str, judge: JudgeSettings, drawn: Mapping[str, Responses]) -> Ruling:
    first = {called: [row[0] for row in some.texts] for called, some in drawn.items()}
    prompts = next(iter(drawn.values())).prompts
    found = judges.by_function(judge.function, f"config.judges.{name}.function", prompts, first)
    return Ruling(tuple(drawn), found, None, len(prompts) * len(drawn) * (len(drawn) - 1))


def _by_scores(
    setup: Setup,
    data: Data,
    reference: Policy,
    name: str,
    judge: JudgeSettings,
    drawn: Mapping[str, Responses],
) -> tuple[Ruling, Lines]:
    """Scores of a reward or cost model, which reads responses as one that `config.scores` names."""
    path, preset, settings = judge.path or "", judge.preset or "", setup.config.model
    tokenizer, vocab_size = reference.tokenizer, reference.model.config.vocab_size

    def read() -> ScoreModel:
        model = load_score_model(Path(path).expanduser(), dtype=settings.dtype, mesh=setup.batching.mesh)
        # A classifier's folder does not say which of the two it is.
        kind = "cost" if preset == "cost" else "reward"
        return model.replace(config=with_kernel(setup, model.config), kind=kind)

    load = functools.partial(setup.models.get, f"judge {name}", read)
    reader = reader_of(
        load(),
        tokenizer,
        data.template,
        own_template=judge.template,
        max_length=settings.max_length,
        max_prompt_length=settings.max_prompt_length,
        vocab_size=vocab_size,
        where=path,
        field=f"config.judges.{name}.template",
        say=setup.log.say,
    )
    scorer = LearnedScorer(f"judge of {name}", lambda: (load(), None), setup.batching, reader)
    utilities = {called: scorer.responses(some) for called, some in drawn.items()}
    setup.models.forget(f"judge {name}")
    lines = [
        {"policy": called, "prompt_id": i, "response": text, "utility": round(float(score), 4)}
        for called, some in drawn.items()
        for i, row in enumerate(some.texts)
        for text, score in zip(row, utilities[called][i], strict=True)
    ]
    return by_score_model(preset, utilities), lines


def _by_words(
    setup: Setup, name: str, judge: JudgeSettings, drawn: Mapping[str, Responses], work: Work
) -> tuple[Ruling, Lines]:
    """Answers of a guard or a general chat model."""
    path, preset, settings = Path(judge.path or "").expanduser(), judge.preset or "", setup.config.model

    def read() -> Model:
        model = load_pretrained(path, dtype=settings.dtype, mesh=setup.batching.mesh)
        return model.replace(config=with_kernel(setup, model.config))

    file = work.file("answers.jsonl")
    questioner = Questioner(
        functools.partial(setup.models.get, f"judge {name}", read),
        setup.batching.mesh,
        f"{preset} of {name}",
        None if file is None else LineLog(file),
    )
    where = f"config.judges.{name}"
    tokenizer = read_tokenizer(path)
    if preset in GUARDS:
        found = by_guard(questioner, tokenizer, preset, drawn, own=judge.template, where=where)
    else:
        found = by_comparison(questioner, tokenizer, name, drawn, own=judge.template, where=where)
    setup.models.forget(f"judge {name}")
    return found


def _tell(setup: Setup, name: str, record: JudgeRecord) -> None:
    """Says what has no verdict, and every policy's rate."""
    if record.own_prompts:
        setup.log.say(
            f"  judge of {name}: {record.prompts} prompts of its own; {record.trained_on} of them are among "
            f"those that this run trains on, {record.prompts_cut} are too long and were cut"
        )
    lost = record.unread + record.too_long
    if lost:
        setup.log.say(
            f"  judge of {name}: {record.unread} answers of {record.judge} could not be read and "
            f"{record.too_long} questions were too long, of {record.asked + record.too_long}; they count as "
            f"no verdict (judges/{name}.jsonl has all answers)"
        )
    for policy, rate in (record.safe or {}).items():
        setup.log.say(f"  {policy}: {rate.mean:.1%} safe by {record.judge} [{rate.low:.1%}, {rate.high:.1%}]")


def _programs(
    setup: Setup, reference: Policy, name: str, judge: JudgeSettings, drawn: Mapping[str, Responses]
) -> list[Use]:
    """Of a judge of the reference's size, which a plan stands in for the judge's own."""
    if judge.preset is None:
        return []
    config, batching = setup.config, setup.batching
    if judge.preset in SCORE_MODELS:
        kind = "cost" if judge.preset == "cost" else "reward"
        model = abstract_score_model(
            reference.model.config, batching.mesh, kind=kind, where=f"the judge of {name}"
        )
        load = lambda: (model, None)  # noqa: E731
        return [uses.response_scores(f"judge of {name}", load, some, batching) for some in drawn.values()]
    count = sum(len(some.flat) for some in drawn.values())
    if judge.preset not in GUARDS:
        count = len(next(iter(drawn.values())).prompts) * len(drawn) * (len(drawn) - 1)
    settings = SamplingSettings(num_samples=1, max_new_tokens=ANSWER_TOKENS[judge.preset])
    question = np.zeros(2 * config.model.max_length, np.int32)
    policy = reference._replace(name=f"judge {name}", lora=None)
    return uses.draws(policy, [question] * count, settings, batching)
