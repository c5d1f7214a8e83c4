"""The study of reweighted draws: rows of real fits, the bar with its interval, misses by name."""

import pytest
from scipy.stats import beta

from benchmarks.studies.reweighted import measure, render
from benchmarks.studies.reweighted.study import STUDY


def fit(entry, seed, mean=0.03, ratio=1.02, *, method="laplace", raw=0.2, refused=""):
    row = {"entry": f"posteriordb/{entry}", "method": method, "seed": seed, "refused": refused}
    if raw is None:
        return {**row, "fit": "init_failed", "gradients": 9}
    row |= {"fit": "ok", "gradients": 200, "raw_mean_error": raw, "raw_sd_ratio": 0.9}
    if refused:
        return row
    figures = {"k_hat": 0.31, "importance_ess": 9000.0, "guide_draws": 16000.0}
    return {
        **row,
        **figures,
        "mean_error": mean,
        "mean_of": "mu",
        "sd_ratio": ratio,
        "sd_of": "log_tau",
        "draws": 4000,
        "capped_mass": 0.0012,
        "seconds": 0.4,
    }


WHY = "laplace on posteriordb/c cannot be reweighted: k-hat 0.93 (at most 0.70), and so on; fit."
ROWS = {
    "laplace": {
        "posteriordb/a": [fit("a", 0), fit("a", 1, ratio=0.92)],
        "posteriordb/b": [fit("b", 0, raw=0.05), fit("b", 1, mean=0.12, raw=0.05)],
        "posteriordb/c": [fit("c", 0, refused=WHY), fit("c", 1)],
        "posteriordb/d": [fit("d", s, raw=None, refused="No mode from 4 starts.") for s in (0, 1)],
    },
    "others": {"posteriordb/a": [fit("a", 0, method="mean_field", ratio=1.2)]},
}


@pytest.mark.parametrize(
    ("mean", "ratio", "expected"),
    [
        (0.1, 1.1, True),
        (0.101, 1.0, False),
        (0.0, 1.101, False),
        (0.0, 1 / 1.1, True),
        (0.0, 0.9, False),  # as far as a ratio of 1.11
    ],
)
def test_the_bar_holds_for_means_and_for_sds(mean, ratio, expected):
    assert render.met(fit("a", 0, mean, ratio)) == expected


def test_a_posterior_counts_if_every_seed_meets_the_bar_and_only_with_a_mode():
    fits = [r for part in ROWS.values() for rows in part.values() for r in rows]
    assert render.bars(fits) == [
        ("`laplace`, reweighted", 1, 1, 3),
        ("`laplace`, raw", 0, 0, 3),
        ("`mean_field`, reweighted", 0, 0, 1),
        ("`mean_field`, raw", 0, 0, 1),
    ]
    low, high = beta.ppf(0.025, 1, 3), beta.ppf(0.975, 2, 2)
    text = render.page(ROWS)
    share = f"1 of 3 (33%, {low:.0%} to {high:.0%})"
    assert f"| {share} | {share} | >= 90% | **no** |" in text
    rows = [fit("e", s, mean=m) for s, m in enumerate((0.02, 0.03, 0.2))]
    assert render.bars(rows)[0] == ("`laplace`, reweighted", 0, 1, 1)
    good = {"laplace": {"posteriordb/a": [fit("a", 0)]}}
    assert "| >= 90% | yes |" in render.page(good)


def test_misses_have_their_names_and_figures():
    text = " ".join(render.page(ROWS).split())
    assert (
        "* `b` (seed 1): mu mean off by 0.12 sds, log_tau sd x1.02 (k-hat 0.31, 4,000 draws)."
        in text
    )
    assert "* `c` (seed 0): k-hat 0.93 (at most 0.70), and so on." in text
    assert "* Without a mode, not counted: `d`." in text
    assert "| `a` | 0.200 | 0.9 | 0.030 | 0.92 | 0.31 | 9,000 | 16,000 | 4,000 | 0.12% |" in text
    assert "| `c` | 0.200 | 0.9 | refused 1 of 2, 0.030 | 1.02 |" in text


def test_the_page_is_that_of_its_published_rows(tmp_path):
    made = STUDY.render(ROWS)
    (tmp_path / "reweighted.json").write_text(made.files["reweighted.json"])
    assert STUDY.render(STUDY.read(tmp_path)) == made
    assert STUDY.render({}).text.startswith("# Reweighted draws on posteriordb\n")
    assert set(STUDY.parts) == set(measure.PARTS)


def test_rows_are_those_of_real_fits():
    rows = measure.rows_of("weibull_survival", ("laplace",), (0,))
    (row,) = rows
    assert row["raw_mean_error"] > row["mean_error"]
    assert row["mean_error"] < 0.1
    assert 0.9 < row["sd_ratio"] < 1.1
    assert row["draws"] == 4000
    assert row["k_hat"] < 0.7
    assert row["components"] > 1
