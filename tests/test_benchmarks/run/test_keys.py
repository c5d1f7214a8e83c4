"""Keys of kept cells: whatever the draws or the comparison depend on changes them."""

import ast
import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import planting, tiny

from benchmarks.run import cell as work
from benchmarks.run import sources
from benchmarks.run.plan import Plan
from benchmarks.run.prepare import plan_cells, prepare
from benchmarks.run.record import digest_of
from zoo.types import Data, Moments, Quantity


@pytest.fixture(scope="module")
def entry():
    def make_data(seed):
        return Data(train={"loc": torch.full((2,), float(seed), dtype=torch.float64)})

    return replace(tiny.gaussian()[0], make_data=make_data)


def plan(**fields):
    return Plan(entries=("gaussian",), guides=("mean_field",), nuts=False, **fields)


@pytest.fixture(scope="module")
def cell(entry):
    return plan_cells(plan(), [prepare(plan(), entry)])[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {"method": "full_rank"},
        lambda c: {"seed": 1},
        lambda c: {"data_seed": 1},
        lambda c: {"config": {**c.config, "restarts": 2}},
        lambda c: {"draws": 17},
        lambda c: {"given": c},
        lambda c: {"prepared": replace(c.prepared, digest="another")},
    ],
    ids=["method", "seed", "data seed", "settings", "draws", "trained weights", "source"],
)
def test_every_part_of_a_request_changes_the_key(cell, change):
    assert replace(cell).key == cell.key
    assert replace(cell, **change(cell)).key != cell.key


def test_the_code_and_the_versions_change_the_key(cell, monkeypatch):
    before = cell.key
    monkeypatch.setattr(work, "code_digest", lambda part: "other code")
    assert replace(cell).key != before
    monkeypatch.undo()
    monkeypatch.setattr(work, "versions", lambda: {"torch": "0"})
    assert replace(cell).key != before


def test_the_data_seed_reaches_the_data(entry):
    """Cells of two data seeds hold other data and have other keys."""
    prepared = [prepare(plan(data_seed=seed), entry) for seed in (0, 3)]
    assert [p.data.train["loc"].tolist() for p in prepared] == [[0.0, 0.0], [3.0, 3.0]]
    assert prepared[0].digest != prepared[1].digest
    assert prepared[0].witness != prepared[1].witness


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Copy the sources, so that they can be edited."""
    folder = tmp_path_factory.mktemp("tree")
    kinds = shutil.ignore_patterns("__pycache__", "*.npz", "*.json", "*.csv", "*.md")
    for room in ("zoo", "guides", "benchmarks"):
        shutil.copytree(sources.ROOT / room, folder / room, ignore=kinds)
    return folder


DRAWING = (
    "zoo/seeds.py",
    "zoo/density/sites.py",
    "zoo/compiler/csrc/native.c",
    "zoo/user_models/template.jinja",
    "zoo/models/topics/_topics.py",
    "zoo/distributions/univariate.py",
    "guides/draws.py",
    "guides/families/low_rank.py",
    "guides/objectives/flat.py",
    "guides/optimize/stopping.py",
    "benchmarks/mcmc/nuts.py",
    "benchmarks/run/methods.py",
    "benchmarks/arviz_bridge.py",
    "benchmarks/metrics/components.py",
    "benchmarks/thresholds.py",
    "benchmarks/types.py",
    "benchmarks/workers.py",
)
COMPARING = (
    "benchmarks/comparison/verdict.py",
    "benchmarks/metrics/moments.py",
    "benchmarks/metrics/joint/c2st.py",
    "benchmarks/metrics/marginal/sd_ratio.py",
    "benchmarks/mcmc/diagnostics.py",
    "benchmarks/reference/coerce.py",
    "benchmarks/reference/find.py",
    "benchmarks/reference/gates.py",
    "benchmarks/thresholds.py",
    "benchmarks/types.py",
    "benchmarks/workers.py",
    "benchmarks/trust/climbs.py",
    "benchmarks/arviz_bridge.py",
    "benchmarks/verdicts.py",
)


@pytest.mark.parametrize(
    ("part", "file"),
    [*(("draw", file) for file in DRAWING), *(("compare", file) for file in COMPARING)],
)
def test_an_edited_source_changes_the_digest_of_the_code(tree, monkeypatch, part, file):
    monkeypatch.setattr(sources, "ROOT", tree)
    digest = sources.code_digest.__wrapped__
    before, path = digest(part), tree / file
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    try:
        assert digest(part) != before
    finally:
        path.write_bytes(content)
    assert digest(part) == before


def test_all_sources_of_drawing_are_in_the_digest():
    """Those of the two lower rooms, except entries, whose data and files have their own."""
    expected = {
        path
        for room in ("zoo", "guides")
        for path in (sources.ROOT / room).rglob("*.py")
        if "models" not in path.parts[len(sources.ROOT.parts) :]
        and "references" not in path.parts
        and "datasets" not in path.parts
    }
    assert expected <= set(sources.code_files("draw"))


def parsed_imports(tree):
    """Modules of `benchmarks` that run with a file: no types, but members of named folders."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Constant) and str(node.value).startswith("benchmarks."):
            folder = sources.ROOT / node.value.replace(".", "/")
            yield from (f"{node.value}.{p.stem}" for p in folder.glob("*.py"))
        todo += ast.iter_child_nodes(node)


