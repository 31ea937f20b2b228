"""Transfer: writing a program's weights into the cells of one chip.

Each cell is written closed loop, which leaves a Gaussian error, or the one its pulses leave where the target emulates
them. With several slices the most significant one is written first; the levels that it really holds are then measured
and the difference is left to the next slice, so that only the error of the last slice remains (as far as its range
reaches). Then the worst pairs are written again, as often as the target says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memcompile.program.program import Program
from memcompile.runtime.training.write_again import with_blanks, write_worst_again
from memcompile.runtime.training.writer import Writer


def transfer(program: Program, seed: int, *, correct_slices: bool = True) -> tuple[Program, Writer]:
    """Write all weights of a program into a new chip.

    Parameters
    ----------
    correct_slices
        Leave the measured error of each slice to the next one. That of a structural zero, which is
        delivered and not written, is then left to its lower slices too, where that is less than it was.
    """
    pairs = program.cell_map.pairs()
    writer = Writer(program, seed)
    slices = int(program.slices.max(initial=1))
    if slices > 1 and correct_slices:
        pairs = with_blanks(program, pairs, program.slices > 1)
    levels = pairs.digit.astype(np.float64)
    bases = np.array([layer.base for layer in program.layers])
    highest = program.slices[pairs.layer] - 1
    for place in range(slices - 1, -1, -1):
        here = np.flatnonzero(pairs.slice == place)
        written = here[(pairs.weight[here] >= 0) | (highest[here] > place)]
        writer.write_pairs(pairs.plus[written], pairs.minus[written], levels[written])
        if not correct_slices or place == 0:
            continue
        error = levels[here] - writer.measure_pairs(pairs.plus[here], pairs.minus[here])
        # The pair of the next lower slice stands one pair, two columns of cells, to the left.
        below = _position(pairs.plus)[pairs.plus[here] - 2]
        levels[below] += error * bases[pairs.layer[here]]
    share = program.target.programming.write_again_share
    if share > 0:
        return write_worst_again(program, writer, share, None), writer
    return replace(program, chip=writer.state()), writer


def _position(plus: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the pair at each cell number."""
    position = np.full(int(plus.max(initial=-1)) + 1, -1, np.int64)
    position[plus] = np.arange(len(plus))
    return position
