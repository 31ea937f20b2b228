"""Data as a model takes it: layouts, scaling, types, and samples that are made up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from written_data import GREY, RGB, npz, one, refuses

from memcompile.data.loader import (
    DIGITS_TRAINING_SAMPLES,
    GENERATED_SAMPLES,
    Dataset,
    digits28,
    load_dataset,
)
from memcompile.ir.graph import TensorType

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
