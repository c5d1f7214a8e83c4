"""`zoo bench`: the plan that its flags make, and the files that it writes."""

import json
import os
from types import SimpleNamespace

import pytest

from benchmarks.cli import bench as command
from benchmarks.cli.bench import bench
from benchmarks.speed import merge, plot, runner, table
from benchmarks.speed.runner import Bench
from benchmarks.speed.sides import Settings
from benchmarks.speed.targets import TARGETS
from zoo.errors import UnknownNameError, UsageError


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """Calls of the steps; nothing is measured."""
    seen = SimpleNamespace(plans=[], merged=[], drawn=[], inserted=[], out=tmp_path / "a" / "b")

    def execute(plan, folder, say):
        assert folder == seen.out / "logs"
        assert folder.parent.is_dir()
        seen.plans.append(plan)
        say("one step")
        return {"figure": 1}

    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(merge, "merge", lambda *a: seen.merged.append(a) or {"figure": 2})
    monkeypatch.setattr(plot, "draw", lambda *a: seen.drawn.append(a))
    monkeypatch.setattr(table, "markdown", lambda document: f"tables of {document['figure']}")
    monkeypatch.setattr(table, "insert", lambda *a: seen.inserted.append(a))
    monkeypatch.setattr(command, "missing", lambda name: {"stan": "not installed"}.get(name, ""))
    return seen


def call(ran, **changes):
    given = {"quick": False, "peers": None, "only": [], "pairs": None, "cold": True, "page": None}
    return bench(ran.out, **{**given, **changes})


def test_a_full_run_has_all_entries_and_installed_peers(ran, capsys):
    assert call(ran) == 0
    assert ran.plans == [
        Bench(
            targets=tuple(TARGETS),
            sides=("ours", "pyro", "numpyro", "pymc"),
            pairs=5,
            settings=Settings(),
            cold=True,
        )
    ]
    shown = capsys.readouterr()
    assert shown.out == "tables of 1\n"
    assert shown.err == "zoo: one step\n"
    assert json.loads((ran.out / "bench.json").read_text()) == {"figure": 1}
    assert (ran.out / "bench.json").read_text().endswith("}\n")
    assert (ran.out / "bench.md").read_text() == "tables of 1"
    assert ran.drawn == [({"figure": 1}, ran.out / "bench.svg")]
    assert ran.merged == ran.inserted == []
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_a_quick_run_has_short_slices_and_no_cold_start(ran):
    call(ran, quick=True)
    (plan,) = ran.plans
    assert plan == Bench(
        targets=tuple(TARGETS),
        sides=("ours", "pyro", "numpyro", "pymc"),
        pairs=3,
        settings=Settings(slice_seconds=0.2, slow_draws=100, slow_seconds=5.0, slow_runs=1),
        measures=("gradient", "batch", "svi_mean_field", "nuts"),
        cold=False,
        growth=(1_000, 100_000),
        commands=(),
        quick=True,
    )


def test_named_peers_are_asked_for_and_pyro_always_runs(ran):
    call(ran, peers=["stan", "pyro"], cold=False, pairs=2)
    (plan,) = ran.plans
    assert plan.sides == ("ours", "pyro", "stan")
    assert plan.cold is False
    assert plan.pairs == 2
    call(ran, peers=[], quick=True, pairs=1)
    assert ran.plans[1].sides == ("ours", "pyro")
    assert ran.plans[1].pairs == 1


def test_only_some_entries_leave_out_growth_and_commands(ran):
    call(ran, only=["linear", "radon"])
    call(ran, only=["growth", "linear"])
    call(ran, only=["commands"])
    both = [(p.targets, p.growth, p.commands) for p in ran.plans]
    growth, commands = (1_000, 10_000, 100_000, 1_000_000), ("chains", "compare", "report")
    assert both == [(("linear", "radon"), (), ()), (("linear",), growth, ()), ((), (), commands)]


def test_what_is_measured_again_replaces_figures_of_the_folder(ran, monkeypatch, capsys):
    before = {"earlier": True}
    monkeypatch.setattr(merge, "earlier", lambda out: before if out == ran.out else None)
    call(ran)
    assert ran.merged == []
    call(ran, only=["linear"])
    assert ran.merged == [(before, {"figure": 1})]
    assert json.loads((ran.out / "bench.json").read_text()) == {"figure": 2}
    assert capsys.readouterr().out.endswith("tables of 2\n")


def test_a_page_gets_the_tables_and_a_figure_of_its_name(ran, tmp_path):
    page = tmp_path / "performance.md"
    call(ran, page=page)
    assert ran.inserted == [(page, "![Ratios and growth](performance.svg)\n\ntables of 1")]
    assert [path for _, path in ran.drawn] == [ran.out / "bench.svg", tmp_path / "performance.svg"]


@pytest.mark.parametrize("pairs", [0, -1])
def test_fewer_than_one_pair_is_refused(ran, pairs):
    with pytest.raises(UsageError) as caught:
        call(ran, pairs=pairs)
    assert str(caught.value) == f"--pairs is {pairs}; accepted: at least 1."
    assert ran.plans == []


def test_unknown_entries_and_peers_are_refused_before_anything_runs(ran, monkeypatch):
    with pytest.raises(UnknownNameError, match="linaer"):
        call(ran, only=["linaer"])
    monkeypatch.undo()
    with pytest.raises(UnknownNameError, match="numpyr"):
        bench(ran.out, False, ["numpyr"], [], None, True, None)
    assert not ran.out.exists()
