"""The command line: fast, quiet, strict, and with the right exit code."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, rankdata

import zoo
from benchmarks.cli import process as cli
from zoo.errors import UsageError

ROOT = Path(__file__).parents[3]


def run(*words, capsys):
    code = cli.run(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def python(program, *, path=(), cwd=None):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["list"],
        ["list", "--json"],
        ["compare", "--help"],
        ["study"],
        ["study", "--json"],
    ],
)
def test_light_commands_import_neither_torch_nor_a_model(words):
    program = f"""
import sys
import zipfile
from benchmarks.cli import process as cli
code = cli.run({words!r})
heavy = set(("torch", "pyro", "arviz", "pandas", "scipy", "matplotlib")) & set(sys.modules)
models = [m for m in sys.modules if m.startswith("zoo.models.")]
sys.exit(f"imported: {{heavy}} {{models}}" if heavy or models else code)
"""
    done = python(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_help_names_every_command(capsys):
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    for command in (
        "list",
        "show",
        "doctor",
        "check",
        "new",
        "compare",
        "fit",
        "reference",
        "report",
        "study",
    ):
        assert f"\n  {command} " in out


def test_list_json_is_one_strict_document(capsys):
    code, out, err = run("list", "--json", capsys=capsys)
    assert code == 0
    assert err == ""
    entries = {e["name"]: e for e in json.loads(out)["entries"]}
    assert set(zoo.names()) <= set(entries)
    assert entries["coin"]["parameters"] is None
    assert entries["coin"]["observations"] is None
    assert entries["coin"]["reference"] == "analytic"


def test_list_long_counts_parameters_and_observations(capsys):
    code, out, _ = run("list", "--long", "--tag", "funnel", "--json", capsys=capsys)
    assert code == 0
    (entry,) = (e for e in json.loads(out)["entries"] if e["name"] == "eight_schools_centered")
    assert (entry["parameters"], entry["observations"]) == (10, 8)


def test_show_knows_options(capsys):
    code, out, _ = run("show", "correlated_gaussian[d=5]", "--json", capsys=capsys)
    assert code == 0
    card = json.loads(out)
    assert card["name"] == "correlated_gaussian[d=5]"
    assert card["options"]["d"] == 5
    assert card["parameters"] == 5


def test_unknown_names_are_usage_errors_with_a_guess(capsys):
    code, out, err = run("show", "eight_school", capsys=capsys)
    assert code == 2
    assert out == ""
    assert err.startswith("zoo: ")
    assert "did you mean 'eight_schools'?" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["compare"],
        ["compare", "coin", "--seed", "-1"],
        ["compare", "coin", "--jobs", "0"],
        ["lst"],
        ["list", "--logn"],
    ],
)
def test_wrong_flags_exit_2(words, capsys):
    code, out, err = run(*words, capsys=capsys)
    assert code == 2
    assert "Traceback" not in out + err


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("ZOO_DEBUG", "1")
    code, _, err = run("show", "nothing_here", capsys=capsys)
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("zoo: ")


def test_a_fault_of_ours_is_one_sentence_too(capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("benchmarks.cli.browse.list_models", broken)
    code, out, err = run("list", capsys=capsys)
    assert code == 3
    assert out == ""
    assert (
        err == "zoo: unexpected ZeroDivisionError: planted; this is a bug: run again with"
        " ZOO_DEBUG=1 for the traceback.\n"
    )


@pytest.mark.parametrize("room", ["zoo", "guides"])
def test_a_package_that_shadows_ours_stops_the_command(tmp_path, room):
    (tmp_path / room).mkdir()
    (tmp_path / room / "__init__.py").write_text("")
    done = python(
        "from benchmarks.cli import process as cli; cli.main(['list'])",
        path=[tmp_path, ROOT],
        cwd=tmp_path,
    )
    assert done.returncode == 3
    assert f"the package {room!r} is imported from" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["check"],
        ["show"],
        ["reference"],
        ["compare"],
        ["compare", "coin"],
        ["trust"],
        ["fit", "--guide", "laplace"],
    ],
    ids=" ".join,
)
def test_an_unknown_entry_is_told_before_anything_heavy_is_imported(words):
    code = (
        "import sys\nfrom benchmarks.cli import main\n"
        f"try:\n    main({[*words, 'nonsense']!r})\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert "Unknown entry 'nonsense'" in done.stderr


def test_the_command_runs_as_a_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "list"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        cwd=tmp_path,
    )
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["name", "reference", "title"]
    assert {line.split()[0] for line in lines[1:]} >= set(zoo.names())
    assert "zoo: tags: " in done.stderr


def test_a_citation_that_is_the_source_is_shown_once(capsys):
    code, out, _ = run("show", "eight_schools", capsys=capsys)
    assert code == 0
    assert out.count("Rubin (1981)") == 1


def test_doctor_finds_this_installation_healthy(capsys):
    code, out, _ = run("doctor", capsys=capsys)
    assert code == 0, out
    assert "evidence of coin by quadrature is exact" in out
    assert "Monte Carlo errors and E-BFMI of fixed chains are right" in out


def test_doctor_reports_a_dependency_outside_its_bounds(monkeypatch):
    from benchmarks.cli import doctor

    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.0.1")
    finding = doctor._packages()
    assert finding.status == "failed"
    assert "torch 0.0.1 is installed" in finding.sentence


def _split(x):
    return np.concatenate([x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]])


def _normal_scores(x):
    return norm.ppf((rankdata(x).reshape(x.shape) - 3 / 8) / (x.size + 1 / 4))


def _rhat(x):
    n = x.shape[1]
    return ((n - 1) / n + x.mean(1).var(ddof=1) / x.var(1, ddof=1).mean()) ** 0.5


def _ess(x):
    """Geyer's initial monotone sequence over pairs of autocorrelations that pool all chains."""
    m, n = x.shape
    d = x - x.mean(1, keepdims=True)
    covariance = np.array([(d[:, : n - k] * d[:, k:]).sum(1).mean() / n for k in range(n)])
    within = covariance[0] * n / (n - 1)
    rho = 1 - (within - covariance) / (covariance[0] + x.mean(1).var(ddof=1))
    pairs, k = [1 + rho[1]], 2
    while rho[k] + rho[k + 1] > 0:
        pairs.append(min(rho[k] + rho[k + 1], pairs[-1]))
        k += 2
    return m * n / (-1 + 2 * sum(pairs) + max(rho[k], 0))


