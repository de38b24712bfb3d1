"""The records of a run come back from their files as they were written."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignjax.errors import InputError
from alignjax.records import Figure, decode, encode, read_record
from alignjax.records.answer import Asked, EffectiveSamples, Forecast, Gate, Guard, Plain, Predicted
from alignjax.records.calibration import CalibrationRecord, Check, Curve
from alignjax.records.evaluation import Contest, Evaluation, Headline, PolicyResult, Round
from alignjax.records.units import Rate, Tail, Unit
from alignjax.records.verdict import Power, TestRecord, Verdict
from alignjax.runtime.files import write_record

FINITE = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(max_size=8)  # any characters: surrogates are left out by default


def figures():
    return st.builds(Figure, FINITE, FINITE, FINITE)


def by_name(values):
    return st.dictionaries(NAMES, values, max_size=3)


def tuples(values):
    return st.lists(values, max_size=4).map(tuple)


RESULTS = st.builds(
    PolicyResult,
    **{name: figures() for name in ("reward", "reward_gain", "kl", "length", "cut", "empty", "refusals")},
    utilities=by_name(figures()),
    margins=by_name(figures()),
    true_reward=st.none() | figures(),
    true_margins=st.none() | by_name(figures()),
    kl_from_optimum=st.none() | figures(),
)
CONTESTS = st.builds(
    Contest,
    judge=NAMES,
    comparisons=st.integers(),
    missing=st.integers(),
    position_bias=st.none() | figures(),
    win_rates=by_name(by_name(st.none() | figures())),
    ratings=by_name(st.none() | figures()),
)
MAYBE = st.none() | FINITE
VERDICTS = st.builds(
    Verdict,
    state=NAMES,
    asked=MAYBE,
    mean=FINITE,
    low=MAYBE,
    high=MAYBE,
    confidence=FINITE,
    prompts=st.integers(),
    more=st.none() | st.integers(),
    labels=st.integers(),
    bound=NAMES,
)
POWERS = st.builds(Power, st.integers(), FINITE, FINITE)
TESTS = st.builds(
    TestRecord, st.integers(), FINITE, FINITE, by_name(VERDICTS), by_name(POWERS), st.booleans()
)
EVALUATIONS = st.builds(
    Evaluation,
    asked=by_name(MAYBE),
    predicted=by_name(figures() | by_name(figures())),
    policies=by_name(RESULTS),
    contests=by_name(CONTESTS),
    verdicts=by_name(VERDICTS),
    look=st.integers(),
    spent=FINITE,
    power=by_name(POWERS),
    headline=st.builds(Headline, NAMES, NAMES),
)
ROUNDS = st.builds(Round, st.integers(), *[by_name(FINITE) for _ in range(5)], FINITE, FINITE)
GATES = st.builds(Gate, st.booleans(), FINITE, tuples(NAMES), tuples(NAMES), st.none() | st.integers(), MAYBE)
PLAINS = st.builds(Plain, by_name(FINITE), by_name(FINITE), FINITE, FINITE)
GUARDS = st.builds(
    Guard,
    confidence=FINITE,
    **{name: by_name(FINITE) for name in ("room", "standard_error", "calibration", "bias", "spread")},
    low=st.none() | by_name(FINITE),
    plain=PLAINS,
    settled=st.booleans(),
)
PREDICTED = st.builds(
    Predicted,
    reward=figures(),
    kl=figures(),
    utilities=by_name(figures()),
    margins=by_name(figures()),
    reward_gain=figures(),
    ess=st.builds(EffectiveSamples, FINITE, FINITE, st.integers(), FINITE),
)
UNITS = st.builds(
    Unit,
    NAMES,
    st.none() | NAMES,
    st.none() | NAMES,
    MAYBE,
    tail=st.none() | st.builds(Tail, FINITE, FINITE, FINITE),
    other_than=st.none() | tuples(NAMES),
)
ASKED = st.builds(Asked, FINITE, MAYBE, MAYBE, MAYBE)
ANSWERS = GATES | GUARDS | UNITS | ASKED | st.builds(Forecast, PREDICTED, PREDICTED)


@settings(max_examples=60, deadline=None)
@given(EVALUATIONS | ROUNDS | TESTS | ANSWERS)
def test_every_record_comes_back_through_json(record):
    text = json.dumps(encode(record), allow_nan=False)
    assert decode(type(record), json.loads(text), "it") == record


def test_records_come_back_from_files_byte_for_byte(tmp_path):
    figure = Figure(0.1, -1e-300, 1.7976931348623157e308)
    record = Evaluation(
        {"safety": None},
        {"reward": figure, "margins": {"safety": figure}},
        {},
        {},
        {"safety": Verdict("not asked", None, 0.1, None, None, 0.98, 1, None, 0, "student")},
        2,
        0.1 + 0.2,
        {"kl": Power(120, 1 / 3, 0.9)},
        Headline("do not ship", "Nothing was asked."),
    )
    write_record(tmp_path / "a" / "evaluation.json", record)
    found = read_record(Evaluation, tmp_path / "a" / "evaluation.json")
    assert found == record
    write_record(tmp_path / "again.json", found)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "a" / "evaluation.json").read_bytes()


def test_curves_rates_and_checks_of_a_calibration_come_back(tmp_path):
    curve = Curve(np.array([-0.5, 1 / 3]), np.array([0.5, 1.0, 2.0]), np.eye(5) / 3)
    record = CalibrationRecord(
        kind="joint",
        dimensions=("reward", "safety"),
        matrix=np.eye(2),
        covariances=np.zeros((2, 2, 2)),
        unexplained=np.array([0.0, 0.7]),
        slopes={},
        num_held_out={},
        findings=(),
        stops=(),
        reliability={},
        curves=(None, curve),
        rates={"safety": Rate(1.5, -0.25, np.array([[0.04, 0.01], [0.01, 0.09]]))},
        checks={"safety": (Check("the best tenth", "curve", 0.8, 0.75, 0.02, True),)},
        clustered=False,
    )
    write_record(tmp_path / "calibration.json", record)
    found = read_record(CalibrationRecord, tmp_path / "calibration.json")
    assert found.curves is not None and found.curves[0] is None and found.curves[1] is not None
    for field in ("knots", "slopes", "covariance"):
        np.testing.assert_array_equal(getattr(found.curves[1], field), getattr(curve, field))
    rate = found.rates["safety"]
    assert (rate.slope, rate.intercept) == (1.5, -0.25)
    np.testing.assert_array_equal(rate.covariance, record.rates["safety"].covariance)
    np.testing.assert_array_equal(found.unexplained, record.unexplained)
    assert found.checks == record.checks and not found.clustered


def test_a_test_of_another_format_is_refused(tmp_path):
    record = TestRecord(1, 0.8, 0.8, {}, {}, accepted=True)
    write_record(tmp_path / "test.json", record)
    assert json.loads((tmp_path / "test.json").read_text()) == {
        "format": 1, "look": 1, "share": 0.8, "spent": 0.8, "verdicts": {}, "power": {}, "accepted": True,
    }  # fmt: skip
    (tmp_path / "test.json").write_text((tmp_path / "test.json").read_text().replace(": 1,", ": 2,", 1))
    with pytest.raises(InputError, match=r"test\.json.*format"):
        read_record(TestRecord, tmp_path / "test.json")
