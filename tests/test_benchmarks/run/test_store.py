"""Cells are written atomically, and damage is detected."""

import errno
import json
import math
import os
import re
from contextlib import nullcontext

import pytest

from benchmarks.metrics.metric import own_columns
from benchmarks.run import store
from benchmarks.run.plan import make_plan, read_plan
from benchmarks.run.results import results_frame
from benchmarks.run.store import RunDir, cell_name, strict_json, write_atomic
from zoo.errors import InfrastructureError, UsageError, ZooError, command_line

PLAN = make_plan(entries=["coin"], guides=["mean_field"])
NAME = cell_name("coin", "mean_field", 0, "ab" * 32)


def leftovers(folder):
    return [p for p in folder.rglob(".zoo-tmp-*")]


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
    with pytest.raises(
        InfrastructureError,
        match=r"cannot be written \(No space left on device\): free some space",
    ):
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


def test_where_there_are_no_links_copies_are_flushed_to_disk(tmp_path, monkeypatch):
    flushed, real = set(), os.fsync

    def no_links(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    def fsync(handle):
        flushed.add(os.fstat(handle).st_ino)
        real(handle)

    with RunDir.create(tmp_path / "run", PLAN) as run:
        put(run)
        before = (run.cells / NAME / "posterior.nc").read_bytes()
        monkeypatch.setattr(store.os, "link", no_links)
        monkeypatch.setattr(store.os, "fsync", fsync)
        run.rewrite(NAME, "cell.json", '{"x": 2}')
        monkeypatch.undo()
        assert run.read(NAME) == {"x": 2}
        assert (run.cells / NAME / "posterior.nc").read_bytes() == before
        assert {f.stat().st_ino for f in (run.cells / NAME).iterdir()} <= flushed
        assert leftovers(tmp_path) == []


@pytest.mark.parametrize("text", ["entries = [", 'entries = ["coin"]\nrestart = 3\n'])
def test_a_damaged_plan_is_told_in_one_sentence(tmp_path, text):
    """It was told as another run, with one sentence inside the other: `.; give another`."""
    with RunDir.create(tmp_path / "run", PLAN):
        pass
    (tmp_path / "run" / "plan.toml").write_text(text)
    for call in (lambda p: RunDir.create(p, PLAN), RunDir.open):
        with pytest.raises(UsageError, match=r"cannot be read as TOML|is not a plan") as found:
            call(tmp_path / "run")
        assert str(found.value).count(". ") == 0
        assert not re.search(r"[.;:,][.;:,]", str(found.value).replace("plan.toml", ""))
        assert "another run" not in str(found.value)


@pytest.mark.parametrize(
    ("inside", "word"), [(nullcontext, "out="), (command_line, "--out ")], ids=["python", "shell"]
)
def test_a_message_names_the_argument_or_the_option(tmp_path, inside, word):
    """`compare_program(..., out="notes")` was told of an option `--out`."""
    other = "--out" if word == "out=" else "out="
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("x")
    with RunDir.create(tmp_path / "run", PLAN):
        pass
    changed = PLAN.model_copy(update={"data_seed": 1})
    cases = [("notes", PLAN), ("file", PLAN), ("run", changed), ("file/below", PLAN)]
    with inside():
        for name, plan in cases:
            with pytest.raises(ZooError) as found:
                RunDir.create(tmp_path / name, plan)
            assert word.strip() in str(found.value), name
            assert other not in str(found.value), name
        with (
            RunDir.create(tmp_path / "run", PLAN),
            pytest.raises(UsageError, match=f"another folder with {word.strip()}"),
        ):
            RunDir.create(tmp_path / "run", PLAN)


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="not empty and holds no run"):
        RunDir.create(tmp_path / "notes", PLAN)
    with RunDir.create(tmp_path / "run", PLAN):
        pass
    with pytest.raises(
        UsageError, match=r"holds another run: .* data seed is 0 in the folder and 1 here"
    ):
        RunDir.create(tmp_path / "run", PLAN.model_copy(update={"data_seed": 1}))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        RunDir.create(tmp_path / "file", PLAN)
    with pytest.raises(InfrastructureError, match="cannot be written"):
        RunDir.create(tmp_path / "file" / "below", PLAN)
    assert sorted(p.name for p in (tmp_path / "notes").iterdir()) == ["thesis.tex"]


OLDER = cell_name("coin", "mean_field", 0, "cd" * 32)  # from a program that has changed


def with_users_things(run, *places):
    for place in places:
        (run.path / place).mkdir(parents=True, exist_ok=True)
        (run.path / place / "notes.txt").write_text("mine")