@pytest.mark.parametrize("part", ["draw", "compare"])
def test_the_files_of_a_digest_are_all_that_its_modules_import(part):
    """Imports read from parsed sources: no file is missing, and none is there without need."""
    found, todo = set(), list(sources.STARTS[part])
    while todo:
        name = todo.pop()
        place = sources.ROOT / name.replace(".", "/")
        path = next(
            (p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None
        )
        if name.startswith("benchmarks.") and path is not None and path not in found:
            found.add(path)
            todo += parsed_imports(ast.parse(path.read_text(encoding="utf-8")))
            todo.append(name.rpartition(".")[0])  # a package runs before its modules
    room = sources.ROOT / "benchmarks"
    assert {p for p in sources.code_files(part) if p.is_relative_to(room)} == found


def test_what_python_imports_for_a_digest_is_in_it():
    """The modules that are loaded with those that compute, in a process of their own per part."""
    parts = ("draw", "compare")
    code = (
        "import sys, importlib, os, pyro\n"
        f"for names in {[sources.STARTS[part] for part in parts]}:\n"
        "    if os.fork():\n"
        "        assert os.wait()[1] == 0\n"
        "        continue\n"
        "    for name in names: importlib.import_module(name)\n"
        "    metrics = sys.modules.get('benchmarks.metrics.metric')\n"
        "    metrics is None or metrics.METRICS.usable()\n"
        "    ours = (m for n, m in sys.modules.items() if n.startswith('benchmarks.'))\n"
        "    print(*(m.__file__ for m in ours), flush=True)\n"
        "    os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=sources.ROOT
    )
    for part, line in zip(parts, done.stdout.splitlines(), strict=True):
        loaded = {Path(file) for file in line.split() if not file.endswith("__init__.py")}
        assert len(loaded) > 8
        assert loaded <= set(sources.code_files(part))


def test_held_out_data_their_labels_and_what_is_judged_are_in_the_source(entry):
    data = replace(entry.load_data(), test={"loc": torch.zeros(2, dtype=torch.float64)})
    before = sources.source_digest("gaussian", entry, data)
    first = entry.quantities["first"]
    others = [
        (entry, replace(data, test={"loc": torch.ones(2, dtype=torch.float64)})),
        (entry, replace(data, test=None)),
        (entry, replace(data, train={"loc": torch.ones(2, dtype=torch.float64)})),
        (entry, replace(data, coords={"coordinate": ["a", "b"]})),
        (replace(entry, quantities={"first": replace(first, judged=False)}), data),
    ]
    found = [sources.source_digest("gaussian", e, d) for e, d in others]
    assert len({before, *found}) == len(others) + 1


def test_the_file_of_a_quantity_is_in_the_source(entry, tmp_path):
    path = tmp_path / "elsewhere.py"
    path.write_text("def fn(draws, data):\n    return draws['x'][..., 0]\n")
    spec = importlib.util.spec_from_file_location("elsewhere", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    borrowed = replace(entry, quantities={"first": Quantity(fn=module.fn)})
    data = entry.load_data()
    before = sources.source_digest("gaussian", borrowed, data)
    path.write_text(path.read_text().replace("0]", "1]"))
    assert sources.source_digest("gaussian", borrowed, data) != before


def test_a_reference_with_other_moments_is_another_truth():
    draws = np.random.default_rng(0).standard_normal((4, 500, 1))
    zero = torch.zeros(1, dtype=torch.float64)

    def truth(mean):
        moments = Moments(mean=zero + mean, mean_se=zero, sd=zero + 1, sd_se=zero)
        return planting.reference(draws, moments={"x": moments}, gates={"rhat": True})

    assert digest_of(truth(0.0)) == digest_of(truth(0.0))
    assert digest_of(truth(0.0)) != digest_of(truth(0.001))
