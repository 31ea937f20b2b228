"""Data files as others wrote them, for tests that read them."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memcompile.errors import DataError
from memcompile.ir.graph import TensorType

GREY = {"image": TensorType("float32", (None, 1, 28, 28))}
RGB = {"image": TensorType("float32", (None, 3, 32, 32))}
IDX_CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def one(dtype: str, *sample: int | None) -> dict[str, TensorType]:
    """Types of a model with one input `x`."""
    return {"x": TensorType(dtype, (None, *sample))}


def idx_bytes(array: NDArray[Any]) -> bytes:
    header = bytes([0, 0, IDX_CODES[array.dtype.name], array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_mnist(directory: Path, part: str, count: int, mark: str = "-", *, packed: bool = True) -> NDArray[Any]:
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    for content, rank, array in (("images", 3, images), ("labels", 1, labels)):
        path = directory / f"{part}-{content}{mark}idx{rank}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(idx_bytes(array), mtime=0) if packed else idx_bytes(array))
    return images


def cifar_pixels(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 3072), dtype=np.uint8)


def python2_batch(pixels: NDArray[np.uint8]) -> bytes:
    """Pickle of a batch, opcode for opcode as Python 2 and NumPy 1 wrote the published files."""
    count = len(pixels)
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    raw = b"T" + struct.pack("<i", pixels.size) + pixels.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01(K" + bytes([count]) + b"M\x00\x0ct" + dtype + b"\x89" + raw + b"tb"
    )  # fmt: skip
    labels = b"]" + b"".join(b"K" + bytes([i % 10]) + b"a" for i in range(count))
    return b"\x80\x02}(U\x04dataq\x01" + array + b"U\x06labels" + labels + b"u."


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def refuses(call: Callable[[], object], *parts: str) -> None:
    """The call raises one DataError whose message, a single line, has all the parts."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
