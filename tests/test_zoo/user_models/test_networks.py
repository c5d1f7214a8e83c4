"""Networks of a user's code: registered or not, whole or in parts, shared or not."""

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import nn

import zoo
from zoo.errors import ProgramError
from zoo.user_models.discover import discover
from zoo.user_models.lift_params import LiftedProgram
from zoo.user_models.networks import owned_copies

X = torch.linspace(-1.0, 1.0, 12).reshape(6, 2)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


def program(x):
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def drawn(x, loc):
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def trained(guide):
    """Names of the weights that a fit of this guide trains, of all it has."""
    lifted, _ = discover(guide, {"x": X}, torch.float64)
    made = LiftedProgram(guide, lifted, torch.float64)
    return made, [n for n, p in made.named_parameters() if p.requires_grad]


def said(guide, model=program, **given):
    entry = zoo.from_program(model, {"x": X}, guide=guide, **given)
    return [n for n in entry.notices if "pyro.module" in n]


def gradients(made):
    made(x=X.double())
    trace = pyro.poutine.trace(made).get_trace(x=X.double())
    trace.nodes["z"]["fn"].mean.sum().backward()
    return {n for n, p in made.named_parameters() if p.grad is not None}


# -- registered networks ------------------------------------------------------------------------


def test_a_network_that_is_called_before_it_is_registered_is_trained():
    net = Encoder()

    def guide(x):
        loc = net(x)
        pyro.module("encoder", net)
        drawn(x, loc)

    made, names = trained(guide)
    assert len(names) == 4
    assert gradients(made) == set(names)
    assert list(made.networks()) == ["net"]
    assert said(guide) == []
    held = SimpleNamespace(encoder=net)

    def of_attribute(x):
        loc = held.encoder(x)
        pyro.module("encoder", held.encoder)
        drawn(x, loc)

    assert list(trained(of_attribute)[0].networks()) == ["encoder"]


@pytest.mark.parametrize("first", [True, False])
def test_a_network_that_is_registered_in_parts_is_trained_and_called_as_a_whole(first):
    net = Encoder()

    def guide(x):
        loc = net(x) if first else None
        pyro.module("body", net.body)
        pyro.module("head", net.head)
        drawn(x, net(x) if loc is None else loc)

    made, names = trained(guide)
    assert len(names) == 4
    assert gradients(made) == set(names)
    assert said(guide) == []


def test_the_rest_of_a_network_of_which_a_part_is_registered_is_fixed():
    net = Encoder()

    def guide(x):
        pyro.module("head", net.head)
        drawn(x, net(x))

    made, names = trained(guide)
    assert len(names) == 2
    assert gradients(made) == set(names)
    assert len(said(guide)) == 1
    net.body.requires_grad_(False)
    assert said(guide) == []


def test_a_network_inside_a_registered_one_may_be_registered_too():
    net = Encoder()

    def guide(x):
        pyro.module("all", net)
        pyro.module("head", net.head)
        drawn(x, net(x))

    made, names = trained(guide)
    assert len(names) == 4
    assert gradients(made) == set(names)


def test_copies_share_what_their_networks_share():
    net = Encoder()
    copies = owned_copies({"all": net, "head": net.head}, torch.float64)
    assert copies["all"].head is copies["head"]
    assert copies["head"].weight.dtype == torch.float64
    assert net.head.weight.dtype == torch.float32


# -- networks that are not registered ------------------------------------------------------------


def sentence(owner, word, written):
    return (
        f"The {owner} calls the network {written!r} without pyro.module, so that its weights are"
        f" held as they are, as in stock Pyro; write pyro.module({word!r}, {written}) to train"
        f" them, or {written}.requires_grad_(False) if they are meant to be fixed."
    )


def test_a_network_without_pyro_module_is_named_as_its_author_writes_it():
    encoder = Encoder()
    held = SimpleNamespace(encoder=encoder)

    def of_variable(x):
        drawn(x, encoder(x))

    def of_attribute(x):
        drawn(x, held.encoder(x))

    def inside(x):
        of_variable(x)

    def of_list(x):
        drawn(x, [Encoder()][0](x) if False else nets[0](x))

    nets = [encoder]
    assert said(of_variable) == [sentence("guide", "encoder", "encoder")]
    assert said(inside) == [sentence("guide", "encoder", "encoder")]
    assert said(of_attribute) == [sentence("guide", "encoder", "held.encoder")]
    (unknown,) = said(of_list)
    assert unknown.startswith("The guide calls a network without pyro.module, so that its")


