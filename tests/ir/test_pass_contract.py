"""Contracts of passes: a wrong order is one error before the first pass, and options have types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import models
import pytest
import stages

import memcompile
from memcompile.errors import UsageError
from memcompile.ir.graph import (
    CalibratedLayer,
    DigitalNode,
    Graph,
    LinearLayer,
    MappedLayer,
    OnnxNode,
    PairedLayer,
    QuantizedLayer,
    SlicedLayer,
    TiledLayer,
    UnrolledLayer,
)
from memcompile.ir.pass_contract import Fidelity, Form, Forms, check_order
from memcompile.ir.pass_manager import Pass, PassContext, run_passes, with_options
from memcompile.passes.calibrate_activations import CalibrateActivations
from memcompile.passes.place import Place
from memcompile.passes.quantize_weights import QuantizeWeights
from memcompile.passes.replicate import Replicate
from memcompile.passes.tile_matrices import TileMatrices
from memcompile.pipelines import compile_model, default_passes

FORM_OF: dict[type, Form] = {
    OnnxNode: Form.OPERATORS,
    LinearLayer: Form.LINEAR,
    DigitalNode: Form.DIGITAL,
    UnrolledLayer: Form.UNROLLED,
    CalibratedLayer: Form.CALIBRATED,
    QuantizedLayer: Form.QUANTIZED,
    SlicedLayer: Form.SLICED,
    PairedLayer: Form.PAIRED,
    TiledLayer: Form.TILED,
    MappedLayer: Form.MAPPED,
}


def without(name: str) -> tuple[Pass, ...]:
    return tuple(item for item in default_passes() if item.pass_name() != name)


def moved(name: str, before: str) -> list[Pass]:
    """The default pipeline with one pass put before another one."""
    passes = list(without(name))
    (item,) = (item for item in default_passes() if item.pass_name() == name)
    passes.insert([item.pass_name() for item in passes].index(before), item)
    return passes


def test_the_default_order_is_sound() -> None:
    check_order(default_passes())


@pytest.mark.parametrize("model", models.SMALL)
def test_passes_leave_the_forms_that_they_declare(model: str) -> None:
    data = {"x": models.images((2, *models.SMALL[model][1]))}
    graph = stages.import_model(models.SMALL[model][0](), data, f"{model}.onnx")
    held = {Form.OPERATORS}
    for item in default_passes():
        graph = run_passes(graph, (item,), stages.context_for(data))
        held = held - item.consumes | item.produces
        assert {FORM_OF[type(node)] for node in graph.nodes} <= held, item.pass_name()


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        (
            moved("slice_weights", "quantize_weights"),
            "pass slice_weights consumes quantized layers, which quantize_weights produces only after it; "
            "put it after quantize_weights",
        ),
        (
            moved("unroll_convolutions", "fold_batchnorm"),
            "pass fold_batchnorm consumes linear layers, which unroll_convolutions consumed before it; "
            "put it before unroll_convolutions",
        ),
        (
            without("split_differential"),
            "pass tile_matrices consumes paired layers, which no pass before it produces; "
            "add the pass that does, see --list-passes",
        ),
        (
            without("schedule"),
            "the pipeline ends without a schedule, which no pass before it produces; "
            "add the pass that does, see --list-passes",
        ),
        (
            moved("group_digital", "remove_dead_nodes"),
            "pass remove_dead_nodes consumes operators, which group_digital consumed before it; "
            "put it before group_digital",
        ),
    ],
)
def test_a_wrong_order_is_one_error_that_names_both_passes(
    passes: list[Pass], message: str, conv_bn_file: Path
) -> None:
    ran: list[str] = []

    class Watch:
        def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
            ran.append(name)

    with pytest.raises(UsageError) as error:
        compile_model(conv_bn_file, passes=passes, instruments=[Watch()])
    assert str(error.value) == message
    assert not ran, "found before the first pass"


@dataclass(frozen=True)
class LeaveAsIs(Pass):
    """A pass of somebody else's."""

    summary: ClassVar[str] = "leave the graph as it is"
    consumes: ClassVar[Forms] = frozenset({Form.LINEAR})
    produces: ClassVar[Forms] = frozenset({Form.LINEAR})
    fidelity: ClassVar[Fidelity] = "lossless"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        return graph


def test_a_pipeline_of_ones_own_is_compiled_and_recorded(save_model: Callable[..., Path]) -> None:
    file = save_model(models.conv_bn())
    passes = list(default_passes())
    passes.insert(3, LeaveAsIs())
    own = memcompile.compile(file, passes=passes, settings=["replicate.effort=fast"])
    plain = memcompile.compile(file, settings=["replicate.effort=fast"])
    assert str(own.provenance.options["passes"]).split()[3] == "leave_as_is"
    assert "passes" not in plain.provenance.options
    assert [layer.name for layer in own.layers] == [layer.name for layer in plain.layers]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replicate(objective="speed"), "replicate.objective = speed: should be 'throughput', 'accuracy'"),  # type: ignore[arg-type]
        (
            lambda: QuantizeWeights(candidates=0),
            "quantize_weights.candidates = 0: should be greater than or equal to 1",
        ),
        (
            lambda: QuantizeWeights(damping=-1.0),
            "quantize_weights.damping = -1.0: should be greater than or equal to 0",
        ),
        (lambda: CalibrateActivations(shortest=1.5), "calibrate_activations.shortest = 1.5: should be less than"),
        (lambda: TileMatrices(bundle_groups=1), "tile_matrices.bundle_groups = 1: should be a valid boolean"),  # type: ignore[arg-type]
        (lambda: Place(work=float("nan")), "place.work = nan: should be"),
    ],
)
def test_options_are_checked_where_they_are_given(make: Callable[[], Pass], message: str) -> None:
    with pytest.raises(UsageError) as error:
        make()
    assert message in str(error.value)


def test_settings_are_read_in_the_types_of_their_options() -> None:
    settings = ["replicate.effort=best", "tile_matrices.bundle_groups=no", "place.work=3", "quantize_weights.images=7"]
    found = {item.pass_name(): item for item in with_options(default_passes(), settings)}
    assert found["replicate"] == Replicate(effort="best")
    assert found["tile_matrices"] == TileMatrices(bundle_groups=False)
    assert found["place"] == Place(work=3.0)
    assert found["quantize_weights"] == QuantizeWeights(images=7)
