"""Test whether a step made a chip better, on images that it was not fitted to.

The same images, with the same read noise, run before and after. Where the classes of enough images change, these
decide; otherwise the error of the images does, if its fall is significant and no fewer images are right. Without labels
the right classes are those that ideal devices see, and the error is that of the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.hybrid_training import probabilities

LEAST_IMAGES = 2
"""Images held back below which none can show that a chip became better."""
MOST_IMAGES = 400
"""Images held back at most."""
SHARE = 5
"""One in this many images is held back where none are left over."""
# Image numbers key the read noise; neither tuning nor scoring sees that of held-back images.
FIRST_IMAGE = 1 << 31
CLASS_EVIDENCE = 1.5
"""Standard deviations by which images gained must outnumber images lost."""
ERROR_EVIDENCE = 2.0
"""Standard deviations of its mean by which the error must have fallen where classes do not decide."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of a chip on each held-back image: True if its class is right, and an error, both [images]."""

    right: NDArray[np.bool_]
    error: NDArray[np.float64]

    @property
    def share(self) -> float:
        """Share of right answers; 0 where outputs are no classes."""
        return float(self.right.mean()) if len(self.right) else 0.0


@dataclass(frozen=True)
class StepRecord:
    """Result of one step: shares of right answers before it and at its end, and whether it was kept.

    ``images`` were held back, of which ``gained`` were right only with the step, and ``lost`` only without it.
    """

    step: str
    kept: bool
    images: int
    before: float
    after: float
    gained: int
    lost: int


def better(before: Outcome, after: Outcome) -> bool:
    """Return True if the same images say that a chip has become better."""
    gained, lost = _changed(before, after)
    if gained != lost and abs(gained - lost) >= CLASS_EVIDENCE * math.sqrt(gained + lost):
        return gained > lost
    fall = before.error - after.error
    if gained < lost or len(fall) < 2:
        return False
    return float(fall.mean()) > ERROR_EVIDENCE * float(fall.std(ddof=1)) / math.sqrt(len(fall))


def agrees(before: Outcome, after: Outcome) -> bool:
    """Return True if images agree with a correction that is expected to help: their error fell on the mean.

    Classes have a veto, if as many are lost as :func:`better` asks for.
    """
    return not loses_classes(before, after) and len(before.error) > 0 and bool(after.error.mean() < before.error.mean())


def harms(before: Outcome, after: Outcome) -> bool:
    """Return True if images say that a correction of measured errors did harm: they lose classes.

    Where outputs are no classes, their error has to rise by as much as :func:`better` asks for.
    """
    if before.right.any() or after.right.any():
        return loses_classes(before, after)
    return better(after, before)


def loses_classes(before: Outcome, after: Outcome) -> bool:
    """Return True if more images are lost than gained, by as much as :func:`better` asks for."""
    gained, lost = _changed(before, after)
    return lost > gained and lost - gained >= CLASS_EVIDENCE * math.sqrt(gained + lost)


def record(step: str, before: Outcome, after: Outcome, end: Outcome | None = None) -> StepRecord:
    """The record of a step that led from one outcome to another; ``end`` is that after it was undone."""
    gained, lost = _changed(before, after)
    return StepRecord(step, end is None, len(before.right), before.share, (end or after).share, gained, lost)


def _changed(before: Outcome, after: Outcome) -> tuple[int, int]:
    """Images gained and images lost."""
    return int((after.right & ~before.right).sum()), int((before.right & ~after.right).sum())


class HeldBackImages:
    """Images that no step is fitted to.

    Parameters
    ----------
    reference
        Emulator whose outputs count as right where there are no labels, such as ideal devices.
    inputs
        [N, ...] per program input.
    labels
        Their classes, int64 [N]; those that the reference sees when None, or when an output has no score for one.
    """

    def __init__(
        self, reference: Emulator, inputs: Mapping[str, NDArray[Any]], labels: NDArray[np.int64] | None
    ) -> None:
        self._inputs = dict(inputs)
        self.count = len(next(iter(inputs.values()), ()))
        outputs = reference.run(inputs, first_image=FIRST_IMAGE) if self.count else {}
        self._wanted = {
            name: array
            for name, array in outputs.items()
            if isinstance(array, np.ndarray) and array.dtype.kind in "biuf"
        }
        self._scores = next((name for name, array in self._wanted.items() if _holds_scores(array, self.count)), None)
        self._labels = None
        if self._scores is None:
            return
        seen = self._wanted[self._scores].reshape(self.count, -1)
        fits = labels is not None and labels.ndim == 1 and labels.min() >= 0 and labels.max() < seen.shape[1]
        self._labels, self.classes = (labels if fits else None), (labels if fits else seen.argmax(axis=1))

    def outcome(self, chip: Emulator) -> Outcome:
        """Result of a chip on the images."""
        if not self.count:
            return Outcome(np.zeros(0, np.bool_), np.zeros(0))
        outputs = chip.run(self._inputs, first_image=FIRST_IMAGE)
        error = np.zeros(self.count)
        for name, wanted in self._wanted.items():
            error += _error_of_images(wanted, outputs[name], self.count)
        if self._scores is None:
            return Outcome(np.zeros(self.count, np.bool_), error)
        scores = outputs[self._scores].reshape(self.count, -1)
        if self._labels is not None:
            right = probabilities(scores)[np.arange(self.count), self._labels]
            error = -np.log(np.maximum(right, 1e-30))
        return Outcome(scores.argmax(axis=1) == self.classes, error)


def _holds_scores(array: NDArray[Any], images: int) -> bool:
    """Return True if an output is one row of scores an image."""
    return array.ndim >= 2 and array.shape[0] == images and math.prod(array.shape[1:]) > 1


def _error_of_images(wanted: NDArray[Any], got: NDArray[Any], images: int) -> NDArray[np.float64]:
    """Squared error of an output in each image, as a share of the output's power; all in the first without images."""
    if got.shape != wanted.shape:
        return np.zeros(images)
    difference, power = got.astype(np.float64) - wanted, float(np.square(wanted.astype(np.float64)).sum())
    rows = images if wanted.ndim and wanted.shape[0] == images else 1
    error = np.zeros(images)
    error[:rows] = np.square(difference).reshape(rows, -1).sum(axis=1) / (power or 1.0)
    return error


def split(
    inputs: Mapping[str, NDArray[Any]], labels: NDArray[np.int64] | None, used: int, batch: int = 1
) -> tuple[tuple[Mapping[str, NDArray[Any]], NDArray[np.int64] | None], ...]:
    """Images to fit with, and images held back: those after the first ``used``, or else the last of these.

    Whole batches are held back where the network takes no other.
    """
    count = len(next(iter(inputs.values())))
    held = min(MOST_IMAGES, count - used if used < count else count // SHARE) // batch * batch
    cut = used if used < count else count - held

    def part(begin: int, end: int) -> tuple[Mapping[str, NDArray[Any]], NDArray[np.int64] | None]:
        some = {name: array[begin:end] for name, array in inputs.items()}
        return some, None if labels is None else labels[begin:end]

    return part(0, cut), part(cut, cut + held)
