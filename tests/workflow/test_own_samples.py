"""The reference's log-probabilities of its own samples: those of drawing, where a part of them agrees."""

import dataclasses

import jax
import numpy as np
import pytest

from alignjax.config import SamplingSettings, from_mapping
from alignjax.data.tokenize import Template
from alignjax.models.model_cache import ModelCache
from alignjax.policy import known_logps
from alignjax.policy.drawing import draw, prompt_ids
from alignjax.policy.kept_logps import CHECKED
from alignjax.policy.known_logps import LogpsCache, kl_of_responses, logps_of_responses
from alignjax.runtime.log import Log
from alignjax.scores.scorers import ImplicitScorer, score_responses
from alignjax.workflow import measuring
from alignjax.workflow.own_samples import planned_logps, programs_of, use_drawing
from alignjax.workflow.setup import Setup

PROMPTS = [f"{first} {second}" for first in "abcdef" for second in "abcdef"]


@pytest.fixture(scope="module")
def drawn(reference, batching):
    """288 responses, more than are compared."""
    return drawn_from(reference, batching)


def drawn_from(policy, batching):
    ids = prompt_ids(policy, Template("plain", "{prompt}"), PROMPTS, 2)
    settings = SamplingSettings(num_prompts=36, num_samples=8, max_new_tokens=4)
    return draw(jax.random.key(1), policy, PROMPTS, ids, settings, batching)


@pytest.fixture
def computed(monkeypatch):
    """Of every pass over responses its policy's name, or KL, and how many responses there were."""
    seen = []

    def watched(name, called):
        real = getattr(known_logps, name)

        def counting(policy, *more):
            seen.append((called or policy.name, len(more[-2].flat)))
            return real(policy, *more)

        monkeypatch.setattr(known_logps, name, counting)

    watched("logps_of_responses", None)
    watched("divergences_of_responses", "KL")
    return seen


def scorers(reference, other, cache, batching):
    second = other._replace(name="second", fingerprint="ef" * 32)
    return {
        policy.name: ImplicitScorer(reference, policy, beta, cache, batching)
        for policy, beta in ((other, 0.5), (second, 0.1))
    }


def test_scores_are_the_same_and_the_reference_reads_a_part_alone(
    reference, other, batching, drawn, computed
):
    cache, said = LogpsCache(batching), []
    by = scorers(reference, other, cache, batching)
    use_drawing(cache, by.values(), drawn, said.append)
    found = score_responses(by, drawn)
    # Eight responses to each of 32 prompts are computed both ways.
    assert computed == [("other", 256), ("second", 256), ("reference", 256), ("other", 288), ("second", 288)]
    assert len(said) == 1 and "own 288 samples are those of drawing (on 256 of them a forward" in said[0]
    ratio = logps_of_responses(other, drawn, batching) - logps_of_responses(reference, drawn, batching)
    np.testing.assert_allclose(found, np.stack([0.5 * ratio, 0.1 * ratio], axis=-1), atol=1e-5)
    assert np.abs(ratio).max() > 0.1
    planned = programs_of(by.values(), drawn, batching)
    assert [(use.what.split()[-1], use.examples) for use in planned] == [
        (name, count) for name, count in [("reference", 256), *computed[:2], *computed[3:]]
    ]


@pytest.mark.parametrize("fault", ["shift", "noise"])
def test_what_is_too_far_off_is_computed_anew(reference, other, batching, drawn, computed, fault):
    rng = np.random.default_rng(0)
    error = 0.1 if fault == "shift" else 0.3 * rng.normal(size=(36, 8))
    off = drawn._replace(logps=(drawn.logps + error).astype(np.float32))
    cache, said = LogpsCache(batching), []
    by = scorers(reference, other, cache, batching)
    use_drawing(cache, by.values(), off, said.append)
    found = by["other"].responses(off)
    assert computed[-1] == ("reference", 288) and "are computed anew, because those" in said[0]
    ratio = logps_of_responses(other, drawn, batching) - logps_of_responses(reference, drawn, batching)
    np.testing.assert_allclose(found, 0.5 * ratio, atol=1e-5)


def test_where_nothing_is_kept_nothing_is_compared(reference, other, batching, drawn, computed):
    cache = LogpsCache(batching)
    by = scorers(reference, other, cache, batching)
    few = drawn._replace(tokens=drawn.tokens[:32], texts=drawn.texts[:32], logps=drawn.logps[:32])
    assert few.logps.size == CHECKED
    for some in (few, drawn._replace(logps=None)):
        use_drawing(cache, by.values(), some, pytest.fail)
        planned = programs_of(by.values(), some, batching)
        assert [use.what.split()[-1] for use in planned] == ["reference", "other", "reference", "second"]
    use_drawing(cache, [], drawn, pytest.fail)
    assert computed == []


def test_in_an_evaluation_nothing_is_computed_twice(reference, other, batching, drawn, computed):
    settings = {"method": "pecan", "model": {"path": "x"}, "constraints": {"safety": {"margin": 1.0}}}
    sources = dict.fromkeys(("reward", "safety"), {"path": "x"})
    config = from_mapping(settings | {"data": {"sources": sources}})
    setup = Setup(config, batching, Log(), LogpsCache(batching), ModelCache(one=False))
    by = scorers(reference, other, setup.logps, batching)
    policies, own = {"reference": reference, "other": other}, drawn_from(other, batching)
    responses = {"reference": drawn, "other": own}
    found = measuring._sampled(setup, reference, policies, responses, by)
    planned = measuring._programs(setup, reference, policies, responses, by)
    # One pass for the divergence, a check, and each response by the policies that have not read it.
    assert computed == [
        ("KL", 288), ("other", 256), ("second", 256), ("reference", 256),
        ("other", 288), ("second", 288), ("second", 288),
    ]  # fmt: skip
    assert sorted((use.what.split()[-1], use.examples) for use in planned) == sorted(computed)
    # What comes out is what a pass for each would give.
    plain = {
        name: kl_of_responses(policies[name], reference, some, batching) for name, some in responses.items()
    }
    for name, some in responses.items():
        ratio = logps_of_responses(other, some, batching) - logps_of_responses(reference, some, batching)
        np.testing.assert_allclose(found[name].raw, np.stack([0.5 * ratio, 0.1 * ratio], -1), atol=1e-5)
        np.testing.assert_allclose(found[name].kl, plain[name].mean(axis=1), atol=1e-6)
    assert found["reference"].kl.max() == 0.0 and found["other"].kl.min() > 0.0


def test_a_plan_counts_on_drawing_in_32_bits():
    settings = SamplingSettings(num_prompts=3, num_samples=2, max_new_tokens=4)
    found = planned_logps("float32", settings, 3)
    assert found is not None and found.shape == (3, 2)
    assert planned_logps("bfloat16", settings, 3) is None
    assert planned_logps("float32", dataclasses.replace(settings, cache="int8"), 3) is None
