"""Checks the images a user gives and cuts them into chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import DataError, UsageError
from memcompile.frontend.values import Value
from memcompile.ir.batching import OTHER_SIZES, Batching
from memcompile.ir.graph import TensorType


@dataclass(frozen=True)
class Batches:
    """Number of images that run at once.

    ``fixed`` is the batch the model was exported with, None where it is free; ``batching`` says where images lie.
    """

    chunk: int
    fixed: int | None
    batching: Batching
    even: bool = False
    """True if chunks may be smaller, so that threads get equal shares."""

    @classmethod
    def of(
        cls,
        inputs: Mapping[str, TensorType],
        batching: Batching,
        chunk: int | None,
        default: int,
        *,
        coupled: bool = False,
        together: bool = False,
    ) -> Batches:
        """Choose the chunk: one image where images are ``coupled`` and the batch is free.

        With ``together`` many images of a model that was exported for one are a chunk, whose digital stages run image
        by image.

        Raises
        ------
        UsageError
            The chunk is below one or contradicts a fixed batch, or inputs have two fixed batches.
        """
        sizes = {kind.shape[axis] for name, kind in inputs.items() if (axis := batching.inputs.get(name)) is not None}
        fixed = sorted(size for size in sizes if size is not None)
        if chunk is not None and chunk < 1:
            raise UsageError(f"chunk {chunk} is out of range; give at least 1 image")
        if len(fixed) > 1:
            raise UsageError(f"the model's inputs have different fixed batches {fixed}; export it with one batch")
        if batching.one_by_one and fixed in ([], [1]):
            return cls(1, fixed[0] if fixed else None, batching)
        if not fixed and coupled:
            return cls(chunk or 1, None, batching)
        if not fixed:
            return cls(chunk or default, None, batching, even=chunk is None)
        if chunk is not None and chunk != fixed[0]:
            raise UsageError(
                f"chunk {chunk} contradicts the model's fixed batch of {fixed[0]}; "
                "leave the chunk out, or export the model with a free batch"
            )
        if together and fixed[0] == 1 and chunk is None:
            return cls(default, 1, batching, even=True)
        return cls(fixed[0], fixed[0], batching)

    def cuts(self, images: int, threads: int = 1) -> Iterator[tuple[int, int]]:
        """Begin and end of each chunk, to be shared among threads; none is empty."""
        if self.even and images > self.chunk:
            # As many for each thread, but none without an image.
            chunks = min(-(-images // (self.chunk * threads)) * threads, images)
            yield from pairwise(images * chunk // chunks for chunk in range(chunks + 1))
            return
        for begin in range(0, images, self.chunk):
            yield begin, min(begin + self.chunk, images)

    def part(self, values: Mapping[str, NDArray[Any]], begin: int, end: int) -> dict[str, NDArray[Any]]:
        """One chunk of the inputs."""
        return self.batching.feeds(values, slice(begin, end))


def check_inputs(
    kinds: Mapping[str, TensorType], x: NDArray[Any] | Mapping[str, NDArray[Any]], batches: Batches
) -> tuple[dict[str, NDArray[Any]], int]:
    """Check what the user gives against the program's inputs.

    Returns
    -------
    The inputs by name and the number of images, 0 if it is one run of a network without a batch axis.

    Raises
    ------
    DataError
        An input is missing, unknown, of another type or shape, or not finite; or the number of
        images is zero, differs between inputs or is no multiple of the fixed batch.
    """
    inputs, batching = _by_name(kinds, x), batches.batching
    for name, kind in kinds.items():
        _check_one(name, kind, inputs[name], batching)
    if batching.whole:
        return _stacked(kinds, inputs)
    counts = batching.counts(inputs)
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


def _stacked(
    kinds: Mapping[str, TensorType], inputs: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, NDArray[Any]], int]:
    """Runs along a new first axis; an input that is there once belongs to every run."""
    runs = {name: len(array) for name, array in inputs.items() if array.ndim > len(kinds[name].shape)}
    if len(set(runs.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in runs.items())
        raise DataError(f"the inputs hold different numbers of runs ({found}); give the same number in each")
    count = next(iter(runs.values()), 1)
    if count == 0:
        raise DataError("there are no runs; give at least one")
    stacked = {
        name: array if name in runs else np.broadcast_to(array, (count, *array.shape)) for name, array in inputs.items()
    }
    return stacked, count if runs else 0


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


def _check_one(name: str, kind: TensorType, array: NDArray[Any], batching: Batching) -> None:
    axis = batching.inputs.get(name)
    free = tuple(None if place == axis else size for place, size in enumerate(kind.shape))
    shape = array.shape[1:] if batching.whole and array.ndim > len(free) else array.shape
    fits = len(shape) == len(free) and all(want is None or have == want for have, want in zip(shape, free, strict=True))
    if array.dtype != np.dtype(kind.dtype) or not fits:
        found = TensorType(array.dtype.name, array.shape)
        mend = f"; convert it with .astype(np.{kind.dtype})" if fits else f"; {_words(axis, batching)}"
        if array.dtype == np.dtype(kind.dtype) and len(shape) == len(free):
            mend += f"; {OTHER_SIZES}"
        raise DataError(f"input {name!r} is {found}, the program wants {TensorType(kind.dtype, free)}{mend}")
    if array.dtype.kind in "fc" and not _all_finite(array):
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise DataError(f"input {name!r} holds {array[where]} at index {where}; give finite numbers only")


def _words(axis: int | None, batching: Batching) -> str:
    """Meaning of an input's axes, in words."""
    if batching.whole:
        return "a run takes one such array, a further first dimension counts runs"
    if axis is None:
        return "all images share one value"
    return "the first dimension counts images" if axis == 0 else f"dimension {axis}, from 0, counts images"


