"""Ranges and combinations: what is refused, and that the message names the field."""

from typing import Any

import pytest

from alignjax.config import check_batches, from_mapping
from alignjax.errors import InputError


# A ConfigDict's attributes have no types, so these take Any.
def margin_and_level(c: Any) -> None:
    c.constraints.safety.level = 0.5


def no_margin(c: Any) -> None:
    c.constraints.safety.margin = None


def ask(c: Any, **ways: Any) -> None:
    c.constraints.safety = ways


def unknown_field(c: Any) -> None:
    c.betta = 1.0


def both_world_and_sources(c: Any) -> None:
    c.data.sources = {"reward": {"path": "x"}}


def fraction_of_two(c: Any) -> None:
    c.constraints.safety = {"fraction": 2.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(beta=0.0), "config.beta: is 0.0, must be greater than 0"),
        (lambda c: c.update(beta_pre=-1.0), "config.beta_pre"),
        (margin_and_level, "config.constraints.safety: give margin or level, not both"),
        (no_margin, "config.constraints.safety: give one of margin, level, fraction, rate, tail, groups."),
        (lambda c: c.constraints.safety.update(rate=0.9), "safety: give margin or rate, not both"),
        (lambda c: ask(c, rate=1.0), "safety.rate: is 1.0, must be less than 1: it is the mean prob"),
        (lambda c: ask(c, rate=0.0), "safety.rate: is 0.0, must be greater than 0"),
        (lambda c: ask(c, tail={"share": 0.1}), "safety.tail: give share and cost; cost is missing."),
        (lambda c: ask(c, tail={"cost": 0.0}), "safety.tail: give share and cost; share is missing."),
        (lambda c: ask(c, tail={"share": 1.0, "cost": 0.0}), "safety.tail.share: is 1.0, must be less"),
        (
            lambda c: ask(c, tail={"share": 0.1, "cost": 0.0}, groups={"margin": 1.0}),
            "safety: give tail or groups, not both",
        ),
        (lambda c: ask(c, groups={"column": "topic"}), "safety: give one of margin, level, fraction, rate"),
        (
            lambda c: ask(c, groups={"margin": 1.0, "rate": {"a": 0.9}}),
            "safety.groups: give margin or rate, not both",
        ),
        (lambda c: ask(c, groups={"level": {}}), "safety.groups.level: is {}, is empty; give one number"),
        (lambda c: ask(c, groups={"rate": {"a": 1.5}}), "safety.groups.rate.a: is 1.5, must be less than 1"),
        (lambda c: ask(c, groups={"rate": {"a": "x"}}), "safety.groups.rate.a: is 'x' of type str, must be"),
        (lambda c: ask(c, groups={"margin": 1.0, "column": ""}), "safety.groups.column: is '', name the"),
        (
            lambda c: ask(c, groups={"margin": 1.0, "column": "topic"}),
            "safety.groups.column: is 'topic', must be category, the one column of an embedded world.",
        ),
        (lambda c: c.update(confidence=0.5), "config.confidence: is 0.5, must be greater than 0.5"),
        (lambda c: c.update(confidence=1.0), "config.confidence: is 1.0, must be less than 1"),
        (lambda c: c.test.update(share=1.0), "config.test.share: is 1.0, must be less than 1"),
        (lambda c: c.test.update(prompts=1), "config.test.prompts: is 1, must be at least 2"),
        (
            lambda c: c.test.update(kl=0.0),
            "config.test.kl: is 0.0, must be greater than 0: it is the largest",
        ),
        (lambda c: c.evaluation.update(temperature=0.0), "config.evaluation.temperature: is 0.0, must be"),
        (lambda c: c.evaluation.update(top_p=1.5), "config.evaluation.top_p: is 1.5, must be at most 1"),
        (lambda c: c.rounds.update(count=0), "config.rounds.count: is 0, must be at least 1"),
        (fraction_of_two, "config.constraints.safety.fraction: is 2.0"),
        (unknown_field, "config.betta: no such field"),
        (both_world_and_sources, "give a world or sources, not both"),
        (lambda c: c.data.update(world="mars"), "config.data.world: is 'mars'"),
        (lambda c: c.data.update(labels="guess"), "config.data.labels"),
        (lambda c: c.align.update(schedule="step"), "config.align.schedule"),
        (lambda c: c.align.update(learning_rate=0.0), "config.align.learning_rate"),
        (lambda c: c.sampling.update(top_p=0.0), "config.sampling.top_p"),
        (lambda c: c.sampling.update(num_samples=1), "config.sampling.num_samples"),
        (lambda c: c.model.update(max_prompt_length=512), "config.model.max_prompt_length"),
        (lambda c: c.model.update(template_kwargs="[1]"), "config.model.template_kwargs: is "),
        (lambda c: c.model.update(template_kwargs="{"), "config.model.template_kwargs: is "),
        (lambda c: c.model.update(template_date="2024-02-31"), "config.model.template_date: is "),
        (lambda c: c.model.update(template_date="today"), "config.model.template_date: is "),
        (lambda c: c.model.update(path="folder"), "config.model.path: an embedded world"),
        (lambda c: c.lora.update(dropout=1.0), "config.lora.dropout"),
        (lambda c: c.update(method="ppo"), "config.method"),
        (lambda c: c.update(bootstrap=5), "config.bootstrap"),
        (lambda c: c.judges.update(harm={"function": "m:f"}), "config.judges.harm: is 'harm', names no dim"),
        (lambda c: c.judges.safety.update(function="f"), "config.judges.safety.function: is 'f', must be"),
        (
            lambda c: c.judges.safety.update(function="m:f", verdicts="v.jsonl"),
            "config.judges.safety: is ['function', 'verdicts'], give a function or",
        ),
        (lambda c: c.update(refusals=("sorry", " ")), "config.refusals[1]: is ' ', is empty"),
        (
            lambda c: c.constraints.safety.update(margin=None, fraction=0.0),
            "safety.fraction: is 0.0, must be",
        ),
        (
            lambda c: c.align.loss.update(name="dpoo"),
            "config.align.loss.name: is 'dpoo', must be one of dpo,",
        ),
        (
            lambda c: c.prealign.loss.update(name="ipo", label_smoothing=0.1),
            "config.prealign.loss.label_smoothing: is 0.1, but ipo does not take it",
        ),
        (
            lambda c: c.align.loss.update(name="robust", label_smoothing=0.5),
            "config.align.loss.label_smoothing: is 0.5, must lie between 0 and 0.5 for robust",
        ),
        (lambda c: c.align.loss.update(name="cdpo"), "config.align.loss.label_smoothing: is 0.0, must lie"),
        (lambda c: c.mesh.update(fsdp=0), "config.mesh.fsdp: is 0, must be at least 1, or -1"),
        (lambda c: c.mesh.update(fsdp=-1), "config.mesh: is ['data', 'fsdp'], -1 more than once"),
    ],
)
def test_impossible_values_are_refused_by_name(tiny, change, message):
    config = tiny
    with config.unlocked():
        change(config)
    with pytest.raises(InputError) as caught:
        from_mapping(config.to_dict())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.scores.safety.update(function="f"),
            "config.scores.safety.function: is 'f', must be module",
        ),
        (
            lambda c: c.scores.safety.update(function="m:f", exact=True),
            "config.scores.safety: is ['function', 'exact'], give at most one of",
        ),
        (lambda c: c.scores.update(harm={"exact": True}), "config.scores: is ['harm'], names no dimension"),
        (
            lambda c: c.relabel.update(pairs="all"),
            "config.relabel.pairs: is 'all', must be preferences or samples",
        ),
        (lambda c: c.relabel.update(pairs_per_prompt=0), "config.relabel.pairs_per_prompt: is 0"),
        (
            lambda c: c.baselines.update(lams=(1.0, -1.0)),
            "config.baselines.lams[1]: is -1.0, must be at least 0",
        ),
        (lambda c: c.rounds.update(count=0), "config.rounds.count: is 0, must be at least 1"),
        (lambda c: c.rounds.update(step=-1.0), "config.rounds.step: is -1.0, must be greater than 0"),
        (lambda c: c.score_model.update(centering=-1.0), "config.score_model.centering: is -1.0"),
        (lambda c: c.relabel.update(max_pairs=1), "config.relabel.max_pairs: is 1, must be at least 2"),
        (lambda c: c.score_training.update(epochs=0.0), "config.score_training.epochs: is 0.0"),
    ],
)
def test_impossible_values_of_mocan_are_refused_by_name(tiny_mocan, change, message):
    config = tiny_mocan
    with config.unlocked():
        change(config)
    with pytest.raises(InputError) as caught:
        from_mapping(config.to_dict())
    assert message in str(caught.value)


