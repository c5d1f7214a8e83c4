"""Checks of the generative program: it runs, simulates, and declares its independence."""

from __future__ import annotations

import pyro
import torch
from pyro.util import check_site_shape

from zoo.contract.check import Rule, rules
from zoo.contract.predictive import prior_predictive
from zoo.contract.subject import Failed, Skipped, Subject
from zoo.density.likelihood import has_likelihood, untouched_data
from zoo.density.log_density import LogDensity, default_dtype, trace_program
from zoo.errors import listed

__all__ = ["CHECKS"]


def runs(subject: Subject) -> str:
    """The program runs under validation and every site has a finite log probability."""
    with pyro.validation_enabled(True), default_dtype(subject.entry.dtype):
        trace = trace_program(subject.program, subject.data.train)
        trace.compute_log_prob()
    for node in subject.sites(trace):
        if not torch.isfinite(node["log_prob"]).all():
            raise Failed(
                f"Site {node['name']!r} has a log probability that is not finite at an ordinary"
                " point; check its arguments."
            )
    if subject.observed and not subject.data.observed:
        names = [n["name"] for n in subject.observed]
        raise Failed(
            f"Sites {names} are observed but Data.observed is empty; name these data there."
        )
    return f"{len(subject.sites(trace))} sites, all finite."


def likelihood(subject: Subject) -> str:
    """Something is observed, or the card has the tag `no_data`; data without a term are named."""
    if not has_likelihood(subject.trace):
        if "no_data" not in subject.entry.tags and "from_program" not in subject.entry.tags:
            raise Failed(
                "Nothing is observed, so the posterior is the prior; write obs=, or give the card"
                " the tag 'no_data'."
            )
        return "Nothing is observed, as the card says."
    loose = untouched_data(subject.density)
    if loose:
        return f"Data {listed(loose)} touch no likelihood term, all others do."
    return "Every tensor of the data enters a likelihood term."


def plates(subject: Subject) -> str:
    """Every batch axis of every site is declared by a plate."""
    depth = max(
        (-f.dim for n in subject.sites() for f in n["cond_indep_stack"] if f.vectorized), default=0
    )
    for node in subject.sites():
        try:
            with pyro.validation_enabled(True):
                check_site_shape(node, max(depth, node["log_prob"].ndim))
        except ValueError as error:
            shape = list(node["fn"].batch_shape)
            cure = "put it inside `with pyro.plate(...)` or mark the axes with .to_event(n)"
            raise Failed(
                f"Site {node['name']!r} has batch axes {shape} that no plate declares; {cure}."
            ) from error
    return f"Every batch axis lies in a plate; {depth} nested at most."


def parameters_trained(subject: Subject) -> str:
    """Every weight of a program that learns gets a gradient."""
    module = subject.program
    weights = (
        [(k, p) for k, p in module.named_parameters() if p.requires_grad]
        if isinstance(module, torch.nn.Module)
        else []
    )
    if not subject.entry.learns:
        if weights:
            raise Failed(
                f"The program has trainable weights ({weights[0][0]}, ...) but the card says"
                " learns=False; set learns=True."
            )
        raise Skipped("The program has no weights of its own.")
    if not weights:
        text = "keep pyro.param and networks on a PyroModule, or use zoo.from_program"
        raise Failed(f"The card says learns=True but the program owns no parameters; {text}.")
    density = LogDensity(module, subject.data, dtype=subject.entry.dtype)
    reached = {name: 0.0 for name, _ in weights}
    for u in subject.points[:3]:
        grads = torch.autograd.grad(
            density.evaluate(u), [p for _, p in weights], allow_unused=True
        )
        for (name, _), grad in zip(weights, grads, strict=True):
            reached[name] += 0.0 if grad is None else float(grad.abs().sum())
    dead = [name for name, size in reached.items() if not size > 0]
    if dead:
        raise Failed(
            f"Weights {dead} get no gradient and would never be trained; use or freeze them."
        )
    return f"All {len(weights)} weights get a gradient."


CHECKS = rules(
    Rule(
        name="runs",
        why=(
            "A site that is not finite at an ordinary point stops every sampler at its first step."
        ),
        body=runs,
        tier="entry",
    ),
    Rule(
        name="prior_predictive",
        why="Predictive checks and simulated truths need the same program without its data.",
        body=prior_predictive,
    ),
    Rule(
        name="likelihood",
        why="With a forgotten obs= the prior is compared with itself, and agrees.",
        body=likelihood,
    ),
    Rule(
        name="plates",
        why=(
            "An undeclared batch axis gives wrong minibatch scales and wrong enumeration, often"
            " silently."
        ),
        body=plates,
        tier="entry",
    ),
    Rule(
        name="parameters_trained",
        why="A weight without gradient is silently never trained.",
        body=parameters_trained,
    ),
)
