"""Runs: every cell has a status, failures stay local, the same call resumes.

An interruption leaves nothing broken.
"""

import csv
import dataclasses
import faulthandler
import importlib
import io
import json
import os
import re
import resource
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from support.short_runs import few_trees

import guides
import zoo
from benchmarks.cli import process as cli
from benchmarks.mcmc import engine_nutpie as nuts_nutpie
from benchmarks.reference import find as references
from benchmarks.report import render_html, render_table
from benchmarks.run import cell as work
from benchmarks.run import evaluate, methods
from benchmarks.run import execute as run
from benchmarks.run import record as schema
from benchmarks.run.execute import execute
from benchmarks.run.plan import make_plan, read_plan
from benchmarks.run.prepare import command, duration, plan_cells, prepare
from benchmarks.run.progress import Events
from benchmarks.run.read import read_run, unavailable
from benchmarks.run.results import _inert, results_csv, results_frame
from zoo.errors import InfrastructureError, UsageError
from zoo.seeds import derive_seed
from zoo.types import Posterior

MODEL = '''
"""A normal mean with known variance."""
import pyro
import pyro.distributions as dist
import torch

from zoo.types import Analytic, Data, ModelEntry, Moments, Quantity


def make_data(seed):
    y = torch.tensor([0.5, 1.5, 1.0, 2.0], dtype=torch.float64)
    return Data(train={"y": y}, observed=("y",), source="typed in", licence="none")


def build(data):
    def program(y, index=None):
        mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=torch.float64), 10.0))
        with pyro.plate("row", 4):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    return program


def analytic(data):
    y = data.train["y"]
    precision = 1 / 100 + len(y)
    center, sd = float(y.sum()) / precision, precision**-0.5
    zero = torch.zeros((), dtype=torch.float64)
    exact = Moments(mean=zero + center, mean_se=zero, sd=zero + sd, sd_se=zero)

    def sample(n, seed):
        generator = torch.Generator().manual_seed(seed)
        return {"mean": center + sd * torch.randn(n, dtype=torch.float64, generator=generator)}

    return Analytic(sample=sample, moments={"mean": exact})


ENTRY = ModelEntry(
    name="tiny", title="Normal mean", make_data=make_data, build=build,
    analytic=analytic, reference="analytic",
    quantities={"mean": Quantity(fn=lambda draws, data: draws["mean"], description="the mean")},
    families=("laplace",),
)
'''


class Heard(Events):
    def __init__(self):
        self.lines, self.warnings, self.finished, self.begun = [], [], [], {}

    def say(self, sentence):
        self.lines.append(sentence)

    def warn(self, sentence):
        self.warnings.append(sentence)

    def begin(self, label, total):
        self.begun[label] = total

    def done(self, label, status, sentence, seconds):
        self.finished.append((label, status))


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(MODEL)
    return str(path)


@pytest.fixture
def exact_methods(monkeypatch):
    """Let every family draw from the exact posterior at no cost, after its planted fault."""
    planted = {}

    def method(cell, run, folder):
        planted.get(cell.method, lambda: None)()
        entry, data = cell.prepared.entry, cell.prepared.data
        draws = entry.exact(data).sample(2000, derive_seed(cell.seed, cell.method))
        posterior = Posterior(
            entry=entry,
            data=data,
            method=cell.method,
            draws=draws,
            sample_dims=("sample",),
            seed=cell.seed,
        )
        work._save(posterior, None, folder)
        return schema.drawn_cell(cell.head, "ok", posterior, None, 1.0)

    monkeypatch.setattr(work, "_fit", method)
    importlib.import_module("benchmarks.comparison.score")
    monkeypatch.setattr(
        sys.modules["benchmarks.comparison.score"], "joint_distances", lambda *sides: ()
    )
    return planted


def plan_of(model, **fields):
    return make_plan(**{"entries": [model], "guides": ["laplace"], "nuts": False, **fields})


