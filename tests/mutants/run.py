"""Plant one-line faults in a copy of the tree and run the tests that mirror their files.

    python tests/mutants/run.py                     # the kept list, then the table
    python tests/mutants/run.py --draw 100        # and a seeded draw by cosmic-ray
    python tests/mutants/run.py --only 'key without seed'
    python tests/mutants/run.py --only none --draw 20 --within zoo/density  # of one folder

The tests are first run without a fault: a fault is killed if they pass without it and fail with
it. Each outcome is one line of `out/mutants.jsonl`, kept by a digest of the fault and its tests;
an interrupted run resumes, and a changed fault or test runs again.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(__file__).with_name("kept.toml")
PAGE = ROOT / "docs" / "results" / "mutants.md"
ROOMS = ("zoo", "guides", "benchmarks")
TRIES = 500  # of a drawn fault: most draws change nothing, or more than a line
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n", "0")


@dataclass(frozen=True)
class Edit:
    """One fault: in `file` the text `old`, which occurs once, becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    drawn: bool = False

    def applied(self, text: str) -> str:
        """Return the text with the fault.

        Raises:
            ValueError: the old text does not occur exactly once.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} occurs {text.count(self.old)} times")
        return text.replace(self.old, self.new)

    @functools.cached_property
    def digest(self) -> str:
        """The digest of the fault, the file and the tests, as they were when first asked for."""
        parts = [self.file, self.old, self.new, (ROOT / self.file).read_text(encoding="utf-8")]
        for path in (p for place in self.tests for p in files_of(place)):
            parts += [path.name, path.read_text(encoding="utf-8")]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def files_of(place: str) -> list[Path]:
    """Return the test files of a file, a folder, or a test in a file."""
    path = ROOT / place.partition("::")[0]
    return sorted(path.rglob("test_*.py")) if path.is_dir() else [path]


def kept() -> list[Edit]:
    """Return the kept list."""
    tables = tomllib.loads(KEPT.read_text(encoding="utf-8"))["edit"]
    return [Edit(**{**table, "tests": tuple(table["tests"])}) for table in tables]


def mirror(file: str) -> tuple[str, ...]:
    """Return the tests that mirror a source file.

    These are the tests of its name, else of its folder, and the cases that import from it.
    """
    module = ".".join(Path(file).with_suffix("").parts).removesuffix(".__init__")
    return (*_of_its_place(file), *(case for case, seen in cases().items() if module in seen))


@functools.cache
def cases() -> dict[str, frozenset[str]]:
    """Return the modules from which every file of `tests/cases` imports."""
    found = {}
    for path in sorted((ROOT / "tests" / "cases").glob("test_*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
        names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
        found[path.relative_to(ROOT).as_posix()] = frozenset(names)
    return found


def _of_its_place(file: str) -> tuple[str, ...]:
    room, *folders = Path(file).with_suffix("").parts
    places = ["tests", f"test_{room}", *folders]
    named = Path(*places[:-1], f"test_{places[-1]}.py")
    if (ROOT / named).exists():
        return (named.as_posix(),)
    folder = Path(*places[:-1])
    while not any((ROOT / folder).glob("test_*.py")):
        folder = folder.parent
    if folder.name == f"test_{room}":
        return tuple(p.relative_to(ROOT).as_posix() for p in (ROOT / folder).glob("test_*.py"))
    return (folder.as_posix(),)


def _executed(source: str) -> str:
    """Return the tree of a source without annotations and docstrings, which change nothing."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, ast.Constant(None))
    return ast.dump(tree)


def drawn(number: int, seed: int, listed: Iterable[Edit], within: str = "") -> list[Edit]:
    """Draw faults with cosmic-ray, evenly from all packages, at most one per line of code.

    Type annotations are not drawn from, nor lines of the kept list. With `within` only files
    whose path contains it are drawn from; there may then be fewer faults than asked for.
    """
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    known = {(e.file, line) for e in listed for line in e.old.splitlines()}
    generator = random.Random(seed)
    packages: dict[Path, list[Path]] = {}
    for path in (p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))):
        if path.stat().st_size > 1000 and within in path.relative_to(ROOT).as_posix():
            packages.setdefault(path.parent, []).append(path)
    kinds: dict[str, list[str]] = {}
    for name in sorted(operator_names()):
        if "Variable" not in name and "RemoveDecorator" not in name:
            kinds.setdefault(name.split("/")[1].split("_")[0], []).append(name)
    found: dict[tuple[str, str], Edit] = {}
    order: list[Path] = []
    for _ in range(TRIES * number):
        if len(found) == number or not packages:
            break
        if not order:
            order = sorted(packages)
            generator.shuffle(order)
        path = generator.choice(packages[order.pop()])
        source = path.read_text(encoding="utf-8")
        operator = get_operator(generator.choice(kinds[generator.choice(sorted(kinds))]))()
        changed = mutate_code(source, operator, generator.randrange(40))
        edit = changed and _one_line(path, source, changed)
        if edit and edit.old not in {o for f, o in known if f == edit.file}:
            found.setdefault((edit.file, edit.old), edit)
    return list(found.values())


def _one_line(path: Path, source: str, changed: str) -> Edit | None:
    """Return the edit between two sources if it is one line that is executed and occurs once."""
    try:
        if _executed(source) == _executed(changed):
            return None
    except SyntaxError:
        return None
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    different = [(i, a, b) for i, (a, b) in enumerate(pairs, 1) if a != b]
    file = path.relative_to(ROOT).as_posix()
    if len(different) != 1 or source.count(different[0][1]) != 1:
        return None
    line, old, new = different[0]
    return Edit(f"{file}:{line}", file, old, new, mirror(file), drawn=True)


