"""Distributes few tiles over few arrays such that every array can be arranged.

An array is cut at one input line into a lower and an upper *shelf*. A tile stands on a shelf that
is high enough, or on output lines of its own that reach over both shelves, where as many tiles of
its shape as fit are stacked. Only the output lines of each shelf, and of tiles that reach over
both, then have to be counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from memcompile.passes.packing.first_fit import Fill, TileShape
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.solver import Solver


def distribute_on_shelves(
    shapes: Sequence[TileShape], lines: tuple[int, int], arrays: int, interval: int, effort: float
) -> list[Fill] | None:
    """All tiles on at most ``arrays`` arrays, or None if CP-SAT finds no such distribution.

    Parameters
    ----------
    interval
        Most steps of an array.
    effort
        Limit in the solver's deterministic time.
    """
    model = cp_sat.new_model()
    shelved = [_ShelvedArray(model, shapes, lines, interval) for _ in range(arrays)]
    for number, shape in enumerate(shapes):
        model.add(sum(array.count(number) for array in shelved) == shape.count)
    solver = Solver(effort)
    if solver.solve(model) not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
        return None
    return [array.fill(solver) for array in shelved]


class _ShelvedArray:
    """One array of the model: the line of its cut, and the tiles of each shape on each shelf and across both."""

    def __init__(
        self, model: cp_sat.CpModel, shapes: Sequence[TileShape], lines: tuple[int, int], interval: int
    ) -> None:
        self.shapes, self.lines = shapes, lines
        cuts = sorted({shape.height for shape in shapes if 2 * shape.height <= lines[0]})
        self.cuts = {cut: model.new_bool_var("") for cut in cuts}
        model.add_at_most_one(self.cuts.values())
        self.stacked: list[cp_sat.IntVar] = []
        self.stacks: list[cp_sat.IntVar] = []
        self.lower: dict[int, cp_sat.IntVar] = {}
        self.upper: dict[int, cp_sat.IntVar] = {}
        for number, shape in enumerate(shapes):
            side_by_side = lines[1] // shape.width
            high = lines[0] // shape.height
            self.stacked.append(model.new_int_var(0, min(shape.count, high * side_by_side), ""))
            self.stacks.append(model.new_int_var(0, side_by_side, ""))
            model.add(self.stacked[-1] <= high * self.stacks[-1])
            for shelf, fits in ((self.lower, shape.height), (self.upper, lines[0] - shape.height)):
                able = [
                    chosen for cut, chosen in self.cuts.items() if (cut >= fits if shelf is self.lower else cut <= fits)
                ]
                if able:
                    most = min(shape.count, side_by_side)
                    shelf[number] = model.new_int_var(0, most, "")
                    model.add(shelf[number] <= most * sum(able))
        across = sum(shape.width * stacks for shape, stacks in zip(shapes, self.stacks, strict=True))
        for shelf in (self.lower, self.upper):
            model.add(across + sum(shapes[number].width * amount for number, amount in shelf.items()) <= lines[1])
        model.add(sum(shape.load * self.count(number) for number, shape in enumerate(shapes)) <= interval)

    def count(self, number: int) -> cp_sat.LinearExprT:
        """Tiles of one shape in this array."""
        return self.stacked[number] + self.lower.get(number, 0) + self.upper.get(number, 0)

    def fill(self, solver: Solver) -> Fill:
        """The tiles at their places."""
        tiles: list[tuple[int, int, int]] = []
        column = 0
        for number, shape in enumerate(self.shapes):
            high = self.lines[0] // shape.height
            places = range(solver.value(self.stacked[number]))
            tiles += [(number, at % high * shape.height, column + at // high * shape.width) for at in places]
            column += -(-len(places) // high) * shape.width
        for shelf in (self.lower, self.upper):
            first = column
            for number, amount in shelf.items():
                line = 0 if shelf is self.lower else self.lines[0] - self.shapes[number].height
                for _ in range(solver.value(amount)):
                    tiles.append((number, line, first))
                    first += self.shapes[number].width
        return Fill(tuple(tiles), (), sum(self.shapes[number].load for number, _, _ in tiles))
