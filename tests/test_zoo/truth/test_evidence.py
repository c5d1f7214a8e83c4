"""Stored evidences: they belong to a program, are met by what is exact, and reach every user."""

import dataclasses
import json

import pytest
import torch

import benchmarks
import guides
import zoo
from benchmarks.cli.browse import _log_evidence
from benchmarks.reference.find import find
from benchmarks.run.record import digest_of
from zoo.density.log_density import LogDensity
from zoo.truth import evidence
from zoo.types import Posterior, Reference


def density_of(name, **options):
    entry = zoo.load(name, **options)
    data = entry.load_data()
    return entry, LogDensity(entry.program(data), data, dtype=entry.dtype)


def test_every_stored_evidence_belongs_to_its_program_today():
    assert len(evidence.stored()) >= 15
    for key in evidence.stored():
        if key.startswith("posteriordb/"):
            continue  # slow to load; the page's study measures them
        entry, density = density_of(key)
        assert entry.reference_of is None
        assert evidence.evidence(key, density) is not None, key


def test_exact_values_are_met():
    known = {k: e for k, e in evidence.stored().items() if e.exact is not None}
    assert len(known) >= 5
    for key, found in known.items():
        assert abs(found.value - found.exact) < 4.5 * found.se + 1e-6, key
        assert abs(found.value - found.exact) < 0.1, key
        exact = zoo.load(key)
        assert exact.exact(exact.load_data()).log_evidence == pytest.approx(found.exact, rel=1e-9)


def test_a_changed_program_has_none():
    key, density = "eight_schools", density_of("eight_schools")[1]
    assert evidence.evidence(key, density) is not None
    other = zoo.load("eight_schools")
    scaled = {**other.load_data().train}
    scaled["se"] = scaled["se"] * 1.000001
    data = dataclasses.replace(other.load_data(), train=scaled)
    assert evidence.evidence(key, LogDensity(other.program(data), data)) is None


def test_a_stored_reference_carries_it_and_comparisons_lose_nats():
    """eight_schools by quadrature: -31.3113."""
    entry, _ = density_of("eight_schools")
    truth = find(entry)
    assert truth.kind == "stored"
    assert abs(truth.log_evidence + 31.3113) < 4 * truth.log_evidence_se
    assert 0 < truth.log_evidence_se < 0.05
    fit = guides.fit(entry, "laplace", seed=0, compile="off")
    found = benchmarks.compare(guides.draw(fit, 2000, seed=0), truth, fit=fit)
    nats, se = found.lost
    assert nats == pytest.approx(truth.log_evidence - fit.elbo.value_nats)
    assert se >= truth.log_evidence_se
    assert nats > 3 * se  # a normal at the mode is no hierarchy
    assert found.log_evidence["exact"] is None
    assert found.log_evidence["estimate"] == truth.log_evidence


def test_another_form_of_the_model_has_the_same():
    centered = find(zoo.load("eight_schools_centered"))
    assert centered.log_evidence == find(zoo.load("eight_schools")).log_evidence


def test_an_exact_evidence_is_kept(monkeypatch):
    entry, density = density_of("coin")
    exact = find(entry).log_evidence
    reference = Reference(kind="analytic", posterior=None, log_evidence=-1.0)
    assert evidence.with_evidence(reference, "coin", density) is reference
    bare = dataclasses.replace(reference, log_evidence=None)
    found = evidence.with_evidence(bare, "coin", density)
    assert (found.log_evidence, found.log_evidence_se) == (pytest.approx(exact), None)
    assert evidence.with_evidence(bare, "unknown", density) is bare


def test_without_a_file_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setattr(evidence, "FILE", tmp_path / "none.json")
    evidence.stored.cache_clear()
    try:
        assert evidence.stored() == {}
    finally:
        evidence.stored.cache_clear()


