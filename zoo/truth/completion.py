"""References of programs with many local latents, from the reference of a marginal program.

If the local latents can be integrated out, the marginal program has few coordinates, and its
draws, stored or exact, are small. Each draw is completed by an exact draw of the local latents
given the rest. The pairs are draws of the whole posterior,

    p(global, local | data) = p(global | data) p(local | global, data),

and only the first factor needs a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from zoo.registry import load
from zoo.truth import stored
from zoo.types import Data, Published

__all__ = ["completed"]

GROUPS = 4  # independent draws are grouped like chains


def completed(
    marginal: str,
    complete: Callable[[Mapping[str, Tensor], Data], Mapping[str, Tensor]],
    draws: int = 1000,
) -> Callable[[Data], Published]:
    """Return the `published` hook of an entry whose local latents `marginal` integrates out.

    Args:
        marginal: name of the entry with a closed form or a stored reference, for the same data.
        complete: turns draws of the marginal program, `[chain, draw, *site]`, into draws of the
            whole program; must seed itself.
        draws: number of draws used, over all chains.
    """

    def read(data: Data) -> Published:
        entry = load(marginal)
        exact = entry.exact(entry.load_data())
        of = f"draws of {marginal}, completed by exact draws of the local latents"
        if exact is not None:
            grouped = {
                name: v.reshape(GROUPS, -1, *v.shape[1:])
                for name, v in exact.sample(draws // GROUPS * GROUPS, 1).items()
            }
            return Published(draws=complete(grouped, data), provenance={"of": f"exact {of}"})
        found = stored.load(entry, entry.load_data())
        posterior = found.posterior
        assert posterior is not None
        chains = posterior.sample_shape[0]
        kept = {name: value[:, : draws // chains] for name, value in posterior.draws.items()}
        return Published(
            draws=complete(kept, data),
            gates=found.gates,
            rhat_max=found.rhat_max,
            ess_min=found.ess_min,
            provenance={**found.provenance, "of": of},
        )

    return read
