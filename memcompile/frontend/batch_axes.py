"""Finds along which axis of each input, and of each output, the samples of a batch lie.

A model's declaration proposes axes, by the names of its open sizes or by equal sizes along axis 0;
onnxruntime decides. It runs the model with one sample and with a few, which shows the axes that
grow, and with one sample replaced, which must leave the results of all others alone. A model for
which nothing holds takes one sample a run. The search needs sizes; those that nothing fixes are
assumed, and larger ones are tried where onnxruntime fails.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from memcompile.errors import ModelError
from memcompile.frontend.importer import ModelFile
from memcompile.ir.batching import Batching
from memcompile.ir.graph import TensorType

ASSUMED_SIZES = (16, 64, 256, 1024, 4096, 16384)
"""Sizes tried, one after the other, for an axis that neither the model, the data nor the user fixes."""
ASSUMED_IMAGE_SIZES = (224, 256, 512, 1024)
"""The same for height and width of images, the last two of four axes."""
SAMPLES = 3
"""Samples of the runs that show which axes grow."""
MOST_GUESSES = 32
"""Combinations of axes without names that are tried."""
DRAWN_VALUES = 1 << 20
"""Values of the user's data that inputs are made of, at most."""
MOST_VALUES = 1 << 26
"""Values of all inputs of a run that is tried."""
LENIENT, STRICT = 0.1, 0.02
"""Largest change of other samples' results when one sample is replaced, as a share of the change of its own. A range
that is quantised over the whole batch changes all a little; where axis 0 may be taken for the batch that is allowed."""

_BATCH_NAME = re.compile(r"n|b|bs|.*batch.*", re.IGNORECASE)
# Names that exporters make up for a size they know nothing of.
_MADE_UP_NAME = re.compile(r"unk_.*|.*dynamic.*dim.*|.*_dim_\d+|dim\d+|[sudx]\d+|-1|\?|none", re.IGNORECASE)

Shapes = Mapping[str, tuple[int | None, ...]]


@dataclass(frozen=True)
class Found:
    """Where the samples lie, and the inputs' types with all sizes fixed but those of a free batch.

    ``assumed`` are inputs some of whose sizes were assumed.
    """

    batching: Batching
    inputs: Mapping[str, TensorType]
    assumed: frozenset[str]


@dataclass(frozen=True)
class _Candidate:
    """Axes along which samples may lie; None for inputs that all samples share, for all if a run is one sample.

    ``size`` is the fixed number of samples, ``tolerance`` what other samples' results may change by if that is
    tested at all. ``by_data`` needs data of this layout.
    """

    axes: Mapping[str, int | None]
    size: int | None = None
    tolerance: float | None = None
    by_data: bool = False

    @property
    def whole(self) -> bool:
        """Whether a run is one sample."""
        return all(axis is None for axis in self.axes.values())


@dataclass(frozen=True)
class _Attempt:
    """A candidate with the shapes it is tried at, None along the batch."""

    candidate: _Candidate
    shapes: tuple[Shapes, ...]


def find_batching(file: ModelFile, inputs: Mapping[str, TensorType], data: Mapping[str, NDArray[Any]]) -> Found:
    """Find where the samples of a batch lie.

    Parameters
    ----------
    file
        The model.
    inputs
        Types of its inputs, with the sizes that the user fixed.
    data
        The user's data by input, as far as there are any: their shapes fix open sizes and decide between layouts, their
        values are what the model is run on.
    """
    names = _size_names(file)
    candidates = [*_declared(file.inputs, names), *_guessed(file.inputs, names)]
    whole = _Candidate(dict.fromkeys(inputs))
    fitting = [candidate for candidate in candidates if data and _fits(candidate, inputs, data)]
    candidates = fitting or [candidate for candidate in candidates if not candidate.by_data]
    if data and not fitting:
        shared = [_sharing(candidate, data) for candidate in candidates if candidate.size is None]
        candidates = [*(each for each in (*shared, whole) if _fits(each, inputs, data)), *candidates]
    candidates.append(whole)
    attempts = [
        _Attempt(candidate, tuple(_shapes_tried(candidate, file.inputs, inputs, names, data)))
        for candidate in candidates
    ]
    draws = {name: np.ravel(data[name])[:DRAWN_VALUES] for name in inputs if name in data}
    dtypes = {name: kind.dtype for name, kind in inputs.items()}
    try:
        answer = file.runs.work(_search, attempts, dtypes, draws)
    except ModelError:
        answer = None  # it is refused, in words, when it is run on a sample
    return _found(attempts, answer, file, inputs)


