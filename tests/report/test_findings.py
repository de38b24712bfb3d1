import dataclasses

import pytest

from alignjax.records.figure import Figure
from alignjax.report import findings_of


@pytest.fixture
def found(inputs):
    """Makes the findings of a run where given shares of the responses have no end."""

    def make(*, cut, warnings=(), findings=(), population=False):
        given = inputs(truth=False)
        policies = dict(given.evaluation.policies)
        for name, share in cut.items():
            policies[name] = dataclasses.replace(policies[name], cut=Figure(share, share, share))
        return findings_of(
            dataclasses.replace(given.answer, warnings=warnings),
            dataclasses.replace(given.evaluation, policies=policies),
            dataclasses.replace(given.calibration, findings=findings),
            population=population,
        )

    return make


def test_a_run_without_any(found):
    assert found(cut={}) == []


def test_policies_whose_responses_are_cut_are_named_from_five_percent_on(found):
    assert found(cut={"reference": 0.049}) == []
    (finding,) = found(cut={"reference": 0.05, "reward": 0.049, "aligned": 0.324})
    assert finding.startswith("Responses cut at config.evaluation.max_new_tokens: reference 5%, aligned 32%.")


def test_nothing_is_cut_where_every_response_is_listed(found):
    assert found(cut={"aligned": 0.5}, population=True) == []


def test_warnings_of_the_engine_and_of_the_calibration_are_there_once_and_unchanged(found):
    listed = found(cut={"aligned": 0.5}, warnings=("w1", "shared"), findings=("shared", "f2"))
    assert listed[:3] == ["shared", "f2", "w1"] and len(listed) == 4
