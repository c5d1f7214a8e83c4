"""Global state of a process that a model file must leave as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch.distributions import Distribution

__all__ = ["differences", "restored", "state"]


def state() -> Mapping[str, Any]:
    """Return the global state that results depend on, by the name a reader knows it by."""
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's random state": repr(np.random.get_state()),  # noqa: NPY002
        "python's random state": random.getstate(),
        "the global parameter store": sorted(pyro.get_param_store().keys()),
        "the default dtype": torch.get_default_dtype(),
        "the number of threads": torch.get_num_threads(),
        "gradient mode": torch.is_grad_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch's validation of arguments": Distribution._validate_args,
        "pyro's settings": pyro.settings.get(),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs; settings that an import adds are no difference."""
    settings = {name: now["pyro's settings"][name] for name in before["pyro's settings"]}
    now = {**now, "pyro's settings": settings}
    return [name for name, value in before.items() if value != now[name]]


@contextmanager
def restored() -> Iterator[list[str]]:
    """Restore global state after the block; the list then names what the block changed."""
    changed: list[str] = []
    before = state()
    streams = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield changed
    finally:
        changed += differences(before, state())
        torch.set_rng_state(streams[0])
        np.random.set_state(streams[1])  # noqa: NPY002
        random.setstate(streams[2])
        store = pyro.get_param_store()
        for name in set(store.keys()) - set(before["the global parameter store"]):
            del store[name]
        torch.set_default_dtype(before["the default dtype"])
        torch.set_num_threads(before["the number of threads"])
        torch.set_grad_enabled(before["gradient mode"])
        torch.autograd.set_detect_anomaly(before["anomaly detection"])
        torch.use_deterministic_algorithms(before["deterministic algorithms"])
        Distribution.set_default_validate_args(before["torch's validation of arguments"])
        pyro.settings.set(**before["pyro's settings"])
