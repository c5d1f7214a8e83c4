"""Stored references: files, digests, fingerprints, and what each fault of them is called."""

import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support import tiny
from support.densities import density_of

import zoo
from zoo.errors import ReferenceError
from zoo.truth import stored
from zoo.types import Data, Published

Y = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64)


def program(y, index=None):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", 3):
        z = pyro.sample("z", dist.Normal(0.0, scale))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def card(**fields):
    return tiny.entry("mine", lambda: Data(train={"y": Y}, observed=("y",)), program, **fields)


POINTS = 0.3 * torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
MEAN = np.array([0.1, 0.2, 0.3, 0.4])
DEVIATIONS = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)


def files(folder, *, key="mine", arrays=None, **changes):
    """Write the two files of a reference of `card`; a field of value None is left out."""
    content = io.BytesIO()
    made = {"mean": MEAN, "deviations": DEVIATIONS, "points": POINTS.numpy(), **(arrays or {})}
    np.savez(content, **made)
    density = density_of(program, y=Y)
    record = {
        "schema": 1,
        "entry": key,
        "sites": [[s.name, s.start, s.stop] for s in density.sites],
        "gates": {"rhat": True, "ess": 1},
        "values": {"rhat_max": 1.002, "ess_min": 2500.0},
        "moments": {"first": {"mean": 1.0, "mean_se": 0.1, "sd": 2.0, "sd_se": 0.2}},
        "fingerprint": stored.fingerprint(density, POINTS),
        "npz_sha256": hashlib.sha256(content.getvalue()).hexdigest(),
        "command": "a command",
        "versions": {"torch": "x"},
        "seed": 7,
        "engine": "nutpie",
        **changes,
    }
    record = {k: v for k, v in record.items() if v is not None}
    record["sha256"] = stored.record_digest(record)
    record_path, draws_path = stored.paths(key, folder)
    record_path.write_text(json.dumps(record), encoding="utf-8")
    draws_path.write_bytes(content.getvalue())
    return record_path, draws_path


CURE = "write it anew with `zoo reference mine --write`."


def said(folder):
    with pytest.raises(ReferenceError) as caught:
        stored.read("mine", folder)
    return str(caught.value)


# -- names and digests ---------------------------------------------------------------------------


def test_a_key_is_spelled_as_a_file_name(tmp_path):
    record, draws = stored.paths("group/a-b.c[K=3,rho=0.5]", tmp_path)
    assert record == tmp_path / "group__a-b.c--K=3_rho=0.5.json"
    assert draws == tmp_path / "group__a-b.c--K=3_rho=0.5.npz"
    assert stored.paths("coin")[0] == stored.FOLDER / "coin.json"


@pytest.mark.parametrize("key", ["", ".hidden", "a b", "a\0", "\u00e4", "a:b", "a\\b"])
def test_a_key_that_no_file_can_be_named_by_is_refused(key):
    with pytest.raises(ReferenceError) as caught:
        stored.paths(key)
    assert str(caught.value) == (
        f"Entry key {key!r} cannot name a reference file; accepted: letters, digits and the"
        " characters _-=.+[],/"
    )


def test_a_reference_exists_if_its_record_does(tmp_path):
    assert stored.exists("mine", tmp_path) is False
    files(tmp_path)
    assert stored.exists("mine", tmp_path) is True
    assert stored.exists("eight_schools") is True


def test_a_digest_is_that_of_the_sorted_content_without_itself():
    expected = hashlib.sha256(b'{"a":[1,2],"b":"x"}').hexdigest()
    assert stored.record_digest({"b": "x", "sha256": "old", "a": [1, 2]}) == expected
    with pytest.raises(ValueError, match="Out of range float"):
        stored.record_digest({"a": float("nan")})


# -- reading -------------------------------------------------------------------------------------


def test_a_reference_is_read_in_double_precision(tmp_path):
    files(tmp_path)
    found = stored.read("mine", tmp_path)
    assert found.key == "mine"
    assert found.record["seed"] == 7
    expected = MEAN + DEVIATIONS.astype(np.float64)
    assert found.unconstrained.dtype == torch.float64
    np.testing.assert_array_equal(found.unconstrained, expected)
    assert torch.equal(found.points, POINTS)
    assert [float(t) for t in found.moments["first"]] == [1.0, 0.1, 2.0, 0.2]
    assert found.moments["first"].mean.dtype == torch.float64
    assert found.gates == {"rhat": True, "ess": True}


def test_what_is_not_there_can_be_made(tmp_path):
    assert said(tmp_path) == (
        "No reference is stored for 'mine'; make one with `zoo reference mine --write`."
    )


def test_missing_fields_and_another_schema_are_named(tmp_path):
    files(tmp_path, gates=None, command=None)
    assert said(tmp_path) == f"Reference mine.json lacks ['command', 'gates']; {CURE}"
    files(tmp_path, schema=2)
    assert said(tmp_path) == f"Reference mine.json lacks schema 1; {CURE}"


