"""Losses of a mapping, measured on emulated, calibrated chips, one after the other until the answer is clear.

Samples alone hardly tell small losses apart, so that what the network's curve says of the noise of a chip counts, too.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.chip_calibration import LEAST_IMAGES, Calibrator
from memcompile.accuracy.loss_model import LossModel
from memcompile.accuracy.loss_prediction import Reference
from memcompile.accuracy.scoring import class_names, lost_share
from memcompile.data.loader import Dataset
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.noise.output_noise import output_noise
from memcompile.program.program import Program

FEWEST_CHIPS, MOST_CHIPS = 2, 4
"""Chips that a mapping is measured on."""
CLEAR_ERRORS = 1.64
"""Standard errors by which the measured mean is apart from the budget once the answer is clear: 95 % on one side."""
CURVE_ERROR, CURVE_POINTS = 0.25, 0.05
"""Standard error of a loss that is read from the network's curve: a share of it, and points."""
CHIP_SPREAD = 0.5
"""Standard deviation from chip to chip, by the mean loss, that two or three chips alike cannot disprove.

One chip in ten has a stuck cell where it costs most, and two in a row may well have.
"""
CONVERSIONS = 4_000_000_000
"""Converter outputs that the samples of one chip may take."""
CHIP_SEEDS = 1 << 40
"""First seed of the chips that choices are measured on: none that a report emulates."""


def measured_losses(
    program: Program,
    samples: Dataset,
    reference: Reference,
    model: LossModel,
    points: float,
    progress: ProgressBar = no_progress,
) -> NDArray[np.float64]:
    """Points that calibrated chips lose against a reference, chip by chip until it is clear whether they lose more.

    The loss of a chip is what its outputs say (:func:`~memcompile.accuracy.scoring.lost_share`), and what the network's
    curve says of the noise that they have. Few samples hardly tell a loss of half a point from one of a point, and a
    curve is right within a share of the loss; the result is the mean of both, each weighted by its certainty.

    Returns
    -------
    Points lost, [chips].

    Raises
    ------
    MemcompileError
        The program cannot run on the samples.
    """
    names = class_names(program)
    calibrator = Calibrator(program, samples.calibration)
    # Lines look better than they are on the samples that they are fitted to.
    samples = samples.after(calibrator.images)
    samples = samples.head(max(CONVERSIONS // max(program.conversions_per_image, 1), LEAST_IMAGES))
    clean = reference(samples.inputs)
    lost, read = list[tuple[float, float]](), list[float]()
    with progress("measuring the loss on chips", MOST_CHIPS) as advance:
        for seed in range(MOST_CHIPS):
            outputs = calibrator.chip(CHIP_SEEDS + seed).emulator.run(samples.inputs)
            lost.append(lost_share(clean, outputs, samples, names, model.wrong))
            read.append(model.loss_at(output_noise(program, clean, outputs, classes=True)))
            advance(1)
            counted = 100 * np.array(lost)
            losses, error = combined_losses(counted[:, 0], float(counted[:, 1].mean()), np.array(read))
            if len(losses) >= FEWEST_CHIPS and abs(float(losses.mean()) - points) > CLEAR_ERRORS * error:
                break
    return losses


def combined_losses(
    lost: NDArray[np.float64], of_samples: float, read: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Losses of chips from what samples and the curve say, in points [chips], and the standard error of the mean.

    All chips see the same samples, so that more of them hardly make what these say more certain: ``of_samples`` is the
    standard error of a chip.
    """
    spread = float(read.std(ddof=1)) if len(read) > 1 else float(read.mean())
    chips = max(spread, CHIP_SPREAD * float(read.mean())) / math.sqrt(len(read))
    of_curve = math.hypot(CURVE_ERROR * float(read.mean()), chips, CURVE_POINTS)
    share = of_curve**2 / (of_curve**2 + of_samples**2)
    return share * lost + (1 - share) * read, of_samples * of_curve / math.hypot(of_samples, of_curve)
