"""Front of mappings: each costs less than those with less predicted loss.

The choices are those of :mod:`memcompile.accuracy.accuracy_budget`, slices and windows of each layer. From the noise of
the mapping without a budget down to the least there is, the cheapest choice within a limit of noise is found by the
same knapsack, for limits one below the other. Each is mapped, and its loss is predicted with the windows that the
search found; what another one beats is left out. Where cells can be written again, or ranges of converters calibrated,
that is done to all mappings but the first, since it takes neither steps nor cells. Nothing is measured on emulated
chips.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memcompile.accuracy.candidates import Candidates, predictor_of
from memcompile.accuracy.knapsack import pick_on_fewest_chips, pick_options
from memcompile.accuracy.labelled_samples import labelled
from memcompile.accuracy.layer_options import LayerOption, layer_options
from memcompile.accuracy.loss_prediction import LossPredictor
from memcompile.data.loader import Dataset
from memcompile.errors import CapacityError
from memcompile.hardware.target import Target
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.ir.slicing import SliceChoice
from memcompile.program.program import Program

MOST_MAPPINGS = 16
"""Limits of noise that a mapping is made for, evenly spread over its logarithm."""
LESS = 1 - 1e-9
"""Factor on the noise of a choice below which the next one has to be."""
LEAST_GAIN = 0.01
"""Points that a mapping has to lose less than the one before."""
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class FrontMapping:
    """A mapping, what it costs, and the points that it is predicted to lose against the float network.

    ``slices`` are those of each layer by name, and layers of ``one_position`` get no parallel windows, though they
    could; ``write_again_share`` are corrections of a pair of cells on average, and with ``range_calibrated`` converters
    have ranges that the first mapping does not have. ``uncertainty`` is the standard error of the prediction.
    """

    slices: Mapping[str, SliceChoice]
    one_position: tuple[str, ...]
    chips: int
    arrays: int
    cells: int
    steps: int
    latency_steps: int
    write_again_share: float
    range_calibrated: bool
    loss: float
    uncertainty: float

    def cost(self, objective: str) -> tuple[float, ...]:
        """Cost in the order that counts: chips, what the mapping was made for, then the rest."""
        quieter = self.write_again_share, float(self.range_calibrated)
        if objective == "arrays":
            return self.arrays, self.steps, *quieter
        steps = self.latency_steps if objective == "latency" else self.steps
        return self.chips, steps, self.arrays, *quieter


@dataclass(frozen=True, eq=False)
class LossFront:
    """Mappings that no other one beats, from the one without a budget to the one with the least predicted loss."""

    objective: str
    mappings: tuple[FrontMapping, ...]


def loss_front(
    candidates: Candidates,
    dataset: Dataset,
    objective: str,
    *,
    chips: int | None = None,
    progress: ProgressBar = no_progress,
) -> LossFront:
    """Predict losses of mappings between the cheapest and the quietest.

    Parameters
    ----------
    dataset
        Samples; those for calibration predict.
    objective
        What mappings are made for; see :class:`memcompile.passes.replicate.Replicate`.
    chips
        Chips that a mapping may take; as few as it takes when None.

    Raises
    ------
    UsageError
        The loss of the network cannot be predicted.
    CapacityError
        One replica of each layer with the fewest slices does not fit the chips.
    """
    first = candidates.first
    windowed = {layer.name for layer in first.layers if any(one.unrolling.window_outputs > 1 for one in layer.replicas)}
    samples = labelled(first, dataset, candidates.reference)
    predictor = predictor_of(candidates, first, dataset, samples, progress)
    least = {layer.name: candidates.slices(layer.name) for layer in first.layers}
    found = [_mapping(first, least, (), predictor, first.target)]
    for target in candidates.targets[1:]:
        predictor = predictor.on(candidates.mapped({}, target))
        found.append(_mapping(predictor.first, least, (), predictor, first.target))
    options = layer_options(candidates, predictor)
    noise = float(sum(max(own, key=lambda option: option.noise).noise for own in options))
    quietest = float(sum(min(own, key=lambda option: option.noise).noise for own in options))
    with progress("mapping the front", MOST_MAPPINGS) as advance:
        for limit in np.geomspace(max(noise, TINY), max(quietest, TINY) / LESS, MOST_MAPPINGS).tolist():
            advance(1)
            if limit >= noise:
                continue
            picks = _cheapest(options, limit, first, objective, chips)
            noise = _total(options, picks) * LESS
            plans = {layer.name: own[pick].plan for layer, own, pick in zip(first.layers, options, picks, strict=True)}
            try:
                program = candidates.mapped(plans, predictor.first.target)
            except CapacityError:
                continue  # by cells it would fit, but its tiles do not
            given_up = tuple(name for name, plan in plans.items() if name in windowed and not plan.windows)
            slices = {name: plan.slices for name, plan in plans.items()}
            found.append(_mapping(program, slices, given_up, predictor, first.target))
    return LossFront(objective, tuple(front(found, objective)))


def front(found: Sequence[FrontMapping], objective: str) -> list[FrontMapping]:
    """The first mapping, then those that cost more and lose ``LEAST_GAIN`` less than all before, by cost.

    One that takes more cells alone than the first mapping, and loses less, stands beside it.
    """
    first, *others = found
    kept: list[FrontMapping] = [first]
    spent: tuple[float, ...] = (*first.cost(objective), first.cells)
    for item in sorted(others, key=lambda item: (item.cost(objective), item.loss, item.cells)):
        if (*item.cost(objective), item.cells) > spent and item.loss <= kept[-1].loss - LEAST_GAIN:
            kept.append(item)
            spent = (*item.cost(objective), math.inf)
    return kept


def _cheapest(
    options: Sequence[Sequence[LayerOption]], limit: float, first: Program, objective: str, chips: int | None
) -> list[int]:
    """Option of each layer within a limit, on the fewest chips unless their number is given, then in few steps."""
    target = first.target
    if objective == "arrays":
        return pick_options(options, limit, target)
    if chips is None:
        return pick_on_fewest_chips(options, limit, target)
    return pick_options(options, limit, target, chips)


def _total(options: Sequence[Sequence[LayerOption]], picks: Iterable[int]) -> float:
    return float(sum(own[pick].noise for own, pick in zip(options, picks, strict=True)))


def _mapping(
    program: Program,
    slices: Mapping[str, SliceChoice],
    one_position: tuple[str, ...],
    predictor: LossPredictor,
    usual: Target,
) -> FrontMapping:
    """A compiled mapping with its predicted loss; ``usual`` is the target of the first one."""
    placement = program.placement
    return FrontMapping(
        slices=slices,
        one_position=one_position,
        chips=placement.chips,
        arrays=program.arrays_used,
        cells=program.cells_used,
        steps=placement.initiation_interval_steps,
        latency_steps=placement.latency_steps,
        write_again_share=program.target.programming.write_again_share,
        range_calibrated=program.target.adc.range != usual.adc.range,
        loss=predictor.loss(program),
        uncertainty=predictor.uncertainty(program),
    )
