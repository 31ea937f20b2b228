"""Search for the cheapest mapping whose predicted loss is within a budget.

The knapsack takes the windows of the first mapping for granted; the network is mapped with what it chose, and the loss
is predicted anew. Where it is more than the budget, the limit is tightened and all is done again. What a mapping was
measured to lose corrects the noise of layers, for the mappings after it.

Plans are those of the quietest target, and the target is the first on which they are within the limit: calibrated
ranges and pairs that are written again take neither cells nor steps.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.candidates import Candidates, LayerPlan, Plans
from memcompile.accuracy.choice_bound import ChoiceBound, ChoiceFamily
from memcompile.accuracy.knapsack import pick_on_fewest_chips, pick_options
from memcompile.accuracy.layer_options import LayerOption, layer_options, plan_noise
from memcompile.accuracy.loss_prediction import LossPredictor
from memcompile.errors import CapacityError
from memcompile.hardware.target import Target
from memcompile.ir.graph import MappedLayer
from memcompile.ir.sharing import first_layers
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
        self.filled, self.usual = 1.0, predictor
        self.owners = first_layers(self.first.layers)
        self.variants = [_Variant(candidates, predictor, target) for target in candidates.targets]
        self.variant = self.variants[0]

    def within(
        self, points: float, tried: Collection[tuple[Plans, Target]] = ()
    ) -> tuple[Plans, Program, float] | None:
        """Plans that are predicted to lose no more than a budget, their mapping, and its predicted loss.

        None where all that come into question were ``tried`` already.

        The limit is tightened while the windows of the mapping bring more noise than the knapsack expected, and the
        cells that it deals out are fewer where tiles did not fill the chips as it took them to.
        """
        found: tuple[Plans, Program, float] | None = None
        aim = self._reachable(points)
        limit = self.predictor.limit(aim)
        for _ in range(PREDICTIONS):
            plans = self._chosen(limit)
            if found is not None and (plans, self.target) == (found[0], found[1].target):
                break
            if (plans, self.target) in tried:
                limit = self.tightened(plans, CAUTION)
                continue
            try:
                program = self.candidates.mapped(plans, self.target)
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
            first = self.predictor.first
            return {}, first, self.predictor.loss(first)
        return found

    @property
    def predictor(self) -> LossPredictor:
        """Predicts losses on the target that was chosen."""
        return self.variant.predictor

    @property
    def target(self) -> Target:
        """The target that was chosen."""
        return self.variant.target

    def _choose(self, target: Target) -> None:
        self.variant = next(item for item in self.variants if item.target == target)

    def _chosen(self, limit: float) -> Plans:
        """Cheapest plans within a limit; chooses the first target on which those of the quietest are within it."""
        self.variant = self.variants[0]
        without = {layer.name: LayerPlan(self.candidates.slices(layer.name)) for layer in self.first.layers}
        if self._noise(without).sum() <= limit:
            return without
        plans = self._knapsack(limit)
        within = (item for item in self.variants if item.noise(plans).sum() <= (1 + COUNTED) * limit)
        self.variant = next(within, self.variants[-1])
        return plans

    def _reachable(self, points: float) -> float:
        """The budget, in points; where no plans hold it, hardly more than what the quietest ones lose."""
        limit = self.predictor.limit(points)
        least = float(self._noise(self._chosen(limit)).sum())
        if least <= (1 + COUNTED) * limit:
            return points
        return max(points, self.predictor.loss_of(least) + UNNOTICED * points)

    def tightened(self, plans: Plans, factor: float) -> float:
        """The limit at which plans make less noise by a factor, of which they can change their own part only."""
        own = float(self._noise(plans).sum())
        return max((own + self.predictor.shared) * factor - self.predictor.shared, LEAST_FACTOR * own)

    def bound(self, plans: Plans, target: Target, points: float, cost: tuple[int, int]) -> ChoiceBound:
        """Bounds over all choices that are predicted within a budget, or as quiet as the plans at hand.

        Cells and converters are taken to be as they are quietest.

        Parameters
        ----------
        target
            That of the mapping of ``plans``.
        cost
            Chips and steps of that mapping.
        """
        self._choose(target)
        own, quietest, placement = float(self._noise(plans).sum()), self.variants[-1], self.first.placement
        # Of layers that share cells the first one alone: a bound without the others holds for all.
        firsts = np.flatnonzero(self.owners == np.arange(len(self.owners))).tolist()
        family = ChoiceFamily(
            [self.first.layers[number].geometry for number in firsts],
            [quietest.options[number] for number in firsts],
            max(quietest.predictor.limit(points), (1 + COUNTED) * own),
            target,
            self.candidates.windows,
        )
        free = next((item.bound for item in placement.certificates if item.quantity == "initiation_interval"), 1)
        return family.bound(*cost, free if cost[0] == placement.chips else 1)

    def learn(self, plans: Plans, target: Target, predicted: float, measured: float) -> None:
        """Correct the sensitivity to layers by what a mapping was predicted and measured to lose, in points."""
        self._choose(target)
        own, shared, model = self._noise(plans), self.predictor.shared, self.predictor.model
        expected = model.limit(predicted) - shared
        if own.sum() <= 0 or not 0 < expected < math.inf:
            return
        factors = layer_corrections(own, (model.limit(measured) - shared) / expected)
        for item in self.variants:
            item.correct(factors)
        self.usual.correct(factors)

    def _noise(self, plans: Plans) -> NDArray[np.float64]:
        """Noise of the layers of plans, [layers]."""
        return self.variant.noise(plans)

    def _knapsack(self, limit: float) -> Plans:
        """Cheapest options of the quietest target whose noise is within a limit; the quietest where none are.

        Chips come first unless their number is given, then steps, then cells: no interval is shorter than the steps of
        arrays and of cells, shared evenly by those there are.
        """
        options = self.variants[-1].options
        if self.chips is None:
            picks = pick_on_fewest_chips(options, limit, self.target, self.filled)
        else:
            picks = pick_options(options, limit, self.target, self.chips, self.filled)
        picked = [own[pick].plan for own, pick in zip(options, picks, strict=True)]
        return self._alike({layer.name: plan for layer, plan in zip(self.first.layers, picked, strict=True)})

    def _alike(self, plans: Plans) -> Plans:
        """Plans that are the same for layers that share cells: the one with most slices of each group."""
        layers = self.first.layers
        names = [[layers[one].name for one in np.flatnonzero(self.owners == number)] for number in self.owners]
        return {
            layer.name: max((plans[one] for one in own), key=_quiet) for layer, own in zip(layers, names, strict=True)
        }


class _Variant:
    """Options of layers on one of the targets; ``usual`` predicts losses on the first of them."""

    def __init__(self, candidates: Candidates, usual: LossPredictor, target: Target) -> None:
        self.target = target
        self._candidates, self._usual = candidates, usual
        self._plans: dict[tuple[int, LayerPlan], float] = {}

    @cached_property
    def predictor(self) -> LossPredictor:
        """Predicts losses on the target."""
        first = self._usual.first
        return self._usual.on(first if self.target == first.target else self._candidates.mapped({}, self.target))

    @cached_property
    def options(self) -> list[tuple[LayerOption, ...]]:
        """Options of each layer, with what was learned of its noise."""
        return layer_options(self._candidates, self.predictor)

    def noise(self, plans: Plans) -> NDArray[np.float64]:
        """Noise of the layers of plans, [layers]."""
        return np.array([self._noise(number, plans[layer.name]) for number, layer in enumerate(self._layers)])

    def correct(self, factors: NDArray[np.float64]) -> None:
        """Multiply the noise of layers by what a measurement told, [layers]."""
        self._plans = {(number, plan): noise * factors[number] for (number, plan), noise in self._plans.items()}
        if "predictor" in self.__dict__:
            self.predictor.correct(factors)
        if "options" in self.__dict__:
            self.options = [
                tuple(replace(option, noise=option.noise * float(factor)) for option in own)
                for own, factor in zip(self.options, factors, strict=True)
            ]

    @property
    def _layers(self) -> Sequence[MappedLayer]:
        return self._usual.first.layers

    def _noise(self, number: int, plan: LayerPlan) -> float:
        if (number, plan) not in self._plans:
            layer = self._candidates.tiled(plan.slices)[self._layers[number].name]
            self._plans[number, plan] = plan_noise(self.predictor, number, layer, plan)
        return self._plans[number, plan]


def _quiet(plan: LayerPlan) -> tuple[int, bool, bool]:
    """Order of plans by what makes them quiet."""
    return plan.slices.count, plan.slices.fill == "equal", not plan.windows


def layer_corrections(noise: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Factors on the noise of layers, [layers], which change its sum by a factor as far as one measurement may.

    Layers answer for the difference in proportion to their noise, so that those with little of it keep what is known of
    them.
    """
    factor = min(max(factor, LEAST_CORRECTION), MOST_CORRECTION)
    share = noise / noise.sum()
    factors: NDArray[np.float64] = 1 + (factor - 1) * share / np.square(share).sum()
    return np.maximum(factors, LEAST_CORRECTION)