def is_theirs(run, *places):
    return all((run.path / place / "notes.txt").read_text() == "mine" for place in places)


def test_only_cells_of_ours_are_removed(tmp_path):
    said = []
    unlisted, garbled = (cell_name("coin", m, 0, "ef" * 32) for m in ("full_rank", "laplace"))
    with RunDir.create(tmp_path / "run", PLAN) as run:
        put(run)
        put(run, OLDER)
        with_users_things(
            run,
            "cells/my_notes",
            f"cells/{unlisted}",
            f"cells/{garbled}",
            "cells/coin--old--s0--copy",
        )
        (run.cells / garbled / "MANIFEST").write_text("to do: everything\n")
        (run.cells / "coin--old--s0--copy" / "MANIFEST").write_bytes(
            (run.cells / NAME / "MANIFEST").read_bytes()
        )
        run.keep({NAME}, say=said.append)
        assert not (run.cells / OLDER).exists()
        assert is_theirs(
            run,
            "cells/my_notes",
            f"cells/{unlisted}",
            f"cells/{garbled}",
            "cells/coin--old--s0--copy",
        )
        assert run.read(NAME) == {"x": 1}
    assert len(said) == 1
    assert all(name in said[0] for name in ("my_notes", unlisted, garbled, "coin--old--s0--copy"))
    assert not (tmp_path / "run" / "quarantine").exists()


def test_notes_inside_a_cell_outlive_it(tmp_path):
    said = []
    with RunDir.create(tmp_path / "run", PLAN) as run:
        for name in (NAME, OLDER):
            put(run, name)
        with_users_things(run, f"cells/{NAME}", f"cells/{NAME}/pictures", f"cells/{OLDER}")
        run.rewrite(NAME, "cell.json", '{"x": 2}')
        assert run.read(NAME) == {"x": 2}
        assert "notes.txt" not in (run.cells / NAME / "MANIFEST").read_text()
        put(run, text='{"x": 3}')
        assert run.read(NAME) == {"x": 3}
        assert is_theirs(run, f"cells/{NAME}", f"cells/{NAME}/pictures")
        assert list((run.path / "quarantine").iterdir()) == []
        run.keep({NAME}, say=said.append)
        assert is_theirs(run, f"quarantine/{OLDER}")
        assert run.names() == [NAME]
    assert len(said) == 1
    assert OLDER in said[0]


def test_a_file_of_an_older_cell_that_somebody_edited_is_not_removed(tmp_path):
    with RunDir.create(tmp_path / "run", PLAN) as run:
        put(run, OLDER)
        (run.cells / OLDER / "cell.json").write_text("edited by hand")
        run.keep(set())
        assert (run.path / "quarantine" / OLDER / "cell.json").read_text() == "edited by hand"


@pytest.mark.parametrize("link", ["cells", "quarantine", f"cells/{OLDER}"])
def test_nothing_is_removed_through_a_link(tmp_path, link):
    with RunDir.create(tmp_path / "run", PLAN) as run:
        put(run)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / OLDER).mkdir(parents=True)
    (elsewhere / OLDER / "a.jpg").write_text("x")
    (elsewhere / OLDER / "MANIFEST").write_bytes(
        (tmp_path / "run" / "cells" / NAME / "MANIFEST").read_bytes()
    )
    (elsewhere / ".zoo-tmp-abcdefgh").write_text("x")
    place = tmp_path / "run" / link
    if link == "cells":
        place.rename(tmp_path / "away")
    place.symlink_to(elsewhere)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        UsageError,
        match=(
            f"{place}' is a symbolic link, and a run writes and removes nothing through one; put"
            " the folder"
        ),
    ):
        RunDir.create(tmp_path / "run", PLAN)
    assert sorted(tmp_path.rglob("*")) == before
    place.unlink()
    # not the name of a cell: a link of the user
    with RunDir.create(tmp_path / "run", PLAN) as run:
        (run.cells / "photos").symlink_to(elsewhere)
        run.keep(set())
    assert sorted(p.name for p in (elsewhere).rglob("*")) == [
        ".zoo-tmp-abcdefgh",
        "MANIFEST",
        "a.jpg",
        OLDER,
    ]


