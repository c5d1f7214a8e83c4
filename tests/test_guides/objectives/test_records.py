"""Objectives are records: named by a spec, with parameters and requirements on the guide."""

import dataclasses
import json
import zipfile

import pytest

import guides
from guides.objectives.records import (
    ELBO,
    OBJECTIVES,
    Beta,
    FreeBitsELBO,
    LinearELBO,
    objective_of,
)
from guides.types import FitConfig
from zoo.errors import UnknownNameError, UsageError


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_record_says_what_it_is_and_comes_back_from_its_spec(name):
    kind = type(OBJECTIVES[name])
    assert kind.name == name
    assert kind.formula
    assert kind.__doc__.strip()[-1] == "."
    numbers = {f.name: 7 if isinstance(f.default, int) else 2.5 for f in dataclasses.fields(kind)}
    record = kind(**numbers)
    assert objective_of(record.spec) == record
    assert objective_of(name) == kind()
    assert kind().spec == name


def test_specs_are_plain_text():
    assert Beta(beta=4.0).spec == "beta[beta=4.0]"
    assert (
        FreeBitsELBO(warmup=100, free_bits=3.0).spec == "elbo_free_bits[warmup=100,free_bits=3.0]"
    )
    assert objective_of("elbo_linear[ warmup = 20 ]") == LinearELBO(warmup=20)


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("renyi", UnknownNameError, "accepted: beta, elbo"),
        ("elbo[warmup=3]", UnknownNameError, "parameter of the objective elbo"),
        ("elbo_linear[warm=3]", UnknownNameError, "did you mean 'warmup'"),
        ("beta[beta=wide]", UsageError, "beta='wide'; accepted: a number"),
        ("beta[beta=0]", UsageError, "beta=0.0; accepted: a positive number"),
        ("elbo_linear[warmup=-1]", UsageError, "warmup=-1"),
        ("elbo_free_bits[warmup=5,free_bits=-1]", UsageError, "free_bits=-1.0"),
        ("beta[beta=2", UnknownNameError, "accepted"),
    ],
)
def test_a_wrong_spec_is_one_sentence(spec, error, says):
    with pytest.raises(error, match=says):
        objective_of(spec)


def test_a_configuration_takes_a_record_a_spec_or_the_old_fields():
    assert FitConfig(objective=Beta(beta=4.0)).objective == "beta[beta=4.0]"
    assert FitConfig(objective="beta[beta=4.0]") == FitConfig(objective=Beta(beta=4.0))
    with pytest.warns(DeprecationWarning, match=r"write the objective as 'beta\[beta=4.0\]'"):
        old = FitConfig(objective="beta", beta=4.0)
    assert old == FitConfig(objective=Beta(beta=4.0))
    assert FitConfig().objective == ELBO().spec


def test_old_fields_reach_a_fit_and_what_an_objective_lacks_is_refused(tiny):
    entry, _ = tiny.gaussian()
    short = {"steps": 40, "patience": 10, "anneal": 10, "compile": "off"}
    with (
        pytest.warns(DeprecationWarning, match="deprecated"),
        pytest.raises(UnknownNameError, match="parameter of the objective elbo"),
    ):
        guides.fit(entry, "mean_field", warmup=3, **short)
    assert (
        guides.fit(entry, "mean_field", objective=ELBO(), seed=1, **short).config.objective
        == "elbo"
    )


@pytest.mark.parametrize(
    ("name", "spec"),
    [("elbo", "elbo"), ("beta", "beta[beta=4.0]"), ("elbo_linear", "elbo_linear[warmup=9]")],
)
def test_a_file_of_an_earlier_version_is_read(tiny, tmp_path, name, spec):
    """Configurations had beta, warmup and free_bits for every objective, and the mode `cached`."""
    entry, _ = tiny.gaussian()
    fit = guides.fit(entry, "mean_field", steps=40, patience=10, anneal=10, compile="off")
    guides.save(fit, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as archive:
        meta, tensors = json.loads(archive.read("meta.json")), archive.read("tensors.pt")
    meta["config"] |= {
        "objective": name,
        "beta": 4.0,
        "warmup": 9,
        "free_bits": 0.5,
        "compile": "cached",
    }
    with zipfile.ZipFile(tmp_path / "old.pt", "w") as archive:
        archive.writestr("meta.json", json.dumps(meta))
        archive.writestr("tensors.pt", tensors)
    config = guides.load(tmp_path / "old.pt", entry).config
    assert (config.objective, config.compile) == (spec, "auto")
    assert config.beta is None


# bounds log p(x), per unit, without the score term, doubly, mirrored, ends as the ELBO
FACTS = {
    "elbo": (True, False, True, False, True, True),
    "elbo_plain": (True, False, False, False, True, True),
    "elbo_linear": (True, True, True, False, True, True),
    "elbo_cyclical": (True, True, True, False, True, True),
    "elbo_free_bits": (True, True, True, False, True, True),
    "beta": (False, True, True, False, True, False),  # a bound for beta >= 1 only
    "iwae": (True, True, False, False, False, False),
    "iwae_dreg": (True, True, True, True, False, False),
}


def test_what_every_objective_declares():
    found = {
        name: (o.bounds == "log p(x)", o.per_unit, o.stl, o.doubly, o.mirrored, o.ends_as_elbo)
        for name, o in OBJECTIVES.items()
        if type(o).__module__.startswith("guides.")
    }
    assert found == FACTS
