"""Writer of the cells of one chip, closed loop, with the errors that are left and the pulses that it takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.closed_loop import write
from memcompile.hardware.pair_corrections import correction_goals_us
from memcompile.hardware.pulses import WriteReport, nominal_pulses
from memcompile.ir.sharing import first_layers
from memcompile.program.cell_map import Pairs
from memcompile.program.program import ChipState, Program
from memcompile.runtime.effects.programming_error import programmed_us
from memcompile.runtime.effects.stuck_cells import stuck_places
from memcompile.runtime.effects.write_verify import cycles_of_cells, step_shares
from memcompile.runtime.kernels.cell_numbers import gaussians
from memcompile.runtime.random_numbers import Purpose, seed_of_write, stream

BACK_TOLERANCE = 0.5
"""Distance at which a cell counts as brought back, in standard deviations of the error that a write leaves."""
BACK_ROUNDS = 8


class Writer:
    """Writes cells of one chip, closed loop, and counts writes and pulses.

    ``report`` sums up what was written since it was last taken, and ``cell_pulses`` [arrays, input_lines,
    cell_columns] counts the pulses of each cell. Pulses are those emulated, else of nominal size, and
    there are none where the target gives no ``[write_verify]``.

    Parameters
    ----------
    seed
        Decides stuck cells and write errors; each round of writing draws new errors.
    """

    def __init__(self, program: Program, seed: int) -> None:
        self.program = program
        self.seed = seed
        shape = program.target.array
        g_min_us = program.target.cell.g_min_us
        self.cells_us = np.full((program.cell_map.arrays, shape.input_lines, shape.cell_columns), g_min_us, np.float32)
        self.cell_pulses = np.zeros(self.cells_us.shape, np.int64)
        self.rounds = 0
        self.report = self._no_writes()
        self._low, self._high = self._stuck()
        self._keep_stuck()
        self._shares = self._step_shares()
        if self._shares is None:
            self._blur_blanks()

    def _blur_blanks(self) -> None:
        """Cells are delivered at the lowest level, as closed-loop writing leaves it; then weights are written."""
        cell, share = self.program.target.cell, self.program.target.programming.blank_share
        everything = np.arange(self.cells_us.size)
        self._leave_error(everything, np.full(self.cells_us.size, cell.g_min_us))
        stuck = self._low | self._high
        blurred = cell.g_min_us + share * (self.cells_us - cell.g_min_us)
        self.cells_us = np.where(stuck, self.cells_us, blurred).astype(np.float32)
        self.rounds += 1

    def take_report(self) -> WriteReport:
        """Counts of writes since the last call; sums start anew, so that they never depend on earlier ones."""
        report, self.report = self.report, self._no_writes()
        return report

    def _no_writes(self) -> WriteReport:
        return WriteReport(failures=0 if self.program.target.emulated_pulses else None)

    @classmethod
    def resume(cls, program: Program, seed: int, rounds: int, cell_pulses: NDArray[np.int64]) -> Writer:
        """The writer of a chip that already went through ``rounds`` rounds of writing with these pulses."""
        assert program.chip is not None
        writer = cls(program, seed)
        writer.cells_us = program.chip.conductances_us.copy()
        writer.rounds = rounds
        writer.cell_pulses = cell_pulses.copy()
        return writer

    def write(self, cells: NDArray[np.int64], target_us: NDArray[np.floating]) -> None:
        """Bring different cells (flat numbers) to conductances within the window of the target; stuck cells stay."""
        cell = self.program.target.cell
        wanted = np.clip(target_us, cell.g_min_us, cell.g_max_us)
        if self._shares is None:
            self._count(cells, wanted)
            self._leave_error(cells, wanted)
        else:
            self._pulse(cells, wanted, self._shares)
        self.rounds += 1

    def _leave_error(self, cells: NDArray[np.int64], wanted_us: NDArray[np.floating]) -> None:
        """Cells with the error of a write of their own."""
        cell = self.program.target.cell
        noise = gaussians(1, cells, 1 + self.rounds, stream(Purpose.PROGRAMMING, 1), self.seed)[..., 0]
        goals_us = wanted_us.astype(np.float64)
        self.cells_us.reshape(-1)[cells] = programmed_us(
            goals_us, self.program.target.programming, cell, noise.astype(np.float64)
        )
        self._keep_stuck()

    def _pulse(self, cells: NDArray[np.int64], wanted_us: NDArray[np.floating], shares: NDArray[np.float64]) -> None:
        """Pulse by pulse, from where the cells are."""
        spec, flat_us = self.program.target.write_verify, self.cells_us.reshape(-1)
        assert spec is not None
        written = write(
            flat_us[cells].astype(np.float64),
            wanted_us.astype(np.float64),
            shares[cells],
            spec,
            self.program.target.cell,
            cycles_of_cells(cells, seed_of_write(self.seed, self.rounds)),
        )
        flat_us[cells] = written.cells_us
        self.cell_pulses.reshape(-1)[cells] += written.pulses
        self.report += WriteReport.of(written.pulses, written.energy_j, written.failed)

    def _step_shares(self) -> NDArray[np.float64] | None:
        """Mean step of each cell, flat, as a share of the nominal one; None where no pulses are emulated."""
        spec = self.program.target.emulated_pulses
        if spec is None:
            return None
        shares, stuck = np.zeros(self.cells_us.shape), self._low | self._high
        for number in range(len(shares)):
            shares[number] = step_shares(stuck[number], spec, number, self.seed)
        return shares.reshape(-1)

    def _keep_stuck(self) -> None:
        cell = self.program.target.cell
        self.cells_us[self._low] = cell.g_min_us
        self.cells_us[self._high] = cell.g_max_us

    def _count(self, cells: NDArray[np.int64], wanted_us: NDArray[np.floating]) -> None:
        """Add the cost of bringing cells from their conductances to the wanted ones."""
        spec, now_us = self.program.target.write_verify, self.cells_us.reshape(-1)[cells].astype(np.float64)
        if spec is None:
            self.report += WriteReport(writes=len(cells))
            return
        pulses, energy_j = nominal_pulses(now_us, wanted_us.astype(np.float64), spec)
        self.cell_pulses.reshape(-1)[cells] += pulses
        self.report += WriteReport.of(pulses, energy_j)

    def write_pairs(self, plus: NDArray[np.int64], minus: NDArray[np.int64], levels: NDArray[np.floating]) -> None:
        """Write signed, not necessarily whole levels into pairs: one cell above g_min, the other at it."""
        cell = self.program.target.cell
        for cells, sign in ((plus, 1.0), (minus, -1.0)):
            self.write(cells, cell.g_min_us + np.maximum(sign * levels, 0.0) * cell.level_step_us)

    def correct_pairs(
        self, plus: NDArray[np.int64], minus: NDArray[np.int64], levels: NDArray[np.floating], *, minus_first: bool
    ) -> None:
        """Bring pairs to signed levels by writing one cell of each, against the level that the other one really holds.

        That leaves the error of one write instead of two. ``minus_first`` says which cell is written where either has
        the room. Where one is stuck, which was seen when it was written first, it is always the other one.
        """
        cell, flat = self.program.target.cell, self.cells_us.reshape(-1)
        held_us = flat[plus].astype(np.float64), flat[minus].astype(np.float64)
        moves = ~(self._low | self._high).reshape(-1)
        by_minus, goals_us = correction_goals_us(
            held_us,
            (levels * cell.level_step_us).astype(np.float64),
            (moves[plus], moves[minus]),
            cell,
            minus_first=minus_first,
        )
        self.write(plus[~by_minus], goals_us[~by_minus])
        self.write(minus[by_minus], goals_us[by_minus])

    def bring_back(self, cells_us: NDArray[np.float32]) -> None:
        """Write the cells that have changed back to what they held, [arrays, input_lines, cell_columns].

        A former conductance cannot be restored exactly: each write leaves a new error. Cells that miss by more than
        ``BACK_TOLERANCE`` of its standard deviation are written again, ``BACK_ROUNDS`` times at most.
        """
        target, goal_us = self.program.target, cells_us.reshape(-1).astype(np.float64)
        cell, pulses = target.cell, target.emulated_pulses
        within = np.clip(goal_us, cell.g_min_us, cell.g_max_us)
        tolerance_us = BACK_TOLERANCE * target.programming.sigma_at_us(within, cell.reference_us)
        if pulses is not None:
            tolerance_us = np.full(goal_us.shape, pulses.margin_us)
        for _ in range(BACK_ROUNDS):
            off = np.abs(self.cells_us.reshape(-1) - goal_us) > tolerance_us + np.abs(within - goal_us)
            if not off.any():
                return
            cells = np.flatnonzero(off)
            self.write(cells, goal_us[cells])

    def measure_pairs(self, plus: NDArray[np.int64], minus: NDArray[np.int64]) -> NDArray[np.float64]:
        """Signed levels that pairs really hold (many reads average the read noise away)."""
        flat = self.cells_us.reshape(-1).astype(np.float64)
        return (flat[plus] - flat[minus]) / self.program.target.cell.level_step_us

    def _stuck(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Cells stuck at the lowest and at the highest conductance."""
        low, high = np.zeros((2, *self.cells_us.shape), np.bool_)
        for number in range(len(low)):
            places = stuck_places(low[number].size, self.program.target, number, self.seed)
            low[number].flat, high[number].flat = places
        return low, high

    def state(self) -> ChipState:
        """The chip as it is now."""
        return ChipState(self.cells_us.copy(), self.seed)


def held_levels(program: Program, writer: Writer, pairs: Pairs) -> dict[int, NDArray[np.float32]]:
    """Levels that the cells of each layer really hold, the mean over its replicas, by layer number.

    [groups, group_rows, group_columns] in levels of the least significant slice; layers that share cells have the same.
    """
    bases = np.array([layer.base for layer in program.layers], np.float64)
    held = writer.measure_pairs(pairs.plus, pairs.minus) * bases[pairs.layer] ** pairs.slice
    levels: dict[int, NDArray[np.float32]] = {}
    owners = first_layers(program.layers)
    for number, layer in enumerate(program.layers):
        if owners[number] < number:
            levels[number] = levels[int(owners[number])]
            continue
        here = pairs.layer == number
        weight, geometry = pairs.weight[here], layer.geometry
        total = np.bincount(weight, held[here], geometry.weights)
        copies = np.bincount(weight[pairs.slice[here] == 0], minlength=geometry.weights)
        shape = (geometry.groups, geometry.group_rows, geometry.group_columns)
        levels[number] = (total / copies).reshape(shape).astype(np.float32)
    return levels
