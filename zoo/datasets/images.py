"""Binary images: the digits of scikit-learn, or the user's own images.

The latter come from an array, a folder or MNIST's files; nothing is downloaded. Gray values become
binary by one fixed rule, `value > threshold`, so that a Bernoulli likelihood never sees gray
pixels (which most libraries silently accept).
"""

from __future__ import annotations

import functools
import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError, UsageError

__all__ = ["Images", "binarize", "digits", "load_images", "read_idx", "split", "thin"]

SUFFIXES = (".png", ".pgm", ".bmp", ".jpg", ".jpeg", ".npy")
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@dataclass(frozen=True, kw_only=True)
class Images:
    """Gray images `[row, height, width]` in [0, 1], with classes `[row]` (-1 if unknown)."""

    values: Tensor
    labels: Tensor
    source: str
    licence: str


def digits() -> Images:
    """Return the 1,797 handwritten digits (8 x 8 pixels, gray values / 16) of scikit-learn."""
    levels, labels = _levels()
    return Images(
        values=torch.as_tensor(levels / 16.0, dtype=torch.float64),
        labels=torch.tensor(labels, dtype=torch.long),
        source=(
            "Optical Recognition of Handwritten Digits (test part), Alpaydin and Kaynak (1998),"
            " UCI Machine Learning Repository, doi:10.24432/C50P49; the copy of scikit-learn"
        ),
        licence="CC-BY-4.0",
    )


@functools.cache
def _levels() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return gray levels 0..16 and classes; reading them takes a third of a second, once."""
    from sklearn.datasets import load_digits

    table = load_digits()
    return table.images, table.target


def binarize(values: Tensor, threshold: float) -> Tensor:
    """Return 1.0 where a gray value in [0, 1] is above the threshold, else 0.0, as float64.

    Raises:
        UsageError: a threshold outside [0, 1), which would give images of one color.
        DataError: gray values outside [0, 1].
    """
    if not 0 <= threshold < 1:
        raise UsageError(f"The threshold is {threshold}; accepted: a gray value in [0, 1).")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise DataError(
            f"Gray values span [{low:g}, {high:g}]; accepted: [0, 1]; divide by the largest value."
        )
    return (values > threshold).double()


def split(rows: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split rows at random; return the indices of the training and of the held-out part.

    The permutation is fixed by the seed; the indices are in ascending order.

    Raises:
        UsageError: the share leaves one part empty.
    """
    held = round(rows * share)
    if not 0 < held < rows:
        raise UsageError(
            f"The held-out share {share} of {rows} rows leaves one part empty; accepted: (0, 1)."
        )
    # NumPy guarantees this stream; torch's permutations may change between versions.
    order = torch.as_tensor(np.random.Generator(np.random.PCG64(seed)).permutation(rows))
    return order[held:].sort().values, order[:held].sort().values


def thin(images: Images, rows: int) -> Images:
    """Return the first `rows` images, or all of them if `rows` is 0."""
    if rows < 0 or rows == 1:
        raise UsageError(f"rows is {rows}; accepted: 0 for all images, or at least 2.")
    return (
        images
        if rows == 0
        else Images(
            values=images.values[:rows],
            labels=images.labels[:rows],
            source=images.source,
            licence=images.licence,
        )
    )


