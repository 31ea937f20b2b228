"""Searches the shortest interval of a small network with the joint model, and builds its replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import Replica, read_only
from memcompile.passes.search.explore_windows import CopyOption
from memcompile.passes.search.joint_model import Distribution, JointPlan, JointProblem, Master, Scheme
from memcompile.passes.solving.clock import FOREVER, Clock


@dataclass(frozen=True)
class JointEffort:
    """Deterministic limits of the search: solver time per problem, and schemes tried per interval."""

    master: float = 4.0
    distribution: float = 2.0
    proposals: int = 6
    intervals: int = 12
    clock: Clock = FOREVER


EFFORTS = {
    "normal": JointEffort(),
    "best": JointEffort(master=20.0, distribution=20.0, proposals=40, intervals=40),
}


def search_jointly(problem: JointProblem, lowest: int, beat: int, effort: JointEffort) -> JointPlan | None:
    """A plan with a short interval below ``beat``, None if none was found; ``lowest`` is a known bound."""
    interval = _first_possible(problem, lowest, beat, effort)
    proven = True
    for _ in range(effort.intervals):
        if interval >= beat or effort.clock.is_over:
            return None
        plan, impossible = _try_interval(problem, interval, effort)
        if plan is not None:
            return plan
        proven = proven and impossible
        # Step by step as long as all schemes are ruled out; then with a wider stride, to find a plan in time.
        interval += 1 if proven else max(1, interval // 64)
    return None


def _first_possible(problem: JointProblem, lowest: int, beat: int, effort: JointEffort) -> int:
    """Smallest interval whose master problem has a solution or stays undecided."""
    low, high = lowest, beat
    while low < high and not effort.clock.is_over:
        middle = (low + high) // 2
        try:
            possible = Master(problem, middle).propose(effort.master) is not None
        except TimeoutError:
            possible = True
        if possible:
            high = middle
        else:
            low = middle + 1
    return low


def _try_interval(problem: JointProblem, interval: int, effort: JointEffort) -> tuple[JointPlan | None, bool]:
    """A plan of this interval; else None, and True if it is proven that there is none."""
    master = Master(problem, interval)
    proven = True
    for _ in range(effort.proposals):
        try:
            choice = master.propose(effort.master)
        except TimeoutError:
            return None, False
        if choice is None:
            return None, proven
        schemes = {layer: master.schemes[layer][number] for layer, number in choice.items()}
        try:
            limit = effort.distribution
            distribution = Distribution(problem, interval, schemes, own_lines=True)
            free = distribution.solve(limit)
            if free is not None:
                found = {**schemes, **free}
                chosen = tuple(found[layer] for layer in range(len(problem.layers)))
                return JointPlan(chosen, interval, distribution.contents), False
            relaxed = Distribution(problem, interval, schemes, own_lines=False).solve(limit)
            proven = proven and relaxed is None
        except TimeoutError:
            proven = False
        if not choice:
            return None, proven
        master.forbid(choice)
    return None, False


def replicas_of(options: Sequence[CopyOption], scheme: Scheme) -> tuple[Replica, ...]:
    """Replicas of a scheme with the windows that each computes.

    Larger windows take the first windows inside the output that are still free; the smallest take
    the rest. The windows of an option are dealt round its replicas in proportion to their loads,
    so that neighbouring windows are computed at once.
    """
    parts = sorted(scheme, key=lambda part: (-options[part.option].unrolling.window_outputs, part.option))
    geometry = options[0].unrolling.geometry
    covered = np.zeros(geometry.positions + 1, bool)  # the last entry stands for "outside"
    replicas = []
    for place, part in enumerate(parts):
        option = options[part.option]
        positions = option.unrolling.window_positions()
        outside = positions < 0
        free = ~(covered[positions] & ~outside).any(axis=1)
        if place < len(parts) - 1:
            free &= ~outside.any(axis=1)
        chosen = np.flatnonzero(free)[: sum(part.loads)]
        assert len(chosen) == sum(part.loads), "a scheme covers every output position once"
        covered[positions[chosen]] = True
        covered[-1] = False
        replicas += [Replica(option.unrolling, option.cut, read_only(windows)) for windows in deal(chosen, part.loads)]
    assert covered[:-1].all(), "a scheme covers every output position once"
    return tuple(replicas)


def deal(windows: NDArray[np.int64], loads: Sequence[int]) -> list[NDArray[np.int32]]:
    """Deal windows out to replicas round by round, to each as many as its load."""
    turn = np.concatenate([(np.arange(load) + 0.5) / load for load in loads])
    copy = np.repeat(np.arange(len(loads)), loads)
    order = np.lexsort((copy, turn))
    owner = copy[order]
    return [np.ascontiguousarray(windows[owner == number], np.int32) for number in range(len(loads))]
