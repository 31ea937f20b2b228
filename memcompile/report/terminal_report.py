"""The report as a person reads it in a terminal: the verdict first, then the mapping, its cost, and accuracy.

What a program tells is one part and what was measured another, so that the first can be printed before the second is
known. Both fit the width that they are given: lines are folded below their label, names are cut to what tells them
apart, and columns that matter least are left out first.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from memcompile.figures import PLUS_MINUS, counted, figure, points, seconds, with_prefix
from memcompile.ir.slicing import SliceChoice
from memcompile.report.accuracy_report import accuracy_lines, accuracy_table
from memcompile.report.budget_report import budget_lines
from memcompile.report.cost_report import cost_lines
from memcompile.report.verdict import as_text, mapping_verdict, quality_verdict
from memcompile.short_names import short_names

Facts = Mapping[str, Any]

LABEL = 17
"""Letters of a label with the space behind it."""
MOST_LAYERS, LEADING_LAYERS = 20, 10
"""Layers that are listed without a word, and those that are listed of more."""
QUALITY_LAYERS = 3
"""Layers whose noise is listed, of more than ``MOST_LAYERS``."""
NAMES = "layer"
"""Heading of the names of layers."""
LEAST_NAME, MOST_NAME = 16, 40
"""Letters of a layer's name that columns are left out for, and that are shown of one."""


USUAL_BITS, MORE_BITS = 8, 2
"""Bits of inputs from which on more hardly help, and how many more are proposed below."""


@dataclass(frozen=True)
class Form:
    """Form of a report: its width in letters, and whether all layers are listed however many there are."""

    width: int = 120
    all_layers: bool = False


def mapping_report(facts: Facts, form: Form) -> RenderableType:
    """What a program tells: verdict, table of layers, totals and cost."""
    parts: list[RenderableType] = [*_lines([as_text(mapping_verdict(facts), facts)], form.width, indent=0), Text()]
    if facts["layers"]:
        parts += [layer_table(facts, form), Text()]
    return Group(*parts, *_lines(_totals(facts), form.width))


def quality_report(facts: Facts, form: Form) -> RenderableType:
    """What was measured, and warnings."""
    parts: list[RenderableType] = []
    if facts["accuracy_budget"]:
        parts += _lines([_choice_line(facts)], form.width)
    if facts["accuracy"]:
        verdict = as_text(quality_verdict(facts), facts)
        parts += [
            Text(),
            *_lines([verdict] if verdict else [], form.width, indent=0),
            accuracy_table(dict(facts)),
            *_folded(accuracy_lines(facts["accuracy"]), form.width),
        ]
    if facts["error_budget"]:
        parts += [Text(), *_folded(budget_lines(_with_short_names(facts, form.width)), form.width)]
    if facts["output_sqnr_db"] or facts["outputs_not_compared"]:
        parts += [Text(), *_quality_parts(facts, form)]
    for warning in facts["warnings"]:
        parts += _lines([f"warning: {warning}"], form.width, indent=9, style="yellow")
    return Group(*parts)


def _lines(lines: Sequence[str], width: int, indent: int = LABEL, style: str = "") -> list[Text]:
    """Lines folded at a width; what is folded begins below what it belongs to."""
    return [
        Text(part, style=style)
        for line in lines
        for part in textwrap.wrap(
            line, width, subsequent_indent=" " * indent, break_on_hyphens=False, drop_whitespace=True
        )
        or [""]
    ]


def _folded(parts: Sequence[Text | Table], width: int) -> list[Text | Table]:
    """The same with lines of text folded."""
    found: list[Text | Table] = []
    for part in parts:
        found += _lines([part.plain], width, indent=2) if isinstance(part, Text) else [part]
    return found


# --- layers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """A column of the table of layers; that with the least ``weight`` is left out first, that without one never."""

    heading: str
    text: Callable[[Facts], str]
    weight: int | None = None
    total: str = ""


