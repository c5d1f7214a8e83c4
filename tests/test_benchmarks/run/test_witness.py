"""A kept cell is reused only if program and guide give the same numbers today."""

import dataclasses
import json
import math
import shutil
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch

import benchmarks
import guides
import zoo
from benchmarks.run import cell as work
from benchmarks.run import prepare, sources, witness
from benchmarks.run.execute import execute
from benchmarks.run.plan import make_plan
from benchmarks.run.progress import Events
from benchmarks.run.read import read_run
from zoo.density.log_density import LogDensity

Y = torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64)


def normal(prior):
    """Four targets of sd 1 with prior sd `prior` on their mean.

    The posterior sd is (4 + 1 / prior^2)^(-1/2).
    """

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, prior))
        with pyro.plate("row", 4):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    return model


def record(entry):
    data = entry.load_data()
    return witness.of_program(entry, data, LogDensity(entry.program(data), data))


# -- the record --------------------------------------------------------------------------------


def test_the_record_holds_the_programs_own_numbers():
    """Log density, gradient and quantity of the conjugate normal at three points, by hand."""
    got = record(zoo.from_program(normal(5.0), {"y": Y}))
    u = (
        0.4
        * torch.randn(
            3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(witness.SEED)
        )[:, 0]
    )
    prior = -0.5 * (u / 5) ** 2 - math.log(5)
    expected = prior - 0.5 * ((Y - u[:, None]) ** 2).sum(1) - 2.5 * math.log(2 * math.pi)
    slope = -u / 25 + (Y - u[:, None]).sum(1)
    assert got["log_density"] == pytest.approx(expected.tolist(), rel=1e-12)
    # norm, then four projections
    assert got["gradient"][::5] == pytest.approx(slope.abs().tolist(), rel=1e-12)
    assert got["quantity mu"][::5] == pytest.approx(u.abs().tolist(), rel=1e-12)
    # a projection keeps the sign that the norm loses
    ratio = got["gradient"][1] / got["quantity mu"][1]
    assert ratio == pytest.approx(float(slope[0] / u[0]), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 3e-10, 1e-8])
def test_records_agree_to_a_billionth(shift):
    one = {"log_density": [-3.0, 2.0, None], "gradient": [1.0]}
    other = {"log_density": [-3.0 * (1 + shift), 2.0, None], "gradient": [1.0]}
    assert witness.difference(one, other, torch.float64) == ("log_density" if shift > 1e-9 else "")
    assert witness.difference(one, other, torch.float32) == ""


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"a": [1.0, 2.0]}, "b"),
        ({"a": [1.0], "b": [3.0]}, "a"),
        ({"a": [1.0, None], "b": [3.0]}, "a"),
        ({"a": [2.0, 1.0], "b": [3.0]}, "a"),
        ({"a": [1.0, 2.0], "b": [3.0], "c": [0.0]}, "c"),
    ],
)
def test_a_difference_is_named(other, name):
    assert witness.difference({"a": [1.0, 2.0], "b": [3.0]}, other, torch.float64) == name


@pytest.mark.parametrize("family", ["mean_field", "low_rank"])
def test_a_guide_is_seen_by_its_draws_and_its_density(family):
    entry = zoo.from_program(normal(5.0), {"y": Y})
    fit = guides.fit(entry, family, seed=0, compile="off", steps=60, patience=15, anneal=15)
    kept = witness.of_guide(fit)
    assert witness.difference(kept, witness.of_guide(fit), torch.float64) == ""
    for parameter in fit.guide.parameters():
        parameter.data += 1e-6
        assert witness.difference(kept, witness.of_guide(fit), torch.float64) != ""
        parameter.data -= 1e-6
    assert len(kept["guide log q"]) == 3


# -- runs: the same command after an edit that no list of files sees ---------------------------


class Heard(Events):
    """Records what a run reports."""

    def __init__(self):
        self.said, self.warned = [], []

    def say(self, sentence):
        self.said.append(sentence)

    def warn(self, sentence):
        if "No reference is known" not in sentence:
            self.warned.append(sentence)


def sd(folder, model, **options):
    """Compare with Laplace alone into a fixed folder; return posterior sd and messages."""
    heard = Heard()
    card = benchmarks.compare_program(
        model,
        {"y": Y},
        ["laplace"],
        nuts=False,
        trust=False,
        quick=True,
        out=folder,
        events=heard,
        **options,
    )
    return float(card.comparisons["laplace"].posterior.draws["mu"].std()), heard


