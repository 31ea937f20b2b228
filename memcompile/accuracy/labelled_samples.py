"""Labelled samples that losses are predicted and measured on, and whether those of a network can be.

They are the calibration samples. Without labels, the classes that the float network sees stand for them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from memcompile.accuracy.chip_calibration import LEAST_IMAGES, affordable_images
from memcompile.accuracy.loss_model import can_predict
from memcompile.accuracy.loss_prediction import Reference
from memcompile.data.loader import Dataset
from memcompile.errors import UsageError
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator

LEAST_SAMPLES = 100
"""Samples for calibration below which a point of loss is less than one of them."""


def can_budget(program: Program, dataset: Dataset) -> bool:
    """Return True if the loss of a network can be predicted and measured."""
    if program.placement.segments:
        return False
    try:
        labelled(program, dataset, Emulator.ideal(program).run)
    except UsageError:
        return False
    return True


def labelled(program: Program, dataset: Dataset, reference: Reference) -> Dataset:
    """The calibration samples as samples to score, with the classes that a reference sees where none are known.

    Raises
    ------
    UsageError
        No loss of accuracy can be predicted for the network.
    """
    samples = replace(dataset, inputs=dataset.calibration, labels=dataset.calibration_labels)
    if dataset.generated:
        raise UsageError("an accuracy budget needs data: give some with --data, or --max-loss none")
    if samples.count < LEAST_SAMPLES:
        raise UsageError(
            f"an accuracy budget takes at least {LEAST_SAMPLES} samples, and the data hold {samples.count}; give more, "
            "or --max-loss none"
        )
    if not can_predict(program, samples):
        raise UsageError(
            "the loss of this network on this target cannot be predicted, because samples are coupled or do not lie "
            "along axis 0, or currents of its cells are no product; leave the budget out with --max-loss none"
        )
    if affordable_images(program) < LEAST_IMAGES:
        raise UsageError(
            "chips of this network cannot be emulated in seconds, so that its loss cannot be measured; leave the "
            "budget out with --max-loss none"
        )
    if samples.labels is not None:
        return samples
    outputs = reference(samples.inputs)
    scores = [value for value in outputs.values() if isinstance(value, np.ndarray) and value.ndim == 2]
    if len(outputs) != 1 or not scores or scores[0].shape[1] < 2:
        raise UsageError(
            "without labels a loss is counted in classes that change, and the network has no single output with a "
            "score for each class; leave the budget out with --max-loss none"
        )
    return replace(samples, labels=scores[0].argmax(axis=1).astype(np.int64))
