"""Mapping under an accuracy budget: slices and windows layer by layer, as cheap as a predicted loss allows.

A layer with one more slice has less noise and takes more cells; without parallel windows it has less noise and takes
more steps. Writing the worst pairs again takes neither, so that cells are written again where the mapping is cheaper
with it. Noise of layers adds up at the network's output (:mod:`memcompile.accuracy.error_budget`), so that the
cheapest choice within a budget is a multiple-choice knapsack: one option a layer, the sum of noise below a limit, the
sum of costs least. The network is mapped with the choice, the loss is predicted anew with the windows that the search
of the mapping found, and then measured on emulated, calibrated chips, one after the other until the answer is clear.
Where it is more than the budget, the limit is tightened and all is done again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.chip_calibration import LEAST_IMAGES, Calibrator, affordable_images
from memcompile.accuracy.error_budget import LossModel, can_predict, loss_model
from memcompile.accuracy.loss_prediction import LossPredictor, Reference, allowed_loss
from memcompile.accuracy.scoring import class_names, lost_share, score_samples
from memcompile.data.loader import Dataset
from memcompile.errors import CapacityError, UsageError
from memcompile.hardware.line_turns import LineTurns
from memcompile.hardware.target import Target
from memcompile.ir.graph import MappedLayer, TiledLayer
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.noise.output_noise import output_noise
from memcompile.passes.packing.tiling import tile_limits
from memcompile.passes.replicate import all_windows
from memcompile.passes.search.explore_windows import option_steps
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.solver import Solver
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator

MOST_SLICES = 3
"""Slices of a layer that are tried at most."""
PREDICTIONS = 4
"""Mappings whose predicted loss may miss the limit, one after the other."""
REPAIRS = 3
"""Mappings that are tried after the first one."""
WORTHWHILE = 0.5
"""Share of a budget below which a measured loss makes it worth looking for a cheaper mapping."""
LEAST_CORRECTION, MOST_CORRECTION = 0.5, 4.0
"""Factors on the noise of layers that one measured mapping may tell."""
FEWEST_CHIPS, MOST_CHIPS = 2, 4
CLEAR_ERRORS = 1.64
"""Standard errors by which the measured mean is apart from the budget once the answer is clear: 95 % on one side."""
CURVE_ERROR, CURVE_POINTS = 0.25, 0.05
"""Standard error of a loss that is read from the network's curve: a share of it, and points."""
CHIP_SPREAD = 0.5
"""Standard deviation from chip to chip, by the mean loss, that two or three chips alike cannot disprove.

One chip in ten has a stuck cell where it costs most, and two in a row may well have.
"""
CAUTION, LEAST_FACTOR = 0.9, 0.4
"""Share of the noise of a choice above the limit that the next one gets, and the least share of it."""
UNITS = 1_000_000
"""Units in which the knapsack counts the limit of noise."""
FRACTIONS = 16
"""Parts of a step in which it counts the interval."""
LESS_FILLED = 0.95
"""Factor on the cells that the knapsack deals out after a choice that did not fit the chips."""
KNAPSACK_WORK = 2.0
TINY = 1e-30
SCORED = 1000
"""Samples at most on which the answers of the float network are counted."""
LEAST_SAMPLES = 100
"""Samples for calibration below which a point of loss is less than one of them."""
CONVERSIONS = 4_000_000_000
"""Converter outputs that the samples of one chip may take."""
WRITE_AGAIN_SHARE = 1.0
"""Corrections of a weight on average where writing again makes the mapping cheaper."""
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
    """Noise that a plan of a layer adds at the network's output, its cells, and the time that it takes for an image.

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
    """Plans of all layers within a budget of ``points``, and what they were predicted and measured to lose.

    Losses are those against the float network. ``measured`` is that of each emulated chip on calibration samples;
    ``steps_without`` the interval of the mapping that asks nothing of accuracy, and ``shared_loss`` what any mapping is
    predicted to lose, such as by rounded inputs. ``held`` says whether the mean of the chips is within the budget.
    ``target`` says how often cells are written; ``model`` is what was measured of the network.
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


