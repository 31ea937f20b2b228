"""Values as onnxruntime hands them out: tensors, and sequences, maps and optionals of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Value = Any
"""An array for a tensor, a list for a sequence, a dict for a map, None for an optional that holds nothing."""


@dataclass(frozen=True, eq=False)
class Contents:
    """Contents of a value: ``numbers`` [N], all of them in order, and the ``structure`` that holds them.

    The structure names shapes of tensors and keys of maps.
    """

    numbers: NDArray[Any]
    structure: tuple[object, ...]


def contents(value: Value, kinds: str = "biuf") -> Contents:
    """Numbers of some kinds (NumPy's letters) in a value, and its structure."""
    if isinstance(value, dict):
        keys = map_keys([value])
        return Contents(contents([value[key] for key in keys], kinds).numbers, tuple(keys))
    if isinstance(value, list):
        parts = [contents(element, kinds) for element in value]
        numbers = [part.numbers for part in parts if part.numbers.size]
        return Contents(np.concatenate(numbers) if numbers else np.zeros(0), tuple(part.structure for part in parts))
    if value is None:
        return Contents(np.zeros(0), (None,))
    array = np.asarray(value)
    return Contents(array.ravel() if array.dtype.kind in kinds else np.zeros(0), array.shape)


def is_map_sequence(value: Value) -> bool:
    """Return True if a value is a sequence of maps, as ZipMap makes it: one for each image."""
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)


def map_keys(maps: Sequence[Mapping[Any, Any]]) -> list[Any]:
    """Keys of some maps, in ascending order."""
    return sorted({key for each in maps for key in each})


@dataclass(frozen=True, eq=False)
class PlainArrays:
    """Values as plain arrays.

    A tensor is an array of its name, with strings in NumPy's own type. A sequence of maps is a matrix with a row per
    map and a column per key, and the keys are NAME.keys; where a map lacks a key the value is NaN (zero in types other
    than floats), and NAME.present marks the keys that are there. The elements of any other sequence are NAME.0, NAME.1
    and so on. ``written`` are the values of which there is an array, ``remarks`` say how values that are not tensors
    are stored.
    """

    arrays: Mapping[str, NDArray[Any]]
    written: tuple[str, ...]
    remarks: tuple[str, ...]

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> PlainArrays:
        """Store values as arrays; a name of which some array is taken gets a _ at its end."""
        arrays: dict[str, NDArray[Any]] = {}
        written, remarks = [], []
        for name, value in values.items():
            taken = arrays.keys() | (values.keys() - {name})
            base = name
            while not taken.isdisjoint(own := _arrays(base, value)):
                base += "_"
            arrays.update(own)
            if own:
                written.append(name)
            if not isinstance(value, np.ndarray | np.generic):
                remarks.append(_remark(name, value, list(own)))
        return cls(arrays, tuple(written), tuple(remarks))


def _arrays(name: str, value: Value) -> dict[str, NDArray[Any]]:
    if value is None or (isinstance(value, dict) and not value):
        return {}
    if isinstance(value, dict):
        keys = map_keys([value])
        return {name: _plain([value[key] for key in keys]), f"{name}.keys": _plain(keys)}
    if is_map_sequence(value):
        return _table(name, value)
    if isinstance(value, list):
        found: dict[str, NDArray[Any]] = {}
        for number, element in enumerate(value):
            found.update(_arrays(f"{name}.{number}", element))
        return found
    return {name: _plain(value)}


def _table(name: str, maps: Sequence[Mapping[Any, Any]]) -> dict[str, NDArray[Any]]:
    """Maps as a matrix, with their keys."""
    keys = map_keys(maps)
    some = next((item for each in maps for item in each.values()), 0.0)
    missing = math.nan if isinstance(some, float) else type(some)()
    table = _plain([each.get(key, missing) for each in maps for key in keys]).reshape(len(maps), len(keys))
    found = {name: table, f"{name}.keys": _plain(keys)}
    if any(len(each) < len(keys) for each in maps):
        found[f"{name}.present"] = np.array([[key in each for key in keys] for each in maps])
    return found


def _plain(values: Any) -> NDArray[Any]:
    """An array that a file holds without pickled objects; floats of maps, which come as Python's, are float32 again."""
    array = np.asarray(values)
    if array.dtype == object:
        return array.astype(str)
    if isinstance(values, list) and array.dtype == np.float64:
        narrow = array.astype(np.float32)
        return narrow if np.array_equal(narrow, array, equal_nan=True) else array
    return array


def _remark(name: str, value: Value, arrays: Sequence[str]) -> str:
    """Remark on the arrays in which a value that is no tensor is stored."""
    if value is None:
        return f"{name} is an optional that holds nothing: no array"
    if not value:
        return f"{name} is {'a map' if isinstance(value, dict) else 'a sequence'} of no elements: no array"
    if isinstance(value, dict):
        return f"{name} is a map: its values are array {arrays[0]}, its keys {arrays[1]}"
    if is_map_sequence(value):
        gaps = f", {arrays[2]} says which are there" if len(arrays) > 2 else ""
        return f"{name} is a sequence of {len(value):,} maps: rows of array {arrays[0]}, keys in {arrays[1]}{gaps}"
    shown = f"arrays {arrays[0]} to {arrays[-1]}" if len(arrays) > 1 else f"array {arrays[0]}"
    return f"{name} is a sequence of {len(value):,} tensors: {shown}"
