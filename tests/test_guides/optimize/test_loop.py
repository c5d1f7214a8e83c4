"""Guarantees of the loop: seeds, restarts, stops, files, refusals."""

import functools
import io
import json
import math
import os
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guides
from guides.base.modes import climb
from guides.fit_file import load, save
from guides.optimize.loop import _Run
from guides.types import FitConfig
from zoo.errors import FitError, InfrastructureError, ProgramError, UnknownNameError, UsageError
from zoo.types import Data

SHORT = {"steps": 60, "patience": 10, "anneal": 20, "num_particles": 4}
ALL = ("mean_field", "full_rank", "low_rank", "laplace", "amortized")


@pytest.mark.parametrize("family", ALL)
def test_same_seed_same_fit_and_files_keep_it(tiny, family, tmp_path):
    entry, *_ = tiny.intercepts()
    first, second = (guides.fit(entry, family, seed=3, **SHORT) for _ in range(2))
    assert np.array_equal(first.losses, second.losses)
    a, b = guides.draw(first, 30), guides.draw(second, 30)
    assert torch.equal(a.unconstrained, b.unconstrained)
    assert set(a.draws) == {"mu", "effect"}
    assert a.draws["effect"].shape == (30, 12)
    assert a.sample_dims == ("sample",)
    save(first, tmp_path / "guide.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["guide.pt"]
    c = guides.draw(load(tmp_path / "guide.pt", entry), 30)
    assert torch.equal(a.unconstrained, c.unconstrained)
    assert torch.allclose(a.log_weights, c.log_weights, rtol=1e-12)
    if family != "laplace":
        other = guides.fit(entry, family, seed=4, **SHORT)
        assert not np.array_equal(first.losses, other.losses)
        assert (
            first.cost.steps
            == first.cost.sequential_depth
            == first.stop.step
            == len(first.losses)
            <= 60
        )
    assert not list(pyro.get_param_store().keys())


def test_file_of_another_entry_or_data_is_refused(tiny, tmp_path):
    entry, *_ = tiny.intercepts()
    save(guides.fit(entry, "mean_field", **SHORT), tmp_path / "g.pt")
    with pytest.raises(UsageError, match="not of gaussian"):
        load(tmp_path / "g.pt", tiny.gaussian()[0])
    data = entry.load_data()
    changed = Data(train={"y": data.train["y"] + 1}, batched=("y",), size=12)
    with pytest.raises(UsageError, match="other data"):
        load(tmp_path / "g.pt", entry, data=changed)
    (tmp_path / "bad.pt").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="not a fit or is damaged"):
        load(tmp_path / "bad.pt", entry)


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_writing_a_fit_touches_no_other_file(tiny, tmp_path, monkeypatch, fault):
    fit = guides.fit(tiny.intercepts()[0], "mean_field", **SHORT)
    mine = [tmp_path / f".g.pt.{os.getpid()}.part", tmp_path / ".tmp-g.pt", tmp_path / ".g.pt"]
    for file in mine:
        file.write_text("mine")
    before = os.umask(0o027)
    try:
        save(fit, tmp_path / "g.pt")
    finally:
        os.umask(before)
    assert (tmp_path / "g.pt").stat().st_mode & 0o777 == 0o640  # as the umask has it
    content = (tmp_path / "g.pt").read_bytes()

    def fail(*names):
        raise fault

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((InfrastructureError, KeyboardInterrupt)):
        save(fit, tmp_path / "g.pt")
    monkeypatch.undo()
    assert all(file.read_text() == "mine" for file in mine)
    assert (tmp_path / "g.pt").read_bytes() == content
    assert sorted(tmp_path.iterdir()) == sorted([*mine, tmp_path / "g.pt"])


def _breaking(tiny):
    """A density that becomes NaN after a few evaluations at the site named `y`."""
    calls = {"n": 0}

    def program(y, index=None):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("fine", dist.Normal(x, 1.0))
        calls["n"] += 1
        loc = x * float("nan") if calls["n"] > calls.get("limit", 10**9) else x
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    return (
        tiny.entry(
            "breaking", lambda: Data(train={"y": torch.ones((), dtype=torch.float64)}), program
        ),
        calls,
    )


def test_nan_stops_at_once_and_names_step_and_site(tiny):
    entry, calls = _breaking(tiny)

    def progress(step, steps, loss):
        if step == 7:
            calls["limit"] = calls["n"]

    fit = guides.fit(entry, "mean_field", progress=progress, **SHORT)
    assert fit.stop.status == "nan"
    assert fit.stop.step == 8
    assert "step 8" in fit.stop.sentence
    assert "'y'" in fit.stop.sentence
    assert torch.isfinite(fit.guide.loc).all()
    assert np.isfinite(fit.losses).all()
    assert len(fit.losses) == 7
    with pytest.raises(FitError, match="not usable"):
        guides.draw(fit)


