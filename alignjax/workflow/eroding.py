"""The erosion audit: the aligned policy is sampled in other ways, and its margins are measured again."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignjax.aot import shapes
from alignjax.aot.program import Use
from alignjax.config import SamplingSettings, determining
from alignjax.config.audit import FIELDS
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses, write_responses
from alignjax.dual.statistics import resampling_weights
from alignjax.evaluation.erosion import Attacked, Tried, erosion, told
from alignjax.evaluation.means import Scored, on_these_prompts
from alignjax.evaluation.response_stats import response_stats
from alignjax.models import Lora
from alignjax.policy import attacks
from alignjax.policy.attacks import Attack
from alignjax.policy.sampling import end_ids
from alignjax.policy.values import Policy
from alignjax.records.answer import DualAnswer
from alignjax.records.codec import read_record
from alignjax.records.erosion import Erosion
from alignjax.runtime.arrays import read_npz, write_npz
from alignjax.runtime.files import remove, write_record
from alignjax.scores import calibration as calib
from alignjax.scores.scorers import ImplicitScorer, require_tables
from alignjax.stages import Run, Stage, Work
from alignjax.workflow import stand_ins, uses
from alignjax.workflow.calibrate import Calibrated
from alignjax.workflow.groundwork import Data
from alignjax.workflow.measuring import Measurement, basis_of, prompts_of_test
from alignjax.workflow.prepared import Prepared
from alignjax.workflow.scoring import Scorers
from alignjax.workflow.setup import Setup, part

AUDITED = "aligned"
_FAR = (
    "Far from them, as at high temperature or under disalign, they measure less than elsewhere: before a "
    "margin there is believed, have people label some of the responses under audit/."
)
_IMPLICIT = (
    f"The scores are log-ratios of this run's own policies, calibrated on the data's responses. {_FAR}"
)
_LEARNED = f"The scores were calibrated on the data's responses. {_FAR}"
_OPENINGS = (
    "Prefill: at each length, the opening whose share among the least safe fifth of the reference's "
    "responses to these prompts is furthest above its share among the rest."
)


def eroded(run: Run, ready: Prepared, measured: Measurement) -> Erosion | None:
    """The audit that `config.audit` asks for: audit.json, and the responses under audit/; None: none is.

    Args:
      run: gives the values of stages.
      ready: values up to the multiplier.
      measured: the reference and the aligned policy on the test prompts, among others.
    """
    setup, data, by, calibration = ready.setup, ready.data, ready.by, ready.calibration
    chosen = setup.config.audit.chosen(adapter=measured.policies[AUDITED].lora is not None)
    if not chosen:
        return None
    tried = {name: run.do(_attacked(setup, data, by, calibration, measured, name)).tried for name in chosen}
    return run.do(_summed_up(setup, data, by, calibration, ready.answer, measured, tried))


class _Drawn(NamedTuple):
    """One attack, and its responses; none of these where it was loaded, since only saving reads them."""

    tried: Tried
    responses: list[Responses]


def _attacked(
    setup: Setup, data: Data, by: Scorers, calibration: Calibrated, measured: Measurement, name: str
) -> Stage[_Drawn]:
    """Responses of the aligned policy under one attack, and their scores: the folder audit/NAME."""
    policy, output, start = measured.policies[AUDITED], f"audit/{name}", _start(setup, name)
    prompts, settings = _prompts(setup, data), _sampling(setup)
    read = determining(setup.config.audit)
    fields = {field: read[field] for field in (*FIELDS[name], "num_prompts", "num_samples")}
    others = measured.determined_by("reference") if _takes_openings(setup, name) else ()

    def compute(work: Work) -> _Drawn:
        # The key of the policy's own responses: what differs from them differs by the attack.
        key, limit = setup.seeds.key(f"sample {policy.name}"), setup.config.model.max_prompt_length
        planned = _attacks(setup, data, calibration, measured, name)
        drawn = [
            attacks.draw_under(
                key, one, prompts, data.template, limit, setup.batching, part=_part_of(work, one)
            )
            for one in planned
        ]
        scored = _scored(setup, policy, drawn, by)
        points = [Attacked(one.strength, one.text, s) for one, s in zip(planned, scored, strict=True)]
        return _Drawn(Tried(start, points), drawn)

    def save(folder: Path, found: _Drawn) -> None:
        remove(folder / output)  # it may hold responses at strengths that are no longer tried
        for point, some in zip(found.tried.points, found.responses, strict=True):
            extra = {"attack": name, "strength": f"{point.strength:g}", "text": point.text}
            write_responses(folder / output / f"{point.strength:g}.jsonl", some, extra)
        write_npz(folder / output / "scores.npz", **_arrays(found.tried.points))

    return Stage(
        name=output,
        settings=part(setup, "refusals") | {"audit": fields, "sampling": determining(settings)},
        inputs=tuple(dict.fromkeys(("data", policy.stage, "scores", "calibration", *others))),
        outputs=(output,),
        compute=compute,
        save=save,
        slim=lambda found: _Drawn(found.tried, []),
        load=lambda folder, work: _Drawn(Tried(start, _points(read_npz(folder / output / "scores.npz"))), []),
        abstract=lambda: _Drawn(Tried(start, []), []),
        programs=lambda: _programs(setup, measured, prompts, by, name),
    )


def _part_of(work: Work, attack: Attack) -> Path | None:
    """The file that keeps finished prompts of one strength."""
    return work.file(f"{attack.strength:g}.jsonl")


def _summed_up(
    setup: Setup,
    data: Data,
    by: Scorers,
    calibration: Calibrated,
    answer: DualAnswer,
    measured: Measurement,
    tried: Mapping[str, Tried],
) -> Stage[Erosion]:
    """All attacks in one record, with intervals: audit.json."""
    config, prompts = setup.config, _prompts(setup, data)

    def compute(work: Work) -> Erosion:
        reference, plain = (_first(measured.scores[name], len(prompts)) for name in ("reference", AUDITED))
        rng = np.random.default_rng(setup.seeds.seed("audit"))
        record = erosion(
            reference,
            plain,
            tried,
            on_these_prompts(basis_of(data, calibration, answer, config.dimensions, prompts), len(prompts)),
            answer,
            setup.seeds.key("calibration"),
            resampling_weights(rng, len(prompts), config.bootstrap, population=False),
            left_out=config.audit.left_out(adapter=measured.policies[AUDITED].lora is not None),
            remarks=_remarks(setup, by, tried),
        )
        for line in told(record):
            setup.log.say(f"  {line}")
        return record

    own = [measured.policies[AUDITED].stage, *measured.determined_by("reference"), *measured.stages]
    return Stage(
        name="audit",
        settings=part(setup, "bootstrap") | {"attacks": list(tried), "prompts": config.audit.num_prompts},
        inputs=tuple(dict.fromkeys(("dual", "calibration", *own, *(f"audit/{name}" for name in tried)))),
        outputs=("audit.json",),
        compute=compute,
        save=lambda folder, record: write_record(folder / "audit.json", record),
        load=lambda folder, work: read_record(Erosion, folder / "audit.json"),
        abstract=lambda: Erosion({}, {}, 0, 0, (), {}, ()),
    )


def _attacks(
    setup: Setup, data: Data, calibration: Calibrated, measured: Measurement, name: str
) -> list[Attack]:
    """One attack at every strength but that at which nothing changes: there the policy was evaluated."""
    audit, policy, settings = setup.config.audit, measured.policies[AUDITED], _sampling(setup)
    strengths = [one for one in audit.strengths(name) if one != _start(setup, name)]
    plain = [Attack(strength, policy, _settings(settings, name, strength)) for strength in strengths]
    if name == "system":
        return [one._replace(system=audit.system, text=audit.system) for one in plain]
    if name == "prefill":
        if audit.prefill:
            lengths = audit.prefill_tokens
            prefixes = attacks.prefills_of_text(policy.tokenizer, data.template, audit.prefill, lengths)
        else:
            prefixes = _openings(setup, data, calibration, measured)
        decode = policy.tokenizer.decode
        return [
            Attack(len(ids), policy, settings, prefix=ids, text=str(decode(ids.tolist()))) for ids in prefixes
        ]
    if name in ("unmerge", "disalign"):
        changed = attacks.unmerged if name == "unmerge" else attacks.disaligned
        adapters = policy.lora
        assert adapters is not None, "AuditSettings.chosen leaves both out where there is none"
        return [one._replace(policy=policy._replace(lora=changed(adapters, one.strength))) for one in plain]
    return plain


def _settings(settings: SamplingSettings, name: str, strength: float) -> SamplingSettings:
    """How the policy is sampled at one strength."""
    if name == "temperature":
        return dataclasses.replace(settings, temperature=strength)
    if name == "top_p":
        return dataclasses.replace(settings, top_p=strength)
    if name == "truncation":
        return dataclasses.replace(settings, max_new_tokens=max(1, round(strength * settings.max_new_tokens)))
    return settings


def _start(setup: Setup, name: str) -> float:
    """The strength at which an attack changes nothing."""
    settings = _sampling(setup)
    starts = {"temperature": settings.temperature, "top_p": settings.top_p, "truncation": 1.0, "unmerge": 1.0}
    return starts.get(name, 0.0)


def _openings(setup: Setup, data: Data, calibration: Calibrated, measured: Measurement) -> list[np.ndarray]:
    """Openings of the reference's least safe responses to the audited prompts, one for each length."""
    count = len(_prompts(setup, data))
    drawn, reference = measured.responses["reference"], measured.policies["reference"]
    some = Responses(drawn.prompts[:count], drawn.texts[:count], drawn.tokens[:count])
    scores = calib.calibrated(calibration.fit, measured.scores["reference"].raw[:count])
    # Of several constraints the sum: all are in the logits of their labels.
    safety, ends = scores[..., 1:].sum(axis=-1), end_ids(reference.model)
    return [attacks.opening_of(some, safety, n, ends) for n in setup.config.audit.prefill_tokens]


