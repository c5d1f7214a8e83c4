"""The named checks a guide family passes on an entry: `checks(entry, family)`; each says ok, failed or skipped with a sentence."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyro
import torch
from pyro import poutine

from guides.base.flat import FlatGuide
from guides.base.initialize import find_start
from guides.draws import density_of, draw
from guides.fit_file import load, save
from guides.fitting import fit
from guides.objectives.flat import FlatObjective
from guides.registry import FAMILIES, check_family, family_of
from guides.session import session
from guides.types import Fit
from zoo.density.log_density import LogDensity
from zoo.errors import ZooError
from zoo.types import Data, ModelEntry

if TYPE_CHECKING:
    from zoo.contract import Check

__all__ = ["checks", "gradient_norms"]

SHORT: dict[str, Any] = {"steps": 60, "patience": 10, "anneal": 20}
Outcome = tuple[Literal["ok", "failed", "skipped"], str]


def checks(entry: ModelEntry, family: str) -> list[Check]:
    """Return the checks of one family on one entry; running one takes a second or less on a small program.

    Raises:
        UnknownNameError: no such family.
    """
    from zoo.contract import Check, CheckResult

    check_family(family, entry)
    shared: dict[str, Fit] = {}

    def short() -> Fit:
        if "fit" not in shared:
            shared["fit"] = fit(entry, family, seed=1, data=_data(entry), **_short(family))
        return shared["fit"]

    def guarded(run: Callable[[Callable[[], Fit]], Outcome]) -> Callable[[], Any]:
        def result() -> Any:
            try:
                status, sentence = run(short)
            except ZooError as error:
                status, sentence = "failed", str(error)
            return CheckResult(status=status, sentence=sentence)

        return result

    named: dict[str, Callable[[Callable[[], Fit]], Outcome]] = {
        "covers_sites": _covers_sites,
        "gradients_reach_parameters": lambda short: _gradients(entry, family),
        "same_seed_same_result": lambda short: _repeats(short, entry, family),
        "log_weights_exact": _log_weights,
        "saves_and_loads": _saves,
        "store_stays_empty": _store,
    }
    return [Check(name=f"guide.{family}.{name}", run=guarded(run)) for name, run in named.items()]


def _short(family: str) -> dict[str, Any]:
    return {**SHORT, "num_particles": 8 if family in FAMILIES and not FAMILIES[family].is_program else 2}


def _data(entry: ModelEntry) -> Data:
    """Return the data methods are compared on."""
    data = entry.load_data()
    return data if entry.judged is None else entry.judged(data)


def _unusable(result: Fit) -> Outcome | None:
    return None if result.ok else ("skipped", f"no usable guide: {result.stop.sentence}")


def _covers_sites(short: Callable[[], Fit]) -> Outcome:
    """Draws hold exactly the continuous latent sites, finite, with their shapes and inside their supports."""
    result = short()
    if bad := _unusable(result):
        return bad
    with session(result.entry.dtype):
        density = density_of(result)
        trace = density.trace(density.constrain(torch.zeros(density.dim, dtype=density.dtype)), result.data.train)
    draws = draw(result, 20, seed=2).draws
    if set(draws) != {s.name for s in density.sites}:
        return "failed", f"the guide draws {sorted(draws)}, the program has {sorted(s.name for s in density.sites)}"
    for s in density.sites:
        value = draws[s.name]
        if value.shape != (20, *s.shape) or not bool(torch.isfinite(value).all()):
            return "failed", f"draws of {s.name!r} have shape {tuple(value.shape)} or are not finite; expected (20, {tuple(s.shape)})"
        support = trace.nodes[s.name]["fn"].support
        if not all(bool(support.check(v).all()) for v in value):
            return "failed", f"draws of {s.name!r} leave the support {support}"
    return "ok", f"draws cover the {len(density.sites)} latent sites inside their supports"


def gradient_norms(entry: ModelEntry, family: str) -> dict[str, float] | None:
    """Return the gradient norm of every trainable parameter at a jittered start, None for families without gradients."""
    from guides.registry import build

    data = _data(entry)
    with session(entry.dtype), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        program = entry.program(data)
        density = LogDensity(program, data, dtype=entry.dtype)
        guide = build(family, program, data, entry)
        record = family_of(family, entry)
        if record.solve is not None:
            return None
        weights: dict[str, Any] = {}
        if entry.learns and isinstance(program, torch.nn.Module):
            weights = {n: p for n, p in program.named_parameters() if p.requires_grad}
        objective: Any
        if record.flat is not None or isinstance(guide, FlatGuide):
            start = (record.start or find_start)(density, torch.Generator().manual_seed(0))
            flat: Any = guide if record.flat is None else record.flat(guide, start)
            objective = FlatObjective(density, flat, weights, num_particles=8, batch_size=None, stl=False)
        else:
            from guides.fitting import program_objective

            objective = program_objective(entry, data, density, program, guide, weights, num_particles=2, batch_size=None)
        named = {**objective.parameters, **{f"program.{n}": p for n, p in weights.items()}}
        with torch.no_grad():
            for parameter in named.values():
                parameter.add_(0.1 * torch.randn(parameter.shape, dtype=parameter.dtype))
        loss = objective.loss(objective.noise(torch.Generator().manual_seed(1)))
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: 0.0 if g is None else float(g.norm()) for n, g in zip(named, gradients, strict=True)}


def _gradients(entry: ModelEntry, family: str) -> Outcome:
    norms = gradient_norms(entry, family)
    if norms is None:
        return "skipped", "the family has no gradient-trained parameters"
    dead = [name for name, norm in norms.items() if not norm > 0]
    if dead:
        return "failed", f"no gradient reaches {', '.join(dead)}; those values would never be trained"
    return "ok", f"gradients reach all {len(norms)} parameters"


def _repeats(short: Callable[[], Fit], entry: ModelEntry, family: str) -> Outcome:
    first, second = short(), fit(entry, family, seed=1, data=_data(entry), **_short(family))
    if not np.array_equal(first.losses, second.losses):
        return "failed", "two fits with one seed have different losses"
    if not first.ok:
        return "ok", f"the same stop twice ({first.stop.status})"
    a, b = draw(first, 50, seed=3).unconstrained, draw(second, 50, seed=3).unconstrained
    assert a is not None
    assert b is not None
    return ("ok", "the same losses and draws twice") if torch.equal(a, b) else ("failed", "two draws with one seed differ")


def _log_weights(short: Callable[[], Fit]) -> Outcome:
    """Compare log p - log q with Pyro's own traces on the constrained scale, a few draws."""
    result = short()
    if bad := _unusable(result):
        return bad
    if result.points:
        return "skipped", f"the guide is a point in {', '.join(result.points)}, which has no log weights"
    with session(result.entry.dtype):
        density = density_of(result)
        if density.discrete:
            return "skipped", "Pyro's plain trace does not sum out the discrete sites"
        if isinstance(result.guide, FlatGuide):
            return "skipped", "the guide is defined on the flat vector only"
        worst = 0.0
        posterior = draw(result, 3, seed=4)
        for i in range(3):
            with torch.no_grad(), torch.random.fork_rng(devices=[]), poutine.block():
                values = {n: v[i] for n, v in posterior.draws.items()}
                assert posterior.unconstrained is not None
                fixed = {f"_{result.guide._pyro_name}_latent": posterior.unconstrained[i]} if hasattr(result.guide, "_pyro_name") else {}
                guide = poutine.trace(poutine.condition(result.guide, data={**values, **fixed})).get_trace(**result.data.train)
                model = poutine.trace(poutine.condition(result.program, data=values)).get_trace(**result.data.train)
                expected = float(model.log_prob_sum() - guide.log_prob_sum())
            assert posterior.log_weights is not None
            worst = max(worst, abs(float(posterior.log_weights[i]) - expected) / (1 + abs(expected)))
    if worst > 1e-6:
        return "failed", f"log weights differ from Pyro's traces by {worst:.2g} relative"
    return "ok", "log weights equal log p - log q of Pyro's traces"


def _saves(short: Callable[[], Fit]) -> Outcome:
    result = short()
    if bad := _unusable(result):
        return bad
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "guide.pt"
        save(result, path)
        again = load(path, result.entry, data=result.data)
    a, b = draw(result, 20, seed=5), draw(again, 20, seed=5)
    assert a.unconstrained is not None
    assert b.unconstrained is not None
    same = torch.equal(a.unconstrained, b.unconstrained) and result.points == again.points
    if a.log_weights is not None and b.log_weights is not None:
        same = same and torch.allclose(a.log_weights, b.log_weights, rtol=1e-10, atol=1e-10)
    return ("ok", "draws and log weights survive the file") if same else ("failed", "a loaded fit draws otherwise than the saved one")


def _store(short: Callable[[], Fit]) -> Outcome:
    before = set(pyro.get_param_store().keys())
    short()
    left = sorted(set(pyro.get_param_store().keys()) - before)
    return (
        ("failed", f"the fit left {left[0]!r} in the global parameter store") if left else ("ok", "the global parameter store is untouched")
    )
