"""The table of families on a model's page, from real cells, in the part `families`."""

import zoo
from benchmarks.run.progress import Events
from benchmarks.studies import Work
from benchmarks.studies.execute import measure as measure_study
from benchmarks.studies.execute import publish
from benchmarks.studies.model_pages.measure import cells
from benchmarks.studies.model_pages.render import table
from benchmarks.studies.model_pages.study import STUDY


def test_the_table_of_a_page_is_that_of_the_comparison(tmp_path, monkeypatch):
    """End to end: pages with the part are found, one is measured, and its table inserted."""
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "docs" / "models" / "coin.md"
    page.parent.mkdir(parents=True)
    page.write_text("# coin\n\nBefore.\n\n<!-- families -->\n<!-- /families -->\n\nAfter.\n")
    (page.parent / "funnel.md").write_text("# funnel\n")
    assert STUDY.part_names == ("coin",)
    monkeypatch.setattr(
        "benchmarks.studies.model_pages.measure.cells",
        lambda name, out, guides, **more: cells(name, out, ["laplace"]),
    )
    stored = measure_study(STUDY, tmp_path / "rows", part="coin", jobs=1)
    assert publish(STUDY, stored) == [page.relative_to(tmp_path)]
    text = page.read_text()
    assert "`zoo compare coin --quick --no-nuts`" in text
    assert text.startswith("# coin\n\nBefore.\n\n<!-- families -->\n")
    assert text.endswith("<!-- /families -->\n\nAfter.\n")
    (cell,) = stored.rows["coin"]
    worst = max(cell["scores"], key=lambda s: abs(s["mean_error"]))
    farthest = max(cell["scores"], key=lambda s: max(s["sd_ratio"], 1 / s["sd_ratio"]))
    assert (
        f"| laplace | {cell['verdict'].replace('_', ' ')} | {worst['mean_error']:+.2f}"
        f" `{worst['label']}` |" in text
    )
    assert f"| {farthest['sd_ratio']:.2g} `{farthest['label']}` |" in text
    cell["scores"] = [{**score, "label": "cut[0|1]"} for score in cell["scores"]]
    row = table("coin", [cell]).splitlines()[-1]
    assert "`cut[0\\|1]`" in row
    assert row.replace("\\|", "").count("|") == 7  # six cells


def test_a_quick_run_fits_the_first_family_alone(tmp_path, monkeypatch):
    asked = []

    def recorded(name, out, guides, **more):
        asked.append(guides)
        return []

    monkeypatch.setattr("benchmarks.studies.model_pages.measure.cells", recorded)
    for quick in (True, False):
        STUDY.measure("banana", Work(quick=quick, jobs=1, out=tmp_path, progress=Events()))
    assert asked == [[zoo.load("banana").families[0]], "all"]