def _all_finite(array: NDArray[Any]) -> bool:
    """Return True if all numbers are finite; a finite sum says so without an array of flags."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def join(name: str, parts: list[NDArray[Any]], batching: Batching) -> NDArray[Any]:
    """Join the chunks of one value along its batch axis, or stack runs.

    Raises
    ------
    DataError
        The value has no axis to join along and differs from chunk to chunk, or another shape in each.
    """
    if batching.whole:
        parts = [np.asarray(part)[None] for part in parts]
    if len(parts) == 1:
        return parts[0]
    parts = [np.asarray(part) for part in parts]
    axis = 0 if batching.whole else batching.join_axis(name)
    if axis is None and all(np.array_equal(part, parts[0]) for part in parts):
        return parts[0]
    axis = axis or 0
    if len({(part.ndim, *part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}) > 1:
        shapes = ", ".join(dict.fromkeys(str(list(part.shape)) for part in parts))
        raise DataError(f"value {name!r} has another shape in each chunk of images ({shapes}); run one image at a time")
    if parts[0].ndim:
        return np.concatenate(parts, axis)
    if all(np.array_equal(part, parts[0]) for part in parts):
        return parts[0]
    raise DataError(f"value {name!r} has no batch axis and differs between chunks; run all images as one chunk")


def join_values(
    name: str,
    parts: Sequence[Value],
    counts: Sequence[int],
    another: Callable[[], tuple[int, Value]] | None,
    batching: Batching,
) -> Value:
    """Join what chunks of images give for one value, whatever its type.

    Tensors are joined by :func:`join`; of whole runs, values that are not tensors become a list with one value a run.
    Otherwise, if a sequence has more elements for more images, as sequences of maps do, the chunks' elements follow
    each other; if not, each element is joined.

    Parameters
    ----------
    parts, counts
        The value, and the number of images, of each chunk.
    another
        Gives the value for another number of images, and that number, to tell the two kinds of sequences apart where
        all chunks are alike; None where the model takes one number of images only.

    Raises
    ------
    DataError
        The chunks' values do not go together.
    """
    if not any(part is None or isinstance(part, list | dict) for part in parts):
        return join(name, list(parts), batching)
    if batching.whole:
        return list(parts)
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, list) for part in parts):
        return _join_sequences(name, parts, counts, another, batching)
    if all(part is None for part in parts) or all(isinstance(part, dict) and part == parts[0] for part in parts):
        return parts[0]
    raise DataError(f"value {name!r} is of another kind in each chunk of images; run one image at a time")


def _join_sequences(
    name: str,
    parts: Sequence[list[Value]],
    counts: Sequence[int],
    another: Callable[[], tuple[int, Value]] | None,
    batching: Batching,
) -> list[Value]:
    if not any(parts) or any(isinstance(element, dict) for part in parts for element in part):
        return [element for part in parts for element in part]
    seen = {(count, len(part)) for count, part in zip(counts, parts, strict=True)}
    if len(seen) == 1 and another is not None:
        count, value = another()
        seen.add((count, len(value)))
    lengths = {length for _, length in seen}
    ratios = {Fraction(length, count) for count, length in seen}
    # One number of images tells nothing, so the elements themselves must: each holds all images, or there is one each.
    each_holds_all = all(
        np.ndim(element) and len(element) == count
        for count, part in zip(counts, parts, strict=True)
        for element in part
    )
    if len(lengths) == 1 and (len(ratios) > 1 or each_holds_all):
        return [
            join_values(f"{name}[{number}]", elements, counts, None, batching)
            for number, elements in enumerate(zip(*parts, strict=True))
        ]
    if len(ratios) == 1:
        return [element for part in parts for element in part]
    listed = ", ".join(f"{length} for {count} images" for count, length in sorted(seen))
    raise DataError(
        f"the number of elements of sequence {name!r} neither is fixed nor goes with that of images ({listed}); "
        "run one image at a time"
    )