def test_an_edited_prior_is_computed_again_and_said(tmp_path):
    """Posterior sd 0.498 for a prior sd of 5 and 0.098 for 0.1; the first was returned twice."""
    first, _ = sd(tmp_path / "run", normal(5.0))
    second, heard = sd(tmp_path / "run", normal(0.1))
    assert first == pytest.approx((4 + 1 / 25) ** -0.5, rel=5 / 4000**0.5)
    assert second == pytest.approx((4 + 100) ** -0.5, rel=5 / 4000**0.5)
    assert heard.warned == [
        "my_model laplace: the stored cell no longer matches the program (log_density differs);"
        " it is computed again"
    ]
    assert len(list((tmp_path / "run" / "cells").iterdir())) == 1
    third, heard = sd(tmp_path / "run", normal(0.1))
    assert third == second
    assert "every cell is complete already" in heard.said
    assert heard.warned == []


def test_a_quantity_that_changes_is_computed_again(tmp_path):
    def quantity(power):
        return {"q": zoo.Quantity(fn=lambda draws, data: draws["mu"] ** power)}

    sd(tmp_path / "run", normal(5.0), quantities=quantity(1))
    _, heard = sd(tmp_path / "run", normal(5.0), quantities=quantity(3))
    assert "(quantity q differs)" in heard.warned[0]


MODEL = """
import pathlib, pyro, pyro.distributions as dist, torch
import numpy as np
from zoo import Data, ModelEntry, Quantity
from zoo.quantities import site
import {helper}


class Link:
    def __call__(self, x):
        return x


def make_data(seed):
    y = torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64)
    train = {{"y": y, "shift": {helper}.SHIFT, "link": Link()}}
    return Data(train=train, observed=("y",), source="typed in", licence="CC0")


def build(data):
    scale = float((pathlib.Path(__file__).parent / "prior.txt").read_text())

    def program(shift, link, y=None):
        mu = pyro.sample("mu", dist.Normal({helper}.CENTER + float(shift.sum()), scale))
        with pyro.plate("row", 4):
            pyro.sample("y", dist.Normal(link(mu), 1.0), obs=y)

    return program


def guide(program, data, entry):
    from pyro.infer.autoguide import AutoNormal
    return AutoNormal(program, init_scale=0.1 * {helper}.WIDER)


ENTRY = ModelEntry(
    name="tiny", title="t", make_data=make_data, build=build, reference="nuts",
    quantities={{"mu": Quantity(fn=site("mu"))}},
    families=("laplace",), own_guides={{"own": guide}},
)
"""
HELPER = "import numpy as np\nCENTER = 0.0\nWIDER = 1.0\nSHIFT = np.zeros(5000)\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model file with a module and a text file beside it."""
    name = f"helper_{abs(hash(tmp_path.name))}"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "m.py").write_text(MODEL.format(helper=name))
    (tmp_path / f"{name}.py").write_text(HELPER)
    (tmp_path / "prior.txt").write_text("5.0")
    yield tmp_path, name
    sys.modules.pop(name, None)


def run(folder, guides_="laplace"):
    path, name = folder
    sys.modules.pop(name, None)
    heard = Heard()
    plan = make_plan(
        entries=[str(path / "m.py")], guides=[guides_], nuts=False, trust=False, quick=True
    )
    execute(plan, out=path / "run", events=heard, pages=False)
    return heard, plan


