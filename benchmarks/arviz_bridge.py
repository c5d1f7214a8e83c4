"""All calls to ArviZ: diagnostics, Monte Carlo errors, Pareto smoothing, LOO, netCDF.

Other modules pass numpy arrays `[chain, draw, *shape]` or a `Posterior` and get plain numbers
back, so that the next ArviZ line (other containers, names and defaults) changes only this file.
Pitfalls handled here: tail ESS needs explicit quantiles. `psislw` takes log weights here and
*minus* log weights in the 1.x line (a wrong sign makes a hopeless k-hat look perfect). R-hat of
guide draws is meaningless and refused. With numba installed ArviZ takes another code path, in
which `mcse` fails with numpy 2.4; it is disabled, also for other users of ArviZ in the process.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.types import POSTERIOR
from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype, samples
from zoo.errors import InfrastructureError, UsageError
from zoo.fields import MAPPING, Kind, accepted
from zoo.storage import usable_cache_home, written
from zoo.types import Cost, Data, ModelEntry, Posterior

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Loo",
    "ebfmi",
    "ess_bulk",
    "ess_tail",
    "load_arviz",
    "load_netcdf",
    "loo",
    "mcse_mean",
    "mcse_sd",
    "pareto_k",
    "rhat",
    "save_netcdf",
    "to_arviz",
]

Array = NDArray[Any]
TAIL = (0.05, 0.95)
TERMS = Kind(
    accepted="True, False, or a mapping of names to terms per observation",
    holds=lambda value: isinstance(value, bool) or MAPPING.holds(value),
)
FLAT_WEIGHTS = 0.05  # nats between the largest and the smallest log weight


@cache
def load_arviz() -> Any:
    """Import ArviZ at its first use, without its numba path; the import takes over a second."""
    usable_cache_home()  # importing ArviZ writes to it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the announcement of the 1.x line
        import arviz

    arviz.utils.Numba.disable_numba()
    return arviz


def _xarray() -> Any:
    """Import xarray, which ArviZ's containers and our netCDF files need, at its first use."""
    import xarray

    return xarray


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence ArviZ warnings about what the gates report: constant or few draws, high k."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _per_component(function: Callable[[Array], Any], x: Array) -> Array:
    """Apply a function of `[chain, draw]` to every component of `[chain, draw, *shape]`.

    The result is `[*shape]`.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.ndim < 2:
        raise UsageError(
            f"Diagnostics take arrays [chain, draw, *shape], got shape {values.shape}; give guide"
            " draws a first axis of 1."
        )
    # [component, chain, draw]
    flat = np.ascontiguousarray(np.moveaxis(values.reshape(*values.shape[:2], -1), -1, 0))
    with _quiet():
        # .item(), because some releases return [1]
        out = [
            np.asarray(function(part)).item() if np.isfinite(part).all() else np.nan
            for part in flat
        ]
    return np.array(out).reshape(values.shape[2:])


def rhat(x: Array) -> Array:
    """Rank-normalized split R-hat of every component (Vehtari et al. 2021).

    NaN if a draw is not finite.
    """
    return _per_component(load_arviz().rhat, x)


def ess_bulk(x: Array) -> Array:
    """Bulk effective sample size of every component (rank-normalized; Vehtari et al. 2021)."""
    return _per_component(lambda part: load_arviz().ess(part, method="bulk"), x)


def ess_tail(x: Array) -> Array:
    """Smaller effective sample size of the 5 % and 95 % quantiles of every component."""
    return _per_component(lambda part: load_arviz().ess(part, method="tail", prob=TAIL), x)


def mcse_mean(x: Array) -> Array:
    """Monte Carlo standard error of the mean of every component, in its own unit."""
    return _per_component(lambda part: load_arviz().mcse(part, method="mean"), x)


def mcse_sd(x: Array) -> Array:
    """Monte Carlo standard error of the standard deviation of every component, in its own unit."""
    return _per_component(lambda part: load_arviz().mcse(part, method="sd"), x)


def ebfmi(energy: Array) -> Array:
    """Energy Bayesian fraction of missing information, `[chain, draw] -> [chain]`.

    Source: Betancourt (2016).
    """
    with _quiet():
        return np.asarray(load_arviz().bfmi(np.asarray(energy, dtype=np.float64)))


def pareto_k(log_weights: Array | Tensor) -> tuple[float, Array]:
    """Return Pareto k-hat and the smoothed, normalized log weights, `[draw]`.

    Takes log p - log q (Vehtari et al. 2024). If all weights are within 5 % of each other, the
    shape of a Pareto distribution fitted to so small a range is noise: k-hat is 0 and the weights
    are only normalized. A NaN or +inf weight gives k-hat NaN, which fails every threshold; -inf (a
    draw the target excludes) is a weight of zero.
    """
    given = log_weights.detach().cpu().numpy() if isinstance(log_weights, Tensor) else log_weights
    values = np.array(given, dtype=np.float64).ravel()
    if np.isnan(values).any() or np.isposinf(values).any() or np.isneginf(values).all():
        return float("nan"), values
    if np.ptp(values) < FLAT_WEIGHTS:
        return 0.0, values - np.logaddexp.reduce(values)
    with _quiet():
        smoothed, k = load_arviz().psislw(values - values.max())
    return np.asarray(k).item(), np.asarray(smoothed)


class Loo(NamedTuple):
    """Leave-one-out expected log predictive density in nats.

    With its standard error, the effective number of parameters, and k per row.
    """

    elpd: float
    se: float
    p_loo: float
    pareto_k: Array


def loo(posterior: Posterior, log_likelihood: Mapping[str, Tensor] | None = None) -> Loo:
    """Pareto-smoothed leave-one-out cross-validation of all observations.

    `log_likelihood` is `[*sample, *observation]` per observed site; without it
    `LogDensity.pointwise` computes it. Source: Vehtari, Gelman and Gabry (2017).

    Raises:
        UsageError: an observed site has a weight (`poutine.scale`).
    """
    if log_likelihood is None:
        _refuse_weights(posterior)
    terms = _pointwise(posterior) if log_likelihood is None else dict(log_likelihood)
    sample = len(posterior.sample_dims)
    parts = [v.detach().reshape(*v.shape[:sample], -1) for v in terms.values()]
    together = _with_chain(torch.cat(parts, -1), posterior)
    with _quiet():
        result = load_arviz().loo(
            to_arviz(posterior, log_likelihood={"y": torch.from_numpy(together)}),
            var_name="y",
            pointwise=True,
        )
    return Loo(
        float(result.elpd_loo), float(result.se), float(result.p_loo), np.asarray(result.pareto_k)
    )


def to_arviz(posterior: Posterior, *, log_likelihood: bool | Mapping[str, Tensor] = False) -> Any:
    """Return an `InferenceData` for ArviZ, with coords and dims from the data.

    Groups: `posterior`, `sample_stats` (MCMC statistics, or `log_weight` of a guide),
    `unconstrained_posterior`, `observed_data`, `constant_data`, and on request `log_likelihood`
    per observation. Draws of a guide are one chain and have the attribute `kind="vi"`.

    Raises:
        UsageError: no draws.
    """
    accepted("to_arviz", posterior=(posterior, POSTERIOR), log_likelihood=(log_likelihood, TERMS))
    data = posterior.data
    groups = {"posterior": _dataset(posterior, posterior.draws)}
    stats = dict(posterior.stats)
    if posterior.log_weights is not None:
        stats["log_weight"] = posterior.log_weights
    if stats:
        groups["sample_stats"] = _dataset(posterior, stats)
    if posterior.unconstrained is not None:
        groups["unconstrained_posterior"] = _dataset(posterior, {"u": posterior.unconstrained})
    if log_likelihood is not False:
        terms = _pointwise(posterior) if log_likelihood is True else dict(log_likelihood)
        groups["log_likelihood"] = _dataset(posterior, terms)
    tensors = {k: v for k, v in data.train.items() if isinstance(v, Tensor)}
    for group, names in (
        ("observed_data", set(data.observed)),
        ("constant_data", set(tensors) - set(data.observed)),
    ):
        arrays = {
            k: _labelled(v.detach().numpy(), k, data, 0) for k, v in tensors.items() if k in names
        }
        if arrays:
            groups[group] = _xarray().Dataset(arrays)
    with _quiet():
        return load_arviz().InferenceData(attrs=_attributes(posterior), **groups)


def _attributes(posterior: Posterior) -> dict[str, Any]:
    kind = "mcmc" if posterior.sample_dims == ("chain", "draw") else "vi"
    return {
        "entry": posterior.entry.key,
        "method": posterior.method,
        "kind": kind,
        "engine": posterior.engine or "",
        "seed": posterior.seed,
        "seconds": posterior.cost.seconds,
        "compile_seconds": posterior.cost.compile_seconds,
        "steps": posterior.cost.steps,
        "gradient_evaluations": posterior.cost.gradient_evaluations,
        "sequential_depth": posterior.cost.sequential_depth,
        "notes": "\n".join(posterior.notes),
        "doubt": posterior.doubt,
    }


def _with_chain(value: Tensor, posterior: Posterior) -> Array:
    array = value.detach().numpy()
    return array if posterior.sample_dims == ("chain", "draw") else array[None]


def _dataset(posterior: Posterior, values: Mapping[str, Tensor]) -> xr.Dataset:
    arrays = {
        name: _with_chain(torch.as_tensor(value), posterior) for name, value in values.items()
    }
    return _xarray().Dataset(
        {name: _labelled(value, name, posterior.data, 2) for name, value in arrays.items()},
        attrs=_attributes(posterior),
    )


def _labelled(value: Array, name: str, data: Data, sample: int) -> xr.DataArray:
    """Name the axes after the data's dims if they fit, else `NAME_dim_0` and so on."""
    dims = data.dims.get(name, ())
    if len(dims) != value.ndim - sample or len(set(dims)) != len(dims):
        dims = tuple(f"{name}_dim_{i}" for i in range(value.ndim - sample))
    axes = ("chain", "draw")[:sample] + tuple(dims)
    coords: dict[str, Any] = {
        d: list(data.coords[d])
        for d, n in zip(axes, value.shape, strict=True)
        if d in data.coords and len(data.coords[d]) == n
    }
    for axis, n in zip(axes[:sample], value.shape, strict=False):
        coords[axis] = np.arange(n)
    return _xarray().DataArray(value, dims=axes, coords=coords)


