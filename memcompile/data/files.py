"""Readers of the raw data files: NumPy archives, MNIST's IDX files, both CIFAR-10 versions.

A data file may be truncated, damaged or hostile. Each reader therefore compares what the file
declares with `MAX_BYTES` before it allocates, runs no code that a file names, and turns every
failure into one `DataError` that names the file.
"""

from __future__ import annotations

import gzip
import io
import lzma
import math
import pickle
import pickletools
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from memcompile.errors import DataError

__all__ = [
    "MAX_BYTES",
    "ArrayHeader",
    "MnistPart",
    "check_size",
    "find_idx",
    "read_cifar10",
    "read_idx",
    "read_mnist",
    "read_npz",
    "read_npz_headers",
]

MAX_BYTES = 8 * 2**30
"""Largest number of bytes of values that one data file may declare: 8 GiB."""

MnistPart = Literal["train", "t10k"]
"""MNIST's training and test part, as its files name them."""

# Whatever the decoders of Python and NumPy raise on damaged files.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    ImportError,
    struct.error,
    tokenize.TokenError,
    pickle.PickleError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)

# A .npy header of a plain array is about 100 bytes; numpy itself refuses more than 10,000.
_NPY_HEADER_BYTES = 16_384
_GZIP_MAGIC = b"\x1f\x8b"
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CIFAR_PIXELS = 3 * 32 * 32
_CIFAR_RECORD = 1 + _CIFAR_PIXELS
_CIFAR_CLASSES = 10


def check_size(where: object, size: int) -> None:
    """Refuse `size` bytes of values above `MAX_BYTES`.

    Raises
    ------
    DataError
        If the limit is passed.
    """
    if size > MAX_BYTES:
        raise DataError(
            f"{where}: declares {size:,} bytes of values, the limit is {MAX_BYTES:,} (8 GiB); take fewer samples"
        )


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be read as {what}: {reason}; check the path, or copy the file anew") from error


@dataclass(frozen=True)
class ArrayHeader:
    """Shape and type that an archive declares for one of its arrays."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def is_numeric(self) -> bool:
        """True if the values are numbers or booleans."""
        return self.dtype.kind in "biuf"

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def read_npz_headers(path: Path) -> dict[str, ArrayHeader]:
    """Read which arrays a NumPy archive holds, without their values.

    Returns
    -------
    dict
        Array name to header, in the order of the file.

    Raises
    ------
    DataError
        If the file is no archive or damaged, or declares more than `MAX_BYTES` in all.
    """
    with _reading(path, "a NumPy .npz archive"), zipfile.ZipFile(path) as archive:
        headers = {
            member.filename.removesuffix(".npy"): _npy_header(archive, member)
            for member in archive.infolist()
            if member.filename.endswith(".npy")
        }
    check_size(path, sum(math.prod(header.shape) * header.dtype.itemsize for header in headers.values()))
    return headers


def _npy_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> ArrayHeader:
    with archive.open(member) as stream:
        # Bounded, because the length field of a header is itself only a claim of the file.
        start = io.BytesIO(stream.read(_NPY_HEADER_BYTES))
    version = npy_format.read_magic(start)
    # Version 3 differs from 2 only in the encoding of field names, which plain arrays do not have.
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, _, dtype = read(start)
    if any(size < 0 for size in shape):
        raise ValueError(f"array {member.filename} declares the shape {shape}")
    return ArrayHeader(shape, dtype)


def read_npz(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read the arrays `names` of an archive whose headers `read_npz_headers` has accepted.

    Raises
    ------
    DataError
        If an array is damaged, incomplete or made of Python objects.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with _reading(path, "a NumPy .npz archive"), zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as stream:
                arrays[name] = npy_format.read_array(stream, allow_pickle=False)
    return arrays


def read_idx(path: Path) -> NDArray[Any]:
    """Read one IDX file, gzipped or plain (told apart by content, not by name).

    Returns
    -------
    ndarray
        The values in the declared shape, in native byte order.

    Raises
    ------
    DataError
        If the magic number is wrong, the byte count is not the declared one, or more than
        `MAX_BYTES` are declared.
    """
    with _reading(path, "an IDX file"), _open_idx(path) as stream:
        dtype, shape = _idx_header(path, stream)
        declared = math.prod(shape) * dtype.itemsize
        check_size(path, declared)
        with _reading(path, f"an IDX file of {declared:,} bytes of values"):
            content = stream.read(declared + 1)
    if len(content) != declared:
        found = f"only {len(content):,}" if len(content) < declared else "more"
        raise DataError(
            f"{path}: its header declares {list(shape)} = {declared:,} bytes of values, "
            f"the file holds {found}; copy the file anew"
        )
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _open_idx(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        packed = stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")


def _idx_header(path: Path, stream: BinaryIO) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_DTYPES or magic[3] == 0:
        raise DataError(
            f"{path}: starts with the bytes '{magic.hex(' ')}', "
            "not with an IDX magic number such as '00 00 08 03'; copy the file anew"
        )
    rank = magic[3]
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise DataError(f"{path}: its IDX header needs {4 + 4 * rank} bytes, the file holds {4 + len(sizes)}")
    return np.dtype(_IDX_DTYPES[magic[2]]), tuple(int(size) for size in np.frombuffer(sizes, ">u4"))


def find_idx(directory: Path, part: MnistPart, content: Literal["images", "labels"]) -> Path | None:
    """Find one of MNIST's four files under its published name or a mirror's, gzipped or plain."""
    rank = 3 if content == "images" else 1
    names = [f"{part}-{content}{mark}idx{rank}-ubyte{end}" for mark in "-." for end in (".gz", "")]
    return next((directory / name for name in names if (directory / name).is_file()), None)


def read_mnist(directory: Path, part: MnistPart) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the images and the labels of MNIST's training or test part.

    Returns
    -------
    images : ndarray of uint8, [N, H, W]
    labels : ndarray of int64, [N]

    Raises
    ------
    DataError
        If a file is absent or damaged, or the two do not belong together.
    """
    images_path, labels_path = find_idx(directory, part, "images"), find_idx(directory, part, "labels")
    if images_path is None or labels_path is None:
        raise DataError(
            f"{directory}: MNIST's {part} part needs both {part}-images-idx3-ubyte[.gz] and "
            f"{part}-labels-idx1-ubyte[.gz], and {'labels' if images_path else 'images'} are missing"
        )
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.ndim != 3:
        raise DataError(f"{images_path}: holds {images.dtype} {list(images.shape)}, not uint8 [N, H, W]")
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_path}: holds {labels.dtype} {list(labels.shape)}, not one uint8 label for each "
            f"of the {len(images)} images in {images_path}"
        )
    return images.astype(np.uint8, copy=False), labels.astype(np.int64)


