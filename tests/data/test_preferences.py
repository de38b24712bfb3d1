"""Which pairs and prompts each stage is given, from files written here and from the worlds."""

import json

import numpy as np
import pytest

from alignjax.config import DataSettings, ModelSettings
from alignjax.data.preferences import Preferences, at_most, load, pairs_of_samples, template_of
from alignjax.data.records import Message, PreferencePair, prompt_key
from alignjax.data.responses import Responses
from alignjax.data.tokenize import Template, TokenizedPair, TokenizedResponse
from alignjax.data.worlds import world_for
from alignjax.errors import InputError
from alignjax.records import decode
from alignjax.runtime.seeds import Seeds

PLAIN = Template("plain", "{prompt}")


@pytest.fixture
def read(tokenizer):
    """read(data) is what the data stage hands on; `data` is `config.data`, other settings are named."""

    def read(data, *, seed=0, world=None, template=PLAIN, test_share=0.2, columns=None, **model):
        return load(
            decode(DataSettings, data, "config.data"),
            ModelSettings(**model),
            ("reward", "safety"),
            Seeds(seed),
            tokenizer,
            template,
            world,
            test_share=test_share,
            columns=columns,
        )

    return read


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


def test_the_union_has_every_pair_once_with_the_labels_of_each_dimension(read, words, tmp_path):
    a, b, c = words[:3]
    shared, turned = pairs(words[:20], a, b), pairs(words[:20], b, a)
    data = {
        "sources": {
            "reward": write(tmp_path / "reward.jsonl", shared + pairs(words[20:30], a, c)),
            # Ten of the same pairs with the same labels, and ten with the labels turned.
            "safety": write(tmp_path / "safety.jsonl", shared[:10] + turned[10:]),
        },
        "held_out_fraction": 0.3,
    }
    found = read(data)
    keys = [(p.prompt, p.chosen, p.rejected) for p in found.align_pairs]
    assert len(keys) == len(set(keys)) == len(found.align)
    groups = {name: dimension.held_out.texts for name, dimension in found.dimensions.items()}
    held = {str(pair.prompt) for texts in groups.values() for pair in texts}
    trained = set(words[:30]) - held - set(found.test_prompts)
    ab, ac = sorted([a, b]), sorted([a, c])  # the one order that two texts have
    expected = {(p, *ab) for p in words[:20]} | {(p, *ac) for p in words[20:30]}
    assert set(keys) == {key for key in expected if key[0] in trained}
    reward = {key for key, label in zip(keys, found.human["reward"], strict=True) if not np.isnan(label)}
    safety = {key for key, label in zip(keys, found.human["safety"], strict=True) if not np.isnan(label)}
    assert reward == set(keys)
    assert safety == {key for key in keys if key[0] in words[:20]}
    for (prompt, first, _), by_reward, by_safety in zip(
        keys, found.human["reward"], found.human["safety"], strict=True
    ):
        assert by_reward == float(first == a)  # a is the better one
        if prompt in words[:20]:
            assert by_safety == (by_reward if prompt in words[:10] else 1.0 - by_reward)
    # No prompt is on two sides, of any dimension.
    assert set(found.train_prompts) == trained and held and found.test_prompts
    assert not held & set(found.test_prompts)
    assert found.counts["reward"]["on_test_prompts"] == len(set(words[:30]) & set(found.test_prompts))


def test_subsets_are_drawn_by_seed_and_counted(read, words, tmp_path):
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
    one, same, other = (read(data, seed=s) for s in (0, 0, 1))
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


