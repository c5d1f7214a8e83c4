"""Members by name: who claims a name that is taken is told, and no other member is affected."""

import pytest
from support.installed import Installed

from benchmarks.cli import doctor
from benchmarks.metrics.metric import METRICS
from benchmarks.report.section import SECTIONS
from benchmarks.studies.registry import STUDIES
from guides.objectives.records import OBJECTIVES
from guides.registry import FAMILIES
from zoo.errors import UsageError

MEMBERS = {
    "families": FAMILIES,
    "objectives": OBJECTIVES,
    "metrics": METRICS,
    "sections": SECTIONS,
    "studies": STUDIES,
}
TAKEN = {
    "objectives": "iwae",
    "families": "mean_field",
    "metrics": "sd_ratio",
    "sections": "scores",
    "studies": "posteriordb",
}


@pytest.fixture(params=MEMBERS)
def kind(request):
    return request.param


@pytest.fixture
def install(kind, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    made = Installed(tmp_path, MEMBERS[kind])
    yield made
    made.close()


def test_the_name_of_a_built_in_member_is_kept_and_the_plugin_is_named(kind, install):
    members, name = MEMBERS[kind], TAKEN[kind]
    before = members[name]
    install(f"{name} = outside_copy:THING")
    found, broken = members.usable()
    assert members[name] is before
    assert name not in members.plugins
    assert len(found) == len(members)
    sentence = (
        f"The {members.noun} {name!r} of outsider (outside_copy:THING) is left out, since a"
        " built-in one has this name; rename it."
    )
    assert broken == [sentence]


def test_claims_are_read_once_until_they_are_forgotten(kind, install):
    members, name = MEMBERS[kind], TAKEN[kind]
    install(f"{name} = outside_copy:THING")
    found = members.clashes
    assert list(found) == [name]
    assert members.clashes is found
    install("mine = outside_copy:THING")  # which makes them forgotten
    assert members.clashes == {}


def test_a_name_of_two_packages_is_neither_and_both_are_named(kind, install):
    members = MEMBERS[kind]
    install("twice = outside_copy:THING", outside_copy="THING = 3")
    assert "twice" in members
    install("twice = other_copy:THING", package="another", other_copy="THING = 4")
    with pytest.raises(UsageError) as caught:
        members["twice"]
    assert str(caught.value) == (
        f"The {members.noun} name 'twice' is claimed by another (other_copy:THING) and outsider"
        " (outside_copy:THING); rename or remove one."
    )
    assert members.usable()[1] == [str(caught.value)]


def test_a_package_that_says_the_same_twice_makes_one_claim(kind, install):
    members = MEMBERS[kind]
    install("mine = outside_copy:THING", "mine = outside_copy:THING", outside_copy="THING = 3")
    assert members.clashes == {}


def test_the_doctor_names_the_members_and_what_is_wrong_with_others(kind, install):
    look = getattr(doctor, f"_{kind}")
    assert look().status == "ok"
    assert f"{len(MEMBERS[kind])} {kind}, none broken: " in look().sentence
    assert TAKEN[kind] in look().sentence
    install(f"{TAKEN[kind]} = outside_copy:THING", "lost = outside_copy:THING")
    found = look()
    assert found.status == "failed"
    assert "'lost' of outside_copy:THING cannot be loaded" in found.sentence
    assert "correct or uninstall the package." in found.sentence
    assert f"{TAKEN[kind]!r} of outsider (outside_copy:THING) is left out" in found.sentence


def test_the_doctor_knows_a_richer_family_that_does_not_exist(tmp_path, monkeypatch):
    text = (
        "from guides import Family\n"
        "MINE = Family(name='mine', q='q', blind_spot='b', build=print, richer=('full_rnk',))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = Installed(tmp_path, FAMILIES)
    try:
        made("mine = outside_mine:MINE", outside_mine=text)
        found = doctor._families()
    finally:
        made.close()
    assert found.status == "failed"
    assert "Unknown richer family of mine 'full_rnk' (did you mean 'full_rank'?)" in found.sentence
