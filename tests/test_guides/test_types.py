"""The configuration of a fit, and what a fit says of itself."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from guides.objectives.records import OBJECTIVES
from guides.types import Elbo, Fit, FitConfig, Restart, Stop
from zoo.errors import UnknownNameError, UsageError
from zoo.types import Cost


def test_the_defaults():
    config = FitConfig()
    assert (config.steps, config.lr, config.final_lr, config.weight_lr) == (6000, 0.05, 1e-3, 5e-3)
    assert (config.num_particles, config.batch_size, config.clip_norm) == (64, None, 100.0)
    assert (config.tail, config.patience, config.anneal, config.restarts) == (0.67, 250, 750, 1)
    assert (config.objective, config.compile, config.device) == ("elbo", "auto", "cpu")
    assert (config.beta, config.warmup, config.free_bits) == (None, None, None)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"steps": -1},
            "FitConfig.steps is -1; accepted: an integer >= 1, or 0 for a guide of your own.",
        ),
        ({"num_particles": 0}, "FitConfig.num_particles is 0; accepted: an integer >= 1."),
        ({"patience": 0}, "FitConfig.patience is 0; accepted: an integer >= 1."),
        ({"restarts": 0}, "FitConfig.restarts is 0; accepted: an integer >= 1."),
        ({"anneal": 0}, "FitConfig.anneal is 0; accepted: an integer >= 1."),
        ({"lr": 0.0}, "FitConfig.lr is 0.0; accepted: a positive number."),
        ({"final_lr": -1}, "FitConfig.final_lr is -1; accepted: a positive number."),
        ({"weight_lr": 0}, "FitConfig.weight_lr is 0; accepted: a positive number."),
        ({"clip_norm": 0}, "FitConfig.clip_norm is 0; accepted: a positive number."),
        ({"tail": 0}, "FitConfig.tail is 0; accepted: a share in (0, 0.9]."),
        ({"tail": 0.91}, "FitConfig.tail is 0.91; accepted: a share in (0, 0.9]."),
        ({"batch_size": 0}, "FitConfig.batch_size is 0; accepted: a positive integer or None."),
        (
            {"device": "cuda", "compile": "off"},
            "FitConfig.compile is 'off' but steps on cuda are graphs; accepted with it: auto, on.",
        ),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(fields, said):
    with pytest.raises(UsageError) as caught:
        FitConfig(**fields)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 0},
        {"num_particles": 1, "patience": 1, "restarts": 1, "anneal": 1, "batch_size": 1},
        {"tail": 0.9},
        {"tail": 1e-9, "lr": 1e-9, "clip_norm": 1e-9},
        {"device": "cuda", "compile": "on"},
        {"compile": "off"},
    ],
)
def test_the_ends_of_the_ranges_are_accepted(fields):
    config = FitConfig(**fields)
    assert {k: getattr(config, k) for k in fields} == fields


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"device": "gpu"}, "Unknown device 'gpu'"),
        ({"compile": "maybe"}, "Unknown value of compile 'maybe'"),
    ],
)
def test_an_unknown_word_is_refused_with_the_known_ones(fields, said):
    with pytest.raises(UnknownNameError, match=said):
        FitConfig(**fields)


@pytest.mark.parametrize(
    "field",
    ["steps", "lr", "final_lr", "weight_lr", "num_particles", "batch_size", "clip_norm", "tail",
     "patience", "anneal", "restarts", "objective", "beta", "warmup", "free_bits", "compile",
     "device"],
)  # fmt: skip
def test_every_field_has_a_type(field):
    with pytest.raises(UsageError, match=f"FitConfig has {field}="):
        FitConfig(**{field: [1]})


def test_a_record_of_an_objective_is_stored_as_its_spec():
    assert FitConfig(objective=OBJECTIVES["elbo"]).objective == "elbo"
    assert FitConfig(objective="elbo_linear[warmup=7]").objective == "elbo_linear[warmup=7]"


@pytest.mark.parametrize(
    ("fields", "spec", "names"),
    [
        ({"objective": "beta", "beta": 4.0}, "beta[beta=4.0]", "beta"),
        (
            {"objective": "elbo_linear[warmup=7]", "beta": 2.0},
            "elbo_linear[warmup=7,beta=2.0]",
            "beta",
        ),
        ({"warmup": 3, "free_bits": 0.5}, "elbo[warmup=3,free_bits=0.5]", "warmup, free_bits"),
    ],
)
def test_deprecated_fields_move_into_the_spec(fields, spec, names):
    with pytest.warns(DeprecationWarning, match="is deprecated") as caught:
        config = FitConfig(**fields)
    assert config.objective == spec
    assert (config.beta, config.warmup, config.free_bits) == (None, None, None)
    assert str(caught[0].message) == (
        f"FitConfig({names}) is deprecated: write the objective as {spec!r}."
    )
    assert caught[0].filename == __file__


# -- fits ----------------------------------------------------------------------------------------


class Owner:
    def __init__(self, networks, values):
        self._networks, self._values = networks, values

    def networks(self):
        return self._networks

    def parameter_values(self):
        return self._values


def fit(*, status="ok", elbo=None, program=None, guide=None):
    return Fit(
        entry=SimpleNamespace(key="mine[d=2]"),
        data=None,
        family="full_rank",
        program=program,
        guide=guide,
        config=FitConfig(),
        seed=0,
        losses=None,
        stop=Stop(status=status, sentence="", step=3),
        elbo=elbo,
        cost=Cost(seconds=0.0),
    )


@pytest.mark.parametrize(
    ("status", "ok"),
    [("ok", True), ("not_converged", True), ("nan", False), ("init_failed", False),
     ("error", False)],
)  # fmt: skip
def test_draws_may_be_taken_from_finite_parameters(status, ok):
    assert fit(status=status).ok is ok


def test_a_fit_says_what_was_fitted_and_how_it_ended():
    assert repr(fit(status="nan")) == "Fit(mine[d=2], full_rank: nan)"
    bound = Elbo(value_nats=-12.3456, se=0.01234, draws=10)
    assert repr(fit(elbo=bound)) == "Fit(mine[d=2], full_rank: ok, ELBO -12.35 +- 0.012 nats)"


def test_a_new_fit_has_no_more_than_it_was_given():
    made = fit()
    assert (made.restarts, dict(made.options), dict(made.history)) == ((), {}, {})
    assert dict(made.compiled) == {"used": False, "reason": "eager"}
    assert (made.points, made.density) == ((), None)
    assert dict(Restart(seed=1, elbo=None, stop=made.stop).answer) == {}


def test_networks_and_parameters_of_program_and_guide_are_told_apart():
    a, b, c = nn.Identity(), nn.Identity(), nn.Identity()
    x = torch.ones(1, requires_grad=True)
    made = fit(
        program=Owner({"net": a}, {"w": x}),
        guide=Owner({"net": b, "enc": c}, {"w": 2 * x, "v": x}),
    )
    assert made.networks == {"net": a, "guide.net": b, "enc": c}
    values = made.parameters
    assert {k: float(v) for k, v in values.items()} == {"w": 1.0, "guide.w": 2.0, "v": 1.0}
    assert not any(v.requires_grad for v in values.values())


class Module(Owner):
    def registered(self):
        return {"decoder": self._networks["the_dec"]}

    def own_values(self):
        return {"scale": torch.ones(1), "w": torch.zeros(1)}


def test_a_network_has_the_name_of_its_variable_and_answers_to_that_of_pyro_module():
    a, b = nn.Identity(), nn.Identity()
    made = fit(program=Module({"the_dec": a}, {}), guide=Module({"the_dec": b}, {}))
    assert list(made.networks) == ["the_dec", "guide.the_dec"]
    assert made.networks["decoder"] is made.networks["the_dec"] is a
    assert fit(guide=Module({"the_dec": b}, {})).networks["decoder"] is b
    with pytest.raises(KeyError, match=r"accepted: guide\.the_dec, the_dec"):
        made.networks["decodr"]


def test_values_that_a_module_holds_itself_are_parameters():
    made = fit(guide=Module({"the_dec": nn.Identity()}, {"w": torch.ones(1)}))
    assert {k: float(v) for k, v in made.parameters.items()} == {"scale": 1.0, "w": 1.0}


def test_a_fit_is_copied_flat_and_stored_by_its_own_functions():
    made = fit()
    assert copy.copy(made).stop is made.stop
    for act in (copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match=r"guides.save\(fit, path\) .* guides.load\(path"):
            act(made)


def test_a_name_that_a_fit_does_not_have_is_answered_with_those_it_has():
    made = fit(program=Owner({"decoder": nn.Identity()}, {}), guide=Owner({}, {"loc": None}))
    assert "decoder" in made.networks
    assert made.networks.get("wrong") is None
    assert list(made.networks) == ["decoder"]
    with pytest.raises(KeyError) as caught:
        made.networks["decodr"]
    assert str(caught.value) == (
        "Unknown network of the fit 'decodr' (did you mean 'decoder'?); accepted: decoder."
    )
    with pytest.raises(UnknownNameError) as caught:
        fit(program=Owner({}, {"w": torch.ones(1)})).parameters["wrong"]
    assert str(caught.value) == "Unknown parameter of the fit 'wrong'; accepted: w."


def test_a_plain_module_has_its_children_and_a_function_nothing():
    module = nn.Sequential(nn.Identity())
    made = fit(program=lambda: None, guide=module)
    assert made.networks == {"0": module[0]}
    assert made.parameters == {}