def load_images(source: Any, *, labels: Any = None, licence: str = "the user's own") -> Images:
    """Read the user's own images.

    Args:
        source: an array `[row, height, width]` of gray values (0..1, 0..255 for integers, or
            booleans); a folder of images of one size, with one sub-folder per class; an `.npy` or
            `.npz` file; or MNIST's `idx` file, gzipped or not.
        labels: classes of the rows, an array or an `idx` file.
        licence: the terms under which they may be shared.

    Raises:
        UsageError: no such file or folder.
        DataError: files of different sizes, an unknown format, or values that are not gray values.
    """
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if not path.exists():
            raise UsageError(
                f"There are no images at {str(source)!r}; give a folder of images, an .npy file or"
                " MNIST's idx file."
            )
        values, found = _folder(path) if path.is_dir() else (_file(path), None)
        name = str(path.name)
    else:
        values, found, name = np.asarray(source), None, "an array"
    if isinstance(labels, str | Path):
        labels = read_idx(Path(labels))
    gray = _gray(values, name)
    classes = labels if labels is not None else found
    marks = (
        torch.full((len(gray),), -1)
        if classes is None
        else torch.as_tensor(np.asarray(classes).astype(np.int64))
    )
    if marks.shape != (len(gray),):
        raise DataError(
            f"Labels have shape {tuple(marks.shape)} for {len(gray)} images; give one per image."
        )
    return Images(
        values=gray, labels=marks, source=f"the user's own images ({name})", licence=licence
    )


def _gray(values: np.ndarray[Any, Any], name: str) -> Tensor:
    # by the given numbers: the mean of three colors is no integer
    scale = 255.0 if np.issubdtype(values.dtype, np.integer) and values.max(initial=0) > 1 else 1.0
    if values.ndim == 4 and values.shape[-1] in (3, 4):
        values = values[..., :3].mean(-1)
    if values.ndim != 3 or 0 in values.shape:
        raise DataError(
            f"Images of {name} have shape {values.shape}; accepted: [row, height, width] with at"
            " least one row."
        )
    if values.dtype == np.bool_:
        return torch.as_tensor(values.astype(np.float64))
    out = torch.as_tensor(values.astype(np.float64) / scale)
    if not bool(torch.isfinite(out).all()) or float(out.min()) < 0 or float(out.max()) > 1:
        raise DataError(
            f"Gray values of {name} are {values.dtype} in [{values.min():g}, {values.max():g}];"
            " accepted: 0..1, or integers 0..255."
        )
    return out


def _file(path: Path) -> np.ndarray[Any, Any]:
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[archive.files[0]])
    return read_idx(path)


def _folder(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"Folder {path.name!r} holds no image; accepted: {', '.join(SUFFIXES)}.")
    rows = [_picture(p) for p in files]
    for file, row in zip(files, rows, strict=True):
        if row.shape != rows[0].shape:
            raise DataError(
                f"{file.name} has {row.shape} pixels, {files[0].name} {rows[0].shape}; bring all"
                " images to one size first."
            )
    folders = sorted({p.parent for p in files})
    return np.stack(rows), (
        np.array([folders.index(p.parent) for p in files]) if len(folders) > 1 else None
    )


def _picture(path: Path) -> np.ndarray[Any, Any]:
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            f"Reading {path.name} needs Pillow; install it, or give an array."
        ) from error
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except OSError as error:
        raise DataError(f"{path.name} is not a readable image; remove or convert it.") from error


def read_idx(path: Path) -> np.ndarray[Any, Any]:
    """Read one of MNIST's files (`idx` format, big-endian, gzipped or not).

    Raises:
        DataError: another format, or a truncated file.
    """
    if not path.exists():
        raise UsageError(
            f"There is no file {str(path)!r}; give MNIST's idx file as it was downloaded."
        )
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise DataError(
            f"{path.name} does not begin like an idx file; accepted: MNIST's files, .npy, .npz or"
            " a folder of images."
        )
    kind, axes = np.dtype(IDX_TYPES[content[2]]), content[3]
    if len(content) < 4 + 4 * axes:
        raise DataError(f"{path.name} is cut short inside its header; copy it again.")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    wanted = int(np.prod(shape)) * kind.itemsize
    if len(content) - 4 - 4 * axes != wanted:
        raise DataError(
            f"{path.name} says it holds {shape} values but has {len(content) - 4 - 4 * axes} of"
            f" {wanted} bytes; copy it again."
        )
    return (
        np.frombuffer(content, kind, offset=4 + 4 * axes)
        .reshape(shape)
        .astype(kind.newbyteorder("="))
    )