def test_batches_have_to_divide_over_the_devices(tiny, tiny_mocan):
    config = tiny
    config.ref_batch_size = 12
    with pytest.raises(
        InputError, match=r"config\.ref_batch_size: is 12, must be a multiple of 8, the parts"
    ):
        check_batches(from_mapping(config.to_dict()), 8)
    check_batches(from_mapping(config.to_dict()), 4)
    config.prealign.batch_size = 6
    with pytest.raises(InputError, match=r"config\.prealign\.batch_size: is 6"):
        check_batches(from_mapping(config.to_dict()), 4)
    config = tiny_mocan
    config.score_training.batch_size = 6
    with pytest.raises(InputError, match=r"config\.score_training\.batch_size: is 6"):
        check_batches(from_mapping(config.to_dict()), 4)
    config.scores.reward.exact = config.scores.safety.exact = True  # nothing is trained on it
    check_batches(from_mapping(config.to_dict()), 4)


def test_an_exact_score_needs_a_world(load):
    config = load("mocan").get_config("smollm2-135m")
    config.model.path, config.scores.safety.exact = "model", True
    with pytest.raises(InputError, match=r"config.scores.safety.exact: is True, needs an embedded world"):
        from_mapping(config.to_dict())


def test_a_judge_of_ones_own_needs_samples(load):
    config = load("mocan").get_config("enumerable")
    config.judges.reward.function = "m:f"
    with pytest.raises(InputError, match=r"config.judges.reward: is \['function'\], reads sampled responses"):
        from_mapping(config.to_dict())


