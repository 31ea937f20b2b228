"""Finds along which axis of each input, and of each output, the samples of a batch lie.

A model's declaration proposes axes, by the names of its open sizes or by equal sizes along axis 0; running it decides
(:mod:`memcompile.frontend.batch_trials`). If no layout holds, a run takes one sample. The search needs sizes; those
that nothing fixes are assumed, and larger ones are tried where onnxruntime fails.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import ModelError
from memcompile.frontend.batch_trials import LENIENT, STRICT, Attempt, Candidate, Shapes, search
from memcompile.frontend.importer import ModelFile
from memcompile.frontend.validation import nodes_of
from memcompile.ir.batching import Batching
from memcompile.ir.graph import TensorType

ASSUMED_SIZES = (16, 64, 256, 1024, 4096, 16384)
"""Sizes tried, one after the other, for an axis that neither the model, the data nor the user fixes."""
ASSUMED_IMAGE_SIZES = (224, 256, 512, 1024)
"""The same for height and width of images, the last two of four axes."""
MOST_GUESSES = 32
"""Combinations of axes without names that are tried."""
DRAWN_VALUES = 1 << 20
"""Largest number of the user's values from which inputs are made."""
_BATCH_NAME = re.compile(r"n|b|bs|.*batch.*", re.IGNORECASE)
# Names that exporters make up for a size they know nothing of.
_MADE_UP_NAME = re.compile(r"unk_.*|.*dynamic.*dim.*|.*_dim_\d+|dim\d+|[sudx]\d+|-1|\?|none", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """Sample axes of a model, and its inputs' types with all sizes fixed but that of a free batch.

    ``assumed`` are inputs some of whose sizes were assumed.
    """

    batching: Batching
    inputs: Mapping[str, TensorType]
    assumed: frozenset[str]


def find_batching(file: ModelFile, inputs: Mapping[str, TensorType], data: Mapping[str, NDArray[Any]]) -> Found:
    """Find where the samples of a batch lie.

    Parameters
    ----------
    file
        The model.
    inputs
        Types of its inputs, with the sizes that the user fixed.
    data
        The user's data by input, if any: their shapes fix open sizes and decide between layouts, and the model is run
        on their values.
    """
    names = _size_names(file)
    candidates = [*_declared(file.inputs, names), *_guessed(file.inputs, names)]
    whole = Candidate(dict.fromkeys(inputs))
    fitting = [candidate for candidate in candidates if data and _fits(candidate, inputs, data)]
    candidates = fitting or [candidate for candidate in candidates if not candidate.by_data]
    if data and not fitting:
        shared = [_sharing(candidate, data) for candidate in candidates if candidate.size is None]
        candidates = [*(each for each in (*shared, whole) if _fits(each, inputs, data)), *candidates]
    candidates.append(whole)
    attempts = [
        Attempt(candidate, tuple(_shapes_tried(candidate, file.inputs, inputs, names, data)), _held(candidate, data))
        for candidate in candidates
    ]
    draws = {name: np.ravel(data[name])[:DRAWN_VALUES] for name in inputs if name in data}
    dtypes = {name: kind.dtype for name, kind in inputs.items()}
    small = sum(map(np.size, data.values())) <= DRAWN_VALUES
    at_once = bool(data) and small and _fits(whole, inputs, data)
    ranged = any("DynamicQuantize" in node.op_type for node in nodes_of(file.model))
    try:
        answer = file.runs.work(search, attempts, dtypes, draws, at_once, ranged)
    except ModelError:
        answer = None  # it is refused, in words, when it is run on a sample
    return _found(attempts, answer, file, inputs)


def _found(attempts: Sequence[Attempt], answer: Any, file: ModelFile, inputs: Mapping[str, TensorType]) -> Found:
    """Result of the search; the most likely layout where the model could not be run at all."""
    number, rung, size, outputs = answer or (0, 0, attempts[0].candidate.size, {})
    candidate, shapes = attempts[number].candidate, attempts[number].shapes[rung]
    kinds = {
        name: TensorType(kind.dtype, tuple(size if each is None else each for each in shapes[name]))
        for name, kind in inputs.items()
    }
    assumed = frozenset(
        name
        for name, kind in inputs.items()
        if any(own is None and axis != candidate.axes[name] for axis, own in enumerate(kind.shape))
    )
    if candidate.whole:
        return Found(Batching.one_run(inputs), kinds, assumed)
    return Found(Batching(candidate.axes, {k: v for k, v in outputs.items() if v != 0}, size), kinds, assumed)


# --- what the declaration proposes ---------------------------------------------------------------


def _size_names(file: ModelFile) -> dict[str, list[str]]:
    """Names of the sizes of each input; "" where an exporter left it out or made it up.

    Sizes that the input itself does not declare, but the list of values does, have no names.
    """
    declared = {
        (value.name, len(value.type.tensor_type.shape.dim)): [
            "" if _MADE_UP_NAME.fullmatch(size.dim_param) else size.dim_param
            for size in value.type.tensor_type.shape.dim
        ]
        for value in file.model.graph.input
    }
    return {name: declared.get((name, len(kind.shape)), [""] * len(kind.shape)) for name, kind in file.inputs.items()}


def _declared(inputs: Mapping[str, TensorType], names: Mapping[str, list[str]]) -> Iterator[Candidate]:
    """Layouts by the names of sizes, the names of batches first, and by axis 0."""
    ranked = {name: kind for name, kind in inputs.items() if kind.shape}
    sizes = {kind.shape[0] for kind in ranked.values()}
    words = [word for name in ranked for word in dict.fromkeys(names[name]) if word]
    squares = _squares(names)
    for word in sorted(dict.fromkeys(words), key=lambda word: not _BATCH_NAME.fullmatch(word)):
        axes = {name: names[name].index(word) if word in names[name] else None for name in inputs}
        everywhere, is_batch = all(axes[name] is not None for name in ranked), _BATCH_NAME.fullmatch(word)
        first = everywhere and all(axes[name] == 0 for name in ranked)
        if word in squares or not (is_batch or first):
            continue
        yield Candidate(axes, tolerance=None if is_batch and first else LENIENT if is_batch else STRICT)
    if not ranked:
        return
    along_first = {name: 0 if kind.shape else None for name, kind in inputs.items()}
    if sizes == {None}:
        firsts = {names[name][0] for name in ranked} - {""}
        batches = {word for word in firsts if _BATCH_NAME.fullmatch(word)}
        if not firsts & squares and (len(firsts) < 2 or batches):
            # Different names are different sizes unless running shows that they are one.
            yield Candidate(along_first, tolerance=LENIENT if len(firsts) < 2 or firsts == batches else STRICT)
    elif len(sizes) == 1 and 0 not in sizes:
        (size,) = sizes
        yield Candidate(along_first, size, tolerance=None if size == 1 else LENIENT)
    elif sizes == {None, 1}:
        yield Candidate(along_first, 1, by_data=True)


def _squares(names: Mapping[str, list[str]]) -> set[str]:
    """Names of the sizes of square inputs, such as adjacency matrices, which count no samples."""
    return {word for own in names.values() for word in own if word and own.count(word) > 1}


def _guessed(inputs: Mapping[str, TensorType], names: Mapping[str, list[str]]) -> Iterator[Candidate]:
    """Layouts along axes without names: every input that has open sizes takes part."""
    choices = [
        [
            axis
            for axis, size in enumerate(kind.shape)
            if size is None and (not names[name][axis] or _BATCH_NAME.fullmatch(names[name][axis]))
        ]
        if None in kind.shape
        else [None]
        for name, kind in inputs.items()
    ]
    combinations = list(itertools.islice(itertools.product(*choices), MOST_GUESSES))
    for axes in sorted(combinations, key=lambda axes: sum(axis or 0 for axis in axes)):
        if any(axis is not None for axis in axes):
            yield Candidate(dict(zip(inputs, axes, strict=True)), tolerance=STRICT)


def _fits(candidate: Candidate, inputs: Mapping[str, TensorType], data: Mapping[str, NDArray[Any]]) -> bool:
    """Return True if data have the layout of a candidate; images may have one of their own."""
    counts = set()
    for name, array in data.items():
        axis, wanted = candidate.axes[name], inputs[name].shape
        images = array.dtype == np.uint8 and np.dtype(inputs[name].dtype).kind == "f" and axis == 0
        alike = array.ndim == len(wanted) and all(
            place == axis or need in (None, size)
            for place, (size, need) in enumerate(zip(array.shape, wanted, strict=True))
        )
        if not (alike or (images and array.ndim)):
            return False
        if axis is not None:
            counts.add(array.shape[axis])
    return len(counts) <= 1


def _sharing(candidate: Candidate, data: Mapping[str, NDArray[Any]]) -> Candidate:
    """The layout in which all samples share the inputs that the data hold once."""
    axes = {
        name: None if axis is not None and name in data and data[name].shape[axis : axis + 1] == (1,) else axis
        for name, axis in candidate.axes.items()
    }
    return Candidate(axes, tolerance=STRICT)


def _held(candidate: Candidate, data: Mapping[str, NDArray[Any]]) -> int:
    """Samples that the data hold by a layout, 1 if there are none."""
    places = [(array.shape, candidate.axes[name]) for name, array in data.items()]
    return max((shape[axis] for shape, axis in places if axis is not None and axis < len(shape)), default=1)


# --- sizes ---------------------------------------------------------------------------------------


def _shapes_tried(
    candidate: Candidate,
    declared: Mapping[str, TensorType],
    inputs: Mapping[str, TensorType],
    names: Mapping[str, list[str]],
    data: Mapping[str, NDArray[Any]],
) -> Iterator[Shapes]:
    """Shapes of all inputs with the assumed sizes growing, None along a free batch."""
    seen = None
    for rung in range(len(ASSUMED_SIZES)):
        shapes = {}
        for name, kind in inputs.items():
            sizes = []
            for axis, size in enumerate(kind.shape):
                if axis == candidate.axes[name]:
                    sizes.append(declared[name].shape[axis])
                elif size is not None:
                    sizes.append(size)
                else:
                    own = _size_of_data(data.get(name), axis, len(kind.shape))
                    sizes.append(_assumed(names, name, axis, rung) if own is None else own)
            shapes[name] = tuple(sizes)
        if shapes != seen:
            yield shapes
        seen = shapes


def _size_of_data(array: NDArray[Any] | None, axis: int, rank: int) -> int | None:
    """Size of an axis in data of one run, or of several along a further first axis."""
    if array is None or array.ndim not in (rank, rank + 1):
        return None
    return int(array.shape[axis + array.ndim - rank])


def _assumed(names: Mapping[str, list[str]], name: str, axis: int, rung: int) -> int:
    """Size for an axis that nothing fixes; axes of one name get one size."""
    word = names[name][axis] if axis < len(names[name]) else ""
    if word and _BATCH_NAME.fullmatch(word) and word not in _squares(names):
        return 1
    places = [(own, place) for own, words in names.items() for place, each in enumerate(words) if word and each == word]
    if all(len(names[own]) == 4 and place >= 2 for own, place in places or [(name, axis)]):
        return ASSUMED_IMAGE_SIZES[min(rung, len(ASSUMED_IMAGE_SIZES) - 1)]
    return ASSUMED_SIZES[rung]