@dataclass(frozen=True, eq=False)
class Candidates:
    """Ways to compile a network.

    ``tiled`` gives its layers with so many slices each, by name; ``mapped`` a program with these plans. ``slices`` is
    the least number of slices of a layer, by its name, and without ``windows`` no layer has parallel windows.
    ``reference`` runs the float network.
    """

    tiled: Callable[[int], Mapping[str, TiledLayer]]
    mapped: Callable[[Plans], Program]
    slices: Callable[[str], int]
    windows: bool
    reference: Reference


def fit_budget(
    candidates: Candidates,
    dataset: Dataset,
    points: float,
    *,
    chips: int | None = None,
    progress: ProgressBar = no_progress,
) -> BudgetResult:
    """Choose plans of layers that lose few points, or the fewest that were found.

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
    first = candidates.mapped({})
    samples = labelled(first, dataset, candidates.reference)
    predictor = predictor_of(candidates, first, dataset, samples, progress)
    search = _Search(candidates, predictor, chips)
    shared = predictor.shared_loss
    allowed = allowed_loss(points, shared)
    steps, tried = first.placement.initiation_interval_steps, list[BudgetResult]()
    cheapest: tuple[int, int] | None = None
    for _ in range(1 + REPAIRS):
        plans, program, predicted = search.within(allowed)
        cost = program.placement.chips, program.placement.initiation_interval_steps
        known = any(item.plans == plans and item.target == program.target for item in tried)
        if known or (cheapest is not None and cost >= cheapest):
            break
        measured = measured_losses(program, samples, candidates.reference, predictor.model, allowed, progress)
        lost = float(measured.mean())
        tried.append(
            BudgetResult(
                points, plans, program.target, predicted, measured, steps, shared, lost <= points, predictor.model
            )
        )
        if lost <= allowed:
            cheapest = cost
        if not plans or allowed * WORTHWHILE <= lost <= allowed:
            break
        search.learn(plans, predicted, lost)
    within = [item for item in tried if item.measured.mean() <= allowed]
    return within[-1] if within else min(tried, key=lambda item: float(item.measured.mean()))


def can_budget(program: Program, dataset: Dataset) -> bool:
    """Return True if the loss of a network can be predicted and measured."""
    if program.placement.segments:
        return False
    try:
        labelled(program, dataset, Emulator.ideal(program).run)
    except UsageError:
        return False
    return True


def wrong_share(dataset: Dataset, candidates: Candidates, program: Program) -> float:
    """Share of wrong answers of the float network on the samples that score it; 0 without labels."""
    if dataset.labels is None or dataset.calibration_labels is None:
        return 0.0
    some = dataset.head(SCORED)
    return 1.0 - score_samples(candidates.reference(some.inputs), some, class_names(program))


def predictor_of(
    candidates: Candidates,
    first: Program,
    dataset: Dataset,
    samples: Dataset,
    progress: ProgressBar = no_progress,
) -> LossPredictor:
    """Measure what losses are predicted from on ``first``, the mapping without a budget.

    ``samples`` are calibration samples with labels, see :func:`labelled`; losses are wanted for those of ``dataset``.
    """
    wrong = wrong_share(dataset, candidates, first)
    model, inputs = loss_model(first, samples, wrong=wrong, progress=progress)
    finest = candidates.tiled(most_slices(first.target))
    return LossPredictor(first, model, inputs, finest, samples, candidates.reference)


def most_slices(target: Target) -> int:
    """Slices of a layer that are tried at most: as many as an output line of each fits an array."""
    return min(MOST_SLICES, target.array.output_lines // target.array.lines_per_pair)


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


class _Search:
    """Knapsacks over plans, and the mappings of what they choose."""

    def __init__(
        self,
        candidates: Candidates,
        predictor: LossPredictor,
        chips: int | None,
    ) -> None:
        self.candidates, self.first, self.chips = candidates, predictor.first, chips
        self.filled = 1.0
        self.writings = [_Writing(candidates, predictor.on(target)) for target in writings(predictor.first.target)]
        self.writing = self.writings[0]

    def within(self, points: float) -> tuple[Plans, Program, float]:
        """Plans that are predicted to lose no more than a budget, their mapping, and its predicted loss.

        Cells are written again only where that changes the plans. The limit is tightened while the windows of the
        mapping bring more noise than the knapsack expected, and the cells that it deals out are fewer where tiles did
        not fill the chips as it took them to.
        """
        found: tuple[Plans, Program, float] | None = None
        self.writing = self._chosen_writing(points)
        limit = self.predictor.limit(points)
        for _ in range(PREDICTIONS):
            plans = self._knapsack(limit)
            if found is not None and plans == found[0]:
                break
            try:
                program = replace(self.candidates.mapped(plans), target=self.target)
            except CapacityError:
                self.filled *= LESS_FILLED
                continue
            predicted = self.predictor.loss(program)
            if found is None or predicted < found[2]:
                found = plans, program, predicted
            if predicted <= points:
                break
            limit = self.tightened(plans, CAUTION * self.predictor.limit(points) / self.predictor.limit(predicted))
        if found is None:
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

    def tightened(self, plans: Plans, factor: float) -> float:
        """The limit at which plans make less noise by a factor, of which they can change their own part only."""
        own = float(self._noise(plans).sum())
        return max((own + self.predictor.shared) * factor - self.predictor.shared, LEAST_FACTOR * own)

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
        chips, options = self.chips, self.writing.options
        chip_cells = self.target.chip.arrays * self.target.array.cells
        if chips is None:
            fewest = pick_options(options, limit, self.target)
            cells = sum(own[pick].cells for own, pick in zip(options, fewest, strict=True))
            chips = max(1, math.ceil(cells / chip_cells))
        picks = pick_options(options, limit, self.target, chips, self.filled)
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


def writings(target: Target) -> list[Target]:
    """Ways to write the cells of a target, the quietest last: as it says, and with the worst pairs written again."""
    if not target.can_write_again or target.programming.write_again_share >= WRITE_AGAIN_SHARE:
        return [target]
    again = target.programming.model_copy(update={"write_again_share": WRITE_AGAIN_SHARE})
    sources = {**target.sources, "programming.write_again_share": "chosen under the accuracy budget"}
    return [target, target.model_copy(update={"programming": again, "sources": sources})]


def layer_corrections(noise: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Factors on the noise of layers, [layers], which change its sum by a factor as far as one measurement may.

    Layers answer for the difference in proportion to their noise, so that those with little of it keep what is known of
    them.
    """
    factor = min(max(factor, LEAST_CORRECTION), MOST_CORRECTION)
    share = noise / noise.sum()
    factors: NDArray[np.float64] = 1 + (factor - 1) * share / np.square(share).sum()
    return np.maximum(factors, LEAST_CORRECTION)