def test_names_that_only_look_temporary_stay(tmp_path):
    theirs = [
        ".tmp-notes",
        ".tmp-abcdefgh",
        ".zoo-tmp-notes",
        ".zoo-tmp-my-notes",
        "x.zoo-tmp-abcdefgh",
    ]
    with RunDir.create(tmp_path / "run", PLAN) as run:
        with_users_things(run, *theirs, *(f"cells/{name}" for name in theirs))
        with_users_things(run, ".zoo-tmp-abcdefg_", "cells/.zoo-tmp-01234567")
        (run.path / ".zoo-tmp-00000000").symlink_to(run.path / ".tmp-notes")
    with RunDir.create(tmp_path / "run", PLAN) as run:
        assert is_theirs(run, *theirs, *(f"cells/{name}" for name in theirs))
        assert (run.path / ".zoo-tmp-00000000").is_symlink()
        assert not (run.path / ".zoo-tmp-abcdefg_").exists()
        assert not (run.cells / ".zoo-tmp-01234567").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".tmp-notes").write_text("mine")
    with pytest.raises(UsageError, match="not empty and holds no run"):
        RunDir.create(tmp_path / "other", PLAN)


def test_a_file_under_the_name_of_a_cell_is_set_aside(tmp_path):
    with RunDir.create(tmp_path / "run", PLAN) as run:
        (run.cells / NAME).write_text("mine")
        put(run)
        assert run.read(NAME) == {"x": 1}
        assert (run.path / "quarantine" / NAME).read_text() == "mine"


def test_quarantine_takes_the_first_free_name(tmp_path):
    with RunDir.create(tmp_path / "run", PLAN) as run:
        for number in (1, 2):  # the user removed the one without a number
            (run.path / "quarantine" / f"{NAME}.{number}" / "inside").mkdir(parents=True)
        for _ in range(2):
            put(run)
            (run.cells / NAME / "cell.json").write_text("damaged")
            assert run.read(NAME) is None
        assert sorted(p.name for p in (run.path / "quarantine").iterdir()) == [
            NAME,
            f"{NAME}.1",
            f"{NAME}.2",
            f"{NAME}.3",
        ]


def test_a_reader_is_not_told_that_something_was_moved(tmp_path):
    heard = []
    with RunDir.create(tmp_path / "run", PLAN) as run:
        put(run)
    (run.cells / NAME / "cell.json").write_text("damaged")
    assert RunDir.open(run.path).read(NAME, warn=heard.append) is None
    assert heard == [
        f"cell {NAME} is damaged (cell.json is not the file that was written); it is left out"
    ]
    assert (run.cells / NAME).is_dir()


def test_two_commands_never_share_a_folder(tmp_path):
    with (
        RunDir.create(tmp_path / "run", PLAN),
        pytest.raises(UsageError, match="Another zoo command is working"),
    ):
        RunDir.create(tmp_path / "run", PLAN)
    with RunDir.create(tmp_path / "run", PLAN):
        pass


def test_a_file_system_without_locks_is_not_another_command(tmp_path, monkeypatch):
    """Some network file systems answer ENOLCK; no other process is to blame."""

    def flock(*words):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(store.fcntl, "flock", flock)
    with RunDir.create(tmp_path / "run", PLAN) as run:
        assert "has no locks (No locks available)" in run.unprotected
        put(run)
        assert run.read(NAME) == {"x": 1}


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
    assert json.loads(text, parse_constant=lambda c: pytest.fail(c)) == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": None},
    }


def test_results_frame_reads_cells_and_shows_failed_ones(tmp_path):
    score = {k: 0.25 for k in own_columns()} | {
        "quantity": "theta",
        "index": [0, 1],
        "label": "theta[a, b]",
        "judged": True,
    }
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


@pytest.mark.parametrize(
    "name", ["cell.json", "posterior.nc", "guide.pt", "witness.json", "log.txt"]
)
def test_a_file_of_a_cell_that_manifest_does_not_list_is_damage(tmp_path, name):
    """A MANIFEST that lost a line let a changed file pass."""
    from benchmarks.run.cell_folder import damage

    place = tmp_path / "coin--laplace--s0--0123456789ab"
    place.mkdir()
    lines = []
    for file in ("cell.json", "posterior.nc", "guide.pt", "witness.json", "log.txt"):
        (place / file).write_text(file)
        lines.append(f"{store.hashlib.sha256(file.encode()).hexdigest()}  {file}")
    (place / "MANIFEST").write_text("\n".join(lines) + "\n")
    (place / "notes_of_a_reader.txt").write_text("mine")
    assert damage(place) is None
    (place / "MANIFEST").write_text(
        "\n".join(line for line in lines if not line.endswith(name)) + "\n"
    )
    assert damage(place) == f"MANIFEST does not list {name}"
