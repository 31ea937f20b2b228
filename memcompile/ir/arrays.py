"""Read-only arrays."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array with writing switched off (a view, no copy)."""
    view = array.view()
    view.flags.writeable = False
    return view
