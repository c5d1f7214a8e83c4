"""Files of users and plug-ins: modules they import and files they read are kept with a cell.

Every edit here is far from the points of the witness, so that no number of it changes.
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from support.installed import Installed

import zoo
from benchmarks.metrics.metric import METRICS
from benchmarks.run import freshness, outside, prepare, sources
from benchmarks.run.execute import execute
from benchmarks.run.plan import Plan, make_plan
from benchmarks.run.prepare import plan_cells
from benchmarks.run.progress import Events
from guides.objectives.records import OBJECTIVES
from guides.registry import FAMILIES

MODEL = """
import pyro, pyro.distributions as dist, torch
from zoo import Data, ModelEntry, Quantity
from zoo.quantities import site
from {helper} import limit, scale


def make_data(seed):
    y = torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64)
    return Data(train={{"y": y}}, observed=("y",), source="typed in", licence="CC0")


def build(data):
    far = limit()

    def program(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("row", 4):
            pyro.sample("y", dist.Normal(torch.where(mu > far, -mu, mu), 1.0), obs=y)

    return program


def guide(program, data, entry):
    from pyro.infer.autoguide import AutoNormal
    return AutoNormal(program, init_scale=scale())


ENTRY = ModelEntry(
    name="tiny", title="t", make_data=make_data, build=build, reference="nuts",
    quantities={{"mu": Quantity(fn=site("mu"))}},
    families=("laplace",), own_guides={{"own": guide}},
)
"""
HELPER = """
from pathlib import Path

HERE = Path(__file__).parent
FAR = 0.0


def limit():
    return FAR + float((HERE / "limit.txt").read_text())


def scale():
    return float((HERE / "scale.txt").read_text())
"""


class Heard(Events):
    """Records what a run reports."""

    def __init__(self):
        self.said, self.warned = [], []

    def say(self, sentence):
        self.said.append(sentence)

    def warn(self, sentence):
        self.warned.append(sentence)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model file whose helper, beside it, reads two text files."""
    name = f"far_helper_{abs(hash(tmp_path.name))}"
    monkeypatch.setattr(
        prepare, "vi_config", lambda plan: {"steps": 40, "patience": 10, "anneal": 10}
    )
    place = tmp_path / "user"
    place.mkdir()
    (place / "m.py").write_text(MODEL.format(helper=name))
    (place / f"{name}.py").write_text(HELPER)
    (place / "limit.txt").write_text("50.0")
    (place / "scale.txt").write_text("0.1")
    (place / "other.txt").write_text("not read")
    yield place, name
    sys.modules.pop(name, None)


def run(place, guide="laplace", out="run"):
    shutil.rmtree(place / "__pycache__", ignore_errors=True)
    heard = Heard()
    plan = make_plan(
        entries=[str(place / "m.py")], guides=[guide], nuts=False, trust=False, quick=True
    )
    execute(plan, out=place.parent / out, events=heard, pages=False)
    return heard


def kept(place):
    (cell,) = (place.parent / "run" / "cells").iterdir()
    return json.loads((cell / outside.FILE).read_text())


@pytest.mark.parametrize(
    ("guide", "file", "before", "after"),
    [
        ("laplace", "limit.txt", "50.0", "60.0"),
        ("laplace", "{helper}.py", "FAR = 0.0", "FAR = 9.0"),
        ("own", "scale.txt", "0.1", "0.2"),
    ],
    ids=["read by a helper for build", "a helper", "read by a helper for a guide"],
)
def test_an_edit_that_no_number_shows_is_computed_again(folder, guide, file, before, after):
    place, name = folder
    run(place, guide)
    assert "every cell is complete already" in run(place, guide).said
    target = place / file.format(helper=name)
    assert target.read_text().count(before) == 1
    target.write_text(target.read_text().replace(before, after))
    heard = run(place, guide)
    assert len([line for line in heard.warned if target.name in line]) == 1
    assert any(line.startswith("1 of 1 cells to run") for line in heard.said)
    assert "every cell is complete already" in run(place, guide).said


def test_what_is_kept_is_named_relative_to_the_model_and_moves_with_it(folder):
    place, name = folder
    run(place, "own")
    assert set(kept(place)) == {f"{name}.py", "limit.txt", "scale.txt"}
    (place / "other.txt").write_text("changed")
    moved = place.with_name("moved")
    place.rename(moved)
    assert prepare.prepare(plan(str(moved / "m.py")), str(moved / "m.py")).files == {
        n: d for n, d in kept(moved).items() if n != "scale.txt"
    }


def test_a_missing_file_differs_and_one_that_was_read_before_is_looked_up(folder):
    place, _ = folder
    made = outside.Outside(str(place / "m.py"))
    known = made.digests([place / "limit.txt", place / "scale.txt"])
    assert outside.changed(known, {}, made) == ""
    assert outside.changed({}, known, made) == "limit.txt"
    (place / "scale.txt").unlink()
    assert outside.changed(known, {}, made) == "scale.txt"


def test_only_what_code_of_users_opens_is_read(folder, tmp_path):
    place, _ = folder
    made = outside.Outside()
    with made.reading():
        (place / "other.txt").read_text()  # by the caller, not by what it calls
        sys.modules.pop("far_reader", None)
        (tmp_path / "far_reader.py").write_text(
            "import json.tool, pathlib\n"
            f"pathlib.Path({str(tmp_path / 'log.txt')!r}).write_text('x')\n"
            f"pathlib.Path({str(tmp_path / 'log.txt')!r}).read_text()\n"
            f"open({str(place / 'limit.txt')!r}, 'rb').close()\n"
        )
        spec = importlib.util.spec_from_file_location("far_reader", tmp_path / "far_reader.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    (place / "scale.txt").read_text()  # too late
    names = {path.name for path in map(made.place, made.digests())}
    assert names == {"limit.txt"}


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """A home and a cache folder of their own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    found = (tmp_path / "elsewhere", tmp_path / "home" / ".cache")
    for place in found:
        (place / "fonts").mkdir(parents=True)
        (place / "fonts" / "list.json").write_text("{}")
    for cached in (outside._home, outside._passing):
        cached.cache_clear()
    yield found
    for cached in (outside._home, outside._passing):
        cached.cache_clear()


def test_settings_of_the_system_and_caches_are_no_helpers(caches, tmp_path):
    """They differ between machines, and a cell would be computed again on the next one."""
    home = tmp_path / "home"
    (home / "mine.txt").write_text("mine")
    read = [Path("/etc/passwd"), *(p / "fonts" / "list.json" for p in caches), home / "mine.txt"]
    shared = next((p for p in Path("/usr/share").rglob("*") if p.is_file()), None)
    read += [shared] if shared else []
    (tmp_path / "far_settings.py").write_text(
        "".join(f"open({str(path)!r}, 'rb').close()\n" for path in read)
    )
    made = outside.Outside()
    with made.reading():
        spec = importlib.util.spec_from_file_location("far_settings", tmp_path / "far_settings.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert set(made.digests()) == {"~/mine.txt"}


def test_a_model_that_lives_in_a_cache_folder_has_its_helpers_there(caches):
    model, helper = caches[0] / "m.py", caches[0] / "fonts" / "list.json"
    assert outside.Outside(str(model)).has(helper)
    assert not outside.Outside(str(model)).has(caches[1] / "fonts" / "list.json")


def test_names_lead_back_to_their_files(tmp_path):
    made = outside.Outside(str(tmp_path / "a" / "m.py"))
    for path in (tmp_path / "a" / "b.txt", tmp_path / "c.txt", sources.ROOT / "pyproject.toml"):
        assert made.place(made._name(path)) == path
    assert made._name(tmp_path / "a" / "b.txt") == "b.txt"


def test_an_entry_of_ours_that_uses_another_entrys_file_depends_on_it():
    names = {path.name for path in outside.Outside().modules(zoo.load("item_response"))}
    assert names == {"item_response_marginal.py"}
    assert outside.Outside().modules(zoo.load("eight_schools")) == set()


def test_a_program_in_a_module_depends_on_what_the_module_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "far_outer.py").write_text(
        "import pyro, torch\nimport pyro.distributions as dist\n"
        "def make():\n    from far_inner import LIMIT\n"
        "    def model(y):\n        mu = pyro.sample('mu', dist.Normal(0.0, LIMIT))\n"
        "        pyro.sample('y', dist.Normal(mu, 1.0), obs=y)\n    return model\n"
    )
    (tmp_path / "far_inner.py").write_text("import json, numpy.linalg\nLIMIT = 1.0\n")
    module = importlib.import_module("far_outer")
    entry = zoo.from_program(module.make(), {"y": 1.0})
    found = {path.name for path in outside.Outside().modules(entry)}
    assert found == {"far_outer.py", "far_inner.py"}


# -- plug-ins ----------------------------------------------------------------------------------


FAMILY = """
import guides
from far_family_helper import STEP
FAMILY = guides.Family(
    name="far_family", q="a normal", blind_spot="all else",
    build=guides.FAMILIES["mean_field"].build, flat=guides.FAMILIES["mean_field"].flat,
)
"""


def plan(request, guide="laplace"):
    return Plan(entries=(request,), guides=(guide,), nuts=False, trust=False)


def key(guide):
    asked = plan("eight_schools", guide)
    if guide == "nuts":
        asked = Plan(entries=asked.entries, guides=(), nuts=True)
    (cell,) = plan_cells(asked, [prepare.prepare(asked, "eight_schools")])
    return cell.key


@pytest.fixture
def installed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def install(members, *lines, **files):
        made.append(Installed(tmp_path, members))
        made[-1](*lines, **files)

    yield install
    for one in made:
        one.close()


@pytest.mark.parametrize("file", ["far_family.py", "far_family_helper.py"])
def test_an_edited_family_of_a_plugin_changes_the_keys_of_its_cells_only(
    installed, tmp_path, file
):
    before = key("mean_field")
    installed(
        FAMILIES,
        "far_family = far_family:FAMILY",
        far_family=FAMILY,
        far_family_helper="STEP = 1.0\n",
    )
    first = key("far_family")
    assert key("far_family") == first
    with (tmp_path / file).open("a") as source:
        source.write("FAR = 1\n")
    assert key("far_family") != first
    assert key("mean_field") == before


OBJECTIVE = """
from dataclasses import dataclass
from guides.objectives.objective import Objective
from far_objective_helper import WEIGHT


@dataclass(frozen=True, kw_only=True)
class FarBound(Objective):
    name = "far_objective"
    formula = "the ELBO, times a weight"


OBJECTIVE = FarBound()
"""


@pytest.mark.parametrize("file", ["far_objective.py", "far_objective_helper.py"])
def test_an_objective_of_a_plugin_changes_the_keys_of_guides(installed, tmp_path, file):
    """It may be named in the settings of an entry; chains maximize nothing."""
    without, chains = key("mean_field"), key("nuts")
    installed(
        OBJECTIVES,
        "far_objective = far_objective:OBJECTIVE",
        far_objective=OBJECTIVE,
        far_objective_helper="WEIGHT = 1.0\n",
    )
    first = key("mean_field")
    assert first != without
    assert key("mean_field") == first
    with (tmp_path / file).open("a") as source:
        source.write("FAR = 1\n")
    assert key("mean_field") != first
    assert key("nuts") == chains


def test_an_edited_helper_of_a_metric_asks_for_new_comparisons(installed, tmp_path, monkeypatch):
    without = freshness.comparing_code()
    installed(
        METRICS,
        "far_metric = far_metric:METRIC",
        far_metric="from far_metric_helper import LEVEL\nMETRIC = None\n",
        far_metric_helper="LEVEL = 1.0\n",
    )
    freshness.of_metrics.cache_clear()
    first = freshness.comparing_code()
    assert first.startswith(without)
    assert first != without
    with monkeypatch.context() as patch:  # the files are read once per process
        patch.setattr(freshness, "plugin_digest", None)
        assert freshness.comparing_code() == first
    (tmp_path / "far_metric_helper.py").write_text("LEVEL = 2.0\n")
    freshness.of_metrics.cache_clear()
    assert freshness.comparing_code() != first
    freshness.of_metrics.cache_clear()
