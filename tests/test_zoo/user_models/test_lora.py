"""Adapters of any module as latent sites: equal logits, nothing else changes, refusals."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import guides
import zoo
from zoo.density.log_density import LogDensity
from zoo.errors import ProgramError, UnknownNameError, UsageError
from zoo.types import Data
from zoo.user_models.lora import adapter_values, add_lora, logits_at, to_pyro


class Classifier(nn.Module):
    """A small transformer encoder of token indices with random weights."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens)).mean(1))


LAYERS = ["encoder.layers.0.linear1", "encoder.layers.1.linear2"]


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier().double().eval()


@pytest.fixture
def tokens():
    return torch.randint(11, (6, 5), generator=torch.Generator().manual_seed(1))


LABEL = torch.tensor([0, 2, 1, 1, 0, 2])


def moved(module):
    """Set the adapters to values that have an effect."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "lora_" in name:
                p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype, generator=generator))
    return module


def test_a_fresh_adapter_changes_nothing(model, tokens):
    before = model(tokens)
    add_lora(model, LAYERS, rank=2)
    assert torch.allclose(model(tokens), before, atol=1e-12)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == list(
        adapter_values(model)
    )
    assert {tuple(v.shape) for v in adapter_values(model).values()} == {
        (2, 16),
        (32, 2),
        (2, 32),
        (16, 2),
    }


def test_logits_at_the_adapters_own_values_are_the_modules(model, tokens):
    module = moved(add_lora(model, LAYERS, rank=2))
    own = adapter_values(module)
    assert torch.allclose(
        logits_at(module, {n: v[None] for n, v in own.items()}, {"tokens": tokens})[0],
        module(tokens),
        atol=1e-6,
    )
    program = to_pyro(module, prior=0.3)
    trace = pyro.poutine.trace(pyro.poutine.condition(program, data=own)).get_trace(tokens=tokens)
    assert torch.allclose(
        trace.nodes["label"]["fn"].logits, module(tokens).log_softmax(-1).float(), atol=1e-6
    )
    other = logits_at(
        module, {n: torch.zeros_like(v)[None] for n, v in own.items()}, {"tokens": tokens}
    )[0]
    assert (other - module(tokens)).abs().max() > 1e-3


def test_the_density_is_likelihood_plus_prior(model, tokens):
    module = moved(add_lora(model, LAYERS, rank=2))
    data = Data(train={"tokens": tokens, "label": LABEL}, observed=("label",))
    density = LogDensity(to_pyro(module, prior=0.3), data)
    own = adapter_values(module)
    likelihood = -nn.functional.cross_entropy(module(tokens), LABEL, reduction="sum")
    prior = sum(dist.Normal(0.0, 0.3).log_prob(v).sum() for v in own.values())
    assert density(density.unconstrain(own)).item() == pytest.approx(
        (likelihood + prior).item(), abs=1e-8
    )


def test_a_step_of_plain_pyro_moves_the_guide_and_nothing_of_the_module(model, tokens):
    module = add_lora(model, LAYERS[:1], rank=1)
    before = {n: p.clone() for n, p in module.state_dict().items()}
    program = to_pyro(module, prior=0.3)
    with pyro.settings.context(module_local_params=True), torch.random.fork_rng(devices=[]):
        guide = pyro.infer.autoguide.AutoDiagonalNormal(program)
        step = pyro.infer.Trace_ELBO()(program, guide)
        step(tokens=tokens, label=LABEL)
        trained = [p for n, p in step.named_parameters() if p.requires_grad]
        assert sum(p.numel() for p in trained) == 2 * (16 + 32)
        optimizer = torch.optim.Adam(trained, lr=0.1)
        start = [p.detach().clone() for p in trained]
        for _ in range(3):
            optimizer.zero_grad()
            step(tokens=tokens, label=LABEL).backward()
            optimizer.step()
    assert all((a != b).any() for a, b in zip(start, trained, strict=True))
    assert all(torch.equal(before[n], p) for n, p in module.state_dict().items())


class Wrapper(nn.Module):
    """Takes any argument, like PEFT's wrapper."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def test_a_wrapper_that_takes_any_argument_becomes_an_entry(model, tokens):
    module = Wrapper(add_lora(model, LAYERS[:1], rank=1))
    entry = zoo.from_program(
        to_pyro(module, prior=0.3), {"tokens": tokens, "label": LABEL}, observed=["label"]
    )
    assert LogDensity(entry.program(entry.load_data()), entry.load_data()).dim == 16 + 32


