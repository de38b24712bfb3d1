"""Hours at rows of mean length: what the flag means, and that every program is compiled at such rows."""

import pytest

from alignjax.aot.measure import Measured
from alignjax.aot.program import Program
from alignjax.aot.traffic import Traffic
from alignjax.config import ModelSettings
from alignjax.errors import InputError
from alignjax.planning import mean_rows, show, targets
from alignjax.planning.run import Timed, make_plan
from alignjax.workflow import stand_ins
from alignjax.workflow.stand_ins import Lengths

SETTINGS = ModelSettings(max_length=64, max_prompt_length=16)


# One number is divided as the longest row is: a quarter of its tokens are the prompt's.
@pytest.mark.parametrize(
    ("given", "lengths"), [("", None), ("6+10", (6, 10)), ("32", (8, 24)), ("2", (1, 1)), ("1+63", (1, 63))]
)
def test_what_the_flag_means(given, lengths):
    assert mean_rows.parse(given, SETTINGS) == lengths


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("many", r"--mean_length=many: is not of the form PROMPT\+RESPONSE, such as 16\+75"),
        ("16+", "is not of the form"),
        ("17+4", "stands for prompts of 17 and responses of 4 tokens; prompts have 1 to 16"),
        ("16+49", r"both together at most 64 \(config.model.max_length\)"),
        ("0+5", "prompts of 0"),
        ("1", "responses of 0"),
        ("80", "prompts of 20 and responses of 60"),
    ],
)
def test_what_it_refuses(given, message):
    with pytest.raises(InputError, match=message):
        mean_rows.parse(given, SETTINGS)


def test_rows_of_mean_length_are_padded_as_batches_are():
    # 16 + 2 * 75 = 166 real tokens of 195.3 in a batch, in a multiple of 16: 192.
    pair = stand_ins.pair(ModelSettings(), Lengths(16, 75))
    assert [len(ids) for ids in pair] == [16, 88, 88]
    # 16 + 75 of 107.06: 112. A row is never longer than the limit: 60 + 2 * 60 would be 208.
    assert [len(ids) for ids in stand_ins.corpus_row(ModelSettings(), Lengths(16, 75))] == [16, 96]
    short = ModelSettings(max_length=90, max_prompt_length=60)
    assert sum(map(len, stand_ins.pair(short, Lengths(60, 60)))) == 179
    assert [len(ids) for ids in stand_ins.pair(SETTINGS, None)] == [1, 63, 63]
    assert [len(ids) for ids in stand_ins.corpus_row(SETTINGS, None)] == [1, 63]


def test_a_plan_at_mean_rows(make_setup, make_config, chip):
    only = ["samples", "pair_scores"]
    target = targets.parse("h100")
    plan = make_plan(make_setup(make_config()), target.chip, lengths=Lengths(4, 5), only=only)
    lines = {(line.step.stage, line.step.what): line for line in plan.lines}
    pairs = lines["pair_scores", "log-probabilities of pairs by reward"]
    # The longest row has 1 + 63 + 63 tokens, of which 128 are in the batch; a mean one 14 of 16.
    assert pairs.step.program.tokens == 8 * 128 and pairs.timed.step.program.tokens == 8 * 16
    assert pairs.timed.step.calls == pairs.step.calls
    # Targets: 126 in a multiple of 8 are 128; rows of at most 48 tokens have multiples of 2, so 12.
    assert pairs.measured.flops == pytest.approx(_forward(128, 128), rel=0.01)
    assert pairs.timed.measured.flops == pytest.approx(_forward(16, 12), rel=0.01)
    drawn = lines["samples", "sampler"].timed
    # Eight prompts with four samples each lie side by side: the last sample of a group decides, and the
    # longest of some lengths with the mean 5 is longer than 5.
    assert drawn.step.program.tokens == drawn.step.program.rows * 5
    assert 5 < drawn.step.program.loops[0] * _groups(drawn) < 8
    assert lines["samples", "sampler"].step.program.loops[0] * _groups(drawn) == 8
    assert plan.fits and plan.hours is not None and plan.longest_hours is not None
    assert 0 < plan.hours < plan.longest_hours
    text = show.text_of(plan, target)
    assert "prompts of 4 and responses of 5 tokens on average, 85% of a batch's tokens real" in text
    assert f"The stages asked for: {plan.hours:.2f} hours (at the longest rows" in text
    assert show.json_of(plan, target)["mean_lengths"] == {"prompt": 4, "response": 5}


def test_small_programs_are_scaled_by_their_tokens_and_samplers_by_their_steps():
    found = Measured(10, 20, 0, 600.0, Traffic(300.0, {"all-reduce": 30.0}), refused=False)
    longest = Program(None, (), {}, rows=2, tokens=90)
    a_third = mean_rows.scaled(found, longest, longest._replace(tokens=30))
    assert (a_third.flops, a_third.traffic) == (200.0, Traffic(100.0, {"all-reduce": 10.0}))
    sampler = longest._replace(loops=(10.0, 1.0), steps=lambda mean: mean)
    half = mean_rows.scaled(found, sampler, sampler._replace(loops=(5.0, 1.0), tokens=30))
    assert half.flops == 300.0 and half.needed == found.needed


def _groups(drawn: Timed) -> int:
    """Groups of prompts that a sampler has at a time, one of which ends with a call."""
    return drawn.step.program.arguments[2].groups


def _forward(tokens: int, targets: int) -> float:
    """FLOPs of 8 rows through the tiny decoder with an adapter of rank 8 on each of its projections."""
    sizes = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)]
    layer = sum(2 * tokens * (a * b + 8 * (a + b)) for a, b in sizes) + 4 * tokens**2 * 32
    return 8 * (2 * layer + 2 * targets * 32 * 96)


def test_sessions_are_told_where_a_slice_is_lent(make_setup, make_config):
    plan = make_plan(make_setup(make_config()), targets.parse("v5e:1x1").chip, only=["pair_scores"])
    assert plan.hours is not None
    lent = targets.parse("colab-v5e")
    text = show.text_of(plan, lent)
    assert f"{plan.hours:.2f} hours, one session of at most 12 hours on colab-v5e; a run is resumed" in text
    assert show.json_of(plan, lent)["sessions"] == 1
    assert "session" not in show.text_of(plan, targets.parse("v5e:1x1"))
