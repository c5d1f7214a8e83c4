"""AOTInductor, the public backend (`torch.export`), passes the tests of compiled graphs.

They are the tests that the standalone backend passes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = (
    "tests/test_zoo/compiler/test_compile.py",
    "tests/test_zoo/compiler/test_vector_loads.py",
    "tests/test_guides/optimize/test_step.py",
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_compiled_tests_pass_on_torchs_public_route(tmp_path):
    """Three minutes; tests that need the C ABI are skipped with that reason."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-q", *FILES],
        cwd=ROOT,
        env={**os.environ, "ZOO_BACKEND": "aoti", "ZOO_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert not list((tmp_path / "compiled").glob("*.so")) or all(
        p.stat().st_size < 100_000 for p in (tmp_path / "compiled").glob("*.so")
    )