def go(plan, out, **options):
    heard = Heard()
    return execute(plan, out=out, events=heard, **options), heard


@pytest.mark.usefixtures("undrawn")
def test_a_run_resumes_repairs_and_is_read_back(model, tmp_path, monkeypatch):
    plan, out = plan_of(model), tmp_path / "run"
    first, heard = go(plan, out)
    assert heard.finished == [("tiny laplace", "ok"), ("tiny laplace compared", "agrees")]
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == [
        "cells",
        "costs.csv",
        "plan.toml",
        "report.html",
        "report.md",
        "results.csv",
    ]
    (cell,) = first.cells
    assert cell["verdict"] == "agrees"
    assert cell["cost"]["peak_memory_mb"] > 0
    assert first.failures == []
    assert first.document()["references"]["tiny"]["kind"] == "analytic"

    again, heard = go(plan, out)
    assert heard.finished == []
    assert again.cells == first.cells

    draws = next(out.glob("cells/*/posterior.nc"))
    content = bytearray(draws.read_bytes())
    content[len(content) // 2] ^= 0xFF
    draws.write_bytes(content)
    repaired, heard = go(plan, out)
    assert len(heard.warnings) == 1
    assert "damaged (posterior.nc" in heard.warnings[0]
    assert heard.finished[0] == ("tiny laplace", "ok")
    assert repaired.cells[0]["scores"] == first.cells[0]["scores"]

    page = (out / "report.html").read_text()
    monkeypatch.setattr(guides, "fit", None, raising=False)  # reading a run makes no fit
    back = read_run(out, models=[model])
    assert render_html(back.report) == page
    assert back.cells == repaired.cells

    frame = results_frame(out)
    assert list(frame["label"]) == ["mean"]
    assert frame["mean_error"][0] == pytest.approx(cell["scores"][0]["mean_error"])


def test_a_changed_model_runs_again_and_the_old_cell_goes(model, tmp_path, exact_methods):
    plan, out = plan_of(model), tmp_path / "run"
    go(plan, out, pages=False)
    (out / "cells" / "notes").mkdir()
    with open(model, "a") as file:
        file.write("# another word\n")
    _, heard = go(plan, out, pages=False)
    assert heard.finished[0] == ("tiny laplace", "ok")
    assert len(list(out.glob("cells/tiny*"))) == 1
    assert (out / "cells" / "notes").is_dir()
    assert [line for line in heard.lines if "notes" in line] == [
        f"left as they are in {str(out / 'cells')!r}, for they are no cells: notes"
    ]
    assert list(results_frame(out)["method"]) == ["laplace"]


@pytest.mark.usefixtures("undrawn")
def test_every_failure_is_a_row_and_stops_nothing_else(model, tmp_path, exact_methods):
    exact_methods["mean_field"] = lambda: 1 / 0
    exact_methods["full_rank"] = lambda: os.kill(os.getpid(), signal.SIGKILL)
    exact_methods["low_rank"] = lambda: time.sleep(600)
    plan = plan_of(model, guides=["mean_field", "full_rank", "low_rank", "laplace"])
    result, _ = go(plan, tmp_path / "run", timeout=3)
    found = {c["method"]: (c["status"], c["verdict"]) for c in result.cells}
    assert found == {
        "mean_field": ("error", "fit_failed"),
        "full_rank": ("killed", "fit_failed"),
        "low_rank": ("timeout", "fit_failed"),
        "laplace": ("ok", "agrees"),
    }
    assert len(result.failures) == 3
    assert "ZeroDivisionError: division by zero" in result.failures[0]
    log = next(tmp_path.glob("run/cells/tiny--mean_field*/log.txt")).read_text()
    assert "Traceback" in log
    assert (tmp_path / "run" / "report.html").exists()

    exact_methods.clear()
    result, heard = go(plan, tmp_path / "run", pages=False)
    assert sorted(label for label, _ in heard.finished if "compared" not in label) == [
        "tiny full_rank",
        "tiny low_rank",
        "tiny mean_field",
    ]
    assert result.failures == []


def die_of_a_fault():
    faulthandler.disable()  # that of pytest would fill the screen
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (
            die_of_a_fault,
            "killed",
            "ended by signal 11 (SIGSEGV): a fault in compiled code or in a library",
        ),
        (lambda: os._exit(4), "error", "exited with code 4"),
        ("panic", "error", "nutpie stopped: it was tired; check that there is a posterior"),
    ],
    ids=["signal", "exit", "panic"],
)
@pytest.mark.parametrize("workers", [True, False], ids=["chains in workers", "chains in the cell"])
def test_nuts_that_ends_by_itself_is_a_failed_row(
    model, tmp_path, monkeypatch, exact_methods, fault, status, words, workers
):
    """Its reason is in card, report, CSV and JSON; the other row is scored; the exit code is 1."""
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})(
        "it was tired\n\nStack backtrace:\n 0: <unknown>"
    )

    def wait(timeout):
        if fault == "panic":
            raise panic
        fault()

    monkeypatch.setattr(
        nuts_nutpie, "_sampler", lambda *given: SimpleNamespace(wait=wait, cancel=lambda: None)
    )
    monkeypatch.setattr(
        run,
        "_worth_all_workers",
        lambda cells, *rest: {c.name for c in cells if c.method == "nuts"} if workers else set(),
    )
    result, _ = go(plan_of(model, nuts=True, compile="off"), tmp_path / "run")
    rows = {c["method"]: c for c in result.cells}
    assert rows["laplace"]["verdict"] == "agrees"
    assert (rows["nuts"]["status"], rows["nuts"]["verdict"]) == (status, "fit_failed")
    assert words in rows["nuts"]["sentence"]
    assert "memory" not in rows["nuts"]["sentence"]
    assert len(result.failures) == 1  # exit code 1
    assert words in result.failures[0]
    assert words in (tmp_path / "run" / "report.md").read_text()
    assert words.partition("; ")[0].partition(": a fault")[0] in " ".join(
        render_table(result.report).split()
    )
    assert f"tiny,nuts,0,{status},fit_failed," in (tmp_path / "run" / "results.csv").read_text()
    assert [c["method"] for c in result.document()["cells"]] == ["laplace", "nuts"]


