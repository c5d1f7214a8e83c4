"""Bad input: its exit code, one sentence with the next step, no traceback, no partial file."""

import importlib
import resource
import shutil
import signal

import pytest

import zoo.truth.stored
from benchmarks.cli import process as cli

MODEL = """
import pyro
import pyro.distributions as dist
import torch

from zoo.types import Data, ModelEntry, Quantity


def make_data(seed):
    return Data(train={"y": torch.tensor(VALUES, dtype=DTYPE)}, observed=("y",))


def build(data):
    def program(y, index=None):
        mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), dtype=torch.float64), 1.0))
        with pyro.plate("row", SIZE):
            pyro.sample("y", LIKELIHOOD, obs=y)

    return program


def own(program, data, entry):
    def guide(y, index=None):
        loc = pyro.param("loc", torch.zeros((), dtype=torch.float64))
        pyro.sample("mean", dist.Normal(loc, 1.0))

    return guide


ENTRY = ModelEntry(
    name="bad", title="Bad", make_data=make_data, build=build, reference="nuts",
    families=("mean_field",), OWN
    quantities={"mean": Quantity(fn=lambda draws, data: draws["mean"])},
)
"""
GOOD = {
    "VALUES": "[1.0, 2.0]",
    "DTYPE": "torch.float64",
    "SIZE": "2",
    "LIKELIHOOD": "dist.Normal(mean, scale)",
    "OWN": "",
}


def model(folder, **changes):
    text = MODEL
    for word, value in {**GOOD, **changes}.items():
        text = text.replace(word, value)
    path = folder / "bad.py"
    path.write_text(text)
    return str(path)


def run(words, capsys):
    code = cli.run([str(w) for w in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def sentence(err):
    """Return the last sentence of the command, after its progress."""
    lines = err.splitlines()
    last = lines[-1]
    assert last.startswith("zoo: ")
    assert [line for line in lines if not line.startswith(("zoo: ", "["))] == []
    assert last.endswith(".")
    return last


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["compare", "eight_school"], "did you mean 'eight_schools'?"),
        (["compare", "correlated_gaussian[dd=3]"], "Unknown option"),
        (["compare", "correlated_gaussian[d=x]"], "accepted: a value of type int"),
        (["compare", "coin", "--guides", "mean_feild"], "did you mean 'mean_field'?"),
        (["compare", "coin", "--guides", "amortized"], "its card has no amortize hook"),
        (["compare", "coin", "--guides", ","], "names no family"),
        (["compare", "coin", "--engine", "nutpy"], "did you mean 'nutpie'?"),
        (["compare", "coin", "--compile", "yes"], "accepted: auto, off, on"),
        (["compare", "../x"], "../x"),
        (["compare", "nowhere.py"], "does not exist"),
        (["show", "coin\0"], "coin"),
        (["new", "../x"], "not accepted"),
        (["new", "Model"], "not accepted"),
        (["check", "no_such"], "accepted:"),
        (["fit", "coin", "--guide", "full_ranks"], "did you mean 'full_rank'?"),
        (["list", "--tag", "clasic"], "did you mean 'classic'?"),
        (["reference", "coin", "--write", "--check"], "give one of them"),
        (["report", "no_such_run"], "no folder"),
    ],
)
def test_unknown_names(words, part, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(words, capsys)
    assert code == 2
    assert out == ""
    assert part in sentence(err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"VALUES": "[1.0, float('nan')]"}, "1 NaN or infinite of 2 values"),
        ({"VALUES": "[]", "SIZE": "0"}, "a plate of size 0 has no posterior"),
        ({"DTYPE": "torch.float16"}, "torch.float16"),
        ({"VALUES": "[1.0, 2.0, 3.0]"}, "site 'y': Value is not broadcastable"),
        ({"VALUES": "[1.0, -2.0]", "LIKELIHOOD": "dist.LogNormal(mean, scale)"}, "support"),
        ({"LIKELIHOOD": "dist.Normal(mean, undefined_name)"}, "undefined_name"),
        (
            {"def make_data(seed):": "def make_data(seed):\n    1 / 0"},
            "raises ZeroDivisionError while it is made",
        ),
        ({"ENTRY = ": "CARD = "}, "has no ENTRY"),
        ({"def build(data):": "def build(data:"}, "does not parse at line"),
        ({"import torch": "import torch_not_installed"}, "torch_not_installed"),
        ({'name="bad"': 'name="../bad"'}, "is not accepted"),
        (
            {
                'quantities={"mean": Quantity(fn=lambda draws, data: draws["mean"])}': (
                    "quantities={}"
                )
            },
            "no quantities",
        ),
    ],
)
def test_bad_models_and_data(changes, part, capsys, tmp_path):
    out_folder = tmp_path / "out"
    code, out, err = run(
        ["compare", model(tmp_path, **changes), "--no-nuts", "--no-trust", "--out", out_folder],
        capsys,
    )
    assert code == 2
    assert out == ""
    assert part in sentence(err)
    assert not out_folder.exists()


