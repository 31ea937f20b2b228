"""NumPy archives and IDX files, and every message about a wrong one."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from written_data import IDX_CODES, RGB, idx_bytes, npz, one, refuses

from memcompile.data.files import read_npz, read_npz_headers
from memcompile.data.loader import (
    CALIBRATION_SAMPLES,
    load_dataset,
    read_idx,
)
from memcompile.errors import DataError
from memcompile.ir.graph import TensorType

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


def test_headers_are_read_without_the_values(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", a=np.ones((2, 3), np.int16), b=np.array(["p"]))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "no array")
    headers = read_npz_headers(path)
    assert {name: str(header) for name, header in headers.items()} == {"a": "int16 [2, 3]", "b": "<U1 [1]"}
    assert [header.is_numeric for header in headers.values()] == [True, False]
    refuses(lambda: read_npz(path, ["c"]), "x.npz", "c.npy")


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