def test_a_full_disk_inside_a_worker_stops_the_run_with_one_sentence(
    model, tmp_path, monkeypatch, exact_methods
):
    def full(posterior, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(methods, "save_netcdf", full)
    with pytest.raises(InfrastructureError, match=r"No space left on device\): free some space"):
        go(plan_of(model), tmp_path / "run")
    assert list((tmp_path / "run" / "cells").iterdir()) == []


def test_results_do_not_depend_on_the_number_of_jobs(model, tmp_path, exact_methods):
    plan = plan_of(model, seeds=[0, 1])
    one, _ = go(plan, tmp_path / "one", jobs=1, pages=False)
    two, _ = go(plan, tmp_path / "two", jobs=2, pages=False)
    assert [c["scores"] for c in one.cells] == [c["scores"] for c in two.cells]
    assert one.cells[0]["scores"] != one.cells[1]["scores"]


@pytest.fixture
def short_fits(monkeypatch):
    short = {"steps": 30, "patience": 10, "anneal": 10, "compile": "off"}

    def cells(plan, prepared, settings=short):
        made = [
            dataclasses.replace(c, config={**c.config, **settings})
            for c in plan_cells(plan, prepared)
        ]
        return [
            (
                c
                if c.given is None
                else dataclasses.replace(
                    c, given=next(g for g in made if g.method == c.given.method)
                )
            )
            for c in made
        ]

    monkeypatch.setattr(sys.modules["benchmarks.run.execute"], "plan_cells", cells)
    few_trees(monkeypatch)


def test_a_truth_given_a_trained_program_is_found_beside_the_other_comparisons(
    tmp_path, monkeypatch, short_fits
):
    """For any number of jobs, and equal to that of `find`.

    Every comparison is made once and counted.
    """
    learned = "vae[hidden=6,latent=1,layers=1,rows=60]"
    plan = make_plan(entries=["lda_exact", learned], guides=["amortized"], nuts=False, trust=False)
    two, heard = go(plan, tmp_path / "two", jobs=2, pages=False)
    compared = [label for label, _ in heard.finished if label.endswith("compared")]
    assert heard.begun["comparisons"] == len(compared) == 2
    entry = two.report.entries[1]
    assert entry.reference.kind == two.references[learned]["kind"] == "exact"
    assert entry.reference.posterior.entry is entry.entry
    assert entry.reference.posterior.data is entry.data
    assert [c.reference is entry.reference for c in entry.comparisons] == [True]
    direct = references.find(entry.entry, entry.data, given=entry.comparisons[0].fit)
    assert torch.equal(direct.posterior.draws["z"], entry.reference.posterior.draws["z"])
    assert direct.log_evidence == entry.reference.log_evidence
    one, _ = go(plan, tmp_path / "one", jobs=1, pages=False)
    assert [c["scores"] for c in one.cells] == [c["scores"] for c in two.cells]
    again, heard = go(plan, tmp_path / "two", jobs=2, pages=False)
    assert (heard.finished, heard.begun) == ([], {})
    assert again.cells == two.cells

    monkeypatch.setattr(references, "exact_given", lambda entry, data, given: None)
    other, heard = go(plan, tmp_path / "two", jobs=2, pages=False)
    assert other.references[learned]["kind"] == "none"
    assert (
        f"{learned}: No chains were run on the learned weights; run NUTS as well."
        in heard.lines  # no warning: it was not asked for
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_leaves_whole_cells_and_resumes(
    model, tmp_path, exact_methods, number, code
):
    out = tmp_path / "run"
    exact_methods["laplace"] = lambda: time.sleep(600)
    pid = os.fork()
    if pid == 0:  # the command, with the planted sleep
        os.setsid()
        null = os.open(str(tmp_path / "stderr"), os.O_WRONLY | os.O_CREAT)
        os.dup2(null, 2)
        sys.stderr = os.fdopen(2, "w")
        words = [
            "compare",
            model,
            "--guides",
            "mean_field,laplace",
            "--no-nuts",
            "--out",
            str(out),
            "--jobs",
            "2",
        ]
        try:
            cli.main(words)
        except SystemExit as left:
            os._exit(left.code)
        os._exit(99)
    limit = time.monotonic() + 120
    while not list(out.glob("cells/tiny--mean_field*")) and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(0.2)
    os.killpg(pid, number)
    _, status = os.waitpid(pid, 0)
    heard = (tmp_path / "stderr").read_text()
    assert os.waitstatus_to_exitcode(status) == code, heard
    assert "Traceback" not in heard
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    whole = list(out.glob("cells/tiny*"))
    assert [p.name.split("--")[1] for p in whole] == ["mean_field"]
    assert (whole[0] / "MANIFEST").exists()
    exact_methods.clear()
    result, heard = go(read_plan(out / "plan.toml"), out, pages=False)
    assert [label for label, _ in heard.finished if "compared" not in label] == ["tiny laplace"]
    assert {c["method"]: c["status"] for c in result.cells} == {
        "laplace": "ok",
        "mean_field": "ok",
    }
    assert not list(out.glob("cells/.zoo-tmp-*"))


def test_bad_input_ends_before_anything_is_written(model, tmp_path):
    for plan in (
        plan_of(model, guides=["mean_feld"]),
        plan_of("eight_scools"),
        plan_of("coin[d=3]"),
        plan_of(str(tmp_path / "no.py")),
    ):
        with pytest.raises(UsageError):
            execute(plan, out=tmp_path / "run")
    with pytest.raises(UsageError, match="twice"):
        execute(make_plan(entries=[model, model], guides=["laplace"]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_build_that_ends_the_process_is_an_error_of_its_file(tmp_path):
    """`sys.exit(0)` in build ended the command with code 0, as if all were done."""
    path = tmp_path / "tiny.py"
    path.write_text(
        MODEL.replace("def build(data):\n", "def build(data):\n    raise SystemExit(0)\n")
    )
    with pytest.raises(UsageError, match=r"tiny ends the process .SystemExit. while it is made"):
        execute(plan_of(str(path)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_names_that_files_cannot_hold_are_refused_before_any_work(tmp_path):
    """Every method ran to its end before its draws could not be written."""
    path = tmp_path / "tiny.py"
    path.write_text(
        MODEL.replace('pyro.sample("mean"', 'pyro.sample("block/mean"').replace(
            'draws["mean"]', 'draws["block/mean"]'
        )
    )
    with pytest.raises(UsageError, match=r"'block/mean' cannot be stored in a file of draws"):
        execute(plan_of(str(path)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_model_file_is_read_from_another_folder(
    model, tmp_path, monkeypatch, exact_methods
):
    monkeypatch.chdir(tmp_path)
    go(plan_of("tiny.py"), tmp_path / "run", pages=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    back = read_run(tmp_path / "run", models=[tmp_path / "tiny.py"])
    assert [c["entry"] for c in back.cells] == ["tiny"]


def test_reading_a_run_executes_no_file_of_its_plan(
    model, tmp_path, monkeypatch, exact_methods, capsys
):
    """A run received from somebody else may name any Python file; the stored verdicts suffice."""
    out = tmp_path / "run"
    go(plan_of(model), out, pages=False)
    mark = tmp_path / "EXECUTED"
    received = out / "tiny.py"
    received.write_text(f"open({str(mark)!r}, 'w').close()\n{MODEL}")
    (out / "plan.toml").write_text(
        (out / "plan.toml").read_text().replace(json.dumps(str(model)), json.dumps(str(received)))
    )
    assert unavailable(read_plan(out / "plan.toml")) == [str(received)]
    with pytest.raises(UsageError, match=r"executes no model by itself.* models=\['FILE\.py'\]"):
        read_run(out)
    assert cli.run(["report", str(out)]) == 0
    shown = capsys.readouterr()
    # seed 0 was an empty field
    assert re.search(r"laplace +0 +ok +agrees", shown.out)
    assert "give the model file that made it: `zoo report" in shown.err
    assert cli.run(["report", str(out), "--model", "other.py"]) == 0
    assert f"it was made by {str(received)!r}, not by 'other.py'" in capsys.readouterr().err
    assert cli.run(["report", str(out), "--html", str(tmp_path / "a.html")]) == 2
    assert not mark.exists()
    assert cli.run(["report", str(out), "--model", str(received)]) == 0
    assert mark.exists()


def test_a_run_of_a_program_without_a_file_shows_what_is_stored(tmp_path, capsys):
    """A run of `compare_program` names an entry that no registry has."""
    entry = dataclasses.replace(zoo.load("coin"), name="made_here", reference="none")
    plan = plan_of("made_here", trust=False)
    execute(plan, out=tmp_path / "run", entries=[entry], pages=False)
    assert cli.run(["report", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr()
    assert "made_here" in shown.out
    assert "given in Python and has no file: repeat the call of compare_program" in shown.err
    assert "--model" not in shown.err
    assert cli.run(["report", str(tmp_path / "run"), "--markdown", str(tmp_path / "a.md")]) == 2
    assert "repeat the call of compare_program with out=" in capsys.readouterr().err
    called = command(plan_of("made_here", trust=False, seeds=[3, 4]))
    assert called.startswith("benchmarks.compare_program(model, data, [")
    assert called.endswith("trust=False, seed=3), again with seed=4")


def test_a_damaged_cell_is_missing_from_the_frame_with_a_warning(tmp_path, exact_methods, model):
    out = tmp_path / "run"
    go(plan_of(model), out, pages=False)
    rows = len(results_frame(out))
    (draws,) = out.glob("cells/*laplace*/posterior.nc")
    draws.write_bytes(draws.read_bytes()[:-100])
    with pytest.warns(RuntimeWarning, match=r"Left out of the table: cell .*laplace.* is damaged"):
        found = results_frame(out)
    assert len(found) < rows


def test_text_of_others_is_no_formula_in_the_table(tmp_path, exact_methods):
    """A name that begins like a formula gets a quote; numbers stay as they are.

    That includes negative ones.
    """
    path = tmp_path / "tiny.py"
    text = MODEL.replace(
        'quantities={"mean":', """quantities={'=HYPERLINK("http://x")':"""
    ).replace('moments={"mean": exact}', "moments={}")
    path.write_text(text)
    result, _ = go(plan_of(str(path)), tmp_path / "run", pages=False)
    lines = list(csv.DictReader(io.StringIO(results_csv(result.cells))))
    assert lines[0]["quantity"] == """'=HYPERLINK("http://x")"""
    assert float(lines[0]["mean_error"]) == pytest.approx(
        result.cells[0]["scores"][0]["mean_error"]
    )
    assert not any(value.startswith(("=", "+", "@")) for row in lines for value in row.values())


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_every_beginning_of_a_formula_gets_a_quote(first):
    assert _inert(f"{first}SUM(A1)") == f"'{first}SUM(A1)"
    assert [_inert(x) for x in ("-0.5", "+1e3", "theta[A]", -0.5, None)] == [
        "-0.5",
        "+1e3",
        "theta[A]",
        -0.5,
        None,
    ]


def test_keys_change_with_what_draws_depend_on(model):
    def key(plan=None, entry=None):
        plan = plan or plan_of(model)
        return plan_cells(plan, [prepare(plan, entry or model)])[0].key

    base = key()
    assert key() == base
    assert key(plan_of(model, seeds=[1])) != base
    assert key(plan_of(model, restarts=2)) != base
    assert key(plan_of(model, quick=True)) != base
    assert key(plan_of(model, guides="all")) == base
    entry = zoo.load(model)
    other = dataclasses.replace(
        entry,
        make_data=lambda seed: dataclasses.replace(
            entry.load_data(), train={"y": torch.ones(4).double()}
        ),
    )
    assert key(entry=other) != key(
        entry=dataclasses.replace(entry, make_data=lambda seed: entry.load_data())
    )


def test_every_cell_of_a_finished_run_is_in_the_schema(model, tmp_path, exact_methods):
    result, _ = go(plan_of(model), tmp_path / "run", pages=False)
    (cell,) = result.cells
    assert schema.validated(cell) == cell
    assert json.loads(json.dumps(cell, allow_nan=False)) == cell
    wanted = {
        "entry",
        "options",
        "method",
        "seed",
        "status",
        "verdict",
        "reasons",
        "scores",
        "distances",
        "elbo",
        "log_evidence",
        "pareto_k",
        "heldout_lpd",
        "mcmc",
        "cost",
        "compiled",
        "stop",
        "versions",
        "machine",
    }
    assert wanted <= set(cell)
    assert {
        "seconds",
        "compile_seconds",
        "steps",
        "gradient_evaluations",
        "sequential_depth",
        "peak_memory_mb",
    } == set(cell["cost"])
    with pytest.raises(ValueError, match="verdict"):
        schema.validated({**cell, "verdict": "fine"})
    with pytest.raises(ValueError, match="surprise"):
        schema.validated({**cell, "surprise": 1})


def test_a_comparison_survives_the_disk(model, tmp_path, exact_methods):
    result, _ = go(plan_of(model), tmp_path / "run", pages=False)
    (comparison,) = result.report.entries[0].comparisons
    (cell,) = result.cells
    assert schema.scored_cell(cell, comparison) | {"notes": None, "reference": None} == cell | {
        "notes": None,
        "reference": None,
    }


def test_words_of_time_and_the_command(model):
    assert [duration(s) for s in (0.1, 29, 55, 200, 9000)] == [
        "5 seconds",
        "30 seconds",
        "1 minute",
        "3 minutes",
        "2.5 hours",
    ]
    plan = make_plan(
        entries=["coin", "correlated_gaussian[d=3]"],
        guides=["laplace"],
        seeds=[4],
        quick=True,
        nuts=False,
    )
    assert (
        command(plan)
        == "zoo compare coin 'correlated_gaussian[d=3]' --guides laplace --seed 4 --no-nuts"
        " --quick"
    )


def test_the_default_folder_depends_on_the_request_only():
    plan = make_plan(entries=["coin", "dir/my model.py"])
    assert plan.default_folder() == make_plan(entries=["coin", "dir/my model.py"]).default_folder()
    assert (
        plan.default_folder()
        != make_plan(entries=["coin", "dir/my model.py"], seeds=[1]).default_folder()
    )
    assert plan.default_folder().parts[0] == "out"
    assert plan.default_folder().name.startswith("coin-my-model-")


def test_nuts_is_never_scored_against_itself(tmp_path):
    """Without another truth the chains are the reference, and would agree with themselves."""
    path = tmp_path / "tiny.py"
    path.write_text(MODEL.replace('analytic=analytic, reference="analytic"', 'reference="nuts"'))
    result, _ = go(plan_of(str(path), nuts=True, quick=True), tmp_path / "run", pages=False)
    found = {c["method"]: c for c in result.cells}
    assert found["nuts"]["verdict"] == "no_reference"
    assert found["nuts"]["scores"] == []
    assert "is the reference of the other rows" in found["nuts"]["sentence"]
    assert found["nuts"]["mcmc"]["rhat_max"] < 1.05
    assert found["laplace"]["reference"]["kind"] == "nuts"
    assert len(found["laplace"]["scores"]) == 1
    assert result.failures == []


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("how", ["raises", "dies", "never returns"])
def test_what_is_shown_beside_the_comparisons_costs_no_other_entry(
    model, tmp_path, exact_methods, monkeypatch, how
):
    """A program that cannot simulate, or exits, prevented the report of all entries."""
    whole = evaluate.predictive_checks

    def breaks(entry, *rest):
        if entry.name != "tiny":
            return whole(entry, *rest)
        if how == "dies":
            os._exit(9)
        if how == "never returns":
            time.sleep(10**6)
        raise ValueError("no simulation of this")

    monkeypatch.setattr(evaluate, "predictive_checks", breaks)
    limit = 3.0 if how == "never returns" else None
    plan = plan_of(model, entries=[model, "coin"])
    result, heard = go(plan, tmp_path / "run", timeout=limit)
    assert len(result.failures) == 1
    assert result.failures[0].startswith("tiny: no predictive checks and no predictions: ")
    assert result.failures[0] in heard.warnings
    text = (tmp_path / "run" / "results.csv").read_text()
    assert {line.split(",")[0] for line in text.splitlines()[1:]} == {"tiny", "coin"}
    assert "coin" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_each_file_of_a_cell_is_read_once(model, tmp_path, monkeypatch):
    """A resumed comparison read `guide.pt` three times and `posterior.nc` twice.

    It also rebuilt each comparison twice from JSON.
    """
    read = []
    for home, name in ((guides, "load"), (work, "load_netcdf"), (evaluate, "comparison_of")):
        whole = getattr(home, name)

        def counted(*args, whole=whole, name=name, **options):
            read.append(name)
            return whole(*args, **options)

        monkeypatch.setattr(home, name, counted, raising=False)
    plan, out = plan_of(model), tmp_path / "run"
    go(plan, out)
    assert sorted(read) == ["comparison_of", "load", "load_netcdf"]
    read.clear()
    go(plan, out)
    assert sorted(read) == ["comparison_of", "load", "load_netcdf"]
