"""A run takes a further family, seed or NUTS row, or says in what the request differs."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import benchmarks
from benchmarks.comparison.sentences import entry_sentence
from benchmarks.run.execute import execute
from benchmarks.run.plan import PLAN_FILE, make_plan, read_plan
from benchmarks.run.prepare import command
from benchmarks.run.progress import Events
from benchmarks.run.read import read_run
from zoo.errors import UsageError

pytestmark = pytest.mark.usefixtures("eager", "brief", "undrawn")
BASE = {
    "entries": ["coin"],
    "guides": ["mean_field"],
    "nuts": False,
    "trust": False,
    "quick": True,
}


class Heard(Events):
    def __init__(self):
        self.run = []

    def done(self, label, status, sentence, seconds):
        self.run.append(label)


def compare(folder, pages=False, **changes):
    heard, plan = Heard(), make_plan(**{**BASE, **changes})
    result = execute(plan, out=folder, jobs=1, events=heard, pages=pages)
    return result, [label for label in heard.run if "compared" not in label]


def rows(result):
    return [(c["method"], c["seed"]) for c in result.cells]


def test_families_and_seeds_are_added_to_a_run_and_its_rows_are_kept(tmp_path):
    folder = tmp_path / "run"
    first, _ = compare(folder)
    assert rows(first) == [("mean_field", 0)]
    second, ran = compare(folder, guides=["laplace"])
    assert ran == ["coin laplace"]
    assert rows(second) == [("mean_field", 0), ("laplace", 0)]
    assert second.cells[0] == first.cells[0]
    third, ran = compare(folder, guides=["laplace"], seeds=[3])
    assert ran == ["coin mean_field seed 3", "coin laplace seed 3"]
    assert len(third.cells) == 4
    again, ran = compare(folder, pages=True)  # the first command: nothing is lost, nothing is run
    assert ran == []
    assert rows(again) == rows(third)
    plan = read_plan(folder / PLAN_FILE)
    assert (plan.guides, plan.seeds) == (("mean_field", "laplace"), (0, 3))
    assert rows(read_run(folder)) == rows(third)
    assert "again with --seed 3" in command(plan)
    text = (folder / "results.csv").read_text()
    assert text.count("coin,laplace,3") == text.count("coin,mean_field,0") > 0
    assert "mean_field s0" in entry_sentence(third.report.entries[0].comparisons)


def test_all_families_of_a_card_can_be_joined_by_others():
    plan = make_plan(entries=["coin"]).extended(make_plan(entries=["coin"], guides=["flow"]))
    assert plan.guides == ("all", "flow")
    assert plan.families(("mean_field", "laplace")) == ("mean_field", "laplace", "flow")
    same = make_plan(entries=["coin"])
    assert same.extended(same) == same
    plan = make_plan(**BASE).extended(make_plan(**{**BASE, "nuts": True}))
    assert plan.nuts


def test_what_cannot_be_added_is_named(tmp_path):
    folder = tmp_path / "run"
    compare(folder)
    before = (folder / PLAN_FILE).read_text()
    says = (
        "takes further families and seeds, each of which is combined with all others, and no other"
        " change: restarts is 1 in the folder and 2 here; quick is on in the folder and off here"
    )
    with pytest.raises(UsageError, match=says):
        compare(folder, quick=False, restarts=2)
    with pytest.raises(UsageError, match="entries is coin in the folder and banana here; give"):
        compare(folder, entries=["banana"])
    assert (folder / PLAN_FILE).read_text() == before


def test_compare_program_takes_a_further_family_too(tmp_path):
    def location(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        with pyro.plate("row", 5):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    data = {"y": torch.linspace(-1, 1, 5, dtype=torch.float64)}
    options = {"nuts": False, "trust": False, "quick": True, "jobs": 1, "out": tmp_path / "run"}
    benchmarks.compare_program(location, data, families=["laplace"], **options)
    card = benchmarks.compare_program(location, data, families=["mean_field"], **options)
    assert list(card.comparisons) == ["laplace", "mean_field"]


def test_other_data_in_the_same_folder_are_told_of_also_without_progress(tmp_path):
    def location(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    def compared(value):
        return benchmarks.compare_program(
            location,
            {"y": torch.tensor(value)},
            families=["laplace"],
            nuts=False,
            trust=False,
            quick=True,
            progress=False,
            out=tmp_path / "run",
        )

    compared(1.0)
    says = r"kept cells of other data, .* \(1\), are computed again, .* give another folder"
    with pytest.warns(RuntimeWarning, match=says):
        card = compared(9.0)
    assert card.comparisons["laplace"].posterior.draws["mean"].mean() > 7
