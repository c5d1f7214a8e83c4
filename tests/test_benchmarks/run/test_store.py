"""Cells are written whole or not at all, and damage is seen."""

import errno
import json
import math
import os

import pytest

from benchmarks.run import store
from benchmarks.run.plan import make_plan, read_plan
from benchmarks.run.store import RunDir, cell_name, results_frame, strict_json, write_atomic
from zoo.errors import InfrastructureError, UsageError

PLAN = make_plan(entries=["coin"], guides=["mean_field"])
NAME = cell_name("coin", "mean_field", 0, "ab" * 32)


def leftovers(folder):
    return [p for p in folder.rglob(".tmp-*")]


def put(run, name=NAME, text='{"x": 1}'):
    with run.draft(name) as folder:
        (folder / "cell.json").write_text(text)
        (folder / "posterior.nc").write_bytes(bytes(range(256)) * 40)


def test_a_cell_comes_back_as_it_was_written(tmp_path):
    with RunDir.create(tmp_path / "run", PLAN) as run:
        put(run)
        assert run.read(NAME) == {"x": 1}
        assert run.names() == [NAME]
        manifest = (run.cells / NAME / "MANIFEST").read_text().splitlines()
    assert [line.split("  ")[1] for line in manifest] == ["cell.json", "posterior.nc"]
    assert read_plan(tmp_path / "run" / "plan.toml") == PLAN