def layer_options(candidates: Candidates, predictor: LossPredictor) -> list[tuple[LayerOption, ...]]:
    """Options of each layer, none of which is worse than another one in everything."""
    return [_options_of(candidates, predictor, number) for number in range(len(predictor.first.layers))]


def _options_of(candidates: Candidates, predictor: LossPredictor, number: int) -> tuple[LayerOption, ...]:
    mapped = predictor.first.layers[number]
    least = candidates.slices(mapped.name)
    windows = (True, False) if _has_windows(mapped) else (candidates.windows,)
    options = [
        _option(predictor, number, candidates.tiled(slices)[mapped.name], LayerPlan(slices, either))
        for slices in range(least, max(least, most_slices(predictor.first.target)) + 1)
        for either in windows
    ]
    return tuple(one for one in options if not any(one.is_worse_than(other) for other in options))


def _option(predictor: LossPredictor, number: int, layer: TiledLayer, plan: LayerPlan) -> LayerOption:
    """Noise, cells and work of a plan; windows are those of the first mapping."""
    mapped, target = predictor.first.layers[number], predictor.first.target
    with_windows = plan.windows and _has_windows(mapped)
    replicas = mapped.replicas if with_windows else (all_windows(layer.unrolling, layer.cut),)
    # A window at the edge may see nothing at all, and the first replica may have no other.
    windows = np.concatenate([one.windows for one in replicas if one.unrolling == replicas[0].unrolling])
    noise = predictor.option_noise(number, layer, replace(replicas[0], windows=windows))
    lines = plan.slices * target.array.lines_per_pair
    limits, turns = tile_limits(target, plan.slices), LineTurns.of(target)
    array_steps = cell_steps = 0
    for replica in replicas:
        unrolling, steps = replica.unrolling, len(replica.windows)
        array_steps += option_steps(unrolling, *limits, lines, turns) * steps
        cell_steps += unrolling.matrices * unrolling.rows * unrolling.columns * lines * steps
    cells = layer.unrolling.matrices * layer.unrolling.rows * layer.unrolling.columns * lines
    return LayerOption(plan, noise, cells, array_steps, cell_steps)


