"""`laplace-torch` beside our own families on `lora_head[form=last_layer]`: a Laplace approximation somebody else wrote.

    python -c "from benchmarks.adapter_peer import main; main()"

The last layer is a linear model with a normal prior around the frozen weights, which the library can say exactly: with the
full Hessian it is our `laplace` (a test holds mean and covariance equal), with Kronecker factors what its users mostly take. The
table goes into the part `laplace-torch` of `docs/models/lora_head.md`. Needs `pip install -e '.[peers]'`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.predictions import halves, predictive, score_rows
from zoo.adapters import LAST_SCALE
from zoo.backbone import backbone, features
from zoo.errors import UsageError
from zoo.types import Baselines, Data

__all__ = ["Approximation", "main", "measure", "table"]

SAMPLES = 2000
STRUCTURES = {"kron": "laplace-torch, Kronecker factors", "full": "laplace-torch, full Hessian"}
PAGE = Path("docs/models/lora_head.md")


class Approximation:
    """The library's approximation around a mode of the head.

    Args:
        data: of `lora_head` with `form=last_layer`.
        mode: the head's values at the mode, `[class, 33]`, as the site of the program has them.
        structure: `kron` or `full`, of the Hessian.

    Raises:
        UsageError: another structure, or the library is not installed.
    """

    def __init__(self, data: Data, mode: Tensor, structure: str) -> None:
        if structure not in STRUCTURES:
            raise UsageError(f"structure is {structure!r}; accepted: {', '.join(STRUCTURES)}.")
        try:
            import laplace
        except ImportError as error:
            raise UsageError("laplace-torch is not installed; pip install -e '.[peers]' brings it.") from error
        w = backbone()
        self.classes = len(mode)
        frozen = torch.cat([w["w3"][: self.classes], w["b3"][: self.classes, None]], 1)  # [class, 33], the bias last
        head = nn.Linear(32, self.classes).double()
        with torch.no_grad():
            values = frozen + LAST_SCALE * mode
            head.weight.copy_(values[:, :32])
            head.bias.copy_(values[:, 32])
        model = nn.Sequential(nn.Identity(), head)
        kind = {"kron": laplace.KronLLLaplace, "full": laplace.FullLLLaplace}[structure]
        mean = torch.cat([frozen[:, :32].reshape(-1), frozen[:, 32]])  # in the order of the layer's parameters
        self.posterior = kind(model, "classification", prior_precision=1 / LAST_SCALE**2, prior_mean=mean, last_layer_name="1")
        rows = torch.utils.data.TensorDataset(data.train["x"], data.train["label"])
        with torch.enable_grad():
            self.posterior.fit(torch.utils.data.DataLoader(rows, batch_size=len(rows)))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of the site `head`, flattened class by class; with the full Hessian alone."""
        w = backbone()
        frozen = torch.cat([w["w3"][: self.classes], w["b3"][: self.classes, None]], 1)
        number = self.classes * 33
        place = torch.arange(number - self.classes).reshape(self.classes, 32)
        order = torch.cat([place, torch.arange(number - self.classes, number)[:, None]], 1).reshape(-1)
        mean = (self.posterior.mean[order].reshape(self.classes, 33) - frozen) / LAST_SCALE
        return mean.reshape(-1), self.posterior.posterior_covariance[order][:, order] / LAST_SCALE**2

    def probabilities(self, sets: Mapping[str, Tensor], seed: int = 0) -> dict[str, Any]:
        """Return the mean class probabilities `[row, class]` over draws of the logits, per set of images."""
        torch.manual_seed(seed)
        options = {"pred_type": "glm", "link_approx": "mc", "n_samples": SAMPLES}
        return {name: self.posterior(x, **options).detach().double().numpy() for name, x in sets.items()}


def measure(seed: int = 0) -> tuple[Baselines, dict[str, Mapping[str, Any]], Any]:
    """Return the scored sets, the predictive of every method by name, and the chains they are measured against."""
    import benchmarks
    import guides
    import zoo
    from zoo.adapters import layer_input
    from zoo.digit_tasks import make_task

    entry = zoo.load("lora_head", form="last_layer")
    data = entry.load_data(seed)
    assert entry.baselines is not None
    assert data.test is not None
    made = entry.baselines(data, 0, **entry.settings)
    nuts = benchmarks.run_nuts(entry, seed=seed, data=data, draws=1000, tune=500, min_ess=0)
    found: dict[str, Mapping[str, Any]] = {"nuts": predictive(made, nuts)}
    mode = torch.empty(0)
    for family in ("laplace", "full_rank"):
        settings: dict[str, Any] = {} if family == "laplace" else {"steps": 3000, "num_particles": 16}
        fit = guides.fit(entry, family, seed=seed, data=data, **settings)
        found[family] = predictive(made, guides.draw(fit, SAMPLES))
        if family == "laplace":
            guide: Any = fit.guide
            mode = guide.loc.detach().reshape(len(made.classes), 33)
    task = make_task(str(entry.settings["task"]), int(entry.settings["labels"]), seed)
    sets = {"test": data.test["x"], **{n: layer_input("last_layer", features(v, backbone())) for n, v in task.outside.items()}}
    for structure, name in STRUCTURES.items():
        found[name] = Approximation(data, mode, structure).probabilities(sets)
    return made, found, nuts


def table(made: Baselines, found: Mapping[str, Mapping[str, Any]], nuts: Any) -> str:
    """Return one Markdown row per method: accuracy, log loss, ECE, and mean total variation to the predictive of the chains."""
    parts = halves(made, nuts)
    assert parts is not None
    labels = made.labels.numpy()
    floor = score_rows({"half": parts[0]}, labels, parts[1]["test"], set())[0].distance
    lines = ["| method | accuracy | log loss | ECE | total variation to NUTS |", "|---|---|---|---|---|"]
    for row in score_rows(dict(found), labels, found["nuts"]["test"], set(), "nuts"):
        m = row.metrics
        away = f"floor {floor:.3f}" if row.method == "nuts" else f"{row.distance:.3f}"
        lines.append(f"| {row.method} | {m['accuracy'].value:.3f} | {m['log_loss'].value:.3f} | {m['ece'].value:.3f} | {away} |")
    return "\n".join(lines)


def main() -> None:
    """Replace the table in the page."""
    from benchmarks.pages import replace_part
    from benchmarks.workers import one_thread

    with one_thread():
        text = table(*measure())
    print(text)
    replace_part(PAGE, "laplace-torch", text)
