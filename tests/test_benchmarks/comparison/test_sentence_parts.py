"""Parts of a sentence: what to do next, by the rows of a run and the families of an entry."""

import math
from types import SimpleNamespace

import pytest

from benchmarks.comparison import sentences
from benchmarks.comparison.sentences import comparison_sentence, entry_sentence, short_finding
from benchmarks.types import Reason
from benchmarks.verdicts import verdict_of


def row(method, verdict="agrees", **fields):
    given = {
        "method": method,
        "verdict": verdict,
        "status": "converged",
        "mcmc": None,
        "elbo": None,
        "reasons": (),
        "scores": (),
        "trust": (),
        "reference": SimpleNamespace(posterior=None, usable=True, kind="stored"),
        "posterior": SimpleNamespace(cost=SimpleNamespace(gradient_evaluations=1000)),
    }
    return SimpleNamespace(**{**given, **fields})


def card(families=("mean_field", "full_rank", "low_rank"), **fields):
    given = {"name": "mine", "reference_of": None, "families": families, "conditional": None}
    return SimpleNamespace(**{**given, **fields})


def chains(divergences):
    return SimpleNamespace(divergences=divergences)


def reason(verdict, excess=2.0, label="a", sentence="a: too far."):
    return Reason(verdict=verdict, label=label, excess=excess, sentence=sentence)


@pytest.fixture(autouse=True)
def families(monkeypatch):
    """A ladder: mean_field is held by low_rank, that by full_rank, that by flow."""
    ladder = {
        "mean_field": ("low_rank", "full_rank"),
        "low_rank": ("full_rank",),
        "full_rank": ("flow",),
        "flow": (),
    }
    monkeypatch.setattr(
        sentences, "FAMILIES", {k: SimpleNamespace(richer=v) for k, v in ladder.items()}
    )


def test_divergences_are_counted():
    found = [sentences._divergences(m) for m in (None, chains(0), chains(1), chains(2))]
    assert found == ["", "", ", with 1 divergence", ", with 2 divergences"]


def test_words_are_joined():
    assert sentences._and(["a"]) == "a"
    assert sentences._and(["a", "b"], "or") == "a or b"
    assert sentences._and(["a", "b", "c"]) == "a, b and c"
    assert sentences._clause("  It is. ") == "It is"


def test_rows_of_several_seeds_reject_agree_or_leave_open():
    agree, found, failed, none = (
        row("flow"),
        row("flow", "shifted"),
        row("flow", "fit_failed"),
        row("flow", "no_reference"),
    )
    state = sentences._state
    assert state("flow", []) == state("flow", [row("other", "shifted")]) == "open"
    assert state("flow", [agree, agree]) == "agrees"
    assert state("flow", [agree, none]) == "open"
    assert state("flow", [agree, found]) == state("flow", [agree, failed]) == "rejected"


def test_families_above_hold_a_family_directly_or_not():
    assert sentences._above("mean_field") == {"low_rank", "full_rank", "flow"}
    assert sentences._above("full_rank") == {"flow"}
    assert sentences._above("flow") == sentences._above("own") == set()


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "; try low_rank"),
        ([row("low_rank", "shifted")], "; try full_rank"),
        # what full_rank cannot reach, low_rank cannot
        ([row("full_rank", "shifted")], ""),
        ([row("low_rank", "shifted"), row("full_rank", "fit_failed")], ""),
    ],
)
def test_a_richer_family_that_no_row_rejects_is_advised(rows, text):
    assert sentences._untried("mean_field", card(), rows) == text
    assert sentences._untried("own", card(), rows) == ""
    assert sentences._untried("mean_field", card(("flow",)), rows) == ""


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "; try nuts"),
        ([row("nuts")], "; use nuts"),
        ([row("nuts", mcmc=chains(3))], f"; use nuts, with {sentences.SMALLER}"),
        ([row("mean_field"), row("low_rank", "shifted")], "; try nuts"),
        (
            [row("nuts", "shifted")],
            "; no method of this run agrees: reparameterize, or run more and longer chains",
        ),
        (
            [
                row(
                    "smc",
                    "no_reference",
                    reference=SimpleNamespace(posterior="draws", usable=True, kind="estimated"),
                ),
                row("nuts", "shifted"),
            ],
            "; use the draws of smc",
        ),
    ],
)
def test_without_a_richer_family_another_method_is_advised(rows, text):
    assert sentences._without_richer(rows) == text