def test_an_edited_record_is_noticed(tmp_path):
    path, _ = files(tmp_path)
    path.write_text(path.read_text().replace("1.002", "1.001"))
    assert said(tmp_path) == (
        "Reference mine.json does not match its own SHA-256, so it was edited or is damaged;"
        f" {CURE}"
    )


def test_damaged_draws_are_noticed(tmp_path):
    _, path = files(tmp_path)
    path.write_bytes(path.read_bytes() + b" ")
    assert said(tmp_path) == (
        f"Reference mine.npz does not match its SHA-256, it is damaged; {CURE}"
    )


@pytest.mark.parametrize(
    "arrays",
    [
        {"mean": MEAN * np.nan},
        {"deviations": DEVIATIONS[0]},
        {"deviations": np.full((2, 5, 4), np.inf, dtype=np.float32)},
    ],
)
def test_draws_that_are_no_finite_chains_are_refused(tmp_path, arrays):
    files(tmp_path, arrays=arrays)
    assert said(tmp_path) == (
        f"Reference of 'mine' holds draws or moments that are not finite; {CURE}"
    )


def test_moments_that_are_not_finite_are_refused(tmp_path):
    moments = {"first": {"mean": 1.0, "mean_se": 0.1, "sd": 1e400, "sd_se": 0.2}}
    with pytest.raises(ValueError, match="Out of range float"):
        files(tmp_path, moments=moments)
    moments["first"]["sd"] = "no number"
    files(tmp_path, moments=moments)
    assert said(tmp_path).startswith("Reference of 'mine' cannot be read (")


@pytest.mark.parametrize("how", ["text", "number", "no draws", "no zip"])
def test_files_that_cannot_be_read_say_why(tmp_path, how):
    path, draws = files(tmp_path)
    if how == "text":
        path.write_text("{")
    elif how == "number":
        path.write_text("5")
    elif how == "no draws":
        draws.unlink()
    else:
        record = json.loads(path.read_text())
        draws.write_bytes(b"PK no zip")
        record["npz_sha256"] = hashlib.sha256(b"PK no zip").hexdigest()
        record["sha256"] = stored.record_digest(record)
        path.write_text(json.dumps(record))
    kind = {"text": "JSONDecodeError", "number": "TypeError", "no draws": "FileNotFoundError"}
    message = said(tmp_path)
    assert message.startswith(f"Reference of 'mine' cannot be read ({kind.get(how, '')}")
    assert message.endswith(f"); {CURE}")


# -- loading -------------------------------------------------------------------------------------


def test_a_reference_that_fits_its_program_is_usable(tmp_path):
    files(tmp_path)
    entry = card()
    data = entry.load_data()
    found = stored.load(entry, data, folder=tmp_path)
    assert (found.kind, found.usable, found.reason) == ("stored", True, "")
    assert found.gates == {"rhat": True, "ess": True, "fingerprint": True}
    assert (found.rhat_max, found.ess_min) == (1.002, 2500.0)
    assert float(found.moments["first"].sd) == 2.0
    assert found.provenance == {
        "of": "mine",
        "command": "a command",
        "seed": 7,
        "versions": {"torch": "x"},
        "rhat_max": 1.002,
        "ess_min": 2500.0,
    }
    posterior = found.posterior
    assert posterior.entry is entry
    assert posterior.data is data
    assert (posterior.method, posterior.seed, posterior.engine) == ("stored", 7, "nutpie")
    assert posterior.sample_dims == ("chain", "draw")
    u = torch.from_numpy(MEAN + DEVIATIONS.astype(np.float64))
    assert torch.equal(posterior.unconstrained, u)
    torch.testing.assert_close(posterior.draws["scale"], u[..., 0].exp())
    torch.testing.assert_close(posterior.draws["z"], u[..., 1:])


def test_gates_that_failed_are_named(tmp_path):
    files(tmp_path, gates={"rhat": False, "fine": True, "ess": False})
    entry = card()
    found = stored.load(entry, entry.load_data(), folder=tmp_path)
    assert found.usable is False
    assert found.reason == (
        f"The stored reference of mine failed rhat, ess when it was made; {CURE}"
    )
    assert found.posterior is not None


def test_a_changed_density_makes_a_reference_stale(tmp_path):
    path, _ = files(tmp_path)
    before = json.loads(path.read_text())["fingerprint"]
    entry = card()
    data = replace(entry.load_data(), train={"y": Y + 1e-3})
    found = stored.load(entry, data, folder=tmp_path)
    assert found.usable is False
    assert found.gates["fingerprint"] is False
    now = stored.fingerprint(density_of(program, y=Y + 1e-3), POINTS)
    assert found.reason == (
        "The stored reference of mine is stale: the log joint at a stored point is now"
        f" {now[0]:.10g}, it was {before[0]:.10g}; {CURE}"
    )


