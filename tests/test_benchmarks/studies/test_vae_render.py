"""The page of the study of autoencoders, line by line, and every criterion at its limit."""

import pytest

from benchmarks.studies.vae.render import render


def scored(**changes):
    given = {
        "nll_train": 18.0,
        "nll_held_out": 19.0,
        "nll_held_out_se": 0.25,
        "minus_elbo_held_out": 20.5,
        "active_units": 1,
        "mutual_information_nats": 2.5,
        "aggregate_kl_nats": 0.25,
        "seconds": 60.0,
        "wall": 70.0,
        "grid_ok": True,
        "steps_asked": 9,
    }
    return {**given, **changes}


def gaps(approximation=1.0, amortization=2.0, refined=0.2, worst=1e-3, **changes):
    row = {}
    for part in ("train", "held out"):
        row |= {
            f"kl_nats {part}": [3.0, 0.5],
            f"approximation_gap_nats {part}": [approximation, 0.1],
            f"amortization_gap_nats {part}": [amortization, 0.2],
            f"refined_gap_nats {part}": [refined, 0.3],
            f"reverse_kl_nats {part}": [4.0, 0.4],
            f"coverage90 {part}": [0.876, 0.1],
            f"pareto_k {part}": [0.456, 0.1],
        }
    return {**row, "identity_worst": worst, "images": 20, "faults": [], **changes}


def line(text, start):
    (found,) = [x for x in text.splitlines() if x.startswith(start)]
    return found


def test_nothing_measured_is_the_head_alone():
    text = render({})
    assert text.startswith("# Autoencoders against the exact evidence\n")
    assert "## " not in text
    assert text.endswith("[vae.json](vae.json).\n")


def test_a_row_of_one_seed():
    text = render({"scores": {"plain": scored()}})
    assert (
        line(text, "| plain") == "| plain | 18.00 | 19.00 | 20.50 | 1.50 | 1 | 2.50 | 0.25 | 60 |"
    )
    assert "1 seed (weights and training); at most 9 steps." in " ".join(text.split())
    assert "at most 0.25 nats" in " ".join(text.split())
    assert "1 of 8 rows are measured so far." in text
    assert "## Criteria" not in text


def test_rows_of_several_seeds_have_means_and_ranges():
    other = scored(
        nll_train=19.0,
        minus_elbo_held_out=21.5,
        active_units=2,
        aggregate_kl_nats=0.75,
        nll_held_out=18.0,
        grid_ok=False,
        seconds=1.0,
    )
    text = render(
        {
            "scores": {"plain": scored(), "beta 4": scored(nll_held_out_se=0.5, steps_asked=200)},
            "others": {"plain, seed 1": other, "odd, seed 2": other},
        }
    )
    assert line(text, "| plain") == (
        "| plain | 18.50 (18.00 to 19.00) | 18.50 (18.00 to 19.00) (grid not certified) |"
        " 21.00 (20.50 to 21.50) | 2.50 | 1, 2 | 2.50 (2.50 to 2.50) | 0.50 | 60 |"
    )
    assert line(text, "| beta 4").startswith("| beta 4 | 18.00 | 19.00 | 20.50 |")
    flat = " ".join(text.split())
    assert (
        "3 seeds (weights and training), means (smallest to largest); at most 200 steps." in flat
    )
    assert "at most 0.50 nats, is common to all rows." in flat


def test_eight_rows_are_all():
    rows = {f"row {i}": scored(seconds=90.0) for i in range(8)}
    assert "so far" not in render({"scores": rows})
    assert "7 of 8 rows" in render({"scores": dict(list(rows.items())[:7])})


@pytest.mark.parametrize(
    ("number", "seconds", "word"),
    [(8, 90.0, "met"), (8, 90.1, "**missed**"), (7, 1.0, "**missed**")],
)
def test_eight_rows_take_twelve_minutes_of_one_core(number, seconds, word):
    rows = {f"row {i}": scored(seconds=seconds, wall=100.0) for i in range(number)}
    bars = {"iwae5000": {"mean_error": 0.0, "largest": 0.1, "images": 50}}
    found = line(render({"scores": rows, "bars": bars}), "| at least 8 rows")
    assert found == (
        "| at least 8 rows with exact NLL within 6 minutes on 2 cores |"
        f" {number} rows in {number * seconds:.0f} s of one core ({number * 100} s of wall time,"
        f" on a machine shared with other work) | {word} |"
    )


