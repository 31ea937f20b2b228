"""Search for the cheapest mapping whose predicted loss is within a budget.

The knapsack takes the windows of the first mapping for granted; the network is mapped with what it chose, and the loss
is predicted anew. Where it is more than the budget, the limit is tightened and all is done again. What a mapping was
measured to lose corrects the noise of layers, for the mappings after it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.candidates import Candidates, Plans, writings
from memcompile.accuracy.choice_bound import ChoiceBound, ChoiceFamily
from memcompile.accuracy.knapsack import pick_on_fewest_chips, pick_options
from memcompile.accuracy.layer_options import LayerOption, layer_options
from memcompile.accuracy.loss_prediction import LossPredictor
from memcompile.errors import CapacityError
from memcompile.hardware.target import Target
from memcompile.program.program import Program

PREDICTIONS = 4
"""Mappings whose predicted loss may miss the limit, one after the other."""
LEAST_CORRECTION, MOST_CORRECTION = 0.5, 4.0
"""Factors on the noise of layers that one measured mapping may tell."""
CAUTION, LEAST_FACTOR = 0.9, 0.4
"""Share of the noise of a choice above the limit that the next one gets, and the least share of it."""
UNNOTICED = 0.1
"""Share of a budget that mappings may lose more than the quietest one where none holds it: chips cannot tell."""
COUNTED = 1e-3
"""Share by which noise that the knapsack counts in whole units may be above its limit."""
LESS_FILLED = 0.95
"""Factor on the cells that the knapsack deals out after a choice that did not fit the chips."""


class BudgetSearch:
    """Knapsacks over plans, and the mappings of what they choose."""

    def __init__(self, candidates: Candidates, predictor: LossPredictor, chips: int | None) -> None:
        self.candidates, self.first, self.chips = candidates, predictor.first, chips
        self.filled = 1.0
        self.writings = [_Writing(candidates, predictor.on(target)) for target in writings(predictor.first.target)]
        self.writing = self.writings[0]

    def within(
        self, points: float, tried: Collection[tuple[Plans, Target]] = ()
    ) -> tuple[Plans, Program, float] | None:
        """Plans that are predicted to lose no more than a budget, their mapping, and its predicted loss.

        None where all that come into question were ``tried`` already.

        Cells are written again only where that changes the plans. The limit is tightened while the windows of the
        mapping bring more noise than the knapsack expected, and the cells that it deals out are fewer where tiles did
        not fill the chips as it took them to.
        """
        found: tuple[Plans, Program, float] | None = None
        self.writing = self._chosen_writing(points)
        aim = self._reachable(points)
        limit = self.predictor.limit(aim)
        for _ in range(PREDICTIONS):
            plans = self._knapsack(limit)
            if found is not None and plans == found[0]:
                break
            if (plans, self.target) in tried:
                limit = self.tightened(plans, CAUTION)
                continue
            try:
                program = replace(self.candidates.mapped(plans), target=self.target)
            except CapacityError:
                self.filled *= LESS_FILLED
                continue
            predicted = self.predictor.loss(program)
            if found is None or predicted < found[2]:
                found = plans, program, predicted
            if predicted <= aim:
                break
            limit = self.tightened(plans, CAUTION * self.predictor.limit(aim) / self.predictor.limit(predicted))
        if found is None and not tried:
            first = replace(self.first, target=self.target)
            return {}, first, self.predictor.loss(first)
        return found

    @property
    def predictor(self) -> LossPredictor:
        """Predicts losses of cells as they are written."""
        return self.writing.predictor

    @property
    def target(self) -> Target:
        """The target with cells as they are written."""
        return self.predictor.first.target

    def _chosen_writing(self, points: float) -> _Writing:
        """The first way to write cells that has the plans of the last one, the quietest."""
        plans = []
        for writing in self.writings:
            self.writing = writing
            plans.append(self._knapsack(self.predictor.limit(points)))
            if len(plans) == 1 and plans[0] == self._knapsack(math.inf):
                break
        return self.writings[plans.index(plans[-1])]

    def _reachable(self, points: float) -> float:
        """The budget, in points; where no plans hold it, hardly more than what the quietest ones lose."""
        limit = self.predictor.limit(points)
        least = float(self._noise(self._knapsack(limit)).sum())
        if least <= (1 + COUNTED) * limit:
            return points
        return max(points, self.predictor.loss_of(least) + UNNOTICED * points)

    def tightened(self, plans: Plans, factor: float) -> float:
        """The limit at which plans make less noise by a factor, of which they can change their own part only."""
        own = float(self._noise(plans).sum())
        return max((own + self.predictor.shared) * factor - self.predictor.shared, LEAST_FACTOR * own)

    def bound(self, plans: Plans, target: Target, points: float, cost: tuple[int, int]) -> ChoiceBound:
        """Bounds over all choices that are predicted within a budget, or as quiet as the plans at hand.

        Cells are taken to be written as they are quietest.

        Parameters
        ----------
        target
            Cells as the mapping of ``plans`` has them written.
        cost
            Chips and steps of that mapping.
        """
        self.writing = next(item for item in self.writings if item.predictor.first.target == target)
        own, quietest, placement = float(self._noise(plans).sum()), self.writings[-1], self.first.placement
        family = ChoiceFamily(
            [layer.geometry for layer in self.first.layers],
            quietest.options,
            max(quietest.predictor.limit(points), (1 + COUNTED) * own),
            target,
            self.candidates.windows,
        )
        free = next((item.bound for item in placement.certificates if item.quantity == "initiation_interval"), 1)
        return family.bound(*cost, free if cost[0] == placement.chips else 1)

    def learn(self, plans: Plans, predicted: float, measured: float) -> None:
        """Correct the sensitivity to layers by what a mapping was predicted and measured to lose, in points."""
        own, shared, model = self._noise(plans), self.predictor.shared, self.predictor.model
        expected = model.limit(predicted) - shared
        if own.sum() <= 0 or not 0 < expected < math.inf:
            return
        factors = layer_corrections(own, (model.limit(measured) - shared) / expected)
        for writing in self.writings:
            writing.correct(factors)

    def _noise(self, plans: Plans) -> NDArray[np.float64]:
        """Noise of the layers of plans, [layers]."""
        return np.array(
            [
                next(option.noise for option in options if option.plan == plans[layer.name])
                for layer, options in zip(self.first.layers, self.writing.options, strict=True)
            ]
        )

    def _knapsack(self, limit: float) -> Plans:
        """Cheapest options whose noise is within a limit; the quietest where none are.

        Chips come first unless their number is given, then steps, then cells: no interval is shorter than the steps of
        arrays and of cells, shared evenly by those there are.
        """
        options = self.writing.options
        if self.chips is None:
            picks = pick_on_fewest_chips(options, limit, self.target, self.filled)
        else:
            picks = pick_options(options, limit, self.target, self.chips, self.filled)
        return {layer.name: own[pick].plan for layer, own, pick in zip(self.first.layers, options, picks, strict=True)}


class _Writing:
    """Options of layers on cells that are written in one way."""

    def __init__(self, candidates: Candidates, predictor: LossPredictor) -> None:
        self.predictor = predictor
        self._candidates, self._factors = candidates, np.ones(len(predictor.first.layers))

    @cached_property
    def _measured(self) -> list[tuple[LayerOption, ...]]:
        return layer_options(self._candidates, self.predictor)

    @property
    def options(self) -> list[tuple[LayerOption, ...]]:
        """Options of each layer, with what was learned of its noise."""
        return [
            tuple(replace(option, noise=option.noise * float(factor)) for option in own)
            for own, factor in zip(self._measured, self._factors, strict=True)
        ]

    def correct(self, factors: NDArray[np.float64]) -> None:
        """Multiply the noise of layers by what a measurement told, [layers]."""
        if "_measured" in self.__dict__:
            self._factors = self._factors * factors
        self.predictor.correct(factors)


def layer_corrections(noise: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Factors on the noise of layers, [layers], which change its sum by a factor as far as one measurement may.

    Layers answer for the difference in proportion to their noise, so that those with little of it keep what is known of
    them.
    """
    factor = min(max(factor, LEAST_CORRECTION), MOST_CORRECTION)
    share = noise / noise.sum()
    factors: NDArray[np.float64] = 1 + (factor - 1) * share / np.square(share).sum()
    return np.maximum(factors, LEAST_CORRECTION)
