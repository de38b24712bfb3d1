"""The table of policies without a training, by hand."""

from alignjax.records.dial import DialPolicy, DialRecord
from alignjax.records.evaluation import PolicyResult
from alignjax.records.figure import Figure
from alignjax.report.dial_policies import grid


def at(mean):
    return Figure(mean, mean - 0.25, mean + 0.25)


def result(margin, gain, kl):
    level, none = {"safety": at(margin)}, at(0.0)
    return PolicyResult(at(gain), at(gain), at(kl), level, level, none, none, none, none)


def test_a_row_for_every_policy_with_what_it_costs():
    policies = {
        "aligned": DialPolicy(result(1.0, 0.5, 2.0), 1, 1, 1, True, at(0.3)),
        "product": DialPolicy(result(1.1, 0.4, 2.1), 3, 1, 0, False, at(0.2)),
        "best_of": DialPolicy(result(0.8, 0.3, 1.5), 1, 16, 0, False),
    }
    found = grid(DialRecord({"safety": 0.7}, {"safety": 1.0}, False, policies))
    assert found is not None
    assert found.head[1:4] == ["margin of safety", "reward gain", "KL, nats"]
    assert [row[0] for row in found.rows] == ["aligned", "product", "best_of"]
    assert found.rows[0][2][0] == "1.00 [0.75, 1.25]"
    assert [row[2][-4:-1] for row in found.rows] == [["1", "1", "1"], ["3", "1", "0"], ["1", "16", "0"]]
    assert [row[2][-1] for row in found.rows] == ["tested, see above", "an estimate", "an estimate"]
    assert any("nothing is verified of them" in note for note in found.notes)
    assert all(len(row[2]) + 1 == len(found.head) for row in found.rows)


def test_without_such_policies_there_is_no_table():
    assert grid(None) is None and grid(DialRecord({}, {}, True, {})) is None
