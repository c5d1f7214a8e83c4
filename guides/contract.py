"""The named checks that a guide family passes on an entry: `checks(entry, family)`."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine

from guides.base.flat import FlatGuide
from guides.base.initialize import find_start
from guides.draws import density_of, draw
from guides.fit_file import load, save
from guides.fitting import fit, program_objective
from guides.objectives.flat import FlatObjective
from guides.registry import FAMILIES, build, check_family, family_of
from guides.session import session
from guides.types import Fit
from zoo.contract.check import Check, Rule, rules
from zoo.contract.subject import Failed, Skipped
from zoo.density.log_density import LogDensity
from zoo.seeds import seeded
from zoo.types import Data, ModelEntry

__all__ = ["checks", "gradient_norms"]

SHORT: dict[str, Any] = {"steps": 60, "patience": 10, "anneal": 20}


def checks(entry: ModelEntry, family: str) -> list[Check]:
    """Return the checks of a family on an entry; each takes about a second on small programs.

    Raises:
        UnknownNameError: no such family.
    """
    check_family(family, entry)
    subject = GuideSubject(entry, family)
    return [rule.on(subject, prefix=f"guide.{family}.") for rule in CHECKS.values()]


class GuideSubject:
    """A family under examination on an entry."""

    def __init__(self, entry: ModelEntry, family: str) -> None:
        self.entry, self.family = entry, family
        self.left: list[str] = []

    @functools.cached_property
    def short(self) -> Fit:
        """One short fit, made by the first check that needs it."""
        return self.fit()

    @property
    def usable(self) -> Fit:
        """The short fit; checks that need a guide are skipped if it has none."""
        if not self.short.ok:
            raise Skipped(f"no usable guide: {self.short.stop.sentence}")
        return self.short

    def fit(self) -> Fit:
        """Fit anew with the same seed, and record additions to Pyro's parameter store."""
        before = set(pyro.get_param_store().keys())
        made = fit(self.entry, self.family, seed=1, data=_data(self.entry), **_short(self.family))
        self.left += sorted(set(pyro.get_param_store().keys()) - before)
        return made


def _short(family: str) -> dict[str, Any]:
    return {
        **SHORT,
        "num_particles": 8 if family in FAMILIES and not FAMILIES[family].is_program else 2,
    }


def _data(entry: ModelEntry) -> Data:
    """Return the evaluation subset of the data."""
    data = entry.load_data()
    return data if entry.judged is None else entry.judged(data)


def covers_sites(subject: GuideSubject) -> str:
    """Draws hold exactly the continuous latent sites, finite, with right shapes and supports."""
    result = subject.usable
    with session(result.entry.dtype):
        density = density_of(result)
        trace = density.trace(
            density.constrain(torch.zeros(density.dim, dtype=density.dtype)), result.data.train
        )
    draws = draw(result, 20, seed=2).draws
    if set(draws) != {s.name for s in density.sites}:
        raise Failed(
            f"the guide draws {sorted(draws)}, the program has"
            f" {sorted(s.name for s in density.sites)}"
        )
    for s in density.sites:
        value = draws[s.name]
        if value.shape != (20, *s.shape) or not bool(torch.isfinite(value).all()):
            raise Failed(
                f"draws of {s.name!r} have shape {tuple(value.shape)} or are not finite; expected"
                f" (20, {tuple(s.shape)})"
            )
        support = trace.nodes[s.name]["fn"].support
        if not all(bool(support.check(v).all()) for v in value):
            raise Failed(f"draws of {s.name!r} leave the support {support}")
    return f"draws cover the {len(density.sites)} latent sites inside their supports"


def gradient_norms(entry: ModelEntry, family: str) -> dict[str, float] | None:
    """Return the gradient norm of each trainable parameter at a jittered start.

    Families without gradients return None.
    """
    data = _data(entry)
    with session(entry.dtype), seeded(0):
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
            objective = FlatObjective(
                density, flat, weights, num_particles=8, batch_size=None, stl=False
            )
        else:
            objective = program_objective(
                entry, data, density, program, guide, weights, num_particles=2, batch_size=None
            )
        named = {**objective.parameters, **{f"program.{n}": p for n, p in weights.items()}}
        with torch.no_grad():
            for parameter in named.values():
                parameter.add_(0.1 * torch.randn(parameter.shape, dtype=parameter.dtype))
        loss = objective.loss(objective.noise(torch.Generator().manual_seed(1)))
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        n: 0.0 if g is None else float(g.norm()) for n, g in zip(named, gradients, strict=True)
    }


