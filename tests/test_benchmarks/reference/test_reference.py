"""References: stored ones hold; damaged, stale, short or wrong ones are caught."""

import dataclasses
import json
import shutil
from contextlib import suppress

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from benchmarks.mcmc.nuts import run_nuts
from benchmarks.reference import find as references
from benchmarks.reference import gates, write
from zoo.density.log_density import LogDensity
from zoo.errors import ReferenceError, UsageError
from zoo.truth import stored

STORED = sorted(path.stem for path in stored.FOLDER.glob("*.npz"))


@pytest.mark.parametrize(
    ("name", "climb"),
    [
        *((name, name == "eight_schools") for name in STORED),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in STORED),
    ],
)
def test_a_stored_reference_holds(name, climb):
    found = references.check(zoo.load(stored.read(name).record["entry"]), climb=climb)
    assert found.usable, found.reason
    assert ("wide_climbs" in found.gates) == climb
    assert all(found.gates.values())
    assert {
        "rhat",
        "ess_band",
        "moments",
        "stein",
        "fingerprint",
        "recorded no_divergences",
        "recorded ebfmi",
    } <= set(found.gates)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "eight_schools",
        "random_intercepts",
        "robust_regression",
        "stochastic_volatility",
        "weibull_survival",
    ],
)
def test_a_stored_reference_is_found_again(name, tmp_path):
    """The smaller tier with another seed passes every gate.

    Every moment is within 4 standard errors of the stored one.
    """
    entry = zoo.load(name)
    fresh = stored.read(name, references.write(entry, seed=1, small=True, folder=tmp_path).parent)
    assert fresh.record["seed"] != stored.read(name).record["seed"]
    chains = stored.load(entry, entry.load_data(), folder=tmp_path)
    assert chains.usable, chains.reason
    for quantity, moments in fresh.moments.items():
        known = stored.read(name).moments[quantity]
        for part in ("mean", "sd"):
            error = (
                getattr(moments, f"{part}_se") ** 2 + getattr(known, f"{part}_se") ** 2
            ).sqrt()
            gap = (getattr(moments, part) - getattr(known, part)).abs() / error
            assert gap.max() < gates._limit(
                2 * sum(m.mean.numel() for m in fresh.moments.values())
            ), (quantity, part)


def test_every_stored_entry_has_one():
    entries = [zoo.load(name) for name in zoo.names() if "/" not in name]
    assert {
        e.name
        for e in entries
        if e.reference == "stored" and e.reference_of is None and e.published is None
    } <= set(STORED)


@pytest.mark.parametrize("name", STORED)
def test_a_stored_reference_is_small(name):
    assert sum(path.stat().st_size for path in stored.paths(name)) < 200_000
    assert stored.read(name).unconstrained.numel() * 4 < 200_000


@pytest.mark.parametrize("name", ["coin", "correlated_gaussian", "linear_regression"])
def test_closed_forms_hold_under_stein(name):
    found = references.check(zoo.load(name))
    assert found.usable, found.reason
    assert found.kind == "analytic"


# -- find --------------------------------------------------------------------------------------


def test_find_prefers_closed_forms_and_gives_groups_of_draws():
    entry = zoo.load("coin")
    found = references.find(entry)
    assert found.kind == "analytic"
    assert found.posterior.sample_shape == (4, 2000)
    assert found.log_evidence == pytest.approx(-np.log(981))
    assert float(found.moments["chance"].mean_se) == 0.0


def test_find_borrows_draws_of_the_other_entry():
    centered = zoo.load("eight_schools_centered")
    found = references.find(centered)
    assert found.usable
    assert found.kind == "stored"
    assert found.posterior.entry.name == "eight_schools"
    assert "theta_raw" in found.posterior.draws
    assert set(found.moments) == set(centered.quantities)
    assert references.check(centered).usable


def test_find_falls_back_to_the_chains_of_this_run_for_other_data_and_options(tmp_path):
    three = zoo.load("gaussian_mixture", K=3)
    assert references.find(three).kind == "none"
    assert "zoo reference gaussian_mixture[K=3] --write" in references.find(three).reason
    entry = zoo.load("eight_schools")
    data = entry.load_data()
    other = dataclasses.replace(data, train={**data.train, "y": data.train["y"] + 1.0})
    assert references.find(entry, other).kind == "none"
    program = gaussian()
    chains = run_nuts(
        program, chains=2, tune=50, draws=60, min_ess=0, compile="off", in_process=True
    )
    assert references.find(program, nuts=chains, folder=tmp_path).kind == "nuts"
    learned = dataclasses.replace(program, learns=True)
    assert references.find(learned, nuts=chains).kind == "conditional"
    assert references.find(learned).kind == "none"


