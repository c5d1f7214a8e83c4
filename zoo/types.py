"""The core records: what is inferred, from which data, compared on what, with which truth.

All records are frozen, keyword-only and validated on creation; a change is a new copy
(`dataclasses.replace`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from zoo.errors import DataError, UnknownNameError, UsageError, listed
from zoo.fields import (
    COUNT,
    FLAG,
    FUNCTION,
    MAPPING,
    NAME_SET,
    NAMES,
    POSITIVE,
    TEXT,
    Kind,
    check_tensor,
    checked,
    coerced,
    shape_of,
)
from zoo.ground_truth import Analytic, Baselines, Moments, Published

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "DATA",
    "DTYPE",
    "ENTRY",
    "QUANTITIES",
    "Analytic",
    "Baselines",
    "Cost",
    "Data",
    "ModelEntry",
    "Moments",
    "Posterior",
    "Program",
    "Published",
    "Quantity",
    "Reference",
    "ReferenceKind",
]

ReferenceKind = Literal["analytic", "exact", "stored", "conditional", "nuts", "estimated", "none"]
NAME = re.compile(
    r"(?:[a-z][a-z0-9_]{0,63})|(?:[a-z][a-z0-9_]{0,31}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95})"
)


class Program(Protocol):
    """A function or `PyroModule` of Pyro, called as `program(**tensors, index=None)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the generative process once."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A named function of draws on which posteriors are compared.

    `fn(draws, data)` takes constrained draws of the program's sites, each `[*sample, *site]`, and
    returns a tensor `[*sample, *shape]`. It must not depend on labels or rotations that the model
    leaves free, and positive scales enter as logarithms. `dims` names the axes of `shape`; a
    component's label is built from `Data.coords`. `judged=False` shows a quantity without letting
    it decide a verdict or a gate; `even=True`: it keeps its value where its site changes sign.
    """

    fn: Callable[[Mapping[str, Tensor], Data], Tensor]
    dims: tuple[str, ...] = ()
    description: str = ""
    judged: bool = True
    even: bool = False

    def __post_init__(self) -> None:
        """Reject a field of a wrong type."""
        checked(self, fn=FUNCTION, dims=NAMES, description=TEXT, judged=FLAG, even=FLAG)


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a program is conditioned on.

    Attributes:
        train: keyword arguments of the program; plain numbers and strings pass through.
        test: the same keys for held-out rows, or None.
        observed: the keys whose removal gives the prior predictive.
        batched: the keys with one row per unit of the minibatch plate.
        size: number of units of the minibatch plate, None without one.
        coords: labels of named dimensions.
        dims: names of the axes of each tensor of `train` (and, where useful, of latent sites).
        source: where the numbers come from (a citation, or the recipe that generates them).
        licence: the terms under which they may be shared.
    """

    train: Mapping[str, Any]
    test: Mapping[str, Any] | None = None
    observed: tuple[str, ...] = ()
    batched: tuple[str, ...] = ()
    size: int | None = None
    coords: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        """Reject NaN, empty and misshapen tensors, and names that are not keys of `train`."""
        import torch

        checked(self, train=MAPPING, test=MAPPING | None, observed=NAMES, batched=NAMES)
        checked(self, size=COUNT | None, coords=MAPPING, dims=MAPPING, source=TEXT, licence=TEXT)
        for part, tensors in (("Data", self.train), ("Held-out data", self.test or {})):
            for name, value in tensors.items():
                if isinstance(value, torch.Tensor):
                    check_tensor(f"{part} {name!r}", value)
        for role, keys in (("observed", self.observed), ("batched", self.batched)):
            for key in keys:
                if key not in self.train:
                    raise UnknownNameError(f"{role} data", key, self.train)
        if self.batched and self.size is None:
            raise DataError(
                "Data has batched tensors but no size; give size=number of units of the minibatch"
                " plate."
            )
        for key in self.batched:
            rows = self.train[key].shape[0] if self.train[key].ndim else 0
            if rows != self.size:
                raise DataError(
                    f"Batched data {key!r} has {rows} rows but size={self.size}; one row per unit"
                    " is needed."
                )
        for name, dims in self.dims.items():
            if name in dims:
                raise DataError(
                    f"{name!r} has an axis of the same name, which files drop; rename the axis."
                )
            if (
                name in self.train
                and isinstance(self.train[name], torch.Tensor)
                and len(dims) != self.train[name].ndim
            ):
                raise DataError(
                    f"Data {name!r} has {self.train[name].ndim} axes but dims {dims}; name every"
                    " axis once."
                )
        object.__setattr__(self, "train", MappingProxyType(dict(self.train)))
        if self.test is not None:
            object.__setattr__(self, "test", MappingProxyType(dict(self.test)))

    def __repr__(self) -> str:
        """Return the names, shapes and roles of the tensors instead of their values."""
        tensors = (f"{name} {shape_of(value)}" for name, value in self.train.items())
        shown = listed(tensors, quoted=False)
        roles = f"; observed: {listed(self.observed, quoted=False)}" if self.observed else ""
        return f"Data({shown}{roles})"


QUANTITIES = Kind(
    accepted="a mapping of names to zoo.Quantity(fn=...)",
    holds=lambda value: (
        MAPPING.holds(value) and all(isinstance(q, Quantity) for q in value.values())
    ),
)
DTYPE = Kind(
    accepted="a torch dtype, such as torch.float64",
    holds=lambda value: f"{type(value).__module__}.{type(value).__name__}" == "torch.dtype",
)
_PANEL = Kind(
    accepted="a function, or text such as 'my_package.my_module:panel'",
    holds=lambda value: callable(value) or isinstance(value, str),
)


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """The card of one model; `docs/model_contract.md` says what each field promises.

    Attributes:
        name: lower-case registry name; for built-in models the file stem.
        title: one line by which a reader recognizes the model.
        make_data: `make_data(seed, **options) -> Data`; reads or generates, never downloads.
        build: `build(data, **options) -> Program`; a fresh program on every call.
        quantities: what posteriors are compared on, in any order.
        reference: the kind of ground truth of this entry; `exact` without `analytic` and
            `conditional` is a grid over the latent values of each row, at most three.
        families: names of the guide families run by `--guides all`.
        own_guides: families defined by the entry itself: name -> `build(program, data, entry) ->
            guide`.
        analytic: `analytic(data, **options) -> Analytic`, for `reference="analytic"`.
        reference_of: name of the entry whose reference this one uses (same posterior of the
            quantities).
        published: `published(data) -> Published`: reference draws of others, for
            `reference="stored"` without files in this repository.
        learns: the program has weights of its own, which are trained and then held fixed.
        options: defaults of the options of `make_data` and `build`.
        chosen: the options given at load time (subset of `options`).
        minibatch: default number of units per minibatch, None to use all data in every step.
        dtype: floating dtype of trace, fit and draw.
        baselines: optional hook `baselines(data, seed, **options) -> Baselines`: predictions of
            methods that are not posteriors.
        panel: optional hook that draws extra figures for the report: a function, or
            `module:function`, imported when a report is made.
        amortize: optional `amortize(tensors) -> [unit, feature]`: the encoder input of each unit.
        training: settings (fields of `guides.FitConfig`) of fits to all data, for entries that
            learn or are amortized; `objective` and its parameters apply only to the fit that
            trains the weights.
        judged: optional `judged(data) -> Data`: the evaluation subset of units on which methods
            are compared once the weights are trained.
        conditional: optional `conditional(data, program, **options) -> Analytic | None`: the exact
            posterior given a trained program.
        tags: words for `zoo list --tag`.
        cites: references to print.
        notices: sentences that readers of a comparison must see first, e.g. that labels may be
            free.
    """

    name: str
    title: str
    make_data: Callable[..., Data]
    build: Callable[..., Program]
    quantities: Mapping[str, Quantity]
    reference: ReferenceKind
    families: tuple[str, ...] = ("mean_field", "full_rank", "low_rank", "laplace")
    own_guides: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    analytic: Callable[..., Analytic] | None = None
    reference_of: str | None = None
    published: Callable[[Data], Published] | None = None
    learns: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    minibatch: int | None = None
    dtype: torch.dtype | None = None
    baselines: Callable[..., Baselines] | None = None
    panel: Callable[..., Any] | str | None = None
    amortize: Callable[..., Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    judged: Callable[[Data], Data] | None = None
    conditional: Callable[..., Analytic | None] | None = None
    tags: frozenset[str] = frozenset()
    cites: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate types, the name, the options and the consistency of the reference fields."""
        checked(self, name=TEXT, title=TEXT, make_data=FUNCTION, build=FUNCTION)
        checked(self, quantities=QUANTITIES, reference=TEXT, families=NAMES, own_guides=MAPPING)
        checked(self, analytic=FUNCTION | None, reference_of=TEXT | None)
        checked(self, published=FUNCTION | None, learns=FLAG, options=MAPPING, chosen=MAPPING)
        checked(self, minibatch=POSITIVE | None, dtype=DTYPE | None, baselines=FUNCTION | None)
        checked(self, panel=_PANEL | None, amortize=FUNCTION | None, training=MAPPING)
        checked(self, judged=FUNCTION | None, conditional=FUNCTION | None)
        checked(self, tags=NAME_SET, cites=NAMES, notices=NAMES)
        if not NAME.fullmatch(self.name):
            raise UsageError(
                f"Entry name {self.name!r} is not accepted: use [a-z][a-z0-9_]*, at most 64"
                " characters."
            )
        if not self.quantities:
            raise UsageError(
                f"Entry {self.name!r} has no quantities; name at least one function of the draws."
            )
        if self.reference == "analytic" and self.analytic is None:
            raise UsageError(
                f"Entry {self.name!r} has reference='analytic' but no analytic function; add one."
            )
        for key, value in self.chosen.items():
            if key not in self.options:
                raise UnknownNameError(f"option of {self.name}", key, self.options)
            object.__setattr__(
                self,
                "chosen",
                {**self.chosen, key: coerced(self.name, key, value, self.options[key])},
            )
        if self.dtype is None:
            import torch

            object.__setattr__(self, "dtype", torch.float64)

    def __repr__(self) -> str:
        """Return key, title and kind of reference."""
        return f"ModelEntry({self.key}: {self.title}; reference: {self.reference})"

    @property
    def settings(self) -> dict[str, Any]:
        """Defaults overlaid by the chosen options."""
        return {**self.options, **self.chosen}

    @property
    def key(self) -> str:
        """The name with the options that differ from their defaults, as `name[d=10]`."""
        changed = {k: v for k, v in self.chosen.items() if v != self.options[k]}
        return self.name + (
            "[" + ",".join(f"{k}={v}" for k, v in sorted(changed.items())) + "]" if changed else ""
        )

    def load_data(self, data_seed: int = 0) -> Data:
        """Make the data with the chosen options."""
        return self.make_data(data_seed, **self.settings)

    def program(self, data: Data) -> Program:
        """Build a fresh program with the chosen options."""
        return self.build(data, **self.settings)

    def exact(self, data: Data) -> Analytic | None:
        """Return the closed-form posterior, or None."""
        return None if self.analytic is None else self.analytic(data, **self.settings)

    def with_options(self, **options: Any) -> ModelEntry:
        """Return a copy with other options; unknown ones are rejected with the nearest guess."""
        return replace(self, chosen={**self.chosen, **options})


DATA = Kind(
    accepted="data of the entry, as entry.load_data() or entry.judged(data)",
    holds=lambda value: isinstance(value, Data),
)
ENTRY = Kind(
    accepted="an entry, such as zoo.load('eight_schools')",
    holds=lambda value: isinstance(value, ModelEntry),
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a method: seconds without compilation, compile seconds, steps, gradients.

    `gradient_evaluations` counts all gradients, `sequential_depth` those that had to wait for
    another one.
    """

    seconds: float
    compile_seconds: float = 0.0
    steps: int = 0
    gradient_evaluations: int = 0
    sequential_depth: int = 0
    peak_memory_mb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Draws of one method for one entry.

    Attributes:
        entry, data: what was inferred, as objects.
        method: a family's name, `nuts`, or the kind of a reference.
        draws: constrained latent sites, each `[*sample, *site]`.
        sample_dims: `("sample",)` for a guide, `("chain", "draw")` for MCMC.
        unconstrained: the same draws as one flat vector, `[*sample, dim]`, if the method has it.
        log_weights: log p(z, data) - log q(z) per draw in nats, guides only.
        stats: per-draw statistics `[chain, draw]` of MCMC (`diverging`, `energy`, `lp`, `n_steps`,
            `tree_depth`, `acceptance_rate`, `step_size`).
        cost, engine, seed: of the method, what ran the chains, and as given by the user.
        notes, doubt: sentences on the draws; why their method does not vouch for them.
    """

    entry: ModelEntry
    data: Data
    method: str
    draws: Mapping[str, Tensor]
    sample_dims: tuple[str, ...]
    unconstrained: Tensor | None = None
    log_weights: Tensor | None = None
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    cost: Cost = Cost(seconds=0.0)
    seed: int = 0
    engine: str | None = None
    notes: tuple[str, ...] = ()
    doubt: str = ""

    def __post_init__(self) -> None:
        """Reject unknown sample dimensions, and draws with different sample shapes."""
        if self.sample_dims not in (("sample",), ("chain", "draw")):
            raise UsageError(
                f'sample_dims is {self.sample_dims}; accepted: ("sample",) for a guide, ("chain",'
                ' "draw") for MCMC.'
            )
        shapes = {tuple(v.shape[: len(self.sample_dims)]) for v in self.draws.values()}
        if len(shapes) != 1:
            raise UsageError(
                f"Draws of {self.entry.name} have sample shapes {sorted(shapes)}; every site needs"
                " the same one."
            )

    def __repr__(self) -> str:
        """Return what was drawn by which method, without the draws."""
        size = " x ".join(map(str, self.sample_shape))
        lead = len(self.sample_dims)
        shapes = (f"{k} {tuple(v.shape[lead:])}" for k, v in self.draws.items())
        sites = listed(shapes, quoted=False)
        return f"Posterior({self.entry.key}, {self.method}: {size} draws of {sites})"

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Sizes of the sample dimensions."""
        first = next(iter(self.draws.values()))
        return tuple(first.shape[: len(self.sample_dims)])

    def quantities(self) -> dict[str, Tensor]:
        """Evaluate every quantity of the entry on the draws, each `[*sample, *shape]`."""
        return {name: q.fn(self.draws, self.data) for name, q in self.entry.quantities.items()}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The ground truth a method is compared with.

    Attributes:
        kind: `analytic`, `exact`, `stored`, `conditional`, `nuts` or `estimated` (repaired draws).
        posterior: draws of the truth (with chains, if any), None for kind `none`.
        moments: per quantity, with standard errors; from all draws if more were made than are
            stored.
        gates: name -> passed; empty for closed forms.
        log_evidence: log p(observed) in nats, if known.
        log_evidence_se: its standard error, where tempered SMC estimated it.
        usable: every gate passed and the fingerprint matches.
        reason: one sentence if not usable.
    """

    kind: ReferenceKind
    posterior: Posterior | None
    moments: Mapping[str, Moments] = field(default_factory=dict)
    gates: Mapping[str, bool] = field(default_factory=dict)
    log_evidence: float | None = None
    log_evidence_se: float | None = None
    rhat_max: float | None = None
    ess_min: float | None = None
    usable: bool = True
    reason: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the kind and whether it is usable, or why not."""
        state = "usable" if self.usable and self.kind != "none" else self.reason or "not usable"
        draws = f"; {self.posterior!r}" if self.posterior is not None else ""
        return f"Reference({self.kind}: {state}{draws})"
