"""Read-only arrays, and arrays that are equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMPARED = 64
"""Numbers of arrays that are compared before all of them are."""


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array with writing switched off (a view, no copy)."""
    view = array.view()
    view.flags.writeable = False
    return view


def first_equal(arrays: Sequence[NDArray[Any]]) -> list[int]:
    """For each array the place of the first one that equals it in type, shape and numbers."""
    firsts: dict[tuple[Any, ...], list[int]] = {}
    found = []
    for place, array in enumerate(arrays):
        alike = firsts.setdefault((array.dtype, array.shape, array.reshape(-1)[:COMPARED].tobytes()), [])
        same = next((first for first in alike if np.array_equal(arrays[first], array)), place)
        if same == place:
            alike.append(place)
        found.append(same)
    return found
