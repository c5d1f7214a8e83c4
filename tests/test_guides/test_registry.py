"""Families register themselves by a record, from a file or a plug-in."""

import functools
import re
from pathlib import Path

import pytest
from support.installed import Installed

import benchmarks
import guides
from benchmarks.comparison.sentences import comparison_sentence
from benchmarks.report.theme import MARKERS, marks
from benchmarks.types import Reason
from guides import registry
from guides.contract import checks
from guides.types import FitConfig
from zoo.errors import UnknownNameError, UsageError

PLUGIN = """
from guides.families import mean_field
from guides.base.family import Family

FAMILY = Family(
    name="borrowed", q="independent normals, by another name", blind_spot="dependence",
    build=mean_field.build, flat=mean_field.flat, defaults={"num_particles": 16},
    richer=("full_rank",), slot=7,
)
NAMELESS = Family(name="other", q="q", blind_spot="b", build=mean_field.build)
NOTHING = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package with one entry point on the path, as an installation would."""
    monkeypatch.syspath_prepend(tmp_path)
    installed = Installed(tmp_path, registry.FAMILIES)
    yield functools.partial(installed, borrowed_family=PLUGIN)
    installed.close()


def test_the_file_of_the_page_is_a_family(tiny, install):
    """The file in docs/add_a_guide.md: exact on a normal posterior, and passes the contract."""
    page = (Path(__file__).parents[2] / "docs" / "add_a_guide.md").read_text(encoding="utf-8")
    (code,) = [
        b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "FAMILY = Family(" in b
    ]
    install("isotropic = isotropic_family:FAMILY", isotropic_family=code)
    entry, _ = tiny.gaussian(rho=0.9)
    fit = guides.fit(entry, "isotropic", seed=0, compile="off", **tiny.FAST)
    assert abs(fit.elbo.value_nats) <= 5 * fit.elbo.se + 1e-3  # the log evidence is 0
    assert [c.name for c in checks(entry, "isotropic") if c.run().status == "failed"] == []
    skew, evidence = tiny.skewed()
    short = guides.fit(skew, "isotropic", seed=0, compile="off", **tiny.FAST)
    assert short.elbo.value_nats < evidence - 5 * short.elbo.se


@pytest.mark.parametrize("name", guides.FAMILIES)
def test_every_file_is_a_family_of_its_name(name):
    family = guides.FAMILIES[name]
    assert family.name == name
    assert family.is_program == (name == "class_network")
    assert set(family.richer) <= set(guides.FAMILIES)
    assert FitConfig(**family.defaults)
    assert family.slot is None or 0 <= family.slot < len(MARKERS)
    assert family.q[-1] not in ".;"


def test_the_files_are_the_families():
    files = {p.stem for p in (Path(registry.__file__).parent / "families").glob("[a-z]*.py")}
    assert files == set(guides.FAMILIES)
    slots = [f.slot for f in guides.FAMILIES.values() if f.slot is not None]
    assert len(slots) == len(set(slots))


def test_an_installed_family_is_fitted_compared_drawn_and_advised(tiny, install):
    install("borrowed = borrowed_family:FAMILY")
    assert "borrowed" in guides.FAMILIES
    entry, _ = tiny.gaussian(rho=0.5)
    fit = guides.fit(entry, "borrowed", seed=0, compile="off", steps=60, patience=15, anneal=15)
    assert fit.config.num_particles == 16
    assert benchmarks.compare(guides.draw(fit, 200), None).verdict == "no_reference"
    assert all(c.run().status != "failed" for c in checks(entry, "borrowed"))
    assert marks(["borrowed", "full_rank"])["borrowed"].marker == MARKERS[7]
    reason = Reason(verdict="too_narrow", label="x", sentence="x: sd 0.5x", excess=2.0)
    card = type(entry)(
        **{
            **{f: getattr(entry, f) for f in entry.__dataclass_fields__},
            "families": ("borrowed", "full_rank"),
        }
    )
    assert comparison_sentence(
        "borrowed", "too_narrow", (reason,), kind="exact", entry=card
    ).endswith("; try full_rank.")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "broken = borrowed_family:MISSING",
            "'broken' of borrowed_family:MISSING cannot be loaded .AttributeError",
        ),
        ("broken = borrowed_family:NAMELESS", "'broken' is a Family called 'other'"),
        (
            "broken = borrowed_family:NOTHING",
            "'broken' is a int; accepted: FAMILY = guides.Family",
        ),
    ],
)
def test_a_broken_plugin_is_one_sentence_and_costs_no_other(tiny, install, line, says):
    install(line)
    entry, _ = tiny.gaussian()
    with pytest.raises(UsageError, match=says):
        guides.fit(entry, "broken")
    assert guides.FAMILIES["mean_field"].name == "mean_field"


def test_a_plugin_does_not_replace_a_family_of_ours(install):
    install("mean_field = borrowed_family:FAMILY")
    assert guides.FAMILIES["mean_field"].build.__module__ == "guides.families.mean_field"


@pytest.mark.parametrize("family", [f.name for f in guides.FAMILIES.values() if f.encoder])
def test_what_needs_an_encoder_is_refused_before_anything_runs(tiny, family):
    """`amortized_full` passed a check on one name and failed later."""
    entry, _ = tiny.gaussian()
    with pytest.raises(
        UsageError, match=f"cannot be amortized by {family}: its card has no amortize hook"
    ):
        guides.registry.check_family(family, entry)


def record(**fields):
    return guides.Family(
        **{
            "name": "mine",
            "q": "normals",
            "blind_spot": "tails",
            "build": lambda *a, **k: None,
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"name": "my family"}, UsageError, "letters, digits and _"),
        ({"q": " "}, UsageError, "has no q"),
        ({"blind_spot": ""}, UsageError, "blind spot; write one line each"),
        (
            {"flat": lambda g, s: g, "solve": lambda g, d, r: (None, 0)},
            UsageError,
            "both flat and solve",
        ),
        ({"defaults": {"stepz": 3}}, UnknownNameError, "steps"),
    ],
)
def test_a_record_that_would_fail_later_is_refused(fields, error, says):
    with pytest.raises(error, match=says):
        record(**fields)
    assert record().description == "normals; tails"


def test_an_own_guide_is_a_family_of_one(tiny):
    entry, _ = tiny.gaussian()
    own = tiny.entry(
        "own",
        entry.load_data,
        entry.program(None),
        own_guides={"mine": lambda program, data, entry: 3},
    )
    family = guides.family_of("mine", own)
    assert family.own
    assert family.defaults == {"num_particles": 4, "lr": 0.02}
    with pytest.raises(Exception, match="is int, not a callable"):
        guides.build("mine", own.program(None), own.load_data(), own)


def test_an_own_guide_that_is_not_there_is_asked_for(tiny):
    entry, _ = tiny.gaussian()
    with pytest.raises(UsageError) as caught:
        guides.family_of("own", entry)
    assert str(caught.value) == (
        "Entry gaussian has no guide of its own, which the family 'own' is; pass guide= to"
        " zoo.from_program or benchmarks.compare_program: a function with the model's arguments,"
        " or an AutoGuide class."
    )