@contextmanager
def copies(number: int) -> Iterator[SimpleQueue[Path]]:
    """Copy the tracked and the new files of the tree `number` times."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    free: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for i in range(number):
            for name in filter(None, names.split("\0")):
                if (ROOT / name).is_file():
                    (Path(folder, str(i)) / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / name, Path(folder, str(i)) / name)
            free.put(Path(folder, str(i)))
        yield free


def tested(tree: Path, tests: Iterable[str], python: str, limit: float) -> tuple[str, str]:
    """Run tests in a copy; return `passed`, `failed`, `timeout` or `none`, and the last line."""
    places = [t for t in tests if (tree / t.partition("::")[0]).exists()]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    if not places:
        return "none", "there are no such tests"
    with subprocess.Popen(
        [python, *PYTEST, *places],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said = process.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return "timeout", f"no end after {limit:.0f} s"
    word = {0: "passed", 5: "none"}.get(process.returncode, "failed")
    lines = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return word, (lines or said.splitlines() or [""])[-1 if not lines else 0]


class Runner:
    """Runs edits side by side and keeps every outcome."""

    def __init__(self, out: Path, python: str, limit: float) -> None:
        self.out, self.python, self.limit = out, python, limit
        self.lock, self.sound = threading.Lock(), dict[tuple[str, ...], str]()
        self.guards: dict[tuple[str, ...], threading.Lock] = {}
        self.known: dict[str, dict[str, str]] = {}
        if out.exists():
            rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
            self.known = {row["digest"]: row for row in rows}

    def one(self, edit: Edit, free: SimpleQueue[Path]) -> dict[str, str]:
        """Return the outcome of one edit, from the file of outcomes if it is there."""
        digest = edit.digest
        if digest in self.known:
            return self.known[digest]
        tree = free.get()
        try:
            with self.lock:
                guard = self.guards.setdefault(edit.tests, threading.Lock())
            with guard:
                if edit.tests not in self.sound:
                    self.sound[edit.tests] = tested(tree, edit.tests, self.python, self.limit)[0]
            outcome, why = f"tests {self.sound[edit.tests]} without it", ""
            if self.sound[edit.tests] == "passed":
                outcome, why = self._with(edit, tree)
        finally:
            free.put(tree)
        row = {
            "digest": digest,
            "name": edit.name,
            "file": edit.file,
            "old": edit.old,
            "new": edit.new,
            "outcome": outcome,
            "why": why.replace(str(tree), "."),
        }
        with self.lock, self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            print(f"{time.strftime('%H:%M:%S')} {outcome:9} {edit.name}: {row['why']}", flush=True)
        return row

    def _with(self, edit: Edit, tree: Path) -> tuple[str, str]:
        path = tree / edit.file
        sound = path.read_text(encoding="utf-8")
        path.write_text(edit.applied(sound), encoding="utf-8")
        try:
            word, why = tested(tree, edit.tests, self.python, self.limit)
        finally:
            path.write_text(sound, encoding="utf-8")
        return ("survived" if word == "passed" else "killed"), why


def table(listed: list[dict[str, str]], random: list[dict[str, str]], about: str) -> str:
    """Return the page: counts by package, and every survivor with its edit."""
    lines = [
        "# Planted faults",
        "",
        "Each row of `tests/mutants/kept.toml` is a one-line fault that a test has to notice. The",
        "tests that mirror the file (those of its name, else of its folder, and the cases that",
        "import from it) run without it and with it, in a copy of the tree. A fault is",
        "*killed* if a test fails or does not end. Made by `make mutants`.",
        "",
    ]
    for title, rows in (("Kept list", listed), (f"Seeded draw{about}", random)):
        if not rows:
            continue
        total = Counter(_package(r["file"]) for r in rows)
        killed = Counter(_package(r["file"]) for r in rows if r["outcome"] == "killed")
        lines += [f"## {title}", "", "| package | faults | killed |", "|---|---|---|"]
        lines += [f"| `{name}` | {total[name]} | {killed[name]} |" for name in sorted(total)]
        lines += [f"| all | {total.total()} | {killed.total()} |", ""]
        left = [r for r in rows if r["outcome"] != "killed"]
        if left:
            lines += ["| not killed | outcome | line | becomes |", "|---|---|---|---|"]
            lines += [
                f"| {r['name']} | {r['outcome']} | {_code(r['old'])} | {_code(r['new'])} |"
                for r in left
            ]
            lines += [""]
    return "\n".join(lines)


def _package(file: str) -> str:
    return file.rpartition("/")[0] or "(root)"


def _code(text: str) -> str:
    return "`` " + " ".join(text.split()).replace("|", "\\|") + " ``"


def main() -> int:
    """Run the command line; the exit code is 1 if a fault of the kept list was not killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", action="append", default=[], help="names, or parts of them")
    parser.add_argument("--draw", type=int, default=0, help="number of faults to draw")
    parser.add_argument("--within", default="", help="draw from files whose path contains this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds per run of tests")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "mutants.jsonl")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the tests")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    given = parser.parse_args()
    listed = [e for e in kept() if not given.only or any(o in e.name for o in given.only)]
    edits = listed + (drawn(given.draw, given.seed, kept(), given.within) if given.draw else [])
    given.out.parent.mkdir(parents=True, exist_ok=True)
    runner = Runner(given.out, given.python, given.limit)
    for edit in edits:  # of what is copied now, whatever is edited meanwhile
        _ = edit.digest
    with copies(given.jobs) as free, ThreadPoolExecutor(given.jobs) as pool:
        rows = list(pool.map(lambda e: runner.one(e, free), edits))
    text = table(rows[: len(listed)], rows[len(listed) :], f" (seed {given.seed})")
    if given.write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)
    return int(any(r["outcome"] != "killed" for r in rows[: len(listed)]))


if __name__ == "__main__":
    sys.exit(main())
