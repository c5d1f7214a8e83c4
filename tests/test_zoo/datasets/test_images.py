"""Reading and binarizing images: accepted forms give equal pixels, others a sentence."""

import gzip
import struct

import numpy as np
import pytest
import torch

from zoo.datasets.images import binarize, digits, load_images, read_idx, split, thin
from zoo.errors import DataError, UsageError

ROWS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) * 10


def idx(values, kind=8):
    return (
        b"\0\0"
        + bytes([kind, values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


def test_the_digits_are_scikit_learns():
    images = digits()
    assert images.values.shape == (1797, 8, 8)
    assert images.values.max() == 1
    assert images.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert binarize(images.values, 7.5 / 16).mean() == pytest.approx(0.3230297, abs=1e-6)


@pytest.mark.parametrize("form", ["array", "npy", "npz", "idx", "gz", "folder"])
def test_every_form_gives_the_same_pixels(tmp_path, form):
    path = tmp_path / "images"
    if form == "array":
        source = ROWS
    elif form == "npy":
        source = path.with_suffix(".npy")
        np.save(source, ROWS)
    elif form == "npz":
        source = path.with_suffix(".npz")
        np.savez(source, ROWS)
    elif form == "folder":
        for name, row in zip("ab", ROWS, strict=True):
            (path / name).mkdir(parents=True)
            np.save(path / name / "one.npy", row)
        source = path
    else:
        source = path
        content = idx(ROWS)
        path.write_bytes(gzip.compress(content) if form == "gz" else content)
    images = load_images(source)
    assert torch.equal(images.values, torch.as_tensor(ROWS / 255.0))
    assert images.labels.tolist() == ([0, 1] if form == "folder" else [-1, -1])


def test_labels_of_an_idx_file(tmp_path):
    (tmp_path / "labels").write_bytes(idx(np.array([7, 3], dtype=np.uint8)))
    assert load_images(ROWS, labels=tmp_path / "labels").labels.tolist() == [7, 3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\3\4rest", "does not begin like an idx file"),
        (idx(ROWS)[:-1], "copy it again"),
        (b"\0\0\x08\x03\0\0", "inside its header"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, words):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_idx(tmp_path / "x")


def test_bad_input_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(UsageError, match="no images at"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no image"):
        load_images(tmp_path)
    with pytest.raises(DataError, match=r"accepted: 0\.\.1"):
        load_images(np.full((2, 3, 3), 1.5))
    with pytest.raises(DataError, match="row, height, width"):
        load_images(np.zeros((3, 3)))
    with pytest.raises(DataError, match="give one per image"):
        load_images(ROWS, labels=[1, 2, 3])
    with pytest.raises(UsageError, match="threshold"):
        binarize(torch.zeros(2), 1.0)
    with pytest.raises(DataError, match="largest value"):
        binarize(torch.tensor([0.0, 16.0]), 0.5)
    with pytest.raises(DataError, match=r"Gray values span \[-0\.5, 1\]; accepted: \[0, 1\]"):
        binarize(torch.tensor([-0.5, 1.0]), 0.5)
    assert binarize(torch.tensor([0.0, 0.5, 1.0]), 0.5).tolist() == [0.0, 0.0, 1.0]
    with pytest.raises(UsageError, match="one part empty"):
        split(2, 0.1, 0)
    for name, shape in (("a", (2, 2)), ("b", (3, 3))):
        np.save(tmp_path / f"{name}.npy", np.zeros(shape))
    with pytest.raises(DataError, match="one size"):
        load_images(tmp_path)


def test_the_split_is_stored_by_its_seed():
    train, held = split(1797, 0.2, 0)
    assert (len(train), len(held)) == (1438, 359)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(1797))
    assert (
        held[:5].tolist()
        == split(1797, 0.2, 0)[1][:5].tolist()
        != split(1797, 0.2, 1)[1][:5].tolist()
    )


def test_thinning():
    assert len(thin(digits(), 50).values) == 50
    with pytest.raises(UsageError, match="rows"):
        thin(digits(), 1)


@pytest.mark.parametrize(
    ("code", "kind", "values"),
    [
        (8, "u1", [0, 255, 7]),
        (9, "i1", [-128, 127, -7]),
        (11, ">i2", [-300, 299, 7]),
        (12, ">i4", [-70_000, 69_999, 7]),
        (13, ">f4", [-0.5, 2.25, 1e10]),
        (14, ">f8", [-0.1, 1e-300, 1e300]),
    ],
)
def test_every_type_of_number_of_the_idx_format_is_read(code, kind, values, tmp_path):
    """The codes of http://yann.lecun.com/exdb/mnist: 10 is not among them."""
    head = bytes([0, 0, code, 1]) + len(values).to_bytes(4, "big")
    (tmp_path / "x").write_bytes(head + np.array(values, dtype=kind).tobytes())
    found = np.asarray(read_idx(tmp_path / "x"))
    assert found.tolist() == np.array(values, dtype=kind).tolist()
    assert found.dtype.kind == np.dtype(kind).kind
    (tmp_path / "y").write_bytes(bytes([0, 0, 10, 1]) + head[4:] + bytes(6))
    with pytest.raises(DataError):
        read_idx(tmp_path / "y")


@pytest.mark.parametrize("rows", [1, 3, 5])
@pytest.mark.parametrize("channels", [3, 4])
def test_colors_become_gray_by_their_mean_whatever_the_number_of_images(rows, channels):
    """A fourth channel is opacity, and does not count."""
    colors = np.full((rows, 2, 2, channels), 255, dtype=np.uint8)
    colors[..., 0], colors[..., 1], colors[..., 2] = 0, 51, 102
    found = load_images(colors)
    assert found.values.shape == (rows, 2, 2)
    assert found.values.unique().tolist() == [pytest.approx(0.2)]


@pytest.mark.parametrize("shape", [(3, 2, 2, 2), (4, 2, 2, 5), (3, 2), (0, 2, 2)])
def test_arrays_that_are_no_images_are_refused(shape):
    with pytest.raises(DataError, match=r"accepted: \[row, height, width\]"):
        load_images(np.zeros(shape))
