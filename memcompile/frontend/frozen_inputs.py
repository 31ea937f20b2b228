"""Inputs that are constants from the start, such as a sampling rate that decides which branch of a network runs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import ArrayLike, NDArray

from memcompile.errors import UsageError
from memcompile.frontend.importer import ModelFile
from memcompile.ir.graph import TensorType

LISTED_VALUES = 16
"""Values of an input that are written out in a program's origin."""


def frozen(file: ModelFile, values: Mapping[str, ArrayLike]) -> ModelFile:
    """The model with some inputs as constants.

    Parameters
    ----------
    values
        By the name of an input: a number for all its elements, or an array of its shape. Open sizes are 1 for a number.

    Raises
    ------
    UsageError
        The model has no such input, a value does not fit it, or no input would be left.
    """
    if not values:
        return file
    found = {name: _fitting(file, name, value) for name, value in values.items()}
    arrays = {name: found[name] for name in file.inputs if name in found}
    if len(arrays) == len(file.inputs):
        raise UsageError(f"--freeze makes all inputs constants ({', '.join(arrays)}); leave one that samples are for")
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    kept = [item for item in model.graph.input if item.name not in arrays]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    left = {name: kind for name, kind in file.inputs.items() if name not in arrays}
    text = " ".join(f"{name}={_text(array)}" for name, array in arrays.items())
    return replace(file, model=model, inputs=MappingProxyType(left), frozen=text)


def _fitting(file: ModelFile, name: str, value: ArrayLike) -> NDArray[np.generic]:
    """A value in type and shape of an input."""
    if name not in file.inputs:
        raise UsageError(f"the model has no input {name!r} to freeze; its inputs are {', '.join(file.inputs)}")
    kind, given = file.inputs[name], np.asarray(value)
    with np.errstate(invalid="ignore", over="ignore"):
        array = given.astype(kind.dtype) if given.dtype.kind in "biuf" else None
    if array is None or not (array.dtype.kind == "f" or np.array_equal(array, given)):
        shown = np.array2string(given, threshold=8)
        raise UsageError(f"input {name!r} is {kind}, and {shown} is not of this type; freeze it at a value that is")
    shape = _shape(kind, array)
    if shape is None:
        raise UsageError(f"input {name!r} is {kind}; --freeze gives {array.size} values of shape {list(array.shape)}")
    return np.full(shape, array.reshape(())) if array.size == 1 else array.reshape(shape)


def _shape(kind: TensorType, array: NDArray[np.generic]) -> tuple[int, ...] | None:
    """Shape of an input with a value, None if the value has another number of elements."""
    if array.size == 1:
        return tuple(1 if size is None else size for size in kind.shape)
    fits = array.ndim == len(kind.shape) and all(
        own in (None, size) for own, size in zip(kind.shape, array.shape, strict=True)
    )
    if fits:
        return array.shape
    sizes = [size for size in kind.shape if size is not None]
    known = math.prod(sizes)
    flat = array.ndim == 1 and len(kind.shape) - len(sizes) <= 1 and known and array.size % known == 0
    if not flat or (len(sizes) == len(kind.shape) and array.size != known):
        return None
    return tuple(array.size // known if size is None else size for size in kind.shape)


def _text(array: NDArray[np.generic]) -> str:
    """Values, or of many their number and digest: other values are another text."""
    if array.size > LISTED_VALUES:
        return f"{array.size} values of digest {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    return ",".join(str(value) for value in array.reshape(-1).tolist())
