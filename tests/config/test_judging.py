"""Judges: one way each, and fields that belong to it."""

import pytest

from alignjax.config import from_mapping
from alignjax.config.judging import JudgeSettings, check_judge
from alignjax.errors import InputError

GUARD = {"preset": "llama-guard", "path": "guard"}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("safety", {"function": "m:f", **GUARD}, "safety: is ['function', 'preset'], give a function or"),
        ("safety", {"path": "guard"}, "safety.path: is 'guard', but only a preset reads it"),
        ("safety", {"function": "m:f", "template": "{prompt}"}, "safety.template: is '{prompt}', but only"),
        ("safety", {"preset": "cost"}, "safety.path: is missing; name the Hugging Face folder of the cost"),
        ("safety", {"prompts": "p.jsonl"}, "safety.prompts: is 'p.jsonl', but only a function or a preset"),
        ("safety", {"prompts": "p.jsonl", "verdicts": "v.jsonl"}, "safety.prompts: is 'p.jsonl', but only"),
        ("reward", GUARD, "reward.preset: is 'llama-guard', which says what is safe"),
        ("reward", {"preset": "cost", "path": "x"}, "reward.preset: is 'cost', which says what is safe"),
        ("safety", {**GUARD, "template": "{prompt}"}, "must contain {response} exactly once"),
        ("safety", {**GUARD, "template": "{prompt}{prompt}{response}"}, "must contain {prompt} exactly once"),
        ("reward", {"preset": "general", "path": "x", "template": "{prompt}{first}"}, "contain {second} ex"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(name, fields, message):
    with pytest.raises(InputError, match=rf"^config\.judges\.{name}") as caught:
        check_judge(name, JudgeSettings(**fields))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("safety", {}),
        ("safety", {"verdicts": "v.jsonl"}),
        ("safety", {"function": "m:f", "prompts": "p.jsonl"}),
        ("safety", {**GUARD, "prompts": "p.jsonl", "template": "{prompt}: {response}"}),
        ("reward", {"preset": "reward", "path": "x", "template": "USER: {prompt} ASSISTANT:"}),
        ("reward", {"preset": "general", "path": "x"}),
        ("honesty", {"preset": "general", "path": "x", "template": "{second} {prompt} {first}"}),
    ],
)
def test_combinations_that_are_allowed(name, fields):
    check_judge(name, JudgeSettings(**fields))


def test_presets_are_named_where_one_is_unknown(tiny):
    tiny.judges.safety.update({"preset": "llamaguard", "path": "x"})
    with pytest.raises(
        InputError, match="config.judges.safety.preset: is 'llamaguard', must be llama-guard,"
    ):
        from_mapping(tiny.to_dict())