EDITS = {
    "a module beside the model": ("{name}.py", "CENTER = 0.0", "CENTER = 1.0"),
    "a file that build reads": ("prior.txt", "5.0", "0.1"),
    "the middle of a long array": ("{name}.py", "np.zeros(5000)", "np.eye(1, 5000, 2500)[0]"),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_outside_the_model_file_is_seen(folder, what):
    path, name = folder
    run(folder)
    heard, _ = run(folder)
    assert "every cell is complete already" in heard.said
    file, before, after = EDITS[what]
    target = path / file.format(name=name)
    assert before in target.read_text()
    target.write_text(target.read_text().replace(before, after))
    shutil.rmtree(path / "__pycache__", ignore_errors=True)
    heard, _ = run(folder)
    assert any(line.startswith("1 of 1 cells to run") for line in heard.said)
    assert len(heard.warned) == 1
    assert len(list((path / "run" / "cells").iterdir())) == 1


def test_an_edited_guide_of_ones_own_is_seen_and_reading_warns(folder, monkeypatch):
    path, _ = folder
    monkeypatch.setattr(
        prepare, "vi_config", lambda plan: {"steps": 40, "patience": 10, "anneal": 10}
    )
    run(folder, "own")
    assert "every cell is complete already" in run(folder, "own")[0].said
    cell = next((path / "run" / "cells").iterdir())
    kept = (cell / witness.FILE).read_text()
    assert '"guide log q"' in kept
    changed = json.loads(kept)
    changed["guide log q"][1] += 1e-6
    (cell / witness.FILE).write_text(json.dumps(changed))
    manifest = (cell / "MANIFEST").read_text().splitlines()
    digest = work.hashlib.sha256((cell / witness.FILE).read_bytes()).hexdigest()
    (cell / "MANIFEST").write_text(
        "".join(
            f"{digest if line.endswith(witness.FILE) else line[:64]}{line[64:]}\n"
            for line in manifest
        )
    )
    heard = Heard()
    read_run(path / "run", models=[path / "m.py"], events=heard)
    assert "1 of 1 cells were made by an earlier version" in heard.warned[0]
    heard, _ = run(folder, "own")
    assert heard.warned == [
        "tiny own: the stored cell no longer matches the program (guide log q differs); it is"
        " computed again"
    ]


# -- the code of this package ------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the files in the code digest."""
    for room in ("zoo", "guides", "benchmarks"):
        shutil.copytree(
            sources.ROOT / room,
            tmp_path / room,
            ignore=shutil.ignore_patterns("__pycache__", "*.npz", "*.csv"),
        )
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    sources.code_digest.cache_clear()
    yield tmp_path
    sources.code_digest.cache_clear()


def digest(part):
    sources.code_digest.cache_clear()
    return sources.code_digest(part)


def test_one_file_of_each_kind_and_folder_changes_the_code_digest(tree):
    seen = {}
    for path in sources.code_files("draw"):
        seen.setdefault((path.parent.relative_to(tree).as_posix(), path.suffix), path)
    kinds = {suffix for _, suffix in seen}
    assert {".py", ".c", ".h"} <= kinds
    assert {folder.split("/")[0] for folder, _ in seen} == {"zoo", "guides", "benchmarks"}
    before = digest("draw")
    for path in seen.values():
        kept = path.read_bytes()
        path.write_bytes(kept + b"\n")
        assert digest("draw") != before, path
        path.write_bytes(kept)
    (tree / "zoo" / "deeper").mkdir()
    (tree / "zoo" / "deeper" / "new.py").write_text("X = 1\n")
    assert digest("draw") != before


def test_a_file_that_moves_changes_the_code_digest(tree):
    """The path is part of the digest: order, names and bytes of the files stay the same here."""
    one, folder = tree / "zoo" / "density" / "unit_terms.py", tree / "zoo" / "density_"
    before, files = digest("draw"), [p.name for p in sources.code_files("draw")]
    folder.mkdir()
    one.rename(folder / one.name)
    assert [p.name for p in sources.code_files("draw")] == files
    assert digest("draw") != before


def test_models_and_judges_have_digests_of_their_own(tree):
    draw, compare = digest("draw"), digest("compare")
    file = next((tree / "zoo" / "models").rglob("eight_schools.py"))
    file.write_text(file.read_text() + "\n")
    assert (digest("draw"), digest("compare")) == (draw, compare)
    judge = next(p for p in sources.code_files("compare") if p.stem == "verdict")
    judge.write_text(judge.read_text() + "\n")
    assert digest("draw") == draw
    assert digest("compare") != compare


def test_labels_and_what_is_judged_are_part_of_the_key():
    entry = zoo.from_program(normal(5.0), {"y": Y})
    data = entry.load_data()
    base = sources.source_digest("x", entry, data)
    judged = {name: dataclasses.replace(q, judged=False) for name, q in entry.quantities.items()}
    assert sources.source_digest("x", dataclasses.replace(entry, quantities=judged), data) != base
    assert (
        sources.source_digest(
            "x", entry, dataclasses.replace(data, coords={"row": ("a", "b", "c", "d")})
        )
        != base
    )
    assert sources.source_digest("x", entry, data) == base


def test_a_cell_that_is_run_takes_the_weights_of_the_trainer_that_is_kept():
    """A trainer named by another machine was not found, and its program used untrained."""
    from benchmarks.run import execute as runs

    made = work.Prepared(
        request="x",
        entry=zoo.from_program(normal(5.0), {"y": Y}),
        data=None,
        methods=(),
        digest="d",
    )
    fields = {"prepared": made, "seed": 0, "data_seed": 0, "config": {}, "draws": 1}
    trainer = work.Cell(method="laplace", **fields)
    sampler = work.Cell(method="nuts", given=trainer, **fields)
    kept = {trainer.name: dataclasses.replace(trainer, stored="another--name")}
    assert runs._with_others(sampler, kept).given.name == "another--name"
    repaired = work.Cell(method="smc", starts=(trainer,), **fields)
    assert [c.name for c in runs._with_others(repaired, kept).starts] == ["another--name"]
    assert runs._with_others(sampler, {}).given is trainer
    assert runs._with_others(trainer, kept).given is None
