"""What a program for stock Pyro needs around a run: one dtype, notes of reads, sizes of plates."""

import collections

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.reparam import LocScaleReparam

from zoo.user_models import surroundings as module
from zoo.user_models.surroundings import (
    OneType,
    Reads,
    is_about_types,
    mark,
    plain_sites,
    sized_plates,
)

D, F = torch.float64, torch.float32


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (RuntimeError("expected m1 and m2 to have the same dtype"), True),
        (RuntimeError("expected scalar type Double"), True),
        (TypeError("result type Float can't be cast to Long"), True),
        (RuntimeError("Subtraction with a bool tensor is not supported"), True),
        (IndexError("tensors used as indices must be long"), True),
        (ValueError("expected Float but found Double"), True),
        (RuntimeError("expected Double but found Float"), True),
        (RuntimeError("shape mismatch"), False),
        (KeyError("dtype"), False),
    ],
)
def test_an_error_about_types_is_known_by_its_words(error, found):
    assert is_about_types(error) is found


@pytest.fixture
def one_type():
    with OneType(D):
        yield


@pytest.mark.usefixtures("one_type")
class TestOneType:
    def test_floats_of_two_types_meet_in_the_wide_one(self):
        a, b = torch.ones(2, 2, dtype=D), torch.full((2, 2), 2.0, dtype=F)
        for out in (a @ b, b @ a, torch.matmul(a, b), torch.cat([a, b]), torch.stack([b, a])):
            assert out.dtype == D
        assert torch.lerp(a, b, weight=torch.tensor(0.5, dtype=F)).tolist() == [[1.5] * 2] * 2

    def test_floats_of_another_type_only_stay(self):
        b = torch.ones(2, 2, dtype=F)
        assert (b @ b).dtype == F
        assert torch.cat([b, b]).dtype == F
        assert (b - torch.ones(2, 2, dtype=F)).dtype == F

    def test_whole_numbers_multiply_weights_as_floats(self):
        a, n = torch.ones(2, 2, dtype=D), torch.tensor([[1, 2], [3, 4]])
        assert (n @ a).tolist() == [[3.0, 3.0], [7.0, 7.0]]
        assert torch.nn.functional.linear(a, n).dtype == D
        assert torch.einsum("ij,j->i", n, a[0]).dtype == D
        flags = torch.tensor([[True, False], [False, True]])
        assert (flags @ a).tolist() == a.tolist()

    def test_whole_numbers_elsewhere_stay_whole(self):
        n = torch.tensor([[1, 2], [3, 4]])
        assert (n @ n).dtype == torch.int64
        assert torch.cat([n, n]).dtype == torch.int64
        picked = torch.gather(torch.ones(2, 2, dtype=D), 0, n * 0)
        assert picked.dtype == D

    def test_differences_of_flags_are_numbers(self):
        yes, no = torch.tensor([True]), torch.tensor([False])
        assert (yes - no).tolist() == [1.0]
        assert (-yes).tolist() == [-1.0]
        assert (1 - yes).tolist() == [0.0]
        assert (yes - no).dtype == D
        assert (yes & no).dtype == torch.bool

    def test_complex_numbers_are_left_alone(self):
        z = torch.ones(2, 2, dtype=torch.complex128)
        assert (z @ z).dtype == torch.complex128
        assert module._converted(z, D, whole=True) is z

    def test_writes_and_conversions_are_left_alone(self):
        target, other = torch.zeros(2, dtype=F), torch.ones(2, dtype=D)
        target.add_(other)
        assert target.dtype == F
        target[0] = other[0]
        assert target.dtype == F
        assert other.to(F).dtype == F
        out = torch.zeros(2, dtype=F)
        torch.add(target, target, out=out)
        assert out.tolist() == [2.0, 2.0] if float(target[1]) == 1.0 else out.dtype == F

    def test_floats_index_as_whole_numbers(self):
        values = torch.tensor([5.0, 6.0, 7.0])
        groups = torch.tensor([2.0, 0.0])
        assert values[groups].tolist() == [7.0, 5.0]
        table = values.expand(2, 3)
        assert table[torch.tensor([1.0, 0.0]), groups].tolist() == [7.0, 5.0]
        assert table[..., groups].shape == (2, 2)
        assert values[values > 5.5].tolist() == [6.0, 7.0]