def test_a_new_evidence_asks_for_new_comparisons():
    posterior = Posterior(
        entry=zoo.load("coin"),
        data=zoo.load("coin").load_data(),
        method="stored",
        draws={"x": torch.zeros(2, 2)},
        sample_dims=("chain", "draw"),
    )
    plain = Reference(kind="stored", posterior=posterior)
    known = dataclasses.replace(plain, log_evidence=-3.0, log_evidence_se=0.1)
    assert len({digest_of(plain), digest_of(known)}) == 2


def test_an_estimate_is_listed_with_its_error():
    found = evidence.stored()["eight_schools"]
    assert _log_evidence(zoo.load("eight_schools")) == {"value": found.value, "se": found.se}
    centered = _log_evidence(zoo.load("eight_schools_centered"))
    assert centered["value"] == found.value
    assert _log_evidence(zoo.load("vae")) is None


def test_zoo_list_shows_it(capsys):
    from benchmarks.cli import process

    assert process.run(["list", "--tag", "conjugate", "--long", "--json"]) == 0
    rows = {r["name"]: r for r in json.loads(capsys.readouterr().out)["entries"]}
    exact = find(zoo.load("coin")).log_evidence
    assert rows["coin"]["log_evidence"] == {"value": pytest.approx(exact), "se": 0.0}
    assert process.run(["list", "--tag", "conjugate", "--long"]) == 0
    assert f" {exact:.3f} " in capsys.readouterr().out


# -- the record ----------------------------------------------------------------------------------


class Known:
    """A log density whose values are given."""

    dim, dtype = 2, torch.float64

    def __init__(self, values):
        self.values, self.asked = list(values), []

    def evaluate(self, u):
        self.asked.append(u)
        return torch.tensor(self.values[len(self.asked) - 1], dtype=torch.float64)


def kept(monkeypatch, **fields):
    row = {"value": -3.0, "se": 0.1, "exact": None, "islands": 8}
    made = evidence.Evidence(**{**row, "fingerprint": (1.0, -200.0, 0.0), **fields})
    monkeypatch.setattr(evidence, "stored", lambda: {"mine": made})
    return made


@pytest.mark.parametrize(
    ("now", "same"),
    [
        ((1.0, -200.0, 0.0), True),
        ((1.0 + 0.9e-8, -200.0 - 1.9e-6, 0.9e-8), True),
        ((1.0 + 1.1e-8, -200.0, 0.0), False),
        ((1.0, -200.0 - 2.1e-6, 0.0), False),
        ((1.0, -200.0, 1.1e-8), False),
        ((float("nan"), -200.0, 0.0), False),
    ],
)
def test_a_fingerprint_has_a_tolerance_relative_to_its_values_above_one(monkeypatch, now, same):
    made = kept(monkeypatch)
    found = evidence.evidence("mine", Known(now))
    assert found is (made if same else None)
    assert evidence.evidence("other", Known(now)) is None


def test_an_estimate_has_its_error_and_an_exact_value_none(monkeypatch):
    bare = Reference(kind="stored", posterior=None)
    same = (1.0, -200.0, 0.0)
    kept(monkeypatch)
    found = evidence.with_evidence(bare, "mine", Known(same))
    assert (found.log_evidence, found.log_evidence_se) == (-3.0, 0.1)
    assert evidence.with_evidence(bare, "mine", Known((9.0, 9.0, 9.0))) is bare
    kept(monkeypatch, exact=-2.5)
    found = evidence.with_evidence(bare, "mine", Known(same))
    assert (found.log_evidence, found.log_evidence_se) == (-2.5, None)


def test_the_points_of_a_fingerprint_belong_to_the_key():
    one = evidence.points("mine", Known(()))
    assert one.shape == (3, 2)
    assert one.dtype == torch.float64
    assert torch.equal(one, evidence.points("mine", Known(())))
    assert not torch.equal(one, evidence.points("other", Known(())))

    class Wide(Known):
        dim = 1000

    assert float(evidence.points("mine", Wide(())).std()) == pytest.approx(0.5, rel=0.1)