def test_what_is_cut_is_counted(read, words, tmp_path):
    long = " ".join(words[:9])
    rows = [{"prompt": f"{word} {long}", "chosen": f"{word} {long}", "rejected": word} for word in words[:20]]
    source = write(tmp_path / "long.jsonl", rows)
    data = {"sources": {"reward": source, "safety": source}, "held_out_fraction": 0.3}
    found = read(data, max_length=12, max_prompt_length=5)
    count = found.counts["reward train"]
    # Ten words of prompt are cut to five; of the longer response seven tokens are left.
    assert count["prompts_cut"] == count["responses_cut"] == count["pairs"] > 0
    assert {len(pair.prompt_ids) for pair in found.align} == {5}
    assert {max(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in found.align} == {7}
    assert {min(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in found.align} == {
        2
    }  # one word and the end


def test_labels_of_a_column_are_read_by_dimension(read, words, tmp_path):
    a, b = words[:2]
    rows = [
        {"prompt": p, "response_0": a, "response_1": b, "better": i % 2, "safer": 0}
        for i, p in enumerate(words[:20])
    ]
    path = write(tmp_path / "both.jsonl", rows)
    data = {"sources": {"reward": path | {"label": "better"}, "safety": path | {"label": "safer"}}}
    found = read(data)
    even = {p for i, p in enumerate(words[:20]) if i % 2 == 0}
    assert [p.chosen for p in found.align_pairs] == [a] * len(found.align_pairs)
    assert found.human["reward"].tolist() == [float(p.prompt in even) for p in found.align_pairs]
    assert set(found.human["safety"]) == {1.0}


def test_nothing_left_is_an_error_with_the_counts(read, words, tmp_path):
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
        read(data)


def test_a_world_gives_pairs_and_prompts(read):
    world = world_for("assistant")
    data = {"world": "assistant", "num_pairs": 50, "num_held_out": 20}
    found = read(data, world=world, template=world.template)
    assert len(found.dimensions["reward"].held_out.tokens) == 20
    # Both dimensions label the same pairs; equal draws are one pair of the final alignment.
    assert len(found.dimensions["reward"].train.tokens) == len(found.dimensions["safety"].train.tokens) == 50
    assert len(found.align) == len({(p.prompt, p.chosen, p.rejected) for p in found.align_pairs}) <= 50
    assert set(found.train_prompts) == set(world.prompts_train)
    assert set(found.test_prompts) == set(world.prompts_test)
    assert not set(found.train_prompts) & set(found.test_prompts)
    assert found.counts["prompts to test"] == {"prompts": 346, "prompts_cut": 0}
    held = {pair.prompt for pair in found.dimensions["safety"].held_out.texts}
    assert held <= set(world.prompts_held_out)
    # Any prefix is a fair sample: the order is not that of the world, and changes with the seed.
    assert found.test_prompts != list(world.prompts_test)
    assert found.category_of("category", ["how do i make bombs", "how do i use bread", "what"]) == [
        *("harmful", "benign", None),
    ]
    other = read(data, world=world, template=world.template, seed=1)
    assert [p.prompt for p in other.align_pairs] != [p.prompt for p in found.align_pairs]
    assert set(other.test_prompts) == set(found.test_prompts) and other.test_prompts != found.test_prompts


def test_the_template_is_the_configured_one_else_the_worlds(tokenizer):
    world = world_for("assistant")
    assert template_of(ModelSettings(), tokenizer, world) == world.template
    given = ModelSettings(template="Q {prompt}")
    assert template_of(given, tokenizer, world) == Template("plain", "Q {prompt}")
    assert template_of(given, tokenizer, None) == Template("plain", "Q {prompt}")


def test_a_dimension_without_a_file_is_not_there(read, words, tmp_path):
    a, b = words[:2]
    found = read({"sources": {"safety": write(tmp_path / "a.jsonl", pairs(words, a, b)), "reward": {}}})
    assert set(found.dimensions) == set(found.human) == {"safety"}
    assert len(found.align) == len(found.dimensions["safety"].train.tokens)


def test_prompts_of_a_file_are_split_as_pairs_are(read, words, tmp_path):
    a, b = words[:2]
    source = write(tmp_path / "pairs.jsonl", pairs(words, a, b))
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": p} for p in words + words[:5]])["path"]
    from_pairs = read({"sources": {"reward": source, "safety": source}})
    found = read({"sources": {"reward": source, "safety": source}, "prompts": prompts})
    assert set(found.train_prompts) == set(from_pairs.train_prompts)
    assert set(found.test_prompts) == set(from_pairs.test_prompts)
    assert len(found.train_prompts) == len(set(found.train_prompts))
    assert found.counts["prompts to sample"] == {"prompts": len(found.train_prompts), "prompts_cut": 0}
    # No pairs at all: the prompts are there.
    alone = read({"prompts": prompts})
    assert set(alone.train_prompts) == set(found.train_prompts) and alone.align == [] and alone.human == {}


def aligned(count):
    """Preferences with so many pairs to align on, whose prompt and label are their place."""
    row = TokenizedPair(*(np.array([i], np.int32) for i in (1, 2, 3)))
    texts = [PreferencePair(str(i), "a", "b", {}, "") for i in range(count)]
    labels = np.arange(count, dtype=np.float32)
    return Preferences({}, [row] * count, texts, {"reward": labels}, [], [], {})


def test_at_most_so_many_pairs_are_drawn_by_seed():
    given = aligned(20)
    found = at_most(given, 6, 3)
    kept = [int(str(p.prompt)) for p in found.align_pairs]
    assert len(found.align) == 6 and kept == sorted(set(kept))
    np.testing.assert_array_equal(found.human["reward"], kept)
    assert found.counts["aligned on"] == {"pairs": 6}
    assert [p.prompt for p in at_most(given, 6, 3).align_pairs] == [str(i) for i in kept]
    assert [p.prompt for p in at_most(given, 6, 4).align_pairs] != [str(i) for i in kept]
    for most in (None, 20, 99):
        assert at_most(given, most, 3) is given


def drawn(*rows):
    """Responses whose token ids are their place, to prompts named by their place."""
    prompts = [np.array([100 + i], np.int32) for i in range(len(rows))]
    tokens = [
        [TokenizedResponse(prompt, np.array([k, 0], np.int32)) for k in range(len(row))]
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    return Responses([f"p{i}" for i in range(len(rows))], [list(row) for row in rows], tokens)


def test_pairs_of_samples_are_of_different_responses_to_one_prompt():
    given = drawn("abcdef", "aaaaaa", "abcdef")
    found = pairs_of_samples(aligned(3), given, 2, np.random.default_rng(0))
    assert [p.prompt for p in found.align_pairs] == ["p0", "p0", "p2", "p2"]  # at most two, none of p1
    for pair, ids in zip(found.align_pairs, found.align, strict=True):
        i, texts = int(str(pair.prompt)[1:]), "abcdef"
        assert pair.chosen != pair.rejected
        assert ids.prompt_ids.tolist() == [100 + i]
        assert (texts[ids.chosen_ids[0]], texts[ids.rejected_ids[0]]) == (pair.chosen, pair.rejected)
    # Where they are among the samples: prompt, chosen, rejected.
    assert found.sampled is not None and aligned(3).sampled is None
    for (i, k, j), pair in zip(found.sampled.tolist(), found.align_pairs, strict=True):
        assert (f"p{i}", given.texts[i][k], given.texts[i][j]) == (pair.prompt, pair.chosen, pair.rejected)
    some = at_most(found, 2, seed=1)
    assert some.sampled is not None and [f"p{i}" for i in some.sampled[:, 0]] == [
        pair.prompt for pair in some.align_pairs
    ]
    # No response is in two pairs of its prompt.
    used = [text for pair in found.align_pairs[:2] for text in (pair.chosen, pair.rejected)]
    assert len(set(used)) == 4
    assert found.human == {} and found.counts["pairs of samples"] == {"pairs": 4}


def test_all_pairs_of_samples_are_taken_where_that_many_are_asked():
    found = pairs_of_samples(aligned(3), drawn("abcdefg"), 99, np.random.default_rng(0))
    assert len(found.align) == 3  # the seventh has no partner


def test_samples_that_are_all_alike_are_refused():
    with pytest.raises(
        InputError, match="^samples: no prompt has two different responses; raise temperature"
    ):
        pairs_of_samples(aligned(3), drawn("aa", "bb"), 2, np.random.default_rng(0))


def labelled(prompts, a, b, topics, **more):
    return [
        {"prompt": p, "chosen": a, "rejected": b} | more | ({} if topic is None else {"topic": topic})
        for p, topic in zip(prompts, topics, strict=True)
    ]


def test_categories_are_those_of_the_constraints_own_rows_then_of_any_other(read, words, tmp_path):
    a, b = words[:2]
    reward = labelled(words[:12], a, b, ["reward's"] * 12)
    # The first six have their own, two rows of which disagree; the next two have none.
    safety = labelled(words[:8], a, b, ["own"] * 6 + [None, None])
    safety += labelled(words[:2], b, a, ["other", "own"])
    listed = [{"prompt": words[0], "topic": "listed"}, {"prompt": words[12], "topic": "listed"}]
    listed += [{"prompt": p} for p in words[13:]]
    data = {
        "sources": {
            "reward": write(tmp_path / "reward.jsonl", reward),
            "safety": write(tmp_path / "safety.jsonl", safety),
        },
        "prompts": write(tmp_path / "prompts.jsonl", listed)["path"],
    }
    found = read(data, columns={"safety": "topic"}, seed=3)
    of = found.category_of("topic", words[:14])
    assert of == ["own"] * 6 + ["reward's"] * 6 + ["listed", None]
    # 40 prompts, 27 without a category. Rows that say otherwise than the first: one of safety, the first six
    # of reward, and the first of the list.
    expected = {"categories": 3, "prompts": 40, "prompts_without": 27, "rows_in_conflict": 8}
    assert found.counts["categories in topic"] == expected
    # Only what is asked for is read.
    assert read(data, seed=3).categories == {}


def test_a_column_that_no_row_has_is_refused_by_name(read, words, tmp_path):
    source = write(tmp_path / "pairs.jsonl", labelled(words, "a", "be", ["x"] * 40))
    data = {"sources": {"reward": source, "safety": source}}
    with pytest.raises(InputError) as caught:
        read(data, columns={"safety": "kind"})
    assert str(caught.value) == (
        f"config.constraints.safety.groups.column: is 'kind', which no row of {source['path']} has; name the "
        "column of the prompts' categories."
    )


def test_a_rate_needs_labels_of_single_responses_among_the_held_out_pairs(read, words, tmp_path):
    a, b = words[:2]
    rows = [{"prompt": p, "response_0": a, "response_1": b, "safer": 0} for p in words]
    safe = {"is_response_0_safe": True, "is_response_1_safe": False}
    with_labels = write(tmp_path / "with.jsonl", [row | safe for row in rows]) | {"label": "safer"}
    without = write(tmp_path / "without.jsonl", rows) | {"label": "safer"}
    read({"sources": {"reward": without, "safety": with_labels}}).require_safe_labels(["safety"])
    found = read({"sources": {"reward": with_labels, "safety": without}})
    found.require_safe_labels([])
    with pytest.raises(
        InputError, match=r"config.constraints.safety: asks for a rate of safe responses, but no"
    ):
        found.require_safe_labels(["reward", "safety"])
    with pytest.raises(InputError, match=r"config.data.sources.honesty says which responses are safe"):
        found.require_safe_labels(["honesty"])


def test_too_few_pairs_or_prompts_for_any_verdict_are_refused(read, words, tmp_path):
    prompts = [f"{a} {b}" for a in words[:10] for b in words[:15]]
    many, few = (write(tmp_path / f"{n}.jsonl", pairs(prompts[:n], *words[:2])) for n in (150, 40))
    found = read({"sources": {"reward": many, "safety": many}})
    found.require_enough(held_out=True, most_test=20)
    with pytest.raises(InputError, match="config.test: 19 test prompts are too few .* for at least 20"):
        found.require_enough(held_out=True, most_test=19)
    found = read({"sources": {"reward": many, "safety": few}})
    with pytest.raises(InputError, match=r"config.data.sources.safety: \d+ held-out pairs are too few"):
        found.require_enough(held_out=True, most_test=None)
    found.require_enough(held_out=False, most_test=None)


def test_the_share_of_the_test_takes_from_training_alone(read, words, tmp_path):
    a, b = words[:2]
    source = write(tmp_path / "pairs.jsonl", pairs(words, a, b))
    data = {"sources": {"reward": source, "safety": source}}
    few, many = read(data, test_share=0.1), read(data, test_share=0.6)
    assert set(few.test_prompts) < set(many.test_prompts)
    assert set(few.train_prompts) | set(few.test_prompts) == set(many.train_prompts) | set(many.test_prompts)
    texts = [[p.prompt for p in found.dimensions["safety"].held_out.texts] for found in (few, many)]
    assert texts[0] == texts[1]


def rlhf(words):
    """SafeRLHF's columns: labels that agree and differ in turn, responses in either order of their texts."""
    return [
        {
            "prompt": word,
            "response_0": words[i % 7],
            "response_1": words[10 + i % 9],
            "better_response_id": i % 2,
            "safer_response_id": i // 2 % 2,
        }
        for i, word in enumerate(words)
    ]


def test_labels_as_one_file_or_as_two_give_the_same_pairs_to_align_on(read, words, tmp_path):
    rows = rlhf(words)
    whole = write(tmp_path / "rows.jsonl", rows)
    columns = {"reward": "better_response_id", "safety": "safer_response_id"}
    one = {name: whole | {"label": column} for name, column in columns.items()}
    two = {
        name: write(
            tmp_path / f"{name}.jsonl",
            [
                {
                    "prompt": row["prompt"],
                    "chosen": row[f"response_{row[column]}"],
                    "rejected": row[f"response_{1 - row[column]}"],
                }
                for row in rows
            ],
        )
        for name, column in columns.items()
    }
    first, second = (read({"sources": sources, "held_out_fraction": 0.3}) for sources in (one, two))
    assert [pair[:3] for pair in first.align_pairs] == [pair[:3] for pair in second.align_pairs]
    assert len(first.align) < len(rows)  # the rest are held out and tested on
    for name in columns:
        np.testing.assert_array_equal(first.human[name], second.human[name])
        assert set(first.human[name]) == {0.0, 1.0}


def test_odd_rows_are_dropped_counted_and_the_first_of_a_kind_is_shown(read, words, tmp_path):
    a, b, c = words[:3]
    rows = [*pairs(words, a, b), {"prompt": c, "chosen": None, "rejected": a}, {"prompt": c, "chosen": a}]
    rows += [
        {"chosen": [{"role": r, "content": c} for r in ("system", "user", "assistant")],
         "rejected": [{"role": r, "content": c} for r in ("user", "assistant")]},
    ]  # fmt: skip
    source = write(tmp_path / "pairs.jsonl", rows)
    data = {"sources": {"reward": source, "safety": source}, "held_out_fraction": 0.3}
    found = read(data)
    assert (found.counts["reward"]["malformed"], found.counts["reward"]["unshared"]) == (2, 1)
    assert found.counts["reward"]["kept"] == 40
    place = f"{tmp_path / 'pairs.jsonl'}:"
    assert f"reward: {tmp_path / 'pairs.jsonl'} was taken for pairs (40)" in found.notes
    shown = [note for note in found.notes if note.startswith("reward: 2 malformed")]
    assert shown[0].startswith(f'reward: 2 malformed, first: {place}41: "chosen" is null')
    assert any(f"1 unshared, first: {place}43: the two conversations differ" in note for note in found.notes)
    with pytest.raises(InputError, match='pairs.jsonl:41: "chosen" is null'):
        read(data | {"strict": True})


def test_an_official_held_out_file_and_its_leaks(read, words, tmp_path):
    a, b, c = words[:3]
    train = write(tmp_path / "train.jsonl", pairs(words[:30], a, b))
    # Ten prompts of its own, and five that the training file has as well.
    test = write(tmp_path / "test.jsonl", pairs(words[25:40], a, c))
    own = train | {"held_out_path": test["path"]}
    found = read({"sources": {"reward": own, "safety": train}, "held_out_fraction": 0.3})
    assert found.counts["reward"]["leaks"] == 5 and found.counts["reward held-out file"]["kept"] == 15
    official = set(words[25:40])
    for name, dimension in found.dimensions.items():
        trained = {str(pair.prompt) for pair in dimension.train.texts}
        held = {str(pair.prompt) for pair in dimension.held_out.texts}
        assert not trained & official and not trained & held and not held & set(found.test_prompts)
        assert held >= (official if name == "reward" else set(words[25:30]))
    assert not official & set(found.test_prompts) and not official & set(found.train_prompts)
    texts = [pair for pair in found.dimensions["reward"].held_out.texts if pair.prompt in official]
    assert {(pair.chosen, pair.rejected) for pair in texts} == {(a, c)}
    given = write(tmp_path / "prompts.jsonl", [{"prompt": word} for word in words])["path"]
    found = read({"sources": {"reward": own, "safety": train}, "held_out_fraction": 0.3, "prompts": given})
    assert found.counts["prompts"] == {"leaks": 15} and not official & set(found.test_prompts)


def test_a_prompt_that_the_template_cannot_show_is_named_by_its_line(read, words, tmp_path):
    source = write(tmp_path / "pairs.jsonl", pairs(words, *words[:2]))
    rows = [{"prompt": word} for word in words[:30]]
    rows.append({"prompt": [{"role": "system", "content": words[0]}, {"role": "user", "content": words[1]}]})
    given = write(tmp_path / "prompts.jsonl", rows)["path"]
    data = {"sources": {"reward": source, "safety": source}, "prompts": given, "held_out_fraction": 0.05}
    with pytest.raises(InputError, match=r"prompts.jsonl:31: the prompt has 2 messages"):
        read(data | {"strict": True})
    found = read(data)
    assert found.counts["prompts"] == {"unshown": 1}
    assert any(f"prompts: 1 unshown, first: {given}:31: the prompt has 2" in note for note in found.notes)


def test_odd_lines_of_a_file_of_prompts_are_dropped_and_counted(read, words, tmp_path):
    source = write(tmp_path / "pairs.jsonl", pairs(words, *words[:2]))
    rows = [*({"prompt": word} for word in words[:30]), {"prompt": 3}, {"prompt": " "}, {"text": "x"}]
    given = write(tmp_path / "prompts.jsonl", rows)["path"]
    data = {"sources": {"reward": source, "safety": source}, "prompts": given, "held_out_fraction": 0.05}
    found = read(data)
    assert found.counts["prompts"] == {"malformed": 2, "empty": 1}
    assert {*found.train_prompts, *found.test_prompts} <= set(words[:30])
    with pytest.raises(InputError, match=r'prompts.jsonl:31: "prompt" is the number 3'):
        read(data | {"strict": True})
    write(tmp_path / "prompts.jsonl", rows[-3:])
    with pytest.raises(InputError, match=r'prompts.jsonl:1: "prompt" is the number 3'):
        read(data)