def read_cifar10(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one CIFAR-10 batch: of the binary version if its name ends in .bin, else of the Python version.

    Returns
    -------
    images : ndarray of uint8, [N, 3, 32, 32]
    labels : ndarray of int64, [N], 0..9

    Raises
    ------
    DataError
        If the file is damaged, is no such batch, or names code to run.
    """
    with _reading(path, "a CIFAR-10 batch"):
        check_size(path, path.stat().st_size)
        content = path.read_bytes()
    pixels, labels = _cifar_binary(path, content) if path.suffix == ".bin" else _cifar_python(path, content)
    if labels.size and not 0 <= labels.min() <= labels.max() < _CIFAR_CLASSES:
        raise DataError(f"{path}: has labels from {labels.min()} to {labels.max()}, CIFAR-10's are 0 to 9")
    return pixels.reshape(-1, 3, 32, 32), labels


def _cifar_binary(path: Path, content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if len(content) % _CIFAR_RECORD:
        raise DataError(
            f"{path}: {len(content):,} bytes are no whole number of CIFAR-10 records of "
            f"{_CIFAR_RECORD:,} bytes; copy the file anew"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)
    return records[:, 1:], records[:, 0].astype(np.int64)


class _Inert:
    """Stand-in for any class or function that a batch names: keeps the arguments, does nothing."""

    state: object = None

    def __init__(self, *args: object) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        self.state = state


class _BatchUnpickler(pickle.Unpickler):
    """Unpickles a CIFAR-10 batch without importing or calling anything."""

    _named_by_batches = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str, /) -> type[_Inert]:
        if (module, name) not in self._named_by_batches:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no CIFAR-10 batch needs")
        return _Inert


def _cifar_python(path: Path, content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with _reading(path, "a CIFAR-10 batch of the Python version"):
        _check_memo(content)
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        # Python 2 wrote the published keys as byte strings, Python 3 writes text.
        fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        pixels = _unpickled_pixels(fields["data"])
        labels = np.asarray(fields["labels"])
        if labels.dtype.kind != "i" or labels.shape != pixels.shape[:1]:
            raise ValueError(f"its {len(pixels)} images need as many whole-number labels")
    return pixels, labels.astype(np.int64)


def _check_memo(content: bytes) -> None:
    """Refuse a memo index that no pickle of this length reaches: Python would allocate up to it."""
    for opcode, index, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "LONG_BINPUT") and isinstance(index, int) and index > len(content):
            raise ValueError(f"it numbers an object {index:,}, more than it has bytes")


def _unpickled_pixels(data: object) -> NDArray[np.uint8]:
    match data:
        case _Inert(state=(_, (int(count), 3072), _Inert(args=("u1" | b"u1", *_)), is_fortran, values)):
            raw = _unpickled_bytes(values)
        case _:
            raise ValueError("its field 'data' is no uint8 array of N x 3072 pixels")
    return np.frombuffer(raw, np.uint8).reshape((count, _CIFAR_PIXELS), order="F" if is_fortran else "C")


def _unpickled_bytes(values: object) -> bytes:
    match values:
        case bytes():
            return values
        case _Inert(args=(str(text), _)):
            # Protocol 2 of Python 3 has no byte strings: it writes them as text to be encoded.
            return text.encode("latin1")
        case _:
            raise ValueError("its field 'data' holds no bytes")