def layer_table(facts: Facts, form: Form) -> Table:
    """One row for each layer; of many only those that take most time or most arrays, unless all are wanted."""
    layers = facts["layers"]
    shown = range(len(layers)) if form.all_layers else leading_layers(layers)
    columns = _columns(facts)
    while True:
        rows = [[column.text(layers[number]) for column in columns] for number in shown]
        rest = _rest_row(layers, shown, columns)
        widths = [
            max(map(len, cells)) for cells in zip(*(rows + ([rest] if rest else [])), _headings(columns), strict=True)
        ]
        room = form.width - 4 - sum(width + 3 for width in widths)
        least = min(max(len(name) for name in (NAMES, *(layer["name"] for layer in layers))), LEAST_NAME)
        optional = [column for column in columns if column.weight is not None]
        if room >= least or not optional:
            break
        columns.remove(min(optional, key=lambda column: column.weight or 0))
    names = short_names([layer["name"] for layer in layers], max(min(room, MOST_NAME), 8))
    table = Table(title=f"{facts['model']} on {facts['target']}", title_justify="left", header_style="bold")
    table.add_column(NAMES, no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for number, row in zip(shown, rows, strict=True):
        table.add_row(names[number], *row)
    if rest:
        table.add_section()
        table.add_row(f"{len(layers) - len(shown)} more layers", *rest)
    return table


def leading_layers(layers: Sequence[Facts]) -> Sequence[int]:
    """Numbers of the layers to list, in order: all of a few, else those with most steps and with most arrays."""
    if len(layers) <= MOST_LAYERS:
        return range(len(layers))
    steps, arrays = (max(layer[key] or 1 for layer in layers) for key in ("steps", "arrays"))
    ranked = sorted(
        range(len(layers)),
        key=lambda number: (-max(layers[number]["steps"] / steps, layers[number]["arrays"] / arrays), number),
    )
    return sorted(ranked[:LEADING_LAYERS])


def _headings(columns: Sequence[_Column]) -> list[str]:
    return [column.heading for column in columns]


def _slices(layer: Facts) -> str:
    return str(SliceChoice(layer["slices"], layer["slice_fill"]))


def _columns(facts: Facts) -> list[_Column]:
    layers = facts["layers"]
    columns = [_Column("weight matrix", _matrix, weight=6)]
    if any(layer["slices"] > 1 for layer in layers):
        columns.append(
            _Column("slices", lambda layer: f"{SliceChoice(layer['slices'], layer['slice_fill'])}", weight=5)
        )
    columns += [
        _Column("window", _windows, weight=2),
        _Column("tiles", lambda layer: f"{layer['tiles']:,}", weight=1, total="tiles"),
        _Column("replicas", lambda layer: f"{layer['replicas']:,}", weight=4),
        _Column("steps", lambda layer: f"{layer['steps']:,}"),
    ]
    if facts["segments"]:
        columns.append(
            _Column("segments", lambda layer: "-".join(map(str, dict.fromkeys(layer["segments"]))), weight=3)
        )
    return [
        *columns,
        _Column("arrays", lambda layer: f"{layer['arrays']:,}", total="arrays"),
        _Column("cells used", lambda layer: f"{layer['cell_share']:.1%}"),
    ]


def _matrix(layer: Facts) -> str:
    groups = f"{layer['groups']} x " if layer["groups"] > 1 else ""
    return f"{groups}{layer['rows']} x {layer['columns']}"


def _windows(layer: Facts) -> str:
    windows = ["x".join(map(str, window)) for window in layer["parallel_windows"]]
    return " ".join(windows) if len(windows) <= 2 else f"{windows[0]} to {windows[-1]}"


def _rest_row(layers: Sequence[Facts], shown: Sequence[int], columns: Sequence[_Column]) -> list[str] | None:
    """Sums over the layers that are not listed; None if all are."""
    if len(shown) == len(layers):
        return None
    rest = [layer for number, layer in enumerate(layers) if number not in set(shown)]
    return [f"{sum(layer[column.total] for layer in rest):,}" if column.total else "" for column in columns]


def _with_short_names(facts: Facts, width: int) -> dict[str, Any]:
    """Facts whose layers have names that fit a line."""
    names = [layer["name"] for layer in facts["layers"]]
    short = dict(zip(names, short_names(names, min(MOST_NAME, width // 3)), strict=True))
    budget = {
        **facts["error_budget"],
        "layers": [{**item, "name": short[item["name"]]} for item in facts["error_budget"]["layers"]],
    }
    return {
        **facts,
        "error_budget": budget,
        "layers": [{**layer, "name": short[layer["name"]]} for layer in facts["layers"]],
    }


# --- totals -----------------------------------------------------------------------------------------


def _totals(facts: Facts) -> list[str]:
    operations = _multiply_add_lines(facts)
    if not facts["layers"]:
        return operations
    chips, per_chip = facts["chips"], facts["arrays_per_chip"]
    why = "as many as the network needs" if facts["chips_requested"] is None else "the budget given"
    where = f"chips            {counted(chips, 'chip')} of {counted(per_chip, 'array')} ({why})"
    lines = [*operations, where, *(_in_segments(facts) if facts["segments"] else _at_once(facts))]
    if chips > 1:
        lines.append(
            f"traffic          {facts['crossing_values']:,} values an image cross chips; "
            f"proven lower bound {facts['crossing_values_bound']:,}"
        )
    return [*lines, *cost_lines(dict(facts["cost"]))]


def _multiply_add_lines(facts: Facts) -> list[str]:
    """The share on arrays, unless it is all."""
    found = facts["multiply_adds"]
    share = found["share_on_arrays"] if found else None
    if share in (None, 1.0):
        return []
    return [f"multiply-adds    {with_prefix(found['total'], '').strip()} an image, {_percent(share)} of them on arrays"]


def _percent(share: float) -> str:
    """A share that is not all, and 0% only if it is nothing."""
    return f"{min(max(share, 0.0001), 0.9999):.2%}" if share else "0%"


def _at_once(facts: Facts) -> list[str]:
    """Totals of a network that is on the chips as a whole."""
    return [
        f"arrays           {facts['arrays_used']:,} of {facts['chips'] * facts['arrays_per_chip']:,} used; "
        f"{_bound(facts['arrays_used'], facts['arrays_bound'])}",
        f"cells            {facts['cells_used']:,} used, {facts['cell_utilisation']:.1%} of all",
        *_sharing(facts),
        f"steps per image  {facts['initiation_interval_steps']:,} (initiation interval); "
        f"{_bound(facts['initiation_interval_steps'], facts['initiation_interval_bound'])}",
        *_limits(facts),
        f"latency          {_latency(facts)}",
        f"buffers          {facts['buffers']['alone']:,} values at once, one image alone; "
        f"{facts['buffers']['pipelined']:,} in the pipeline",
        f"rate             {figure(facts['images_per_second'])} images/s at {facts['step_ns']:g} ns a step",
    ]


def _sharing(facts: Facts) -> list[str]:
    """Line about layers of equal weights, if there are any."""
    shared = [layer["shares_cells_with"] for layer in facts["layers"] if layer["shares_cells_with"]]
    if not shared:
        return []
    sets = counted(len(set(shared)), "set")
    return [f"shared cells     {len(shared):,} layers work with {sets} of weights, held once"]


def _in_segments(facts: Facts) -> list[str]:
    """Totals of a network that is written onto the chips segment by segment."""
    batch, a_pass = facts["batch"], facts["cost"]["pass"]
    lines = [
        f"segments         {facts['segments']}, written over each other once for each batch; "
        f"{counted(batch, 'image')} a batch",
        f"arrays           {facts['arrays_used']:,} of {facts['chips'] * facts['arrays_per_chip']:,} used",
        f"cells            {facts['cells_used']:,} in all segments, on average {facts['cell_utilisation']:.1%} of all",
        f"steps per image  {facts['initiation_interval_steps']:,} in all segments at {facts['step_ns']:g} ns a step",
    ]
    if a_pass is None:
        return lines
    writing = a_pass["writing_us"] / a_pass["time_us"]
    whole, written, computed = (
        seconds(1e-6 * a_pass[key] / batch) for key in ("time_us", "writing_us", "computing_us")
    )
    return [
        *lines,
        f"time of a batch  {seconds(1e-6 * a_pass['time_us'])}, {writing:.1%} of it writing{_pass_bound(facts)}",
        f"time per image   {whole}: {written} writing, {computed} computing",
        f"rate             {figure(facts['images_per_second'])} images/s",
    ]


def _limits(facts: Facts) -> list[str]:
    """Line about the resource that keeps the interval from being shorter, where the search says so."""
    found = [item["limited_by"] for item in facts["certificates"] if item["quantity"] == "initiation_interval"]
    names = [layer["name"] for layer in facts["layers"]]
    short = dict(zip(names, short_names(names, MOST_NAME), strict=True))
    lines = []
    for words in filter(None, found):
        # A name may be part of a longer one.
        for name in sorted((name for name in names if len(name) > MOST_NAME), key=len, reverse=True):
            words = words.replace(name, short[name])  # noqa: PLW2901
        lines.append(f"limited by       {words}")
    return lines


def _pass_bound(facts: Facts) -> str:
    value, bound = facts["pass_time_ns"], facts["pass_time_bound_ns"]
    if not value:
        return ""
    gap = "optimal" if value == bound else f"gap {(value - bound) / value:.1%}"
    return f"; proven lower bound {seconds(1e-9 * bound)}, {gap}"


def _latency(facts: Facts) -> str:
    alone, pipelined = facts["latency_steps"], facts["pipelined_latency_steps"]
    proof = "" if facts["latency_bound"] is None else f"; {_bound(alone, facts['latency_bound'])}"
    time = seconds(1e-6 * facts["cost"]["latency_us"])
    return f"{counted(alone, 'step')}, {time}, one image alone{proof}; {counted(pipelined, 'step')} in the pipeline"


def _bound(value: int, bound: int) -> str:
    if value == bound:
        return f"proven lower bound {bound:,}: optimal"
    return f"proven lower bound {bound:,}, gap {(value - bound) / value:.1%}"


def _choice_line(facts: Facts) -> str:
    """Line on what the accuracy budget led to."""
    found, steps = facts["accuracy_budget"], facts["initiation_interval_steps"]
    losses = np.array(found["measured_losses"])
    chips = counted(len(losses), "chip")
    measured = f"{points(losses.mean())} measured on {chips} with calibration samples; " if len(losses) else ""
    if found["range_calibrated"]:
        measured += "converter ranges calibrated; "
    if found["write_again_share"]:
        share = found["write_again_share"]
        measured += f"the worst pairs written again, {share:g} correction{'s' * (share != 1)} a pair; "
    interval = counted(steps, "step")
    interval += f" instead of {found['steps_without']:,}" if steps != found["steps_without"] else ", as without it"
    words = f"{points(found['predicted_loss'])} predicted, {measured}{interval}{_least_of_choices(facts)}"
    budget = f"accuracy budget  {found['max_loss']:g} point{'s' * (found['max_loss'] != 1)}"
    if found["held"]:
        return f"{budget}: {words}"
    if found["shared_loss"] > found["max_loss"] / 2:
        bits = min((layer["input_bits"] for layer in facts["layers"] if layer["input_bits"]), default=0)
        shared = (
            f"{found['shared_loss']:.1f} are lost with any slices, above all to inputs rounded to {bits} bits, fewer "
            "than the network was trained with"
        )
        more = f", or more bits for longer steps (--set input.bits={bits + MORE_BITS})" if bits < USUAL_BITS else ""
        return f"{budget} cannot be held, for {shared}: {words}; what helps is training with such inputs{more}"
    return f"{budget} cannot be held; the least loss that was found: {words}"


def _least_of_choices(facts: Facts) -> str:
    """Bounds over all slices and windows within the budget, where they say more than those of the mapping."""
    found, chips = facts["accuracy_budget"], facts["chips"]
    if found["least_steps"] is None:
        return ""
    on = f" on {chips:,}" if facts["chips_requested"] is None and chips > 1 else ""
    least = [f"{counted(found['least_chips'], 'chip')} or more"] if on and found["least_chips"] > 1 else []
    least += [f"{counted(found['least_steps'], 'step')} or more{on}"] if found["least_steps"] > 1 else []
    return f"; proven for any slices and windows within it: {', '.join(least)}" if least else ""


# --- signal to noise --------------------------------------------------------------------------------


def _quality_parts(facts: Facts, form: Form) -> list[RenderableType]:
    chips = facts["emulated_quality"]
    on = f"{counted(chips['seeds'], 'chip')}, {counted(chips['images'], 'image')}"
    noisy = f" and noisy devices ({on})" if chips["seeds"] else ""
    lines = [f"signal to noise on {facts['data']}, ideal devices{noisy}:"]
    for name, ratio in facts["output_sqnr_db"].items():
        ideal = "exact" if ratio is None else f"{ratio:.1f} dB"
        on_chips = f"; on chips {_on_chips(chips['output_sqnr_db'], name) or 'not compared'}" if noisy else ""
        lines.append(f"  output {name}: {ideal}{on_chips}")
        if name in chips["agreement"]:
            same = chips["agreement"][name]
            lines.append(
                f"    class of onnxruntime: {chips['ideal_agreement'][name]:.1%} of samples; on chips "
                f"{same['mean']:.1%}{PLUS_MINUS}{same['std']:.1%}"
            )
    lines += [f"  output {name} is not compared: {why}" for name, why in facts["outputs_not_compared"].items()]
    return [*_lines(lines, form.width, indent=6), *_noise_table(facts, form)]


def _noise_table(facts: Facts, form: Form) -> list[RenderableType]:
    """Signal to noise of each layer; of many only of the worst, unless all are wanted."""
    layers, chips = facts["layers"], facts["emulated_quality"]
    known = [number for number, layer in enumerate(layers) if layer["sqnr_db"] is not None or layer["exact"]]
    if not known:
        return []
    shown, title = known, "signal to noise of layers"
    if len(known) > MOST_LAYERS and not form.all_layers:
        ratios = [math.inf if layer["sqnr_db"] is None else layer["sqnr_db"] for layer in layers]
        shown = sorted(sorted(known, key=lambda number: (ratios[number], number))[:QUALITY_LAYERS])
        title = f"signal to noise, the lowest {QUALITY_LAYERS} of {len(known)} layers"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column(NAMES, no_wrap=True)
    table.add_column("ideal devices", justify="right")
    if chips["seeds"]:
        table.add_column("on chips", justify="right", no_wrap=True)
    names = short_names([layer["name"] for layer in layers], min(MOST_NAME, max(form.width - 40, 8)))
    for number in shown:
        layer = layers[number]
        ideal = "exact" if layer["sqnr_db"] is None else f"{layer['sqnr_db']:.1f} dB"
        on_chips = [_on_chips(chips["layer_sqnr_db"], layer["name"])] if chips["seeds"] else []
        table.add_row(names[number], ideal, *on_chips)
    return [table]


def _on_chips(ratios: Facts, name: str) -> str:
    if name not in ratios:
        return ""
    ratio = ratios[name]
    return "exact" if ratio is None else f"{ratio['mean']:.1f}{PLUS_MINUS}{ratio['std']:.1f} dB"
