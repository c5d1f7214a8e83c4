"""Faults planted for the bound audit, in programs, guides and estimators.

They are published errors and similar ones.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch.distributions.transforms import ExpTransform

from benchmarks.audit.estimators import Reported
from benchmarks.audit.targets import TARGETS
from benchmarks.audit.targets_conjugate import GROUPS, VALUES
from guides.base.flat import FlatGuide, standard_normal_log_prob
from zoo.density.log_density import LogDensity

OURS = Reported()
BITS = math.log(2)


@cache
def fitted(name, family):
    return OURS.fit(TARGETS[name].entry, family)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A wrong implementation of a target, and the check that must catch it."""

    check: str
    target: str
    like: str
    family: str = "mean_field"
    program: Callable[..., Any] | None = None
    guide: Callable[..., Any] | None = None
    train: dict[str, Any] | None = None
    reported: dict[str, Callable[..., Any]] = field(default_factory=dict)
    evidence: Callable[[float], float] = float
    patch: Callable[[], Any] = contextlib.nullcontext

    def subject(self):
        """Return the entry, the families and the keywords of the audit."""
        target = TARGETS[self.target]
        entry, reported, family = target.entry, dict(self.reported), self.family
        if self.program is not None:
            entry = replace(entry, build=lambda data: self.program)
        if self.train is not None:
            data = replace(entry.load_data(), train={**entry.load_data().train, **self.train})
            entry = replace(entry, make_data=lambda seed: data)
        if self.guide is not None:
            family = "own"
            entry = replace(entry, own_guides={"own": self.guide})
        elif self.program is None and self.train is None and "fit" not in reported:
            reported["fit"] = lambda entry, family: fitted(self.target, family)
        return (
            entry,
            [family],
            {
                "log_evidence": self.evidence(target.log_evidence()),
                "route": target.route,
                "reported": Reported(**reported),
            },
        )


# -- objectives --------------------------------------------------------------------------------


def terms(fit, particles, index, seed):
    """Return mean log likelihood of the given units, and mean log prior - log q.

    The likelihood is unscaled; the program has no local sites.
    """
    density = LogDensity(fit.program, fit.data)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u = fit.guide.get_posterior().sample((particles,))
        draws = density.constrain(u)
        rows = density.pointwise(draws)["y"].reshape(particles, -1)  # [particle, unit]
        kl = density.batch(u) - rows.sum(-1) - fit.guide.get_posterior().log_prob(u)
    some = rows if index is None else rows[:, index]
    return float(some.sum(-1).mean()), float(kl.mean())


def weighted(likelihood, kl):
    """Return an objective with weighted likelihood and KL.

    The weights are functions of (units used, all units).
    """

    def objective(fit, particles):
        size = fit.data.size

        def loss(index, seed):
            used = size if index is None else len(index)
            log_likelihood, minus_kl = terms(fit, particles, index, seed)
            return -(likelihood(used, size) * log_likelihood + kl(used, size) * minus_kl)

        return loss

    return objective


def right(used, size):
    return size / used


def one(used, size):
    return 1.0


def iwae(fit, particles):
    density = LogDensity(fit.program, fit.data)

    def loss(index, seed):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            u = fit.guide.get_posterior().sample((particles,))
            log_w = density.batch(u) - fit.guide.get_posterior().log_prob(u)
        return -float(log_w.logsumexp(0) - math.log(particles))

    return loss


def unpaired(fit, particles):
    """Pass the rows in the given order, but with the units in their own order."""
    sound = OURS.objective(fit, particles)
    y = fit.data.train["y"]

    def loss(index, seed):
        if index is None:
            return sound(None, seed)
        moved = replace(fit, data=replace(fit.data, train={"y": y[index]}))
        return OURS.objective(moved, particles)(None, seed)

    return loss


def losses(change):
    def fit(entry, family):
        sound = fitted(entry.name, family)
        return replace(sound, losses=change(sound.losses))

    return {"fit": fit}


