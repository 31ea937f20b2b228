"""Emulated chips of one program: written, calibrated where that is possible, and scored on samples with labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.chip_calibration import Calibrator, obstacle
from memcompile.accuracy.held_back import StepRecord
from memcompile.accuracy.scoring import class_names, score_samples
from memcompile.data.loader import Dataset
from memcompile.hardware.conditions import NEW, Conditions
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator


@dataclass(frozen=True, eq=False)
class EmulatedChip:
    """The chip of a seed: its program as its cells were written, and as it is used.

    ``emulator`` is the chip as it is used, under the conditions of its calibration. ``step`` says what held-back images
    say of its calibration, None where there was none.
    """

    seed: int
    written: Program
    emulator: Emulator
    step: StepRecord | None = None

    @property
    def used(self) -> Program:
        """The program with the corrections of the chip."""
        return self.emulator.program

    @property
    def transferred(self) -> Emulator:
        """The chip as its cells were written."""
        return self.emulator.calibrated(self.written.calibration)

    @property
    def calibrated(self) -> bool:
        """True if its lines are corrected."""
        return self.step is not None and self.step.kept


class EmulatedChips:
    """Chips of one program, all calibrated on the same samples.

    Parameters
    ----------
    dataset
        Its calibration samples are used, without labels.
    calibrate
        Calibrate chips where that is possible; otherwise they are used as their cells were written.

    Attributes
    ----------
    obstacle
        Reason why chips are not calibrated, empty if they are.
    images
        Number of samples that lines are fitted to; 0 where chips are not calibrated.
    """

    def __init__(self, program: Program, dataset: Dataset, *, calibrate: bool = True) -> None:
        self.program = program
        count = dataset.batching.count(dataset.calibration)
        self.obstacle = obstacle(program, count, dataset.generated) if calibrate else "it was not asked for"
        self._calibrator = None if self.obstacle else Calibrator(program, dataset.calibration)
        self.images = 0 if self._calibrator is None else self._calibrator.images

    def chip(
        self,
        seed: int,
        progress: ProgressBar = no_progress,
        written: Program | None = None,
        conditions: Conditions = NEW,
    ) -> EmulatedChip:
        """The chip of a seed, calibrated under some conditions.

        ``written`` is the program with its cells, if they were written already.
        """
        program = written or self.program
        if self._calibrator is None:
            return EmulatedChip(seed, program, Emulator(program, seed, **vars(conditions)))
        found = self._calibrator.chip(seed, progress, program, conditions)
        return EmulatedChip(seed, program, found.emulator, found.step)


def measured_accuracy(emulator: Emulator, dataset: Dataset, advance: Callable[[int], None] | None = None) -> float:
    """Share of right answers of an emulated chip on a data set.

    Parameters
    ----------
    advance
        Called with the number of samples done.

    Raises
    ------
    DataError
        The outputs name no classes, or labels are none of these.
    """
    outputs = emulator.run(dataset.as_given, progress=advance)
    return score_samples(outputs, dataset, class_names(emulator.program))


def spread(values: NDArray[np.float64]) -> float:
    """Standard deviation of a sample, such as figures of chips; 0 of a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
