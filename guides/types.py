"""The records of this package: the configuration of a fit, and the fit itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from zoo.compiler.cuda import DEVICES
from zoo.compiler.policy import check_mode
from zoo.errors import UnknownKeyError, UnknownNameError, UsageError
from zoo.fields import COUNT, NUMBER, TEXT, Kind, checked
from zoo.types import Cost, Data, ModelEntry, Program

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from zoo.density.log_density import LogDensity

__all__ = [
    "CONFIG",
    "FAMILY",
    "FIT",
    "Elbo",
    "Fit",
    "FitConfig",
    "FitStatus",
    "Named",
    "Restart",
    "Stop",
]

T = TypeVar("T")
MOVED = ("beta", "warmup", "free_bits")  # parameters of objectives that were fields of `FitConfig`
OPTIMIZERS = ("auto", "natural", "adam")
OF_ADAM = ("lr", "final_lr", "num_particles", "clip_norm", "tail", "anneal")
_OBJECTIVE = Kind(
    accepted="a spec such as 'elbo' or 'beta[beta=4.0]', or a record of guides.objectives.records",
    holds=lambda value: isinstance(getattr(value, "spec", value), str),
)
FitStatus = Literal["ok", "not_converged", "nan", "init_failed", "error"]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of the one optimization loop.

    Attributes:
        steps: maximal number of optimizer steps; 0 scores a guide of your own as it is given.
        lr: learning rate of Adam during the search; the cosine annealing ends at `final_lr`.
        weight_lr: the same for the program's own weights, for entries that learn.
        num_particles: draws per step for estimating the objective; antithetic pairs if even.
        batch_size: units per minibatch, None for the entry's default.
        clip_norm: gradient norm above which gradients are clipped.
        tail: share of the annealing steps whose parameters are averaged into the result.
        patience: steps per window of the stopping rule.
        anneal: steps of the annealing phase.
        restarts: number of independent starts; the one with the highest final ELBO is kept.
        objective: what is maximized, a record of `guides.objectives.records` or its spec such as
            `elbo_linear[warmup=2000]`; stored as the spec.
        optimizer: `natural` (natural gradients, for normals of up to 200 dimensions that maximize
            the ELBO on all data), `adam`, or `auto`: natural gradients where they apply, unless a
            setting of Adam (`lr`, `final_lr`, `num_particles`, `clip_norm`, `tail`, `anneal`)
            differs from its default.
        beta, warmup, free_bits: deprecated; parameters of the objective, moved into its spec.
        compile: `auto` (if it pays for the size of the step), `on` or `off`.
        device: `cpu`, or `cuda` for steps on a GPU, with the same noise and the same losses up to
            rounding.
    """

    steps: int = 6000
    lr: float = 0.05
    final_lr: float = 0.001
    weight_lr: float = 0.005
    num_particles: int = 64
    batch_size: int | None = None
    clip_norm: float = 100.0
    tail: float = 0.67
    patience: int = 250
    anneal: int = 750
    restarts: int = 1
    objective: str = "elbo"
    optimizer: str = "auto"
    beta: float | None = None
    warmup: int | None = None
    free_bits: float | None = None
    compile: str = "auto"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Validate every number, and convert the objective to its spec."""
        checked(self, objective=_OBJECTIVE, beta=NUMBER | None, warmup=COUNT | None)
        checked(self, free_bits=NUMBER | None, compile=TEXT, device=TEXT, optimizer=TEXT)
        checked(self, steps=COUNT, lr=NUMBER, final_lr=NUMBER, weight_lr=NUMBER)
        checked(self, num_particles=COUNT, batch_size=COUNT | None, clip_norm=NUMBER)
        checked(self, tail=NUMBER, patience=COUNT, anneal=COUNT, restarts=COUNT)
        self._to_spec()
        if self.steps < 0:
            raise UsageError(
                f"FitConfig.steps is {self.steps}; accepted: an integer >= 1, or 0 for a guide of"
                " your own."
            )
        for name in ("num_particles", "patience", "restarts", "anneal"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"FitConfig.{name} is {getattr(self, name)}; accepted: an integer >= 1."
                )
        for name in ("lr", "final_lr", "weight_lr", "clip_norm"):
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"FitConfig.{name} is {getattr(self, name)}; accepted: a positive number."
                )
        if not 0 < self.tail <= 0.9:
            raise UsageError(f"FitConfig.tail is {self.tail}; accepted: a share in (0, 0.9].")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(
                f"FitConfig.batch_size is {self.batch_size}; accepted: a positive integer or None."
            )
        check_mode(self.compile)
        if self.optimizer not in OPTIMIZERS:
            raise UnknownNameError("optimizer", self.optimizer, OPTIMIZERS)
        if self.device not in DEVICES:
            raise UnknownNameError("device", self.device, DEVICES)
        if self.device != "cpu" and self.compile == "off":
            raise UsageError(
                f"FitConfig.compile is 'off' but steps on {self.device} are graphs; accepted with"
                " it: auto, on."
            )

    @property
    def optimizer_for(self) -> str:
        """The optimizer of a guide for which natural gradients apply."""
        if self.optimizer != "auto":
            return self.optimizer
        usual = type(self).__dataclass_fields__
        changed = any(getattr(self, name) != usual[name].default for name in OF_ADAM)
        return "adam" if changed else "natural"

    def _to_spec(self) -> None:
        """Convert an objective record to its spec, with parameters given as deprecated fields."""
        given: Any = self.objective
        spec: str = given if isinstance(given, str) else given.spec
        moved = {name: value for name in MOVED if (value := getattr(self, name)) is not None}
        if moved:
            name, _, inner = spec.partition("[")
            parts = [
                *filter(None, inner.rstrip("]").split(",")),
                *(f"{k}={v!r}" for k, v in moved.items()),
            ]
            spec = f"{name}[{','.join(parts)}]"
            warnings.warn(
                f"FitConfig({', '.join(moved)}) is deprecated: write the objective as {spec!r}.",
                DeprecationWarning,
                stacklevel=4,
            )
        object.__setattr__(self, "objective", spec)
        for name in moved:
            object.__setattr__(self, name, None)


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Why the fit ended: a machine-readable status, a sentence, and the step."""

    status: FitStatus
    sentence: str
    step: int


