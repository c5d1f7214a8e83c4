"""`zoo check`, `zoo new` and `zoo reference` with stand-ins for what they call."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import benchmarks.audit
import benchmarks.contract
from benchmarks.cli import arguments, author, environment
from benchmarks.reference import find as references
from zoo.errors import UsageError

ENTRY = SimpleNamespace(key="mine[d=2]", load_data=lambda: "data")


@pytest.fixture(autouse=True)
def entry(monkeypatch):
    monkeypatch.setattr(author.zoo, "load", lambda model: ENTRY)


def check_of(name, status, sentence=""):
    return SimpleNamespace(
        name=name, run=lambda: SimpleNamespace(status=status, sentence=sentence)
    )


@pytest.mark.parametrize(("bounds", "module"), [(False, "contract"), (True, "audit")])
def test_every_check_is_printed_and_counted(monkeypatch, capsys, bounds, module):
    given = [check_of("a", "ok", "fine"), check_of("b", "skipped"), check_of("c", "ok")]
    monkeypatch.setattr(getattr(benchmarks, module), "checks", lambda entry: given)
    assert author.check("mine", bounds) == 0
    assert capsys.readouterr().out.splitlines() == [
        "     ok  a: fine",
        "skipped  b",
        "     ok  c",
        "mine[d=2]: 2 ok, 0 failed, 1 skipped",
    ]
    given.append(check_of("d", "failed", "wrong"))
    assert author.check("mine", bounds) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        " failed  d: wrong",
        "mine[d=2]: 2 ok, 1 failed, 1 skipped",
    ]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"write": True, "check": True},
            "zoo reference got both --write and --check; give one of them.",
        ),
        (
            {"write": False, "check": False, "small": True},
            "zoo reference got --small without --write; it is the size of a reference to be"
            " written.",
        ),
    ],
)
def test_flags_of_a_reference_exclude_each_other(given, sentence):
    with pytest.raises(UsageError) as caught:
        author.reference("mine", jobs=1, **given)
    assert str(caught.value) == sentence


def test_a_reference_is_written_with_its_progress_on_stderr(monkeypatch, capsys):
    calls = []

    def write(entry, *, jobs, small, progress):
        calls.append((entry, jobs, small))
        progress("chain 1")
        return Path("a.npz")

    monkeypatch.setattr(references, "write", write)
    assert author.reference("mine", True, False, 3, small=True) == 0
    assert calls == [(ENTRY, 3, True)]
    assert capsys.readouterr() == ("mine[d=2]: reference written to a.npz\n", "chain 1\n")


def found(**changes):
    given = {
        "kind": "stored",
        "usable": True,
        "reason": "",
        "gates": {},
        "rhat_max": None,
        "ess_min": None,
        "log_evidence": None,
    }
    return SimpleNamespace(**{**given, **changes})


def test_a_usable_reference_is_shown_with_its_figures(monkeypatch, capsys):
    record = found(
        gates={"rhat": True, "ess": False}, rhat_max=1.00234567, ess_min=2000.0, log_evidence=-3.5
    )
    monkeypatch.setattr(references, "find", lambda entry, data, nuts: record if data else None)
    assert author.reference("mine", False, False, 1) == 0
    assert capsys.readouterr().out.splitlines() == [
        "mine[d=2]: stored, usable",
        "      ok  rhat",
        "  failed  ess",
        "  largest R-hat: 1.00235",
        "  smallest ESS: 2000",
        "  log evidence: -3.5",
    ]


def test_an_unusable_reference_says_why_and_has_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(
        references, "check", lambda entry: found(usable=False, reason="R-hat is 2")
    )
    assert author.reference("mine", False, True, 1) == 1
    assert capsys.readouterr().out == "mine[d=2]: stored, not usable: R-hat is 2\n"


# --- arguments


def test_models_are_completed_from_entries_and_files(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("coin_b.py", "coin_a.py", "other.txt"):
        (tmp_path / name).write_text("")
    found = arguments.models("coin")
    assert found[-2:] == ["coin_a.py", "coin_b.py"]
    assert "coin" in found[:-2]
    assert all(name.startswith("coin") for name in found)


def test_the_last_of_several_families_is_completed():
    assert arguments.families("lap") == ["laplace"]
    assert arguments.families("flow,mean_f") == ["flow,mean_field"]
    assert arguments.families("al")[0] == "all"
    assert arguments.families("") == ["all", *sorted(arguments.families("")[1:])]


def test_unknown_models_are_rejected_one_by_one(monkeypatch):
    import zoo.registry

    asked = []
    monkeypatch.setattr(zoo.registry, "require", asked.append)
    assert arguments._known("one") == "one"
    assert arguments._known(["two", "three"]) == ["two", "three"]
    assert asked == ["one", "two", "three"]


# --- environment


@pytest.mark.parametrize("before", [None, "0,1"])
def test_cards_are_hidden_and_shown_again(monkeypatch, before):
    variables = {} if before is None else {environment.CARDS: before}
    monkeypatch.setattr(environment, "os", SimpleNamespace(environ=variables))
    monkeypatch.setattr(environment, "_found", {})
    environment.hide_cards()
    environment.hide_cards()
    assert variables == {environment.CARDS: ""}
    environment.show_cards()
    assert variables == ({} if before is None else {environment.CARDS: before})
    environment.show_cards()
    assert variables == {}


@pytest.mark.parametrize("origin", ["/elsewhere/guides/__init__.py", None])
def test_the_first_package_from_elsewhere_is_named(monkeypatch, origin):
    home = environment.HOME

    def find(room):
        place = str(home / room / "__init__.py")
        return SimpleNamespace(origin=origin if room == "guides" else place)

    monkeypatch.setattr(environment.importlib.util, "find_spec", find)
    where = "'/elsewhere'" if origin else "'None'"
    assert environment.shadowed() == (
        f"the package 'guides' is imported from {where} but this command belongs to"
        f" {str(home)!r}; another package of that name shadows it: uninstall that, or use a"
        " virtual environment of its own."
    )
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda room: None)
    assert "'zoo' is imported from 'None'" in environment.shadowed()