def elbo(change):
    def reported(fit, n, seed):
        value = OURS.elbo(fit, n, seed)
        return replace(value, value_nats=change(fit, n, seed, value.value_nats))

    return {"elbo": reported}


def log_mean_weight(fit, n, seed, value):
    log_w = OURS.draw(fit, n, seed).log_weights
    return float(log_w.logsumexp(0)) - math.log(n)


def without_kl(fit, n, seed, value):
    return terms(fit, 200, None, seed)[0]


def few_used(fit, n, seed):
    """Use 20 draws, but report the requested number."""
    return replace(OURS.elbo(fit, 20, seed), draws=n)


# -- draws -------------------------------------------------------------------------------------


def resized(posterior, rows):
    return replace(
        posterior,
        draws={k: v[rows] for k, v in posterior.draws.items()},
        unconstrained=posterior.unconstrained[rows],
        log_weights=posterior.log_weights[rows],
    )


def tiled(fit, n, seed):
    return resized(OURS.draw(fit, n, seed), torch.arange(n) % 100)


def always_hundred(fit, n, seed):
    return OURS.draw(fit, 100, seed)


def no_jacobian(fit, n, seed):
    """Weights of log p on the constrained scale over log q on the unconstrained one."""
    posterior = OURS.draw(fit, n, seed)
    return replace(posterior, log_weights=posterior.log_weights - posterior.unconstrained.sum(-1))


def no_normal_constant(fit, n, seed):
    posterior = OURS.draw(fit, n, seed)
    return replace(posterior, log_weights=posterior.log_weights - 0.5 * math.log(2 * math.pi))


# -- bounds and held-out scores ----------------------------------------------------------------


def unnormalized(log_w):
    return float(log_w.logsumexp(1).mean())


def mean_of_logs(log_w):
    return float(log_w.mean())


def trimmed(log_w):
    """Drop the largest tenth of the weights."""
    kept = log_w.sort(1).values[:, : max(1, math.ceil(0.9 * log_w.shape[1]))]
    return float((kept.logsumexp(1) - math.log(kept.shape[1])).mean())


def mean_log_score(posterior, density):
    return float(
        density.pointwise(posterior.draws, posterior.data.test)["y"]
        .reshape(len(posterior.draws["mean"]), -1)
        .mean()
    )


def score_with_kl(posterior, density):
    rows = len(posterior.data.test["y"])
    return OURS.heldout(posterior, density) - 2.0 / rows


# -- programs ----------------------------------------------------------------------------------


class UnscaledNormal(dist.Normal):
    """A squared error in place of a normal likelihood: its constant is missing."""

    def log_prob(self, value):
        return super().log_prob(value) + 0.5 * math.log(2 * math.pi)

    def expand(self, batch_shape, _instance=None):
        return UnscaledNormal(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


class SoftBernoulli(dist.Bernoulli):
    """Binary cross-entropy of gray values with a support that accepts them."""

    support = dist.constraints.unit_interval
    has_enumerate_support = False

    def __init__(self, logits):
        super().__init__(logits=logits, validate_args=False)

    def log_prob(self, value):
        return value * self.logits - torch.nn.functional.softplus(self.logits)

    def expand(self, batch_shape, _instance=None):
        return SoftBernoulli(self.logits.expand(batch_shape))


class WrongSignExp(dist.transforms.ExpTransform):
    def log_abs_det_jacobian(self, x, y):
        return -x


class WrongLogNormal(dist.TransformedDistribution):
    support = dist.constraints.positive

    def __init__(self):
        super().__init__(dist.Normal(torch.tensor(0.0), torch.tensor(0.7)), [WrongSignExp()])


def wrong_jacobian(y):
    shape = pyro.sample("shape", WrongLogNormal())
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Gamma(shape, 1.3), obs=y)


def grey(kind):
    def program(x, y, index=None):
        level = pyro.sample("level", dist.Normal(0.0, 1.5))
        slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
        with pyro.plate("row", 5, subsample=index):
            pyro.sample("y", kind(level + slope * x), obs=y)

    return program


