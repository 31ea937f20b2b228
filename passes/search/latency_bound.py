"""Lower bounds for the latency of one image over all windows and numbers of replicas.

They hold for every schedule in which layers overlap as far as their data allows. They assume
no order of windows: each output position of a layer may come first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from memcompile.passes.search.problem import WAYS, MappingProblem
from memcompile.timing.dataflow_steps import Flow, Steps, last_step


def latency_bound(problem: MappingProblem, flow: Flow, uses: Sequence[Sequence[int]]) -> int:
    """Return the largest of three bounds.

    The longest path: a layer's output position exists after its inputs by the turns of its shortest window at the
    earliest, which is one step where output lines do not share converters.
    A layer's own steps: no more positions can be finished than the rate of the layer allows, from
    the step on in which the first can be. The remaining work: all layers that cannot begin
    before a step need the array steps of their cheapest windows after it.

    Parameters
    ----------
    flow
        The network with one replica of each layer, one position a step.
    uses
        Layers of the network that each one of the problem stands for; they share cells, and the rate with these.
    """
    kind_of = {
        layer: kind for kind, item in enumerate(problem.kinds) for member in item.members for layer in uses[member]
    }
    of_kinds = _rates(problem)
    rates = {layer: of_kinds[kind] for layer, kind in kind_of.items()}
    least = {layer: int(problem.longest[kind].min()) for layer, kind in kind_of.items()}
    begins: list[int] = []
    ends: list[int] = []

    def work(layer: int, ready: Sequence[Steps]) -> list[Steps]:
        (steps,) = ready
        begins.append(int(steps.min()))
        left = np.arange(len(steps), 0, -1)
        # Positions that can be read from step r on are finished at the rate, in the turns of a window at the least.
        taken = np.maximum(np.ceil(left / rates[layer] - 1e-9), least[layer])
        ends.append(int((np.sort(steps) + taken).max()))
        return [steps + least[layer]]

    path = last_step(flow.walk(work), ends)
    positions = [layer.geometry.positions for layer in flow.layers]
    least_work = [_least_work(problem, kind_of[layer], positions[layer]) for layer in range(len(begins))]
    return max(1, path, *_work_left(problem, begins, least_work))


def _rates(problem: MappingProblem) -> list[float]:
    """Output positions that each kind of layer can finish in a step, with all arrays the others leave."""
    areas = [demand.part[:, : WAYS // 2] for demand in problem.demand]  # cells in the four plain ways
    area = [
        (item * (problem.longest[kind] / _outputs(problem, kind))[:, None]).min(axis=0)
        for kind, item in enumerate(areas)
    ]  # arrays per position a step, counted in each way
    single = [item.min(axis=0) for item in areas]
    others = sum(count * item for count, item in zip(problem.layers, single, strict=True))
    rates = []
    for kind in range(len(problem.kinds)):
        steps = float((problem.work[kind] / problem.windows[kind] / _outputs(problem, kind)).min())
        room = problem.arrays - (others - single[kind])
        # A way in which a layer takes nothing limits nothing.
        by_cells = float(np.divide(room, area[kind], out=np.full(room.shape, np.inf), where=area[kind] > 0).min())
        at_least = 1.0 / float(problem.longest[kind].min())
        rates.append(max(min(by_cells, problem.arrays / steps), at_least))
    return rates


def _outputs(problem: MappingProblem, kind: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([option.unrolling.window_outputs for option in problem.kinds[kind].options], np.float64)


def _work_left(problem: MappingProblem, begins: Sequence[int], work: Sequence[int]) -> list[int]:
    """Bounds from the array steps, ``work``, of all layers that begin at a step or later."""
    order = sorted(range(len(begins)), key=lambda layer: -begins[layer])
    found, total = [], 0
    for layer, after in pairwise((*order, -1)):
        total += work[layer]
        if after < 0 or begins[after] < begins[layer]:
            found.append(begins[layer] + math.ceil(total / problem.arrays))
    return found


def _least_work(problem: MappingProblem, kind: int, positions: int) -> int:
    """Array steps of a layer if all windows lay inside the output: no mixture of windows takes fewer."""
    tiles = problem.work[kind] / problem.windows[kind]
    return math.ceil(float((tiles * positions / _outputs(problem, kind)).min()) - 1e-9)
