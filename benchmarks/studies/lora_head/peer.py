"""`laplace-torch`, an independent Laplace approximation, on `lora_head[form=last_layer]`.

The last layer is a linear model with a normal prior around the frozen weights, which the library
can represent exactly. With the full Hessian it equals the `laplace` family (a test compares mean
and covariance); with Kronecker factors it is what most of its users choose. The table becomes the
part `laplace-torch` of `docs/models/lora_head.md`. Needs `pip install -e '.[peers]'`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import benchmarks
import guides
import zoo
from benchmarks.comparison.baselines import halves, predictive, score_rows
from benchmarks.studies.record import Work
from zoo.errors import UsageError
from zoo.models.adapters._backbone import backbone
from zoo.models.adapters._updates import LAST_SCALE
from zoo.types import Baselines, Data

__all__ = ["Approximation", "measure"]

SAMPLES = 2000
STRUCTURES = {"kron": "laplace-torch, Kronecker factors", "full": "laplace-torch, full Hessian"}


def _library() -> Any:
    try:
        import laplace
    except ImportError as error:
        raise UsageError(
            "laplace-torch is not installed; pip install -e '.[peers]' brings it."
        ) from error
    return laplace


class Approximation:
    """The library's approximation around a mode of the head.

    Args:
        data: data of `lora_head` with `form=last_layer`.
        mode: values of the head at the mode, `[class, 33]`, as in the program's site.
        structure: `kron` or `full`, of the Hessian.

    Raises:
        UsageError: another structure, or the library is not installed.
    """

    def __init__(self, data: Data, mode: Tensor, structure: str) -> None:
        if structure not in STRUCTURES:
            raise UsageError(f"structure is {structure!r}; accepted: {', '.join(STRUCTURES)}.")
        laplace = _library()
        w, classes = backbone(), len(mode)
        # [class, 33], the bias last
        self.frozen = torch.cat([w["w3"][:classes], w["b3"][:classes, None]], 1)
        layer = nn.Linear(32, classes).double()
        with torch.no_grad():
            values = self.frozen + LAST_SCALE * mode
            layer.weight.copy_(values[:, :32])
            layer.bias.copy_(values[:, 32])
        # the layer has weights, then biases; the site has the bias at the end of each row
        self.order = torch.cat(
            [
                torch.arange(32 * classes).reshape(classes, 32),
                32 * classes + torch.arange(classes)[:, None],
            ],
            1,
        )
        mean = torch.cat([self.frozen[:, :32].reshape(-1), self.frozen[:, 32]])
        kind = {"kron": laplace.KronLLLaplace, "full": laplace.FullLLLaplace}[structure]
        model = nn.Sequential(nn.Identity(), layer)
        self.posterior = kind(
            model,
            "classification",
            prior_precision=1 / LAST_SCALE**2,
            prior_mean=mean,
            last_layer_name="1",
        )
        rows = torch.utils.data.TensorDataset(data.train["x"], data.train["label"])
        with torch.enable_grad():
            self.posterior.fit(torch.utils.data.DataLoader(rows, batch_size=len(rows)))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of the site `head`, flattened class by class.

        Only with the full Hessian.
        """
        flat = self.order.reshape(-1)
        covariance: Tensor = self.posterior.posterior_covariance[flat][:, flat] / LAST_SCALE**2
        return self._head(self.posterior.mean).reshape(-1), covariance

    def draws(self, number: int, seed: int = 0) -> Tensor:
        """Return draws of the site `head`, `[sample, class, 33]`."""
        return self._head(
            self.posterior.sample(number, generator=torch.Generator().manual_seed(seed)).double()
        )

    def _head(self, parameters: Tensor) -> Tensor:
        return (parameters[..., self.order] - self.frozen) / LAST_SCALE


def _predictions(
    quick: bool, seed: int = 0
) -> tuple[Baselines, dict[str, Mapping[str, Any]], Any]:
    """Return the scored sets, the predictive of every method, and the reference chains."""
    entry = zoo.load("lora_head", form="last_layer")
    data = entry.load_data(seed)
    assert entry.baselines is not None
    made = entry.baselines(data, 0, **entry.settings)
    nuts = benchmarks.run_nuts(
        entry, seed=seed, data=data, draws=300 if quick else 1000, tune=500, min_ess=0
    )
    found: dict[str, Mapping[str, Any]] = {"nuts": predictive(made, nuts)}
    mode = torch.empty(0)
    for family in ("laplace", "full_rank"):
        settings: dict[str, Any] = (
            {} if family == "laplace" else {"steps": 500 if quick else 3000, "num_particles": 16}
        )
        fit = guides.fit(entry, family, seed=seed, data=data, **settings)
        found[family] = predictive(made, guides.draw(fit, SAMPLES))
        if family == "laplace":
            guide: Any = fit.guide
            mode = guide.loc.detach().reshape(len(made.classes), 33)
    for structure, name in STRUCTURES.items():
        draws = {"head": Approximation(data, mode, structure).draws(SAMPLES)}
        found[name] = {where: p.mean(0).numpy() for where, p in made.predict(draws).items()}
    return made, found, nuts


def measure(work: Work) -> list[dict[str, Any]]:
    """Return one row per method.

    Accuracy, log loss, ECE, and mean total variation to the predictive of the chains.
    """
    _library()
    made, found, nuts = _predictions(work.quick)
    parts = halves(made, nuts)
    assert parts is not None
    labels = made.labels.numpy()
    floor = score_rows({"half": parts[0]}, labels, parts[1]["test"], set())[0].distance
    return [
        {
            "method": row.method,
            **{m: row.metrics[m].value for m in ("accuracy", "log_loss", "ece")},
            "distance": None if row.method == "nuts" else row.distance,
            "floor": floor if row.method == "nuts" else None,
        }
        for row in score_rows(dict(found), labels, found["nuts"]["test"], set(), "nuts")
    ]
