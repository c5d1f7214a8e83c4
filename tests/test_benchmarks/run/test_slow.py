"""Long runs say early what makes them slow and what to write instead, and that they still run."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch

import guides
import zoo
from benchmarks.run import progress
from benchmarks.run.plan import make_plan
from benchmarks.run.prepare import LONG, plan_cells, prepare, slow
from zoo.density.compiled import points_at_once
from zoo.density.log_density import LogDensity
from zoo.errors import command_line

ROWS = 20_000


def slope(x, y=None, index=None):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", ROWS, subsample=index):
        pyro.sample("y", dist.Bernoulli(logits=w * x), obs=y)


def entry(rows=ROWS, **more):
    x = torch.linspace(-2, 2, rows, dtype=torch.float64)
    return zoo.from_program(slope, {"x": x, "y": (x > 0.3).double()}, name="slope", **more)


def cells(made, nuts=True):
    plan = make_plan(entries=["slope"], guides=["mean_field"], nuts=nuts)
    return plan_cells(plan, [prepare(plan, made)])


def test_many_rows_name_the_cure_and_the_cure_works():
    (sentence,) = slow(cells(entry()), LONG)
    assert "all 20,000 rows" in sentence
    assert "batched=['x', 'y']" in sentence
    assert "nuts=False leaves out the chains" in sentence
    assert "nuts=False" not in slow(cells(entry(), nuts=False), LONG)[0]
    with command_line():
        assert "--no-nuts leaves out the chains" in slow(cells(entry()), LONG)[0]
    cured = entry(batched=["x", "y"], minibatch=1000)
    assert slow(cells(cured), LONG) == []
    fit = guides.fit(cured, "mean_field", steps=20, patience=20)
    assert len(fit.losses) > 0


def test_short_runs_and_few_rows_are_silent():
    assert slow(cells(entry()), LONG - 1) == []
    short = replace(cells(entry())[0].prepared, data=zoo.load("eight_schools").load_data())
    assert slow([replace(c, prepared=short) for c in cells(entry())], LONG) == []


def test_a_stage_says_that_it_still_runs(monkeypatch, capsys):
    """After 30 s and whenever that has doubled; not once a second."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    console = progress.Console()
    console.begin("cells", 2)
    console.done("slope mean_field", "ok", "", 3.0)
    capsys.readouterr()
    for second in range(300):
        now = float(second)
        console.waiting()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" after ")[1] for line in lines] == [
        f"{n} s, 1 of 2 done" for n in (30, 60, 120, 240)
    ]


@pytest.mark.usefixtures("brief", "eager")
def test_waiting_is_heard_while_a_cell_runs(tmp_path, monkeypatch):
    from benchmarks.run.execute import execute

    monkeypatch.setattr("benchmarks.workers.PAUSE", 0.05)  # seconds, in place of one
    heard = []

    class Ear(progress.Events):
        def waiting(self):
            heard.append(1)

    plan = make_plan(entries=["coin"], guides=["mean_field"], nuts=False, quick=True)
    execute(plan, out=tmp_path / "run", jobs=1, events=Ear(), pages=False)
    assert heard


def test_a_batch_over_many_rows_is_taken_in_parts():
    """As one batch 512 points of 100,000 rows took gigabytes, and twice the time."""
    made = entry()
    data = made.load_data()
    density = LogDensity(made.program(data), data)
    u = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    most, inner = [], torch.func.vmap

    def counted(function):
        mapped = inner(function)
        return lambda part: most.append(len(part)) or mapped(part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.func, "vmap", counted)
        values = density.eager_batch()(u)
    assert max(most) == 20
    assert torch.allclose(values, torch.stack([density.evaluate(x) for x in u]), rtol=1e-12)
    assert points_at_once({"y": torch.zeros(700)}, 1) == 512
    assert points_at_once({"y": torch.zeros(1_000_000), "n": 3}, 1) == 1
    assert points_at_once({"y": torch.zeros(8)}, 10) == 4096  # a small program, all chains
    assert points_at_once({"y": torch.zeros(8, 10_000)}, 10) == 512
    assert points_at_once({"y": torch.zeros(8)}, 10_000) == 512
