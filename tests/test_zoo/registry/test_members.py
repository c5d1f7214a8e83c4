"""Members by name: who claims a name that is taken is told, and no other member is affected."""

import importlib
import sys
from dataclasses import dataclass
from importlib import metadata

import pytest
from support.installed import Installed

from benchmarks.cli import doctor
from benchmarks.metrics.metric import METRICS
from benchmarks.report.section import SECTIONS
from benchmarks.studies.registry import STUDIES
from guides.objectives.records import OBJECTIVES
from guides.registry import FAMILIES
from zoo.errors import UsageError
from zoo.registry.members import Members, _origin

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


# -- members of a package made here ---------------------------------------------------------------


@dataclass
class Card:
    name: str


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A package `roomy` with members `a` and `b`, and files that are none."""
    monkeypatch.syspath_prepend(tmp_path)
    text = "from {} import Card\nCARD = Card({!r})\n".format
    (tmp_path / "roomy" / "inner" / "c").mkdir(parents=True)
    for folder in ("roomy", "roomy/inner"):
        (tmp_path / folder / "__init__.py").write_text("")
    for name in ("b", "a", "_hidden"):
        (tmp_path / "roomy" / "inner" / f"{name}.py").write_text(text(__name__, name))
    (tmp_path / "roomy" / "inner" / "c" / "card.py").write_text(text(__name__, "c"))
    importlib.invalidate_caches()
    yield tmp_path
    for name in [n for n in sys.modules if n.split(".")[0] in ("roomy", "outsider_cards")]:
        del sys.modules[name]


def members(**options):
    made = {"noun": "card", "group": "posterior_zoo.cards_of_a_test", "attribute": "CARD"}
    return Members(Card, **{**made, "folders": ("roomy.inner",), **options})


def test_members_are_the_files_of_a_folder_imported_at_first_use(room):
    found = members()
    assert list(found) == ["a", "b"]
    assert (len(found), "a" in found, "_hidden" in found, "c" in found) == (2, True, False, False)
    assert "roomy.inner.a" not in sys.modules
    first = found["a"]
    assert first.name == "a"
    assert found["a"] is first
    assert "roomy.inner.b" not in sys.modules
    with pytest.raises(KeyError, match="'c'"):
        found["c"]
    assert found.plugins == ()


def test_members_of_sub_packages_hold_their_record_in_a_module_of_one_name(room):
    found = members(file="card")
    assert list(found) == ["c"]
    assert found["c"].name == "c"


def test_members_are_those_of_all_folders(room):
    assert list(members(folders=("roomy", "roomy.inner"))) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "got", "accepted"),
    [
        ("CARD = 3", "a int", "Card"),
        ("CARD = Card('other')", "a Card called 'other'", "Card"),
        ("CARD = Card('other')", "a Card called 'other'", "Card or Cord"),
    ],
)
def test_a_record_of_another_kind_or_name_is_refused(room, text, got, accepted):
    (room / "roomy" / "inner" / "a.py").write_text(f"from {__name__} import Card\n{text}\n")
    found = members(accepted="" if accepted == "Card" else accepted)
    with pytest.raises(UsageError) as caught:
        found["a"]
    assert str(caught.value) == (
        f"The card 'a' is {got}; accepted: CARD = {accepted}(name='a', ...)."
    )
    with pytest.raises(UsageError):
        found.usable()  # a fault of a built-in member is no plug-in's


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("from zoo.errors import FitError\nraise FitError('as it is')", "as it is"),
    ],
)
def test_a_plug_in_that_raises_is_left_out_with_its_error(room, text, why):
    found = members()
    install = Installed(room, found)
    install("mine = outsider_cards:CARD", outsider_cards=text)
    assert list(found) == ["a", "b", "mine"]
    assert found.plugins == ("mine",)
    said = (
        f"The card 'mine' of outsider_cards:CARD cannot be loaded ({why}); correct or uninstall"
        " the package."
    )
    usable, broken = found.usable()
    assert ([c.name for c in usable], broken) == (["a", "b"], [said])
    install.close()


def test_a_plug_in_is_a_member_and_clashes_come_last(room):
    found = members()
    install = Installed(room, found)
    install(
        "mine = outsider_cards:CARD",
        "a = outsider_cards:CARD",
        "lost = outsider_cards:GONE",
        outsider_cards=f"from {__name__} import Card\nCARD = Card('mine')\n",
    )
    usable, broken = found.usable()
    assert [c.name for c in usable] == ["a", "b", "mine"]
    assert ["'lost' of" in broken[0], "'a' of" in broken[1]] == [True, True]
    assert len(broken) == 2
    install.close()


def test_an_entry_point_without_a_distribution_is_of_an_unknown_one():
    point = metadata.EntryPoint(name="a", value="m:A", group="g")
    assert _origin(point) == "unknown distribution (m:A)"
