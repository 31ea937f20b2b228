"""CP-SAT as all passes use it: one thread, one seed, and a limit that does not depend on the machine."""

from __future__ import annotations

from memcompile.passes import cp_sat

LINEARIZED = 2
"""Linear relaxation of all constraints, which bounds need; the solver's own default is 1."""


def cp_solver(limit: float, linearization_level: int = LINEARIZED) -> cp_sat.CpSolver:
    """A solver whose result is the same on every machine.

    Parameters
    ----------
    limit
        In the solver's deterministic time, about seconds.
    """
    solver = cp_sat.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = limit
    solver.parameters.linearization_level = linearization_level
    return solver