# -- write and read ----------------------------------------------------------------------------


def gaussian(shift=0.0, reference="stored"):
    def program(y):
        x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        s = pyro.sample("s", dist.LogNormal(0.0, 0.5))
        pyro.sample("y", dist.Normal(x.sum() + shift, s), obs=y)

    entry = zoo.from_program(program, {"y": torch.tensor(1.0, dtype=torch.float64)}, name="tiny")
    return dataclasses.replace(entry, reference=reference)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "TUNE", 300)
        patch.setattr(write, "THIN", (4, 8, 16))
        path = references.write(gaussian(), small=True, folder=folder, progress=lines.append)
    assert path == folder / "tiny.json"
    assert "every gate passed" in lines[-2]
    assert "no other mode" in lines[-1]
    return folder


@pytest.fixture
def folder(written, tmp_path):
    target = tmp_path / "references"
    shutil.copytree(written, target)
    return target


def test_what_is_written_can_be_found_and_checked(folder):
    record = json.loads((folder / "tiny.json").read_text())
    assert (record["tier"], record["kept"], record["chains"]) == ("small", 2000, 10)
    assert record["command"] == "zoo reference tiny --write --small"
    assert {"torch", "nutpie", "pyro-ppl"} <= set(record["versions"])
    assert all(record["gates"].values())
    found = references.check(gaussian(), folder=folder)
    assert found.usable, found.reason
    assert references.find(gaussian(), folder=folder).usable
    x = found.posterior.draws["x"].sum(-1)
    assert found.posterior.sample_shape == (10, 200)
    assert float(x.mean()) > 0.1  # between the prior mean 0 and the observed 1


def test_storing_draws_costs_single_precision_only(folder):
    found = stored.read("tiny", folder)
    density = LogDensity(gaussian().program(gaussian().load_data()), gaussian().load_data())
    assert stored.fingerprint(density, found.points) == pytest.approx(
        found.record["fingerprint"], rel=1e-12
    )
    for point in found.points:
        # the fingerprint's points are among the draws
        assert (found.unconstrained == point).all(-1).any()


def test_a_changed_program_is_stale(folder):
    for shift in (0.1, 1e-6):
        found = references.find(gaussian(shift), folder=folder)
        assert not found.usable
        assert "stale" in found.reason
        assert "zoo reference tiny --write" in found.reason
        assert not references.check(gaussian(shift), folder=folder).usable
    assert references.find(gaussian(1e-12), folder=folder).usable


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "tiny.npz").write_bytes((f / "tiny.npz").read_bytes()[:-100]),
        lambda f: (f / "tiny.npz").unlink(),
        lambda f: (f / "tiny.json").write_text("{"),
        lambda f: edit(f, lambda r: r.pop("moments")),
        lambda f: edit(f, lambda r: r.update(schema=99)),
        lambda f: edit(f, lambda r: r["moments"]["x"]["mean"].__setitem__(0, float("nan"))),
    ],
    ids=["cut", "no draws", "no json", "no moments", "schema", "nan"],
)
def test_a_damaged_file_is_named_with_the_cure(folder, damage):
    damage(folder)
    with pytest.raises(ReferenceError, match="zoo reference tiny --write"):
        stored.read("tiny", folder)
    found = references.find(gaussian(), folder=folder)
    assert not found.usable
    assert "zoo reference tiny --write" in found.reason


def edit(folder, change):
    record = json.loads((folder / "tiny.json").read_text())
    change(record)
    with suppress(ValueError):  # not a number: the record cannot be read anyway
        record["sha256"] = stored.record_digest(record)
    (folder / "tiny.json").write_text(json.dumps(record))


def test_a_failed_gate_in_the_record_makes_it_unusable(folder):
    edit(folder, lambda r: r["gates"].update(no_divergences=False))
    found = references.find(gaussian(), folder=folder)
    assert not found.usable
    assert "no_divergences" in found.reason


def test_moments_that_are_not_those_of_the_draws_are_noticed(folder):
    edit(
        folder,
        lambda r: r["moments"]["x"]["mean"].__setitem__(0, r["moments"]["x"]["mean"][0] + 0.5),
    )
    found = references.check(gaussian(), folder=folder)
    assert not found.gates["moments"]
    assert "standard errors from the record" in found.reason