def test_a_network_of_the_program_is_named_too():
    decoder = nn.Linear(2, 2)

    def model(x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    assert said(None, model) == [sentence("program", "decoder", "decoder")]


def test_networks_that_are_meant_to_be_fixed_are_not_named():
    encoder = Encoder()

    def guide(x):
        shift = pyro.param("shift", torch.zeros(()))
        drawn(x, encoder(x) + shift)

    def without_gradients(x):
        shift = pyro.param("shift", torch.zeros(()))
        with torch.no_grad():
            loc = encoder(x)
        drawn(x, loc + shift)

    assert len(said(guide)) == 1
    assert said(without_gradients) == []
    encoder.eval()
    assert said(guide) == []
    encoder.train().requires_grad_(False)
    assert said(guide) == []
    encoder.requires_grad_(True)
    assert len(said(guide)) == 1
    assert said(without_gradients, trained=False) == []


def test_a_guide_that_has_been_trained_is_fixed_on_purpose():
    encoder = Encoder()

    def guide(x):
        drawn(x, encoder(x))

    assert said(guide, trained=True) == []


# -- networks in both ----------------------------------------------------------------------------


def refused(of_program, of_guide, net):
    """Load a program and a guide that call a network, registered or not in each."""

    def model(x):
        if of_program:
            pyro.module("net", net)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    def guide(x):
        if of_guide:
            pyro.module("net", net)
        drawn(x, net(x))

    zoo.from_program(model, {"x": X}, guide=guide)


@pytest.mark.parametrize(("of_program", "of_guide"), [(True, True), (True, False), (False, True)])
def test_a_network_that_is_trained_and_called_in_both_is_refused(of_program, of_guide):
    with pytest.raises(ProgramError) as caught:
        refused(of_program, of_guide, nn.Linear(2, 2))
    assert str(caught.value) == (
        "The network 'net' is trained in the program and in the guide; each would get a copy of"
        " its own, and the ELBO would exceed that of the pair as written. Give the guide a network"
        " of its own and register in each by pyro.module what only it uses, or fix the weights by"
        " requires_grad_(False)."
    )


def test_a_network_in_both_that_nobody_trains_is_accepted():
    refused(False, False, nn.Linear(2, 2))
    refused(False, True, nn.Linear(2, 2).requires_grad_(False))


def test_one_module_of_which_each_uses_its_part_is_accepted():
    vae = nn.ModuleDict({"decoder": nn.Linear(2, 2), "encoder": nn.Linear(2, 2)})

    def model(x):
        pyro.module("decoder", vae["decoder"])
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(vae["decoder"](z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("vae", vae)
        drawn(x, vae["encoder"](x))

    assert said(guide, model) == []


class Reads(nn.Module):
    """An encoder that multiplies by the weight of a decoder and never calls it."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder, self.c = decoder, nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        return self.c * (x @ self.decoder.weight)


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("as_module", [True, False])
@pytest.mark.parametrize("minibatch", [None, 2])
def test_a_weight_that_the_guide_reads_without_a_call_is_refused(registered, as_module, minibatch):
    """Two copies of it reached an ELBO that the pair as written, with one matrix, cannot have."""
    decoder = nn.Linear(2, 2, bias=False)
    reads, scale = Reads(decoder), nn.Linear(2, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        if registered:
            pyro.module("reads", reads)
            drawn(x, reads(x))
        else:
            pyro.module("scale", scale)
            drawn(x, scale(x @ decoder.weight.to(x.dtype)))

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.reads = reads

        def forward(self, x):
            drawn(x, self.reads(x))

    given = Guide() if as_module and registered else guide
    with pytest.raises(ProgramError, match=r"'weight' of the network 'decoder' is trained in"):
        zoo.from_program(model, {"x": X}, guide=given, minibatch=minibatch)
    decoder.requires_grad_(False)
    zoo.from_program(model, {"x": X}, guide=given, minibatch=minibatch)


WAYS_TO_READ = {
    "detach": lambda weight: weight.detach(),
    "data": lambda weight: weight.data.T,
    "no_grad": lambda weight: torch.no_grad()(lambda: 2 * weight)(),
    "shape": lambda weight: torch.full((2, 2), float(weight.shape[0])),
}


@pytest.mark.parametrize("way", WAYS_TO_READ)
@pytest.mark.parametrize("minibatch", [None, 2])
def test_a_weight_that_is_read_without_a_gradient_is_refused(way, minibatch):
    """The guide went on with the values that the decoder had before it was trained."""
    decoder, scale = nn.Linear(2, 2), nn.Linear(2, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("scale", scale)
        drawn(x, scale(x @ WAYS_TO_READ[way](decoder.weight).to(x.dtype)))

    if way != "shape":
        with pytest.raises(ProgramError, match=r"'weight' of the network 'decoder' is trained in"):
            zoo.from_program(model, {"x": X}, guide=guide, minibatch=minibatch)
        decoder.requires_grad_(False)
    zoo.from_program(model, {"x": X}, guide=guide, minibatch=minibatch)


def test_a_weight_of_the_guide_that_the_program_reads_is_refused():
    encoder = nn.Linear(2, 2)

    def model(x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = z @ encoder.weight.to(z.dtype)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        drawn(x, encoder(x))

    with pytest.raises(ProgramError, match=r"'weight' of the network 'encoder' is trained in"):
        zoo.from_program(model, {"x": X}, guide=guide)


def test_the_name_of_pyro_module_and_the_values_of_a_module_are_known():
    the_net = Encoder()

    def guide(x):
        pyro.module("encoder", the_net)
        drawn(x, the_net(x))

    made = trained(guide)[0]
    assert list(made.networks()) == ["the_net"]
    assert made.registered() == {"encoder": made.networks()["the_net"]}
    assert made.own_values() == {}

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.tensor(2.0), constraint=constraints.positive)
            self.shift = nn.Parameter(torch.tensor(0.5))
            self.encoder = the_net

        def forward(self, x):
            drawn(x, self.encoder(x) * self.scale + self.shift)

    made = trained(Guide())[0]
    assert list(made.networks()) == ["encoder"]
    assert {k: v.item() for k, v in made.own_values().items()} == pytest.approx(
        {"scale": 2.0, "shift": 0.5}
    )
