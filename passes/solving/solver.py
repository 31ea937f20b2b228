"""CP-SAT as all passes use it: one thread, one seed, and limits that do not depend on the machine."""

from __future__ import annotations

import math

from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.clock import running_clock

LINEARIZED = 2
"""Linear relaxation of all constraints, which bounds need; the solver's own default is 1."""
SET_UP_WORK = 0.002
"""Fixed work of every solve."""
PART_WORK = 2e-5
"""Work of building and loading a variable or a constraint."""


class Solver:
    """A solver whose result is the same on every machine, unless the running clock has an end.

    Parameters
    ----------
    limit
        In the solver's deterministic time, about seconds.
    """

    def __init__(self, limit: float, linearization_level: int = LINEARIZED) -> None:
        self._limit = limit
        self._solver = cp_sat.CpSolver()
        self.parameters = self._solver.parameters
        self.parameters.num_workers = 1
        self.parameters.random_seed = 0
        self.parameters.linearization_level = linearization_level

    def solve(self, model: cp_sat.CpModel) -> cp_sat.CpSolverStatus:
        """Solve within the limit and what the running clock leaves, and spend from it."""
        clock = running_clock()
        self.parameters.max_deterministic_time = clock.limit(self._limit)
        if clock.seconds_left < math.inf:
            self.parameters.max_time_in_seconds = clock.seconds_left
        status = self._solver.solve(model)
        spent = self._solver.response_proto.deterministic_time
        parts = len(model.proto.variables) + len(model.proto.constraints)
        clock.spend(SET_UP_WORK + PART_WORK * parts + spent)
        return status

    def value(self, expression: cp_sat.LinearExprT) -> int:
        """Value of an expression in the solution."""
        return self._solver.value(expression)

    @property
    def best_objective_bound(self) -> float:
        """Proven bound of the objective."""
        return self._solver.best_objective_bound
