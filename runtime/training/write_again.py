"""Writing the worst cells again: write effort goes where it helps the network's output most.

After transfer all weights are read back, and those whose error matters most are corrected. The
effect of an error e of a weight w is estimated as

    e^2 * F(w),   F(w) = mean over images of (d loss / d w)^2,

the diagonal of the Fisher information (LeCun et al. 1990; Kirkpatrick et al. 2017): to second order, half of it is the
Kullback-Leibler divergence by which the class probabilities move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.sharing import first_layers
from memcompile.program.cell_map import Pairs
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.gradients import IMAGES_AT_ONCE, Backward
from memcompile.runtime.training.hybrid_training import probabilities
from memcompile.runtime.training.writer import Writer, held_levels

ROUND_SHARE = 0.25
"""Share of the corrections that are left, and of the weights, that a round makes at most; each looks at all cells anew.

A correction leaves the error of a write, and the last round leaves all of its own: so rounds become smaller.
"""
LEAST_ROUND = 0.01
"""Share of the weights that a round corrects at least."""
MOST_CORRECTIONS = 8
"""Corrections of one weight, beyond which it is left alone: a cell that is stuck would take all of them."""

Ranking = Literal["effect", "error"]


def sensitivities(
    program: Program,
    writer: Writer,
    inputs: Mapping[str, NDArray[Any]],
    seed: int,
    *,
    first_image: int = 0,
    advance: Callable[[int], None] | None = None,
) -> dict[int, NDArray[np.float64]]:
    """Fisher information of each weight, per level squared, [groups, group_rows, group_columns] by layer number.

    That of shared cells is there for the first of the layers that share them. The expectation is over the classes as
    the chip itself sees them: one is drawn per image, so that no labels are needed.

    Parameters
    ----------
    inputs
        Images, [N, ...] per input.
    seed, first_image
        Decide the drawn classes, and with the image numbers the read noise.
    advance
        Called with the number of images done.
    """
    backward = Backward(program, 0)
    emulator = Emulator(program, seed)
    levels = held_levels(program, writer, program.cell_map.pairs())
    count = len(next(iter(inputs.values())))
    draw = np.random.default_rng([seed, first_image]).random(count)
    owners = first_layers(program.layers).tolist()
    total = {number: np.zeros(levels[number].shape) for number in dict.fromkeys(owners)}
    for begin in range(0, count, IMAGES_AT_ONCE):
        some = {name: array[begin : begin + IMAGES_AT_ONCE] for name, array in inputs.items()}
        images = np.arange(begin, min(begin + IMAGES_AT_ONCE, count)) + first_image
        values = backward.forward(emulator, some, images)
        probability = probabilities(values[program.layers[-1].outputs[0]].reshape(len(images), -1))
        drawn = (probability.cumsum(axis=1) < draw[begin : begin + len(images), None]).sum(axis=1)
        error = probability.copy()
        error[np.arange(len(images)), np.minimum(drawn, error.shape[1] - 1)] -= 1.0
        for number, gradient in backward.back(program, values, error, levels).items():
            total[owners[number]] += gradient.squares
        if advance is not None:
            advance(len(images))
    return {number: squares / count for number, squares in total.items()}


def with_blanks(program: Program, weights: Pairs, layers: NDArray[np.bool_]) -> Pairs:
    """The pairs of all weights, and of the structural zeros of some layers that are better written than left."""
    blanks, share = program.cell_map.pairs(blanks=True), program.target.programming.blank_share
    bases = np.array([layer.base for layer in program.layers])
    worth = (layers & (share * bases >= 1))[blanks.layer]
    return Pairs(
        *(np.concatenate([vars(weights)[column.name], vars(blanks)[column.name][worth]]) for column in fields(Pairs))
    )


class _Weights:
    """All weights of all replicas, as pairs of cells: [slices of the program, weights].

    Missing pairs of layers with fewer slices are -1. Structural zeros of parallel windows count as weights.
    """

    def __init__(self, program: Program) -> None:
        pairs = with_blanks(program, program.cell_map.pairs(), np.ones(len(program.layers), bool))
        fine = np.flatnonzero(pairs.slice == 0)
        self.layer, self.weight = pairs.layer[fine], pairs.weight[fine]
        self.bases = np.array([layer.base for layer in program.layers], np.float64)[self.layer]
        self.plus = np.full((int(program.slices.max(initial=1)), len(fine)), -1, np.int64)
        self.digit = np.zeros(self.plus.shape)
        # The pair of slice s of a weight stands s pairs, 2 s columns of cells, to the right of that of slice 0.
        first = pairs.plus - 2 * pairs.slice.astype(np.int64)
        order = np.argsort(pairs.plus[fine], kind="stable")
        place = order[np.searchsorted(pairs.plus[fine], first, sorter=order)]
        self.plus[pairs.slice, place] = pairs.plus
        self.digit[pairs.slice, place] = pairs.digit

    def held(self, writer: Writer) -> NDArray[np.float64]:
        """Levels that the pairs really hold, [slices, weights]."""
        return np.where(self.plus >= 0, writer.measure_pairs(self.plus, self.plus + 1), 0.0)

    def errors(self, held: NDArray[np.float64]) -> NDArray[np.float64]:
        """Error of the whole weights, in levels of the lowest slice, [weights]."""
        powers = self.bases ** np.arange(len(held))[:, None]
        error: NDArray[np.float64] = ((held - self.digit) * powers).sum(axis=0)
        return error


def write_worst_again(
    program: Program, writer: Writer, share: float, sensitivity: Mapping[int, NDArray[np.float64]] | None
) -> Program:
    """Correct the weights whose error matters most, by one cell each.

    Parameters
    ----------
    share
        Corrections, as a share of the weights in all replicas, structural zeros included; 1 or more is possible.
    sensitivity
        Result of :func:`sensitivities`; None ranks by the error alone.
    """
    weights = _Weights(program)
    importance = np.ones(len(weights.weight))
    if sensitivity is not None:
        for number, each in sensitivity.items():
            here = weights.layer == number
            number_of = weights.weight[here]
            importance[here] = np.where(number_of < 0, each.mean(), each.reshape(-1)[number_of])
    count, left, turn = len(importance), round(share * len(importance)), 0
    most, done = MOST_CORRECTIONS * max(1, math.ceil(share)), np.zeros(count, np.int64)
    while left > 0:
        size = min(left, max(math.ceil(ROUND_SHARE * min(left, count)), math.ceil(LEAST_ROUND * count)))
        effect = np.where(done < most, importance * weights.errors(weights.held(writer)) ** 2, -1.0)
        # A stable order, so that ties do not depend on how a sort is implemented.
        worst = np.argsort(-effect, kind="stable")[:size]
        worst = np.sort(worst[effect[worst] > 0])
        if not len(worst):
            break
        done[worst] += 1
        for place in range(len(weights.plus) - 1, -1, -1):
            _correct(weights, writer, worst, place, minus_first=turn % 2 == 1)
        left, turn = left - size, turn + 1
    return replace(program, chip=writer.state())


def _correct(weights: _Weights, writer: Writer, worst: NDArray[np.int64], place: int, *, minus_first: bool) -> None:
    """Write one slice of some weights such that the whole weight is right, as far as the slice reaches.

    An upper slice is too coarse for that; it is written only where the lowest one cannot reach.
    """
    limit = writer.program.target.signed_levels
    held = weights.held(writer)
    error = weights.errors(held)
    if place:
        beyond = np.abs(held[0] - error)[worst] > limit
        worst = worst[beyond & (weights.plus[place, worst] >= 0)]
    goal = np.clip(held[place] - error / weights.bases**place, -limit, limit)[worst]
    plus = weights.plus[place, worst]
    writer.correct_pairs(plus, plus + 1, goal, minus_first=minus_first)