def _refuse_weights(posterior: Posterior) -> None:
    """Refuse observations that count otherwise than once: leaving one out removes a power of it.

    Raises:
        UsageError: always in that case.
    """
    density = _density_of(posterior)
    first = {
        k: v.flatten(0, len(posterior.sample_dims) - 1)[0] for k, v in posterior.draws.items()
    }
    with default_dtype(density.dtype), torch.no_grad():
        trace = density.trace({s.name: first[s.name] for s in density.sites}, posterior.data.train)
    for node in samples(trace):
        if node["is_observed"] and bool((torch.as_tensor(node["scale"]) != 1.0).any()):
            raise UsageError(
                f"The observations of {node['name']!r} have a weight (poutine.scale), so that the"
                " posterior without one of them lacks a power of its likelihood, which"
                " leave-one-out by Pareto smoothing does not take; leave the weight out, or score"
                " held-out rows (test=)."
            )


def _density_of(posterior: Posterior) -> LogDensity:
    return LogDensity(
        posterior.entry.program(posterior.data), posterior.data, dtype=posterior.entry.dtype
    )


def _pointwise(posterior: Posterior) -> dict[str, Tensor]:
    log_density = _density_of(posterior)
    sample = posterior.sample_shape
    flat = {k: v.reshape(-1, *v.shape[len(sample) :]) for k, v in posterior.draws.items()}
    return {k: v.reshape(*sample, *v.shape[1:]) for k, v in log_density.pointwise(flat).items()}


