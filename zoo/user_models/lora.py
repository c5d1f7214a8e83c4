"""A posterior over the low-rank adapters of any PyTorch module.

    effective weight = W + s B A,     W frozen,     every entry of A and B latent, with a prior

    module = add_lora(module, ["linear1"], rank=2)      # or peft.get_peft_model(model, config)
    program = to_pyro(module, prior=0.1)
    entry = zoo.from_program(program, {"x": x, "label": label})

`add_lora` adds adapters, and `to_pyro` turns them into latent sites. The adapters of Hugging Face
PEFT have the same names (`lora_A`, `lora_B`), so PEFT models need no extra step. The module is
never changed: the program calls it with sampled adapters (`torch.func.functional_call`). Compare
posteriors on logits or predictive probabilities, never on A and B themselves: (R^-1 A, B R) is the
same adapter for every invertible R.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from zoo.errors import ProgramError, UnknownNameError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from zoo.types import Program

__all__ = ["PATTERN", "adapter_values", "add_lora", "logits_at", "to_pyro"]

PATTERN = r"(^|\.)lora_(A|B|embedding_A|embedding_B)(\.|$)"  # names used by PEFT and `add_lora`
Prior = float | Callable[[str, "Tensor"], Any]


def add_lora(
    module: nn.Module,
    layers: Sequence[str],
    *,
    rank: int = 4,
    alpha: float | None = None,
    seed: int = 0,
) -> nn.Module:
    """Add a low-rank update W + (alpha / rank) B A to linear layers; freeze all other weights.

    The module is changed in place and returned. A starts uniform as in the LoRA paper's code
    (Kaiming) and B at zero, so that the module computes the same as before.

    Args:
        module: any module.
        layers: names of its `torch.nn.Linear` layers, e.g. `encoder.layers.0.linear1`.
        rank: number of columns of B.
        alpha: the update is scaled by alpha / rank; default rank (scale 1).
        seed: seed of A.

    Raises:
        UnknownNameError: no such layer, with the nearest guess.
        UsageError: a layer that is not linear, or a rank below 1.
    """
    if rank < 1:
        raise UsageError(f"add_lora got rank={rank}; accepted: at least 1.")
    known = dict(module.named_modules())
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for name in layers:
        if name not in known:
            raise UnknownNameError(
                "layer", name, [n for n, m in known.items() if isinstance(m, nn.Linear)]
            )
        layer = known[name]
        if not isinstance(layer, nn.Linear):
            raise UsageError(
                f"Layer {name!r} is {type(layer).__name__}; add_lora takes torch.nn.Linear layers."
            )
        parametrize.register_parametrization(
            layer, "weight", _low_rank(layer.weight, rank, (alpha or rank) / rank, generator)
        )
    return module


def _low_rank(weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> nn.Module:
    class LowRank(nn.Module):
        """W -> W + scale B A."""

        def __init__(self) -> None:
            super().__init__()
            rows, columns = weight.shape
            bound = columns**-0.5
            start = (
                2 * torch.rand(rank, columns, dtype=weight.dtype, generator=generator) - 1
            ) * bound
            self.lora_A = nn.Parameter(start.to(weight.device))
            self.lora_B = nn.Parameter(weight.new_zeros(rows, rank))

        def forward(self, w: Tensor) -> Tensor:
            return w + scale * self.lora_B @ self.lora_A

    return LowRank()


def adapter_values(
    module: nn.Module, adapters: str | Sequence[str] = PATTERN
) -> dict[str, Tensor]:
    """Return the adapter tensors of a module by name, detached.

    Args:
        module: any module.
        adapters: a regular expression on parameter names, or the names.

    Raises:
        UnknownNameError: the module has no parameter of a given name.
        ProgramError: the pattern finds nothing.
    """
    named = dict(module.named_parameters())
    if isinstance(adapters, str):
        found = [n for n in named if re.search(adapters, n)]
        if not found:
            raise ProgramError(
                f"No parameter of {type(module).__name__} matches {adapters!r}; put adapters on"
                " with zoo.user_models.lora.add_lora or peft.get_peft_model, or name the tensors."
            )
    else:
        found = list(adapters)
        for name in found:
            if name not in named:
                raise UnknownNameError("parameter", name, named)
    return {n: named[n].detach() for n in found}


def to_pyro(
    module: nn.Module,
    adapters: str | Sequence[str] = PATTERN,
    prior: Prior = 1.0,
    *,
    target: str = "label",
    observe: Callable[[Tensor], Any] | None = None,
) -> Program:
    """Return a Pyro program with a module's adapters as latent sites and `target` observed.

    The program is called as `program(**inputs, label=None)`; every other keyword goes to the
    module. Each adapter tensor is one site with its own name and shape; all other weights and
    buffers are those of the module and stay fixed.

    Args:
        module: any module whose output is a tensor of logits `[row, class]`, or has them as
            `.logits` (Hugging Face).
        adapters: a regular expression on parameter names (default those of `add_lora` and PEFT),
            or the names.
        prior: sd of a normal prior around zero on every entry, or `prior(name, value)` returning a
            distribution over the tensor.
        target: name of the observed keyword and site.
        observe: the likelihood of one row per batch entry given the output; default categorical
            with the logits.

    Raises:
        ProgramError: no adapters, or a module in training mode that draws random numbers
            (dropout).
        UsageError: a prior whose shape is not the tensor's.
    """
    values = adapter_values(module, adapters)
    _refuse_noise(module)
    likelihood = observe or (lambda logits: dist.Categorical(logits=logits))
    priors = {name: _prior(prior, name, value) for name, value in values.items()}

    def program(**inputs: Any) -> None:
        seen = inputs.pop(target, None)
        sampled = {n: pyro.sample(n, d).to(values[n].dtype) for n, d in priors.items()}
        logits = run(module, sampled, inputs)
        with pyro.plate("row", logits.shape[0]):
            pyro.sample(target, likelihood(logits.to(torch.get_default_dtype())), obs=seen)

    program.__signature__ = _signature(module, target)  # type: ignore[attr-defined]
    return program


def logits_at(module: nn.Module, draws: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Tensor:
    """Return the logits `[draw, row, class]` at draws of the adapter sites `[draw, *site]`."""
    number = len(next(iter(draws.values())))
    named = dict(module.named_parameters())
    with torch.no_grad():
        return torch.stack(
            [
                run(module, {n: v[i].to(named[n].dtype) for n, v in draws.items()}, inputs)
                for i in range(number)
            ]
        )


def run(module: nn.Module, sampled: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Tensor:
    """Call the module with these adapters and return its logits; other weights get no gradient."""
    frozen = {n: p.detach() for n, p in module.named_parameters() if n not in sampled}
    # fused attention kernels lack the second derivative that starts and Laplace need
    with sdpa_kernel(SDPBackend.MATH):
        output = torch.func.functional_call(module, {**frozen, **sampled}, (), dict(inputs))
    logits: Tensor = getattr(output, "logits", output)
    return logits


def _prior(prior: Prior, name: str, value: Tensor) -> Any:
    made = (
        prior(name, value)
        if callable(prior)
        else dist.Normal(0.0, float(prior)).expand(value.shape)
    )
    made = made.to_event(len(made.batch_shape))
    if tuple(made.event_shape) != tuple(value.shape):
        raise UsageError(
            f"The prior of {name!r} has shape {tuple(made.event_shape)}; the tensor has"
            f" {tuple(value.shape)}."
        )
    return made


def _refuse_noise(module: nn.Module) -> None:
    for name, part in module.named_modules():
        rate = getattr(part, "p", None) if "Dropout" in type(part).__name__ else None
        if part.training and rate:
            raise ProgramError(
                f"{name or 'The module'} drops values at random (p = {rate}) in training mode;"
                " call module.eval() first."
            )


def _signature(module: nn.Module, target: str) -> Any:
    """Return the keywords of the module and the target, which data are matched to by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = list(inspect.signature(module.forward).parameters.values())
    keyword = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for p in known
        if p.kind in kinds and p.name != target
    ]
    # wrappers such as PEFT's accept any keyword
    rest = [p for p in known if p.kind is inspect.Parameter.VAR_KEYWORD]
    return inspect.Signature(
        [*keyword, inspect.Parameter(target, inspect.Parameter.KEYWORD_ONLY, default=None), *rest]
    )