def test_a_guide_that_misses_a_site_is_a_failed_row(capsys, tmp_path):
    path = model(tmp_path, OWN='own_guides={"own": own},')
    code, out, err = run(
        [
            "compare",
            path,
            "--guides",
            "own",
            "--no-nuts",
            "--no-trust",
            "--quick",
            "--out",
            tmp_path / "out",
        ],
        capsys,
    )
    assert code == 1
    assert "scale" in sentence(err)
    assert "fit failed" in out
    assert (tmp_path / "out" / "report.html").exists()


def test_a_folder_with_other_things_is_left_alone(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    code, _, err = run(["compare", "coin", "--out", tmp_path], capsys)
    assert code == 2
    assert "not empty and holds no run" in sentence(err)
    assert "--out" in sentence(err)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "coin", "--guides", "laplace", "--no-nuts"],
        ["fit", "coin", "--guide", "laplace"],
    ],
)
def test_a_place_that_cannot_be_written(words, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = run([*words, "--out", tmp_path / "file" / "below"], capsys)
    assert code == 3
    assert out == ""
    assert "--out" in sentence(err)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_fills_up_in_the_middle(tmp_path, monkeypatch, capfd):
    """A limit on file sizes looks like a full disk to the worker: writes fail midway."""

    module = importlib.import_module("benchmarks.run.execute")
    real = module.run_cell

    def limited(*given):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        return real(*given)

    monkeypatch.setattr(module, "run_cell", limited)
    words = ["compare", "coin", "--guides", "laplace", "--no-nuts", "--out", str(tmp_path / "out")]
    assert cli.run(words) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("zoo: ")
    assert list((tmp_path / "out" / "cells").iterdir()) == []


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Serve stored references from a copy that a test may damage."""
    source = zoo.truth.stored.FOLDER
    folder = tmp_path / "references"
    shutil.copytree(source, folder)
    monkeypatch.setattr(zoo.truth.stored, "FOLDER", folder)
    return folder


@pytest.mark.parametrize("fault", ["flip", "truncate", "remove", "no json"])
def test_a_damaged_stored_reference(fault, stored, capsys):
    path = stored / "eight_schools.npz"
    content = bytearray(path.read_bytes())
    if fault == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif fault == "truncate":
        path.write_bytes(content[:1000])
    elif fault == "remove":
        path.unlink()
    else:
        (stored / "eight_schools.json").write_text("{")
    code, out, err = run(["reference", "eight_schools"], capsys)
    assert code == 1
    assert "not usable" in out or "zoo: " in err
    assert "zoo reference eight_schools --write" in out + err


def test_a_reference_of_a_program_that_changed(stored, capsys, monkeypatch):
    import zoo.models.hierarchical.eight_schools as module

    real = module.ENTRY.make_data
    import dataclasses

    def other(seed, **options):
        data = real(seed, **options)
        return dataclasses.replace(data, train={**data.train, "y": data.train["y"] + 1.0})

    monkeypatch.setattr(module, "ENTRY", dataclasses.replace(module.ENTRY, make_data=other))
    code, out, err = run(["reference", "eight_schools"], capsys)
    assert code == 1
    assert "fingerprint" in out + err


@pytest.mark.parametrize("code", [130, 143])
def test_an_interrupted_command_says_how_it_goes_on(code, monkeypatch, capsys):
    """Also one that the system ended by SIGTERM, which the workers turn into exit code 143."""

    def app(**given):
        raise SystemExit(code)

    monkeypatch.setattr(cli, "app", app)
    assert cli.run(["compare", "coin"]) == code
    assert "finished cells are kept, and the same command resumes" in capsys.readouterr().err
    assert cli.run(["trust", "coin"]) == code
    assert capsys.readouterr().err == "zoo: interrupted; nothing was kept\n"