def bounded(method, nats, se=0.0, gradients=1000):
    cost = SimpleNamespace(gradient_evaluations=gradients)
    return row(method, elbo={"value_nats": nats, "se": se}, posterior=SimpleNamespace(cost=cost))


@pytest.mark.parametrize(
    ("rows", "order"),
    [
        # three errors of the difference: hypot(0.0025, 0.0024)
        ([("a", -1.0, 0.0024, 3000), ("b", -1.0103, 0.0025, 500)], ["b", "a"]),
        ([("a", -1.0, 0.002, 3000), ("b", -1.0201, 0.0, 500)], ["a", "b"]),
        ([("a", -1.0, 0.01, 3000), ("b", -1.0401, 0.01, 500)], ["b", "a"]),
        ([("a", -1.0, 0.01, 3000), ("b", -1.05, 0.01, 500)], ["a", "b"]),
        # of several seeds the best bound and the lowest cost
        ([("a", -1.0, 0.0, 900), ("b", -5.0, 0.0, 9000), ("b", -1.0, 0.0, 800)], ["b", "a"]),
        ([("a", -9.0, 0.0, 1), ("b", -7.0, 0.0, 2), ("c", -5.0, 0.0, 3)], ["c", "b", "a"]),
    ],
)
def test_the_cheapest_of_equally_good_families_comes_first(rows, order):
    given = [bounded(*one) for one in rows]
    assert sentences._agreeing([*given, row("nuts")]) == order
    assert sentences._advice(card(), [*given, row("d", "shifted")]).startswith(
        f"prefer {order[0]} or {order[1]}"
    )
    step = sentences._next_step("d", "shifted", card(), None, "stored", given)
    assert step == f"; use {order[0]}, which agrees here"  # the same in the summary and in a row
    assert sentences._agrees_here(order[0], given) == f"; use {order[1]}, which agrees here"
    assert sentences._agrees_here("a", [row("nuts"), row("a")]) == ""


def test_a_next_step_is_only_for_findings_and_names_another_form_first():
    step = sentences._next_step
    assert step("mean_field", "agrees", card(), None, "stored", []) == ""
    assert step("mean_field", "shifted", None, None, "stored", []) == ""
    other = card(reference_of="twin")
    text = "; try twin (same posterior, another form)"
    assert step("nuts", "shifted", other, chains(1), "stored", []) == text
    passed = "; the chains passed a region by: run more of them, or reparameterize"
    assert step("nuts", "shifted", card(), None, "stored", []) == passed
    assert step("smc", "shifted", card(), chains(0), "stored", []) == passed
    assert step("mean_field", "shifted", card(), None, "stored", []) == "; try low_rank"
    exact = card((), conditional="grid")
    grid = "; use the exact posterior (zoo.truth.grid)"
    assert step("mean_field", "shifted", exact, None, "exact", []) == grid
    assert step("mean_field", "shifted", exact, None, "nuts", []) == "; try nuts"
    assert step("mean_field", "shifted", card(()), None, "exact", []) == "; try nuts"


