"""Native code is loaded only from files that nobody else can write."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.compiler import cache

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    place = tmp_path / "compiled"
    place.mkdir(mode=0o700)
    return place


def put(folder, content=b"library"):
    return cache.store("k", lambda path: str(Path(path).write_bytes(content) and path), ".so")


def test_a_file_comes_back(folder):
    assert put(folder) == folder / "k.so"
    assert cache.find("k", ".so") == folder / "k.so"


def test_a_folder_of_ours_that_others_can_write_is_closed(folder):
    folder.chmod(0o777)
    assert cache.directory() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_that_others_can_write_is_not_loaded(folder):
    put(folder)
    (folder / "k.so").chmod(0o666)
    assert cache.find("k", ".so") is None


def test_a_folder_of_another_user_is_not_used(folder, monkeypatch, caplog):
    """Anyone can make the folder first where the cache is shared, and put libraries into it."""
    put(folder)
    me = os.geteuid()
    cache._temporary.cache_clear()
    monkeypatch.setattr(cache.os, "geteuid", lambda: me + 1)
    place = cache.directory()
    assert place != folder
    assert cache.directory() == place
    assert cache.find("k", ".so") is None
    said = [r.getMessage() for r in caplog.records if "belongs to another user" in r.getMessage()]
    assert len(said) == 1
    cache._temporary.cache_clear()


def test_a_link_is_not_followed(tmp_path, folder, monkeypatch):
    cache._temporary.cache_clear()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert cache.directory() != folder
    cache._temporary.cache_clear()


def test_the_files_of_inductor_are_private(tmp_path):
    """Its default folder in the temporary one can be made by any user.

    For each choice in a process of its own; torch, which takes seconds to import, is there before.
    """
    code = (
        "import os, torch._inductor\n"
        "for chosen in ('none', 'default', 'own'):\n"
        "    if os.fork():\n"
        "        assert os.wait()[1] == 0\n"
        "        continue\n"
        "    if chosen == 'default':  # torch sets it as soon as something is traced\n"
        "        from torch._inductor.runtime.cache_dir_utils import cache_dir; cache_dir()\n"
        "        assert 'TORCHINDUCTOR_CACHE_DIR' in os.environ\n"
        "    if chosen == 'own':\n"
        "        os.environ['TORCHINDUCTOR_CACHE_DIR'] = os.environ['MINE']\n"
        "    import zoo.compiler.cache\n"
        "    print(os.environ['TORCHINDUCTOR_CACHE_DIR'], flush=True)\n"
        "    os._exit(0)\n"
    )
    own = {"ZOO_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "MINE": str(tmp_path / "mine")}
    environment = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"} | own
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        str(tmp_path / folder) for folder in ("inductor", "inductor", "mine")
    ]
