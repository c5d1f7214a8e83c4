"""A command killed at any change of its folder goes on where it was, and ends with the same bytes.

Every change of a file under the output folder (opened for writing, renamed, linked, removed, a
folder made) is a point at which the whole process group can be killed: in a process of the command
or of one of its workers.
"""

import json
import mmap
import os
import re
import signal
import struct
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks.cli import process as cli
from benchmarks.run.plan import make_plan
from benchmarks.run.store import RunDir

POINTS = 60
CHANGES = {
    "os.rename",
    "os.link",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
}
SPENT = re.compile(r"seconds|peak_memory|when|started|finished|time|pid|host")


class Counter:
    """Counts changes of a folder over all processes of a group; kills the group at one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.shared = mmap.mmap(-1, 8)

    @property
    def value(self) -> int:
        return struct.unpack("q", self.shared[:8])[0]

    def watch(self, kill_at: int | None) -> None:
        """Begin to count in this process and in those that it forks."""

        def hook(event, arguments):
            if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                path = arguments[0]
                text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
                if text.startswith(self.folder):
                    number = self.value + 1
                    self.shared[:8] = struct.pack("q", number)
                    if number == kill_at:
                        os.killpg(0, signal.SIGKILL)

        sys.addaudithook(hook)


def command(words, log: Path, counter: Counter, kill_at: int | None = None) -> int:
    """Run the command line in a forked group of its own; return its exit code."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        place = os.open(str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(place, 1)
        os.dup2(place, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        counter.watch(kill_at)
        code = 99
        try:
            cli.main(words)
        except SystemExit as left:
            code = left.code
        os._exit(code if isinstance(code, int) else 98)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def timeless(content):
    """A record without what a clock or the machine wrote into it."""
    if isinstance(content, dict):
        return {k: timeless(v) for k, v in content.items() if not SPENT.search(k)}
    return [timeless(v) for v in content] if isinstance(content, list) else content


def whole(out: Path):
    """All that a run holds: numbers of its draws and guides bit by bit, records without times."""
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = path.relative_to(out).as_posix()
        if path.name in ("log.txt", ".lock", "MANIFEST") or path.suffix in (".html", ".svg"):
            continue
        if path.suffix == ".nc":
            with h5py.File(path) as file:
                found[name] = {k: v[()].tobytes() for k, v in file["posterior"].items()}
        elif path.suffix == ".json":
            found[name] = json.dumps(timeless(json.loads(path.read_text())), sort_keys=True)
        elif path.suffix == ".csv":
            rows = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
            kept = [n for n in rows.dtype.names if not SPENT.search(n)]
            found[name] = [tuple(str(row[n]) for n in kept) for row in np.atleast_1d(rows)]
        else:
            found[name] = path.name
    return found


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_killed_anywhere_goes_on_and_ends_the_same(tmp_path):
    words = ["compare", "coin", "--guides", "laplace,mean_field", "--no-nuts", "--quick"]
    words += ["--compile", "off", "--jobs", "2", "--out"]
    out = tmp_path / "once"
    counter = Counter(out)
    code = command([*words, str(out)], tmp_path / "once.log", counter)
    assert code == 0, (tmp_path / "once.log").read_text()
    truth, changes = whole(out), counter.value
    assert changes >= POINTS
    assert any(name.endswith("posterior.nc") for name in truth)
    points = np.unique(np.linspace(1, changes, POINTS).round().astype(int))
    assert len(points) == POINTS
    wrong = {}
    for point in points.tolist():
        out = tmp_path / f"at{point}"
        log = tmp_path / f"at{point}.log"
        killed = command([*words, str(out)], log, Counter(out), kill_at=point)
        code = command([*words, str(out)], log, Counter(out))
        again = whole(out)
        if code != 0:
            wrong[point] = f"exit {code}: {log.read_text()[-400:]}"
        elif again != truth:
            differ = [n for n in {*again, *truth} if again.get(n) != truth.get(n)]
            wrong[point] = f"other content of {differ}"
        elif killed != -signal.SIGKILL and point < changes - 5:
            wrong[point] = f"was not killed (exit {killed})"  # workers may reorder a few changes
    assert not wrong, wrong


def opened(folder: Path, counter: Counter, kill_at: int | None) -> int:
    """Open a run in a forked process of its own group; return its exit code."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        counter.watch(kill_at)
        with RunDir.create(folder, make_plan(entries=["coin"])):
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_folder_left_at_any_change_of_its_making_is_taken_up(tmp_path):
    """It held an empty folder and no plan once, and was refused as somebody else's."""
    counter = Counter(tmp_path / "once")
    assert opened(tmp_path / "once", counter, None) == 0
    content = sorted(p.name for p in (tmp_path / "once").iterdir())
    assert counter.value >= 5
    for point in range(1, counter.value + 1):
        folder = tmp_path / f"at{point}"
        assert opened(folder, Counter(folder), point) == -signal.SIGKILL
        with RunDir.create(folder, make_plan(entries=["coin"])) as run:
            assert run.names() == []
        assert sorted(p.name for p in folder.iterdir()) == content
