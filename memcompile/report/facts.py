"""The facts of a program, as data with stable keys and as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from memcompile.accuracy_budget import BudgetResult
from memcompile.figures import figure
from memcompile.heap import large_blocks_go_back
from memcompile.ir.graph import MappedLayer
from memcompile.ir.quantizers import InputQuantizer
from memcompile.loss_front import LossFront
from memcompile.program.flow import program_flow
from memcompile.program.program import Program
from memcompile.report.accuracy_report import accuracy_facts, accuracy_lines, accuracy_table
from memcompile.report.budget_report import budget_facts, budget_lines
from memcompile.report.cost_report import cost_facts, cost_lines
from memcompile.report.emulated_chips import spread
from memcompile.report.evaluation import Evaluation, Quality
from memcompile.report.front_report import front_facts
from memcompile.timing.buffers import buffer_sizes

Facts = dict[str, Any]


@large_blocks_go_back()
def program_facts(
    program: Program,
    evaluation: Evaluation | None = None,
    choice: BudgetResult | None = None,
    front: LossFront | None = None,
    operators: Sequence[Facts] | None = None,
) -> Facts:
    """Facts of the report, with the keys that docs/json.md documents.

    ``choice`` is that under an accuracy budget, and ``front`` that of mappings without one; ``operators`` are facts of
    the model's operators, see :class:`memcompile.report.explain.Explanation`.
    """
    placement, target = program.placement, program.target
    certificates = {item.quantity: item for item in placement.certificates}
    arrays, interval = certificates.get("arrays"), certificates.get("initiation_interval")
    latency, of_pass = certificates.get("latency"), certificates.get("pass_time_ns")
    cost = cost_facts(program)
    crossing = certificates.get("crossing_values")
    steps = placement.initiation_interval_steps
    accuracy = evaluation.accuracy if evaluation else None
    quality = evaluation.quality if evaluation else None
    return {
        "model": program.provenance.model,
        "model_sha256": program.provenance.model_sha256,
        "target": target.name,
        "chips": placement.chips,
        "chips_requested": program.provenance.options.get("chips"),
        "slices": program.provenance.options.get("slices"),
        "arrays_per_chip": target.chip.arrays,
        "arrays_used": program.arrays_used,
        "arrays_bound": arrays.bound if arrays else 0,
        "cells_used": program.cells_used,
        "cell_utilisation": program.cell_utilisation,
        "initiation_interval_steps": steps,
        "initiation_interval_bound": interval.bound if interval else 0,
        "latency_steps": placement.latency_steps,
        "latency_bound": latency.bound if latency else None,
        "pipelined_latency_steps": placement.pipelined_latency_steps,
        "step_ns": program.step_ns,
        "images_per_second": 1e6 / cost["interval_us"] if cost["interval_us"] else None,
        "crossing_values": placement.crossing_values,
        "crossing_values_bound": crossing.bound if crossing else 0,
        "buffers": _buffer_facts(program),
        "segments": len(placement.segments),
        "batch": placement.batch or None,
        "pass_time_ns": of_pass.value if of_pass else None,
        "pass_time_bound_ns": of_pass.bound if of_pass else None,
        "multiply_adds": _multiply_add_facts(program),
        "operators": None if operators is None else list(operators),
        "cost": cost,
        "certificates": [
            {
                "quantity": item.quantity,
                "value": item.value,
                "bound": item.bound,
                "gap": item.gap,
                "method": item.method,
                "limited_by": item.limited_by or None,
            }
            for item in placement.certificates
        ],
        "layers": [_layer_facts(program, number, layer, quality) for number, layer in enumerate(program.layers)],
        "data": evaluation.data if evaluation else None,
        "accuracy_budget": _choice_facts(choice) if choice else None,
        "pareto": front_facts(front) if front else None,
        "accuracy": accuracy_facts(accuracy) if accuracy else None,
        "error_budget": budget_facts(evaluation.budget) if evaluation and evaluation.budget else None,
        "output_sqnr_db": {name: _finite(value) for name, value in quality.outputs.items()} if quality else None,
        "emulated_quality": _emulated_quality(quality) if quality else None,
        "outputs_not_compared": dict(quality.not_compared) if quality else None,
        "warnings": list(program.provenance.notes),
    }


def _buffer_facts(program: Program) -> Facts:
    sizes = buffer_sizes(program_flow(program), program.placement, program.target)
    return {
        "alone": sizes.alone,
        "pipelined": sizes.steady,
        "values": [{"value": item.value, "alone": item.alone, "pipelined": item.steady} for item in sizes.values],
    }


def _multiply_add_facts(program: Program) -> Facts | None:
    total, on_arrays = program.provenance.multiply_adds, program.provenance.multiply_adds_on_arrays
    if total is None or on_arrays is None:
        return None
    return {"total": total, "on_arrays": on_arrays, "share_on_arrays": on_arrays / total if total else None}


def _layer_facts(program: Program, number: int, layer: MappedLayer, quality: Quality | None) -> Facts:
    tiles = program.placement.tiles
    own = tiles.layer == number
    cells = int(program.cell_map.cells[own].sum())
    arrays = np.unique(np.stack([tiles.segment[own], tiles.array[own]]), axis=1).T
    segments = tiles.segment[own]
    geometry = layer.geometry
    return {
        "name": layer.name,
        "rows": geometry.group_rows,
        "columns": geometry.group_columns,
        "groups": geometry.groups,
        "slices": layer.slices,
        "slice_base": layer.base,
        "windows": geometry.positions,
        "parallel_windows": [list(window) for window in dict.fromkeys(r.unrolling.window for r in layer.replicas)],
        "tiles": int(own.sum()),
        "replicas": len(layer.replicas),
        "arrays": len(arrays),
        "cells": cells,
        "cell_share": cells / (len(arrays) * program.target.array.cells) if len(arrays) else 0.0,
        "segments": [int(segments.min()), int(segments.max())] if program.placement.segments else None,
        "steps": int(program.tile_loads[own].max(initial=0)),
        "input_bits": layer.quantizer.bits if isinstance(layer.quantizer, InputQuantizer) else None,
        "input_signed": layer.quantizer.signed if isinstance(layer.quantizer, InputQuantizer) else True,
        "sqnr_db": _finite(quality.layers.get(layer.name)) if quality else None,
        "exact": quality.layers.get(layer.name) == math.inf if quality else None,
    }


def _choice_facts(choice: BudgetResult) -> Facts:
    return {
        "max_loss": choice.points,
        "predicted_loss": choice.predicted,
        "measured_losses": choice.measured.tolist(),
        "held": choice.held,
        "steps_without": choice.steps_without,
    }


def _choice_line(facts: Facts) -> str:
    """Line on what the accuracy budget led to."""
    found, steps = facts["accuracy_budget"], facts["initiation_interval_steps"]
    losses = np.array(found["measured_losses"])
    measured = f"{losses.mean():.1f} measured on {len(losses)} chips with calibration samples; " if len(losses) else ""
    interval = f"{steps:,} step{'s' * (steps != 1)} instead of {found['steps_without']:,}"
    words = f"{found['predicted_loss']:.1f} predicted, {measured}{interval}"
    points = f"accuracy budget  {found['max_loss']:g} point{'s' * (found['max_loss'] != 1)}"
    if found["held"]:
        return f"{points}: {words}"
    return f"{points} cannot be held; the least loss that was found: {words}"


def _emulated_quality(quality: Quality) -> Facts:
    return {
        "output_sqnr_db": {name: _mean_and_spread(ratios) for name, ratios in quality.chip_outputs.items()},
        "layer_sqnr_db": {name: _mean_and_spread(ratios) for name, ratios in quality.chip_layers.items()},
        "transferred_output_sqnr_db": {
            name: _mean_and_spread(ratios) for name, ratios in quality.transferred_outputs.items()
        },
        "ideal_agreement": dict(quality.agreement),
        "agreement": {
            name: {"mean": float(shares.mean()), "std": spread(shares)}
            for name, shares in quality.chip_agreement.items()
            if len(shares)
        },
        "images": quality.chip_images,
        "seeds": quality.seeds,
        "calibration": asdict(quality.calibration),
    }


def _mean_and_spread(ratios: NDArray[np.float64]) -> Facts | None:
    """Mean and standard deviation over chips; None if they are exact."""
    if not len(ratios) or not np.isfinite(ratios).all():
        return None
    return {"mean": float(ratios.mean()), "std": spread(ratios)}


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: an exact match has no ratio to give."""
    return value if value is not None and math.isfinite(value) else None


