"""Runs of an untrusted model within limits, to observe types, shapes and failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnxruntime as ort
from numpy.typing import NDArray

from memcompile.errors import ModelError
from memcompile.frontend.sandbox import GuardError, Limits, WorkError, run_guarded
from memcompile.frontend.sessions import Weights, tensor_dtype
from memcompile.frontend.validation import nodes_of, refused, unused_name
from memcompile.frontend.values import contents
from memcompile.frontend.weights import open_model

SHAPE_OPSET = 17
"""Operator set of Shape in a model that has no operators of the default domain."""


def guarded(
    work: Callable[..., Any], arguments: tuple[Any, ...], limits: Limits | None, where: Path | str, doing: str
) -> Any:
    """Run work of onnx and onnxruntime within limits; its exceptions become ModelErrors with the same messages."""
    try:
        return work(*arguments) if limits is None else run_guarded(work, arguments, limits)
    except MemoryError as error:
        raise ModelError(f"{where}: {doing} takes more memory than there is") from error
    except WorkError as error:
        raise ModelError(str(error)) from error
    except GuardError as error:
        raise ModelError(
            f"{where}: {doing} {error}; if you trust the model, raise --import-seconds or --import-memory"
        ) from error


@dataclass(frozen=True, eq=False)
class ModelRuns:
    """A model with the limits of its runs."""

    name: str
    model: onnx.ModelProto
    weights: Weights
    limits: Limits | None

    def work(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function on a session of the model.

        Parameters
        ----------
        work
            A function at the top of its module. It gets the session before its arguments and returns what
            JSON can hold.

        Raises
        ------
        ModelError
            The session cannot be opened, the work fails, or a limit is broken.
        """
        everything = (self.model, self.weights, work, arguments)
        return guarded(_on_session, everything, self.limits, self.name, "running a sample")

    def observe(
        self,
        made: Sequence[str],
        wanted: Sequence[str],
        sample: Mapping[str, NDArray[Any]],
        sizes: Mapping[str, Sequence[int | None]],
        sequences: Sequence[str] = (),
    ) -> tuple[list[tuple[str, str, tuple[int | None, ...]]], dict[str, tuple[int, ...]]]:
        """Types of all values as onnxruntime infers them, and the shapes that some have on a sample.

        Parameters
        ----------
        made
            All values that the model's operators make.
        wanted
            Those whose shapes are wanted.
        sizes
            Shapes of inputs, None where a size is open; types follow from them.
        sequences
            Values whose first size should be known. Where it is not, onnxruntime evaluates what does not depend on
            the inputs, and infers types again.

        Returns
        -------
        Name, onnxruntime's type and shape of each value, and the observed shapes by name; also of values that are not
        tensors, which count as one vector of their numbers.

        Raises
        ------
        ModelError
            onnxruntime cannot run the model on the sample, or a limit is broken.
        """
        known = {name: list(shape) for name, shape in sizes.items()}
        everything = (self.model, self.weights, self.name, made, wanted, dict(sample), known, sequences)
        kinds, shapes = guarded(_run_once, everything, self.limits, self.name, "running a sample")
        types = [(name, kind, tuple(shape)) for name, kind, shape in kinds]
        return types, {name: tuple(shape) for name, shape in shapes.items()}


