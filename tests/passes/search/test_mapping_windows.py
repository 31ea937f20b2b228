"""Ways to lay out a copy: counts against the geometry, published tables, joint plans."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_graphs import geometries
from mapping import fewest_steps

from memcompile.hardware.line_turns import LineTurns
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.passes.packing.tiling import full_cut
from memcompile.passes.search import benders
from memcompile.passes.search.explore_windows import ReplicaOption, explore_windows, window_table
from memcompile.passes.search.nested_windows import Part, deal, nested, replicas_of, schemes_of, whole_windows
from memcompile.passes.search.problem import LayerKind, MappingProblem


def valid_conv(size: int, kernel: int, channels: int, kernels: int) -> Geometry:
    return Geometry(channels, kernels, (kernel, kernel), (size, size), 1, (1, 1), (1, 1), (0, 0), (0, 0))


RESNET18 = [(112, 7, 3, 64), (56, 3, 64, 64), (28, 3, 128, 128), (14, 3, 256, 256), (7, 3, 512, 512)]
VGG13 = [
    (224, 3, 3, 64),
    (224, 3, 64, 64),
    (112, 3, 64, 128),
    (112, 3, 128, 128),
    (56, 3, 128, 256),
    (56, 3, 256, 256),
    (28, 3, 256, 512),
    (28, 3, 512, 512),
    (14, 3, 512, 512),
    (14, 3, 512, 512),
]


@pytest.mark.parametrize(("layers", "steps", "bound"), [(RESNET18, 3_833, 3_832), (VGG13, 67_972, 67_971)])
def test_published_layers_in_one_array_beat_the_published_step_counts(
    layers: list[tuple[int, int, int, int]], steps: int, bound: int
) -> None:
    plans = [fewest_steps(valid_conv(*layer), 512, 512) for layer in layers]
    assert sum(plan.steps for plan in plans) == steps
    assert sum(plan.bound for plan in plans) == bound
    for layer, plan in zip(layers, plans, strict=True):
        geometry = valid_conv(*layer)
        assert plan.bound <= plan.steps
        covered = 0
        for window, count, tiles in plan.parts:
            unrolling = Unrolling(geometry, window)
            assert tiles == -(-unrolling.rows // 512) * -(-unrolling.columns // 512)
            covered += count * unrolling.window_outputs
        assert covered >= geometry.positions


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 5),
    st.sampled_from([1, 2]),
)
def test_table_agrees_with_the_unrolling(
    channels: int, kernels: int, kernel: int, stride: int, dilation: int, extra: int, groups: int
) -> None:
    size = dilation * (kernel - 1) + 1 + extra
    geometry = Geometry(
        channels * groups,
        kernels * groups,
        (kernel, kernel),
        (size, size),
        groups,
        (stride, stride),
        (dilation, dilation),
        (0, 0),
        (0, 0),
    )
    rows, columns = 7, 5
    turns = LineTurns(10, 3)
    table = window_table(geometry, rows, columns, 2_000, 2, turns)
    for n in range(len(table.tiles)):
        unrolling = Unrolling(geometry, tuple(map(int, table.window[n])), int(table.bundle[n]))
        cut = full_cut(unrolling, rows, columns)
        assert table.tiles[n] == unrolling.matrices * cut.tiles
        assert table.windows[n] == unrolling.windows
        of_columns = turns.steps(2 * np.diff(cut.columns)).tolist()
        assert table.tile_steps[n] == unrolling.matrices * (len(cut.rows) - 1) * sum(of_columns)
        assert table.longest[n] == max(of_columns)
        assert table.entries[n] == unrolling.matrices * unrolling.rows * unrolling.columns
    options = explore_windows(geometry, rows, columns, 2, 4_000, turns, (2,))
    assert any(option.unrolling.window == (1, 1) for option in options)
    for first, second in itertools.permutations(options, 2):
        figures = [(option.crossings, option.windows, option.work, option.longest) for option in (first, second)]
        assert any(a > b for a, b in zip(*figures, strict=True))


def option(geometry: Geometry, window: tuple[int, ...]) -> ReplicaOption:
    unrolling = Unrolling(geometry, window)
    return ReplicaOption.of(unrolling, full_cut(unrolling, 16, 64), 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 11), st.integers(1, 12))
def test_every_scheme_computes_each_output_once(size: int, interval: int) -> None:
    geometry = valid_conv(size, 3, 8, 12)
    output = size - 2
    windows = [window for window in ((1, 1), (1, 2), (2, 2), (1, 4)) if max(window) <= output]
    options = [option(geometry, window) for window in windows]
    for scheme in schemes_of(options, interval):
        replicas = replicas_of(options, scheme)
        positions = np.concatenate(
            [replica.unrolling.window_positions()[replica.windows].ravel() for replica in replicas]
        )
        assert sorted(positions[positions >= 0]) == list(range(geometry.positions))
        assert max(len(replica.windows) for replica in replicas) <= interval


def test_nesting_counts_whole_windows() -> None:
    geometry = valid_conv(9, 3, 8, 12)
    assert nested(option(geometry, (2, 4)), option(geometry, (1, 2))) == 4
    assert nested(option(geometry, (1, 3)), option(geometry, (1, 2))) == 0
    assert nested(option(geometry, (1, 2)), option(geometry, (1, 2))) == 0
    assert whole_windows(option(geometry, (2, 2))) == 9


def test_dealing_interleaves_copies_in_proportion_to_their_loads() -> None:
    shares = deal(np.arange(6), (4, 2))
    assert [share.tolist() for share in shares] == [[0, 2, 3, 5], [1, 4]]
    equal = deal(np.arange(6), (2, 2, 2))
    assert [share.tolist() for share in equal] == [[0, 3], [1, 4], [2, 5]]


def test_benders_agrees_with_enumeration_on_a_tiny_problem() -> None:
    """Two arrays of 16 x 32 lines, one layer of 9 rows and 8 columns (16 lines), 12 positions."""
    geometry = Geometry(1, 8, (3, 3), (5, 6), 1, (1, 1), (1, 1), (0, 0), (0, 0))
    options = (option(geometry, (1, 1)), option(geometry, (1, 2)))
    problem = MappingProblem((LayerKind((0,), options),), (16, 32), 2)
    found = benders.search(problem, 1, 100, benders.LIMITS["normal"])
    best = min(
        max(
            # Each array has room for one (1, 2) copy, or for (1, 1) copies that take turns.
            (12 - 2 * sum(pair)) * (place == 0) + pair[0] if place == 0 else pair[1]
            for place in (0, 1)
        )
        for pair in itertools.product(range(7), repeat=2)
        if sum(pair) <= 6 and (sum(pair) == 6 or 0 in pair)
    )
    assert found is not None
    assert found.interval == best == 3


def test_a_part_lists_the_windows_of_each_copy() -> None:
    geometry = valid_conv(9, 3, 8, 12)
    options = [option(geometry, (1, 1))]
    replicas = replicas_of(options, (Part(0, (25, 24)),))
    assert [len(replica.windows) for replica in replicas] == [25, 24]


def test_the_arrays_of_a_joint_plan_hold_its_tiles_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry(1, 8, (3, 3), (5, 6), 1, (1, 1), (1, 1), (0, 0), (0, 0))
    options = (option(geometry, (1, 1)), option(geometry, (1, 2)))
    problem = MappingProblem((LayerKind((0,), options),), (16, 32), 2)
    plan = benders.search(problem, 1, 100, benders.LIMITS["normal"])
    assert plan is not None
    assert benders.packed_side_by_side(plan, problem) is None, "placement finds one itself"
    monkeypatch.setattr(benders, "pack", lambda *args, **options: None)
    packing = benders.packed_side_by_side(plan, problem)
    assert packing is not None
    assert packing.arrays <= problem.arrays
    assert max(fill.load for fill, _ in packing.fills) <= plan.interval
    loads = sum(sum(part.loads) * options[part.option].tiles for part in plan.schemes[0])
    assert sum(fill.load * count for fill, count in packing.fills) == loads


@given(geometries(), st.integers(1, 3))
def test_windows_of_further_layers_are_counted(geometry: Geometry, more: int) -> None:
    other = replace(geometry, input_size=tuple(size + more for size in geometry.input_size))
    table = window_table(geometry, 16, 8, 2_000).of_all([other, geometry])
    for window, bundle, count in zip(table.window.tolist(), table.bundle.tolist(), table.windows.tolist(), strict=True):
        unrolled = [Unrolling(layer, tuple(window), bundle) for layer in (geometry, other, geometry)]
        assert count == sum(unrolling.windows for unrolling in unrolled)
        assert all(size >= each for size, each in zip(geometry.output_size, window, strict=True))
