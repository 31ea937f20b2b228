"""Checks the images a user gives and cuts them into chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import DataError, UsageError
from memcompile.ir import TensorType


@dataclass(frozen=True)
class Batches:
    """How many images run at once.

    ``fixed`` is the batch the model was exported with, None where it is free. ``whole`` names
    inputs without a batch axis, which every chunk reads as they are.
    """

    chunk: int
    fixed: int | None
    whole: frozenset[str]
    even: bool = False
    """Whether chunks may be smaller, so that threads get equal shares."""

    @classmethod
    def of(cls, inputs: Mapping[str, TensorType], chunk: int | None, default: int, *, coupled: bool = False) -> Batches:
        """Choose the chunk: one image where images are ``coupled`` and the batch is free.

        Raises
        ------
        UsageError
            The chunk is below one or contradicts a fixed batch, or inputs have two fixed batches.
        """
        fixed = sorted({kind.shape[0] for kind in inputs.values() if kind.shape and kind.shape[0] is not None})
        whole = frozenset(name for name, kind in inputs.items() if not kind.shape)
        if chunk is not None and chunk < 1:
            raise UsageError(f"chunk {chunk} is out of range; give at least 1 image")
        if len(fixed) > 1:
            raise UsageError(f"the model's inputs have different fixed batches {fixed}; export it with one batch")
        if not fixed and coupled:
            return cls(chunk or 1, None, whole)
        if not fixed:
            return cls(chunk or default, None, whole, even=chunk is None)
        if chunk is not None and chunk != fixed[0]:
            raise UsageError(
                f"chunk {chunk} contradicts the model's fixed batch of {fixed[0]}; "
                "leave the chunk out, or export the model with a free batch"
            )
        return cls(fixed[0], fixed[0], whole)

    def cuts(self, images: int, threads: int = 1) -> Iterator[tuple[int, int]]:
        """Begin and end of each chunk, to be shared among threads."""
        if self.even and images > self.chunk:
            chunks = -(-images // (self.chunk * threads)) * threads
            yield from pairwise(images * chunk // chunks for chunk in range(chunks + 1))
            return
        for begin in range(0, images, self.chunk):
            yield begin, min(begin + self.chunk, images)

    def part(self, name: str, array: NDArray[Any], begin: int, end: int) -> NDArray[Any]:
        """One chunk of an input."""
        return array if name in self.whole else array[begin:end]


def check_inputs(
    kinds: Mapping[str, TensorType], x: NDArray[Any] | Mapping[str, NDArray[Any]], batches: Batches
) -> tuple[dict[str, NDArray[Any]], int]:
    """Check what the user gives against the program's inputs.

    Returns
    -------
    The inputs by name and the number of images.

    Raises
    ------
    DataError
        An input is missing, unknown, of another type or shape, or not finite; or the number of
        images is zero, differs between inputs or is no multiple of the fixed batch.
    """
    inputs = _by_name(kinds, x)
    for name, kind in kinds.items():
        _check_one(name, kind, inputs[name])
    counts = {name: len(array) for name, array in inputs.items() if name not in batches.whole}
    images = next(iter(counts.values()), 1)
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"the inputs hold different numbers of images ({found}); give the same number in each")
    if images == 0:
        raise DataError("there are no images; give at least one")
    if batches.fixed is not None and images % batches.fixed:
        raise DataError(
            f"{images} images are no multiple of the model's fixed batch of {batches.fixed}; "
            "give a multiple, or export the model with a free batch"
        )
    return inputs, images


def _by_name(kinds: Mapping[str, TensorType], x: NDArray[Any] | Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    if not isinstance(x, Mapping):
        if len(kinds) != 1:
            raise DataError(
                f"the program has {len(kinds)} inputs ({', '.join(kinds)}); give a mapping of name to array"
            )
        return {next(iter(kinds)): np.asarray(x)}
    missing = [name for name in kinds if name not in x]
    unknown = [name for name in x if name not in kinds]
    if missing:
        raise DataError(f"input {missing[0]!r} is missing; the program wants {_listed(kinds)}")
    if unknown:
        raise DataError(f"the program has no input {unknown[0]!r}; it wants {_listed(kinds)}")
    return {name: np.asarray(x[name]) for name in kinds}


def _listed(kinds: Mapping[str, TensorType]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in kinds.items())


def _check_one(name: str, kind: TensorType, array: NDArray[Any]) -> None:
    free = (None, *kind.shape[1:]) if kind.shape else ()
    fits = len(array.shape) == len(free) and all(
        want is None or have == want for have, want in zip(array.shape, free, strict=True)
    )
    if array.dtype != np.dtype(kind.dtype) or not fits:
        found = TensorType(array.dtype.name, array.shape)
        mend = f"; convert it with .astype(np.{kind.dtype})" if fits else "; the first dimension counts images"
        raise DataError(f"input {name!r} is {found}, the program wants {TensorType(kind.dtype, free)}{mend}")
    if array.dtype.kind in "fc" and not _all_finite(array):
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise DataError(f"input {name!r} holds {array[where]} at index {where}; give finite numbers only")


def _all_finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are finite; a finite sum says so without an array of flags."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def join(name: str, parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Join the chunks of one value along its first axis.

    Raises
    ------
    DataError
        The value has no axis to join along and differs from chunk to chunk, or another shape in each.
    """
    if len(parts) == 1:
        return parts[0]
    parts = [np.asarray(part) for part in parts]  # maps come as lists
    if len({part.shape[1:] for part in parts}) > 1 or len({part.ndim for part in parts}) > 1:
        shapes = ", ".join(dict.fromkeys(str(list(part.shape)) for part in parts))
        raise DataError(f"value {name!r} has another shape in each chunk of images ({shapes}); run one image at a time")
    if parts[0].ndim:
        return np.concatenate(parts)
    if all(np.array_equal(part, parts[0]) for part in parts):
        return parts[0]
    raise DataError(f"value {name!r} has no batch axis and differs between chunks; run all images as one chunk")
