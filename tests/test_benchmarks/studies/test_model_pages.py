"""The table of families on a model's page: from real cells, in place of the part `families`."""

from benchmarks.studies.model_pages import measure as model_pages


def test_the_table_of_a_page_is_that_of_the_comparison(tmp_path, monkeypatch):
    page = tmp_path / "coin.md"
    page.write_text("# coin\n\nBefore.\n\n<!-- families -->\n<!-- /families -->\n\nAfter.\n")
    cells = model_pages.measure("coin", tmp_path / "runs", ["laplace"])
    monkeypatch.setattr(model_pages, "PAGES", tmp_path)
    monkeypatch.setattr(model_pages, "measure", lambda name, out: cells)
    model_pages.main(["coin"])
    text = page.read_text()
    assert "`zoo compare coin --quick --no-nuts`" in text
    assert text.startswith("# coin\n\nBefore.\n\n<!-- families -->\n")
    assert text.endswith("<!-- /families -->\n\nAfter.\n")
    (cell,) = cells
    worst = max(cell["scores"], key=lambda s: abs(s["mean_error"]))
    farthest = max(cell["scores"], key=lambda s: max(s["sd_ratio"], 1 / s["sd_ratio"]))
    assert f"| laplace | {cell['verdict'].replace('_', ' ')} | {worst['mean_error']:+.2f} `{worst['label']}` |" in text
    assert f"| {farthest['sd_ratio']:.2g} `{farthest['label']}` |" in text
    cell["scores"] = [{**score, "label": "cut[0|1]"} for score in cell["scores"]]
    row = model_pages.table("coin", cells).splitlines()[-1]
    assert "`cut[0\\|1]`" in row
    assert row.replace("\\|", "").count("|") == 7  # six cells
