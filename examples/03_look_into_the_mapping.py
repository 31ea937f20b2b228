"""Find out where every weight sits: tiles, single cells, and whole arrays of conductances.

Run it from anywhere: `python examples/03_look_into_the_mapping.py`.
"""

from pathlib import Path

import memcompile
from memcompile.program.program import Program
from memcompile.report.lookup import find_weight

MODEL = Path(__file__).with_name("five_layer_cnn.onnx")


def print_tiles(program: Program) -> None:
    """One line a tile, ordered by place."""
    tiles = program.placement.tiles
    widths = tiles.widths(program.slices)
    print("array  input lines  output lines  first step  tile")
    for tile in sorted(range(len(tiles)), key=lambda t: (tiles.array[t], tiles.output_line[t])):
        layer = program.layers[tiles.layer[tile]]
        first_in, first_out = tiles.input_line[tile], tiles.output_line[tile]
        print(
            f"{tiles.array[tile]:5}"
            f"{first_in:9}..{first_in + tiles.heights[tile] - 1:<2}"
            f"{first_out:11}..{first_out + widths[tile] - 1:<3}"
            f"{tiles.slot[tile]:10}"
            f"  {layer.name}, copy {tiles.replica[tile]}, rows {tiles.row_begin[tile]}..{tiles.row_end[tile] - 1}"
        )


def print_weight(program: Program, layer: str, output: int, kernel_input: int) -> None:
    """All cells that hold one weight, in all copies of the layer."""
    print(f"\nweight of {layer}, output channel {output}, kernel input {kernel_input}:")
    for cell in find_weight(program, layer, output, kernel_input):
        print(
            f"  array {cell.array}, input line {cell.input_line}, output line {cell.output_line}: "
            f"{cell.polarity} level {cell.level}, {cell.conductance_us:.2f} uS"
        )


def print_conductances(program: Program, array: int) -> None:
    """Part of an array: the levels aimed at, and what one chip's cells hold after programming."""
    ideal = memcompile.Emulator.ideal(program).machine.devices
    chip = memcompile.Emulator(program, seed=0).machine.devices
    print(f"\narray {array}, input line 0, output lines 0..7")
    print("  level wanted  ", *(f"{level:6}" for level in ideal.levels(array)[0, :8]))
    print("  programmed, uS", *(f"{g * chip.converter.unit_us:6.2f}" for g in chip.array(array)[0, :8]))


def main() -> None:
    """Compile and look."""
    program = memcompile.compile(MODEL)
    print_tiles(program)
    print_weight(program, "C3", output=2, kernel_input=40)
    print_conductances(program, array=0)


if __name__ == "__main__":
    main()