def gradients_reach_parameters(subject: GuideSubject) -> str:
    """A gradient reaches every trainable parameter."""
    norms = gradient_norms(subject.entry, subject.family)
    if norms is None:
        raise Skipped("the family has no gradient-trained parameters")
    dead = [name for name, norm in norms.items() if not norm > 0]
    if dead:
        raise Failed(f"no gradient reaches {', '.join(dead)}; those values would never be trained")
    return f"gradients reach all {len(norms)} parameters"


def same_seed_same_result(subject: GuideSubject) -> str:
    """Two fits and two sets of draws with one seed are equal."""
    first, second = subject.short, subject.fit()
    if not np.array_equal(first.losses, second.losses):
        raise Failed("two fits with one seed have different losses")
    if not first.ok:
        return f"the same stop twice ({first.stop.status})"
    a, b = draw(first, 50, seed=3).unconstrained, draw(second, 50, seed=3).unconstrained
    assert a is not None
    assert b is not None
    if not torch.equal(a, b):
        raise Failed("two draws with one seed differ")
    return "the same losses and draws twice"


def log_weights_exact(subject: GuideSubject) -> str:
    """Log weights equal log p - log q of Pyro's own traces on the constrained scale."""
    result = subject.usable
    if result.points:
        raise Skipped(
            f"the guide is a point in {', '.join(result.points)}, which has no log weights"
        )
    with session(result.entry.dtype):
        density = density_of(result)
        if density.discrete:
            raise Skipped("Pyro's plain trace does not sum out the discrete sites")
        if isinstance(result.guide, FlatGuide):
            raise Skipped("the guide is defined on the flat vector only")
        worst = 0.0
        posterior = draw(result, 3, seed=4)
        for i in range(3):
            with torch.no_grad(), torch.random.fork_rng(devices=[]), poutine.block():
                values = {n: v[i] for n, v in posterior.draws.items()}
                assert posterior.unconstrained is not None
                fixed = (
                    {f"_{result.guide._pyro_name}_latent": posterior.unconstrained[i]}
                    if hasattr(result.guide, "_pyro_name")
                    else {}
                )
                guide = poutine.trace(
                    poutine.condition(result.guide, data={**values, **fixed})
                ).get_trace(**result.data.train)
                model = poutine.trace(poutine.condition(result.program, data=values)).get_trace(
                    **result.data.train
                )
                expected = float(model.log_prob_sum() - guide.log_prob_sum())
            assert posterior.log_weights is not None
            worst = max(
                worst, abs(float(posterior.log_weights[i]) - expected) / (1 + abs(expected))
            )
    if worst > 1e-6:
        raise Failed(f"log weights differ from Pyro's traces by {worst:.2g} relative")
    return "log weights equal log p - log q of Pyro's traces"


def saves_and_loads(subject: GuideSubject) -> str:
    """Draws and log weights survive the file of a fit."""
    result = subject.usable
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
    if not same:
        raise Failed("a loaded fit draws otherwise than the saved one")
    return "draws and log weights survive the file"


def store_stays_empty(subject: GuideSubject) -> str:
    """A fit leaves nothing in Pyro's global parameter store."""
    _ = subject.short  # the fit is made by now
    if subject.left:
        raise Failed(f"the fit left {subject.left[0]!r} in the global parameter store")
    return "the global parameter store is untouched"


CHECKS = rules(
    Rule(
        name="covers_sites",
        why="A site the guide leaves out is drawn from its prior, and only a warning says so.",
        body=covers_sites,
    ),
    Rule(
        name="gradients_reach_parameters",
        why="A parameter without gradient is silently never trained.",
        body=gradients_reach_parameters,
    ),
    Rule(
        name="same_seed_same_result",
        why="A result that its seed does not give again can neither be checked nor resumed.",
        body=same_seed_same_result,
    ),
    Rule(
        name="log_weights_exact",
        why="The ELBO, k-hat and every repaired answer are made of the log weights.",
        body=log_weights_exact,
    ),
    Rule(
        name="saves_and_loads",
        why="Reports, audits and later sessions read the guide from its file.",
        body=saves_and_loads,
    ),
    Rule(
        name="store_stays_empty",
        why="What one fit leaves behind is found, and trained, by the next.",
        body=store_stays_empty,
    ),
)
