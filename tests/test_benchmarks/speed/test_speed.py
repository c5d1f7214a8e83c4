"""The benchmark: equal densities on all sides, right arithmetic, gaps in tables shown."""

import math

import numpy as np
import pytest
import torch

from benchmarks.speed import runner
from benchmarks.speed.merge import earlier, merge
from benchmarks.speed.results import Ratio, bars, pair_ratios, ratios, speeds
from benchmarks.speed.runner import TOLERANCE, Bench, density_error, ess_of, run_target
from benchmarks.speed.side_ours import log_joint
from benchmarks.speed.sides import HOMES, PEERS, NutsRun, Settings, Timing, missing, repeat
from benchmarks.speed.table import BEGIN, END, _about, insert, markdown, number
from benchmarks.speed.targets import TARGETS, arrays, find
from benchmarks.speed.worker import PeerError, Worker
from zoo.density.log_density import LogDensity
from zoo.errors import UnknownNameError, UsageError

MICRO = Settings(slice_seconds=0.02, draws=50, slow_draws=5, slow_seconds=0.2, compile="off")


def density_of(name):
    entry = find(name).entry
    data = entry.load_data()
    return LogDensity(entry.program(data), data)


def points_of(density, number=3):
    u = 0.3 * torch.randn(
        number, density.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    return {name: value.numpy() for name, value in density.constrain(u).items()}


def test_the_eight_entries_are_those_of_the_bars():
    sizes = {name: density_of(name).dim for name in TARGETS}
    assert sizes == {
        "mixture": 5,
        "eight_schools": 10,
        "linear": 11,
        "linear_20000": 51,
        "logistic": 31,
        "radon": 89,
        "hierarchy_400": 400,
        "enumerated": 5,
    }
    assert len(arrays(find("radon"))["y"]) == 919
    assert arrays(find("linear_20000"))["x"].shape == (20_000, 50)
    assert find("growth_3000").entry.load_data().size == 3000
    with pytest.raises(UnknownNameError, match="radon"):
        find("randon")


def test_generated_entries_are_the_densities_they_say():
    density = density_of("mixture")
    points = points_of(density)
    y = density.data.train["y"]
    norm = torch.distributions.Normal
    expected = []
    for i in range(3):
        w, m, s = (torch.as_tensor(points[k][i]) for k in ("weight", "location", "scale"))
        parts = norm(m, s).log_prob(y[:, None]) + torch.stack([w, 1 - w]).log()
        prior = torch.distributions.Beta(2.0, 2.0).log_prob(w) + norm(0.0, 5.0).log_prob(m).sum()
        expected.append(
            float(
                prior
                + torch.distributions.LogNormal(0.0, 0.5).log_prob(s).sum()
                + parts.logsumexp(-1).sum()
            )
        )
    assert density_error(log_joint(density, points), np.array(expected)) < 1e-12


def test_a_constant_between_densities_is_accepted_and_anything_else_is_seen():
    ours = np.array([-1500.0, -1510.0, -1400.0])
    assert density_error(ours, ours + 37.2) < 1e-12
    assert density_error(ours, ours * (1 + 1e-4)) > TOLERANCE
    # and NaN <= tolerance is false
    assert math.isnan(density_error(ours, np.array([0.0, math.nan, 1.0])))


@pytest.mark.parametrize("peer", ["pyro", *PEERS])
@pytest.mark.parametrize("name", ["mixture", "enumerated"])
def test_peers_have_our_log_density(peer, name, tmp_path):
    if missing(peer):
        pytest.skip(missing(peer))
    target, density = find(name), density_of(name)
    points = points_of(density)
    worker = Worker(
        peer, (name, target.form, None if peer == "pyro" else arrays(target)), MICRO, tmp_path
    )
    try:
        assert (
            density_error(log_joint(density, points), worker.ask("log_joint", points)) <= TOLERANCE
        )
    finally:
        worker.close()


def test_every_peer_has_every_form():
    sources = {
        side: (runner.Path(runner.__file__).parent / f"{HOMES[side]}.py").read_text()
        for side in PEERS
    }
    for target in TARGETS.values():
        for peer, text in sources.items():
            assert f"def {target.form}(" in text or f'"{target.form}":' in text, (
                peer,
                target.form,
            )


def test_a_micro_run_of_our_side_in_a_process_of_its_own(tmp_path):
    bench = Bench(
        targets=("eight_schools",),
        sides=("ours",),
        pairs=1,
        settings=MICRO,
        cold=False,
        measures=("gradient", "svi_mean_field"),
    )
    result = run_target(find("eight_schools"), ["ours"], bench, tmp_path, {}, lambda line: None)[
        "sides"
    ]["ours"]
    assert "error" not in result
    for measure in bench.measures:
        (row,) = result["measures"][measure]
        assert 1e-6 < row["seconds"] < 1.0
        assert row["count"] >= 1
        assert result["records"][measure]["used"] is False


class Fake:
    """A side that answers at once; the density of a lying peer is off by a factor."""

    def __init__(self, side, target, settings, folder, environment=None):
        self.side, self.measures, self.seconds = side, ("gradient", "nuts"), {"start": 0.1}
        self.speed = {"ours": 1e-5, "pyro": 1e-3}.get(side, 2e-5)

    def ask(self, name, *arguments):
        if name == "log_joint":
            return log_joint(density_of("eight_schools"), arguments[0]) * (
                1.01 if self.side == "stan" else 1.0
            )
        if name == "time":
            return Timing(count=10, wall=10 * self.speed, cpu=10 * self.speed)
        if self.side == "pymc":
            raise PeerError("pymc ended without an answer; see its log.")
        draws = {"mu": (), "tau": (), "theta_raw": (8,)}
        rng = np.random.default_rng(arguments[0])
        made = {k: np.exp(rng.standard_normal((200, *s))) for k, s in draws.items()}
        return NutsRun(draws=made, wall=1e4 * self.speed, cpu=0.0, warmup=1, gradients=1000)

    def prepare(self, measure):
        self.seconds[measure] = 0.2
        return {"used": self.side != "pyro", "reason": "test"}

    def close(self):
        pass


@pytest.fixture
def document(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "Worker", Fake)
    monkeypatch.setattr(
        runner, "missing", lambda side: "not installed" if side == "numpyro" else ""
    )
    monkeypatch.setattr(
        runner.extra,
        "growth",
        lambda *a: [{"rows": 10, "gradient": 1e-6}, {"rows": 100, "gradient": 1e-5}],
    )
    commands = {
        "compare_cold": 61.0,
        "compare_second": 40.0,
        "compare_warm": 14.0,
        "chains_gain": 1.9,
    }
    monkeypatch.setattr(runner.extra, "commands", lambda *a: commands)
    bench = Bench(
        targets=("eight_schools",),
        sides=("ours", *(s for s in HOMES if s != "ours")),
        pairs=3,
        settings=MICRO,
        measures=("gradient", "nuts"),
        cold=False,
    )
    monkeypatch.setattr(runner, "_compile_ahead", lambda *a: None)
    return runner.execute(bench, tmp_path, lambda line: None)


def test_a_peer_with_another_density_is_refused_and_a_dead_one_reported(document):
    sides = document["targets"]["eight_schools"]["sides"]
    assert "differs from ours" in sides["stan"]["error"]
    assert sides["stan"]["measures"] == {}
    assert sides["pymc"]["error"].startswith("pymc ended")
    assert document["left_out"] == {"numpyro": "not installed"}
    assert not [r for r in ratios(document, ("nuts", "gradient")) if r.peer == "stan"]


def test_ratios_are_of_pairs(document):
    (gradient,) = [r for r in ratios(document, ("gradient",)) if r.peer == "pyro"]
    assert gradient == Ratio(
        target="eight_schools",
        measure="gradient",
        peer="pyro",
        median=pytest.approx(100.0),
        low=pytest.approx(100.0),
        high=pytest.approx(100.0),
        pairs=3,
    )
    (nuts,) = [r for r in ratios(document, ("nuts",)) if r.peer == "pyro"]
    assert nuts.median == pytest.approx(100.0)  # same draws, so it is the ratio of times
    assert pair_ratios([2.0, 3.0, math.nan, 5.0], [1.0, 0.0, 1.0, 10.0]) == [2.0, 0.5]
    assert speeds({"measures": {"gradient": [{"seconds": 0.5}]}}, "gradient") == [2.0]


def test_bars_are_met_missed_or_not_measured(document):
    met = {bar.name: bar.met for bar in bars(document)}
    assert met["NUTS minimum bulk ESS/s over pyro"] is True
    assert met["NUTS minimum bulk ESS/s over stan"] is None
    assert met["zoo compare eight_schools, empty cache"] is False
    assert (
        next(b for b in bars(document) if b.name == "zoo compare eight_schools, warm").measured
        == "14.0 s (second run 40.0 s)"
    )
    assert met["zoo compare eight_schools, warm"] is True
    assert met["four chains on two cores over one chain"] is True
    assert met["growth of the gradient with the rows"] is True
    slow = {**document["targets"]["eight_schools"]["sides"]["pyro"]}
    slow["nuts"] = [{**row, "ess_per_second": 19.9} for row in slow["nuts"]]
    ours = document["targets"]["eight_schools"]["sides"]["ours"]
    ours["nuts"] = [{**row, "ess_per_second": 20 * 19.8} for row in ours["nuts"]]
    document["targets"]["eight_schools"]["sides"]["pyro"] = slow
    assert {bar.name: bar.met for bar in bars(document)}[
        "NUTS minimum bulk ESS/s over pyro"
    ] is False


def test_the_page_keeps_its_words_and_names_what_is_missing(document, tmp_path):
    text = markdown(document)
    assert "100 (100 to 100)" in text
    assert "NumPyro is left out: not installed." in text
    assert "differs from ours" in text
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nreplaced\n{END}\nafter\n")
    insert(page, text)
    insert(page, text)
    words = page.read_text()
    assert words.startswith("before\n")
    assert words.endswith("\nafter\n")
    assert words.count("### Criteria") == 1
    assert "replaced" not in words
    page.write_text("no marks")
    with pytest.raises(UsageError, match="bench:begin"):
        insert(page, text)
    assert (number(0.012345), number(12.345), number(123456.0), number(0), number(math.nan)) == (
        "0.0123",
        "12.3",
        "123,456",
        "0",
        "-",
    )


def test_ess_is_of_the_worst_component_and_of_a_stuck_chain_zero():
    density, rng = density_of("eight_schools"), np.random.default_rng(0)
    good = {
        "mu": rng.standard_normal(500),
        "tau": np.exp(rng.standard_normal(500)),
        "theta_raw": rng.standard_normal((500, 8)),
    }
    run = NutsRun(draws=good, wall=1.0, cpu=1.0, warmup=0)
    assert 300 < ess_of(find("eight_schools"), density, run) < 700
    # a random walk has few effective draws
    slow = {**good, "mu": np.cumsum(rng.standard_normal(500))}
    assert (
        ess_of(find("eight_schools"), density, NutsRun(draws=slow, wall=1.0, cpu=1.0, warmup=0))
        < 30
    )
    stuck = {k: np.zeros_like(v) + 1.0 for k, v in good.items()}
    assert (
        ess_of(find("eight_schools"), density, NutsRun(draws=stuck, wall=1.0, cpu=1.0, warmup=0))
        == 0.0
    )
    few = {k: v[:5] for k, v in good.items()}
    assert math.isnan(
        ess_of(find("eight_schools"), density, NutsRun(draws=few, wall=1.0, cpu=1.0, warmup=0))
    )


def test_repeat_counts_all_pieces_and_a_failing_side_says_why(tmp_path):
    calls = []
    timing = repeat(lambda: calls.append(1), 0.01, pieces=4)
    assert timing.count == 4 * len(calls)
    assert timing.per == timing.wall / timing.count
    with pytest.raises(UnknownNameError, match="numpyro"):
        missing("numpyr")
    with pytest.raises(PeerError, match="no_such_entry"):
        Worker("ours", ("no_such_entry", "form", None), MICRO, tmp_path)


def test_measuring_again_replaces_and_says_so(tmp_path):
    common = {
        "schema": 1,
        "quick": False,
        "pairs": 5,
        "settings": {"particles": 1},
        "machine": {"cores": 2},
        "versions": {"torch": "2"},
    }
    old = {
        **common,
        "targets": {"linear": {"title": "old"}, "mixture": {"title": "old"}},
        "growth": [{"rows": 1000}],
        "seconds": 10.0,
        "commands": {"chains_gain": 1.9},
        "load_average": {"before": [3.0, 3.0, 3.0]},
    }
    new = {
        **common,
        "targets": {"mixture": {"title": "new"}, "radon": {"title": "new"}},
        "growth": [],
        "commands": {},
        "seconds": 5.0,
        "load_average": {"before": [1.0, 2.0, 3.0]},
    }
    both = merge(old, new)
    assert {name: t["title"] for name, t in both["targets"].items()} == {
        "mixture": "new",
        "linear": "old",
        "radon": "new",
    }
    # in the order of the table
    assert list(both["targets"]) == [n for n in TARGETS if n in ("mixture", "linear", "radon")]
    assert both["growth"] == old["growth"]
    assert both["commands"] == old["commands"]
    assert both["seconds"] == 15.0
    assert both["load_average"] == old["load_average"]
    assert both["again"] == [
        {"measured": ["mixture", "radon"], "load_average": new["load_average"]}
    ]
    later = merge(
        both,
        {
            **new,
            "load_average": {"before": [0.5, 2.0, 3.0]},
            "targets": {"mixture": {"title": "newest"}},
        },
    )
    words = _about(
        {
            **later,
            "machine": {"processor": "p", "cores": 2, "system": "s"},
            "settings": {"particles": 1, "slice_seconds": 0.5},
        }
    )
    # each once, by its last measurement
    assert "programs of that time (load averages): mixture (0.5), radon (1.0)." in words
    for key, other in (("settings", {"particles": 2}), ("versions", {"torch": "3"}), ("pairs", 3)):
        with pytest.raises(UsageError, match=key):
            merge(old, {**new, key: other})
    assert earlier(tmp_path) is None
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "partial.json").write_text('{"pairs": 1}')
    assert earlier(tmp_path) == {"pairs": 1}
    (tmp_path / "bench.json").write_text('{"pairs": 2}')
    assert earlier(tmp_path) == {"pairs": 2}
