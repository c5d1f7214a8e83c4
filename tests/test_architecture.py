"""The rooms: benchmarks imports guides imports zoo, never back; files stay readable."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"zoo": {"zoo"}, "guides": {"zoo", "guides"}, "benchmarks": {"zoo", "guides", "benchmarks"}}
FILES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
LONGEST = 380


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree, *, top_only=False):
    """Module names a file imports; with `top_only`, those that run when the file is imported."""
    if top_only:
        body = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))]
        nodes = [n for stmt in body if not isinstance(stmt, ast.FunctionDef) for n in ast.walk(stmt)]
    else:
        nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_rooms_import_downwards_only(path):
    room = path.relative_to(ROOT).parts[0]
    used = {name.split(".")[0] for name in imports(parsed(path))} & set(ROOMS)
    assert used <= ROOMS[room]
    assert "tests" not in used


def test_only_the_bridge_imports_arviz():
    users = {name_of(p) for p in FILES if any(n.split(".")[0] == "arviz" for n in imports(parsed(p)))}
    assert users <= {"benchmarks.arviz_bridge"}


def test_the_zoo_knows_no_heavy_friends():
    strangers = {"arviz", "nutpie", "matplotlib", "xarray", "typer", "rich", "pydantic"}
    for path in (ROOT / "zoo").rglob("*.py"):
        assert not {n.split(".")[0] for n in imports(parsed(path))} & strangers, path


def test_no_circles_at_import_time():
    known = {name_of(p) for p in FILES}
    graph = {name_of(p): {n for n in imports(parsed(p), top_only=True) if n in known} - {name_of(p)} for p in FILES}
    graph = {k: {n for n in v if not k.startswith(f"{n}.")} for k, v in graph.items()}
    # A package that names its own modules is not a circle: they never import the package's names.
    packages = {name_of(p) for p in FILES if p.name == "__init__.py"}
    graph = {k: v - packages if k not in packages else v for k, v in graph.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_stay_short(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST, f"{lines} lines; split the file"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_loose_ends(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX|raise NotImplementedError)\b", text)
    assert not re.search(r"(?<![\w.])/(tmp|work|home|root)/", text), "a path of one machine"
    assert ast.get_docstring(ast.parse(text)), "a module says what it is for"


def test_light_imports():
    code = "import sys, zoo, zoo.registry, zoo.types, zoo.errors; sys.exit(bool({'torch', 'pyro', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