def test_the_numbers_the_doctor_knows_are_those_of_the_formulas():
    """R-hat and ESS of Vehtari et al. (2021), E-BFMI of Betancourt (2016)."""
    from benchmarks.cli import doctor

    x = doctor._chains()
    halves, squares = _split(x), (x - x.mean()) ** 2
    folded = np.abs(halves - np.median(halves))
    below = [_split((x <= np.quantile(x, q)).astype(float)) for q in (0.05, 0.95)]
    # delta method: var of an sd
    written = {
        "rhat": max(_rhat(_normal_scores(halves)), _rhat(_normal_scores(folded))),
        "ess_bulk": _ess(_normal_scores(halves)),
        "ess_tail": min(map(_ess, below)),
        "mcse_mean": x.std(ddof=1) / _ess(halves) ** 0.5,
        "mcse_sd": ((squares.var() / _ess(_split(squares)) / (4 * squares.mean())) ** 0.5),
        "ebfmi": ((np.diff(x, axis=1) ** 2).mean(1) / x.var(1, ddof=1)).min(),
    }
    assert written == pytest.approx(doctor.DIAGNOSTICS, rel=1e-12)


@pytest.mark.parametrize("fault", ["raises", "wrong", "nan"])
def test_the_doctor_notices_diagnostics_that_are_broken(monkeypatch, fault):
    from benchmarks import arviz_bridge
    from benchmarks.cli import doctor

    def broken(data, **options):
        if fault == "raises":
            raise TypeError("only 0-dimensional arrays can be converted to Python scalars")
        return np.nan if fault == "nan" else right(data, **options) * (1 + 1e-4)

    arviz = arviz_bridge.load_arviz()
    right = arviz.mcse
    monkeypatch.setattr(arviz, "mcse", broken)
    (finding,) = [f for f in doctor.examine() if f.name == "diagnostics"]
    assert finding.status == "failed"
    words = {
        "raises": "mcse_sd raises TypeError: only 0-dim",
        "wrong": "is 0.00932899 where 0.00932806 is right",
        "nan": "is nan where",
    }
    assert words[fault] in finding.sentence
    assert finding.sentence.endswith("install again with -c constraints.txt")
    assert "rhat" not in finding.sentence


