"""Which pairs and prompts each stage is given, from files written here and from the worlds."""

import json

import numpy as np
import pytest

from alignjax.config import from_mapping
from alignjax.data.records import Message
from alignjax.data.tokenize import Template
from alignjax.data.worlds import world_for
from alignjax.errors import InputError
from alignjax.runtime.metrics import MetricsWriter
from alignjax.stages import Stages
from alignjax.workflow.context import Context
from alignjax.workflow.preferences import load, prompt_key, template_of

SAMPLING = {"num_prompts": 4, "num_samples": 2, "max_new_tokens": 4}


@pytest.fixture
def context(tmp_path):
    def make(data, *, dimensions=("safety",), seed=0, template="{prompt}", **model):
        values = {
            "method": "pecan", "seed": seed, "lora": {}, "reference": {}, "reference_examples": 64,
            "prealign": {}, "align": {}, "sampling": SAMPLING, "evaluation": SAMPLING,
            "beta": 1.0, "beta_pre": 1.0, "constraints": {name: {"margin": 1.0} for name in dimensions},
            "data": data, "model": {"template": template, **model},
        }  # fmt: skip
        if "world" not in data:
            values["model"]["path"] = "none"
        return Context(
            from_mapping(values),
            tmp_path,
            Stages(tmp_path),
            MetricsWriter(tmp_path, active=False),
            lambda line: None,
        )

    return make


@pytest.fixture
def tokenizer():
    """The words of the world `assistant`; anything with a vocabulary would do."""
    return world_for("assistant").tokenizer


@pytest.fixture
def words(tokenizer):
    """Forty words of its vocabulary, which serve as prompts."""
    return sorted(word for word in tokenizer.get_vocab() if word.isalpha())[:40]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"path": str(path)}


def pairs(prompts, chosen, rejected):
    return [{"prompt": p, "chosen": chosen, "rejected": rejected} for p in prompts]


def test_prompt_key_tells_prompts_apart():
    talk = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert prompt_key("a") == "a"
    assert prompt_key(talk) == prompt_key(tuple(talk))
    assert (
        len({prompt_key(talk), prompt_key(talk[:1]), prompt_key((*talk[:1], Message("user", "b"), talk[2]))})
        == 3
    )


def test_the_union_has_every_pair_once_with_the_labels_of_each_dimension(context, tokenizer, words, tmp_path):
    a, b, c = words[:3]
    shared, turned = pairs(words[:20], a, b), pairs(words[:20], b, a)
    data = {
        "sources": {
            "reward": write(tmp_path / "reward.jsonl", shared + pairs(words[20:30], a, c)),
            # The same texts in the other order are another pair.
            "safety": write(tmp_path / "safety.jsonl", shared[:10] + turned[10:]),
        },
        "held_out_fraction": 0.3,
    }
    found = load(context(data), tokenizer, Template("plain", "{prompt}"))
    keys = [(p.prompt, p.chosen, p.rejected) for p in found.align_pairs]
    assert len(keys) == len(set(keys)) == len(found.align)
    trained = set(words[:30]) - set(found.eval_prompts)
    expected = (
        {(p, a, b) for p in words[:20]}
        | {(p, a, c) for p in words[20:30]}
        | {(p, b, a) for p in words[10:20]}
    )
    assert set(keys) == {key for key in expected if key[0] in trained}
    reward = {key for key, label in zip(keys, found.human["reward"], strict=True) if not np.isnan(label)}
    safety = {key for key, label in zip(keys, found.human["safety"], strict=True) if not np.isnan(label)}
    assert reward == {key for key in keys if key[1:] in ((a, b), (a, c))}
    assert safety == {
        key for key in keys if key[1:] == (b, a) or (key[1:] == (a, b) and key[0] in words[:10])
    }
    assert set(found.human["reward"][~np.isnan(found.human["reward"])]) == {1.0}  # chosen is the better one
    # No prompt is on both sides of any dimension.
    assert set(found.train_prompts) == trained and not set(found.train_prompts) & set(found.eval_prompts)