def test_a_family_that_could_not_begin_has_a_next_step():
    after = sentences._after_failure
    rows = [row("mean_field", "fit_failed", status="init_failed")]
    assert after("mean_field", card(), rows) == "; try low_rank"
    assert after("mean_field", card(()), rows) == "; try nuts"
    twin = card(reference_of="twin")
    assert after("mean_field", twin, rows) == "; try twin (same posterior, another form)"
    assert after("mean_field", None, rows) == after("mean_field", card(), []) == ""
    assert after("own", card(), [row("own", "fit_failed", status="init_failed")]) == ""
    begun = [*rows, row("mean_field", "fit_failed", status="diverged")]
    assert after("mean_field", card(), begun) == ""


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([row("nuts"), row("flow")], ""),
        ([row("nuts"), row("flow", "shifted")], "use nuts"),
        ([row("nuts", mcmc=chains(2))], f"use nuts, with {sentences.SMALLER}"),
        ([row("flow", "shifted")], "try nuts"),
        ([row("mean_field", "shifted"), row("low_rank", "shifted")], "try full_rank"),
        (
            [
                row("flow", elbo={"value_nats": -3.0}),
                row("full_rank", elbo={"value_nats": -1.0}),
                row("full_rank", elbo={"value_nats": -1.5}),
                row("low_rank", elbo={"value_nats": -9.0}),
                row("mean_field", "fit_failed"),
            ],
            "prefer full_rank or flow",
        ),
        ([row("flow"), row("flow", "shifted"), row("nuts")], "use nuts"),
    ],
)
def test_advice_prefers_guides_that_agree_by_their_bound(rows, text):
    assert sentences._advice(card(), rows) == text
    if text:
        twin = card(reference_of="twin")
        assert sentences._advice(twin, rows) == "try twin (same posterior, another form)"


def test_advice_without_a_method_that_agrees_is_the_exact_posterior_where_known():
    found = row("flow", "shifted", reference=SimpleNamespace(kind="exact"))
    exact = "use the exact posterior (zoo.truth.grid)"
    assert sentences._advice(card(conditional="grid"), [found]) == exact
    assert sentences._advice(card(), [found]) == "try nuts"


def test_severity_is_the_largest_excess_of_a_finding():
    severity = sentences._severity
    found = row("a", "shifted", reasons=(reason("shifted", 2.0), reason("too_narrow", 5.0)))
    assert severity(found) == 5.0
    assert severity(row("a", "agrees", reasons=(reason("shifted", 2.0),))) == 0.0
    assert severity(row("a", "fit_failed")) == 1e6
    assert severity(row("a", "shifted", reasons=(reason("fit_failed", 9.0),))) == 0.0


def score(mean=0.0, ratio=1.0, quantiles=False):
    return SimpleNamespace(
        label="a",
        sd_ratio=ratio,
        sd_ratio_se=0.01,
        log_sd_ratio=math.log(max(ratio, 1e-12)),
        mean_error=mean,
        mean_error_se=0.01,
        by_quantiles=quantiles,
        center="median" if quantiles else "mean",
    )


@pytest.mark.parametrize(
    ("verdict", "one", "text"),
    [
        ("too_narrow", score(-0.8, 0.5), "a sd x0.500, mean off by 0.800 sd"),
        ("shifted", score(0.8, 2.0), "a mean off by 0.800 sd, sd x2.000"),
        ("shifted", score(0.8, 1.0, True), "a median off by 0.800 IQR / 1.35"),
        ("too_narrow", score(0.0, 0.0), "a is a point, no spread"),
        ("too_narrow", score(), "a: too far"),
        ("wrong_shape", score(0.8, 0.5), "a: too far"),
    ],
)
def test_the_worst_component_is_told_by_its_figures(verdict, one, text):
    found = row("flow", verdict, reasons=(reason(verdict),), scores=(one,))
    assert short_finding(found) == text
    found.scores = ()
    assert short_finding(found) == "a: too far"


def test_what_is_no_finding_is_told_by_its_reason():
    assert short_finding(row("flow", "agrees")) == ""
    assert short_finding(row("flow", "fit_failed", reasons=(reason("fit_failed"),))) == (
        "a: too far"
    )