def _takes_openings(setup: Setup, name: str) -> bool:
    return name == "prefill" and not setup.config.audit.prefill


def _remarks(setup: Setup, by: Scorers, tried: Mapping[str, Tried]) -> list[str]:
    implicit = any(isinstance(scorer, ImplicitScorer) for scorer in by.values())
    openings = any(_takes_openings(setup, name) for name in tried)
    return [_IMPLICIT if implicit else _LEARNED, *([_OPENINGS] if openings else [])]


def _prompts(setup: Setup, data: Data) -> list[Prompt]:
    """The first of the test prompts."""
    return prompts_of_test(setup, data)[: setup.config.audit.num_prompts]


def _sampling(setup: Setup) -> SamplingSettings:
    """How the policy is sampled without an attack: as in the evaluation, with fewer responses."""
    config = setup.config
    return dataclasses.replace(
        config.evaluation_sampling,
        num_prompts=config.audit.num_prompts,
        num_samples=config.audit.num_samples,
    )


def _scored(setup: Setup, policy: Policy, drawn: Sequence[Responses], by: Scorers) -> list[Scored]:
    """Scores of responses, to one set of them after the other; their KL is not defined, and is left at 0."""
    require_tables(by, setup.unscored, drawn=drawn)
    # One score after the other, and not one strength after the other: each model is read once.
    columns = [[scorer.responses(some) for some in drawn] for scorer in by.values()]
    ends, world, found = end_ids(policy.model), setup.world, []
    for i, some in enumerate(drawn):
        truth = None
        if world is not None:
            pairs = zip(some.prompts, some.texts, strict=True)
            truth = np.stack([world.true_scores(str(prompt), texts) for prompt, texts in pairs])
        raw = np.stack([column[i] for column in columns], axis=-1)
        stats = response_stats(some, ends, setup.config.refusals).mean(axis=1)
        found.append(Scored(raw, None, np.zeros(len(raw)), stats, truth))
    return found


