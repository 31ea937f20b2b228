"""Runs a network to find out whether samples of a batch lie along the proposed axes, and where in its outputs.

A few samples together show the axes that grow. A sample that runs alone must give what it gives among the others, and
replacing one sample must leave the results of all others unchanged. Where ranges are quantised over the batch, it is
replaced by a copy of another one, which leaves them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

SAMPLES = 3
"""Samples of the runs that show which axes grow."""
MOST_VALUES = 1 << 26
"""Values of all inputs of a run that is tried."""
LENIENT, STRICT = 0.1, 0.02
"""Largest change of other samples' results when one sample is replaced, as a share of the change of its own, and of a
sample's results when it runs alone, as a share of the largest. A range that is quantised over the whole batch changes
all a little; where axis 0 may be taken for the batch that is allowed."""

QUIET = 1 / 16
"""Factor on floats in a further trial: a saturated softmax hides that a sample depends on the others."""

Shapes = Mapping[str, tuple[int | None, ...]]


@dataclass(frozen=True)
class Candidate:
    """Axes along which samples may lie; None for inputs that all samples share, for all if a run is one sample.

    ``size`` is the fixed number of samples, ``tolerance`` the largest change of other samples' results; None where
    names say that axis 0 is the batch, which only samples that run alone may disprove. ``by_data`` needs data of this
    layout.
    """

    axes: Mapping[str, int | None]
    size: int | None = None
    tolerance: float | None = None
    by_data: bool = False

    @property
    def whole(self) -> bool:
        """True if a run is one sample."""
        return all(axis is None for axis in self.axes.values())


@dataclass(frozen=True)
class Attempt:
    """A candidate with the shapes it is tried at, None along the batch.

    ``held`` are the samples that the data hold by the candidate.
    """

    candidate: Candidate
    shapes: tuple[Shapes, ...]
    held: int


def search(
    session: ort.InferenceSession,
    attempts: Sequence[Attempt],
    dtypes: Mapping[str, str],
    draws: Mapping[str, NDArray[Any]],
    at_once: bool,
    ranged: bool,
) -> list[Any] | None:
    """Find the layout that holds.

    A layout of which only one sample runs at a time is the last resort, and none if the data hold several samples by
    it and yet run all at once.

    Parameters
    ----------
    session
        The model.
    attempts
        Layouts to try; in the last one a run is one sample.
    dtypes
        Types of the inputs.
    draws
        Values that inputs are made of, by input; normal ones where there are none.
    at_once
        True if the data as they are can be tried as one run.
    ranged
        True if the model finds quantisation ranges over a whole batch.

    Returns
    -------
    list or None
        Number of the first attempt that holds, of its shapes, the samples of a run, and the axes of outputs.
    """
    spare, several = None, False
    for number, attempt in enumerate(attempts):
        if attempt.candidate.whole and spare and not (at_once and several):
            return spare
        for rung, shapes in enumerate(attempt.shapes):
            trial = _Trial(session, attempt.candidate, shapes, dtypes, draws, ranged)
            one = trial.run(trial.feeds(trial.size or 1)) if trial.is_small else None
            if one is None:
                continue
            axes = trial.judge(one)
            answer = None if axes is None else [number, rung, trial.size, axes]
            if answer and (attempt.candidate.whole or trial.size == attempt.candidate.size):
                return answer
            if answer and not spare:
                spare, several = answer, attempt.held > 1
            break
    return spare


class _Trial:
    """Runs of a model at some sizes."""

    def __init__(
        self,
        session: ort.InferenceSession,
        candidate: Candidate,
        shapes: Shapes,
        dtypes: Mapping[str, str],
        draws: Mapping[str, NDArray[Any]],
        ranged: bool,
    ) -> None:
        self.session, self.candidate, self.shapes, self.dtypes, self.draws = session, candidate, shapes, dtypes, draws
        self.ranged = ranged
        self.names = [value.name for value in session.get_outputs()]
        self.rng = np.random.default_rng(0)
        self.size = 1 if candidate.whole else candidate.size

    @property
    def is_small(self) -> bool:
        """True if the inputs of a run hold few enough values to be tried."""
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

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]] | None:
        """Outputs that are arrays; None if the model does not run."""
        try:
            results = self.session.run(self.names, dict(feeds))
        except Exception:  # onnxruntime's exceptions have no common base class
            return None
        return {name: each for name, each in zip(self.names, results, strict=True) if isinstance(each, np.ndarray)}

    def judge(self, one: Mapping[str, NDArray[Any]]) -> dict[str, int | None] | None:
        """Axes of the outputs along which the samples lie, given those of one run; None if they are no samples."""
        if self.candidate.whole:
            return {}
        samples = self.size or SAMPLES
        feeds = self.feeds(samples)
        outputs = self.run(feeds)
        if outputs is None and (self.size or self.candidate.tolerance == STRICT):
            return None
        if outputs is None:
            # An open batch is declared, but only one sample runs.
            self.size = 1
            return _OutputAxes.of_size(one, 1).first
        axes = _OutputAxes.of_size(one, samples) if self.size else _OutputAxes.growing(one, outputs)
        if samples < 2:
            return axes.first
        found = self._tested(axes, feeds, outputs, samples)
        again = outputs if found is not None else self.run(feeds)
        random = again is None or not all(
            np.array_equal(old, again[name], old.dtype.kind == "f") for name, old in outputs.items()
        )
        return axes.first if random and self.candidate.tolerance != STRICT else found

    def _tested(
        self, axes: _OutputAxes, feeds: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], samples: int
    ) -> dict[str, int | None] | None:
        """Axes of outputs along which samples are independent."""
        tolerance = self.candidate.tolerance
        if not self.size:
            runs = (self.run(self._alone(feeds, sample)) for sample in range(samples))
            alone = [each for each in runs if each is not None]
            if len(alone) < samples:
                return None
            # Where ranges are quantised over the batch, names count for more than numbers.
            trusted = math.inf if self.ranged else LENIENT
            axes = axes.joined(outputs, alone, trusted if tolerance is None else tolerance)
        if tolerance is None:
            return None if axes.mixed else axes.first
        # Whole numbers may be places of other samples, which a single replacement may not meet.
        rounds = 4 if any(np.dtype(dtype).kind in "iu" for dtype in self.dtypes.values()) else 1
        for share in (1.0, QUIET):
            base = {name: _scaled(array, share) for name, array in feeds.items()}
            before = self.run(base)
            for sample in (0, samples - 1) * rounds:
                if self.ranged and samples > 2:
                    base, changed = self._of_two(base, sample, share)
                    before = self.run(base)
                else:
                    changed = self._replaced(base, sample, share)
                after = self.run(changed)
                if before is None or after is None:
                    return None
                axes = axes.left_alone(before, after, sample, samples, tolerance)
        return axes.chosen(tolerance)

    def _alone(self, feeds: Mapping[str, NDArray[Any]], sample: int) -> dict[str, NDArray[Any]]:
        """Inputs of one of the samples."""
        return {
            name: array if axis is None else np.take(array, [sample], axis)
            for (name, array), axis in zip(feeds.items(), self.candidate.axes.values(), strict=True)
        }

    def _of_two(
        self, feeds: Mapping[str, NDArray[Any]], sample: int, share: float
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Inputs of two samples again and again, and the same with one of them in the place of the other.

        Ranges over the batch stay as they are, since both samples are there before and after.
        """
        before, after = dict(feeds), dict(feeds)
        for name, axis in self.candidate.axes.items():
            if axis is None:
                continue
            first = np.moveaxis(np.array(feeds[name]), axis, 0)
            one, other = (_scaled(self._values(name, first.shape[1:], in_order=False), share) for _ in range(2))
            first[:] = other
            first[[sample, sample - 1]] = one
            before[name] = np.ascontiguousarray(np.moveaxis(first, 0, axis))
            first[sample] = other
            after[name] = np.ascontiguousarray(np.moveaxis(first, 0, axis))
        return before, after

    def _replaced(self, feeds: Mapping[str, NDArray[Any]], sample: int, share: float) -> dict[str, NDArray[Any]]:
        """Inputs with other values in one sample."""
        changed = dict(feeds)
        for name, axis in self.candidate.axes.items():
            if axis is None:
                continue
            first = np.moveaxis(np.array(feeds[name]), axis, 0)
            first[sample] = _scaled(self._values(name, first.shape[1:], in_order=False), share)
            changed[name] = np.ascontiguousarray(np.moveaxis(first, 0, axis))
        return changed


