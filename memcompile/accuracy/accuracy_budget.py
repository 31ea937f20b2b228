"""Mapping under an accuracy budget: slices and windows layer by layer, as cheap as a predicted loss allows.

A layer with one more slice has less noise and takes more cells; slices that share weights average noise of reads and
converters, others leave less of errors of programming; without parallel windows a layer has less noise and takes more
steps. Calibrating the range of converters and writing the worst pairs again takes neither, so that this is done where
the mapping is cheaper with it. Noise of layers adds up at the network's output (:mod:`memcompile.accuracy.loss_model`),
so that the cheapest choice within a budget is a multiple-choice knapsack: one option a layer, the sum of noise below a
limit, the sum of costs least. The network is mapped with the choice, the loss is predicted anew with the windows that
the search of the mapping found, and then measured on emulated, calibrated chips, one after the other until the answer
is clear. Where it is more than the budget, the limit is tightened and all is done again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.budget_search import BudgetSearch
from memcompile.accuracy.candidates import Candidates, Plans, predictor_of
from memcompile.accuracy.choice_bound import ChoiceBound
from memcompile.accuracy.labelled_samples import labelled
from memcompile.accuracy.loss_model import LossModel
from memcompile.accuracy.loss_prediction import allowed_loss
from memcompile.accuracy.measured_losses import CLEAR_ERRORS, measured_losses
from memcompile.data.loader import Dataset
from memcompile.hardware.target import Target
from memcompile.ir.pass_manager import ProgressBar, no_progress

Cost = tuple[int, int]
"""Chips and steps."""
REPAIRS = 3
"""Mappings that are tried after the first one."""
WORTHWHILE = 0.7
"""Share of a budget below which a measured loss makes it worth looking for a cheaper mapping."""


@dataclass(frozen=True, eq=False)
class BudgetResult:
    """Plans of all layers within a budget of ``points``, and what they were predicted and measured to lose.

    Losses are those against the float network. ``measured`` is that of each emulated chip on calibration samples;
    ``steps_without`` the interval of the mapping that asks nothing of accuracy, and ``shared_loss`` what any mapping is
    predicted to lose, such as by rounded inputs. ``held`` says whether the mean of the chips is within the budget.
    ``target`` says how often cells are written, and has converters with calibrated ranges where the budget chose that,
    which ``range_calibrated`` says; ``model`` is what was measured of the network. ``bound`` is what no choice that is
    predicted within the budget goes below; None where the mapping costs no more than one that asks nothing of accuracy,
    whose own bounds hold for all of them.
    """

    points: float
    plans: Plans
    target: Target
    predicted: float
    measured: NDArray[np.float64]
    steps_without: int
    shared_loss: float
    held: bool
    model: LossModel
    range_calibrated: bool
    bound: ChoiceBound | None = None


def fit_budget(
    candidates: Candidates,
    dataset: Dataset,
    points: float,
    *,
    chips: int | None = None,
    progress: ProgressBar = no_progress,
) -> BudgetResult:
    """Choose plans of layers that lose few points; where none do, the cheapest not clearly worse than the best.

    Where most of the budget is lost with any mapping, a mapping may lose half of it besides.

    Parameters
    ----------
    dataset
        Samples; those for calibration predict, calibrate and measure.
    points
        Budget of the loss against the float network, in points of accuracy.
    chips
        Chips that the mapping may take; as few as hold the budget when None.

    Raises
    ------
    UsageError
        The loss of the network cannot be predicted, or its chips not emulated in seconds.
    CapacityError
        One replica of each layer with the fewest slices does not fit the chips.
    """
    first = candidates.first
    free = first.placement.chips, first.placement.initiation_interval_steps
    samples = labelled(first, dataset, candidates.reference)
    predictor = predictor_of(candidates, first, dataset, samples, progress)
    search = BudgetSearch(candidates, predictor, chips)
    shared = predictor.shared_loss
    allowed = allowed_loss(points, shared)
    steps, tried = free[1], list[tuple[Cost, BudgetResult]]()
    cheapest: Cost | None = None
    for _ in range(1 + REPAIRS):
        found = search.within(allowed, [(item.plans, item.target) for _, item in tried])
        if found is None:
            break
        plans, program, predicted = found
        cost = program.placement.chips, program.placement.initiation_interval_steps
        if cheapest is not None and cost >= cheapest:
            break
        measured = measured_losses(program, samples, candidates.reference, predictor.model, allowed, progress)
        lost = float(measured.mean())
        held = lost <= points
        ranged = program.target.adc.range != first.target.adc.range
        result = BudgetResult(
            points, plans, program.target, predicted, measured, steps, shared, held, predictor.model, ranged
        )
        tried.append((cost, result))
        if lost <= allowed:
            cheapest = cost
        if not plans or (lost <= allowed and (cost <= free or lost >= allowed * WORTHWHILE)):
            break
        search.learn(plans, program.target, predicted, lost)
    within = [item for item in tried if item[1].measured.mean() <= allowed]
    best = cheapest_of_the_best([(own, item.measured) for own, item in tried])
    cost, result = within[-1] if within else tried[best]
    if cost <= free:
        return result
    return replace(result, bound=search.bound(result.plans, result.target, allowed, cost))


def cheapest_of_the_best(tried: Sequence[tuple[Cost, NDArray[np.float64]]]) -> int:
    """Number of the cheapest mapping that is not clearly worse than the best, by costs and losses of their chips.

    All chips see the same samples, so that the scatter over chips is what makes a difference unsure.
    """
    means = [float(losses.mean()) for _, losses in tried]
    errors = [float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0 for _, losses in tried]
    best = int(np.argmin(means))
    alike = [
        number
        for number in range(len(tried))
        if means[number] - means[best] <= CLEAR_ERRORS * math.hypot(errors[number], errors[best])
    ]
    return min(alike, key=lambda number: (tried[number][0], means[number]))