def facts_json(facts: Mapping[str, Any]) -> str:
    """Facts as JSON text."""
    return json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def render(facts: Facts) -> RenderableType:
    """The report a person reads."""
    parts: list[RenderableType] = [_layer_table(facts), Text(), *_totals(facts)]
    if facts["accuracy_budget"]:
        parts.append(Text(_choice_line(facts)))
    if facts["accuracy"]:
        parts += [Text(), accuracy_table(facts), *accuracy_lines(facts["accuracy"])]
    if facts["error_budget"]:
        parts += [Text(), *budget_lines(facts)]
    if facts["output_sqnr_db"] or facts["outputs_not_compared"]:
        parts += [Text(), *_quality_lines(facts)]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in facts["warnings"]]
    return Group(*parts)


def _layer_table(facts: Facts) -> Table:
    table = Table(title=f"{facts['model']} on {facts['target']}", title_justify="left", header_style="bold")
    table.add_column("layer", overflow="fold")
    in_segments = ("segments",) if facts["segments"] else ()
    in_slices = ("slices",) if any(layer["slices"] > 1 for layer in facts["layers"]) else ()
    for heading in (
        "weight matrix",
        *in_slices,
        "window",
        "tiles",
        "replicas",
        "steps",
        *in_segments,
        "arrays",
        "cells used",
    ):
        table.add_column(heading, justify="right")
    with_ratio = any(layer["sqnr_db"] is not None for layer in facts["layers"])
    if with_ratio:
        table.add_column("SQNR", justify="right")
    on_chips = with_ratio and facts["emulated_quality"]["seeds"]
    if on_chips:
        table.add_column("on chips", justify="right")
    for layer in facts["layers"]:
        groups = f"{layer['groups']} x " if layer["groups"] > 1 else ""
        row = [
            layer["name"],
            f"{groups}{layer['rows']} x {layer['columns']}",
            *((f"{layer['slices']}",) if in_slices else ()),
            " ".join("x".join(map(str, window)) for window in layer["parallel_windows"]),
            f"{layer['tiles']}",
            f"{layer['replicas']}",
            f"{layer['steps']:,}",
            *(("-".join(map(str, dict.fromkeys(layer["segments"]))),) if in_segments else ()),
            f"{layer['arrays']}",
            f"{layer['cell_share']:.1%}",
        ]
        if with_ratio:
            ratio = "" if layer["sqnr_db"] is None else f"{layer['sqnr_db']:.1f} dB"
            row.append("exact" if layer["exact"] else ratio)
        if on_chips:
            row.append(_on_chips(facts["emulated_quality"]["layer_sqnr_db"], layer["name"]))
        table.add_row(*row)
    return table