def test_new_then_check(tmp_path, capsys):
    code, out, err = run("new", "my_model", "--dir", str(tmp_path), capsys=capsys)
    assert code == 0
    assert out.strip() == str(tmp_path / "my_model.py")
    assert "zoo check" in err
    code, out, _ = run("new", "my_model", "--dir", str(tmp_path), capsys=capsys)
    assert code == 2


def test_check_prints_every_result_and_fails_when_one_fails(capsys, monkeypatch):
    from zoo.contract import Check, CheckResult

    listed = [
        Check(name="one", run=lambda: CheckResult(status="ok", sentence="")),
        Check(name="two", run=lambda: CheckResult(status="skipped", sentence="flat priors")),
    ]
    monkeypatch.setattr("benchmarks.contract.checks", lambda entry: listed)
    code, out, _ = run("check", "coin", capsys=capsys)
    assert code == 0
    assert "skipped  two: flat priors" in out
    listed.append(
        Check(name="three", run=lambda: CheckResult(status="failed", sentence="planted"))
    )
    code, out, _ = run("check", "coin", capsys=capsys)
    assert code == 1
    assert " failed  three: planted" in out
    assert out.splitlines()[-1] == "coin: 1 ok, 1 failed, 1 skipped"


def test_fit_writes_a_file_that_can_be_loaded(tmp_path, capsys):
    import guides

    path = tmp_path / "guide.pt"
    # names that earlier versions used
    mine = [tmp_path / ".tmp-guide.pt", tmp_path / f".guide.pt.{os.getpid()}.part"]
    for file in mine:
        file.write_text("mine")
    code, out, _ = run(
        "fit", "coin", "--guide", "laplace", "--out", str(path), "--json", capsys=capsys
    )
    assert code == 0
    document = json.loads(out)
    assert document["stop"]["status"] == "ok"
    assert document["file"] == str(path)
    loaded = guides.load(path)
    assert (loaded.entry.name, loaded.family) == ("coin", "laplace")
    assert all(file.read_text() == "mine" for file in mine)
    assert sorted(tmp_path.iterdir()) == sorted([*mine, path])


def test_a_fit_that_names_a_file_executes_nothing(tmp_path, capsys, monkeypatch):
    import guides

    monkeypatch.chdir(tmp_path)
    run("fit", "coin", "--guide", "laplace", "--out", "g.pt", capsys=capsys)
    mark = tmp_path / "EXECUTED"
    (tmp_path / "other.py").write_text(f"open({str(mark)!r}, 'w').close()")
    with zipfile.ZipFile("g.pt") as archive, zipfile.ZipFile("received.pt", "w") as received:
        meta = json.loads(archive.read("meta.json")) | {"name": "other.py"}
        received.writestr("meta.json", json.dumps(meta))
        received.writestr("tensors.pt", archive.read("tensors.pt"))
    with pytest.raises(UsageError, match=r"no entry of the registry; pass the entry"):
        guides.load("received.pt")
    assert not mark.exists()
    assert guides.load("received.pt", zoo.load("coin")).family == "laplace"


def test_compare_prints_one_json_document_in_the_schema(tmp_path, capsys):
    from benchmarks.run.record import validated

    words = [
        "compare",
        "coin",
        "--guides",
        "laplace",
        "--no-nuts",
        "--quick",
        "--json",
        "--out",
        str(tmp_path / "run"),
    ]
    code, out, err = run(*words, capsys=capsys)
    assert code == 0, err
    document = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert list(document) == ["schema", "cells", "references", "run_dir"]
    assert [validated(c) for c in document["cells"]] == document["cells"]
    assert set(document["references"]["coin"]) >= {
        "kind",
        "gates",
        "ess_min",
        "rhat_max",
        "log_evidence",
    }
    assert "1 of 1 cells to run; about" in err

    code, out, err = run(
        "report", str(tmp_path / "run"), "--markdown", str(tmp_path / "r.md"), capsys=capsys
    )
    assert code == 0
    assert out.strip() == str(tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text() == (tmp_path / "run" / "report.md").read_text()


def test_reference_shows_and_verifies(capsys):
    code, out, _ = run("reference", "linear_regression", capsys=capsys)
    assert code == 0
    assert out.startswith("linear_regression: analytic, usable")


def test_without_docstrings_there_is_one_sentence():
    """Pyro cannot be imported under `python -OO`; this was an unexpected AttributeError."""
    command = [
        sys.executable,
        "-OO",
        "-c",
        "from benchmarks.cli import main; main(['show', 'coin'])",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("zoo: python runs with -OO")
    assert len(done.stderr.splitlines()) == 1