def _on_session(model: onnx.ModelProto, weights: Weights, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        session = open_model(model, weights, optimise=False, once=True)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise refused("onnxruntime cannot run the model", error) from error
    return work(session, *arguments)


def _run_once(
    model: onnx.ModelProto,
    weights: Weights,
    name: str,
    made: Sequence[str],
    wanted: Sequence[str],
    sample: Mapping[str, NDArray[Any]],
    sizes: Mapping[str, Sequence[int | None]],
    sequences: Sequence[str],
) -> list[Any]:
    """Name, type and shape of all values, and observed shapes of wanted ones and of values that are not tensors."""
    try:
        exposed = expose(model, made)
        _forget_shapes(exposed.graph)
        _fix_sizes(exposed.graph, sizes)
        kinds, sizes_of = _kinds_and_shapes(open_model(exposed, weights, optimise=False, once=True))
        others = [value for value, kind in kinds.items() if tensor_dtype(kind) is None]
        observed = _observed_shapes(model, weights, wanted, others, sample, sizes)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        shapes = ", ".join(f"{key} {list(np.shape(array))}" for key, array in sample.items())
        raise refused(
            f"onnxruntime cannot run {name} on inputs of shape {shapes}",
            error,
            "; give matching data with --data, or sizes with --input-shape",
        ) from error
    if sizes and any(sizes_of[value][:1] == [None] for value in sequences if value in sizes_of):
        sizes_of |= _evaluated_shapes(exposed, weights, sizes_of)
    return [[[value, kind, sizes_of[value]] for value, kind in kinds.items()], observed]


def _observed_shapes(
    model: onnx.ModelProto,
    weights: Weights,
    wanted: Sequence[str],
    others: Sequence[str],
    sample: Mapping[str, NDArray[Any]],
    sizes: Mapping[str, Sequence[int | None]],
) -> dict[str, list[int]]:
    """Shapes that some values have on a sample, and sizes of ``others``, which are not tensors.

    onnxruntime holds each output of a model until the run ends, asked for or not, so that the shapes of tensors are
    found inside the model.
    """
    shaped = expose(model, others)
    shapes = _add_shapes(shaped, [value for value in wanted if value not in others])
    _forget_shapes(shaped.graph)
    _fix_sizes(shaped.graph, sizes)
    # The outputs too, so that a model that cannot be run on these inputs is found out here.
    names = [*shapes.values(), *others, *(value.name for value in model.graph.output)]
    session = open_model(shaped, weights, optimise=False, once=True, shapes_first=True)
    results = dict(zip(names, session.run(names, dict(sample)), strict=True))
    observed = {value: results[shape].tolist() for value, shape in shapes.items()}
    return observed | {value: [1, contents(results[value]).numbers.size] for value in others}


def _add_shapes(model: onnx.ModelProto, values: Iterable[str]) -> dict[str, str]:
    """Add the shapes of tensors to a model's outputs; returns the output of each."""
    if not any(opset.domain in ("", "ai.onnx") for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("", SHAPE_OPSET))
    taken = {name for node in nodes_of(model) for name in (*node.input, *node.output)}
    shapes = {}
    for value in values:
        shapes[value] = unused_name(f"{value}_shape", taken)
        model.graph.node.append(onnx.helper.make_node("Shape", [value], [shapes[value]]))
        model.graph.output.append(onnx.ValueInfoProto(name=shapes[value]))
    return shapes


def _kinds_and_shapes(session: ort.InferenceSession) -> tuple[dict[str, str], dict[str, list[int | None]]]:
    """Type and shape of each output; a session's own descriptions of them would keep it in memory."""
    outputs = session.get_outputs()
    return {value.name: value.type for value in outputs}, {value.name: session_shape(value) for value in outputs}


def _evaluated_shapes(
    model: onnx.ModelProto, weights: Weights, shapes: Mapping[str, list[int | None]]
) -> dict[str, list[int | None]]:
    """Shapes of outputs with the sizes that onnxruntime finds by evaluating constants."""
    found = {}
    for value in open_model(model, weights, once=True).get_outputs():
        old, new = shapes[value.name], session_shape(value)
        if len(old) == len(new):
            found[value.name] = [b if a is None else a for a, b in zip(old, new, strict=True)]
    return found


def session_shape(value: Any) -> list[int | None]:
    """Shape of a session's input or output; free dimensions are None."""
    return [size if isinstance(size, int) else None for size in value.shape]


def _forget_shapes(graph: onnx.GraphProto) -> None:
    """Remove a model's declarations of inner shapes: onnxruntime would trust them even where they are wrong."""
    del graph.value_info[:]
    for value in graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")


def _fix_sizes(graph: onnx.GraphProto, sizes: Mapping[str, Sequence[int | None]]) -> None:
    """Write known sizes of inputs into their declarations."""
    for value in graph.input:
        shape = value.type.tensor_type.shape
        for axis, size in enumerate(sizes.get(value.name, ())):
            if size is not None and axis < len(shape.dim):
                shape.dim[axis].dim_value = size


def expose(model: onnx.ModelProto, values: Iterable[str]) -> onnx.ModelProto:
    """A copy of a model with more of its values as outputs."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values if value not in known)
    return exposed
