"""Imports: benchmarks -> guides -> zoo, and one order of packages inside each of them.

Files stay short, and imports inside functions are listed here with their reason.
"""

import ast
import functools
import graphlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.each import each

ROOT = Path(__file__).parents[1]
ROOMS = {
    "zoo": {"zoo"},
    "guides": {"zoo", "guides"},
    "benchmarks": {"zoo", "guides", "benchmarks"},
}
FILES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
LONGEST = 450
# A package may import those to its right; imports inside functions count.
ORDER = {
    "zoo": (
        "contract models truth registry user_models density compiler datasets references"
        " quantities distributions types ground_truth storage fields seeds errors"
    ),
    "guides": (
        "contract fitting fit_file draws optimize objectives registry families base session types"
    ),
    "benchmarks": (
        "cli contract studies speed audit run report comparison reference trust mcmc metrics"
        " arviz_bridge workers types verdicts thresholds"
    ),
}

# Imports inside functions: file or folder -> what it may import late, by reason.
LATE = {
    # Commands answer before torch is imported; each imports the work it does.
    "benchmarks.cli": "benchmarks guides zoo numpy packaging rich torch",
    "benchmarks.studies": "benchmarks.studies benchmarks.workers",
    "zoo.registry": "zoo.user_models.model_file",
    "zoo.storage": "numpy torch",
    "zoo.fields": "torch",
    "zoo.types": "torch",
    "zoo.models.posteriordb": "zoo.models.posteriordb",
    "zoo.models.topics": "sklearn zoo.models.topics",
    # Libraries that take longer to import than what most commands do without them.
    "benchmarks.arviz_bridge": "arviz h5netcdf h5py xarray",
    "benchmarks.mcmc.engine_nutpie": "nutpie pyarrow",
    "benchmarks.mcmc.engine_nutpie_c": "nutpie",
    "benchmarks.metrics.joint.c2st": "sklearn threadpoolctl",
    "benchmarks.report": "jinja2 matplotlib rich",
    "benchmarks.run.card_frame": "pandas",
    "benchmarks.run.execute": "h5netcdf",
    "benchmarks.run.progress": "rich",
    "benchmarks.run.results": "pandas",
    "benchmarks.speed.plot": "matplotlib",
    "benchmarks.studies.latent_classes.heldout": "sklearn",
    "benchmarks.studies.vae_collapse.render": "matplotlib",
    "benchmarks.thresholds": "scipy",
    "zoo.compiler.torch_private": "torch._dynamo torch._inductor torchgen",
    "zoo.datasets.images": "PIL sklearn",
    "zoo.models.adapters": "scipy sklearn",
    "zoo.user_models.scaffold": "jinja2",
    # Optional dependencies, and a module that only some systems have.
    "benchmarks.speed.side_stan": "pkg_resources stan",
    "benchmarks.studies.lda.peers": "sklearn tomotopy",
    "benchmarks.studies.lora_head.peer": "laplace",
    "zoo.compiler.cache": "fcntl",
}


