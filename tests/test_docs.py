"""The documentation is true: links resolve, commands exist, the README's Python runs."""

import ast
import functools
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from site_tools import architecture, compiler_picture, outside, pages, readme_table
from support.each import each

from benchmarks.cli import commands as cli
from benchmarks.verdicts import VERDICTS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SITE = [p for p in PAGES if p.parent != ROOT]
REQUIRED = ("index", "add_a_model", "add_a_guide", "model_contract", "reading_a_report")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_promised_pages_exist_and_every_entry_has_one():
    assert {p.stem for p in (ROOT / "docs").glob("*.md")} >= set(REQUIRED)
    models = {
        p.stem
        for p in (ROOT / "zoo" / "models").rglob("[a-z]*.py")
        if p.parent.name != "posteriordb"
    }
    assert {p.stem for p in (ROOT / "docs" / "models").glob("*.md")} >= models


@each(PAGES, name_of)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [
        t
        for t in targets
        if not t.startswith(("http://", "https://", "mailto:")) and not (page.parent / t).exists()
    ]
    assert not missing


@each(PAGES, name_of)
def test_lines_of_prose_end_before_column_100(page):
    """Tables, code, headings and pictures aside; a word that cannot be broken may stand alone."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    wide = [
        line
        for line in prose.splitlines()
        if len(line) >= 100 and " " in line.strip() and not re.match(r" *[|#!]", line)
    ]
    assert wide == []


def broken_rows(text: str) -> list[str]:
    """Return the rows of tables of Markdown that do not have the cells of their head."""
    found, cells = [], None
    for line in re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE).splitlines():
        row = line.strip()
        if not row.startswith("|"):
            if cells is not None and row.endswith("|"):
                found.append(line)  # the end of a row that was wrapped
            cells = None
            continue
        count = len(re.findall(r"(?<!\\)\|", row)) if row.endswith("|") else -1
        if cells is None:
            cells = count
        if count != cells or count < 0:
            found.append(line)
    return found


@each(PAGES, name_of)
def test_rows_of_tables_have_the_cells_of_their_head(page):
    assert broken_rows(page.read_text()) == []


def test_a_wrapped_row_or_a_missing_cell_is_found():
    head = "| a | b |\n|---|---|\n"
    assert broken_rows(head + "| 1 | \\|x\\| |\n\ntext\n") == []
    assert broken_rows(head + "| 1 |\n  `x` |\n| 2 | 3 |\n") == ["| 1 |", "  `x` |"]
    assert broken_rows(head + "| 1 | p(x | z) |\n") == ["| 1 | p(x | z) |"]


# what a line never breaks: code, a link, a formula, a word
UNIT = re.compile(r"\(?`[^`]*`\S*|\(?!?\[[^\]]*\]\([^)]*\)\S*|\$[^$]*\$\S*|\S+")


def ragged(text: str) -> list[str]:
    """Return the lines of prose that end early, although the next word has ample room."""
    text = re.sub(r"^ *```.*?^ *```|^\$\$.*?^\$\$", "", text, flags=re.S | re.M)
    text = re.sub("<!--.*?-->", lambda found: "#" * len(found[0]), text, flags=re.S)
    lines, found = text.splitlines(), []
    for line, after in pairwise(lines):
        if re.match(r" *([|#!<]|$)", line) or re.match(r" *([|#!<]|$|[*-] |\d+\. )", after):
            continue
        joined = UNIT.search(f"{line} {after.strip()}", len(line) + 1)
        if line.count("`") % 2 == 0 and joined and joined.end() <= 85:
            found.append(line)
    return found


@each(SITE, name_of)
def test_paragraphs_have_no_ragged_lines(page):
    assert ragged(page.read_text()) == []


def test_a_ragged_line_is_found():
    words = "a word " * 13
    assert ragged(f"* {words}\n  holds.\n\n{words}\nmore\n") == []
    assert ragged(f"* One unit\n  is short. {words}\n* Next.\n") == ["* One unit"]


def test_contributing_states_the_limits_of_today():
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    rules = (ROOT / "tests" / "test_architecture.py").read_text()
    longest = re.search(r"^LONGEST = (\d+)$", rules, flags=re.MULTILINE)[1]
    assert f"breaks code at {settings['line-length']}." in text
    assert f"A source file has at most {longest} lines" in text


@functools.cache
def known_commands():
    return typer.main.get_command(cli.app).commands


@each(PAGES, name_of)
def test_commands_and_their_flags_exist(page):
    commands = known_commands()
    shown = re.findall(
        r"(?:^\$ |^|&& |`)zoo ([a-z]+ [^\n`&#]*)", page.read_text(), flags=re.MULTILINE
    )
    for text in shown:
        words = shlex.split(text)
        assert words[0] in commands, text
        known = {
            option for p in commands[words[0]].params for option in (*p.opts, *p.secondary_opts)
        }
        unknown = [w for w in words[1:] if w.startswith("--") and w.split("=")[0] not in known]
        assert not unknown, text


def chain(node: ast.AST) -> str:
    """Return `zoo.a.b` for an attribute of one of the packages, else an empty string."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    rooted = isinstance(node, ast.Name) and node.id in ("zoo", "guides", "benchmarks")
    return ".".join([node.id, *reversed(parts)]) if rooted and parts else ""