def _found(attempts: Sequence[_Attempt], answer: Any, file: ModelFile, inputs: Mapping[str, TensorType]) -> Found:
    """What the search found; the most likely layout where the model could not be run at all."""
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
    """Names of the sizes of each input; "" where an exporter left it out or made it up."""
    return {
        value.name: [
            "" if _MADE_UP_NAME.fullmatch(size.dim_param) else size.dim_param
            for size in value.type.tensor_type.shape.dim
        ]
        for value in file.model.graph.input
        if value.name in file.inputs
    }


def _declared(inputs: Mapping[str, TensorType], names: Mapping[str, list[str]]) -> Iterator[_Candidate]:
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
        yield _Candidate(axes, tolerance=None if is_batch and first else LENIENT if is_batch else STRICT)
    if not ranked:
        return
    along_first = {name: 0 if kind.shape else None for name, kind in inputs.items()}
    if sizes == {None}:
        firsts = {names[name][0] for name in ranked} - {""}
        if not firsts & squares and (len(firsts) < 2 or all(_BATCH_NAME.fullmatch(word) for word in firsts)):
            yield _Candidate(along_first, tolerance=LENIENT)
    elif len(sizes) == 1 and 0 not in sizes:
        (size,) = sizes
        yield _Candidate(along_first, size, tolerance=None if size == 1 else LENIENT)
    elif sizes == {None, 1}:
        yield _Candidate(along_first, 1, by_data=True)


def _squares(names: Mapping[str, list[str]]) -> set[str]:
    """Names of sizes of squares, such as adjacency matrices: these count no samples."""
    return {word for own in names.values() for word in own if word and own.count(word) > 1}


def _guessed(inputs: Mapping[str, TensorType], names: Mapping[str, list[str]]) -> Iterator[_Candidate]:
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
            yield _Candidate(dict(zip(inputs, axes, strict=True)), tolerance=STRICT)


def _fits(candidate: _Candidate, inputs: Mapping[str, TensorType], data: Mapping[str, NDArray[Any]]) -> bool:
    """Whether data have the layout of a candidate; images may have one of their own."""
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


def _sharing(candidate: _Candidate, data: Mapping[str, NDArray[Any]]) -> _Candidate:
    """The layout in which all samples share the inputs that the data hold once."""
    axes = {
        name: None if axis is not None and name in data and data[name].shape[axis : axis + 1] == (1,) else axis
        for name, axis in candidate.axes.items()
    }
    return _Candidate(axes, tolerance=STRICT)


# --- sizes ---------------------------------------------------------------------------------------


