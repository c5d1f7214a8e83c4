"""Programs whose density is random, depends on the minibatch, or is another posterior's."""

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of
from torch import nn

from zoo.density.defects import (
    called_modules,
    nothing_overwritten,
    refuse_training_layers,
    refuse_weighted_sites,
    refuse_without_bijection,
)
from zoo.errors import ProgramError
from zoo.types import Data


def said(act, *given):
    with pytest.raises(ProgramError) as caught:
        act(*given)
    return str(caught.value)


# -- layers --------------------------------------------------------------------------------------


def test_modules_that_are_called_are_collected_wherever_they_are():
    inner, outer = nn.Linear(1, 1), nn.Sequential(nn.Identity())
    with called_modules() as found:
        inner(torch.ones(1))
        outer(torch.ones(1))
    assert found == [inner, outer, outer[0]]
    inner(torch.ones(1))
    assert len(found) == 3
    with pytest.raises(ZeroDivisionError), called_modules() as found:
        raise ZeroDivisionError
    inner(torch.ones(1))
    assert found == []


@pytest.mark.parametrize(
    "layer",
    [
        nn.Dropout,
        nn.Dropout1d,
        nn.Dropout2d,
        nn.Dropout3d,
        nn.AlphaDropout,
        nn.FeatureAlphaDropout,
    ],
)
def test_dropout_in_training_is_refused(layer):
    assert said(refuse_training_layers, [nn.Identity(), layer(p=0.25)]) == (
        f"The program calls {layer.__name__}(p=0.25) in training mode, so its log density is"
        " another number at every call; call .eval() on that network first, or make the noise a"
        " pyro.sample site."
    )
    refuse_training_layers([layer(p=0.25).eval()])
    refuse_training_layers([layer(p=0.0)])


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]
)
def test_statistics_of_a_batch_are_refused(layer):
    assert said(refuse_training_layers, [layer(2)]) == (
        f"The program calls {layer.__name__} in training mode, so the rows of the data depend on"
        " each other and on the minibatch; call .eval() on that network first, or use LayerNorm or"
        " GroupNorm."
    )
    refuse_training_layers([layer(2).eval(), nn.LayerNorm(2)])


# -- writes in place -----------------------------------------------------------------------------


def watched(program, y):
    with nothing_overwritten(Data(train={"y": y}, observed=("y",))) as handler:
        handler(program)(y)


def test_a_latent_value_that_is_written_into_is_refused():
    def program(y):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z[0] = 0.0

    assert said(watched, program, torch.zeros(2)) == (
        "The program writes into the value of the latent site 'z' in place, so its density would"
        " be that of other numbers than those drawn; write into a copy, such as value.clone()."
    )


def test_data_that_are_written_into_are_refused():
    def program(y):
        y += 1

    assert said(watched, program, torch.zeros(2)) == (
        "The program writes into its data 'y' in place, so every run sees other numbers; write"
        " into a copy, such as y.clone()."
    )


def test_writing_the_same_numbers_or_into_a_copy_is_accepted():
    def program(y):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z.clone().zero_()
        y[0] = y[0].clone()
        pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)
        pyro.sample("n", dist.Delta(torch.tensor(1.0)), obs=torch.tensor(1.0)).add_(1)

    watched(program, torch.ones(2))


def test_data_that_are_no_tensors_are_not_watched():
    data = SimpleNamespace(train={"n": 3, "y": torch.zeros(1)})
    with nothing_overwritten(data) as handler:
        handler(lambda: None)()


# -- weights -------------------------------------------------------------------------------------


def traced(program):
    return pyro.poutine.trace(program).get_trace()


def test_a_plate_that_is_given_a_part_of_its_rows_is_refused():
    def program():
        with pyro.plate("row", 6, subsample=torch.tensor([0, 1, 2, 3])):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    assert said(refuse_weighted_sites, traced(program)) == (
        "Plate 'row' is given 4 of its 6 rows (subsample=), so each term of site 'z' counts 1.5"
        " times and the density is that of no data set; give all rows, or write pyro.plate('row',"
        " 6, subsample=index) with an argument index=None and pass batched=[...]."
    )


def test_a_latent_site_that_is_weighted_is_refused_and_an_observed_one_is_not():
    def program(scale, observed):
        with pyro.poutine.scale(scale=scale):
            pyro.sample("z", dist.Normal(0.0, 1.0), obs=torch.zeros(()) if observed else None)
        with pyro.plate("row", 3):
            pyro.sample("w", dist.Normal(0.0, 1.0))

    for scale, shown in ((0.5, "0.5"), (1.01, "1.01")):
        assert said(refuse_weighted_sites, traced(lambda s=scale: program(s, False))) == (
            f"The term of the latent site 'z' is weighted by {shown} (poutine.scale), so the"
            " density belongs to no posterior and its ELBO can exceed the evidence; leave the"
            " weight out. If a weighted KL is meant, it is an objective of the amortized families"
            " (amortize= and objective='beta[beta=0.5]'); a guide of your own is fitted by the"
            " ELBO."
        )
        refuse_weighted_sites(traced(lambda s=scale: program(s, True)))
    refuse_weighted_sites(traced(lambda: program(1.0, False)))
    refuse_weighted_sites(traced(lambda: program(1.0 + 1e-10, False)))


# -- supports ------------------------------------------------------------------------------------


def node(fn, value=None):
    return {"name": "z", "fn": fn, "value": torch.zeros(()) if value is None else value}


def test_ordinary_supports_are_accepted():
    refuse_without_bijection(
        [node(dist.Normal(0.0, 1.0)), node(dist.VonMises(0.0, 1.0)), node(dist.Poisson(1.0))]
    )
    refuse_without_bijection([node(dist.Poisson(1.0), torch.tensor([1, 2]))])


def test_a_transformed_angle_is_refused():
    moved = dist.TransformedDistribution(
        dist.VonMises(0.0, 1.0), [torch.distributions.AffineTransform(1.0, 2.0)]
    )
    assert said(refuse_without_bijection, [node(moved)]) == (
        "Latent site 'z' is a transformed angle, whose density repeats with every turn and has no"
        " integral; sample the angle itself, and transform its value after that."
    )


def test_a_direction_is_refused_with_its_reparameterization():
    assert said(refuse_without_bijection, [node(dist.ProjectedNormal(torch.zeros(3)))]) == (
        "Latent site 'z' is a direction on a sphere, for which there is no bijection from"
        " unconstrained space; give it a ProjectedNormal prior and run the model under"
        " poutine.reparam(config={'z': ProjectedNormalReparam()}), or give an angle a VonMises"
        " prior."
    )


def test_a_value_that_is_no_number_is_refused_with_its_support():
    bad = torch.tensor([0.0, torch.inf])
    assert said(refuse_without_bijection, [node(dist.Gamma(1.0, 1.0), bad)]) == (
        "The support of latent site 'z' (GreaterThanEq(lower_bound=0.0)) has no bijection that"
        " gives numbers, e.g. since torch states an infinite bound; use a distribution whose"
        " support is a half-line or a finite interval, or transform a Uniform by hand."
    )


def test_a_density_looks_for_them():
    net = nn.Dropout(0.5)

    def program(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(net(z), 1.0), obs=y)

    y = torch.zeros((), dtype=torch.float64)
    assert "Dropout(p=0.5) in training mode" in said(lambda: density_of(program, y=y))
