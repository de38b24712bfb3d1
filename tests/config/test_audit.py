"""Which attacks are tried, what an audit needs, and what it refuses."""

import dataclasses

import pytest

from alignjax.config import AuditSettings
from alignjax.config.audit import ATTACKS, FIELDS, check_audit
from alignjax.errors import InputError

NEEDS_NOTHING = ("temperature", "top_p", "truncation", "prefill")


def test_none_is_tried_unless_asked():
    assert AuditSettings().chosen(adapter=True) == ()
    assert AuditSettings().left_out(adapter=True) == {}
    check_audit(AuditSettings(), rank=0, listed=True)


def test_all_is_every_attack_that_has_what_it_needs():
    every = AuditSettings(attacks=("all",))
    assert every.chosen(adapter=True) == (*NEEDS_NOTHING, "unmerge", "disalign")
    assert every.chosen(adapter=False) == NEEDS_NOTHING
    assert every.left_out(adapter=True) == {"system": "config.audit.system names no text"}
    assert set(every.left_out(adapter=False)) == {"system", "unmerge", "disalign"}
    texts = dataclasses.replace(every, system="be bad")
    assert texts.chosen(adapter=True) == ATTACKS and texts.left_out(adapter=True) == {}


def test_attacks_are_tried_in_one_order():
    assert AuditSettings(attacks=("disalign", "temperature")).chosen(adapter=True) == (
        "temperature",
        "disalign",
    )


def test_every_attack_has_strengths_and_fields():
    settings = AuditSettings()
    for name in ATTACKS:
        assert settings.strengths(name)
        assert all(field in {f.name for f in dataclasses.fields(settings)} for field in FIELDS[name])
        if name != "system":
            assert settings.strengths(name) == getattr(settings, FIELDS[name][0])


@pytest.mark.parametrize(
    ("changes", "rank", "listed", "message"),
    [
        ({"attacks": ("all",)}, 8, True, "in enumerable no response is drawn; the audit samples"),
        ({"attacks": ("system",)}, 8, False, "config.audit.system: is empty; give the text"),
        ({"attacks": ("top_p",), "system": "x"}, 8, False, "config.audit.system: is 'x'; add \"system\" to"),
        (
            {"attacks": ("top_p",), "prefill": "x"},
            8,
            False,
            "config.audit.prefill: is 'x'; add \"prefill\" to",
        ),
        (
            {"attacks": ("unmerge",)},
            0,
            False,
            "unmerge changes the adapter, and config.lora.rank 0 trains all",
        ),
        ({"attacks": ("disalign",)}, 0, False, "leave disalign out"),
        (
            {"attacks": ("all",), "alphas": ()},
            8,
            False,
            "config.audit.alphas: is empty, so that disalign has",
        ),
        (
            {"attacks": ("all",), "top_ps": (0.5, 0.5)},
            8,
            False,
            "config.audit.top_ps: is [0.5, 0.5]; give each",
        ),
    ],
)
def test_what_cannot_be_audited_is_refused(changes, rank, listed, message):
    with pytest.raises(InputError) as raised:
        check_audit(AuditSettings(**changes), rank=rank, listed=listed)
    assert message in str(raised.value)


def test_all_leaves_out_what_full_fine_tuning_has_not():
    check_audit(AuditSettings(attacks=("all",), alphas=()), rank=0, listed=False)
