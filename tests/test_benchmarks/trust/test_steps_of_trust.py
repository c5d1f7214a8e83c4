"""Parts of trust by hand: growing chains, judged components, settling, doubts of a drift."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.comparison import assess_steps
from benchmarks.trust import chains, drift, estimate, existence, judged
from benchmarks.trust.drift import Drift
from benchmarks.trust.existence import growth
from benchmarks.trust.prior_part import Direct
from zoo.errors import FitError, UsageError
from zoo.seeds import derive_seed

# --- growth


def walk(scales, draws=100, chains=4, seed=0):
    """Chains whose quarters are uniform noise of these scales."""
    generator = torch.Generator().manual_seed(seed)
    noise = 2 * torch.rand(chains, draws, 1, generator=generator, dtype=torch.float64) - 1
    factor = torch.tensor(scales).double().repeat_interleave(draws // len(scales))
    return noise * factor[None, :, None]


def test_a_spread_that_grows_in_every_quarter_is_measured():
    """Scales 1, 2, 4, 8: eight times, up to the noise of medians of 25 draws."""
    found = growth(walk([1.0, 2.0, 4.0, 8.0], draws=4000))
    assert found == pytest.approx(8.0, rel=0.15)


@pytest.mark.parametrize(
    "scales",
    [
        [1.0, 1.0, 1.0, 1.0],
        [1.0, 4.0, 2.0, 8.0],  # not from quarter to quarter
        [1.0, 1.3, 1.8, 3.0],  # not to four times
        [8.0, 4.0, 2.0, 1.0],
    ],
)
def test_other_spreads_do_not_grow(scales):
    assert growth(walk(scales, draws=4000)) == 1.0


def test_one_chain_that_does_not_grow_is_enough_to_say_nothing():
    u = walk([1.0, 2.0, 4.0, 8.0], draws=4000)
    u[0] = walk([1.0] * 4, draws=4000)[0]
    assert growth(u) == 1.0


def test_short_single_and_infinite_chains_say_nothing():
    steady = walk([1.0, 5.0, 25.0, 125.0], draws=100)
    assert growth(steady) > 4
    assert growth(walk([1.0, 5.0, 25.0, 125.0], draws=96)) == 1.0
    assert growth(steady[:1]) == 1.0
    assert growth(steady[:2]) > 4
    broken = steady.clone()
    broken[0, 0, 0] = math.inf
    assert growth(broken) == 1.0


def test_the_largest_growth_of_several_directions_is_returned():
    both = torch.cat(
        [walk([1.0, 2, 4, 8], draws=4000), walk([1.0, 3, 9, 27], draws=4000, seed=1)], -1
    )
    assert growth(both) == pytest.approx(27.0, rel=0.2)


@pytest.mark.parametrize(("flat", "grows"), [(True, True), (True, False), (False, True)])
def test_growth_counts_only_with_an_improper_part(monkeypatch, flat, grows):
    monkeypatch.setattr(existence, "may_not_exist", lambda density, u: "")
    monkeypatch.setattr(existence, "has_flat_part", lambda density: flat)
    monkeypatch.setattr(existence, "growth", lambda u: 5.4321 if grows else 1.0)
    density = SimpleNamespace(dim=2, dtype=torch.float32)
    found = existence.why_none(density, torch.zeros(2, 3, 2))
    assert found == (
        "the posterior may not exist: the spread of the draws grows along every chain, to 5.43"
        " times from the first quarter to the last"
        if flat and grows
        else ""
    )
    assert existence.why_none(density, torch.zeros(6, 2)) == ""
    monkeypatch.setattr(existence, "may_not_exist", lambda density, u: str((u.dtype, u.shape)))
    assert "float32" in existence.why_none(density, torch.zeros(500, 2, dtype=torch.float64))
    assert "400, 2" in existence.why_none(density, torch.zeros(500, 2))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"posterior": None},
        {"unconstrained": None},
        {"sample_dims": ("sample",)},
        {"usable": True},
        {"gates": {"posterior_exists": False}},
        {"kind": "stored"},
    ],
)
def test_only_failed_chains_of_this_run_need_the_doubt(changes):
    posterior = SimpleNamespace(
        unconstrained=changes.get("unconstrained", "u"),
        sample_dims=changes.get("sample_dims", ("chain", "draw")),
    )
    given = {"posterior": posterior, "usable": False, "gates": {}, "kind": "nuts"}
    given |= {k: v for k, v in changes.items() if k in given}
    assert existence.needs_doubt(SimpleNamespace(**given)) is not bool(changes)
    assert existence.needs_doubt(SimpleNamespace(**{**given, "kind": "conditional"})) is (
        not changes or "kind" in changes
    )


# --- judged components


def quantity(scale, judged=True):
    return SimpleNamespace(fn=lambda sites, data: scale * sites["x"], judged=judged)


def test_judged_components_stand_side_by_side_in_order(monkeypatch):
    density = SimpleNamespace(
        dim=2, dtype=torch.float64, constrain=lambda u: {"x": u.double() ** 2}
    )
    entry = SimpleNamespace(
        quantities={"a": quantity(1.0), "b": quantity(7.0, judged=False), "c": quantity(-1.0)}
    )
    found = judged.Judged(density, entry, "data")
    values = found(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert values.tolist() == [[1, 4, -1, -4], [9, 16, -9, -16]]
    assert values.dtype == np.float64
    asked = []
    monkeypatch.setattr(
        judged, "component_names", lambda name, q, shape, data: asked.append(shape) or [name, name]
    )
    assert found.components == ("a", "a", "c", "c")
    assert asked == [(2,), (2,)]


def test_prior_draws_that_are_not_finite_are_left_out(monkeypatch):
    monkeypatch.setattr(
        judged,
        "prior_draw",
        lambda density, data, seed: torch.tensor([1.0, math.inf if seed == second else 0.0]),
    )
    second = derive_seed("wide climbs", "prior", 1)
    assert judged.prior_draws(None, None, 3).tolist() == [[1.0, 0.0], [1.0, 0.0]]


# --- settling after SMC


@dataclasses.dataclass
class Smc:
    points: torch.Tensor
    ancestors: torch.Tensor

    def draws(self, n, seed):
        return torch.arange(float(n))[:, None]


@pytest.mark.parametrize(
    ("found", "doubt", "stays"), [(False, "", True), (True, "", False), (False, "odd", False)]
)
def test_points_stay_if_they_neither_drift_nor_remember(monkeypatch, found, doubt, stays):
    calls = []

    def drifted(density, start, evaluate, *, pilot, modes, seed):
        calls.append((len(start), len(pilot), modes, seed))
        return SimpleNamespace(found=found, doubt=doubt, depth=10)

    monkeypatch.setattr(estimate, "drift_of", drifted)
    monkeypatch.setattr(estimate, "_modes", lambda base, x: f"modes of {len(x)}")
    smc = Smc(torch.arange(8.0).reshape(2, 4, 1), torch.arange(8).reshape(2, 4))
    said, pilot, depth = estimate._stays("density", "judged", smc, "base", 3)
    assert (said, len(pilot), depth) == (stays, estimate.PILOT, 10)
    assert calls == [(estimate.SETTLING, estimate.PILOT, f"modes of {estimate.SETTLING}", 4)]


def test_every_other_point_is_moved_on(monkeypatch):
    calls = []

    def settle(density, starts, evaluate, *, pilot, modes, seed):
        calls.append((starts[:, 0].tolist(), pilot, modes, seed))
        return SimpleNamespace(points=starts + 100, doubt="they move", depth=5, changed=2)

    monkeypatch.setattr(estimate, "settle", settle)
    monkeypatch.setattr(estimate, "_modes", lambda base, x: f"modes of {len(x)}")
    smc = Smc(torch.arange(8.0).reshape(2, 4, 1), torch.arange(8).reshape(2, 4))
    later = estimate._moved_on("density", "judged", smc, "base", "pilot", 3)
    assert calls == [([0.0, 2.0, 4.0, 6.0], "pilot", "modes of 4", 4)]
    assert later.smc.points[..., 0].tolist() == [[100, 102], [104, 106]]
    assert later.smc.ancestors.tolist() == [[0, 2], [4, 6]]
    assert later.doubt == "Chains from the points of SMC have not settled: they move."
    assert (later.depth, later.changed) == (5, True)


@pytest.fixture
def wider(monkeypatch):
    """What `_from_the_prior` meets: parts, weights of draws, and an SMC, to be changed."""
    given = SimpleNamespace(
        part="part",
        alone=Direct(value=-1.0, ess=200.0, se=0.1),
        smc=SimpleNamespace(doubt="", depth=7, evidence=SimpleNamespace(value=-1.2, se=0.05)),
        bases=[],
        runs=0,
    )

    def tempered(density, base, *, islands, seed):
        given.runs += 1
        if isinstance(given.smc, Exception):
            raise given.smc
        return given.smc

    def base(density, data, u, **options):
        given.bases.append(options["prior"])
        return "base"

    monkeypatch.setattr(estimate, "prior_part", lambda density, data, share: given.part)
    monkeypatch.setattr(estimate, "smc_base", base)
    monkeypatch.setattr(estimate, "direct", lambda density, base, seed: given.alone)
    monkeypatch.setattr(estimate, "tempered", tempered)
    return given


def from_the_prior():
    return estimate._from_the_prior("density", "data", "u", (), 0.1, 8, 100, 3)


def test_smc_from_the_prior_is_used_if_draws_alone_confirm_it(wider):
    assert from_the_prior() == (wider.smc, 8)
    assert wider.bases == ["part"]


@pytest.mark.parametrize(
    ("change", "runs", "depth"),
    [
        ({"part": None}, 0, 0),
        ({"alone": Direct(value=-1.0, ess=99.0, se=0.1)}, 0, 1),
        ({"alone": Direct(value=-2.0, ess=200.0, se=0.1)}, 1, 8),
        ({"smc": FitError("no path")}, 1, 1),
        (
            {
                "smc": SimpleNamespace(
                    doubt="apart", depth=7, evidence=SimpleNamespace(value=-1.0, se=0.1)
                )
            },
            1,
            8,
        ),
    ],
)
def test_smc_from_the_prior_is_not_used_otherwise(wider, change, runs, depth):
    vars(wider).update(change)
    assert from_the_prior() == (None, depth)
    assert wider.runs == runs


def test_the_mode_of_a_point_is_the_nearest_component_but_the_prior():
    def component(name, center):
        return SimpleNamespace(name=name, log_prob=lambda x: -(x[:, 0] - center).abs())

    base = SimpleNamespace(
        components=[component("guide", 0.0), component(estimate.PRIOR, 5.0), component("m", 9.0)]
    )
    x = torch.tensor([[1.0], [5.5], [4.0]])
    assert estimate._modes(base, x).tolist() == [0, 1, 0]


# --- drift


def drifted(**changes):
    zero = np.zeros(2)
    given = {
        "mean_error": zero,
        "mean_error_se": zero + 0.01,
        "log_sd_ratio": zero,
        "log_sd_ratio_se": zero + 0.01,
        "moving": np.array([False, False]),
        "memory": zero,
        "points": torch.zeros(1000, 3),
        "acceptance": 0.9,
        "divergent": 0.0,
        "stuck": 0.0,
        "gradients": 1,
        "depth": 1,
        "chains": 10_000,
    }
    return Drift(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({}, ""),
        ({"memory": np.array([0.0, math.nan])}, "some judged values are not finite"),
        ({"mean_error_se": np.array([math.inf, 0])}, "some judged values are not finite"),
        (
            {"stuck": drift.STUCK + 0.01, "acceptance": 0.5},
            f"{drift.STUCK + 0.01:.0%} of them never moved, and 50% of moves pass",
        ),
        ({"stuck": drift.STUCK, "acceptance": drift.ACCEPTANCE}, ""),
        ({"moving": np.array([True, False])}, "1 judged components still move"),
        (
            {"memory": np.array([0.05, -0.3])},
            "their ends still know their starts (correlation 0.30)",
        ),
        ({"memory": np.array([drift.MEMORY, -drift.MEMORY])}, ""),
    ],
)
def test_chains_have_arrived_or_it_is_said_why_not(changes, doubt):
    assert drifted(**changes).doubt == doubt


def test_a_drift_is_material_above_its_lines():
    at = drifted(mean_error=np.array([0.15, -0.15]), mean_error_se=np.zeros(2))
    assert at.excess.tolist() == pytest.approx([1.0, 1.0])
    over = drifted(mean_error=np.array([0.0, -0.3]))
    assert over.excess.tolist() == pytest.approx([0.0, 2.0])
    assert over.found
    assert over.still.tolist() == [True, False]
    wide = drifted(log_sd_ratio=np.array([2 * math.log(1.15), 0.0]))
    assert wide.excess.tolist() == pytest.approx([2.0, 0.0])
    moving = drifted(moving=np.array([True, False]))
    assert moving.still.tolist() == [False, True]
    assert not moving.found
    assert repr(over) == (
        "Drift(1,000 chains in 3 coordinates; means moved by up to 0.30 sd, log sds by up to 0.00)"
    )


def test_a_test_of_no_drift_is_of_the_smallest_error():
    """Two components, two figures of each, two sides: the level is 0.05 / 8, at 2.50 errors."""
    z = 2.4977054744
    for name in ("mean_error", "log_sd_ratio"):
        assert drifted(**{name: np.array([0.0, 1.001 * z * 0.01])}).rejects_no_drift
        assert not drifted(**{name: np.array([0.0, -0.999 * z * 0.01])}).rejects_no_drift


# --- short chains


@pytest.mark.parametrize("doubt", ["", "they move"])
def test_chains_are_a_reference_unless_in_doubt(monkeypatch, doubt):
    monkeypatch.setattr(chains, "Reference", lambda **fields: fields)
    posterior = SimpleNamespace(doubt=doubt)
    assert chains.chains_reference(posterior) == {
        "kind": "estimated",
        "posterior": posterior,
        "usable": not doubt,
        "reason": doubt,
    }


def test_short_chains_need_enough_draws_to_begin_from():
    with pytest.raises(UsageError, match="543"):
        chains.chained(None, None, None, torch.zeros(543, 2))


def test_a_density_is_compiled_for_the_least_that_is_asked_of_it():
    """24 gradients per short chain, 30 per point of SMC, 100 calls at one point per chain."""
    made = []
    density = SimpleNamespace(compile=lambda mode, **expected: made.append((mode, expected)))
    assess_steps.compiled(density, 2048, 8192)
    assess_steps.compiled(density, 100, 0)
    assert made == [
        ("auto", {"expected_calls": 204_800, "expected_points": 24 * 2048 + 30 * 8192}),
        ("auto", {"expected_calls": 10_000, "expected_points": 2_400}),
    ]
