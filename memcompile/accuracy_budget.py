"""Mapping under an accuracy budget: slices and windows layer by layer, as cheap as a predicted loss allows.

A layer with one more slice has less noise and takes more cells; without parallel windows it has less noise and takes
more steps. Noise of layers adds up at the network's output (:mod:`memcompile.report.error_budget`), so that the
cheapest choice within a budget is a multiple-choice knapsack: one option a layer, the sum of noise below a limit, the
sum of costs least. The network is mapped with the choice, the loss is predicted anew with the windows that the search
of the mapping found, and then measured on emulated, calibrated chips, one after the other until the answer is clear.
Where it is more than the budget, the limit is tightened and all is done again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from memcompile.chip_calibration import Calibrator
from memcompile.data.loader import Dataset
from memcompile.errors import UsageError
from memcompile.hardware.target import Target
from memcompile.ir.geometry import Unrolling
from memcompile.ir.graph import Cut, MappedLayer, Replica, TiledLayer
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.layer_noise import MappingChoice, layer_noise
from memcompile.noise.program_noise import layer_ratios, line_weights
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.solver import Solver
from memcompile.program.program import Program
from memcompile.report.error_budget import LossModel, can_predict, loss_model
from memcompile.report.scoring import class_names, score_samples
from memcompile.runtime.emulator import Emulator

MOST_SLICES = 3
"""Slices of a layer that are tried at most."""
PREDICTIONS = 4
"""Mappings whose predicted loss may miss the limit, one after the other."""
REPAIRS = 3
"""Mappings whose measured loss may miss the budget."""
FEWEST_CHIPS, MOST_CHIPS = 3, 8
CONFIDENCE = 0.95
"""One-sided confidence at which the measured mean is apart from the budget once the answer is clear."""
CAUTION = 0.9
"""Share of the limit that the next choice gets after one that was above it."""
UNITS = 1_000_000
"""Units in which the knapsack counts the limit of noise."""
FRACTIONS = 16
"""Parts of a step in which it counts the interval."""
KNAPSACK_WORK = 2.0
CHIP_SEEDS = 1 << 40
"""First seed of the chips that choices are measured on: none that a report emulates."""


@dataclass(frozen=True)
class LayerPlan:
    """Slices of a layer, and whether it may have parallel windows."""

    slices: int = 1
    windows: bool = True


Plans = Mapping[str, LayerPlan]


@dataclass(frozen=True)
class LayerOption:
    """What a plan of a layer adds: ``noise`` at the network's output, ``cells``, and what it takes for an image.

    ``array_steps`` are steps of arrays, in each of which one tile works; ``cell_steps`` are cells times the steps that
    they are there for, whether they work or not.
    """

    plan: LayerPlan
    noise: float
    cells: int
    array_steps: int
    cell_steps: int

    def is_worse_than(self, other: LayerOption) -> bool:
        """Return True if another option is nowhere worse, and somewhere better."""
        mine, theirs = ((option.noise, option.cells, option.array_steps, option.cell_steps) for option in (self, other))
        return mine != theirs and all(own >= one for own, one in zip(mine, theirs, strict=True))


@dataclass(frozen=True, eq=False)
class BudgetResult:
    """Plans of all layers, and what they were predicted and measured to lose, in points.

    ``measured`` is the loss of each emulated chip on calibration samples; ``steps_without`` the interval of the mapping
    that asks nothing of accuracy. ``held`` says whether the mean of the chips is within the budget.
    """

    plans: Plans
    program: Program
    predicted: float
    measured: NDArray[np.float64]
    steps_without: int
    held: bool


@dataclass(frozen=True, eq=False)
class Candidates:
    """Ways to compile a network.

    ``tiled`` gives its layers with so many slices each, by name; ``mapped`` a program with these plans.
    """

    tiled: Callable[[int], Mapping[str, TiledLayer]]
    mapped: Callable[[Plans], Program]


def fit_budget(
    candidates: Candidates,
    dataset: Dataset,
    points: float,
    *,
    least: LayerPlan,
    chips: int | None = None,
    progress: ProgressBar = no_progress,
) -> BudgetResult:
    """Choose plans of layers that lose few points, or the fewest that were found.

    Parameters
    ----------
    dataset
        Samples; those for calibration predict, calibrate and measure.
    points
        Budget of the loss against ideal devices, in points of accuracy.
    least
        Plan with the fewest slices that layers get, and with windows unless the mapping has none at all.
    chips
        Chips that the mapping may take; as few as hold the budget when None.

    Raises
    ------
    UsageError
        The loss of the network cannot be predicted.
    """
    first = candidates.mapped({})
    samples = labelled(first, dataset)
    model, inputs = loss_model(first, samples, progress=progress)
    search = _Search(candidates, first, model, inputs, least, chips)
    if not first.layers or first.target.cell.continuous:
        return BudgetResult({}, first, 0.0, np.zeros(0), first.placement.initiation_interval_steps, held=True)
    limit, tried = model.limit(points), list[BudgetResult]()
    for _ in range(1 + REPAIRS):
        plans, program, predicted = search.within(limit, points)
        if any(item.plans == plans for item in tried):
            break
        measured = measured_losses(program, samples, points, progress)
        held = float(measured.mean()) <= points
        steps = first.placement.initiation_interval_steps
        tried.append(BudgetResult(plans, program, predicted, measured, steps, held))
        if held:
            break
        limit *= max(0.4, CAUTION * points / max(float(measured.mean()), 1e-9))
    return next((item for item in tried if item.held), min(tried, key=lambda item: float(item.measured.mean())))


def labelled(program: Program, dataset: Dataset) -> Dataset:
    """The calibration samples as samples to score, with the classes that ideal devices see where none are known.

    Raises
    ------
    UsageError
        No loss of accuracy can be predicted for the network.
    """
    samples = replace(dataset, inputs=dataset.calibration, labels=dataset.calibration_labels)
    if dataset.generated:
        raise UsageError("an accuracy budget needs data: give some with --data, or --max-loss none")
    if not can_predict(program, samples):
        raise UsageError(
            "the loss of this network on this target cannot be predicted, because samples are coupled or do not lie "
            "along axis 0, or currents of its cells are no product; leave the budget out with --max-loss none"
        )
    if samples.labels is not None:
        return samples
    outputs = Emulator.ideal(program).run(samples.inputs)
    scores = [value for value in outputs.values() if isinstance(value, np.ndarray) and value.ndim == 2]
    if len(outputs) != 1 or not scores or scores[0].shape[1] < 2:
        raise UsageError(
            "without labels a loss is counted in classes that change, and the network has no single output with a "
            "score for each class; leave the budget out with --max-loss none"
        )
    return replace(samples, labels=scores[0].argmax(axis=1).astype(np.int64))


class _Search:
    """Knapsacks over plans, and the mappings of what they choose."""

    def __init__(
        self,
        candidates: Candidates,
        first: Program,
        model: LossModel,
        inputs: Sequence[LayerInputs],
        least: LayerPlan,
        chips: int | None,
    ) -> None:
        self.candidates, self.first, self.model, self.inputs = candidates, first, model, inputs
        self.target, self.least, self.chips = first.target, least, chips
        self._mapped: dict[tuple[tuple[str, LayerPlan], ...], tuple[Program, float]] = {}
        self._options = {number: self._options_of(number) for number in range(len(first.layers))}

    def within(self, limit: float, points: float) -> tuple[Plans, Program, float]:
        """Plans whose sum of noise is within a limit, their mapping, and its predicted loss.

        The limit is tightened while the windows of the mapping bring more noise than the knapsack expected.
        """
        found = None
        for _ in range(PREDICTIONS):
            plans = self._knapsack(limit)
            program, predicted = self._map(plans)
            if found is None or predicted < found[2]:
                found = plans, program, predicted
            if predicted <= max(points, 1e-9) or plans == self._quietest():
                break
            limit *= CAUTION * min(1.0, self.model.limit(points) / max(self.model.limit(predicted), 1e-12))
        assert found is not None
        return found

    def _map(self, plans: Plans) -> tuple[Program, float]:
        key = tuple(sorted(plans.items(), key=lambda item: item[0]))
        if key not in self._mapped:
            program = self.candidates.mapped(plans)
            ratios = [layer_ratios(program, number, own) for number, own in enumerate(self.inputs)]
            self._mapped[key] = program, self.model.loss(np.array([ratio.total.calibrated for ratio in ratios]))
        return self._mapped[key]

    def _options_of(self, number: int) -> tuple[LayerOption, ...]:
        """Options of a layer, none of which is worse than another in everything."""
        mapped = self.first.layers[number]
        most = max(self.least.slices, MOST_SLICES)
        most = min(most, self.target.array.output_lines // self.target.array.lines_per_pair)
        both = self.least.windows and self._has_windows(mapped)
        choices = (True, False) if both else (self.least.windows,)
        options: list[LayerOption] = []
        for slices in range(self.least.slices, most + 1):
            layer = self.candidates.tiled(slices)[mapped.name]
            options += [self._option(number, layer, LayerPlan(slices, windows)) for windows in choices]
        return tuple(one for one in options if not any(one.is_worse_than(other) for other in options))

    @staticmethod
    def _has_windows(layer: MappedLayer) -> bool:
        return any(replica.unrolling.window_outputs > 1 for replica in layer.replicas)

    def _option(self, number: int, layer: TiledLayer, plan: LayerPlan) -> LayerOption:
        """Noise, cells and work of a plan; windows are those of the first mapping."""
        mapped = self.first.layers[number]
        replicas: Sequence[Replica] = mapped.replicas
        if not plan.windows or plan.windows == self._has_windows(mapped) is False:
            replicas = (all_windows(layer.unrolling, layer.cut),)
        noise = self.model.sensitivities[number] * self._ratio(number, layer, replicas[0])
        lines = plan.slices * self.target.array.lines_per_pair
        rows, columns = self.target.array.input_lines, self.target.array.output_lines // lines
        array_steps = cell_steps = 0
        for replica in replicas:
            unrolling, steps = replica.unrolling, len(replica.windows)
            tiles = -(-unrolling.rows // rows) * -(-unrolling.columns // columns)
            array_steps += unrolling.matrices * tiles * steps
            cell_steps += unrolling.matrices * unrolling.rows * unrolling.columns * lines * steps
        cells = layer.unrolling.matrices * layer.unrolling.rows * layer.unrolling.columns * lines
        return LayerOption(plan, float(noise), cells, array_steps, cell_steps)

    def _ratio(self, number: int, layer: TiledLayer, replica: Replica) -> float:
        """Noise-to-signal ratio of a layer that is laid out as a replica, with the digits of ``layer``."""
        digits = layer.cells[0].astype(np.int16) - layer.cells[1]
        cut = Cut(replica.cut.rows, (0, replica.unrolling.columns))
        share = self.first.layers[number].range_share
        choice = MappingChoice(digits, layer.base, replica.unrolling, cut, replica.windows, share)
        noise = layer_noise(self.inputs[number], self.target, choice)
        mapped = replace(self.first.layers[number], scale=layer.scale)
        weights = line_weights(mapped, replica)
        signal = float((weights * noise.signal).sum())
        return float((weights * np.maximum(noise.total.calibrated, 0.0)).sum()) / signal if signal > 0 else 0.0

    def _quietest(self) -> Plans:
        return {
            layer.name: min(self._options[number], key=lambda option: option.noise).plan
            for number, layer in enumerate(self.first.layers)
        }

    def _knapsack(self, limit: float) -> Plans:
        """Cheapest options whose noise is within a limit; the quietest where none are.

        Chips come first unless their number is given, then steps, then cells: no interval is shorter than the steps of
        arrays and of cells, shared evenly by those there are.
        """
        options = list(self._options.values())
        if sum(min(option.noise for option in own) for own in options) > limit:
            return self._quietest()
        chips = self.chips
        if chips is None:
            fewest = _cheapest(options, limit, self.target)
            cells = sum(own[pick].cells for own, pick in zip(options, fewest, strict=True))
            chips = max(1, math.ceil(cells / (self.target.chip.arrays * self.target.array.cells)))
        picks = _cheapest(options, limit, self.target, chips)
        return {layer.name: own[pick].plan for layer, own, pick in zip(self.first.layers, options, picks, strict=True)}


def all_windows(unrolling: Unrolling, cut: Cut) -> Replica:
    """One replica that computes all windows."""
    return Replica(unrolling, cut, np.arange(unrolling.windows, dtype=np.int32))


def _cheapest(
    options: Sequence[Sequence[LayerOption]], limit: float, target: Target, chips: int | None = None
) -> list[int]:
    """Number of the option of each layer, noise within a limit: with the fewest cells, or the fewest steps on chips.

    Where no choice fits the chips, they are left out.
    """
    model = cp_sat.CpModel()
    picks = [[model.new_bool_var("") for _ in own] for own in options]
    flat = [
        (pick, option)
        for own, layer in zip(picks, options, strict=True)
        for pick, option in zip(own, layer, strict=True)
    ]
    for own in picks:
        model.add_exactly_one(own)

    def total(value: Callable[[LayerOption], int]) -> Any:
        return sum(pick * value(option) for pick, option in flat)

    # Each is rounded up, so that a choice that uses all of the limit may be refused by a unit a layer.
    model.add(total(lambda option: math.ceil(min(option.noise / limit, 2.0) * UNITS)) <= UNITS + len(options))
    if chips is None:
        model.minimize(total(lambda option: option.cells))
    else:
        arrays = chips * target.chip.arrays
        most = sum(max(option.array_steps for option in own) for own in options)
        steps = model.new_int_var(0, FRACTIONS * most, "")
        room = arrays * target.array.cells
        model.add(total(lambda option: option.cells) <= room)
        model.add(total(lambda option: FRACTIONS * option.array_steps) <= arrays * steps)
        model.add(total(lambda option: FRACTIONS * option.cell_steps) <= room * steps)
        model.minimize(steps * (room + 1) + total(lambda option: option.cells))
    solver = Solver(KNAPSACK_WORK)
    if solver.solve(model) not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
        if chips is not None:
            return _cheapest(options, limit, target)
        return [int(np.argmin([option.noise for option in own])) for own in options]
    return [next(number for number, pick in enumerate(own) if solver.value(pick)) for own in picks]


def measured_losses(
    program: Program, samples: Dataset, points: float, progress: ProgressBar = no_progress
) -> NDArray[np.float64]:
    """Points that calibrated chips lose against ideal devices, chip by chip until it is clear whether they lose more.

    Raises
    ------
    MemcompileError
        The program cannot run on the samples.
    """
    names = class_names(program)
    calibrator = Calibrator(program, samples.calibration)
    ideal = score_samples(Emulator.ideal(program).run(samples.inputs), samples, names)
    losses: list[float] = []
    with progress("measuring the loss on chips", MOST_CHIPS) as advance:
        for seed in range(MOST_CHIPS):
            chip = calibrator.chip(CHIP_SEEDS + seed).program
            outputs = Emulator(chip, CHIP_SEEDS + seed).run(samples.inputs)
            losses.append(100 * (ideal - score_samples(outputs, samples, names)))
            advance(1)
            if len(losses) >= FEWEST_CHIPS and _is_clear(np.array(losses), points):
                break
    return np.array(losses)


def _is_clear(losses: NDArray[np.float64], points: float) -> bool:
    """Return True if the mean loss is apart from the budget, by Student's t."""
    error = float(losses.std(ddof=1)) / math.sqrt(len(losses))
    return abs(float(losses.mean()) - points) > float(stdtrit(len(losses) - 1, CONFIDENCE)) * error