@pytest.mark.parametrize(("relative", "changed"), [(0.5e-8, False), (2e-8, True)])
def test_a_fingerprint_has_a_relative_tolerance(tmp_path, relative, changed):
    true = stored.fingerprint(density_of(program, y=Y), POINTS)
    assert min(abs(v) for v in true) > 2
    files(tmp_path, fingerprint=[v * (1 + relative) for v in true])
    entry = card()
    found = stored.load(entry, entry.load_data(), folder=tmp_path)
    assert found.gates["fingerprint"] is (not changed)


def test_a_fingerprint_that_is_no_number_is_stale():
    class Nan:
        sites, dtype = (), torch.float64

        def evaluate(self, u):
            return torch.tensor(torch.nan)

    old = stored.StoredReference(
        key="mine",
        record={"sites": [], "fingerprint": [1.0]},
        unconstrained=POINTS,
        points=POINTS[:1],
        moments={},
    )
    assert stored.stale(old, Nan()) == ("the log joint at a stored point is now nan, it was 1")


def test_other_sites_make_a_reference_stale_without_draws(tmp_path):
    files(
        tmp_path, arrays={"mean": MEAN[:3], "deviations": DEVIATIONS[..., :3]}, sites=[["a", 0, 3]]
    )
    entry = card()
    found = stored.load(entry, entry.load_data(), folder=tmp_path)
    assert found.posterior is None
    assert found.reason == (
        "The stored reference of mine is stale: the program has other latent sites than the"
        f" reference; {CURE}"
    )


def test_an_entry_borrows_from_another_with_the_options_they_share():
    entry = zoo.load("eight_schools_centered")
    assert stored.borrowed(entry).name == "eight_schools"
    own = zoo.load("coin")
    assert stored.borrowed(own) is own
    found = stored.load(entry, entry.load_data())
    assert found.provenance["of"] == "eight_schools"


# -- published draws -----------------------------------------------------------------------------


def published(**fields):
    draws = {
        "z": torch.zeros(2, 4, 3, dtype=torch.float32),
        "scale": torch.full((2, 4), 2.0),
        "more": torch.zeros(2, 4),
    }
    return card(
        published=lambda data: Published(
            draws=draws, rhat_max=1.0, ess_min=50.0, provenance={"of": "others"}, **fields
        )
    )


def test_published_draws_are_a_reference():
    entry = published(gates={"rhat": True})
    found = stored.load(entry, entry.load_data())
    assert (found.kind, found.usable, found.reason) == ("stored", True, "")
    assert found.gates == {"rhat": True, "data": True}
    assert (found.rhat_max, found.ess_min) == (1.0, 50.0)
    assert found.provenance == {"of": "others"}
    assert sorted(found.posterior.draws) == ["scale", "z"]
    assert found.posterior.draws["z"].dtype == torch.float64
    assert float(found.posterior.unconstrained[0, 0, 0]) == pytest.approx(np.log(2.0))
    assert found.posterior.sample_dims == ("chain", "draw")


def test_published_draws_of_other_data_or_failed_gates_are_not_usable():
    entry = published(gates={"rhat": False, "ess": False, "fine": True})
    found = stored.load(entry, entry.load_data())
    assert found.usable is False
    assert found.reason == (
        "The published draws of mine failed rhat, ess when they were made; run NUTS instead."
    )
    other = replace(entry.load_data(), train={"y": Y + 1})
    found = stored.load(entry, other)
    assert found.gates["data"] is False
    assert found.usable is False
    assert found.reason == "The published draws of mine belong to other data; run NUTS on these."


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": Y, "n": 3}, {"a": Y.clone(), "n": 3}, True),
        ({"a": Y, "n": 3}, {"a": Y, "n": 4}, False),
        ({"a": torch.tensor(3.0)}, {"a": 3.0}, True),
        ({"a": Y}, {"a": Y + 1}, False),
        ({"a": Y}, {"b": Y}, False),
        ({"a": Y, "b": Y}, {"a": Y, "b": Y + 1}, False),
    ],
)
def test_data_are_the_same_if_every_tensor_is(one, other, same):
    made = [Data(train={}), Data(train={})]
    for data, train in zip(made, (one, other), strict=True):
        object.__setattr__(data, "train", train)
    assert stored.same_data(*made) is same


@pytest.mark.parametrize("kept", [2, 4])
def test_a_fingerprint_of_another_number_of_points_is_no_answer(kept):
    """It would compare some points only, and call the rest the same."""
    density = density_of(program, y=Y)
    values = stored.fingerprint(density, torch.cat([POINTS, POINTS]))[:kept]
    reference = stored.StoredReference(
        key="mine",
        record={
            "sites": [[s.name, s.start, s.stop] for s in density.sites],
            "fingerprint": values,
        },
        unconstrained=torch.zeros(1, 1, 4),
        points=POINTS,
        moments={},
    )
    with pytest.raises(ValueError, match="zip"):
        stored.stale(reference, density)