STARTS = {
    "iwae5000": "| IWAE-5000 within 0.02 nats of the grid |",
    "iwae5000 refined": "| the same from the encoder's q after 50 refinement steps |",
    "iwae5000 defensive": "| the same with half of the 5,000 draws from the prior",
}


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize(
    ("error", "word"),
    [(0.02, "met"), (-0.02, "met"), (0.021, "**missed**"), (-0.021, "**missed**")],
)
def test_an_importance_weighted_bound_is_within_two_hundredths(name, error, word):
    bars = {name: {"mean_error": error, "largest": 0.3456, "images": 50}}
    text = render({"bars": bars})
    found = line(text, STARTS[name])
    more = " over 50 held-out images" if name == "iwae5000" else ""
    assert found.endswith(f"| mean error {error:+.4f}, largest 0.346 nats{more} | {word} |")
    assert sum(x.startswith("| ") for x in text.split("## Gaps")[0].splitlines()) == 2


@pytest.mark.parametrize(("left", "word"), [(0.2, "met"), (0.21, "**missed**")])
def test_the_better_richer_family_removes_four_fifths_of_the_approximation_gap(left, word):
    bars = {"amortized": gaps(1.0), "amortized_full": gaps(0.5), "amortized_flow": gaps(left)}
    text = render({"bars": bars})
    for part in ("train", "held out"):
        start = f"| full covariance or flow removes 80 % of the approximation gap ({part})"
        assert line(text, start) == (
            f"{start} | full covariance 50 %, flow {100 * (1 - left):.0f} % of 1.000 nats |"
            f" {word} |"
        )
    bars["amortized_full"], bars["amortized_flow"] = gaps(left), gaps(0.5)
    assert f"covariance {100 * (1 - left):.0f} %, flow 50 % of 1.000 nats | {word} |" in render(
        {"bars": bars}
    )
    del bars["amortized_flow"]
    assert "removes 80 %" not in render({"bars": bars})


@pytest.mark.parametrize(("refined", "word"), [(0.2, "met"), (0.22, "**missed**")])
def test_refinement_removes_nine_tenths_of_the_amortization_gap(refined, word):
    text = render({"bars": {"amortized": gaps(refined=refined)}})
    for part in ("train", "held out"):
        start = f"| 50 refinement steps remove 90 % of the amortization gap ({part})"
        assert line(text, start) == (
            f"{start} | {100 * (1 - refined / 2):.0f} % of 2.000 nats | {word} |"
        )


@pytest.mark.parametrize(("worst", "word"), [(1e-3, "met"), (1.1e-3, "**missed**")])
def test_the_identity_of_the_bound_holds_for_the_worst_image(worst, word):
    bars = {"amortized": gaps(worst=1e-5), "amortized_full": gaps(worst=worst)}
    assert line(render({"bars": bars}), "| log p(x) - ELBO = KL") == (
        f"| log p(x) - ELBO = KL within 0.001 nats | largest error {worst:.1e} nats over 40 images"
        f" | {word} |"
    )


def test_gaps_have_errors_and_faults_are_listed():
    bars = {"amortized_flow": gaps(faults=["one", "two"]), "amortized": gaps()}
    text = render({"bars": bars})
    rows = [x for x in text.splitlines() if x.startswith(("| independent", "| flow"))]
    cells = "3.000 ± 0.500 | 1.000 ± 0.100 | 2.000 ± 0.200 | 0.200 ± 0.300 | 4.000 ± 0.400"
    assert rows == [
        f"| {words} | {part} | {cells} | 88 % | 0.46 |"
        for words in ("independent normals", "flow")
        for part in ("train", "held out")
    ]
    assert "The gap report found faults:\n\n* flow: one\n* flow: two\n" in text
    assert "found no faults" not in text
    assert "The gap report found no faults." in render({"bars": {"amortized": gaps()}})
