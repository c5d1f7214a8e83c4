"""The table of families over several entries shows the numbers of the worst seed."""

import csv
from types import SimpleNamespace

import pytest

from benchmarks.studies.draw_parity.render import read
from benchmarks.studies.posteriordb import measure as vi_table
from benchmarks.studies.posteriordb import render
from benchmarks.studies.posteriordb.study import STUDY


def row(entry, method, seed, verdict, mean, ratio, k=0.3):
    return {
        "entry": entry,
        "method": method,
        "seed": seed,
        "status": "ok",
        "verdict": verdict,
        "decided_by": "x",
        "worst_mean_error": mean,
        "worst_mean_error_se": 0.02,
        "sd_ratio": ratio,
        "sd_ratio_se": 0.02,
        "pareto_k": k,
        "pareto_k_threshold": 0.7,
        "gradient_evaluations": 1000 * (seed + 1),
        "seconds": 2.0 + seed,
    }


ROWS = [
    row("posteriordb/a", "mean_field", 0, "too_narrow", 0.02, 0.5),
    row("posteriordb/a", "mean_field", 1, "too_narrow", -0.4, 0.02, 1.9),
    row("posteriordb/a", "full_rank", 0, "agrees", 0.03, 1.01),
    row("posteriordb/a", "full_rank", 1, "shifted", 0.2, 0.99),
    row("posteriordb/b", "laplace", 0, "fit_failed", None, None, None),
]


def test_the_worst_seed_is_shown(tmp_path):
    text = render.markdown(ROWS, "A title")
    assert (
        "| `a` | **too narrow** m -0.4, s 0.02, k 1.9 | **agrees / shifted** m +0.2, s 0.99, k 0.3"
        " |  |  |" in text
    )
    assert "| `b` |  |  |  | **fit failed** |" in text
    assert "| `a` | 1.5 k, 2.5 s | 1.5 k, 2.5 s |  |  |" in text
    assert "| mean_field | 2 | 0 | 0 | 0 | 2 |" in text  # agrees, fit failed, shifted, too narrow
    table = list(csv.DictReader(render.table(ROWS).splitlines()))
    assert [r["worst_mean_error"] for r in table] == ["0.02", "-0.4", "0.03", "0.2", ""]
    made = STUDY.render({"fits": ROWS})
    assert made.files["posteriordb.svg"].startswith("<?xml")
    assert made == STUDY.render({"fits": ROWS})  # deterministic in the rows
    (tmp_path / "posteriordb.csv").write_text(made.files["posteriordb.csv"])
    assert STUDY.read(tmp_path) == {"fits": ROWS, "chains": []}


def test_chains_of_the_draw_parity_beside_it_are_in_the_picture(tmp_path):
    assert render.chains(read(tmp_path)) == []
    rows = (
        "entry,ess_bulk_min,gradient_evaluations,target_accept",
        "a,2500,40000,0.8",
        "a,900,90000,0.99",
        "b,,100,0.8",
    )
    (tmp_path / "draw_parity.csv").write_text("\n".join(rows))
    chains = render.chains(read(tmp_path))
    assert chains == [[40_000.0, 0.02]]
    assert "nuts" not in render.picture(ROWS)
    assert "nuts" in render.picture(ROWS, chains)


def test_rows_of_a_run_are_those_of_its_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(vi_table, "FAMILIES", ("laplace",))
    folders = vi_table.run(["coin"], tmp_path, seeds=(0,), jobs=1)
    rows = vi_table.summaries(folders)
    assert [r["method"] for r in rows] == ["laplace"]
    assert all(r["worst_mean_error"] is not None and r["seconds"] > 0 for r in rows)
    assert render.remarks(rows)[0].startswith("1 posteriors, 1 fits, seed 0,")


@pytest.mark.parametrize("rows", [[], ROWS[-1:]])
def test_an_empty_table_is_still_a_page(rows):
    assert STUDY.render({"fits": rows}).text.startswith("# Variational inference on posteriordb\n")


def test_a_row_has_the_numbers_of_its_worst_judged_components():
    """The largest absolute error with its sign, and the ratio farthest from 1 in either way."""

    def score(mean, ratio, judged=True):
        return {
            "mean_error": mean,
            "mean_error_se": abs(mean) / 10,
            "sd_ratio": ratio,
            "sd_ratio_se": ratio / 10,
            "judged": judged,
        }

    cell = {
        "entry": "posteriordb/a",
        "method": "laplace",
        "seed": 2,
        "status": "ok",
        "verdict": "shifted",
        "reasons": [{"label": "beta[1]"}],
        "scores": [score(0.1, 1.3), score(-0.4, 0.9), score(0.05, 0.2), score(3.0, 9.0, False)],
        "pareto_k": {"value": 0.8, "threshold": 0.7},
        "cost": {"gradient_evaluations": 1200, "seconds": 3.5},
    }
    found = vi_table._row(cell)
    assert (found["worst_mean_error"], found["worst_mean_error_se"]) == (-0.4, 0.04)
    assert (found["sd_ratio"], found["sd_ratio_se"]) == (0.2, pytest.approx(0.02))
    assert (found["decided_by"], found["pareto_k"], found["seconds"]) == ("beta[1]", 0.8, 3.5)
    assert "m -0.4, s 0.2, k 0.8" in render.markdown([found])


@pytest.mark.parametrize("quick", [False, True])
def test_every_family_is_fitted_with_three_seeds(monkeypatch, tmp_path, quick):
    asked = []

    def execute(plan, *, out, jobs, events, pages):
        asked.append((plan, out.name, jobs, pages))
        return SimpleNamespace(path=out)

    monkeypatch.setattr(vi_table, "execute", execute)
    folders = vi_table.run(["coin"], tmp_path, quick=quick)
    assert [f.name for f in folders] == ["seed0", "seed1", "seed2"]
    assert [plan.seeds for plan, *_ in asked] == [(0,), (1,), (2,)]
    for plan, name, jobs, pages in asked:
        assert (plan.entries, plan.guides, plan.nuts) == (("coin",), vi_table.FAMILIES, False)
        assert (plan.quick, jobs, pages) == (quick, 2, False)
        assert name == f"seed{plan.seeds[0]}"
    vi_table.run(["coin"], tmp_path, seeds=(4,), jobs=1)
    assert asked[-1][0].seeds == (4,)
    assert asked[-1][2] == 1
