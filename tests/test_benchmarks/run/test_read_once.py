"""What a run has just written is not read back more often than needed."""

import hashlib
import json
from pathlib import Path

import h5py
import pytest
import torch

import guides
import zoo
from benchmarks import arviz_bridge
from benchmarks.run.cell_folder import damage, manifest
from benchmarks.run.execute import execute
from benchmarks.run.plan import make_plan
from benchmarks.run.read import read_run
from benchmarks.run.store import RunDir
from zoo.density.log_density import LogDensity


@pytest.fixture
def counted(monkeypatch):
    """Count, in this process, files that are hashed or opened as HDF5, and densities made."""
    seen = {"hashed": [], "netcdf": [], "densities": []}
    hashing, opening, making = hashlib.file_digest, h5py.File.__init__, LogDensity.__init__

    def file_digest(handle, name):
        seen["hashed"].append(handle.name)
        return hashing(handle, name)

    def opened(self, name, *args, **options):
        if isinstance(name, str | Path):  # `dataset.file` wraps the open one
            seen["netcdf"].append(name)
        opening(self, name, *args, **options)

    def made(self, program, data, **options):
        seen["densities"].append(data)
        making(self, program, data, **options)

    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    monkeypatch.setattr(h5py.File, "__init__", opened)
    monkeypatch.setattr(LogDensity, "__init__", made)
    return seen


def test_a_run_reads_each_file_once_and_hashes_none_of_its_own(counted, tmp_path):
    """Eight schools has a stored reference: one density serves it, the guide and the data."""
    plan = make_plan(entries=["eight_schools"], guides=["laplace"], nuts=False, quick=True)
    out = tmp_path / "run"
    execute(plan, out=out, jobs=1)
    assert len(counted["netcdf"]) == 1
    assert counted["hashed"] == []
    assert len(counted["densities"]) == 1
    (cell,) = (out / "cells").iterdir()
    assert damage(cell) is None
    files = {p.name for p in cell.iterdir()} - {"MANIFEST"}
    assert set(manifest(cell)) == files
    assert json.loads((cell / "cell.json").read_text())["verdict"]

    for seen in counted.values():
        seen.clear()
    read_run(out)
    assert len(counted["netcdf"]) == 1
    assert sorted(map(str, counted["hashed"])) == sorted(
        str(cell / name) for name in files - {"cell.json"}
    )


def test_a_rewritten_cell_keeps_its_other_lines_and_hides_no_damage(tmp_path):
    name = f"coin--laplace--s0--{'0' * 12}"
    plan = make_plan(entries=["coin"], guides=["laplace"], nuts=False)
    with RunDir.create(tmp_path / "run", plan) as run:
        with run.draft(name) as folder:
            (folder / "cell.json").write_text("{}")
            (folder / "posterior.nc").write_bytes(b"draws")
        before = manifest(run.cells / name)
        run.rewrite(name, "cell.json", '{"x": 1}')
        after = manifest(run.cells / name)
        assert after["posterior.nc"] == before["posterior.nc"]
        assert after["cell.json"] == hashlib.sha256(b'{"x": 1}').hexdigest()
        assert damage(run.cells / name) is None
        place = run.cells / name / "posterior.nc"
        place.unlink()
        place.write_bytes(b"other")
        run.rewrite(name, "cell.json", "{}")
        assert damage(run.cells / name) == "posterior.nc is not the file that was written"


def test_a_fit_is_read_onto_a_density_that_is_there(tmp_path):
    entry = zoo.load("eight_schools")
    data = entry.load_data()
    fit = guides.fit(entry, "laplace", data=data, compile="off")
    guides.save(fit, tmp_path / "guide.pt")
    density = LogDensity(entry.program(data), data)
    fresh = guides.load(tmp_path / "guide.pt", entry, data=data)
    shared = guides.load(tmp_path / "guide.pt", entry, data=data, density=density)
    assert shared.density is density
    assert shared.program is density.program
    one, other = (guides.draw(f, 50, seed=1) for f in (fresh, shared))
    assert all(torch.equal(one.draws[k], other.draws[k]) for k in one.draws)
    assert torch.equal(one.log_weights, other.log_weights)


def test_a_file_of_draws_is_opened_once_and_gives_them_back(counted, tmp_path):
    entry = zoo.load("eight_schools")
    fit = guides.fit(entry, "laplace", compile="off")
    posterior = guides.draw(fit, 40)
    arviz_bridge.save_netcdf(posterior, tmp_path / "posterior.nc")
    counted["netcdf"].clear()
    again = arviz_bridge.load_netcdf(tmp_path / "posterior.nc", entry, fit.data)
    assert len(counted["netcdf"]) == 1
    assert all(torch.equal(again.draws[k], v) for k, v in posterior.draws.items())
    assert torch.equal(again.log_weights, posterior.log_weights)
    assert torch.equal(again.unconstrained, posterior.unconstrained)
