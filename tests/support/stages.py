"""Runs a model through the first passes, and compares graphs with onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import models
import numpy as np
import onnx
from numpy.typing import NDArray

from memcompile.frontend.byte_products import use_unsigned_weights
from memcompile.frontend.importer import import_graph, read_model
from memcompile.frontend.sessions import open_session
from memcompile.hardware.target import Target, load_target
from memcompile.ir.graph import Graph, fixed_batch
from memcompile.ir.pass_manager import Pass, PassContext, run_passes
from memcompile.ir.slicing import Fill
from memcompile.passes.replicate import Replicate
from memcompile.pipelines import default_passes, emit_program
from memcompile.program.program import Program, Provenance
from memcompile.verify.interpreter import Interpreter
from memcompile.verify.verifier import Verifier

T = TypeVar("T")
Feeds = Mapping[str, NDArray[Any]]


def import_model(model: onnx.ModelProto, feeds: Feeds, name: str = "model.onnx") -> Graph:
    """The graph of a model, observed on one image (on the whole batch where it is fixed)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(model.SerializeToString())
        file = read_model(path)
    size = fixed_batch(file.inputs.values()) or 1
    return import_graph(file, {key: value[:size] for key, value in feeds.items()})


def context_for(
    feeds: Feeds,
    target: Target | None = None,
    slices: int = 1,
    chips: int | None = None,
    batch: int | None = None,
    fill: Fill = "max",
) -> PassContext:
    """Pass context with the reference chip by default, and the feeds as calibration data."""
    return PassContext(target or load_target("yao2020"), feeds, slices=slices, chips=chips, batch=batch, fill=fill)


def run_verified(graph: Graph, passes: tuple[Pass, ...], context: PassContext) -> Graph:
    """Run passes with the verifier after each."""
    return run_passes(graph, passes, context, (Verifier(),))


def passes_through(name: str) -> tuple[Pass, ...]:
    """The default passes up to and including the one of this name."""
    names = [item.pass_name() for item in default_passes()]
    return default_passes()[: names.index(name) + 1]


def after(name: str, model: onnx.ModelProto, feeds: Feeds, **options: Any) -> Graph:
    """The graph of a model after the pass of this name."""
    return run_verified(import_model(model, feeds), passes_through(name), context_for(feeds, **options))


def reference(model: onnx.ModelProto | bytes, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Outputs of onnxruntime without graph rewrites."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = open_session(data, optimise=False)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def exact(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with products of bytes that do not overflow on processors without instructions for them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    use_unsigned_weights(copy, {})
    return copy


def assert_matches(graph: Graph, model: onnx.ModelProto, feeds: Feeds, relative: float = 1e-5) -> None:
    """The graph gives what onnxruntime gives, up to a share of each output's largest magnitude."""
    wanted = reference(model, feeds)
    results = Interpreter(graph).run(feeds)
    assert results.keys() == wanted.keys()
    for name, want in wanted.items():
        got = results[name]
        assert (got.dtype, got.shape) == (want.dtype, want.shape), name
        error = np.abs(got.astype(np.float64) - want.astype(np.float64)).max(initial=0)
        assert error <= relative * np.abs(want.astype(np.float64)).max(initial=1e-30), (name, error)


def signal_to_noise_db(want: NDArray[Any], got: NDArray[Any]) -> float:
    """10 log10 of signal power over error power."""
    error = float(np.square(got.astype(np.float64) - want.astype(np.float64)).sum())
    return float("inf") if error == 0 else 10 * float(np.log10(np.square(want.astype(np.float64)).sum() / error))


def kinds(graph: Graph) -> list[str]:
    """The kinds of a graph's nodes, in order."""
    return [node.kind for node in graph.nodes]


def replaced(item: T, **changes: Any) -> T:
    """A dataclass instance with some fields replaced and nothing cleaned up."""
    return replace(item, **changes)  # type: ignore[type-var]


def default_pass(name: str) -> Pass:
    """One of the default passes."""
    return passes_through(name)[-1]


def compiled(model: onnx.ModelProto, image: tuple[int, ...], objective: str) -> tuple[Graph, Program, np.ndarray]:
    """Scheduled graph and program of a model with the input ``x``, and what it was calibrated with."""
    feeds = {"x": models.images((4, *image))}
    context = context_for(feeds)
    passes = [
        Replicate(objective=objective, effort="fast") if isinstance(item, Replicate) else item
        for item in default_passes()
    ]
    graph = run_verified(import_model(model, feeds), tuple(passes), context)
    return graph, emit_program(graph, context, Provenance("test", "0" * 64, "test", {})), feeds["x"]
