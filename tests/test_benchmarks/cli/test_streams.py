"""Streams that are closed, whose reader leaves, or that hold few characters."""

import os
import re
import subprocess
import sys

from benchmarks.cli import main
from zoo.user_models.scaffold import new_model


def test_output_to_a_stream_that_is_not_utf8(tmp_path):
    """After all the work the table could not be printed: exit code 3, an unexpected error."""
    path = new_model("mine", tmp_path)
    text, count = re.subn(r'title="[^"]*"', 'title="Größe: 1 − 2"', path.read_text("utf-8"))
    assert count == 1
    path.write_text(text, encoding="utf-8")
    for encoding in ("latin-1", "ascii"):
        pid = os.fork()
        if pid == 0:  # the command, with a stream that is not this process's
            sys.stdout = (tmp_path / encoding).open("w", encoding=encoding)
            try:
                main(["show", str(path)])
            except SystemExit as left:
                sys.stdout.close()
                os._exit(left.code)
            os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "Größe: 1 ? 2".encode("latin-1") in (tmp_path / "latin-1").read_bytes()
    assert b"Gr??e: 1 ? 2" in (tmp_path / "ascii").read_bytes()


def test_closed_streams_and_readers_that_leave_are_no_errors():
    """Of a command with models, and of one without whose reader has left before it writes."""

    def bash(words, rest):
        program = f'{sys.executable} -c "from benchmarks.cli import main; main({words})"'
        command = ["bash", "-c", f"set -o pipefail; {program} {rest}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = [
        bash(["show", "coin"], ">&-"),
        bash(["list", "--json"], "| head -1"),
        bash(["list", "--json"], "| true"),
    ]
    assert {(done.returncode, done.stderr) for done in found} == {(0, "")}


def test_a_full_disk_behind_stdout_is_said_without_a_path():
    """It was `No space left on device (None)`."""
    program = "from benchmarks.cli import main; main(['list'])"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    assert done.stderr == (
        "zoo: No space left on device; check the space and the permissions where the output"
        " goes.\n"
    )
