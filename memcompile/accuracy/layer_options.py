"""Options of layers: what each plan of a layer adds to the noise at the outputs, and what it costs.

A layer with one more slice has less noise and takes more cells; without parallel windows it has less noise and takes
more steps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from memcompile.accuracy.candidates import Candidates, LayerPlan, slices_to_try
from memcompile.accuracy.loss_prediction import LossPredictor
from memcompile.hardware.line_turns import LineTurns
from memcompile.ir.graph import MappedLayer, Replica, TiledLayer
from memcompile.ir.sharing import first_layers
from memcompile.ir.slicing import SliceChoice
from memcompile.passes.packing.tiling import tile_limits
from memcompile.passes.replicate import all_windows
from memcompile.passes.search.explore_windows import option_steps

LAYERS_AT_ONCE = 4
"""Layers whose noise is computed at once; each takes memory of its own."""


@dataclass(frozen=True)
class LayerOption:
    """Noise that a plan of a layer adds at the network's output, its cells, and the time that it takes for an image.

    ``array_steps`` are steps of arrays, in each of which one tile works; ``cell_steps`` are cells times the steps that
    they are there for, whether they work or not.
    """

    plan: LayerPlan
    noise: float
    cells: int
    array_steps: int
    cell_steps: int

    def is_worse_than(self, other: LayerOption) -> bool:
        """Return True if another option is nowhere worse, and somewhere better."""
        mine, theirs = ((option.noise, option.cells, option.array_steps, option.cell_steps) for option in (self, other))
        return mine != theirs and all(own >= one for own, one in zip(mine, theirs, strict=True))


def layer_options(candidates: Candidates, predictor: LossPredictor) -> list[tuple[LayerOption, ...]]:
    """Options of each layer, none of which is worse than another one in everything."""
    layers, target = predictor.first.layers, predictor.first.target
    tiled = [
        {
            slices: candidates.tiled(slices)[layer.name]
            for slices in slices_to_try(target, candidates.slices(layer.name))
        }
        for layer in layers
    ]
    # NumPy lets other threads run inside its loops, and layers do not depend on each other.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, LAYERS_AT_ONCE)) as pool:
        of_layers = pool.map(
            lambda number: _options_of(candidates, predictor, number, tiled[number]), range(len(layers))
        )
        return list(of_layers)


def plan_noise(predictor: LossPredictor, number: int, layer: TiledLayer, plan: LayerPlan) -> float:
    """Noise at the outputs that a layer adds with a plan, with the windows of the first mapping."""
    replicas = _replicas(predictor, number, layer, plan)
    # A window at the edge may see nothing at all, and the first replica may have no other.
    windows = np.concatenate([one.windows for one in replicas if one.unrolling == replicas[0].unrolling])
    return predictor.option_noise(number, layer, replace(replicas[0], windows=windows))


def _options_of(
    candidates: Candidates, predictor: LossPredictor, number: int, tiled: Mapping[SliceChoice, TiledLayer]
) -> tuple[LayerOption, ...]:
    windows = (True, False) if _has_windows(predictor.first.layers[number]) else (candidates.windows,)
    options = [
        _option(predictor, number, layer, LayerPlan(slices, either))
        for slices, layer in tiled.items()
        for either in windows
    ]
    return tuple(one for one in options if not any(one.is_worse_than(other) for other in options))


def _option(predictor: LossPredictor, number: int, layer: TiledLayer, plan: LayerPlan) -> LayerOption:
    """Noise, cells and work of a plan; windows are those of the first mapping."""
    target, replicas = predictor.first.target, _replicas(predictor, number, layer, plan)
    noise = plan_noise(predictor, number, layer, plan)
    lines = plan.slices.count * target.array.lines_per_pair
    each = lines * target.array.cells_per_crossing
    limits, turns = tile_limits(target, plan.slices.count), LineTurns.of(target)
    array_steps = cell_steps = 0
    for replica in replicas:
        unrolling, steps = replica.unrolling, len(replica.windows)
        array_steps += option_steps(unrolling, *limits, lines, turns) * steps
        cell_steps += unrolling.matrices * unrolling.rows * unrolling.columns * each * steps
    # Layers that share cells have a part of them each.
    owners = first_layers(predictor.first.layers)
    users = int((owners == owners[number]).sum())
    cells = -(-layer.unrolling.matrices * layer.unrolling.rows * layer.unrolling.columns * each // users)
    return LayerOption(plan, noise, cells, array_steps, cell_steps)


def _replicas(predictor: LossPredictor, number: int, layer: TiledLayer, plan: LayerPlan) -> tuple[Replica, ...]:
    """Replicas of a layer with a plan, as far as the first mapping tells."""
    mapped = predictor.first.layers[number]
    return mapped.replicas if plan.windows and _has_windows(mapped) else (all_windows(layer.unrolling, layer.cut),)


def _has_windows(layer: MappedLayer) -> bool:
    return any(replica.unrolling.window_outputs > 1 for replica in layer.replicas)
