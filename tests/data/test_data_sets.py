"""MNIST and CIFAR-10 as they are published, and every message about a wrong directory."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_data import GREY, RGB, cifar_pixels, idx_bytes, npz, one, python2_batch, refuses, write_mnist

from memcompile.data import digits
from memcompile.data import files as data_files
from memcompile.data.files import read_cifar10
from memcompile.data.loader import (
    CALIBRATION_SAMPLES,
    digits28,
    load_dataset,
)
from memcompile.errors import DataError

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


def test_published_mnist(shared_dir: Path) -> None:
    images = next(shared_dir.rglob("t10k-images*"), None)
    if images is None:
        pytest.skip("no MNIST there")
    dataset = load_dataset(images.parent, GREY)
    assert (dataset.count, dataset.calibration["image"].shape) == (10_000, (512, 1, 28, 28))
    assert dataset.labels is not None
    assert np.bincount(dataset.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.inputs["image"].mean() == pytest.approx(0.1325, abs=1e-4)


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


def test_digits_are_those_of_scikit_learn_read_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read = digits._digits.__wrapped__
    assert digits._digits_file() is not None
    images, labels = read()
    monkeypatch.setattr(digits, "find_spec", lambda name: None)  # as if its folder were packed in a file
    assert digits._digits_file() is None
    for found, wanted in zip((images, labels), read(), strict=True):
        assert found.dtype == wanted.dtype == np.int64
        np.testing.assert_array_equal(found, wanted)
