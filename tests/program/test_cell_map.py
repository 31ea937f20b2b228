"""The address book of a program, against what it says of single weights and of whole arrays."""

from __future__ import annotations

from typing import Any

import models
import numpy as np
import pytest
from factories import make_target

import memcompile
from memcompile.hardware.target import Target, load_target
from memcompile.program.program import Program
from memcompile.report.lookup import find_weight

CASES: dict[str, tuple[str, Target | str, dict[str, Any]]] = {
    "pairs on two lines": ("conv_bn", "yao2020", {}),
    "two slices": ("conv_bn", "yao2020", {"slices": 2}),
    "pairs on crossings": ("grouped_conv", "hermes", {}),
    "continuous cells": ("skip_connection", "ideal", {}),
    "segments": (
        "conv_bn",
        load_target("yao2020").with_(name="small", array__input_lines=16, array__output_lines=8, chip__arrays=2),
        {"chips": 1, "batch": 4},
    ),
}


@pytest.fixture(scope="module", params=CASES)
def program(request: pytest.FixtureRequest) -> Program:
    model, target, options = CASES[request.param]
    return memcompile.compile(models.SMALL[model][0](), target, effort="fast", **options)


def test_each_cell_belongs_to_one_pair(program: Program) -> None:
    weights, blanks = program.cell_map.pairs(), program.cell_map.pairs(blanks=True)
    cells = np.concatenate([weights.plus, weights.minus, blanks.plus, blanks.minus])
    assert len(np.unique(cells)) == len(cells) == program.cells_used == program.cell_map.cells.sum()
    assert (weights.weight >= 0).all()
    assert (blanks.weight == -1).all()
    assert not blanks.digit.any()


def test_addresses_give_the_cell_numbers_back(program: Program) -> None:
    cell_map, array = program.cell_map, program.target.array
    cells = cell_map.pairs().plus
    where = cell_map.addresses(cells)
    shape = (max(1, len(program.placement.segments)), cell_map.arrays, array.input_lines, array.output_lines)
    place = (where.segment, where.array, where.input_line, where.output_line, where.crossing)
    assert np.array_equal(np.ravel_multi_index(place, (*shape, array.cells_per_crossing)), cells)


def test_cells_lie_in_their_tile(program: Program) -> None:
    cell_map, tiles = program.cell_map, program.placement.tiles
    for tile, weights in cell_map.blocks(range(len(tiles))):
        rows, columns = np.nonzero(weights >= -1)
        where = cell_map.addresses(cell_map.first_cells(tile, rows, columns))
        lines, outputs = cell_map.input_lines_of(tile), cell_map.output_lines_of(tile)
        assert (where.array == tiles.array[tile]).all()
        assert (where.segment == tiles.segment[tile]).all()
        assert np.array_equal(np.unique(where.input_line), np.arange(lines.start, lines.stop))
        assert where.output_line.min() == outputs.start
        assert where.output_line.max() < outputs.stop


def test_look_up_and_list_of_pairs_agree(program: Program) -> None:
    pairs, cell_map, per_chip = program.cell_map.pairs(), program.cell_map, program.target.chip.arrays
    for number, layer in enumerate(program.layers):
        geometry = layer.geometry
        weight = geometry.weights - 1
        found = find_weight(program, layer.name, geometry.out_channels - 1, geometry.group_rows - 1)
        here = (pairs.layer == number) & (pairs.weight == weight)
        listed = set()
        for sign, cells in (("+", pairs.plus[here]), ("-", pairs.minus[here])):
            where = cell_map.addresses(cells)
            columns = (where.segment, where.array, where.input_line, where.output_line, pairs.slice[here])
            listed |= {(sign, *map(int, cell)) for cell in zip(*columns, strict=True)}
        told = {
            (c.polarity, c.segment, c.chip * per_chip + c.array, c.input_line, c.output_line, c.slice) for c in found
        }
        assert told == listed
        assert len(found) == 2 * here.sum()


def test_a_network_without_layers_has_no_cells() -> None:
    program = memcompile.compile(
        models.make([models.node("Relu", "x", "y")], {"x": (1, (1, 4))}, {"y": (1, (1, 4))}), make_target()
    )
    assert program.cells_used == 0
    assert len(program.cell_map.pairs().plus) == 0