@pytest.mark.parametrize("file", ["cell.json", "posterior.nc"])
@pytest.mark.parametrize("fault", ["flip", "truncate", "remove", "no manifest"])
def test_every_kind_of_damage_is_seen_and_set_aside(tmp_path, file, fault):
    heard = []
    with RunDir.create(tmp_path / "run", PLAN) as run:
        put(run)
        place = run.cells / NAME
        content = bytearray((place / file).read_bytes())
        if fault == "flip":
            content[len(content) // 2] ^= 1
            (place / file).write_bytes(content)
        elif fault == "truncate":
            (place / file).write_bytes(content[: len(content) // 2])
        elif fault == "remove":
            (place / file).unlink()
        else:
            (place / "MANIFEST").unlink()
        assert run.read(NAME, warn=heard.append) is None
        assert len(heard) == 1
        assert "damaged" in heard[0]
        assert run.names() == []
        assert (tmp_path / "run" / "quarantine" / NAME).is_dir()
        put(run)
        assert run.read(NAME) == {"x": 1}


def test_a_draft_that_fails_leaves_nothing(tmp_path):
    def fail(run):
        with run.draft(NAME) as folder:
            (folder / "cell.json").write_text("{}")
            raise RuntimeError("planted")

    with RunDir.create(tmp_path / "run", PLAN) as run:
        with pytest.raises(RuntimeError, match="planted"):
            fail(run)
        assert run.names() == []
        assert leftovers(tmp_path) == []


def test_a_killed_writer_leaves_a_temporary_folder_that_the_next_run_removes(tmp_path):
    with RunDir.create(tmp_path / "run", PLAN) as run:
        pid = os.fork()
        if pid == 0:
            with run.draft(NAME) as folder:
                (folder / "cell.json").write_text("{}")
                os._exit(9)
        os.waitpid(pid, 0)
        assert len(leftovers(tmp_path)) == 1
        assert run.names() == []
    with RunDir.create(tmp_path / "run", PLAN):
        assert leftovers(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path, monkeypatch, call):
    write_atomic(tmp_path / "x.json", "old")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, call, full)
    with pytest.raises(InfrastructureError, match=r"cannot be written \(No space left on device\): free some space"):
        write_atomic(tmp_path / "x.json", "new")
    monkeypatch.undo()
    assert (tmp_path / "x.json").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_full_disk_while_a_cell_is_published_leaves_no_cell(tmp_path, monkeypatch):
    with RunDir.create(tmp_path / "run", PLAN) as run:

        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(store.os, "fsync", full)
        with pytest.raises(InfrastructureError):
            put(run)
        monkeypatch.undo()
        assert run.names() == []
        assert leftovers(tmp_path) == []


def test_rewriting_one_file_keeps_the_others_and_stays_valid(tmp_path):
    with RunDir.create(tmp_path / "run", PLAN) as run:
        put(run)
        before = (run.cells / NAME / "posterior.nc").read_bytes()
        run.rewrite(NAME, "cell.json", '{"x": 2}')
        assert run.read(NAME) == {"x": 2}
        assert (run.cells / NAME / "posterior.nc").read_bytes() == before
        assert leftovers(tmp_path) == []


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="not empty and holds no run"):
        RunDir.create(tmp_path / "notes", PLAN)
    with RunDir.create(tmp_path / "run", PLAN):
        pass
    with pytest.raises(UsageError, match="run of another plan"):
        RunDir.create(tmp_path / "run", make_plan(entries=["coin"], guides=["full_rank"]))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        RunDir.create(tmp_path / "file", PLAN)
    with pytest.raises(InfrastructureError, match="cannot be written"):
        RunDir.create(tmp_path / "file" / "below", PLAN)
    assert sorted(p.name for p in (tmp_path / "notes").iterdir()) == ["thesis.tex"]


def test_two_commands_never_share_a_folder(tmp_path):
    with RunDir.create(tmp_path / "run", PLAN), pytest.raises(UsageError, match="Another zoo command is working"):
        RunDir.create(tmp_path / "run", PLAN)
    with RunDir.create(tmp_path / "run", PLAN):
        pass


@pytest.mark.parametrize("entry", ["../../x", "a/b", "x[d=1,s=a b]", "\0", "é", "x" * 300, "-rf"])
def test_cell_names_stay_inside_the_folder(entry):
    name = cell_name(entry, "mean_field", 0, "0" * 64)
    assert "/" not in name
    assert not name.startswith((".", "-")) or name.startswith("--")
    assert len(name) < 200
    assert name.isascii()
    assert name.isprintable()


def test_json_is_strict():
    text = strict_json({"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}})
    assert json.loads(text, parse_constant=lambda c: pytest.fail(c)) == {"a": None, "b": [None, 1.5], "c": {"d": None}}


def test_results_frame_reads_cells_and_shows_failed_ones(tmp_path):
    score = {k: 0.25 for k in store.SCORE_COLUMNS} | {"quantity": "theta", "index": [0, 1], "label": "theta[a, b]", "judged": True}
    base = {"entry": "coin", "seed": 0, "status": "ok", "verdict": "agrees"}
    good = {**base, "method": "mean_field", "scores": [score, {**score, "mean_error": None}]}
    bad = {**base, "method": "low_rank", "scores": [], "status": "nan", "verdict": "fit_failed"}
    with RunDir.create(tmp_path / "run", PLAN) as run:
        put(run, cell_name("coin", "mean_field", 0, "1" * 12), json.dumps(good))
        put(run, cell_name("coin", "low_rank", 0, "2" * 12), json.dumps(bad))
    frame = results_frame(tmp_path / "run")
    assert list(frame["method"]) == ["low_rank", "mean_field", "mean_field"]
    assert frame["mean_error"].isna().tolist() == [True, False, True]
    assert frame.loc[1, "index"] == "0.1"
    with pytest.raises(UsageError, match="no folder"):
        results_frame(tmp_path / "nowhere")


def test_plans_round_trip_and_refuse_unknown_keys(tmp_path):
    plan = make_plan(entries=["coin", 'odd "name" \\ é'], guides="all", seeds=[1, 2], quick=True)
    path = tmp_path / "plan.toml"
    path.write_text(plan.to_toml(), encoding="utf-8")
    assert read_plan(path) == plan
    assert read_plan(path).digest() == plan.digest()
    path.write_text(plan.to_toml() + "restart = 3\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"unknown key 'restart' \(did you mean 'restarts'\?\)"):
        read_plan(path)
    path.write_text("entries = [", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be read as TOML"):
        read_plan(path)
    with pytest.raises(UsageError, match="seeds"):
        make_plan(entries=["coin"], seeds=[-1])
