"""What the tests share: they end where SIGINT is ignored, and short runs are cells of their own.

Tests that interrupt a process also end where the shell has told it to ignore SIGINT.
"""

import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.run.plan import make_plan
from benchmarks.run.prepare import plan_cells, prepare

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


def test_brief_runs_are_short_and_have_keys_of_their_own(request):
    plan = make_plan(entries=["coin"], guides=["mean_field"], nuts=True, quick=True)

    def cells():
        return {c.method: c for c in plan_cells(plan, [prepare(plan, "coin")])}

    usual = cells()
    request.getfixturevalue("brief")
    brief = cells()
    assert usual["mean_field"].config["steps"] > 20 * brief["mean_field"].config["steps"] > 0
    assert usual["nuts"].config["draws"] > 3 * brief["nuts"].config["draws"] > 0
    assert all(usual[method].key != brief[method].key for method in ("mean_field", "nuts"))