def tamper(folder, change):
    with np.load(folder / "tiny.npz") as arrays:
        content = {name: arrays[name] for name in arrays}
    content["deviations"] = change(content["deviations"])
    np.savez_compressed(folder / "tiny.npz", **content)
    import hashlib

    edit(
        folder,
        lambda r: r.update(
            npz_sha256=hashlib.sha256((folder / "tiny.npz").read_bytes()).hexdigest()
        ),
    )


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        (lambda d: d * np.float32(0.8), "stein"),
        (lambda d: d + np.float32(0.3), "stein"),
        (lambda d: np.repeat(d[:, :40], 5, axis=1), "ess_band"),
        (lambda d: d + np.float32(0.5) * np.arange(10, dtype=np.float32)[:, None, None], "rhat"),
        (lambda d: d * np.float32(0.0), "finite"),
    ],
    ids=["narrow", "shifted", "too few draws", "chains apart", "constant"],
)
def test_draws_that_are_not_a_reference_fail(folder, change, gate):
    tamper(folder, change)
    found = references.check(gaussian(), folder=folder)
    assert not found.gates[gate]
    assert not found.usable


def test_a_wrong_jacobian_is_caught_by_stein(written):
    """Without log |dT/du| of one positive site the draws violate Stein's identities."""
    u = stored.read("tiny", written).unconstrained.numpy()
    entry = gaussian()
    data = entry.load_data()
    log_density = LogDensity(entry.program(data), data)
    distance, limit, _ = gates.stein(log_density, u)
    assert distance < limit
    right = log_density.evaluate
    site = next(s for s in log_density.sites if s.name == "s")
    # d exp(u) / du = exp(u)
    log_density.evaluate = lambda point, tensors=None: right(point, tensors) - point[site.start]
    log_density._batch = None
    distance, limit, where = gates.stein(log_density, u)
    assert distance > 2 * limit
    assert " of s[0]" in where


def test_only_entries_with_stored_references_are_written(tmp_path):
    for name in ("coin", "eight_schools_centered"):
        with pytest.raises(UsageError, match="reference"):
            references.write(zoo.load(name), folder=tmp_path)


def test_nothing_is_written_unless_every_gate_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "TUNE", 100)
    monkeypatch.setattr(write, "THIN", (1,))
    monkeypatch.setattr(write, "SMALL", 200)
    monkeypatch.setattr(gates, "ess_band", lambda n: (1e9, 1e10))
    with pytest.raises(ReferenceError, match="ess_band failed"):
        references.write(gaussian(), small=True, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_keys_become_safe_file_names(tmp_path):
    assert stored.paths("gaussian_mixture[K=3]", tmp_path)[0].name == "gaussian_mixture--K=3.json"
    assert stored.paths("posteriordb/kidiq-kidscore", tmp_path)[0].parent == tmp_path
    for bad in ("../x", "a\0b", "", "x y"):
        path = None
        try:
            path = stored.paths(bad, tmp_path)[0]
        except ReferenceError:
            continue
        assert path.parent == tmp_path
        assert not path.name.startswith(".")


def test_an_edited_record_is_not_believed(folder):
    """One sign of a moment was changed and every method judged by it."""
    record = json.loads((folder / "tiny.json").read_text())
    record["moments"]["x"]["mean"][0] *= -1
    (folder / "tiny.json").write_text(json.dumps(record))
    with pytest.raises(ReferenceError, match="does not match its own SHA-256"):
        stored.read("tiny", folder)


@pytest.mark.parametrize("name", STORED)
def test_every_record_carries_its_digest(name):
    record = json.loads((stored.FOLDER / f"{name}.json").read_text())
    assert record["sha256"] == stored.record_digest(record)


def test_where_nuts_failed_nobody_is_told_to_run_it(tmp_path):
    entry = dataclasses.replace(gaussian(), reference="nuts")
    assert "run NUTS on it" in references.find(entry, folder=tmp_path).reason
    found = references.find(entry, folder=tmp_path, failed="the density is finite nowhere.")
    assert found.reason.endswith("NUTS failed on it: the density is finite nowhere.")
    learned = dataclasses.replace(entry, learns=True)
    assert "NUTS failed on them: x." in references.find(learned, failed="x").reason