def save_netcdf(posterior: Posterior, path: str | Path) -> None:
    """Write draws, statistics and data as netCDF with ArviZ's group names and checksums.

    Raises:
        InfrastructureError: the file cannot be written; no partial file remains.
    """
    target = Path(path)
    idata = to_arviz(posterior)
    try:
        with written(target) as place:
            mode = "w"
            for group in idata.groups():
                dataset = idata[group]
                encoding = {
                    name: {"fletcher32": True, "zlib": True, "complevel": 4}
                    for name, v in dataset.data_vars.items()
                    if v.ndim and v.dtype.kind in "fiub"
                }
                dataset.to_netcdf(
                    place, mode=mode, group=group, engine="h5netcdf", encoding=encoding
                )
                mode = "a"
    except OSError as error:
        raise InfrastructureError(
            f"Cannot write {target.name}: {error.strerror or error}; free some space or choose"
            " another folder."
        ) from error


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """Open a netCDF file once; refuse one whose content lies in other files of this machine."""
    import h5netcdf
    import h5py

    def stored_elsewhere(name: str, item: Any) -> str | None:
        outside = isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)
        return name if outside else None

    def linked_elsewhere(name: str, link: Any) -> str | None:
        return name if isinstance(link, h5py.ExternalLink) else None

    with h5py.File(path, "r") as file:  # a visit ends at the first name that is returned
        found = file.visititems_links(linked_elsewhere) or file.visititems(stored_elsewhere)
        if found:
            raise OSError(f"{found} lies in another file, which is never read")
        with h5netcdf.File(file, "r") as netcdf:
            yield netcdf


