"""First steps of a new user: version, completion, a forgotten suffix, a package that shadows."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import guides
import zoo
from benchmarks.cli import arguments
from benchmarks.cli import process as cli
from zoo.errors import UnknownNameError, UsageError

ROOT = Path(__file__).parents[2]
ZOO = "from benchmarks.cli import main; main()"


def run(program, *, environment=None, cwd=None, path=(ROOT,)):
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), **(environment or {})},
        cwd=cwd,
        timeout=120,
        check=False,
    )


def test_the_command_prints_its_version(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"zoo {metadata.version('posterior-zoo')}\n"


@pytest.mark.parametrize(
    ("line", "cursor", "expected"),
    [
        ("zoo comp", 1, {"compare"}),
        ("zoo show eight_schools_", 2, {"eight_schools_centered"}),
        ("zoo check mine", 2, {"mine.py"}),
        ("zoo compare coin --guides mean_field,full", 4, {"mean_field,full_rank"}),
        ("zoo compare coin --engine ", 4, {"nutpie", "pyro"}),
        ("zoo compare coin --compile o", 4, {"on", "off"}),
        ("zoo study vae_", 2, {"vae_collapse"}),
        ("zoo bench --only radon,eight", 3, {"radon,eight_schools"}),
    ],
)
def test_a_shell_completes_commands_entries_files_and_families(tmp_path, line, cursor, expected):
    (tmp_path / "mine.py").write_text("")
    request = {"_ZOO_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(cursor)}
    done = run(ZOO, environment=request, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == expected


def test_completion_knows_every_family():
    offered = set(arguments.families(""))
    assert {"all", *guides.FAMILIES} - set(guides.registry.FAMILIES.plugins) <= offered


def test_a_forgotten_suffix_is_offered(tmp_path, monkeypatch):
    (tmp_path / "my_model.py").write_text("")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match=r"There is a model file 'my_model\.py'"):
        zoo.load("my_model")
    with pytest.raises(UsageError, match=r"There is a model file 'models/mine\.py'"):
        zoo.load("models/mine")
    with pytest.raises(UnknownNameError, match="Run `zoo list` to see all"):
        zoo.load("another_model")


@pytest.mark.parametrize("room", ["guides", "benchmarks"])
def test_import_zoo_names_a_package_that_shadows_ours(tmp_path, room):
    """`import benchmarks` in a repository with a folder of that name gave that folder."""
    (tmp_path / room).mkdir()
    assert run("import zoo", cwd=tmp_path, path=(ROOT,)).stderr == ""  # no package: ours is found
    (tmp_path / room / "__init__.py").write_text("")
    done = run("import zoo", cwd=tmp_path, path=(tmp_path, ROOT))
    assert done.returncode == 0
    assert f"`import {room}` gives {str((tmp_path / room).resolve())!r}" in done.stderr
    assert str(ROOT) in done.stderr


@pytest.mark.parametrize(
    ("ours", "room"), [("benchmarks", "zoo"), ("benchmarks", "guides"), ("guides", "zoo")]
)
def test_imports_of_ours_name_a_package_that_shadows_another(tmp_path, ours, room):
    """A folder `zoo` beside a script was an AttributeError of a module without our names."""
    program = f"import {ours}; assert 'torch' not in __import__('sys').modules"
    (tmp_path / room).mkdir()
    ahead = (tmp_path, ROOT)
    assert run(program, cwd=tmp_path, path=ahead).stderr == ""  # no package: ours is found
    (tmp_path / room / "__init__.py").write_text("")
    for first in ("", f"import {room}; "):
        done = run(first + program, cwd=tmp_path, path=ahead)
        assert done.returncode == 0
        assert f"`import {room}` gives {str((tmp_path / room).resolve())!r}" in done.stderr
        assert f"which {ours} needs; run Python from another folder" in done.stderr
