import dataclasses

import pytest
import torch

from zoo.errors import DataError, UnknownNameError, UsageError
from zoo.quantities import co_assignment, predictive_at, site, sorted_by
from zoo.types import Data, ModelEntry, Posterior, Quantity

Y = torch.zeros(3)


def entry(**changes):
    card = {
        "name": "tiny",
        "title": "Tiny",
        "make_data": lambda seed, **options: Data(
            train={"y": torch.full((options["n"],), float(seed))}
        ),
        "build": lambda data, **options: options,
        "quantities": {"z": Quantity(fn=site("z"))},
        "reference": "none",
        "options": {"n": 2, "rho": 0.5, "kind": "a", "flag": False},
    }
    return ModelEntry(**{**card, **changes})


@pytest.mark.parametrize(
    ("fields", "kind", "match"),
    [
        ({"train": {"y": torch.tensor([1.0, float("nan")])}}, DataError, "1 NaN"),
        ({"train": {"y": torch.zeros(0)}}, DataError, "empty"),
        ({"train": {"y": torch.zeros(2, dtype=torch.complex64)}}, DataError, "dtype"),
        ({"train": {"y": Y}, "observed": ("yy",)}, UnknownNameError, "did you mean 'y'"),
        ({"train": {"y": Y}, "batched": ("y",)}, DataError, "no size"),
        ({"train": {"y": Y}, "batched": ("y",), "size": 4}, DataError, "3 rows but size=4"),
        ({"train": {"y": Y}, "dims": {"y": ("a", "b")}}, DataError, "1 axes"),
        (
            {"train": {"y": Y}, "test": {"y": torch.tensor(float("inf"))}},
            DataError,
            "Held-out data",
        ),
    ],
)
def test_bad_data_are_refused(fields, kind, match):
    with pytest.raises(kind, match=match):
        Data(**fields)


def test_records_are_frozen():
    data = Data(train={"y": Y})
    with pytest.raises(TypeError):
        data.train["y"] = Y + 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.size = 3


@pytest.mark.parametrize("name", ["Tiny", "../x", "", "a b", "x" * 65, "1a", "group/../x"])
def test_bad_entry_names_are_refused(name):
    with pytest.raises(UsageError, match="not accepted"):
        entry(name=name)


def test_group_names_keep_their_spelling():
    assert entry(name="posteriordb/Rate_1_model").key == "posteriordb/Rate_1_model"


def test_bad_cards_are_refused():
    with pytest.raises(UsageError, match="no quantities"):
        entry(quantities={})
    with pytest.raises(UsageError, match="no analytic function"):
        entry(reference="analytic")


def test_options_reach_data_program_and_key():
    chosen = entry().with_options(n="5", flag="true")
    assert chosen.key == "tiny[flag=True,n=5]"
    assert len(chosen.load_data(3).train["y"]) == 5
    assert chosen.program(chosen.load_data())["flag"] is True
    assert entry().with_options(n=2).key == "tiny"


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": "x"},
        {"n": 2.5},
        {"n": True},
        {"rho": "high"},
        {"kind": 3},
        {"flag": "maybe"},
        {"n": float("inf")},
    ],
)
def test_options_of_the_wrong_type_are_refused(wrong):
    with pytest.raises(UsageError, match="accepted: a value of type"):
        entry().with_options(**wrong)


def test_unknown_options_get_a_guess():
    with pytest.raises(UnknownNameError, match="did you mean 'rho'"):
        entry().with_options(roh=1.0)


def test_posteriors_check_their_shapes():
    data = Data(train={"y": Y})
    fields = {"entry": entry(), "data": data, "method": "nuts", "sample_dims": ("chain", "draw")}
    posterior = Posterior(**fields, draws={"z": torch.zeros(2, 3), "w": torch.zeros(2, 3, 4)})
    assert posterior.sample_shape == (2, 3)
    assert posterior.quantities()["z"].shape == (2, 3)
    with pytest.raises(UsageError, match="sample shapes"):
        Posterior(**fields, draws={"z": torch.zeros(2, 3), "w": torch.zeros(3, 2)})
    with pytest.raises(UsageError, match="sample_dims"):
        Posterior(**{**fields, "sample_dims": ("draw",)}, draws={"z": torch.zeros(2)})


# -- helpers for quantities --------------------------------------------------------------------


def test_sorted_by_undoes_any_labeling():
    data = Data(train={"y": Y})
    loc, scale = torch.randn(4, 3), torch.rand(4, 3, 2)
    orders = torch.stack([torch.randperm(3) for _ in range(4)])
    moved = {
        "loc": loc.gather(1, orders),
        "scale": scale.gather(1, orders[..., None].expand(4, 3, 2)),
    }
    for name, log in (("loc", False), ("scale", True)):
        fn = sorted_by(name, "loc", log=log)
        assert torch.allclose(fn({"loc": loc, "scale": scale}, data), fn(moved, data))
    assert torch.equal(sorted_by("loc", "loc")(moved, data), loc.sort(-1).values)
    with pytest.raises(UnknownNameError, match="did you mean 'loc'"):
        sorted_by("lok", "loc")(moved, data)


def test_co_assignment_and_predictions():
    data = Data(train={"y": Y})
    p = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]])  # [sample, row, class]
    together = co_assignment(lambda draws, data: draws["p"], [(0, 1), (0, 2)])({"p": p}, data)
    assert torch.allclose(together, torch.tensor([[0.26, 0.5]]))
    at = predictive_at(lambda draws, x: draws["w"][..., None] * x, [1.0, 2.0])
    assert torch.equal(at({"w": torch.tensor([3.0])}, data), torch.tensor([[3.0, 6.0]]))