@dataclass(frozen=True)
class _OutputAxes:
    """Axes along which samples may lie, by output.

    ``possible`` are those that sizes allow; where sizes tell nothing, ``otherwise`` is taken. ``constant`` are outputs
    that a replaced sample has left unchanged as a whole. ``mixed`` is True if an output is not made of the results of
    samples that run alone.
    """

    possible: Mapping[str, list[int]]
    otherwise: Mapping[str, int | None]
    proposed: frozenset[str]
    constant: frozenset[str]
    mixed: bool = False

    @classmethod
    def of(cls, possible: Mapping[str, list[int]], otherwise: Mapping[str, int | None]) -> _OutputAxes:
        """Axes before any test."""
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

    def joined(
        self, together: Mapping[str, NDArray[Any]], alone: Sequence[Mapping[str, NDArray[Any]]], tolerance: float
    ) -> _OutputAxes:
        """The same without axes along which results of samples that run alone do not make up those of all together."""
        possible, mixed = dict[str, list[int]](), self.mixed
        for name, axes in self.possible.items():
            whole, parts = together[name], [each[name] for each in alone]
            possible[name] = [axis for axis in axes if _is_made_of(whole, parts, axis, tolerance)]
            if axes:
                mixed |= not possible[name]
            elif self.otherwise[name] is None:
                mixed |= not all(_is_alike(whole, part, tolerance) for part in parts)
            else:
                mixed |= whole.ndim > 0 and not _is_made_of(whole, parts, 0, math.inf)
        return replace(self, possible=possible, mixed=mixed)

    def left_alone(
        self,
        before: Mapping[str, NDArray[Any]],
        after: Mapping[str, NDArray[Any]],
        sample: int,
        samples: int,
        tolerance: float,
    ) -> _OutputAxes:
        """The same without axes along which the replaced sample has changed the results of others."""
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
        """The axes, if the tests allow samples along them; where no output is an array, nothing rules them out."""
        if not self.possible:
            return {}
        untouched = tolerance == LENIENT or all(self.possible[name] or name in self.constant for name in self.possible)
        mixed = self.mixed or any(not self.possible[name] for name in self.proposed)
        return self.first if self.proposed and not mixed and untouched else None