def load_netcdf(path: str | Path, entry: ModelEntry, data: Data) -> Posterior:
    """Read a file of `save_netcdf` into a posterior of the given entry and data.

    Raises:
        InfrastructureError: the file is missing, truncated, or fails its checksums.
    """
    attributes: dict[str, Any] = {}
    found: dict[str, dict[str, Tensor]] = {"sample_stats": {}, "unconstrained_posterior": {}}
    try:
        with _opened(path) as file:
            for group in ("posterior", *(name for name in tuple(found) if name in file.groups)):
                store = _xarray().backends.H5NetCDFStore(file, group=group)
                dataset = _xarray().open_dataset(store)  # closed with the file
                attributes.update(dataset.attrs)
                found[group] = {
                    str(k): torch.from_numpy(np.array(v.values))
                    for k, v in dataset.data_vars.items()
                }
        draws, stats, flat = (
            found[group] for group in ("posterior", "sample_stats", "unconstrained_posterior")
        )
    except (OSError, KeyError, ValueError) as error:
        raise InfrastructureError(
            f"Cannot read draws from {Path(path).name} ({type(error).__name__}: {error}); run that"
            " cell again."
        ) from error
    chains = attributes["kind"] == "mcmc"
    squeeze = (lambda v: v) if chains else (lambda v: v[0])
    weights = stats.pop("log_weight", None)
    cost = Cost(
        seconds=float(attributes["seconds"]),
        compile_seconds=float(attributes["compile_seconds"]),
        steps=int(attributes["steps"]),
        gradient_evaluations=int(attributes["gradient_evaluations"]),
        sequential_depth=int(attributes["sequential_depth"]),
    )
    return Posterior(
        entry=entry,
        data=data,
        method=str(attributes["method"]),
        draws={k: squeeze(v) for k, v in draws.items()},
        sample_dims=("chain", "draw") if chains else ("sample",),
        unconstrained=squeeze(flat["u"]) if "u" in flat else None,
        log_weights=None if weights is None else squeeze(weights),
        stats={k: squeeze(v) for k, v in stats.items()},
        cost=cost,
        seed=int(attributes["seed"]),
        engine=str(attributes["engine"]) or None,
        notes=tuple(n for n in str(attributes["notes"]).split("\n") if n),
        doubt=str(attributes.get("doubt", "")),  # files of earlier versions have none
    )