def _shapes_tried(
    candidate: _Candidate,
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


# --- what onnxruntime says -----------------------------------------------------------------------


def _search(
    session: ort.InferenceSession,
    attempts: Sequence[_Attempt],
    dtypes: Mapping[str, str],
    draws: Mapping[str, NDArray[Any]],
) -> list[Any] | None:
    """Number of the first attempt that holds, of its shapes, the samples of a run, and the axes of outputs."""
    for number, attempt in enumerate(attempts):
        for rung, shapes in enumerate(attempt.shapes):
            trial = _Trial(session, attempt.candidate, shapes, dtypes, draws)
            one = trial.run(trial.size or 1) if trial.is_small else None
            if one is None:
                continue
            axes = trial.judge(one)
            if axes is not None:
                return [number, rung, trial.size, axes]
            break
    return None


class _Trial:
    """Runs of a model at some sizes."""

    def __init__(
        self,
        session: ort.InferenceSession,
        candidate: _Candidate,
        shapes: Shapes,
        dtypes: Mapping[str, str],
        draws: Mapping[str, NDArray[Any]],
    ) -> None:
        self.session, self.candidate, self.shapes, self.dtypes, self.draws = session, candidate, shapes, dtypes, draws
        self.names = [value.name for value in session.get_outputs()]
        self.rng = np.random.default_rng(0)
        self.size = 1 if candidate.whole else candidate.size

    @property
    def is_small(self) -> bool:
        """Whether the inputs of a run hold few enough values to be tried."""
        values = [math.prod(SAMPLES if size is None else size for size in shape) for shape in self.shapes.values()]
        return sum(values) <= MOST_VALUES

    def feeds(self, samples: int) -> dict[str, NDArray[Any]]:
        """Inputs with so many samples, of the user's values if there are any."""
        return {
            name: self._values(name, tuple(samples if size is None else size for size in shape))
            for name, shape in self.shapes.items()
        }

    def _values(self, name: str, shape: tuple[int, ...], *, in_order: bool = True) -> NDArray[Any]:
        dtype, own = np.dtype(self.dtypes[name]), self.draws.get(name)
        if own is not None and own.size:
            return (np.resize(own, shape) if in_order else self.rng.choice(own, shape)).astype(dtype)
        drawn = self.rng.standard_normal(shape) if dtype.kind == "f" else self.rng.integers(0, 2, shape)
        return np.asarray(drawn).astype(dtype)

    def run(self, samples: int, feeds: Mapping[str, NDArray[Any]] | None = None) -> dict[str, NDArray[Any]] | None:
        """Outputs that are arrays; None if the model does not run."""
        try:
            results = self.session.run(self.names, dict(self.feeds(samples) if feeds is None else feeds))
        except Exception:  # onnxruntime's exceptions have no common base class
            return None
        return {name: each for name, each in zip(self.names, results, strict=True) if isinstance(each, np.ndarray)}

    def judge(self, one: Mapping[str, NDArray[Any]]) -> dict[str, int | None] | None:
        """Axes of the outputs along which the samples lie, given those of one run; None if they are no samples."""
        if self.candidate.whole:
            return {}
        if self.size is not None:
            return self._axes(_OutputAxes.of_size(one, self.size), self.size)
        many = self.run(SAMPLES)
        if many is not None:
            return self._axes(_OutputAxes.growing(one, many), SAMPLES)
        if self.candidate.tolerance == STRICT:
            return None
        # An open batch is declared, but only one sample runs.
        self.size = 1
        return _OutputAxes.of_size(one, 1).first

    def _axes(self, axes: _OutputAxes, samples: int) -> dict[str, int | None] | None:
        tolerance = self.candidate.tolerance
        if tolerance is None or samples < 2:
            return axes.first
        base = self.feeds(samples)
        before, again = self.run(samples, base), self.run(samples, base)
        if before is None or again is None:
            return None
        if not all(np.array_equal(old, again[name], old.dtype.kind == "f") for name, old in before.items()):
            return axes.first if tolerance == LENIENT else None  # it draws random numbers
        # Whole numbers may be places of other samples, which a single replacement may not meet.
        rounds = 4 if any(np.dtype(dtype).kind in "iu" for dtype in self.dtypes.values()) else 1
        for sample in (0, samples - 1) * rounds:
            after = self.run(samples, self._replaced(base, sample, samples))
            if after is None:
                return None
            axes = axes.left_alone(before, after, sample, samples, tolerance)
        return axes.chosen(tolerance)

    def _replaced(self, feeds: Mapping[str, NDArray[Any]], sample: int, samples: int) -> dict[str, NDArray[Any]]:
        """Inputs with other values in one sample."""
        changed = dict(feeds)
        for name, axis in self.candidate.axes.items():
            if axis is None:
                continue
            first = np.moveaxis(np.array(feeds[name]), axis, 0)
            first[sample] = self._values(name, first.shape[1:], in_order=False)
            changed[name] = np.ascontiguousarray(np.moveaxis(first, 0, axis))
        return changed


@dataclass(frozen=True)
class _OutputAxes:
    """Axes along which samples may lie, by output.

    ``possible`` are those whose size says so; where it says nothing, ``otherwise`` is taken. ``constant`` are
    outputs that a replaced sample has left alone as a whole.
    """

    possible: Mapping[str, list[int]]
    otherwise: Mapping[str, int | None]
    proposed: frozenset[str]
    constant: frozenset[str]

    @classmethod
    def of(cls, possible: Mapping[str, list[int]], otherwise: Mapping[str, int | None]) -> _OutputAxes:
        """Before anything was tested."""
        return cls(possible, otherwise, frozenset(name for name, axes in possible.items() if axes), frozenset(possible))

    @classmethod
    def growing(cls, one: Mapping[str, NDArray[Any]], many: Mapping[str, NDArray[Any]]) -> _OutputAxes:
        """Axes that grow with the samples; a size that the values decide is that of axis 0."""
        possible, otherwise = dict[str, list[int]](), dict[str, int | None]()
        for name in one:
            small, large = one[name].shape, many[name].shape
            places = [] if len(small) != len(large) else range(len(small))
            possible[name] = [axis for axis in places if large[axis] == SAMPLES * small[axis] > 0]
            otherwise[name] = None if small and small == large and one[name].size else 0
        return cls.of(possible, otherwise)

    @classmethod
    def of_size(cls, outputs: Mapping[str, NDArray[Any]], size: int) -> _OutputAxes:
        """Axes of a fixed batch: those of its size, then multiples of it."""
        possible = {
            name: sorted(
                (axis for axis, count in enumerate(array.shape) if count and count % size == 0),
                key=lambda axis, shape=array.shape: (shape[axis] != size, axis),  # type: ignore[misc]
            )
            for name, array in outputs.items()
        }
        return cls.of(possible, dict.fromkeys(outputs, 0))

    @property
    def first(self) -> dict[str, int | None]:
        """The first possible axis of each output."""
        return {name: axes[0] if axes else self.otherwise[name] for name, axes in self.possible.items()}

    def left_alone(
        self,
        before: Mapping[str, NDArray[Any]],
        after: Mapping[str, NDArray[Any]],
        sample: int,
        samples: int,
        tolerance: float,
    ) -> _OutputAxes:
        """Without axes along which the replaced sample has changed what belongs to others."""
        possible, constant = dict(self.possible), set(self.constant)
        for name, axes in self.possible.items():
            if before[name].shape != after[name].shape or before[name].dtype.kind not in "biuf":
                continue
            old, new = (np.nan_to_num(each[name].astype(np.float64)) for each in (before, after))
            change, nothing = np.abs(old - new), 1e-6 * float(np.abs(old).max(initial=0))
            if float(change.max(initial=0)) > nothing:
                constant.discard(name)
            possible[name] = [
                axis for axis in axes if _change_of_others(change, axis, sample, samples, nothing) <= tolerance
            ]
        return replace(self, possible=possible, constant=frozenset(constant))

    def chosen(self, tolerance: float) -> dict[str, int | None] | None:
        """The axes, if what was tested allows for samples; where no output is an array, nothing speaks against them."""
        if not self.possible:
            return {}
        mixed = any(not self.possible[name] for name in self.proposed)
        untouched = tolerance == LENIENT or all(self.possible[name] or name in self.constant for name in self.possible)
        return self.first if self.proposed and not mixed and untouched else None


def _change_of_others(change: NDArray[np.float64], axis: int, sample: int, samples: int, nothing: float) -> float:
    """Largest change of other samples' values as a share of that of the sample's own; 0 if there is next to none."""
    of_sample = np.moveaxis(change, axis, 0).reshape(samples, -1).max(axis=1)
    others = float(np.delete(of_sample, sample).max())
    return 0.0 if others <= nothing else others / max(float(of_sample[sample]), nothing)
