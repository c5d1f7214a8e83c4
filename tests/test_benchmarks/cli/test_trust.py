"""`zoo trust`: its exit codes, its documents, and its errors."""

import json

import pytest

import guides
import zoo
from benchmarks.cli import process as cli
from zoo.errors import UsageError

GAUSSIAN = "correlated_gaussian[d=2,rho=0.9]"


def run(*words, capsys):
    code = cli.run(["trust", *words])
    out, err = capsys.readouterr()
    return code, out, err


OPTIONS = {"draws": 1024, "islands": 4, "particles": 512}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Fewer points: what is tested here is the command."""
    from benchmarks.comparison import assess as module

    options = OPTIONS
    original = module.assess
    monkeypatch.setattr(module, "assess", lambda fit, **given: original(fit, **options, **given))


def test_a_finding_exits_zero_and_with_a_gate_one(capsys):
    code, out, err = run(GAUSSIAN, "--guide", "mean_field", "--gate", capsys=capsys)
    assert code == 1
    lines = out.splitlines()
    assert lines[0].startswith("mean_field is too narrow (estimated): x[")
    assert any(line.split()[:2] == ["failed", "drift"] for line in lines)
    assert any(line.split()[:2] == ["ok", "smc"] for line in lines)
    assert "fitted in" in err  # progress is no result


def test_laplace_that_earns_trust_is_the_only_one(capsys):
    code, out, _ = run(GAUSSIAN, "--gate", "--json", capsys=capsys)
    assert code == 0
    fits = json.loads(out)["fits"]
    assert [(f["method"], f["verdict"]) for f in fits] == [("laplace", "agrees")]


def without_times(document):
    cost = {k: v for k, v in document["cost"].items() if k != "seconds"}
    return {**document, "cost": cost}


def test_two_fits_are_assessed_side_by_side_with_the_same_answers(capfd, monkeypatch):
    def assessed(number):
        monkeypatch.setattr("benchmarks.workers.cores", lambda: number)
        code, out, err = run("coin", "--json", "--quick", capsys=capfd)
        assert code == 0
        return [without_times(f) for f in json.loads(out)["fits"]], err

    monkeypatch.setattr("benchmarks.comparison.assessment.Assessment.gate", 1)
    for name, few in (("draws", 256), ("particles", 128)):
        monkeypatch.setitem(OPTIONS, name, few)
    two, err = assessed(2)
    one, _ = assessed(1)
    assert two == one
    assert [f["method"] for f in two] == ["laplace", "mean_field"]
    assert "zoo:   laplace smc: " in err
    assert "zoo:   mean_field smc: " in err


def test_a_fit_that_fails_leaves_the_other(capfd, monkeypatch):
    """No time for any step: what the checks of the other fit find is no matter here."""
    monkeypatch.setattr("guides.families.laplace.STARTS", 1)
    words = ["eight_schools_centered", "--json", "--quick", "--budget", "0.001s"]
    code, out, err = run(*words, capsys=capfd)
    assert code == 0
    assert [f["method"] for f in json.loads(out)["fits"]] == ["mean_field"]
    assert "zoo: eight_schools_centered laplace: No mode from " in err


def test_an_error_of_a_worker_is_that_of_the_command(capsys, monkeypatch):
    def refuse(fit, **given):
        raise UsageError("This cannot be assessed; try another.")

    monkeypatch.setattr("benchmarks.comparison.assess.assess", refuse)
    code, out, err = run("coin", capsys=capsys)
    assert (code, out) == (2, "")
    assert "This cannot be assessed; try another." in err


def test_an_open_step_cannot_be_known(capsys):
    code, out, _ = run(
        GAUSSIAN, "--guide", "full_rank", "--gate", "--budget", "0.001s", "--json", capsys=capsys
    )
    assert code == 4
    document = json.loads(out)
    assert document["verdict"] == "inconclusive"
    assert document["kl_nats"] is None
    smc = next(c for c in document["checks"] if c["name"] == "smc")
    assert smc["passed"] is None
    assert "forecast" in smc["sentence"]


def test_a_fit_of_a_file_is_assessed(capsys, tmp_path):
    entry = zoo.load("correlated_gaussian", d=2, rho=0.9)
    path = tmp_path / "fit.pt"
    guides.save(guides.fit(entry, "mean_field", seed=0, compile="off"), path)
    code, out, _ = run(GAUSSIAN, "--fit", str(path), "--json", capsys=capsys)
    assert code == 0  # a finding is no failure of the command
    assert json.loads(out)["verdict"] == "too_narrow"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "soon"], "--budget got 'soon'; accepted: a time such as 60, 60s, 2m or 1h."),
        (["--guide", "laplace", "--fit", "x.pt"], "got both --guide and --fit; give one"),
        (["--guide", "laplas"], "did you mean 'laplace'?"),
        (["--fit", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_bad_input_is_one_sentence(words, said, capsys):
    code, out, err = run("coin", *words, capsys=capsys)
    assert code == 2
    assert out == ""
    assert said in err
    assert "Traceback" not in err
