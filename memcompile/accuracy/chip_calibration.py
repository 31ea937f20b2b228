"""Calibration of one emulated chip on images without labels, as any owner of a chip does it before using it.

Each output line gets a digital gain and offset (:mod:`memcompile.runtime.training.recalibrate`). Some of the images
are held back, and a chip whose error they do not see fall keeps its plain transfer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from memcompile.accuracy.held_back import HeldBackImages, Outcome, StepRecord, agrees, record, split
from memcompile.blas import one_blas_thread
from memcompile.hardware.conditions import NEW, Conditions
from memcompile.ir.graph import fixed_batch
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.program.program import Program
from memcompile.progress.phases import FIT_LINES
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.recalibrate import Reference, recalibrate

FIT_SHARE = 3 / 4
"""Share of the images that lines are fitted to; the others are held back."""
CONVERSIONS = 2_500_000_000
"""Converter outputs that the images of a calibration may take together: seconds."""
LEAST_IMAGES = 8
# Image numbers key the read noise; neither fits nor tuning see the noise that scoring sees.
FIRST_IMAGE = 1 << 30


@dataclass(frozen=True, eq=False)
class CalibratedChip:
    """One chip with the corrections of its lines, and what held-back images say of them."""

    emulator: Emulator
    step: StepRecord

    @property
    def program(self) -> Program:
        """The program with the corrections."""
        return self.emulator.program


class Calibrator:
    """Calibrates chips of one program on the same images.

    Parameters
    ----------
    inputs
        Images without labels, [N, ...] per input. As many of the first as can be afforded are used.
    """

    def __init__(self, program: Program, inputs: Mapping[str, NDArray[Any]]) -> None:
        self.program = program
        batch = fixed_batch(program.inputs.values()) or 1
        images = {name: array[: affordable_images(program)] for name, array in inputs.items()}
        count = len(next(iter(images.values())))
        fitted = max(round(count * FIT_SHARE) // batch, 1) * batch
        (self.inputs, _), held_back = split(images, None, fitted, batch)
        self.images = fitted
        ideal = Emulator.ideal(program)
        self.held_back = HeldBackImages(ideal, *held_back)
        self._reference = Reference(ideal)

    def chip(
        self,
        seed: int,
        progress: ProgressBar = no_progress,
        written: Program | None = None,
        conditions: Conditions = NEW,
    ) -> CalibratedChip:
        """Calibrate the chip of a seed under some conditions.

        ``written`` is the program with its cells, if they were written already.
        """
        chip = Emulator(written or self.program, seed, **vars(conditions))
        before = self.held_back.outcome(chip)
        chip, _, step = fit_lines(
            "calibrate", chip, before, self.held_back, self.inputs, reference=self._reference, progress=progress
        )
        return CalibratedChip(chip, step)


@one_blas_thread()
def fit_lines(
    step: str,
    chip: Emulator,
    before: Outcome,
    held_back: HeldBackImages,
    inputs: Mapping[str, NDArray[Any]],
    *,
    reference: Reference | None = None,
    undo: bool = True,
    progress: ProgressBar = no_progress,
) -> tuple[Emulator, Outcome, StepRecord]:
    """Fit all lines of a chip, and keep the result if held-back images say that it helped, or without ``undo``.

    ``before`` is the chip's outcome so far; ``reference`` is what lines are fitted to, ideal devices when None.
    """
    with progress(FIT_LINES, len(chip.program.layers)) as advance:
        fitted = recalibrate(chip, inputs, first_image=FIRST_IMAGE, reference=reference, advance=advance)
    after = held_back.outcome(fitted)
    if agrees(before, after) or not undo:
        return fitted, after, record(step, before, after)
    return chip, before, record(step, before, after, before)


def affordable_images(program: Program) -> int:
    """Images that a calibration can run."""
    return CONVERSIONS // max(program.conversions_per_image, 1)


def obstacle(program: Program, images: int, generated: bool) -> str:
    """Reason why chips of a program are not calibrated, empty if there is none.

    Parameters
    ----------
    images
        Number of images to calibrate on.
    generated
        They are made up.
    """
    if not program.layers or program.target.cell.continuous:
        return "nothing of the program has errors"
    if program.chip is not None:
        return "the program is on a chip that was calibrated when it was tuned"
    if program.placement.segments:
        return "its arrays are written anew for each batch, with other errors each time"
    if any(axis != 0 for axis in program.batching.inputs.values()):
        return "samples do not lie along axis 0 of each input"
    if generated:
        return "there are no data; give some with --data"
    if min(images, affordable_images(program)) < LEAST_IMAGES:
        return f"that takes {LEAST_IMAGES} images that can be run in seconds"
    return ""