def test_nothing_compared():
    assert entry_sentence([]) == "Nothing was compared."


def test_agreement_is_of_every_mean_and_sd_and_says_what_was_not_looked_for():
    said = "flow agrees with the stored reference: every mean and sd is within its line"
    assert comparison_sentence("flow", "agrees", (), kind="stored") == f"{said}."
    assert comparison_sentence("flow", "agrees", ()) == f"{said.replace('stored ', '')}."
    assert comparison_sentence(
        "flow", "agrees", (), kind="stored", mcmc=chains(2), climbed=False
    ) == (f"{said}, with 2 divergences; not climbed: modes elsewhere were not looked for.")


def test_without_a_reference_checks_are_counted():
    trust = [SimpleNamespace(passed=p, sentence=f"Check {p}.") for p in (True, None, False, True)]
    found = comparison_sentence(
        "flow", "no_reference", (reason("no_reference", sentence="No truth."),), trust=trust
    )
    assert found == (
        f"flow: No truth; 2 of 3 trust checks pass. Check False. {sentences.BLIND_SPOT}"
    )


def test_further_findings_of_other_components_are_counted():
    clause = verdict_of("shifted").clause
    reasons = [reason("shifted"), reason("too_narrow"), reason("shifted", label="b")]
    text = comparison_sentence("flow", "shifted", reasons, kind="stored")
    assert text == f"flow {clause}: a: too far (and 1 more finding)."
    reasons += [reason("too_wide", label="c"), reason("fit_failed", label="d", sentence="Early.")]
    text = comparison_sentence("flow", "shifted", reasons, kind="stored", lost=(2.0, 0.1))
    assert text == f"flow {clause}: a: too far (and 2 more findings); Early."


def test_an_estimated_finding_says_by_what_and_how_many_nats():
    clause = verdict_of("shifted").clause
    text = comparison_sentence(
        "flow",
        "shifted",
        [reason("shifted")],
        kind="estimated",
        lost=(-0.5, 0.1),
        compared_with="smc",
    )
    assert text.startswith(f"flow {clause} (estimated by smc): a: too far; 0.0")
    assert text.endswith("nats below the log evidence.")
    bare = comparison_sentence("flow", "shifted", [reason("shifted")], kind="estimated")
    assert bare == f"flow {clause} (estimated): a: too far."


def test_a_failed_fit_tells_its_step_only_as_a_failure():
    clause = verdict_of("fit_failed").clause
    rows = [row("mean_field", "fit_failed", status="init_failed")]
    given = [reason("fit_failed", sentence="No finite start.")]
    text = comparison_sentence("mean_field", "fit_failed", given, entry=card(), rows=rows)
    assert text == f"mean_field {clause}: No finite start; try low_rank."


def test_seeds_that_fail_for_one_reason_are_named_together(monkeypatch):
    monkeypatch.setattr(sentences, "accepted", lambda *_, **__: None)  # rows by hand
    entry = SimpleNamespace(key="coin", reference_of=None, families=(), conditional=None)
    cost = SimpleNamespace(gradient_evaluations=1000)

    def seeded(seed, verdict, sentence):
        posterior = SimpleNamespace(entry=entry, method="flow", seed=seed, cost=cost)
        given = (reason(verdict, sentence=sentence),) if sentence else ()
        return row("flow", verdict, posterior=posterior, reasons=given)

    rows = [seeded(s, "fit_failed", "No local site.") for s in (0, 1)]
    rows += [
        seeded(2, "fit_failed", "No start."),
        seeded(3, "shifted", "Off."),
        seeded(4, "agrees", ""),
    ]
    text = entry_sentence(rows)
    failed, found = verdict_of("fit_failed").clause, verdict_of("shifted").clause
    assert f"flow s0 and s1 {failed} (No local site)" in text
    assert f"flow s2 {failed} (No start)" in text
    assert f"flow s3 {found} (Off)" in text