def _totals(facts: Facts) -> list[Text]:
    operations = _multiply_add_lines(facts)
    if not facts["layers"]:
        return [Text("no layer lands on crossbars: the whole network runs digitally"), *map(Text, operations)]
    chips, per_chip = facts["chips"], facts["arrays_per_chip"]
    plural = "" if chips == 1 else "s"
    why = "as many as the network needs" if facts["chips_requested"] is None else "the budget given"
    where = f"chips            {chips} chip{plural} of {per_chip} arrays ({why})"
    lines = [*operations, where, *(_in_segments(facts) if facts["segments"] else _at_once(facts))]
    if chips > 1:
        lines.append(
            f"traffic          {facts['crossing_values']:,} values an image cross chips; "
            f"proven lower bound {facts['crossing_values_bound']:,}"
        )
    return [Text(line) for line in (*lines, *cost_lines(facts["cost"]))]


def _multiply_add_lines(facts: Facts) -> list[str]:
    """The share on arrays, unless it is all."""
    counted = facts["multiply_adds"]
    share = counted["share_on_arrays"] if counted else None
    if share in (None, 1.0):
        return []
    return [f"multiply-adds    {counted['total']:,} an image, {_percent(share)} of them on arrays"]


def _percent(share: float) -> str:
    """A share that is not all, and 0% only if it is nothing."""
    return f"{min(max(share, 0.0001), 0.9999):.2%}" if share else "0%"


