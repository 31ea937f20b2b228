"""Draw a compiled network: its tiles on the arrays, who works in which step, and its accuracy.

    python benchmarks/draw_mapping.py examples/five_layer_cnn.onnx -o mapping.png

draws the picture in README.md. Needs matplotlib (`pip install memcompile[plot]`). What the picture
says is also written into the file, as the PNG text ``Description``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, GridSpecFromSubplotSpec
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from memcompile import Emulator
from memcompile.errors import MemcompileError
from memcompile.pipelines import AUTO, compile_model
from memcompile.program.program import Program
from memcompile.report.evaluation import Accuracy, evaluate

LAYER_COLOURS = ("#1f77b4", "#e8862e", "#2f9e5b", "#8a63c9", "#c94f6d", "#7d6b4f", "#3aa6b9", "#9aa128")
INK = "#2b2f36"
EMPTY = "#eef0f3"
ACCURACY_COLOURS = ("#9aa3b0", "#5b6675", "#1f77b4")
MOST_ARRAYS = 32
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b6bcc6",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
}


def draw(program: Program, accuracy: Accuracy | None, data: str) -> Figure:
    """Draw a program: arrays on top, the pipelined steady state and the accuracy below."""
    arrays = min(program.placement.chips * program.target.chip.arrays, MOST_ARRAYS)
    rows = -(-arrays // 2)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12.0, 1.6 + 1.02 * rows + 2.6), dpi=140, facecolor="white")
        outer = GridSpec(
            2,
            1,
            figure=figure,
            height_ratios=(1.02 * rows, 2.2),
            left=0.045,
            right=0.985,
            top=1 - 1.0 / figure.get_figheight(),
            bottom=0.55 / figure.get_figheight(),
            hspace=0.62 / (0.51 * rows + 1.1),
        )
        upper = GridSpecFromSubplotSpec(rows, 2, outer[0], wspace=0.05, hspace=0.42)
        for number in range(arrays):
            _draw_array(figure.add_subplot(upper[number % rows, number // rows]), program, number)
        lower = GridSpecFromSubplotSpec(1, 2, outer[1], width_ratios=(1.25, 1.0), wspace=0.38)
        _draw_steps(figure.add_subplot(lower[0]), program, arrays)
        if accuracy is not None:
            _draw_accuracy(figure.add_subplot(lower[1]), accuracy, data)
        _draw_title(figure, program)
    return figure


def layer_colour(number: int) -> str:
    """Colour of a crossbar layer."""
    return LAYER_COLOURS[number % len(LAYER_COLOURS)]


def describe(program: Program, accuracy: Accuracy | None) -> str:
    """Say in one line what the picture shows."""
    text = f"{program.provenance.model}: {program.placement.initiation_interval_steps} steps per image"
    if accuracy is not None:
        text += f", float {accuracy.reference:.2%}, ideal {accuracy.ideal:.2%}, emulated {accuracy.emulated_mean:.2%}"
    return text


def _draw_title(figure: Figure, program: Program) -> None:
    height = figure.get_figheight()
    name = Path(program.provenance.model).stem
    figure.text(0.045, 1 - 0.3 / height, f"{name} on {program.target.name}", size=15, weight="bold", va="center")
    array = program.target.array
    size = f"{array.input_lines} {array.input_line_name}s x {array.output_lines} {array.output_line_name}s"
    count = program.placement.chips * program.target.chip.arrays
    line = f"{count} arrays of {size}; darker cells have a higher conductance level"
    figure.text(0.045, 1 - 0.6 / height, line, size=10, va="center", color="#5b6675")
    keys = [
        Patch(color=layer_colour(number), label=f"{layer.name}: {_copies(len(layer.replicas))}")
        for number, layer in enumerate(program.layers)
    ]
    keys.append(Patch(facecolor=EMPTY, edgecolor="#b6bcc6", label="not used"))
    figure.legend(handles=keys, loc="upper right", bbox_to_anchor=(0.988, 1 - 0.12 / height), ncols=4, frameon=False)


def _copies(count: int) -> str:
    return "1 copy" if count == 1 else f"{count} copies"


def _draw_array(axes: Axes, program: Program, number: int) -> None:
    """One array: its cells by level, its tiles outlined and labelled."""
    lines_in, lines_out = program.target.array.input_lines, program.target.array.output_lines
    tiles, widths = program.placement.tiles, program.cell_map.widths
    image = np.empty((lines_in, lines_out, 3))
    image[:] = to_rgb(EMPTY)
    shade = 0.22 + 0.78 * Emulator.ideal(program).machine.devices.levels(number) / program.target.signed_levels
    for tile in np.flatnonzero(tiles.array == number):
        top, left = int(tiles.input_line[tile]), int(tiles.output_line[tile])
        height, width = int(tiles.heights[tile]), int(widths[tile])
        colour = layer_colour(int(tiles.layer[tile]))
        block = (slice(top, top + height), slice(left, left + width))
        image[block] = 1 - shade[block][..., None] * (1 - np.array(to_rgb(colour)))
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, ec=colour, lw=1.4))
        layer = program.layers[int(tiles.layer[tile])]
        label = layer.name + (f" #{int(tiles.replica[tile]) + 1}" if len(layer.replicas) > 1 else "")
        text = axes.text(left + width / 2 - 0.5, top + height / 2 - 0.5, label, ha="center", va="center", size=8.5)
        text.set_path_effects([withStroke(linewidth=2.6, foreground="white")])
        text.set_weight("bold")
    axes.imshow(image, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"array {number}", size=9, weight="normal", pad=2)


def _draw_steps(axes: Axes, program: Program, arrays: int) -> None:
    """Draw the tile that works in each step of the initiation interval."""
    tiles = program.placement.tiles
    interval = program.placement.initiation_interval_steps
    for tile in range(len(tiles)):
        if tiles.array[tile] >= arrays:
            continue
        layer = int(tiles.layer[tile])
        steps = int(program.tile_loads[tile])
        slot = int(tiles.slot[tile])
        first = min(steps, interval - slot)
        # Steps beyond the end of the interval go on at its beginning.
        for left, width in ((slot, first), (0, steps - first)):
            axes.barh(
                int(tiles.array[tile]),
                width,
                left=left,
                height=0.74,
                color=layer_colour(layer),
                edgecolor="white",
                linewidth=0.6,
            )
    axes.set_ylim(arrays - 0.4, -0.6)
    axes.set_xlim(0, interval)
    axes.set_yticks(range(arrays))
    axes.set_ylabel("array")
    axes.set_xlabel("step")
    axes.set_title(f"one image every {interval} steps{_proof(program)}")
    axes.spines[["top", "right"]].set_visible(False)


def _proof(program: Program) -> str:
    for item in program.placement.certificates:
        if item.quantity == "initiation_interval":
            return " (proven optimal)" if item.value == item.bound else f" (proven lower bound {item.bound})"
    return ""


def _draw_accuracy(axes: Axes, accuracy: Accuracy, data: str) -> None:
    names = ("float\n(onnxruntime)", "quantised,\nideal devices", f"emulated, noisy\ndevices, {accuracy.seeds} chips")
    shares = (accuracy.reference, accuracy.ideal, accuracy.emulated_mean)
    errors = (0.0, 0.0, accuracy.emulated_std)
    lowest = max(0.0, np.floor(20 * (min(shares) - accuracy.emulated_std) - 1) * 5)
    for place, (share, error, colour) in enumerate(zip(shares, errors, ACCURACY_COLOURS, strict=True)):
        axes.barh(place, 100 * share - lowest, left=lowest, color=colour, height=0.62)
        text = f"{share:.2%}"
        if error:
            axes.errorbar(100 * share, place, xerr=100 * error, color=INK, capsize=3, lw=1.2)
            text += f" $\\pm$ {100 * error:.2f}"
        axes.text(lowest + 0.02 * (100 - lowest), place, text, va="center", color="white", weight="bold")
    axes.set_yticks(range(3), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(2.6, -0.6)
    axes.set_xlim(lowest, 100)
    axes.set_xlabel(f"accuracy (%), axis from {lowest:g} %; {data}")
    axes.set_title("accuracy")
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, evaluate, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="ONNX file")
    parser.add_argument("--target", default="yao2020", help="name or file (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="as for memcompile (default: embedded digits)")
    parser.add_argument("-o", "--output", type=Path, default=Path("mapping.png"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        compilation = compile_model(options.model, options.target, data=options.data, max_loss=AUTO)
        evaluation = evaluate(compilation.program, compilation.model, compilation.dataset, budget=False)
    except MemcompileError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return error.exit_code
    figure = draw(compilation.program, evaluation.accuracy, evaluation.data)
    description = describe(compilation.program, evaluation.accuracy)
    figure.savefig(options.output, metadata={"Description": description, "Software": None})
    print(f"{description}; drawn in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