def mistakes(text: str) -> list[str]:
    """Return the names of ours that a block of Python imports, reads or calls wrongly."""
    tree, found = ast.parse(text.replace("        ...", "        pass")), []
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in (
            "zoo",
            "guides",
            "benchmarks",
        ):
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    names = {*known.values(), *filter(None, map(chain, ast.walk(tree)))}
    for name in sorted(names):
        try:
            resolve(name)
        except (AttributeError, ImportError, AssertionError):
            found.append(name)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = chain(node.func) or known.get(getattr(node.func, "id", ""), "")
        if not name or name in found:
            continue
        signature = inspect.signature(resolve(name)).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in signature.values()):
            found += [
                f"{name}({k.arg}=)" for k in node.keywords if k.arg not in (None, *signature)
            ]
    return found


@each(PAGES, name_of)
def test_python_of_the_pages_uses_names_and_arguments_that_exist(page):
    assert [m for text in blocks(page, "python") for m in mistakes(text)] == []


def test_a_wrong_name_or_argument_on_a_page_is_found():
    text = (
        "import zoo, guides\nfrom zoo.types import Data, Date\n"
        "entry = zoo.loads('coin')\ndata = Data(train={}, tests={})\n"
        "guides.draw(fit, m=3)\nguides.fit(entry, 'flow', layers=3)\n"
    )
    assert mistakes(text) == [
        "zoo.loads",
        "zoo.types.Date",
        "zoo.types.Data(tests=)",
        "guides.draw(m=)",
    ]


def test_every_page_has_one_place_in_the_navigation():
    named = Counter(pages.reachable(ROOT / "docs" / "index.md"))
    assert sorted(named) == SITE
    assert set(named.values()) == {1}


def test_a_new_page_needs_no_other_file_touched(tmp_path):
    (tmp_path / "index.md").write_text("# Results\n\nThe files here. <!-- site: list *.md -->\n")
    (tmp_path / "fresh.md").write_text(
        "# A `fresh` page\n\nIts first sentence, with a [link](index.md). Another.\n"
    )
    index = tmp_path / "index.md"
    assert pages.children(index) == [tmp_path / "fresh.md"]
    text = pages.expand(index.read_text(), index)
    assert "* [A fresh page](fresh.md)" in text
    assert "The files here" not in text
    assert pages.summary(tmp_path / "fresh.md") == "Its first sentence, with a link."


def test_the_gallery_has_every_entry():
    index = ROOT / "docs" / "models" / "index.md"
    text = pages.expand(index.read_text(), index)
    stems = {
        p.stem
        for p in (ROOT / "zoo" / "models").rglob("[a-z]*.py")
        if p.parent.name != "posteriordb"
    }
    assert set(re.findall(r"^\| \[`(\w+)`\]", text, flags=re.MULTILINE)) >= stems


def test_the_command_line_page_has_every_command_and_option():
    text = pages.expand(
        (ROOT / "docs" / "command_line.md").read_text(), ROOT / "docs" / "command_line.md"
    )
    for name, command in typer.main.get_command(cli.app).commands.items():
        section = text.partition(f"## zoo {name}\n")[2].partition("\n## ")[0]
        assert all(
            option in section
            for p in command.params
            if p.param_type_name == "option"
            for option in p.opts
        ), name


@pytest.mark.parametrize("room", ["zoo", "guides", "benchmarks"])
def test_the_api_page_has_every_public_name(room):
    page = ROOT / "docs" / "api" / f"{room}.md"
    text = pages.expand(page.read_text(), page)
    assert set(re.findall(rf":: {room}\.(\w+)$", text, flags=re.MULTILINE)) == set(
        importlib.import_module(room).__all__
    )


