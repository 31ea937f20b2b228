"""Assignment of arrays to chips, and the values that cross chips."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from factories import make_target
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_graphs import chain, context_of, conv, dense, geometries, mapped, paired

from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import DigitalNode, Graph, MappedLayer, TensorType, TileTable
from memcompile.passes.placement.chips import fill, group_rests
from memcompile.passes.placement.traffic import Traffic
from memcompile.passes.replicate import Replicate
from memcompile.passes.search.layer_graph import mapped_layers


def read_by(layer: MappedLayer, tiles: TileTable, row: int) -> set[tuple[int, int]]:
    """(channel, position) that a tile reads: the channels of its rows, at all positions of its copy.

    Looked up in the input vectors of an image whose values are their own numbers.
    """
    geometry, copy = layer.geometry, layer.replicas[int(tiles.replica[row])]
    size = int(np.prod(geometry.input_size))
    image = np.arange(1, geometry.in_channels * size + 1).reshape(1, geometry.in_channels, *geometry.input_size)
    vectors = copy.unrolling.patches(image, copy.windows)[0]
    own = vectors[:, tiles.matrix[row], tiles.row_begin[row] : tiles.row_end[row]]
    channels = {int(value - 1) // size for value in own.ravel() if value}
    positions = {int(value - 1) % size for value in vectors.ravel() if value}
    return set(itertools.product(channels, positions))


def crossing_of_a_chain(graph: Graph, tiles: TileTable, chip: np.ndarray) -> int:
    """Values that cross chips, one by one, for layers that read each other's output."""
    total, source = 0, None
    for number, layer in enumerate(mapped_layers(graph)):
        own = np.flatnonzero(tiles.layer == number)
        cells = {
            c: sum(int(tiles.heights[i] * (tiles.column_end[i] - tiles.column_begin[i])) for i in own if chip[i] == c)
            for c in sorted({int(chip[i]) for i in own})
        }
        home = max(cells, key=lambda c: (cells[c], -c))
        for c in cells:
            here = [i for i in own if chip[i] == c]
            if source is not None and c != source:
                total += len(set().union(*(read_by(layer, tiles, i) for i in here)))
            if c != home:
                sums = {
                    (int(tiles.replica[i]), window, int(tiles.matrix[i]), column)
                    for i in here
                    for window in layer.replicas[int(tiles.replica[i])].windows.tolist()
                    for column in range(tiles.column_begin[i], tiles.column_end[i])
                }
                total += len(sums)
        source = home
    return total


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.one_of(geometries(), st.builds(conv, st.integers(4, 7), st.just(3), st.just(2), st.just(4))),
        min_size=2,
        max_size=3,
    ),
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
)
def test_the_count_agrees_with_one_value_at_a_time(layers: list, seed: int, per_chip: int) -> None:
    target = make_target(array={"input_lines": 12, "output_lines": 32}, chip={"arrays": per_chip})
    graph = mapped(chain(layers, target), context_of(target), Replicate(effort="fast"))
    assert graph.placement is not None
    tiles, chips = graph.placement.tiles, graph.placement.chips
    traffic = Traffic(graph, tiles)
    chip = (tiles.array // per_chip).astype(np.int64)
    assert graph.placement.crossing_values == traffic.crossing(chip) == crossing_of_a_chain(graph, tiles, chip)
    bound = traffic.bound(tiles.array.astype(np.int64), per_chip)
    assert bound <= graph.placement.crossing_values
    # Any other numbering of the arrays has more than the bound, too, and is counted right.
    numbers = np.random.default_rng(seed).permutation(chips * per_chip)
    other = (numbers[tiles.array] // per_chip).astype(np.int64)
    assert bound <= traffic.crossing(other) == crossing_of_a_chain(graph, tiles, other)


def test_unequal_copies_and_tiles_are_counted_and_bounded_on_any_two_chips() -> None:
    """Copies of four windows and of one less, of tiles with many rows and with few."""
    target = make_target(array={"input_lines": 12, "output_lines": 16}, chip={"arrays": 10})
    layers = [conv(3, 1, 1, 14), conv(3, 1, 14, 3)]
    graph = mapped(chain(layers, target), context_of(target), Replicate(effort="fast"))
    assert graph.placement is not None
    tiles, second = graph.placement.tiles, mapped_layers(graph)[1]
    own = tiles.layer == 1
    assert len({len(replica.windows) for replica in second.replicas}) == 2
    assert len(set(tiles.heights[own].tolist())) == 2
    traffic = Traffic(graph, tiles)
    least = traffic.further_chip()[1]
    for split in itertools.product((0, 1), repeat=int(own.sum()) - 1):
        chip = np.zeros(len(tiles), np.int64)
        chip[own] = (*split, 0)
        crossing = traffic.crossing(chip)
        assert crossing == crossing_of_a_chain(graph, tiles, chip)
        assert crossing >= (least if any(split) else 0)


def test_inputs_go_only_to_chips_whose_rows_read_them() -> None:
    layers = [dense(16, 64), dense(64, 64)]
    target = make_target(chip={"arrays": 3})
    graph = mapped(chain(layers, target), context_of(target), Replicate(objective="arrays"))
    assert graph.placement is not None
    # Five full arrays on chips of three: two of the second layer's four row tiles lie on the other
    # chip; they read 32 inputs, and 64 sums come back.
    assert graph.placement.chips == 2
    assert graph.placement.crossing_values == 32 + 64
    certificate = next(item for item in graph.placement.certificates if item.quantity == "crossing_values")
    assert (certificate.value, certificate.bound) == (96, 96)


def test_a_shortcut_that_joins_on_another_chip_crosses_as_a_whole() -> None:
    target = make_target(chip={"arrays": 1})
    first, second = paired("a", "x", "p", dense(16, 64), target, 1), paired("b", "p", "q", dense(64, 10), target, 1)
    types = {"x": TensorType("float32", (None, 16))}
    graph = chain([], target).replace(nodes=(first, second), outputs=("q",), inputs=("x",), types=types)
    plain = mapped(graph, context_of(target))
    assert plain.placement is not None
    tiles, chip = plain.placement.tiles, plain.placement.tiles.array.astype(np.int64)
    alone = Traffic(plain, tiles).crossing(chip)
    join = DigitalNode(name="join", inputs=("p", "q"), outputs=("y",), nodes=())
    joined = plain.replace(nodes=(*plain.nodes, join))
    homes = {number: np.bincount(chip[tiles.layer == number]).argmax() for number in (0, 1)}
    assert homes[0] != homes[1]
    assert Traffic(joined, tiles).crossing(chip) == alone + 64


@given(st.lists(st.integers(1, 7), max_size=12), st.integers(0, 3))
def test_rests_are_grouped_without_loss_in_the_chips_there_are(sizes: list[int], spare: int) -> None:
    edges = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    rests = [list(range(a, b)) for a, b in itertools.pairwise(edges)]
    chips = -(-int(edges[-1]) // 8) + spare
    groups = group_rests(rests, 8, chips)
    assert sorted(itertools.chain.from_iterable(groups)) == list(range(edges[-1]))
    assert all(len(group) <= 8 for group in groups)
    assert len(groups) <= chips


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(0, 30))
def test_sizes_fill_a_room_as_far_as_any_do(sizes: list[int], room: int) -> None:
    """Against all subsets; the last size that the result needs comes as early as it can."""
    chosen = fill(sizes, room)
    assert chosen == sorted(set(chosen))
    subsets = [some for count in range(len(sizes) + 1) for some in itertools.combinations(range(len(sizes)), count)]
    best = max(sum(sizes[i] for i in some) for some in subsets if sum(sizes[i] for i in some) <= room)
    assert sum(sizes[i] for i in chosen) == best
    assert max(chosen, default=-1) == min(
        max(some, default=-1) for some in subsets if sum(sizes[i] for i in some) == best
    )


def test_the_dearest_layers_stay_whole() -> None:
    dear, middle, cheap = [0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15]
    groups = group_rests([dear, middle, cheap], 8, 2)
    assert [set(dear) <= set(group) for group in groups].count(True) == 1
    assert [set(middle) <= set(group) for group in groups].count(True) == 1


@pytest.mark.parametrize(
    ("layers", "by_columns"), [([dense(256, 64)], True), ([dense(16, 256), dense(256, 64)], False)]
)
def test_tiles_that_share_sums_or_inputs_share_a_chip(layers: list[Geometry], by_columns: bool) -> None:
    """16 row tiles x 2 column tiles on 4 chips of 8 arrays.

    By columns 3 chips send 32 sums; by rows they send 64, but a chip then reads half the inputs,
    which cross if they come from another layer.
    """
    target = make_target(array={"input_lines": 16, "output_lines": 64}, chip={"arrays": 8})
    graph = mapped(chain(layers, target), context_of(target), Replicate(objective="arrays"))
    assert graph.placement is not None
    tiles = graph.placement.tiles
    own = tiles.layer == len(layers) - 1
    blocks = {chip: own & (tiles.array // 8 == chip) for chip in np.unique(tiles.array[own] // 8).tolist()}
    assert len(blocks) == 4
    for block in blocks.values():
        shape = len(np.unique(tiles.row_begin[block])), len(np.unique(tiles.column_begin[block]))
        assert shape == ((8, 1) if by_columns else (4, 2))
