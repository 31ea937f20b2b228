"""Data files of every format, and every message about a wrong one."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from memcompile import data_files
from memcompile.data import (
    CALIBRATION_SAMPLES,
    DIGITS_TRAINING_SAMPLES,
    GENERATED_SAMPLES,
    Dataset,
    digits28,
    load_dataset,
    read_idx,
)
from memcompile.data_files import read_cifar10, read_npz, read_npz_headers
from memcompile.errors import DataError
from memcompile.ir import TensorType

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


# --- NumPy archives ----------------------------------------------------------------------------


def test_archive_with_arrays_named_like_the_inputs(tmp_path: Path) -> None:
    inputs = {"a": TensorType("float32", (None, 3)), "b:0": TensorType("int64", (4, 2))}
    a, b = np.arange(2100.0).reshape(700, 3), np.ones((700, 2), np.int32)
    path = npz(tmp_path / "two.npz", **{"a": a, "b:0": b, "names": np.array(["x"]), "labels": np.arange(700)})
    dataset = load_dataset(path, inputs)
    assert (dataset.name, dataset.count, dataset.generated) == ("two", 700, False)
    assert dataset.inputs["a"].dtype == np.float32
    assert dataset.inputs["b:0"].dtype == np.int64
    np.testing.assert_array_equal(dataset.inputs["a"], a)
    assert dataset.labels is not None
    np.testing.assert_array_equal(dataset.labels, np.arange(700))
    np.testing.assert_array_equal(dataset.calibration["a"], a[:CALIBRATION_SAMPLES])


def test_the_path_may_be_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", x=np.arange(6, dtype=np.float32).reshape(2, 3))
    read, again = (
        load_dataset(path, one("float32", 3)) for path in (tmp_path / "samples.npz", f"{tmp_path}/samples.npz")
    )
    np.testing.assert_array_equal(read.inputs["x"], again.inputs["x"])


def test_only_numeric_array_is_the_only_input(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", anything=np.ones((2, 5), np.float32), names=np.array(["p", "q"]))
    dataset = load_dataset(path, one("float32", 5))
    assert dataset.labels is None
    assert dataset.inputs["x"].shape == (2, 5)


def test_array_that_fits_is_taken_among_several(tmp_path: Path) -> None:
    images = np.zeros((4, 32, 32, 3), np.uint8)
    path = npz(tmp_path / "x.npz", index=np.arange(4), scalar=np.float32(1), images=images)
    assert load_dataset(path, RGB).inputs["image"].shape == (4, 3, 32, 32)


def test_object_array_beside_the_input_is_ignored(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", x=np.ones((1, 2), np.float32), names=np.array([{"a": 1}], object))
    assert load_dataset(path, one("float32", 2)).count == 1


def test_fortran_order_and_compression_are_read(tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.savez_compressed(tmp_path / "x.npz", x=values)
    np.testing.assert_array_equal(load_dataset(tmp_path / "x.npz", one("float64", 4)).inputs["x"], values)


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"p": np.ones((2, 5)), "q": np.ones((2, 5))}, ["x: float32[N, 5]", "p: float64 [2, 5]", "Name the arrays"]),
        ({"p": np.ones((2, 6)), "q": np.ones((2, 7))}, ["p: float64 [2, 6], q: float64 [2, 7]"]),
        ({"p": np.array([None, None])}, ["p: object [2]"]),
        ({"x": np.array([None, None])}, ["Object arrays cannot be loaded"]),
        ({"x": np.float32(3)}, ["'x'", "single value"]),
        ({"x": np.ones((0, 5), np.float32)}, ["holds no samples"]),
        ({"x": np.ones((2, 6), np.float32)}, ["shape [5]", "shape [6]"]),
        ({"x": np.ones((2, 6, 6), np.uint8)}, ["shape [5]", "shape [6, 6]"]),
        ({"x": np.ones((2, 5, 1, 1, 1), np.uint8)}, ["shape [5]", "shape [5, 1, 1, 1]"]),
        ({"x": np.array([[1, 2, 3, np.nan, 5]])}, ["no finite float32", "remove NaN"]),
        ({"x": np.full((1, 5), 1e300)}, ["no finite float32"]),
        ({"x": np.full((1, 5), "a")}, ["<U1", "float32", "store the array"]),
        ({"x": np.ones((1, 5), complex)}, ["complex128", "float32"]),
        ({"x": np.ones((2, 5)), "labels": np.ones(3, int)}, ["x 2, labels 3", "equal numbers"]),
        ({"x": np.ones((2, 5)), "labels": np.ones(2)}, ["'labels'", "float64", "whole class number"]),
        ({"x": np.ones((2, 5)), "labels": np.ones((2, 1), int)}, ["'labels'", "[2, 1]"]),
        ({"x": np.ones((2, 5)), "labels": np.array([0, -1])}, ["'labels'", "from 0 up"]),
        ({"x": np.ones((2, 5)), "labels": np.int64(3)}, ["'labels'", "single value"]),
    ],
)
def test_archive_that_does_not_fit(tmp_path: Path, arrays: Mapping[str, Any], parts: list[str]) -> None:
    path = npz(tmp_path / "bad.npz", **arrays)
    refuses(lambda: load_dataset(path, one("float32", 5)), "bad", *parts)


def test_two_inputs_need_arrays_of_their_names_and_equal_counts(tmp_path: Path) -> None:
    inputs = {"a": TensorType("float32", (None, 1)), "b": TensorType("float32", (None, 1))}
    path = npz(tmp_path / "x.npz", a=np.ones((2, 1)), c=np.ones((2, 1)))
    refuses(lambda: load_dataset(path, inputs), "b: float32[N, 1]", "c: float64 [2, 1]")
    path = npz(tmp_path / "x.npz", a=np.ones((2, 1)), b=np.ones((3, 1)))
    refuses(lambda: load_dataset(path, inputs), "a 2, b 3")


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    refuses(lambda: load_dataset(path, one("float32", 5)), "x.npz", "No such file")
    path.write_bytes(b"no archive at all")
    refuses(lambda: load_dataset(path, one("float32", 5)), "x.npz", "not a zip file")
    npz(path, x=np.ones((9, 5)))
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    refuses(lambda: load_dataset(path, one("float32", 5)), "x.npz", "cannot be read as a NumPy .npz archive")
    # A changed value, which only the checksum shows.
    place = whole.index(np.float64(1).tobytes())
    path.write_bytes(whole[:place] + b"\1" + whole[place + 1 :])
    refuses(lambda: load_dataset(path, one("float32", 5)), "Bad CRC-32")


def write_member(path: Path, header: str, content: bytes = b"") -> None:
    text = header.encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)


def test_archive_that_declares_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    write_member(path, "{'descr': '<f8', 'fortran_order': False, 'shape': (1073741825,)}")
    refuses(lambda: load_dataset(path, one("float32", 5)), "bomb.npz", "8,589,934,600", "8,589,934,592 (8 GiB)")


def test_archive_with_a_hostile_header(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for header in (
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 5)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (5, 5)}",  # no values follow
        "__import__('os').getcwd()",
        "(" * 110,
        "(" * 9_000 + ")" * 9_000,
        "{'descr': [[1]], 'fortran_order': False, 'shape': (1,)}",
    ):
        write_member(path, header)
        refuses(lambda: load_dataset(path, one("float32", 5)), "x.npz", "cannot be read")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}")
    refuses(lambda: load_dataset(path, one("float32", 5)), "x.npz", "cannot be read")


def test_header_of_a_later_format_version_is_read(tmp_path: Path) -> None:
    path, content = tmp_path / "x.npz", io.BytesIO()
    np.lib.format.write_array(content, np.ones((2, 5), np.float32), version=(2, 0))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content.getvalue())
    assert load_dataset(path, one("float32", 5)).count == 2


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(min_value=0), value=st.integers(0, 255), cut=st.integers(0, 30))
def test_no_damage_to_an_archive_escapes_as_another_error(tmp_path: Path, place: int, value: int, cut: int) -> None:
    path = npz(tmp_path / "x.npz", x=np.ones((2, 5), np.float32), labels=np.zeros(2, int))
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content[: len(content) - cut])
    try:
        assert load_dataset(path, one("float32", 5)).inputs["x"].shape == (2, 5)
    except DataError as error:
        assert "x" in str(error)


# --- IDX files ---------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=st.sampled_from(sorted(IDX_CODES)).flatmap(
        lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
    ),
    packed=st.booleans(),
)
def test_idx_file_round_trip(tmp_path: Path, array: NDArray[Any], packed: bool) -> None:
    path = tmp_path / "values"
    path.write_bytes(gzip.compress(idx_bytes(array), mtime=0) if packed else idx_bytes(array))
    found = read_idx(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["starts with the bytes ''"]),
        (b"\0\0\x08", ["'00 00 08'"]),
        (b"\0\1\x08\x01" + b"\0" * 8, ["'00 01 08 01'", "magic number"]),
        (b"\0\0\x07\x01" + b"\0" * 8, ["'00 00 07 01'"]),
        (b"\0\0\x08\x00" + b"\0" * 8, ["'00 00 08 00'"]),
        (b"\0\0\x08\x03\0\0\0\2", ["needs 16 bytes", "holds 8"]),
        (b"\0\0\x08\x01\0\0\0\4abc", ["[4] = 4 bytes", "only 3"]),
        (b"\0\0\x0d\x01\0\0\0\1abcde", ["[1] = 4 bytes", "holds more"]),
        (b"\0\0\x08\x03" + b"\xff" * 12, ["the limit is 8,589,934,592"]),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\4abcd", mtime=0)[:-6], ["IDX file of 4 bytes", "end-of-stream"]),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\4abcd", mtime=0)[:6], ["IDX file", "end-of-stream"]),
    ],
)
def test_damaged_idx_file(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(content)
    refuses(lambda: read_idx(path), str(path), *parts)


def test_absent_idx_file(tmp_path: Path) -> None:
    refuses(lambda: read_idx(tmp_path / "none"), "none", "No such file")


# --- MNIST directories -------------------------------------------------------------------------


@pytest.mark.parametrize(("mark", "packed"), [("-", True), ("-", False), (".", True), (".", False)])
def test_mnist_under_every_name(tmp_path: Path, mark: str, packed: bool) -> None:
    test = write_mnist(tmp_path, "t10k", 12, mark, packed=packed)
    train = write_mnist(tmp_path, "train", 600, mark, packed=packed)
    dataset = load_dataset(tmp_path, GREY)
    assert (dataset.name, dataset.count, dataset.generated) == ("MNIST test images", 12, False)
    np.testing.assert_array_equal(dataset.inputs["image"], test[:, None] / np.float32(255))
    np.testing.assert_array_equal(dataset.calibration["image"], train[:512, None] / np.float32(255))
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [*range(10), 0, 1]


def test_mnist_without_training_part_calibrates_on_the_test_part(tmp_path: Path) -> None:
    write_mnist(tmp_path, "t10k", 3)
    dataset = load_dataset(tmp_path, GREY)
    np.testing.assert_array_equal(dataset.calibration["image"], dataset.inputs["image"])


def test_plain_file_that_kept_its_gz_name_is_read(tmp_path: Path) -> None:
    images = write_mnist(tmp_path, "t10k", 2)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(idx_bytes(images))
    assert load_dataset(tmp_path, GREY).count == 2


def test_mnist_files_that_do_not_belong_together(tmp_path: Path) -> None:
    images = write_mnist(tmp_path, "t10k", 3)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(idx_bytes(np.zeros(4, np.uint8)))
    refuses(lambda: load_dataset(tmp_path, GREY), "uint8 [4]", "3 images", str(labels))
    labels.unlink()
    refuses(lambda: load_dataset(tmp_path, GREY), "t10k-labels-idx1-ubyte[.gz]", "labels are missing")
    write_mnist(tmp_path, "t10k", 3)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(idx_bytes(images[0]))
    refuses(lambda: load_dataset(tmp_path, GREY), "uint8 [28, 28]", "not uint8 [N, H, W]")
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    refuses(lambda: data_files.read_mnist(tmp_path, "t10k"), "images are missing")


def test_empty_mnist_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, "t10k", 0)
    refuses(lambda: load_dataset(tmp_path, GREY), "holds no samples")
    write_mnist(tmp_path, "t10k", 2)
    write_mnist(tmp_path, "train", 0)
    refuses(lambda: load_dataset(tmp_path, GREY), "holds no samples", "calibrate")


def test_directory_without_images(tmp_path: Path) -> None:
    npz(tmp_path / "x.npz", x=np.ones((1, 5)))
    looked_for = ["t10k-images-idx3-ubyte[.gz]", "test_batch.bin", "a .npz archive itself"]
    refuses(lambda: load_dataset(tmp_path, GREY), str(tmp_path), *looked_for)


def test_directory_feeds_one_input_only(tmp_path: Path) -> None:
    write_mnist(tmp_path, "t10k", 3)
    refuses(lambda: load_dataset(tmp_path, {**GREY, **one("float32", 3)}), "the model has 2 (image, x)", ".npz")


# --- CIFAR-10 directories ----------------------------------------------------------------------


@pytest.mark.parametrize("version", ["python 2", "python 3, protocol 2", "python 3", "fortran"])
def test_cifar10_python_version(tmp_path: Path, version: str) -> None:
    pixels = cifar_pixels(5)
    fields = {"data": pixels, "labels": [0, 1, 2, 3, 4], "filenames": ["a.png"] * 5, "batch_label": "1 of 1"}
    content = {
        "python 2": python2_batch(pixels),
        "python 3, protocol 2": pickle.dumps({**fields, "labels": list(range(5))}, protocol=2),
        "python 3": pickle.dumps({key.encode(): value for key, value in fields.items()}, protocol=4),
        "fortran": pickle.dumps({**fields, "data": np.asfortranarray(pixels)}, protocol=3),
    }[version]
    (tmp_path / "test_batch").write_bytes(content)
    (tmp_path / "data_batch_2").write_bytes(python2_batch(cifar_pixels(7)))
    dataset = load_dataset(tmp_path, RGB)
    assert dataset.name == "CIFAR-10 test images"
    np.testing.assert_array_equal(dataset.inputs["image"], pixels.reshape(5, 3, 32, 32) / np.float32(255))
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4]
    assert dataset.calibration["image"].shape == (7, 3, 32, 32)


def test_cifar10_binary_version(tmp_path: Path) -> None:
    pixels = cifar_pixels(4)
    records = np.concatenate([np.array([[3], [1], [4], [9]], np.uint8), pixels], axis=1)
    (tmp_path / "test_batch.bin").write_bytes(records.tobytes())
    dataset = load_dataset(tmp_path, RGB)
    np.testing.assert_array_equal(dataset.inputs["image"], pixels.reshape(4, 3, 32, 32) / np.float32(255))
    np.testing.assert_array_equal(dataset.calibration["image"], dataset.inputs["image"])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [3, 1, 4, 9]


def test_damaged_cifar10_binary_version(tmp_path: Path) -> None:
    path = tmp_path / "test_batch.bin"
    path.write_bytes(bytes(3074))
    refuses(lambda: load_dataset(tmp_path, RGB), str(path), "3,074 bytes", "3,073 bytes")
    path.write_bytes(b"\x0a" + bytes(3072))
    refuses(lambda: load_dataset(tmp_path, RGB), str(path), "labels from 10 to 10")
    path.write_bytes(b"")
    refuses(lambda: load_dataset(tmp_path, RGB), "holds no samples")
    refuses(lambda: read_cifar10(tmp_path / "data_batch_1.bin"), "No such file")


class Attack:
    """Its pickle calls a function of its choice."""

    def __init__(self, call: Callable[..., object], *args: object) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.args


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar10_batch_that_names_code_runs_none(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    for attack in (Attack(os.mkdir, str(mark)), Attack(eval, f"open({str(mark)!r}, 'w')")):
        (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": attack, "labels": [1]}, protocol))
        refuses(lambda: load_dataset(tmp_path, RGB), "test_batch", "which no CIFAR-10 batch needs")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ([1, 2], "'list' object has no attribute 'items'"),
        ({"labels": [1]}, "'data'"),
        ({"data": cifar_pixels(1)}, "'labels'"),
        ({"data": [1, 2], "labels": [1]}, "no uint8 array of N x 3072 pixels"),
        ({"data": np.zeros((1, 3072), np.int16), "labels": [1]}, "no uint8 array of N x 3072 pixels"),
        ({"data": np.zeros((1, 3071), np.uint8), "labels": [1]}, "no uint8 array of N x 3072 pixels"),
        ({"data": cifar_pixels(2), "labels": [1]}, "2 images need as many whole-number labels"),
        ({"data": cifar_pixels(1), "labels": [1.5]}, "whole-number labels"),
        ({"data": cifar_pixels(1), "labels": [[1, 2]]}, "whole-number labels"),
        ({"data": cifar_pixels(1), "labels": [10]}, "labels from 10 to 10"),
    ],
)
def test_pickle_that_is_no_cifar10_batch(tmp_path: Path, batch: object, reason: str) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps(batch, protocol=3))
    refuses(lambda: load_dataset(tmp_path, RGB), str(path), reason)


def test_damaged_cifar10_pickle(tmp_path: Path) -> None:
    path, whole = tmp_path / "test_batch", python2_batch(cifar_pixels(2))
    for content in (b"", b"text", whole[:-4], whole[:3000]):
        path.write_bytes(content)
        refuses(lambda: load_dataset(tmp_path, RGB), str(path), "CIFAR-10 batch of the Python version")
    # Memo indices that would have Python allocate 32 GiB.
    for content in (b"\x80\x02}r\xff\xff\xff\x7f.", b"}p2147483647\n."):
        path.write_bytes(content)
        refuses(lambda: load_dataset(tmp_path, RGB), str(path), "numbers an object 2,147,483,647")
    # The array's state holds a number in place of its bytes.
    raw = b"T" + struct.pack("<i", 6144) + cifar_pixels(2).tobytes()
    path.write_bytes(whole.replace(raw, b"K\x01"))
    refuses(lambda: load_dataset(tmp_path, RGB), str(path), "holds no bytes")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(min_value=0), value=st.integers(0, 255))
def test_no_damage_to_a_pickle_escapes_as_another_error(tmp_path: Path, place: int, value: int) -> None:
    whole = bytearray(python2_batch(np.zeros((1, 3072), np.uint8)))
    # The opcodes are the first 150 and the last 20 bytes; pixels lie between them.
    spots = [*range(2, 150), *range(len(whole) - 20, len(whole))]
    whole[spots[place % len(spots)]] = value
    path = tmp_path / "test_batch"
    path.write_bytes(whole)
    try:
        assert read_cifar10(path)[0].shape[1:] == (3, 32, 32)
    except DataError as error:
        assert "test_batch" in str(error)


# --- training parts ----------------------------------------------------------------------------


def test_training_part_of_mnist(tmp_path: Path) -> None:
    write_mnist(tmp_path, "t10k", 3)
    refuses(lambda: load_dataset(tmp_path, GREY, part="train"), "holds only MNIST test images", "add the training part")
    train = write_mnist(tmp_path, "train", 600)
    dataset = load_dataset(tmp_path, GREY, part="train")
    assert dataset.name == "MNIST training images"
    np.testing.assert_array_equal(dataset.inputs["image"], train[:, None] / np.float32(255))
    np.testing.assert_array_equal(dataset.calibration["image"], dataset.inputs["image"][:CALIBRATION_SAMPLES])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [i % 10 for i in range(600)]


def test_training_part_of_cifar10_joins_its_batches(tmp_path: Path) -> None:
    for name, count in (("test_batch", 2), ("data_batch_1", 3), ("data_batch_3", 4)):
        (tmp_path / name).write_bytes(python2_batch(cifar_pixels(count)))
    dataset = load_dataset(tmp_path, RGB, part="train")
    assert (dataset.name, dataset.count) == ("CIFAR-10 training images", 7)
    pixels = np.concatenate([cifar_pixels(3), cifar_pixels(4)]).reshape(7, 3, 32, 32)
    np.testing.assert_array_equal(dataset.inputs["image"], pixels / np.float32(255))
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 2, 0, 1, 2, 3]


def test_training_part_of_the_digits() -> None:
    dataset = load_dataset(None, GREY, part="train")
    images, labels = digits28()
    np.testing.assert_array_equal(dataset.inputs["image"], images[:1000, None] / np.float32(255))
    assert dataset.labels is not None
    np.testing.assert_array_equal(dataset.labels, labels[:1000])


# --- layouts, scaling, dtypes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "wanted", "axes"),
    [
        ((6, 8), (1, 6, 8), None),
        ((6, 8), (6, 8, 1), None),
        ((6, 8), (6, 8), None),
        ((6, 8), (48,), None),
        ((6, 8, 1), (1, 6, 8), None),
        ((6, 8, 1), (6, 8), None),
        ((1, 6, 8), (6, 8, 1), None),
        ((6, 8, 3), (3, 6, 8), (0, 3, 1, 2)),
        ((6, 8, 3), (6, 8, 3), None),
        ((3, 6, 8), (3, 6, 8), None),
        ((3, 6, 8), (6, 8, 3), (0, 2, 3, 1)),
        ((6, 8, 3), (144,), (0, 3, 1, 2)),
        ((6, 8, 3), (3, None, None), (0, 3, 1, 2)),
        ((48,), (48,), None),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32"])
def test_uint8_images_take_the_models_layout(
    tmp_path: Path,
    stored: tuple[int, ...],
    wanted: tuple[int | None, ...],
    axes: tuple[int, ...] | None,
    dtype: str,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *stored), dtype=np.uint8)
    path = npz(tmp_path / "x.npz", pictures=images)
    found = load_dataset(path, one(dtype, *wanted)).inputs["x"]
    moved = images if axes is None else images.transpose(axes)
    work = np.float64 if dtype == "float64" else np.float32
    expected = moved.reshape(found.shape).astype(work) / (255 if dtype.startswith("float") else 1)
    assert found.dtype == dtype
    assert found.flags.c_contiguous
    assert all(need in (None, size) for size, need in zip(found.shape[1:], wanted, strict=True))
    np.testing.assert_array_equal(found, expected.astype(dtype))


def test_uint8_input_takes_bytes_as_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    path = npz(tmp_path / "x.npz", x=images)
    found = load_dataset(path, one("uint8", 6, 8, 3)).inputs["x"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, images)
    refuses(lambda: load_dataset(path, one("uint8", 6, 8, 3), mean=[0], std=[1]), "mean and std", "uint8 images")


def test_normalisation_is_per_channel(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    path = npz(tmp_path / "x.npz", x=images)
    mean, std = [0.5, 0.25, 0.125], [1.0, 2.0, 0.5]
    expected = ((images / 255.0 - mean) / std).astype(np.float32)
    for wanted, axes in (((6, 8, 3), (0, 1, 2, 3)), ((3, 6, 8), (0, 3, 1, 2))):
        found = load_dataset(path, one("float32", *wanted), mean=mean, std=std)
        np.testing.assert_allclose(found.inputs["x"], expected.transpose(axes), atol=1e-6)
        np.testing.assert_array_equal(found.calibration["x"], found.inputs["x"])
    only_mean = load_dataset(path, one("float32", 6, 8, 3), mean=mean).inputs["x"]
    np.testing.assert_allclose(only_mean, images / 255.0 - mean, atol=1e-6)
    only_std = load_dataset(path, one("float32", 6, 8, 3), std=std).inputs["x"]
    np.testing.assert_allclose(only_std, images / 255.0 / std, atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "parts"),
    [
        ([0.5], [1.0], ["1 values", "3 channels"]),
        ([], [], ["0 values", "3 channels"]),
        ([0.5] * 3, [1.0] * 2, ["mean has 3 values and std 2"]),
        ([0.5] * 3, [1.0, 0.0, 1.0], ["std above 0"]),
        ([0.5, np.nan, 0.5], None, ["finite"]),
    ],
)
def test_normalisation_that_does_not_fit(
    tmp_path: Path, mean: list[float], std: list[float] | None, parts: list[str]
) -> None:
    path = npz(tmp_path / "x.npz", x=np.zeros((2, 6, 8, 3), np.uint8))
    refuses(lambda: load_dataset(path, one("float32", 3, 6, 8), mean=mean, std=std), *parts)


def test_normalisation_of_grey_images_names_one_channel() -> None:
    refuses(lambda: load_dataset(None, GREY, mean=[0.1, 0.2, 0.3]), "the images have 1 channel;")


def test_normalisation_is_for_images_only(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", x=np.ones((2, 3), np.float32))
    refuses(lambda: load_dataset(path, one("float32", 3), mean=[0.5]), "uint8 images", "leave them out")
    refuses(lambda: load_dataset(None, one("float32", 3), std=[0.5]), "made-up samples", "leave them out")


def test_normalisation_beside_an_input_that_is_no_image(tmp_path: Path) -> None:
    inputs = {"image": TensorType("float32", (None, 6, 8)), "x": TensorType("float32", (None, 3))}
    path = npz(tmp_path / "x.npz", image=np.full((1, 6, 8), 255, np.uint8), x=np.full((1, 3), 7.0))
    found = load_dataset(path, inputs, mean=[0.5], std=[0.5]).inputs
    assert (found["image"] == 1.0).all()
    assert (found["x"] == 7.0).all()


@pytest.mark.parametrize(
    ("values", "dtype", "reason"),
    [
        (np.array([[300]]), "uint8", "cannot take int64 values as uint8"),
        (np.array([[70000]]), "int16", "out of the range of int16"),
        (np.array([[1.5]]), "int64", "cannot take float64 values as int64"),
        (np.array([[2]]), "bool", "cannot take int64 values as bool"),
        (np.array([[1e6]]), "float16", "no finite float16"),
    ],
)
def test_values_that_the_input_cannot_hold(tmp_path: Path, values: NDArray[Any], dtype: str, reason: str) -> None:
    path = npz(tmp_path / "x.npz", x=values)
    refuses(lambda: load_dataset(path, one(dtype, 1)), "input 'x'", reason)


# --- digits and made-up samples ----------------------------------------------------------------


def test_digits28_look_like_mnist() -> None:
    images, labels = digits28()
    assert (images.shape, images.dtype, labels.dtype) == ((1797, 28, 28), np.uint8, np.int64)
    assert images.max() == 255
    inner = images[:, 4:24, 4:24]
    assert images.sum(dtype=np.int64) == inner.sum(dtype=np.int64)
    np.testing.assert_array_equal(np.bincount(labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    # Enlarging keeps the brightness, and mean squares of 20x20 pixels show the 8x8 ones again.
    small = load_dataset(None, one("float64", 8, 8)).inputs["x"]
    scored = inner[DIGITS_TRAINING_SAMPLES:] / 255
    np.testing.assert_allclose(scored.mean((1, 2)), small.mean((1, 2)), atol=0.02)
    np.testing.assert_allclose(scored[:, [1, 18]][:, :, [1, 18]], small[:, [0, 7]][:, :, [0, 7]], atol=0.2)


@pytest.mark.parametrize("sample", [(1, 28, 28), (28, 28), (28, 28, 1), (784,), (1, 8, 8), (8, 8, 1), (8, 8), (64,)])
def test_digits_are_the_default_of_image_models(sample: tuple[int, ...]) -> None:
    dataset = load_dataset(None, one("float32", *sample))
    assert (dataset.name, dataset.generated) == ("digits of scikit-learn", False)
    assert dataset.inputs["x"].shape == (797, *sample)
    assert dataset.calibration["x"].shape == (512, *sample)
    assert dataset.inputs["x"].max() == 1.0
    assert dataset.labels is not None
    assert dataset.labels.shape == (797,)
    assert not np.array_equal(dataset.inputs["x"][:512], dataset.calibration["x"])


def test_made_up_samples_follow_the_seed_and_the_types() -> None:
    inputs = {
        "a": TensorType("float16", (1, 3, 4)),
        "b": TensorType("int64", (None, 200)),
        "c": TensorType("bool", (None,)),
    }
    first, again, other = (load_dataset(None, inputs, seed=seed) for seed in (5, 5, 6))
    assert (first.generated, first.labels, first.count) == (True, None, GENERATED_SAMPLES)
    assert {name: (array.dtype.name, array.shape) for name, array in first.inputs.items()} == {
        "a": ("float16", (8, 3, 4)),
        "b": ("int64", (8, 200)),
        "c": ("bool", (8,)),
    }
    assert set(np.unique(first.inputs["b"])) == {0, 1}
    for name in inputs:
        np.testing.assert_array_equal(first.inputs[name], again.inputs[name])
        np.testing.assert_array_equal(first.inputs[name], first.calibration[name])
    assert not np.array_equal(first.inputs["a"], other.inputs["a"])


def test_float_images_of_another_size_are_made_up() -> None:
    assert load_dataset(None, RGB).generated
    assert load_dataset(None, one("uint8", 28, 28)).generated
    assert load_dataset(None, {**GREY, **one("float32", 3)}).generated


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ({}, ["no input"]),
        (one("float32", 3, None), ["'x'", "float32[N, 3, N]", "fix them, or give data"]),
        ({"x": TensorType("float32", ())}, ["'x'", "float32[]"]),
        (one("str", 3), ["'x'", "numbers and booleans"]),
        (one("no_such_dtype", 3), ["'x'", "numbers and booleans"]),
        (one("float32", 2**20, 2**20), ["input 'x'", "1 GiB"]),
    ],
)
def test_inputs_that_cannot_be_made_up(inputs: Mapping[str, TensorType], parts: list[str]) -> None:
    refuses(lambda: load_dataset(None, inputs), *parts)


# --- the dataset itself ------------------------------------------------------------------------


def test_head_keeps_the_first_scored_samples() -> None:
    dataset = load_dataset(None, GREY)
    head = dataset.head(10)
    assert head.count == 10
    assert head.labels is not None
    assert dataset.labels is not None
    np.testing.assert_array_equal(head.labels, dataset.labels[:10])
    assert head.calibration is dataset.calibration
    assert dataset.head(10_000).count == 797
    refuses(lambda: dataset.head(0), "cannot take 0 samples", "at least 1")


def test_head_without_labels() -> None:
    array = np.ones((3, 2))
    head = Dataset("three", {"x": array}, None, {"x": array}, generated=False).head(2)
    assert (head.count, head.labels) == (2, None)


def test_headers_are_read_without_the_values(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", a=np.ones((2, 3), np.int16), b=np.array(["p"]))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "no array")
    headers = read_npz_headers(path)
    assert {name: str(header) for name, header in headers.items()} == {"a": "int16 [2, 3]", "b": "<U1 [1]"}
    assert [header.is_numeric for header in headers.values()] == [True, False]
    refuses(lambda: read_npz(path, ["c"]), "x.npz", "c.npy")


def test_published_mnist(shared_dir: Path) -> None:
    images = next(shared_dir.rglob("t10k-images*"), None)
    if images is None:
        pytest.skip("no MNIST there")
    dataset = load_dataset(images.parent, GREY)
    assert (dataset.count, dataset.calibration["image"].shape) == (10_000, (512, 1, 28, 28))
    assert dataset.labels is not None
    assert np.bincount(dataset.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.inputs["image"].mean() == pytest.approx(0.1325, abs=1e-4)