@pytest.mark.slow
def test_a_fit_moves_nothing_of_the_module():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = nn.TransformerEncoderLayer(4, 1, 4, dropout=0.0, batch_first=True)
        module = add_lora(
            nn.Sequential(small, nn.Flatten(), nn.Linear(8, 3)).double().eval(),
            ["0.linear1"],
            rank=1,
        )
    x = torch.randn(6, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = {n: p.clone() for n, p in module.state_dict().items()}
    entry = zoo.from_program(
        to_pyro(module, prior=0.3),
        {"input": x, "label": LABEL},
        name="adapted",
        observed=["label"],
    )
    fit = guides.fit(
        entry, "mean_field", steps=30, patience=10, anneal=10, num_particles=2, compile="off"
    )
    assert fit.ok
    assert fit.elbo.value_nats < 0
    assert set(guides.draw(fit, 5).draws) == set(adapter_values(module))
    assert all(torch.equal(before[n], p) for n, p in module.state_dict().items())
    assert len(pyro.get_param_store()) == 0


def test_clear_refusals(model, tokens):
    with pytest.raises(ProgramError, match="add_lora"):
        to_pyro(model)
    with pytest.raises(UnknownNameError, match=r"encoder\.layers\.0\.linear1"):
        add_lora(model, ["encoder.layers.0.linear"])
    with pytest.raises(UsageError, match="Embedding"):
        add_lora(model, ["embed"])
    with pytest.raises(UsageError, match="rank=0"):
        add_lora(model, LAYERS, rank=0)
    module = add_lora(model, LAYERS, rank=1)
    with pytest.raises(UnknownNameError, match="parameter"):
        to_pyro(module, ["lora"])
    with pytest.raises(UsageError, match="shape"):
        to_pyro(module, prior=lambda name, value: dist.Normal(0.0, 1.0).expand([3]))
    module.train()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.1
    with pytest.raises(ProgramError, match="eval"):
        to_pyro(module)


# warnings of these two packages about each other
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_peft_transformer_from_a_config():
    peft = pytest.importorskip("peft", reason="the optional group [peft] is not installed")
    transformers = pytest.importorskip(
        "transformers", reason="the optional group [peft] is not installed"
    )
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = transformers.BertForSequenceClassification(config)
        lora = peft.LoraConfig(
            r=2,
            lora_alpha=4,
            target_modules=["query", "value"],
            lora_dropout=0.0,
            init_lora_weights=False,
        )
        model = peft.get_peft_model(plain, lora).eval()
    ids = torch.randint(50, (6, 7), generator=torch.Generator().manual_seed(1))
    own = adapter_values(model)
    assert len(own) == 8  # two layers, query and value, A and B
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = model(**inputs).logits
    assert torch.allclose(
        logits_at(model, {n: v[None] for n, v in own.items()}, inputs)[0], expected, atol=1e-6
    )
    program = to_pyro(model, prior=0.1)
    trace = pyro.poutine.trace(pyro.poutine.condition(program, data=own)).get_trace(**inputs)
    assert torch.allclose(trace.nodes["label"]["fn"].logits, expected.log_softmax(-1), atol=1e-6)
    entry = zoo.from_program(
        program, {**inputs, "label": LABEL}, name="bert", observed=["label"], dtype=torch.float32
    )
    density = LogDensity(entry.program(entry.load_data()), entry.load_data(), dtype=torch.float32)
    value = density(density.unconstrain(own))
    likelihood = -nn.functional.cross_entropy(expected, LABEL, reduction="sum")
    prior = sum(dist.Normal(0.0, 0.1).log_prob(v).sum() for v in own.values())
    assert value.item() == pytest.approx((likelihood + prior).item(), rel=1e-5)


@pytest.mark.parametrize(("alpha", "factor"), [(None, 1.0), (6.0, 2.0), (1.5, 0.5)])
def test_the_update_is_scaled_by_alpha_over_rank(alpha, factor):
    layer = nn.Sequential(nn.Linear(5, 4)).double()
    before = layer[0].weight.detach().clone()
    moved(add_lora(layer, ["0"], rank=3, alpha=alpha))
    a, b = (
        next(p for n, p in layer.named_parameters() if n.endswith(f"lora_{x}")).detach()
        for x in "AB"
    )
    assert b.abs().max() > 0.1
    torch.testing.assert_close(layer[0].weight.detach() - before, factor * b @ a)