@dataclass(frozen=True, kw_only=True)
class Elbo:
    """Evidence lower bound E_q[log p - log q] in nats with its Monte Carlo standard error."""

    value_nats: float
    se: float
    draws: int


@dataclass(frozen=True, kw_only=True)
class Restart:
    """One start of a fit: its seed, final ELBO, stop and answer.

    `answer` maps every scalar component of the judged quantities to its mean and sd by 500 draws;
    it is empty for a single start. Starts that end at one ELBO can still disagree.
    """

    seed: int
    elbo: Elbo | None
    stop: Stop
    answer: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Named(dict[str, T]):
    """What program and guide have by name; a name that is not there is answered with the others.

    Args:
        kind: what is named, for the message.
        theirs: of the program.
        own: of the guide; a name that the program has too gets `guide.` before it.
        others: what also answers to a second name.
    """

    def __init__(
        self,
        kind: str,
        theirs: Mapping[str, T],
        own: Mapping[str, T],
        others: Mapping[str, T] = MappingProxyType({}),
    ) -> None:
        super().__init__(theirs)
        self.update({f"guide.{k}" if k in theirs else k: value for k, value in own.items()})
        self.kind = kind
        self.others = others

    def __missing__(self, name: str) -> T:
        if name in self.others:
            return self.others[name]
        raise UnknownKeyError(self.kind, name, self)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One guide after optimization.

    `losses` is minus the objective's estimate per step in nats, one per step taken. `program` is
    the (possibly trained) program of the guide; `options` are those the family was built with.
    `history` has training diagnostics of a program that learns: `step`, and at these steps
    `reconstruction_nats` (minus the expected log likelihood) and `kl_nats` per unit. `points` are
    latent sites in which the guide has no density (`guides.draws.point_sites`); such a fit has no
    ELBO. `density` is the log density of the program on these data if it exists already; use
    `guides.draws.density_of`.
    """

    entry: ModelEntry
    data: Data
    family: str
    program: Program
    guide: nn.Module
    config: FitConfig
    seed: int
    losses: np.ndarray[Any, Any]
    stop: Stop
    elbo: Elbo | None
    cost: Cost
    restarts: tuple[Restart, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    compiled: Mapping[str, Any] = field(default_factory=lambda: {"used": False, "reason": "eager"})
    history: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    points: tuple[str, ...] = ()
    density: LogDensity | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether draws may be taken: it converged, or at least has finite parameters."""
        return self.stop.status in ("ok", "not_converged")

    @property
    def networks(self) -> Named[nn.Module]:
        """The trained networks of program and guide by name, frozen, in the entry's dtype.

        A network of `pyro.module(name, net)` or of a variable has the variable's name, one of a
        module its attribute's: `fit.networks["decoder"](z)`; the name of `pyro.module` also finds
        it. Where program and guide use one
        name, those of the guide start with `guide.`. Another name is an `UnknownKeyError`.
        """
        theirs, own = _networks(self.program), _networks(self.guide)
        return Named("network of the fit", theirs, own, _registered(self.guide, self.program))

    @property
    def parameters(self) -> Named[Tensor]:
        """The trained `pyro.param` values of program and guide by name, constrained.

        So are the values that a `PyroModule` holds itself, as `PyroParam` or `nn.Parameter`.

        Another name is an `UnknownKeyError`.
        """
        theirs, own = _parameters(self.program), _parameters(self.guide)
        return Named("parameter of the fit", theirs, own)

    def __copy__(self) -> Fit:
        return replace(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse pickles and deep copies: programs are functions and networks of the author's."""
        raise UsageError(
            "A fit cannot be pickled or copied deeply; write it by guides.save(fit, path) and read"
            " it by guides.load(path, entry)."
        )

    def __repr__(self) -> str:
        """Return what was fitted, how it ended, and its ELBO."""
        bound = (
            ""
            if self.elbo is None
            else f", ELBO {self.elbo.value_nats:.2f} +- {self.elbo.se:.2g} nats"
        )
        return f"Fit({self.entry.key}, {self.family}: {self.stop.status}{bound})"


def _networks(owner: Any) -> dict[str, nn.Module]:
    """Return the networks inside a program or guide."""
    if hasattr(owner, "networks"):
        found: dict[str, nn.Module] = owner.networks()
        return found
    return dict(owner.named_children()) if hasattr(owner, "named_children") else {}


def _parameters(owner: Any) -> dict[str, Tensor]:
    """Return the constrained values of the parameter statements of a program or guide."""
    known = owner.parameter_values() if hasattr(owner, "parameter_values") else {}
    held = owner.own_values() if hasattr(owner, "own_values") else {}
    return {name: value.detach() for name, value in {**held, **known}.items()}


def _registered(*owners: Any) -> dict[str, nn.Module]:
    """Return the networks by their names of `pyro.module`; those of the last owner go first."""
    found: dict[str, nn.Module] = {}
    for owner in owners:
        found |= owner.registered() if hasattr(owner, "registered") else {}
    return found


CONFIG = Kind(accepted="guides.FitConfig(...)", holds=lambda value: isinstance(value, FitConfig))
FAMILY = Kind(
    accepted="the name of a guide family, such as 'mean_field'",
    holds=lambda value: isinstance(value, str),
)
FIT = Kind(accepted="a fit, from guides.fit", holds=lambda value: isinstance(value, Fit))