def test_containers_keep_their_kind_when_converted():
    Pair = collections.namedtuple("Pair", "a b")
    single, whole = torch.ones(1), torch.tensor([1])
    made = module._converted(
        {"x": (single, [single, whole]), "pair": Pair(single, single), "n": 3}, D, whole=False
    )
    assert made["x"][0].dtype == made["x"][1][0].dtype == D
    assert made["x"][1][1].dtype == torch.int64
    assert isinstance(made["x"], tuple)
    assert isinstance(made["x"][1], list)
    assert made["pair"].a.dtype == F, "a named tuple is left as it is"
    assert made["n"] == 3
    assert module._converted(whole, D, whole=True).dtype == D


# -- reads ---------------------------------------------------------------------------------------


def test_statements_that_read_a_latent_value_are_noted_with_its_sites():
    a, b = torch.ones(2), torch.ones(())
    mark(a, {"a"})
    mark(b, {"b"})
    plain = torch.ones(())
    reads = Reads()
    with reads:
        if a.sum() > 1.0:
            pass
        float(b * 2)
        float(plain)
        both = (a + b).tolist()
        assert float(b) == 1.0
    assert both == [2.0, 2.0]
    texts = {k.split(": ", 1)[1]: v for k, v in reads.found.items()}
    assert texts == {
        "if a.sum() > 1.0:": ("a",),
        "float(b * 2)": ("b",),
        "both = (a + b).tolist()": ("a", "b"),
    }
    assert all(k.startswith("test_surroundings.py:") for k in reads.found)


def test_a_statement_that_reads_several_sites_names_each_once():
    a, b = torch.ones(()), torch.ones(())
    mark(a, {"a"})
    mark(b, {"b"})
    reads = Reads()
    with reads:
        for value in (b, a, b):
            value.item()
    assert list(reads.found.values()) == [("b", "a")]


def test_reads_of_a_library_are_no_statements_of_the_author():
    a = torch.ones(())
    mark(a, {"a"})
    reads = Reads()
    with reads:
        dist.Normal(a, 1.0, validate_args=True)
    assert reads.found == {}


def test_marks_are_kept_and_added_to():
    a = torch.ones(())
    mark(a, {"a"})
    mark(a, {"b"})
    assert module._marks(a) == {"a", "b"}
    assert module._marks(torch.ones(())) == frozenset()


# -- plates and reparameterizations --------------------------------------------------------------


def plates():
    with pyro.plate("free"):
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
    with pyro.plate("fixed", 2):
        pyro.sample("w", dist.Normal(0.0, 1.0))


def sizes_of(program):
    trace = pyro.poutine.trace(program).get_trace()
    return {f.name: f.size for n in "zw" for f in trace.nodes[n]["cond_indep_stack"]}


def test_plates_without_a_size_get_one_and_others_keep_theirs():
    before = pyro.poutine.subsample_messenger.SubsampleMessenger.__dict__["_subsample"]
    with sized_plates({"free": 3, "fixed": 9}):
        assert sizes_of(plates) == {"free": 3, "fixed": 2}
    assert sizes_of(plates) == {"free": -1, "fixed": 2}
    with sized_plates({}):
        assert sizes_of(plates)["free"] == -1
    after = pyro.poutine.subsample_messenger.SubsampleMessenger.__dict__["_subsample"]
    assert after is before
    with pytest.raises(ZeroDivisionError), sized_plates({"free": 3}):
        raise ZeroDivisionError
    assert sizes_of(plates)["free"] == -1


def test_a_program_runs_without_its_reparameterizations():
    def program():
        return pyro.sample("z", dist.Normal(1.0, 2.0))

    moved = pyro.poutine.reparam(program, config={"z": LocScaleReparam(0.0)})
    names = list(pyro.poutine.trace(moved).get_trace().nodes)
    assert "z_decentered" in names
    with plain_sites():
        names = list(pyro.poutine.trace(moved).get_trace().nodes)
    assert "z_decentered" not in names
    with pytest.raises(ZeroDivisionError), plain_sites():
        raise ZeroDivisionError
    assert "z_decentered" in pyro.poutine.trace(moved).get_trace().nodes
