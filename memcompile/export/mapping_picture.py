"""A compiled network as a picture: its tiles on the arrays, who works in which step, and its accuracy.

Up to 32 arrays are drawn one by one, with their cells; of more there is one image of all, in which an array is a small
box, and one of all steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memcompile.figures import counted
from memcompile.pictures import colour_of, new_figure
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator
from memcompile.short_names import short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Facts = Mapping[str, Any]
Colours = NDArray[np.float64]

INK, SOFT, EMPTY, EDGE = "#1b2229", "#53606c", "#e6eaee", "#b6bcc6"
ACCURACY_COLOURS = ("#9aa3b0", "#5b6675", "#0072b2")
MOST_ARRAYS = 32
"""Arrays that are drawn one by one."""
MOST_KEYS = 16
"""Layers that the legend names."""
SYSTEM_PIXELS, STEP_PIXELS = 1400, 1200
"""Pixels across the image of a system, and of its steps."""
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": EDGE,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
}


def mapping_figure(program: Program, facts: Facts, option: str = "memcompile draw") -> Figure:
    """Draw a program: arrays on top, the pipelined steady state and the accuracy below.

    Parameters
    ----------
    facts
        Those of the program; with ``accuracy`` that is drawn, too.

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    few = program.placement.chips * program.target.chip.arrays <= MOST_ARRAYS
    rows = -(-program.placement.chips * program.target.chip.arrays // 2) if few else 0
    upper = 1.02 * rows if few else 6.0
    figure = new_figure(12.0, 1.8 + upper + 2.8, option)
    from matplotlib import rc_context  # noqa: PLC0415 - an extra, and slow to import

    with rc_context(STYLE):
        figure.set_facecolor("white")
        outer = figure.add_gridspec(2, 1, height_ratios=(max(upper, 0.5), 2.4))
        if few:
            arrays = outer[0].subgridspec(max(rows, 1), 2)
            for number in range(2 * rows):
                _draw_array(figure.add_subplot(arrays[number % rows, number // rows]), program, number)
        else:
            _draw_system(figure.add_subplot(outer[0]), program)
        lower = outer[1].subgridspec(1, 2, width_ratios=(1.25, 1.0) if facts["accuracy"] else (1.0, 0.001))
        (_draw_steps if few else _draw_all_steps)(figure.add_subplot(lower[0]), program)
        if facts["accuracy"]:
            _draw_accuracy(figure.add_subplot(lower[1]), facts["accuracy"], facts["data"])
        _draw_title(figure, program)
    return figure


def described(program: Program, facts: Facts) -> str:
    """What the picture shows, in a line."""
    text = f"{program.provenance.model}: {program.placement.initiation_interval_steps} steps per image"
    accuracy = facts["accuracy"]
    if accuracy:
        text += f", float {accuracy['float']:.2%}, ideal {accuracy['ideal']:.2%}"
        text += f", emulated {accuracy['emulated_mean']:.2%}"
    return text


def _rgb(colour: str) -> Colours:
    return np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])


def _draw_title(figure: Figure, program: Program) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415 - matplotlib is optional

    array = program.target.array
    size = f"{array.input_lines} {array.input_line_name}s x {array.output_lines} {array.output_line_name}s"
    count = program.placement.chips * program.target.chip.arrays
    shade = "; darker cells have a higher conductance level" if count <= MOST_ARRAYS else ""
    name = Path(program.provenance.model).stem
    names = short_names([layer.name for layer in program.layers], 22)
    keys = [
        Patch(color=colour_of(number), label=f"{names[number]}: {_copies(len(layer.replicas))}")
        for number, layer in enumerate(program.layers[:MOST_KEYS])
    ]
    if len(program.layers) > MOST_KEYS:
        keys.append(Patch(color="white", label=f"{len(program.layers) - MOST_KEYS} more layers"))
    keys.append(Patch(facecolor=EMPTY, edgecolor=EDGE, label="not used"))
    figure.legend(
        handles=keys,
        loc="outside upper left",
        ncols=4 if max(map(len, names), default=0) < 16 else 3,
        frameon=False,
        title=f"{name} on {program.target.name}: {counted(count, 'array')} of {size}{shade}",
        title_fontproperties={"size": 12, "weight": "bold"},
        alignment="left",
    )


def _copies(count: int) -> str:
    return f"{count:,} replica{'s' * (count != 1)}"


def _draw_array(axes: Axes, program: Program, number: int) -> None:
    """One array: its cells by level, its tiles outlined and labelled."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415 - matplotlib is optional
    from matplotlib.patheffects import withStroke  # noqa: PLC0415 - matplotlib is optional

    lines, columns = program.target.array.input_lines, program.target.array.cell_columns
    tiles, cell_map = program.placement.tiles, program.cell_map
    image = np.empty((lines, columns, 3))
    image[:] = _rgb(EMPTY)
    levels = Emulator.ideal(program).machine.devices.levels(number)
    highest = 1.0 if program.target.cell.continuous else program.target.signed_levels
    shade = 0.22 + 0.78 * np.abs(levels) / highest
    for tile in np.flatnonzero((tiles.array == number) & (tiles.segment == 0) & cell_map.own).tolist():
        block = cell_map.input_lines_of(tile), cell_map.cell_columns_of(tile)
        colour = colour_of(int(tiles.layer[tile]))
        image[block] = 1 - shade[block][..., None] * (1 - _rgb(colour))
        (rows, own) = block
        height, width = rows.stop - rows.start, own.stop - own.start
        corner = (own.start - 0.5, rows.start - 0.5)
        axes.add_patch(Rectangle(corner, width, height, fill=False, ec=colour, lw=1.4))
        layer = program.layers[int(tiles.layer[tile])]
        label = short_names([layer.name], 18)[0]
        label += f" #{int(tiles.replica[tile]) + 1}" if len(layer.replicas) > 1 else ""
        if width * 12 < columns * len(label) / 4:
            continue
        middle = own.start + width / 2 - 0.5, rows.start + height / 2 - 0.5
        text = axes.text(*middle, label, ha="center", va="center", size=8.5, weight="bold", clip_on=True)
        text.set_path_effects([withStroke(linewidth=2.6, foreground="white")])
    axes.imshow(image, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"array {number}", size=9, weight="normal", pad=2)


def _draw_system(axes: Axes, program: Program) -> None:
    """All arrays as boxes with their tiles, chip after chip."""
    count, array = program.placement.chips * program.target.chip.arrays, program.target.array
    shape = array.input_lines / array.cell_columns
    across = max(1, math.ceil(math.sqrt(2 * count * max(shape, 0.25))))
    wide = max(3, SYSTEM_PIXELS // across)
    high = max(3, round(wide * max(shape, 0.25)))
    image = np.ones((-(-count // across) * high, across * wide, 3))
    tiles, cell_map = program.placement.tiles, program.cell_map
    for number in range(count):
        row, column = divmod(number, across)
        image[row * high : row * high + high - 1, column * wide : column * wide + wide - 1] = _rgb(EMPTY)
    colours = [_rgb(colour_of(number)) for number in range(len(program.layers))]
    to_x, to_y = (wide - 1) / array.cell_columns, (high - 1) / array.input_lines
    for tile in np.flatnonzero((tiles.segment == 0) & cell_map.own).tolist():
        row, column = divmod(int(tiles.array[tile]), across)
        lines, own = cell_map.input_lines_of(tile), cell_map.cell_columns_of(tile)
        top, left = row * high + round(lines.start * to_y), column * wide + round(own.start * to_x)
        bottom = max(row * high + round(lines.stop * to_y), top + 1)
        right = max(column * wide + round(own.stop * to_x), left + 1)
        image[top:bottom, left:right] = colours[int(tiles.layer[tile])]
    axes.imshow(image, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(f"{count:,} arrays, row by row; {program.arrays_used:,} hold tiles")


def _runs(program: Program, tile: int) -> list[tuple[int, int]]:
    """First step and steps of a tile in the interval; those beyond its end go on at its beginning."""
    interval = _interval(program)
    slot, steps = int(program.placement.tiles.slot[tile]), int(program.tile_loads[tile])
    first = min(steps, interval - slot)
    return [(slot, first), (0, steps - first)] if steps > first else [(slot, first)]


def _interval(program: Program) -> int:
    """Steps between two images, of the first segment if there are several."""
    parts = program.placement.segments or (program.placement,)
    return max(parts[0].initiation_interval_steps, 1)


def _draw_steps(axes: Axes, program: Program) -> None:
    """Draw the tile that works in each step of the initiation interval, array by array."""
    tiles, arrays = program.placement.tiles, program.placement.chips * program.target.chip.arrays
    for tile in np.flatnonzero(tiles.segment == 0).tolist():
        for left, width in _runs(program, tile):
            colour = colour_of(int(tiles.layer[tile]))
            axes.barh(int(tiles.array[tile]), width, left=left, height=0.74, color=colour, ec="white", lw=0.6)
    axes.set_ylim(arrays - 0.4, -0.6)
    axes.set_yticks(range(0, arrays, max(1, arrays // 16)))
    _finish_steps(axes, program)


def _draw_all_steps(axes: Axes, program: Program) -> None:
    """The same as an image, for thousands of arrays."""
    tiles, interval = program.placement.tiles, _interval(program)
    columns = min(interval, STEP_PIXELS)
    image = np.ones((program.cell_map.arrays, columns, 3))
    colours = [_rgb(colour_of(number)) for number in range(len(program.layers))]
    for tile in np.flatnonzero(tiles.segment == 0).tolist():
        for left, width in _runs(program, tile):
            begin = left * columns // interval
            end = max(-(-(left + width) * columns // interval), begin + 1)
            image[int(tiles.array[tile]), begin:end] = colours[int(tiles.layer[tile])]
    extent = (0, interval, program.cell_map.arrays, 0)
    axes.imshow(image, interpolation="nearest", aspect="auto", extent=extent)
    _finish_steps(axes, program)


def _finish_steps(axes: Axes, program: Program) -> None:
    interval = _interval(program)
    axes.set_xlim(0, interval)
    axes.set_ylabel("array")
    axes.set_xlabel("step")
    of_segment = ", first segment" if program.placement.segments else ""
    axes.set_title(f"one image every {counted(interval, 'step')}{_proof(program)}{of_segment}")
    axes.spines[["top", "right"]].set_visible(False)


def _proof(program: Program) -> str:
    for item in program.placement.certificates:
        if item.quantity == "initiation_interval":
            return " (proven optimal)" if item.value == item.bound else f" (proven lower bound {item.bound:,})"
    return ""


def _draw_accuracy(axes: Axes, accuracy: Facts, data: str) -> None:
    chips = counted(accuracy["seeds"], "chip")
    names = ("float\n(onnxruntime)", "quantised,\nideal devices", f"emulated, noisy\ndevices, {chips}")
    shares = (accuracy["float"], accuracy["ideal"], accuracy["emulated_mean"])
    spread = accuracy["emulated_std"]
    lowest = max(0.0, math.floor(20 * (min(shares) - spread) - 1) * 5)
    for place, (share, error, colour) in enumerate(zip(shares, (0.0, 0.0, spread), ACCURACY_COLOURS, strict=True)):
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