def test_subsets_are_drawn_by_seed_and_counted(context, tokenizer, words, tmp_path):
    a, b = words[:2]
    source = write(
        tmp_path / "pairs.jsonl", pairs(words, a, b) + pairs(words[:3], a, a) + pairs(words[:2], a, b)
    )
    data = {
        "sources": {"reward": source, "safety": source},
        "max_train_pairs": 7,
        "max_held_out_pairs": 3,
        "held_out_fraction": 0.4,
    }
    one, same, other = (
        load(context(data, seed=s), tokenizer, Template("plain", "{prompt}")) for s in (0, 0, 1)
    )
    assert one.counts["reward"]["read"] == 45 and one.counts["reward"]["kept"] == 40
    assert one.counts["reward"]["identical"] == 3 and one.counts["reward"]["duplicates"] == 2
    for preferences in (one, same, other):
        for dimension in preferences.dimensions.values():
            assert (
                len(dimension.train.tokens) == len(dimension.train.labels) == len(dimension.train.groups) == 7
            )
            assert len(dimension.held_out.tokens) == 3
        assert preferences.counts["reward train"] == {"pairs": 7, "prompts_cut": 0, "responses_cut": 0}
        assert preferences.counts["safety held out"]["pairs"] == 3
    assert [p.prompt for p in one.align_pairs] == [p.prompt for p in same.align_pairs]
    assert [p.prompt for p in one.align_pairs] != [p.prompt for p in other.align_pairs]
    assert one.train_prompts == same.train_prompts != other.train_prompts
    # A prompt is one group: two pairs of it are no two independent observations.
    assert len(set(one.dimensions["reward"].train.groups)) == 7


def test_what_is_cut_is_counted(context, tokenizer, words, tmp_path):
    long = " ".join(words[:9])
    rows = [{"prompt": f"{word} {long}", "chosen": f"{word} {long}", "rejected": word} for word in words[:20]]
    source = write(tmp_path / "long.jsonl", rows)
    data = {"sources": {"reward": source, "safety": source}, "held_out_fraction": 0.3}
    found = load(context(data, max_length=12, max_prompt_length=5), tokenizer, Template("plain", "{prompt}"))
    count = found.counts["reward train"]
    # Ten words of prompt are cut to five; of the longer response seven tokens are left.
    assert count["prompts_cut"] == count["responses_cut"] == count["pairs"] > 0
    assert {len(pair.prompt_ids) for pair in found.align} == {5}
    assert {len(pair.chosen_ids) for pair in found.align} == {7}
    assert {len(pair.rejected_ids) for pair in found.align} == {2}  # one word and the end


def test_labels_of_a_column_are_read_by_dimension(context, tokenizer, words, tmp_path):
    a, b = words[:2]
    rows = [
        {"prompt": p, "response_0": a, "response_1": b, "better": i % 2, "safer": 0}
        for i, p in enumerate(words[:20])
    ]
    path = write(tmp_path / "both.jsonl", rows)
    data = {"sources": {"reward": path | {"label": "better"}, "safety": path | {"label": "safer"}}}
    found = load(context(data), tokenizer, Template("plain", "{prompt}"))
    even = {p for i, p in enumerate(words[:20]) if i % 2 == 0}
    assert [p.chosen for p in found.align_pairs] == [a] * len(found.align_pairs)
    assert found.human["reward"].tolist() == [float(p.prompt in even) for p in found.align_pairs]
    assert set(found.human["safety"]) == {1.0}


def test_nothing_left_is_an_error_with_the_counts(context, tokenizer, words, tmp_path):
    a, b = words[:2]
    data = {
        "sources": {
            "reward": write(tmp_path / "good.jsonl", pairs(words, a, b)),
            "safety": write(tmp_path / "bad.jsonl", pairs(words, a, a)),
        }
    }
    with pytest.raises(
        InputError, match=r"bad.jsonl: nothing is left for safety after cleaning .*'identical': 40"
    ):
        load(context(data), tokenizer, Template("plain", "{prompt}"))


def test_a_world_gives_pairs_and_prompts(context, tokenizer):
    data = {"world": "assistant", "num_pairs": 50, "num_held_out": 20}
    asked = context(data, template="")
    world = world_for("assistant")
    assert template_of(asked, tokenizer) == world.template
    found = load(asked, tokenizer, world.template)
    assert len(found.dimensions["reward"].held_out.tokens) == 20
    # Both dimensions label the same pairs; equal draws are one pair of the final alignment.
    assert len(found.dimensions["reward"].train.tokens) == len(found.dimensions["safety"].train.tokens) == 50
    assert len(found.align) == len({(p.prompt, p.chosen, p.rejected) for p in found.align_pairs}) <= 50
    assert set(found.train_prompts) == set(world.prompts_train)
    assert set(found.eval_prompts) == set(world.prompts_eval)
    assert not set(found.train_prompts) & set(found.eval_prompts)
    assert template_of(context(data, template="Q {prompt}"), tokenizer) == Template("plain", "Q {prompt}")