def test_a_density_that_is_nowhere_finite_says_which_site(tiny):
    entry, calls = _breaking(tiny)
    data = entry.load_data()
    calls["limit"] = 6  # the log density is set up, then breaks
    fit = guides.fit(entry, "full_rank", data=data, **SHORT)
    assert fit.stop.status in ("init_failed", "nan")
    assert "'y'" in fit.stop.sentence


def test_restarts_keep_the_best_and_record_all(tiny):
    entry, _ = tiny.skewed()
    fit = guides.fit(entry, "mean_field", restarts=3, **SHORT)
    values = [r.elbo.value_nats for r in fit.restarts]
    assert len(values) == 3
    assert fit.elbo.value_nats == max(values)
    assert all(r.elbo.draws >= 1000 for r in fit.restarts)
    assert len({r.seed for r in fit.restarts}) == 3


def test_a_tiny_budget_is_not_called_converged(tiny):
    entry, _ = tiny.skewed()
    fit = guides.fit(entry, "full_rank", steps=3)
    assert fit.stop.status == "not_converged"
    assert "budget" in fit.stop.sentence


def test_laplace_without_a_mode_says_so(tiny, monkeypatch):
    short = functools.partial(climb, evaluations=300)  # the density rises without end
    monkeypatch.setattr("guides.families.laplace.climb", short)
    y = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)

    def centered(y, index=None):
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("row", 3):
            theta = pyro.sample("theta", dist.Normal(0.0, tau))
            pyro.sample("y", dist.Normal(theta, 10.0), obs=y)

    fit = guides.fit(tiny.entry("centered", lambda: Data(train={"y": y}), centered), "laplace")
    assert fit.stop.status == "init_failed"
    assert "No mode" in fit.stop.sentence


def test_unknown_names_get_a_guess(tiny):
    entry, _ = tiny.gaussian()
    with pytest.raises(UnknownNameError, match="did you mean 'mean_field'"):
        guides.fit(entry, "meanfield")
    with pytest.raises(UnknownNameError, match="did you mean 'steps'"):
        guides.fit(entry, "mean_field", step=5)
    with pytest.raises(UnknownNameError, match="accepted: beta, elbo"):
        guides.fit(entry, "mean_field", objective="renyi")
    with pytest.raises(UsageError, match="rank"):
        guides.fit(entry, "low_rank", rank=9)
    with pytest.raises(UsageError, match="no amortize hook"):
        guides.fit(entry, "amortized")
    with pytest.raises(UsageError, match=r"FitConfig\.lr"):
        FitConfig(lr=-1.0)


def _own(tiny, guide, **fields):
    entry, evidence = tiny.skewed()
    return (
        tiny.entry(
            "own",
            entry.load_data,
            entry.program(None),
            own_guides={"mine": lambda program, data, entry: guide},
            **fields,
        ),
        evidence,
    )


def _param_guide(y, index=None):
    shape = pyro.param("shape", torch.tensor(5.0), constraint=dist.constraints.positive)
    rate = pyro.param("rate", torch.tensor(1.0), constraint=dist.constraints.positive)
    weights = pyro.param("weights", torch.ones(3), constraint=dist.constraints.positive)
    pyro.sample("rate", dist.Gamma(shape, rate))
    pyro.sample("share", dist.Dirichlet(weights))


def test_own_guide_with_params_is_trained_to_the_exact_posterior(tiny):
    entry, evidence = _own(tiny, _param_guide)
    fit = guides.fit(entry, "mine", steps=500, patience=60, anneal=260, num_particles=2, lr=0.05)
    assert not list(pyro.get_param_store().keys())
    bound = guides.elbo(fit, 300)
    # The exact posterior, Gamma(10, 4) x Dirichlet(2, 3, 4), is in the family: at most 0.1 nats
    # are lost.
    assert evidence - 0.1 < bound.value_nats <= evidence + 5 * bound.se


def test_own_guide_that_misses_a_site_is_refused(tiny):
    def half(y, index=None):
        pyro.sample("rate", dist.Gamma(pyro.param("a", torch.tensor(2.0)), 1.0))

    entry, _ = _own(tiny, half)
    with pytest.raises(FitError, match="misses the latent site 'share'"):
        guides.fit(entry, "mine", **SHORT)


def test_own_guide_with_a_superfluous_site_is_refused(tiny):
    def more(y, index=None):
        _param_guide(y)
        pyro.sample("extra", dist.Normal(0.0, 1.0))

    entry, _ = _own(tiny, more)
    with pytest.raises(FitError, match="'extra'"):
        guides.fit(entry, "mine", **SHORT)