def _at_once(facts: Facts) -> list[str]:
    """Totals of a network that is on the chips as a whole."""
    return [
        f"arrays           {facts['arrays_used']} of {facts['chips'] * facts['arrays_per_chip']} used; "
        f"{_bound(facts['arrays_used'], facts['arrays_bound'])}",
        f"cells            {facts['cells_used']:,} used, {facts['cell_utilisation']:.1%} of all",
        f"steps per image  {facts['initiation_interval_steps']:,} (initiation interval); "
        f"{_bound(facts['initiation_interval_steps'], facts['initiation_interval_bound'])}",
        *_limits(facts),
        f"latency          {_latency(facts)}",
        f"buffers          {facts['buffers']['alone']:,} values held at once for one image alone; "
        f"{facts['buffers']['pipelined']:,} in the pipeline",
        f"rate             {facts['images_per_second']:,.0f} images/s at {facts['step_ns']:g} ns a step",
    ]


def _in_segments(facts: Facts) -> list[str]:
    """Totals of a network that is written onto the chips segment by segment."""
    batch, a_pass = facts["batch"], facts["cost"]["pass"]
    lines = [
        f"segments         {facts['segments']}, written over each other once for each batch; {batch:,} images a batch",
        f"arrays           {facts['arrays_used']} of {facts['chips'] * facts['arrays_per_chip']} used",
        f"cells            {facts['cells_used']:,} in all segments, on average {facts['cell_utilisation']:.1%} of all",
        f"steps per image  {facts['initiation_interval_steps']:,} in all segments at {facts['step_ns']:g} ns a step",
    ]
    if a_pass is None:
        return lines
    writing = a_pass["writing_us"] / a_pass["time_us"]
    each_us, written_us = a_pass["time_us"] / batch, a_pass["writing_us"] / batch
    computed_us = a_pass["computing_us"] / batch
    return [
        *lines,
        f"time of a batch  {figure(1e-3 * a_pass['time_us'])} ms, {writing:.1%} of it writing{_pass_bound(facts)}",
        f"time per image   {figure(each_us)} us: {figure(written_us)} us writing, {figure(computed_us)} us computing",
        f"rate             {figure(facts['images_per_second'])} images/s",
    ]


def _limits(facts: Facts) -> list[str]:
    """Line about the resource that keeps the interval from being shorter, where the search says so."""
    found = [item["limited_by"] for item in facts["certificates"] if item["quantity"] == "initiation_interval"]
    return [f"limited by       {words}" for words in found if words]


def _pass_bound(facts: Facts) -> str:
    value, bound = facts["pass_time_ns"], facts["pass_time_bound_ns"]
    if not value:
        return ""
    gap = "optimal" if value == bound else f"gap {(value - bound) / value:.1%}"
    return f"; proven lower bound {figure(1e-6 * bound)} ms, {gap}"


def _latency(facts: Facts) -> str:
    alone, pipelined = facts["latency_steps"], facts["pipelined_latency_steps"]
    proof = "" if facts["latency_bound"] is None else f"; {_bound(alone, facts['latency_bound'])}"
    time = figure(facts["cost"]["latency_us"])
    return f"{alone:,} steps, {time} us, for one image alone{proof}; {pipelined:,} steps in the pipeline"


def _bound(value: int, bound: int) -> str:
    if value == bound:
        return f"proven lower bound {bound:,}: optimal"
    return f"proven lower bound {bound:,}, gap {(value - bound) / value:.1%}"


def _quality_lines(facts: Facts) -> list[Text]:
    chips = facts["emulated_quality"]
    noisy = f"; and with noisy devices, {chips['seeds']} chips, {chips['images']} images" if chips["seeds"] else ""
    lines = [Text(f"signal-to-noise ratio on {facts['data']}: of quantising, with ideal devices{noisy}:")]
    for name, ratio in facts["output_sqnr_db"].items():
        ideal = "exact" if ratio is None else f"{ratio:.1f} dB"
        on_chips = f"; on chips {_on_chips(chips['output_sqnr_db'], name) or 'not compared'}" if noisy else ""
        lines.append(Text(f"  output {name}: {ideal}{on_chips}"))
        if name in chips["agreement"]:
            same = chips["agreement"][name]
            lines.append(
                Text(
                    f"    class of onnxruntime: {chips['ideal_agreement'][name]:.1%} of samples; on chips "
                    f"{same['mean']:.1%} +- {same['std']:.1%}"
                )
            )
    lines += [Text(f"  output {name} is not compared: {why}") for name, why in facts["outputs_not_compared"].items()]
    return lines


def _on_chips(ratios: Facts, name: str) -> str:
    if name not in ratios:
        return ""
    ratio = ratios[name]
    return "exact" if ratio is None else f"{ratio['mean']:.1f} +- {ratio['std']:.1f} dB"
