"""The record of a family rejects what would fail later, in one sentence."""

import pytest
from torch import nn

from guides.base.family import Family
from zoo.errors import UnknownNameError, UsageError


def record(**fields):
    return Family(
        **{
            "name": "some",
            "q": "a point",
            "blind_spot": "any spread",
            "build": lambda *a, **k: nn.Identity(),
            **fields,
        }
    )


def act(*_):
    return None


def test_a_family_has_these_defaults():
    family = record()
    assert family.options == ()
    assert family.defaults == {}
    assert (family.flat, family.solve, family.start, family.slot) == (None, None, None, None)
    assert (family.amortized, family.encoder, family.own) == (False, False, False)
    assert family.richer == ()
    assert family.description == "a point; any spread"


@pytest.mark.parametrize(
    ("fields", "program"), [({}, True), ({"flat": act}, False), ({"solve": act}, False)]
)
def test_a_family_is_optimized_as_a_program_without_flat_and_solve(fields, program):
    assert record(**fields).is_program is program


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "no name"}, "A family is called 'no name'; accepted: letters, digits and _."),
        ({"q": " "}, "Family 'some' has no q or no blind spot; write one line each."),
        ({"blind_spot": ""}, "Family 'some' has no q or no blind spot; write one line each."),
        (
            {"flat": act, "solve": act},
            "Family 'some' has both flat and solve; give only one of them.",
        ),
        ({"slot": 10}, "Family 'some' has slot=10; accepted: 0 to 9, or None for a free one."),
        ({"defaults": {"steps": -1}}, "Family 'some' has defaults that fail: "),
    ],
)
def test_a_family_that_would_fail_later_is_refused(fields, said):
    with pytest.raises(UsageError) as caught:
        record(**fields)
    assert str(caught.value).startswith(said)


def test_a_default_that_no_fit_has_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"default of family 'some'.*'stepz'.*steps"):
        record(defaults={"zzz": 1, "stepz": 3, "steps": 9})


@pytest.mark.parametrize(
    "field",
    ["name", "q", "blind_spot", "build", "options", "defaults", "flat", "solve", "start",
     "amortized", "encoder", "richer", "slot", "own"],
)  # fmt: skip
def test_every_field_has_a_type(field):
    with pytest.raises(UsageError, match=field):
        record(**{field: 1.5})


@pytest.mark.parametrize("slot", [0, 9, None])
def test_a_slot_is_a_digit_or_none(slot):
    assert record(slot=slot).slot == slot


def test_a_guide_of_one_entry_needs_no_lines():
    assert record(own=True, q="", blind_spot="").own
