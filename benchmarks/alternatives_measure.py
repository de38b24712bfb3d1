"""Measures policies by the true scores of the world `assistant`, and keeps what `alternatives.py` finds."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from alignjax.data.tokenize import tokenize_prompts
from alignjax.data.worlds import world_for
from alignjax.models import Model
from alignjax.policy import response_kl, sample, sampled_responses
from alignjax.records.codec import optional, read_record
from alignjax.records.figure import Figure
from alignjax.runtime.files import write_record

SAMPLES, KEY = 24, 20_240_519  # responses to each test prompt, and the key that all policies are drawn with


@dataclasses.dataclass(frozen=True)
class Point:
    """One policy. Rewards and margins are true scores minus the reference's, on the same test prompts.

    Attributes:
      seed: of the data, the reference and the trainings.
      method: a key of `alternatives_picture.METHODS`.
      setting: what its user chose, in words.
      trainings: models trained until this policy was there, the answers before it included.
      samples: responses drawn of policies until then.
      reward: mean over prompts, and its 95% interval.
      margin: the same of safety.
      kl: KL(policy || reference), nats a prompt.
      asked: the margin that was asked for; None: the method is not asked for one.
      forecast: the margin and the reward that were forecast before the last training; None: no forecast.
      verified: whether the run's own test showed what was asked; None: there is no such test.
    """

    seed: int
    method: str
    setting: str
    trainings: int
    samples: int
    reward: Figure
    margin: Figure
    kl: float
    asked: float | None = optional()
    forecast: tuple[float, float] | None = optional()
    verified: bool | None = optional()


@dataclasses.dataclass(frozen=True)
class Curve:
    """The forecast of one seed before any final training: what a multiplier gains and costs.

    Attributes:
      margins: of safety above the reference's, in the units of the calibrated scores.
      rewards: above the reference's, in the same order.
    """

    margins: tuple[float, ...]
    rewards: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Found:
    """All that was measured.

    Attributes:
      points: of all seeds.
      curves: by seed.
      seconds: by part and seed, wall clock.
      beta: KL weight of every policy.
    """

    FORMAT: ClassVar[int] = 1

    points: tuple[Point, ...] = ()
    curves: Mapping[str, Curve] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    beta: float = 0.0

    def with_points(self, points: list[Point]) -> "Found":
        """These and the new ones, which replace what was measured before of the same method and seed."""
        new = {(point.seed, point.method) for point in points}
        kept = [point for point in self.points if (point.seed, point.method) not in new]
        return dataclasses.replace(self, points=(*kept, *points))

    def of_seeds(self, seeds: Sequence[int]) -> "Found":
        """What was measured of these seeds alone."""
        points = tuple(point for point in self.points if point.seed in seeds)
        curves = {seed: curve for seed, curve in self.curves.items() if int(seed) in seeds}
        return dataclasses.replace(self, points=points, curves=curves)


def read(path: Path) -> Found:
    """The record of a file; an empty one where there is none."""
    return read_record(Found, path) if path.exists() else Found()


def write(path: Path, found: Found) -> None:
    """Writes the record."""
    write_record(path, found)


class Truth(NamedTuple):
    """True scores of a policy's responses.

    Attributes:
      scores: [N, 2] means over the responses to each test prompt: helpfulness, safety.
      kl: nats a prompt.
    """

    scores: np.ndarray
    kl: float


def truth_of(model: Model, reference: Model) -> Truth:
    """Draws `SAMPLES` responses to every test prompt and scores them by the world's formulas.

    Args:
      model: the whole policy, adapters merged.
      reference: pi_ref.
    """
    world = world_for("assistant")
    prompts = [*world.prompts_test]
    limit = world.max_prompt_length
    ids, _ = tokenize_prompts(world.tokenizer, world.template, prompts, max_prompt_length=limit)
    drawn = sample(KEY, model, ids, num_samples=SAMPLES, max_new_tokens=world.max_response_length)
    responses = sampled_responses(ids, drawn)
    texts = world.tokenizer.batch_decode([one.response_ids for one in responses], skip_special_tokens=True)
    rows = [texts[i * SAMPLES : (i + 1) * SAMPLES] for i in range(len(prompts))]
    scores = [world.true_scores(prompt, row).mean(axis=0) for prompt, row in zip(prompts, rows, strict=True)]
    return Truth(np.array(scores), float(response_kl(model, reference, responses, batch_size=256).mean()))


def gains(policy: Truth, reference: Truth) -> tuple[Figure, Figure]:
    """Reward and margin above the reference's, with 95% intervals over prompts."""
    differences = policy.scores - reference.scores
    means = differences.mean(axis=0)
    half = 1.96 * differences.std(axis=0, ddof=1) / np.sqrt(len(differences))
    found = [Figure(float(m), float(m - h), float(m + h)) for m, h in zip(means, half, strict=True)]
    return found[0], found[1]