def _scaled(array: NDArray[Any], share: float) -> NDArray[Any]:
    """Scaled floats; integers as they are."""
    return (array * share).astype(array.dtype) if array.dtype.kind == "f" else array


def _change_of_others(change: NDArray[np.float64], axis: int, sample: int, samples: int, nothing: float) -> float:
    """Largest change of other samples' values as a share of that of the sample's own; 0 if there is next to none."""
    of_sample = np.moveaxis(change, axis, 0).reshape(samples, -1).max(axis=1)
    others = float(np.delete(of_sample, sample).max())
    return 0.0 if others <= nothing else others / max(float(of_sample[sample]), nothing)


def _is_made_of(whole: NDArray[Any], parts: Sequence[NDArray[Any]], axis: int, tolerance: float) -> bool:
    """Return True if a result is its parts joined along an axis."""
    if any(part.ndim != whole.ndim for part in parts):
        return False
    rest = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}
    return len(rest) == 1 and _is_alike(whole, np.concatenate(parts, axis), tolerance)


def _is_alike(whole: NDArray[Any], other: NDArray[Any], tolerance: float) -> bool:
    """Return True if two results are the same up to a share of the largest number."""
    if whole.shape != other.shape or whole.dtype.kind not in "biuf":
        return whole.shape == other.shape
    old, new = (np.nan_to_num(each.astype(np.float64)) for each in (whole, other))
    return float(np.abs(old - new).max(initial=0)) <= tolerance * max(float(np.abs(old).max(initial=0)), 1e-30)