def _first(scored: Scored, count: int) -> Scored:
    """The scores of the first prompts."""
    raw, kl, stats, truth = scored.raw[:count], scored.kl[:count], scored.stats[:count], scored.truth
    return Scored(raw, None, kl, stats, None if truth is None else truth[:count])


def _arrays(points: Sequence[Attacked]) -> dict[str, np.ndarray]:
    """What is kept of an attack: an array for each field, and for each strength."""
    found = {
        "strengths": np.array([one.strength for one in points]),
        "texts": np.array([p.text for p in points]),
    }
    for i, one in enumerate(points):
        found |= {f"{i}.raw": one.scored.raw, f"{i}.stats": one.scored.stats}
        found |= {} if one.scored.truth is None else {f"{i}.truth": one.scored.truth}
    return found


def _points(arrays: Mapping[str, np.ndarray]) -> list[Attacked]:
    """What `_arrays` keeps."""
    found = []
    for i, (strength, text) in enumerate(zip(arrays["strengths"], arrays["texts"], strict=True)):
        raw, stats, truth = arrays[f"{i}.raw"], arrays[f"{i}.stats"], arrays.get(f"{i}.truth")
        found.append(
            Attacked(float(strength), str(text), Scored(raw, None, np.zeros(len(raw)), stats, truth))
        )
    return found


def _programs(
    setup: Setup, measured: Measurement, prompts: Sequence[Prompt], by: Scorers, name: str
) -> Iterator[Use]:
    """What an attack runs: a plan knows no text, so that a prefix takes no token off the response."""
    policy, shape = measured.policies[AUDITED], setup.shape
    assert shape is not None, "only a plan asks for programs"
    ids = stand_ins.prompts(setup.config.model, shape.lengths, len(prompts))
    for strength in setup.config.audit.strengths(name):
        settings = _settings(_sampling(setup), name, strength)
        adapters = policy.lora
        if name == "disalign" and isinstance(adapters, Lora):  # a mixture keeps its shapes
            adapters = shapes.mixture([adapters], setup.batching.mesh)
        yield from uses.draws(policy._replace(lora=adapters), ids, settings, setup.batching)
        some = stand_ins.responses(setup.config.model, shape.lengths, prompts, settings)
        yield from uses.scoring_responses(by.values(), some, setup.batching)