def _has_windows(layer: MappedLayer) -> bool:
    return any(replica.unrolling.window_outputs > 1 for replica in layer.replicas)


def pick_options(
    options: Sequence[Sequence[LayerOption]],
    limit: float,
    target: Target,
    chips: int | None = None,
    filled: float = 1.0,
) -> list[int]:
    """Number of the option of each layer, a multiple-choice knapsack.

    Noise is within a limit, with the fewest cells, or with the fewest steps on a number of chips of which a share of
    the cells is ``filled``. Where nothing is within the limit, it is the least noise that the chips have room for, and
    where they have no room for anything, the fewest cells.
    """
    knapsack = _Knapsack(options, target, None if chips is None else chips * target.chip.arrays, filled)
    for stages in (("limit", "room"), ("room",), ()):
        found = knapsack.solved(limit if "limit" in stages else None, room="room" in stages)
        if found is not None:
            return found
    raise AssertionError("one option of each layer is always a choice")


class _Knapsack:
    """Models of one choice for each layer, on some arrays or on as many as it takes (None)."""

    def __init__(
        self, options: Sequence[Sequence[LayerOption]], target: Target, arrays: int | None, filled: float
    ) -> None:
        self.options, self.target, self.arrays, self.filled = options, target, arrays, filled

    def solved(self, limit: float | None, *, room: bool) -> list[int] | None:
        """Cheapest choice within a limit of noise, or the quietest; None if there is none.

        Without ``room`` the arrays hold any number of cells, and the choice is that of the fewest.
        """
        model = cp_sat.new_model()
        picks = [[model.new_bool_var("") for _ in own] for own in self.options]
        pairs = list(zip(itertools.chain(*picks), itertools.chain(*self.options), strict=True))
        for own in picks:
            model.add_exactly_one(own)

        def total(value: Callable[[LayerOption], int]) -> Any:
            return sum(pick * value(option) for pick, option in pairs)

        unit = limit if limit is not None else max(option.noise for _, option in pairs)
        noise = total(lambda option: math.ceil(UNITS * min(option.noise / max(unit, TINY), 2.0)))
        cells = total(lambda option: option.cells)
        if limit is not None:
            # Each is rounded up, so that a choice that uses all of the limit may be refused by a unit a layer.
            model.add(noise <= UNITS + len(self.options))
        if room and self.arrays is not None:
            model.add(cells <= int(self.filled * self.arrays * self.target.array.cells))
        if limit is None and room:
            model.minimize(noise)
        elif self.arrays is None or not room:
            model.minimize(cells)
        else:
            model.minimize(self._steps(model, total) * (1 + self.arrays * self.target.array.cells) + cells)
        solver = Solver(KNAPSACK_WORK)
        if solver.solve(model) not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
            return None
        return [next(number for number, pick in enumerate(own) if solver.value(pick)) for own in picks]

    def _steps(self, model: cp_sat.CpModel, total: Callable[[Callable[[LayerOption], int]], Any]) -> Any:
        """Interval in parts of a step: no shorter than arrays are busy, and than cells are taken."""
        assert self.arrays is not None
        most = sum(max(option.array_steps for option in own) for own in self.options)
        steps = model.new_int_var(0, FRACTIONS * most, "")
        model.add(total(lambda option: FRACTIONS * option.array_steps) <= self.arrays * steps)
        cells = self.arrays * self.target.array.cells
        model.add(total(lambda option: FRACTIONS * option.cell_steps) <= cells * steps)
        return steps


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
