"""Cells that a run takes in beyond those that were asked for are said before they start."""

import pytest

from benchmarks.run import execute as run
from benchmarks.run.plan import make_plan
from benchmarks.run.prepare import plan_cells, prepare
from benchmarks.run.progress import Events
from zoo.errors import command_line


class Heard(Events):
    def __init__(self):
        self.said, self.warned = [], []

    def say(self, sentence):
        self.said.append(sentence)

    def warn(self, sentence):
        self.warned.append(sentence)


def plan_of(families, seed=0, **options):
    return make_plan(entries=["coin"], guides=families, seeds=[seed], **options)


def further(before, asked):
    """Return what is said where a run of one plan is asked for another."""
    heard, plan = Heard(), before.extended(asked)
    there = {c.key for c in plan_cells(before, [prepare(before, "coin")])}
    cells = plan_cells(plan, [prepare(plan, "coin")])
    run._say_further([c for c in cells if c.key not in there], asked, heard)
    return heard.said


def test_some_families_with_a_new_seed_bring_the_others_in():
    """`--guides batch_and_match --seed 1` on a run of nine families fitted all nine, unsaid."""
    before = plan_of(["mean_field", "laplace"])
    (said,) = further(before, plan_of(["mean_field"], seed=1, nuts=False))
    assert said == (
        "each family is combined with each seed of the folder, so 2 further cells come in (coin"
        " seed 1: laplace, nuts); give another folder (out=) to leave them out"
    )
    with command_line():
        (said,) = further(before, plan_of(["mean_field", "full_rank"], seed=1))
    assert "so 2 further cells come in (coin seed 0: full_rank; coin seed 1: laplace)" in said
    assert said.endswith("give another folder (--out) to leave them out")


def test_what_was_asked_for_is_not_said():
    before = plan_of(["mean_field"])
    assert further(before, plan_of(["laplace"])) == []
    assert further(before, plan_of(["mean_field"], seed=1)) == []
    assert further(before, plan_of("all", reweight=True)) == []
    assert further(before, plan_of(["mean_field"], repair=True)) == []


@pytest.mark.usefixtures("brief", "eager")
def test_a_run_says_it_before_the_first_cell(tmp_path):
    options = {"nuts": False, "quick": True}
    run.execute(plan_of(["laplace", "mean_field"], **options), out=tmp_path, pages=False)
    heard = Heard()
    heard.begin = lambda label, total: heard.said.append(label)
    asked = plan_of(["laplace"], seed=1, **options)
    run.execute(asked, out=tmp_path, pages=False, events=heard)
    (line,) = [s for s in heard.said if "1 further cell comes in (coin seed 1: mean_field)" in s]
    assert heard.said.index(line) < heard.said.index("cells")


@pytest.mark.usefixtures("brief", "eager")
def test_a_guide_with_other_values_is_among_the_causes(tmp_path, monkeypatch):
    options = {"nuts": False, "quick": True}
    run.execute(plan_of(["laplace"], **options), out=tmp_path, pages=False)
    heard = Heard()
    monkeypatch.setattr("benchmarks.run.cell.Cell.key", property(lambda self: "0" * 64))
    plan = plan_of(["laplace"], **options)
    run._say_outdated(plan_cells(plan, [prepare(plan, "coin")]), run.RunDir.open(tmp_path), heard)
    (warned,) = heard.warned
    assert "of other data, of a guide with other values, or of an earlier version of" in warned
