"""Tests that interrupt a process also end where the shell has told it to ignore SIGINT."""

import signal
import subprocess
import sys
from pathlib import Path

CODE = """
import runpy, signal, subprocess, sys
assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
runpy.run_path(sys.argv[1])
sleeps = "import time; print(1, flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", sleeps],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
child.stdout.readline()
child.send_signal(signal.SIGINT)
print(child.wait(20))
"""


def test_a_child_of_a_background_process_can_be_interrupted():
    found = subprocess.run(
        [sys.executable, "-c", CODE, str(Path(__file__).with_name("conftest.py"))],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stdout.strip() in ("1", "-2"), found.stderr