def bernoulli(logits):
    return dist.Bernoulli(logits=logits, validate_args=False)


def normal_program(
    *, sd=1.5, kind=dist.Normal, flat=False, plate=8, twice=False, constant=0.0, scaled=True
):
    """The program of the target normal_normal with one fault."""

    def program(y, index=None):
        prior = (
            dist.ImproperUniform(dist.constraints.real, (), ()) if flat else dist.Normal(0.5, 2.0)
        )
        mean = pyro.sample("mean", prior)
        size = plate if scaled else len(y)
        with pyro.plate("row", size, subsample=index if scaled else None):
            pyro.sample("y", kind(mean, torch.tensor(sd)), obs=y)
            if twice:
                pyro.sample("again", kind(mean, torch.tensor(sd)), obs=y)
        if constant:
            pyro.factor("constant", torch.tensor(constant) + 0 * mean)

    return program


def no_local_prior(y, index=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("group", 5, subsample=index):
        effect = pyro.sample("effect", dist.Normal(mean, 1.0).mask(False))
        pyro.sample(
            "y",
            dist.Normal(effect.unsqueeze(-1), 0.5).expand([*effect.shape, 3]).to_event(1),
            obs=y,
        )


def first_rows(y, index=None):
    """An offset per group, read from the top instead of at the index."""
    offset = torch.linspace(-1, 1, len(GROUPS), dtype=torch.float64)
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("group", 5, subsample=index):
        effect = pyro.sample("effect", dist.Normal(mean + offset[: len(y)], 1.0))
        pyro.sample(
            "y",
            dist.Normal(effect.unsqueeze(-1), 0.5).expand([*effect.shape, 3]).to_event(1),
            obs=y,
        )


# -- guides ------------------------------------------------------------------------------------


class OwnGuide(FlatGuide):
    """u = m + s sinh(a asinh(eps)): a one-dimensional flow, possibly with a wrong log density."""

    def __init__(self, dim, fault=""):
        super().__init__()
        self.dim = self.noise_dim = dim
        self.fault = fault
        self.loc = torch.nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.log_scale = torch.nn.Parameter(torch.full((dim,), -0.7, dtype=torch.float64))
        self.tail = torch.nn.Parameter(torch.full((dim,), 0.1, dtype=torch.float64))

    def _log_q(self, noise):
        a, x = self.tail.exp(), noise.asinh()
        # log derivative of sinh(a asinh(eps))
        slope = a.log() + (a * x).cosh().log() - 0.5 * (1 + noise.square()).log()
        sign = -1.0 if self.fault == "sign" else 1.0
        scale = 2 * self.log_scale if self.fault == "variance" else self.log_scale
        return standard_normal_log_prob(noise) - (sign * slope + scale).sum(-1)

    def sample(self, noise, *, index=None, stl=False):
        return self.loc + self.log_scale.exp() * (
            self.tail.exp() * noise.asinh()
        ).sinh(), self._log_q(noise)

    def log_prob_flat(self, u):
        z = (u - self.loc) / self.log_scale.exp()
        return self._log_q((z.asinh() / self.tail.exp()).sinh())

    def watched(self):
        return self.loc.detach()

    def finish(self):
        """Nothing to do."""


def own(fault):
    return lambda program, data, entry: OwnGuide(LogDensity(program, data).dim, fault)


# -- the density itself ------------------------------------------------------------------------


def exp_with_wrong_sign():
    return mock.patch.object(ExpTransform, "log_abs_det_jacobian", lambda self, x, y: -x)


def prior_forgotten():
    """A density without its first site."""

    def log_joint(self, draws, tensors):
        trace = self.trace(draws, tensors)
        trace.compute_log_prob()
        first = self.sites[0].name
        return trace.log_prob_sum() - trace.nodes[first]["log_prob_sum"]

    return mock.patch.object(LogDensity, "log_joint", log_joint)


def halves(fit):
    return np.linspace(0.0, 0.6, 150)


N = "normal_normal"
FAULTS = {
    "KL divided by the batch size": Fault(
        check="objective_is_minus_elbo",
        target=N,
        like="PyTorch-VAE #11, #23, #40",
        reported={"objective": weighted(right, lambda b, n: 1 / n)},
    ),
    "KL divided by 784 pixels": Fault(
        check="objective_is_minus_elbo",
        target=N,
        like="PyTorch's VAE example #234",
        reported={"objective": weighted(right, lambda b, n: 1 / 784)},
    ),
    "KL averaged twice": Fault(
        check="objective_is_minus_elbo",
        target=N,
        like="gae #8, #20",
        reported={"objective": weighted(right, lambda b, n: 1 / n**2)},
    ),
    "KL times batch / data": Fault(
        check="minibatches_average",
        target=N,
        like="PyTorch-VAE #35, #56",
        reported={"objective": weighted(right, lambda b, n: b / n)},
    ),
    "minibatch likelihood not scaled up": Fault(
        check="minibatches_average",
        target=N,
        like="PyTorch-VAE",
        reported={"objective": weighted(one, one)},
    ),
    "sign of the objective": Fault(
        check="objective_is_minus_elbo",
        target=N,
        like="Trace_ELBO.loss",
        reported={"objective": weighted(lambda b, n: -n / b, lambda b, n: -1)},
    ),
    "log of the mean weight as ELBO objective": Fault(
        check="objective_is_minus_elbo",
        target="linear_factor",
        like="IWAE losses reported as ELBO",
        reported={"objective": iwae},
    ),
    "annealing ends at 0.6": Fault(
        check="annealing_ends_at_one",
        target=N,
        like="scvi-tools #1569",
        reported={"annealing": halves},
    ),
    "annealing ends at 0.6, unsaid": Fault(
        check="objective_is_minus_elbo",
        target=N,
        like="scvi-tools #1569",
        reported={"objective": weighted(right, lambda b, n: 0.6)},
    ),
    "sign of the losses": Fault(
        check="losses_end_at_minus_elbo",
        target=N,
        like="scvi-tools PR 3373",
        reported=losses(lambda x: -x),
    ),
    "losses in bits": Fault(
        check="losses_end_at_minus_elbo",
        target=N,
        like="vdvae #5 (units)",
        reported=losses(lambda x: x / BITS),
    ),
    "losses per row": Fault(
        check="losses_end_at_minus_elbo",
        target=N,
        like="gensim #701",
        reported=losses(lambda x: x / len(VALUES)),
    ),
    "sign of the ELBO": Fault(
        check="elbo_reported",
        target=N,
        like="scvi-tools PR 3373",
        reported=elbo(lambda f, n, s, v: -v),
    ),
    "ELBO in bits": Fault(
        check="elbo_reported",
        target=N,
        like="vdvae #5 (units)",
        reported=elbo(lambda f, n, s, v: v / BITS),
    ),
    "log of the mean weight as ELBO": Fault(
        check="elbo_reported",
        target="linear_factor",
        like="tomotopy #147",
        reported=elbo(log_mean_weight),
    ),
    "ELBO without its KL": Fault(
        check="elbo_below_evidence",
        target=N,
        like="BayesianGaussianMixture #8823",
        reported=elbo(without_kl),
    ),
    "requested draws ignored": Fault(
        check="draws_honored", target=N, like="pythae get_nll", reported={"draw": always_hundred}
    ),
    "a hundred draws repeated": Fault(
        check="draws_honored", target=N, like="pythae get_nll", reported={"draw": tiled}
    ),
    "twenty draws used of those requested": Fault(
        check="draws_honored", target=N, like="pythae get_nll", reported={"elbo": few_used}
    ),
    "weights without the Jacobian": Fault(
        check="log_weights",
        target="half_normal_scale",
        like="a change of variables forgotten",
        reported={"draw": no_jacobian},
    ),
    "weights without a constant of q": Fault(
        check="gap_is_kl",
        target=N,
        like="PyG PR 1368 (a term of the KL)",
        reported={"draw": no_normal_constant},
    ),
    "weights not divided by their number": Fault(
        check="sampled_bounds",
        target=N,
        like="pythae #123 (log mean exp)",
        reported={"bound": unnormalized},
    ),
    "mean of logs as sampled bound": Fault(
        check="sampled_bounds",
        target="linear_factor",
        like="tomotopy #147",
        reported={"bound": mean_of_logs},
    ),
    "largest weights trimmed": Fault(
        check="bound_converges",
        target="linear_factor",
        like="stabilized importance weights",
        reported={"bound": trimmed},
    ),
    "held-out mean of logs": Fault(
        check="heldout_value",
        target=N,
        like="gensim #701, #951",
        reported={"heldout": mean_log_score},
    ),
    "held-out score with a term per call": Fault(
        check="heldout_splits",
        target=N,
        like="scikit-learn #20032",
        reported={"heldout": score_with_kl},
    ),
    "evidence in bits": Fault(
        check="evidence", target=N, like="vdvae #5 (units)", evidence=lambda z: z / BITS
    ),
    "variance where an sd belongs": Fault(
        check="evidence", target=N, like="bjlkeng/sandbox #10", program=normal_program(sd=2.25)
    ),
    "missing prior term": Fault(
        check="evidence",
        target=N,
        like="BayesianGaussianMixture #14419",
        program=normal_program(flat=True),
    ),
    "likelihood counted twice": Fault(
        check="evidence",
        target=N,
        like="gae #20 (a term averaged or summed twice)",
        program=normal_program(twice=True),
    ),
    "a constant in a factor": Fault(
        check="evidence", target=N, like="tomotopy #149", program=normal_program(constant=-0.01)
    ),
    "prior of the local sites dropped": Fault(
        check="evidence",
        target="random_effects",
        like="BayesianGaussianMixture #8823",
        program=no_local_prior,
    ),
    "normal likelihood without its constant": Fault(
        check="sites_normalized",
        target=N,
        like="a squared error sold as log p(x)",
        program=normal_program(kind=UnscaledNormal),
    ),
    "wrong Jacobian sign in a prior": Fault(
        check="sites_normalized",
        target="gamma_shape",
        like="a transformed prior written by hand",
        program=wrong_jacobian,
    ),
    "grey pixels in a Bernoulli": Fault(
        check="observed_in_support",
        target="logistic",
        like="Pyro #529, #2519; PyTorch examples #460",
        program=grey(bernoulli),
        train={"y": torch.tensor([0.1, 0.9, 0.3, 0.8, 1.0], dtype=torch.float64)},
    ),
    "grey pixels behind a wide support": Fault(
        check="sites_normalized",
        target="logistic",
        like="lightning-bolts #177; mfcvae #2",
        program=grey(SoftBernoulli),
        train={"y": torch.tensor([0.1, 0.9, 0.3, 0.8, 1.0], dtype=torch.float64)},
    ),
    "plate not scaled in minibatches": Fault(
        check="plate_scaling", target=N, like="PyTorch-VAE", program=normal_program(scaled=False)
    ),
    "rows paired with other units": Fault(
        check="data_order", target="random_effects", like="a shuffled loader", program=first_rows
    ),
    "objective pairs rows with other units": Fault(
        check="order_of_data",
        target="random_effects",
        like="a shuffled loader",
        reported={"objective": unpaired},
        family="amortized",
    ),
    "wrong Jacobian sign in a flow": Fault(
        check="log_q_normalized", target=N, like="a flow written by hand", guide=own("sign")
    ),
    "variance where an sd belongs, in q": Fault(
        check="log_q_normalized", target=N, like="bjlkeng/sandbox #10", guide=own("variance")
    ),
    "wrong Jacobian sign of a support": Fault(
        check="jacobians",
        target="half_normal_scale",
        like="a bijection written by hand",
        patch=exp_with_wrong_sign,
    ),
    "a site missing from the density": Fault(
        check="density_from_sites",
        target=N,
        like="pythae PR 27 (a misplaced parenthesis)",
        patch=prior_forgotten,
    ),
}
