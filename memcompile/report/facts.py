"""The facts of a program, as data with stable keys."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.accuracy_budget import BudgetResult
from memcompile.accuracy.loss_front import LossFront
from memcompile.heap import large_blocks_go_back
from memcompile.ir.graph import MappedLayer
from memcompile.ir.quantizers import InputQuantizer
from memcompile.ir.slicing import Fill
from memcompile.noise.line_currents import BINS
from memcompile.program.flow import program_flow
from memcompile.program.program import Program
from memcompile.report.accuracy_report import accuracy_facts
from memcompile.report.budget_report import budget_facts
from memcompile.report.cost_report import cost_facts
from memcompile.report.emulated_chips import spread
from memcompile.report.evaluation import ConverterInputs, Evaluation, Quality
from memcompile.report.front_report import front_facts
from memcompile.timing.buffers import buffer_sizes

Facts = dict[str, Any]
MEASURED = (
    "accuracy",
    "error_budget",
    "output_sqnr_db",
    "emulated_quality",
    "outputs_not_compared",
    "converter_inputs",
)
"""Keys of what only an evaluation knows."""


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
    facts = {
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
        "layers": [_layer_facts(program, number, layer) for number, layer in enumerate(program.layers)],
        "data": None,
        "accuracy_budget": _choice_facts(choice) if choice else None,
        "pareto": front_facts(front) if front else None,
        **dict.fromkeys(MEASURED),
        "warnings": list(program.provenance.notes),
    }
    return with_evaluation(facts, evaluation)


def with_evaluation(facts: Facts, evaluation: Evaluation | None) -> Facts:
    """Facts of a program with those that an evaluation measured."""
    if evaluation is None:
        return facts
    accuracy, budget, quality = evaluation.accuracy, evaluation.budget, evaluation.quality
    measured: Facts = {
        "data": evaluation.data,
        "accuracy": accuracy_facts(accuracy) if accuracy else None,
        "error_budget": budget_facts(budget) if budget else None,
        "converter_inputs": None if evaluation.currents is None else _current_facts(evaluation.currents, facts),
    }
    if quality is not None:
        measured |= {
            "output_sqnr_db": {name: _finite(value) for name, value in quality.outputs.items()},
            "emulated_quality": _emulated_quality(quality),
            "outputs_not_compared": dict(quality.not_compared),
            "layers": [{**layer, **_ratio_facts(layer["name"], quality)} for layer in facts["layers"]],
        }
    return {**facts, **measured}


def _current_facts(currents: ConverterInputs, facts: Facts) -> Facts:
    return {
        "images": currents.images,
        "bins_of_range": BINS,
        "layers": [
            {
                "name": layer["name"],
                "conversions": found.conversions,
                "clipped_share": found.clipped_share,
                "largest": found.largest,
                "first_bin": found.first,
                "counts": found.counts.tolist(),
            }
            for layer, found in zip(facts["layers"], currents.layers, strict=True)
        ],
    }


def _ratio_facts(layer: str, quality: Quality) -> Facts:
    ratio = quality.layers.get(layer)
    return {"sqnr_db": _finite(ratio), "exact": ratio == math.inf}


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


def _slice_fill(program: Program, layer: MappedLayer) -> Fill:
    """Fill of a layer's slices, from the options that the program was compiled with."""
    options = program.provenance.options
    own = options.get(f"slices of {layer.name}")
    equal = options.get("slice_fill") == "equal" if own is None else str(own).endswith(":equal")
    return "equal" if equal else "max"


def _layer_facts(program: Program, number: int, layer: MappedLayer) -> Facts:
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
        "slice_fill": _slice_fill(program, layer),
        "windows": geometry.positions,
        "parallel_windows": [list(window) for window in dict.fromkeys(r.unrolling.window for r in layer.replicas)],
        "tiles": int(own.sum()),
        "replicas": len(layer.replicas),
        "arrays": len(arrays),
        "cells": cells,
        "shares_cells_with": layer.shares_with or None,
        "cell_share": cells / (len(arrays) * program.target.array.cells) if len(arrays) else 0.0,
        "segments": [int(segments.min()), int(segments.max())] if program.placement.segments else None,
        "steps": int(program.tile_loads[own].max(initial=0)),
        "input_bits": layer.quantizer.bits if isinstance(layer.quantizer, InputQuantizer) else None,
        "input_signed": layer.quantizer.signed if isinstance(layer.quantizer, InputQuantizer) else True,
        "sqnr_db": None,
        "exact": None,
    }


def _choice_facts(choice: BudgetResult) -> Facts:
    return {
        "max_loss": choice.points,
        "predicted_loss": choice.predicted,
        "measured_losses": choice.measured.tolist(),
        "shared_loss": choice.shared_loss,
        "held": choice.held,
        "steps_without": choice.steps_without,
        "least_chips": choice.bound.chips if choice.bound else None,
        "least_steps": choice.bound.steps if choice.bound else None,
        "write_again_share": choice.target.programming.write_again_share,
        "range_calibrated": choice.range_calibrated,
    }


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


def facts_json(facts: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Facts as JSON text."""
    return json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