# Where torch's state is kept without a seed; all others use `zoo.seeds.seeded`.
UNSEEDED = {"benchmarks.audit.subject", "guides.contract", "guides.fit_file"}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree):
    """Module names a file imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path):
    return tuple(imports(parsed(path)))


@each(FILES, name_of)
def test_rooms_import_downwards_only(path):
    room = path.relative_to(ROOT).parts[0]
    used = {name.split(".")[0] for name in imported(path)} & set(ROOMS)
    assert used <= ROOMS[room]
    assert "tests" not in used


def test_only_the_bridge_imports_arviz():
    users = {name_of(p) for p in FILES if any(n.split(".")[0] == "arviz" for n in imported(p))}
    assert users <= {"benchmarks.arviz_bridge"}


def test_the_zoo_knows_no_heavy_friends():
    strangers = {"arviz", "nutpie", "matplotlib", "xarray", "typer", "rich", "pydantic"}
    for path in (ROOT / "zoo").rglob("*.py"):
        assert not {n.split(".")[0] for n in imported(path)} & strangers, path


def modules_imported(path, known):
    """Return the modules a file imports, also inside functions, by longest known name."""
    found = set()
    for name in imported(path):
        while name and name not in known:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", name_of(path)}


def test_no_circles():
    known = {name_of(p) for p in FILES}
    packages = {name_of(p) for p in FILES if p.name == "__init__.py"}
    # A package that names its own modules is not a circle: they never import the package's names.
    graph = {
        name_of(p): modules_imported(p, known) - packages
        for p in FILES
        if name_of(p) not in packages
    }
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("room", ROOMS)
def test_packages_of_a_room_have_one_order(room):
    order = ORDER[room].split()
    names = {
        p.stem
        for p in (ROOT / room).glob("*")
        if p.name not in ("__init__.py", "__main__.py", "__pycache__", "py.typed")
    }
    assert names == set(order), "a package or module without a place in the order"
    known = {name_of(p) for p in FILES}
    for path in (
        p
        for p in FILES
        if p.relative_to(ROOT).parts[0] == room
        and p.relative_to(ROOT / room).as_posix() not in ("__init__.py", "__main__.py")
    ):
        own = name_of(path).split(".")[1]
        used = {
            name.split(".")[1]
            for name in modules_imported(path, known)
            if name.split(".")[0] == room and "." in name
        } - {own}
        upward = {name for name in used if order.index(name) < order.index(own)}
        assert not upward, f"{name_of(path)} imports {sorted(upward)}, which stands above it"


@functools.cache
def late_imports(path):
    """Modules a file imports inside functions."""
    known = {name_of(p) for p in FILES}
    return frozenset(_late_imports(parsed(path), known))


def _late_imports(tree, known):
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in known else node.module for name in names)
            elif (
                isinstance(node, ast.Call)
                and ast.unparse(node.func).endswith("import_module")
                and isinstance(node.args[0], ast.Constant)
            ):
                yield node.args[0].value


def test_an_import_by_a_literal_name_counts():
    code = (
        "def late():\n    importlib.import_module('sklearn.ensemble')\n    from math import pi\n"
    )
    assert set(_late_imports(ast.parse(code), set())) == {"sklearn.ensemble", "math"}


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def test_imports_inside_functions_are_those_that_save_time_or_are_optional():
    used = {place: set() for place in LATE}
    for path in FILES:
        here = name_of(path)
        for name in late_imports(path):
            if name.split(".")[0] in sys.stdlib_module_names and name != "fcntl":
                assert path == ROOT / "zoo" / "__init__.py", f"{here}: import {name} at the top"
                continue
            allowed = [
                (place, target)
                for place, targets in LATE.items()
                for target in targets.split()
                if within(here, place) and within(name, target)
            ]
            assert allowed, f"{here} imports {name} inside a function; import it at the top"
            for place, target in allowed:
                used[place].add(target)
    stale = {p: set(t.split()) - used[p] for p, t in LATE.items() if set(t.split()) - used[p]}
    assert not stale, "no such late import any more"


def test_no_late_import_of_what_is_loaded_anyway():
    """A late import saves nothing where the imports at the top already load its module."""
    known = {name_of(p) for p in FILES}
    files = {name_of(p): p for p in FILES}

    def at_the_top(path):
        for node in parsed(path).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from imports(node)

    def loaded(name, seen):
        for found in at_the_top(files[name]):
            parts = found.split(".")
            for i in range(1, len(parts) + 1):  # a module's packages are loaded with it
                module = ".".join(parts[:i])
                if module in known and module not in seen:
                    seen.add(module)
                    loaded(module, seen)
        return seen

    for path in FILES:
        needless = late_imports(path) & known & loaded(name_of(path), {name_of(path)})
        assert not needless, f"{name_of(path)}: {sorted(needless)} are loaded anyway"


def test_the_compiler_knows_nothing_of_models():
    for path in (ROOT / "zoo" / "compiler").rglob("*.py"):
        used = {n for n in imported(path) if n.split(".")[0] in ROOMS}
        assert all(n.startswith(("zoo.compiler", "zoo.errors")) for n in used), path


@pytest.mark.parametrize("room", ROOMS)
def test_the_listing_of_a_room_shows_its_plan(room):
    modules = [p for p in (ROOT / room).glob("*.py")]
    packages = [p for p in (ROOT / room).iterdir() if p.is_dir() and p.name != "__pycache__"]
    assert len(modules) <= 8
    assert len(packages) <= 12
    public = set(importlib.import_module(room).__all__)
    assert not public & {p.stem for p in (*modules, *packages)}, (
        "a public name that importing a module of its name would hide"
    )


@each(FILES, name_of)
def test_no_private_name_of_another_package(path):
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ROOMS:
            # one of zoo.models that begins with an underscore is no entry; it is not private
            module = ROOT / node.module.replace(".", "/")
            private = [
                a.name
                for a in node.names
                if a.name.startswith("_") and not (module / f"{a.name}.py").exists()
            ]
            assert not private or node.module.startswith(package), f"{private} of {node.module}"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2] in (
            "density",
            "log_density",
        ):
            assert not node.attr.startswith("_"), f"{node.attr} of a log density"


def test_no_card_names_a_room_above():
    for path in (ROOT / "zoo").rglob("*.py"):
        texts = {
            n.value
            for n in ast.walk(parsed(path))
            if isinstance(n, ast.Constant) and isinstance(n.value, str)
        }
        assert not [t for t in texts if re.fullmatch(r"(guides|benchmarks)(\.\w+)+(:\w+)?", t)], (
            path
        )


@pytest.mark.parametrize(
    ("text", "home"),
    [
        ("_Subsample", {"zoo.density.nodes"}),
        # `is_moved_angle` stops on the way
        ('while hasattr(fn, "base_dist"):', {"zoo.density.nodes", "zoo.distributions.circular"}),
        ("support = support.base_constraint", {"zoo.distributions.supports"}),
        ("torch.random.fork_rng(devices=[])", UNSEEDED | {"zoo.seeds"}),
    ],
)
def test_what_nodes_of_a_trace_need_stands_in_one_place(text, home):
    assert {name_of(p) for p in FILES if text in p.read_text(encoding="utf-8")} <= home


@each(FILES, name_of)
def test_an_exception_of_any_kind_is_looked_at(path):
    """A handler that looks away hides the faults of this project: see `unless_it_raises`."""
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        anything = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
        inside = [n for part in node.body for n in ast.walk(part)]
        assert not anything or any(
            isinstance(n, ast.Raise) or (isinstance(n, ast.Name) and n.id == node.name)
            for n in inside
        ), f"line {node.lineno}: {ast.unparse(node).partition(chr(10))[0]}"


def test_a_family_takes_no_private_name_of_another():
    for path in (ROOT / "guides" / "families").glob("*.py"):
        taken = {
            name
            for name in imported(path)
            if name.startswith("guides.families.") and name.rpartition(".")[2].startswith("_")
        }
        assert not taken, f"{path}: {taken}"


@each(FILES, name_of)
def test_files_stay_short(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST, f"{lines} lines; split the file"


@each(FILES, name_of)
def test_no_loose_ends(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX|raise NotImplementedError)\b", text)
    assert not re.search(r"(?<![\w.])/(tmp|work|home|root)/", text), "a path of one machine"
    assert ast.get_docstring(parsed(path)), "a module says what it is for"


def test_light_imports():
    code = (
        "import sys, zoo, zoo.registry, zoo.types, zoo.errors; sys.exit(bool({'torch', 'pyro',"
        " 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
