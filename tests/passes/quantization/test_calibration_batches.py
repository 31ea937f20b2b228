"""Inputs of layers for the images of a batch, part by part."""

from __future__ import annotations

import models
import numpy as np
import pytest
import stages

from memcompile.ir.graph import UnrolledLayer
from memcompile.passes.quantization import calibration_batches
from memcompile.verify.interpreter import Interpreter


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_layers_get_the_inputs_that_the_network_gives_them(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = {"x": models.images((20, 3, 4, 4))}
    graph = stages.after("unroll_convolutions", models.skip_connection(), feeds)
    # Two layers read one value, and not one after the other.
    found = [node for node in graph.nodes if isinstance(node, UnrolledLayer)]
    layers = [*found, found[0]]
    whole = Interpreter(graph).run(feeds, {layer.inputs[0] for layer in layers})
    monkeypatch.setattr(calibration_batches, "RUN_VALUES", at_once)
    monkeypatch.setattr(calibration_batches, "_values_of_image", lambda graph: 1)
    given = list(calibration_batches.layer_inputs(Interpreter(graph), feeds, layers))
    assert [layer for layer, _ in given] == layers * -(-20 // at_once)
    for number, layer in enumerate(layers):
        parts = [value for _, value in given[number :: len(layers)]]
        np.testing.assert_array_equal(np.concatenate(parts), whole[layer.inputs[0]])


def test_no_value_is_held_for_longer_than_the_network_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = {"x": models.images((8, 3, 4, 4))}
    graph = stages.after("unroll_convolutions", models.skip_connection(), feeds)
    layers = [node for node in graph.nodes if isinstance(node, UnrolledLayer)]
    held = list[int]()
    plain = Interpreter._run_step

    def run_step(self: Interpreter, number: int, values: dict[str, np.ndarray], *rest: object) -> None:
        plain(self, number, values, *rest)  # type: ignore[arg-type]
        held.append(len(values) - len(graph.constants))

    monkeypatch.setattr(Interpreter, "_run_step", run_step)
    list(calibration_batches.layer_inputs(Interpreter(graph), feeds, layers))
    in_turn, most = max(held), len({layer.inputs[0] for layer in layers})
    held.clear()
    Interpreter(graph).run(feeds, tuple({layer.inputs[0] for layer in layers}))
    assert in_turn <= max(held)
    assert in_turn <= most + 1
