"""Mixtures of nested windows in a layer: the larger inside the output, the smaller for the rest, with the edges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import Replica, read_only
from memcompile.passes.search.explore_windows import ReplicaOption
from memcompile.passes.solving import cp_sat


@dataclass(frozen=True)
class Part:
    """Replicas of one option: its number in the layer's list, and the windows of each replica."""

    option: int
    loads: tuple[int, ...]


Scheme = tuple[Part, ...]


def nested(outer: ReplicaOption, inner: ReplicaOption) -> int:
    """Number of windows of ``inner`` that make up one of ``outer``; 0 if the sizes do not nest."""
    outer_window, inner_window = outer.unrolling.window, inner.unrolling.window
    if outer_window == inner_window or outer.unrolling.bundle != inner.unrolling.bundle:
        return 0
    if any(a % b for a, b in zip(outer_window, inner_window, strict=True)):
        return 0
    return math.prod(outer_window) // math.prod(inner_window)


def whole_windows(option: ReplicaOption) -> int:
    """Number of windows that lie entirely inside the output."""
    size = option.unrolling.geometry.output_size
    return math.prod(length // count for length, count in zip(size, option.unrolling.window, strict=True))


def evenly(windows: int, copies: int) -> tuple[int, ...]:
    """Split windows among replicas, the larger shares first."""
    least, longer = divmod(windows, copies)
    return (least + 1,) * longer + (least,) * (copies - longer)


def schemes_of(options: Sequence[ReplicaOption], interval: int) -> list[Scheme]:
    """One option, or a larger window and a nested smaller one for the rest; at most one spare replica."""
    found: list[Scheme] = []
    for inner, option in enumerate(options):
        found += [(part,) for part in _parts(inner, option, option.windows, interval)]
        for outer, larger in enumerate(options):
            ratio, whole = nested(larger, option), whole_windows(larger)
            if not ratio or not whole:
                continue
            held = interval // larger.longest
            counts = {whole, *range(held, whole, held)} if held else ()
            for count in sorted(counts):
                rest = option.windows - ratio * count
                if rest > 0:
                    found += [
                        (first, second)
                        for first in _parts(outer, larger, count, interval)
                        for second in _parts(inner, option, rest, interval)
                    ]
    return found


def _parts(number: int, option: ReplicaOption, windows: int, interval: int) -> list[Part]:
    """The fewest replicas that keep the interval, or one more."""
    held = interval // option.longest
    fewest = -(-windows // held) if held else windows + 1
    return [Part(number, evenly(windows, copies)) for copies in (fewest, fewest + 1) if copies <= windows]


def cover(model: cp_sat.CpModel, options: Mapping[int, ReplicaOption]) -> dict[int, cp_sat.IntVar]:
    """Number of windows of each option of a layer, so that every output position is computed once.

    Active windows form a chain of nested sizes; all but the smallest lie entirely inside the output.
    """
    free = list(options)
    windows = {u: model.new_int_var(0, options[u].windows, "") for u in free}
    active = {u: model.new_bool_var("") for u in free}
    smallest = {u: model.new_bool_var("") for u in free}
    model.add_exactly_one(smallest.values())
    for u in free:
        model.add(windows[u] == 0).only_enforce_if(~active[u])
        model.add_implication(smallest[u], active[u])
        inside = {v: ratio for v in free if (ratio := nested(options[v], options[u]))}
        covered = windows[u] + sum(ratio * windows[v] for v, ratio in inside.items())
        model.add(covered == options[u].windows).only_enforce_if(smallest[u])
        model.add(covered <= whole_windows(options[u])).only_enforce_if(active[u], ~smallest[u])
        for v in free:
            if v != u and v not in inside:
                model.add_implication(smallest[u], ~active[v])
                if v > u and not nested(options[u], options[v]):
                    model.add_bool_or(~active[u], ~active[v])
    return windows


def replicas_of(options: Sequence[ReplicaOption], scheme: Scheme) -> tuple[Replica, ...]:
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