class _Decoder(pyro.nn.PyroModule):
    """y = weight z + noise with a weight of its own to learn."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, y, index=None):
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(self.weight * z, 0.5), obs=y)


def test_programs_that_learn_are_trained_and_others_refused(tiny):
    y = torch.linspace(-3, 3, 20, dtype=torch.float64)
    made = {"make": lambda: Data(train={"y": y}), "program": None}
    entry = tiny.entry("decoder", made["make"], None, learns=True)
    entry = type(entry)(
        **{
            **{f: getattr(entry, f) for f in entry.__dataclass_fields__},
            "build": lambda data: _Decoder(),
        }
    )
    fit = guides.fit(entry, "mean_field", **{**tiny.FAST, "weight_lr": 0.05})
    # Marginally y ~ Normal(0, w^2 + 0.25); mean field is exact given w, so w is the maximum
    # likelihood value.
    best = math.sqrt(float(y.square().mean()) - 0.25)
    assert abs(float(fit.program.weight)) == pytest.approx(best, rel=0.05)
    held = guides.fit(entry, "full_rank", given=fit, **SHORT)
    # another program, for data loaded again, with the same weights
    assert float(held.program.weight) == float(fit.program.weight)
    assert guides.fit(entry, "full_rank", given=fit, data=fit.data, **SHORT).program is fit.program
    assert not list(pyro.get_param_store().keys())
    refused = type(entry)(
        **{**{f: getattr(entry, f) for f in entry.__dataclass_fields__}, "learns": False}
    )
    with pytest.raises(ProgramError, match="learns=True"):
        guides.fit(refused, "mean_field", **SHORT)


def test_one_log_density_serves_a_fit_its_draws_and_its_elbo(tiny, tmp_path, monkeypatch):
    """Building one runs the program several times, and each of these built its own."""
    from zoo.density import log_density

    made = []
    whole = log_density.LogDensity._set_up
    monkeypatch.setattr(
        log_density.LogDensity, "_set_up", lambda self: (made.append(self), whole(self))[1]
    )
    entry, _ = tiny.gaussian()
    fit = guides.fit(entry, "full_rank", steps=40, patience=10, anneal=10, compile="off")
    one = guides.draw(fit, 50)
    guides.elbo(fit, 50)
    assert len(made) == 1
    guides.save(fit, tmp_path / "g.pt")
    again = guides.load(tmp_path / "g.pt", entry)
    two = guides.draw(again, 50)
    assert len(made) == 2
    assert torch.equal(one.unconstrained, two.unconstrained)
    assert torch.equal(one.log_weights, two.log_weights)
    other = replace(again, data=entry.load_data())  # the memo does not apply to other data
    assert guides.draws.density_of(other) is not again.density


DAMAGE = {
    "meta is a list": lambda meta, tensors: ([], tensors),
    "meta without names": lambda meta, tensors: ({"format": 1}, tensors),
    "unknown field of the configuration": lambda meta, tensors: (
        {**meta, "config": {"x": 1}},
        tensors,
    ),
    "a stop of another form": lambda meta, tensors: ({**meta, "stop": {"why": "?"}}, tensors),
    "restarts that are none": lambda meta, tensors: ({**meta, "restarts": 3}, tensors),
    "no losses": lambda meta, tensors: (meta, {k: v for k, v in tensors.items() if k != "losses"}),
    "tensors are a list": lambda meta, tensors: (meta, [1]),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_fit_is_one_sentence(tiny, tmp_path, what):
    entry, _ = tiny.gaussian()
    save(guides.fit(entry, "laplace"), tmp_path / "fit.pt")
    with zipfile.ZipFile(tmp_path / "fit.pt") as archive:
        meta, tensors = (
            json.loads(archive.read("meta.json")),
            torch.load(io.BytesIO(archive.read("tensors.pt")), weights_only=True),
        )
    meta, tensors = DAMAGE[what](meta, tensors)
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
        archive.writestr("meta.json", json.dumps(meta))
        archive.writestr("tensors.pt", buffer.getvalue())
    with pytest.raises(UsageError, match="is not a fit or is damaged") as caught:
        load(tmp_path / "bad.pt", entry)
    assert str(caught.value).count(".") <= 4


def diagnostics_at(blocks, patience):
    """Return the steps at which a run of these blocks records diagnostics, and what it sees."""
    seen, written = [], []
    run = SimpleNamespace(
        seen=seen, config=FitConfig(patience=patience), step=SimpleNamespace(write=written.append)
    )
    first = 1
    for number in blocks:
        values = torch.arange(first, first + number)
        _Run._look(run, lambda: {"kl_nats": 2.0 * float(written[-1])}, first, values)
        first += number
    assert all(row["kl_nats"] == 2 * row["step"] for row in seen)
    return [int(row["step"]) for row in seen]


@pytest.mark.parametrize("blocks", [[50], [1] * 50, [7, 40, 3]])
def test_diagnostics_are_recorded_at_powers_of_two_and_ten_times_in_a_window(blocks):
    assert diagnostics_at(blocks, 1000) == [1, 2, 4, 8, 16, 32]
    assert diagnostics_at(blocks, 200) == [1, 2, 4, 8, 16, 20, 32, 40]
    assert diagnostics_at(blocks, 9) == list(range(1, 51))  # a tenth is no whole step