def test_pictures_and_tables_of_the_architecture_are_of_today():
    assert architecture.PICTURE.read_text() == architecture.draw(), "run `make pictures`"
    page = architecture.PAGE.read_text()
    assert page == architecture.with_table(page), "run `make pictures`"
    assert compiler_picture.PICTURE.read_text() == compiler_picture.draw(), "run `make pictures`"


def resolve(name: str):
    """Import the object of a dotted name."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            if not name.startswith(str(error.name)):
                raise
            continue
        for attribute in parts[cut:]:
            found = getattr(found, attribute)
        return found
    raise AssertionError(name)


@each([p for p in PAGES if p.parent.name != "decisions"], name_of)
def test_names_in_the_text_exist(page):
    """Every `zoo.a.b`, `guides.a.b` or `benchmarks.a.b` in backticks can be imported.

    Trailing calls and options are ignored.
    """
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for name in sorted(
        set(re.findall(r"`((?:zoo|guides|benchmarks)(?:\.[A-Za-z_]\w*)+)(?=[`(\[])", text))
    ):
        resolve(name)


def test_requests_to_other_servers_are_found(tmp_path):
    (tmp_path / "page.html").write_text(
        '<a href="https://pyro.ai">a link</a><script defer src="//cdn.example/x.js"></script>'
        '<link rel="stylesheet" href="_static/x.css"><img alt="" src="https://example.org/x.png">'
    )
    (tmp_path / "sheet.css").write_text(
        "@import url(https://fonts.example/css); a { background: url(data:image/png;base64,AA) }"
    )
    found = outside.requests(tmp_path)
    assert len(found) == 3
    assert any("cdn.example" in f for f in found)
    assert any("example.org" in f for f in found)
    assert any("fonts.example" in f for f in found)


def test_the_ten_lines_of_the_readme_run(capsys):
    code = blocks(ROOT / "README.md", "python")[0]
    assert "guides.fit" in code
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["comparison"].verdict in capsys.readouterr().out
    assert set(names["idata"].groups()) >= {"posterior", "sample_stats", "observed_data"}


def test_the_blocks_of_the_page_on_guides_run_in_order_in_a_new_process(tmp_path):
    """In this process the modules that the page forgets may have been imported by others."""
    code = "\n".join(blocks(ROOT / "docs" / "add_a_guide.md", "python"))
    assert code.count("num_particles=4") == 1
    code = code.replace("num_particles=4", "num_particles=4, steps=60")  # any fit will do
    script = tmp_path / "page.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "CheckResult(status='ok'" in done.stdout


def test_every_module_of_a_package_is_its_attribute_in_a_new_process(tmp_path):
    """And none loads the compiler of torch, which takes as long as all others together.

    Nor does a process that was begun by one of ours, which hands on its folder of the compiler.
    """
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("zoo", "guides", "benchmarks")
        for path in sorted((ROOT / room).glob("[a-z]*"))
        if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    names += ["import sys", "assert 'torch._dynamo' not in sys.modules"]
    code = "import zoo, guides, benchmarks\n" + "\n".join(names)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_table_of_the_readme_is_that_of_its_run():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    stored = json.loads(readme_table.STORED.read_text(encoding="utf-8"))
    assert readme_table.table(stored) in page, "run `python -m site_tools.readme_table RUN`"
    verdicts = [c[0] for row in stored["entries"].values() for c in row["cells"].values()]
    assert set(verdicts) <= set(VERDICTS)
    assert len(verdicts) >= 16


def test_the_table_of_the_readme_follows_its_results():
    stored = {
        "methods": ["full_rank", "nuts"],
        "entries": {
            "a": {
                "reference": ["stored", "ESS 9,000"],
                "cells": {
                    "full_rank": ["shifted", "shifted", "mu", "mean +0.3 ± 0.1 sd", ""],
                    "nuts": ["agrees", "agrees", "mu", "mean +0.01 ± 0.01 sd", "2 divergences"],
                },
            }
        },
    }
    lines = readme_table.table(stored).splitlines()
    assert lines[0] == "| entry | full_rank | nuts | reference |"
    assert lines[2] == (
        "| a | **shifted** mu mean +0.3 ± 0.1 sd | **agrees**, 2 divergences | stored, ESS 9,000 |"
    )
    page = "text\n\n| entry | old |\n|---|\n<!-- report:end -->\n"
    assert readme_table.with_table(page, stored) == (
        "text\n\n" + readme_table.table(stored) + "<!-- report:end -->\n"
    )
