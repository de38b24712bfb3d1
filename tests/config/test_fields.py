"""What a rule says of values inside and outside of it."""

import dataclasses

import pytest

from alignjax.config.checks import check_ranges
from alignjax.config.fields import Rule, affects_result, group, method_of, rule_of, setting
from alignjax.errors import InputError


@pytest.mark.parametrize(
    ("rule", "allowed", "refused", "message"),
    [
        (Rule(least=1), 1, 0, "must be at least 1."),
        (Rule(above=0, note="it is a weight"), 1e-9, 0.0, "must be greater than 0: it is a weight."),
        (Rule(most=1), 1.0, 1.5, "must be at most 1; lower it."),
        (Rule(below=1), 0.999, 1.0, "must be less than 1."),
        (Rule(), 2**31 - 1, 2**31, "must be at most 2147483647; lower it."),
        (Rule(choices=("a", "b", "c")), "c", "d", "must be a, b or c."),
        (Rule(choices=("a", "b")), "a", "", "must be a or b."),
        (
            Rule(choices=("a", "b", "none"), several=True),
            "b, a",
            "a,none",
            "must be some of a, b with commas between, or none.",
        ),
        (
            Rule(choices=("a", "b", "none"), several=True),
            "none",
            "",
            "must be some of a, b with commas between, or none.",
        ),
    ],
)
def test_rules(rule, allowed, refused, message):
    assert rule.violation(allowed) == ""
    assert rule.violation(refused) == message


def test_a_large_float_has_no_bound_of_its_own():
    assert Rule().violation(1e30) == ""


@dataclasses.dataclass(frozen=True)
class _Inner:
    count: int | None = setting(None, least=1, affects_result=False)


@dataclasses.dataclass(frozen=True)
class _Outer:
    weights: tuple[float, ...] = setting((), least=0)
    inner: _Inner = group(_Inner, method="pecan")
    table: dict[str, _Inner] = group(dict)
    plain: str = ""


def test_what_a_declaration_holds():
    weights, inner, _, plain = dataclasses.fields(_Outer)
    assert _Outer() == _Outer((), _Inner(None), {}, "")
    assert rule_of(weights).least == 0 and rule_of(plain) == Rule()
    assert method_of(inner) == "pecan" and method_of(plain) is None
    assert affects_result(inner) and not affects_result(dataclasses.fields(_Inner)[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (_Outer(weights=(1.0, -1.0)), "given.weights[1]: is -1.0, must be at least 0."),
        (_Outer(inner=_Inner(0)), "given.inner.count: is 0, must be at least 1."),
        (_Outer(table={"a": _Inner(1), "b": _Inner(-1)}), "given.table.b.count: is -1, must be at least 1."),
    ],
)
def test_ranges_are_checked_at_every_depth(values, message):
    check_ranges(_Outer((0.0,), _Inner(3), {"a": _Inner(None)}), "given")
    with pytest.raises(InputError) as caught:
        check_ranges(values, "given")
    assert str(caught.value) == message