def test_the_sides_of_the_split_leave_prompts_to_train_on(load):
    config = load("pecan").get_config("smollm2-135m")
    config.model.path, config.test.share = "model", 0.6
    for source in config.data.sources.values():
        source.path = "pairs.jsonl"
    with pytest.raises(InputError) as caught:
        from_mapping(config.to_dict())
    line = "config.test.share: is 0.6, leaves no prompts to train on beside data.held_out_fraction, 0.4."
    assert str(caught.value) == line


def test_a_fixed_multiplier_needs_nothing_asked_and_further_rounds_do(tiny):
    tiny.constraints.safety.margin, tiny.lam = None, 1.0
    assert from_mapping(tiny.to_dict()).constraints["safety"].given == ()
    tiny.rounds.count = 2
    with pytest.raises(
        InputError, match=r"config.rounds.count: is 2, needs to know what is asked of safety;"
    ):
        from_mapping(tiny.to_dict())


def test_a_source_is_needed_for_every_dimension(load):
    config = load("pecan").get_config("smollm2-135m")
    config.model.path = "model"
    with pytest.raises(InputError, match=r"config.data.sources.reward.path: is missing"):
        from_mapping(config.to_dict())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda c: c.sampling.update(num_samples=10**9),
            "config.sampling.num_samples: is 1000000000, must be at most 1000000; lower it.",
        ),
        (
            lambda c: c.lora.update(rank=10**9),
            "config.lora.rank: is 1000000000, must be at most 16384; lower it.",
        ),
        (
            lambda c: c.update(bootstrap=10**9),
            "config.bootstrap: is 1000000000, must be at most 1000000; lower it.",
        ),
        # 2^32 and 2^33 would give the same keys as 0.
        (lambda c: c.update(seed=2**32), "config.seed: is 4294967296, must be at most 4294967295; lower it."),
        # No bound of its own: steps are 32-bit.
        (
            lambda c: c.align.update(checkpoint_every=10**30),
            f"config.align.checkpoint_every: is {10**30}, must be at most 2147483647; lower it.",
        ),
        # 200 prompts x 10^6 responses x 1000 tokens of 4 bytes: 8 10^11 bytes, 745 GiB.
        (
            lambda c: c.sampling.update(num_samples=10**6, max_new_tokens=1000),
            "config.sampling: num_prompts x num_samples x max_new_tokens is 2e+11 tokens, 745 GiB of memory; "
            "lower num_samples.",
        ),
        # 10^5 resamples of 10^6 prompts of 8 bytes: 8 10^11 bytes.
        (
            lambda c: (c.update(bootstrap=10**5), c.evaluation.update(num_prompts=10**6, num_samples=2)),
            "config.bootstrap: is 100000, 745 GiB of weights for 1000000 prompts; lower it.",
        ),
    ],
)
def test_sizes_that_no_machine_holds_are_one_line_that_says_what_to_lower(tiny, change, line):
    change(tiny)
    with pytest.raises(InputError) as caught:
        from_mapping(tiny.to_dict())
    assert str(caught.value) == line
