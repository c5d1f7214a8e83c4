"""The documentation is true: links lead somewhere, commands exist, the Python of the README runs."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

from benchmarks.cli import commands as cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
REQUIRED = ("index", "add_a_model", "add_a_guide", "model_contract", "reading_a_report")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_promised_pages_exist_and_every_entry_has_one():
    assert {p.stem for p in (ROOT / "docs").glob("*.md")} >= set(REQUIRED)
    models = {p.stem for p in (ROOT / "zoo" / "models").rglob("[a-z]*.py") if p.parent.name != "posteriordb"}
    assert {p.stem for p in (ROOT / "docs" / "models").glob("*.md")} >= models


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [t for t in targets if not t.startswith(("http://", "https://", "mailto:")) and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_flags_exist(page):
    commands = typer.main.get_command(cli.app).commands
    shown = re.findall(r"(?:^\$ |^|&& |`)zoo ([a-z]+ [^\n`&#]*)", page.read_text(), flags=re.MULTILINE)
    for text in shown:
        words = shlex.split(text)
        assert words[0] in commands, text
        known = {option for p in commands[words[0]].params for option in (*p.opts, *p.secondary_opts)}
        unknown = [w for w in words[1:] if w.startswith("--") and w.split("=")[0] not in known]
        assert not unknown, text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_of_the_pages_parses(page):
    for text in blocks(page, "python"):
        ast.parse(text.replace("        ...", "        pass"))


def test_the_ten_lines_of_the_readme_run(capsys):
    code = blocks(ROOT / "README.md", "python")[0]
    assert "guides.fit" in code
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["comparison"].verdict in capsys.readouterr().out
    assert set(names["idata"].groups()) >= {"posterior", "sample_stats", "observed_data"}
