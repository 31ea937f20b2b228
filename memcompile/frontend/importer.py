"""Import of ONNX files into the graph IR, and the way back.

onnxruntime decides what a model means: every type and every shape here was reported or observed by it, so nothing
depends on our own shape rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
import onnxruntime as ort
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from memcompile.errors import ModelError, ProgramError
from memcompile.frontend.byte_products import use_unsigned_weights
from memcompile.frontend.constant_branches import constant_conditions, has_control_flow, with_branches
from memcompile.frontend.constant_loops import written_out_loops
from memcompile.frontend.model_runs import ModelRuns, expose, guarded, session_shape
from memcompile.frontend.observed_values import observed_values
from memcompile.frontend.qonnx import use_standard_operators
from memcompile.frontend.sandbox import DEFAULT_LIMITS, Limits
from memcompile.frontend.sessions import NO_WEIGHTS, FileStamp, Weights, tensor_dtype
from memcompile.frontend.validation import (
    captured_values,
    drop_inputs_of_constants,
    first_line,
    import_missing_operator_sets,
    in_topological_order,
    inlined,
    is_elsewhere,
    nodes_of,
    parse,
    refuse_bad_weights,
    refuse_endless_functions,
    refuse_undecodable_names,
    refused,
    tensors,
    use_default_domain,
    validity_doubt,
)
from memcompile.frontend.value_types import other_type, value_info
from memcompile.frontend.weights import load_weights, open_model, read_model_bytes, with_weights
from memcompile.ir.batching import Batching
from memcompile.ir.graph import Graph, OnnxNode, OtherType, TensorType, read_only

MAX_FIXED_BATCH = 1 << 16
"""Largest fixed batch of a model: the compiler follows each value of all its images."""


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model that was read and that onnxruntime accepts.

    ``inputs`` are the types a caller must feed; free dimensions are None. ``limits`` apply where onnxruntime first
    loads and runs the model; None trusts it. ``weights`` are the large initializers, whose values are not in ``model``.
    """

    name: str
    sha256: str
    model: onnx.ModelProto
    inputs: Mapping[str, TensorType]
    limits: Limits | None = None
    weights: Weights = NO_WEIGHTS
    frozen: str = ""
    """Inputs that were made constants, as text; see :mod:`memcompile.frontend.frozen_inputs`."""

    def serialized(self) -> bytes:
        """The whole model as onnxruntime reads it."""
        return bytes(with_weights(self.model, self.weights).SerializeToString(deterministic=True))

    def open_session(
        self, also: Sequence[str] = (), *, optimise: bool = True, once: bool = False
    ) -> ort.InferenceSession:
        """Have onnxruntime load the model, with some of its values as further outputs.

        Options are those of :func:`memcompile.frontend.sessions.open_session`; keep the model for as
        long as the session.
        """
        return open_model(expose(self.model, also), self.weights, optimise=optimise, once=once)

    @property
    def runs(self) -> ModelRuns:
        """The model to be run within its limits."""
        return ModelRuns(self.name, self.model, self.weights, self.limits)

    def operators(self) -> tuple[OnnxNode, ...]:
        """The operators of the main graph."""
        return operators_of(self.model.graph)

    def value_names(self) -> set[str]:
        """All values that the model's operators make."""
        return {value for node in self.model.graph.node for value in node.output if value}


def read_model(path: Path, limits: Limits | None = None) -> ModelFile:
    """Read and check a model file.

    Parameters
    ----------
    limits
        Time and memory for checking it and loading it into onnxruntime; None trusts the file.

    Raises
    ------
    ModelError
        The file is missing, a directory, no ONNX, truncated, onnxruntime refuses it, or a limit is broken.
    """
    own = FileStamp.of(path)
    data, digest = read_model_bytes(path)
    model = parse(data, path)
    del data
    refuse_undecodable_names(model, path)
    model, weights = load_weights(model, own)
    return _checked(model, weights, path, digest, limits)


def read_proto(model: onnx.ModelProto, name: str, limits: Limits | None = None) -> ModelFile:
    """Check a model that is in memory with all its weights, as :func:`read_model` checks a file.

    Raises
    ------
    ModelError
        Its weights lie in files, onnxruntime refuses it, or a limit is broken.
    """
    own = onnx.ModelProto()
    own.CopyFrom(model)
    outside = next((tensor.name for tensor in tensors(own) if is_elsewhere(tensor)), None)
    if outside is not None:
        raise ModelError(
            f"{name}: tensor {outside!r} lies in a file beside the model; give the path of the model instead, "
            "or load it with onnx.load, which reads the file"
        )
    digest = hashlib.sha256(own.SerializeToString(deterministic=True)).hexdigest()
    return _checked(own, NO_WEIGHTS, Path(name), digest, limits)


def read_serialized(data: bytes, name: str, sha256: str, frozen: str = "") -> ModelFile:
    """Read what :meth:`ModelFile.serialized` gave, of a file with a digest and some frozen inputs.

    Raises
    ------
    ModelError
        onnxruntime refuses the model.
    """
    return replace(read_proto(onnx.ModelProto.FromString(data), name), sha256=sha256, frozen=frozen)


def _checked(model: onnx.ModelProto, weights: Weights, path: Path, digest: str, limits: Limits | None) -> ModelFile:
    use_default_domain(model)
    drop_inputs_of_constants(model)
    use_standard_operators(model)
    refuse_endless_functions(model, path)
    types = _judged(model, weights, limits, path)
    model = inlined(model, path)
    in_topological_order(model)
    inputs = _inputs(model, types)
    refuse_bad_weights(model, weights.arrays, path)
    use_unsigned_weights(model, weights.arrays)
    for name, kind in inputs.items():
        if isinstance(kind, OtherType) or kind.dtype == "object":
            raise ModelError(
                f"{path}: input {name!r} has type {kind.dtype if isinstance(kind, OtherType) else 'tensor(string)'}; "
                "memcompile takes numeric tensors, export the model with tensor inputs"
            )
        batch = kind.shape[0] if len(kind.shape) > 1 else None
        if batch is not None and batch > MAX_FIXED_BATCH:
            raise ModelError(
                f"{path}: input {name!r} has a fixed batch of {batch:,} images, all of which are compiled and run at "
                f"once; the limit is {MAX_FIXED_BATCH:,}; export the model with a free or a smaller batch"
            )
    return ModelFile(path.name, digest, model, MappingProxyType(inputs), limits, weights)


def _judged(model: onnx.ModelProto, weights: Weights, limits: Limits | None, path: Path) -> list[list[Any]]:
    """Have onnxruntime load a model; returns the types of its inputs.

    A model that ``onnx.checker`` refuses is loaded in a child process even if it is trusted: such models may crash
    onnxruntime.
    """
    doubt = guarded(validity_doubt, (model,), limits, path, "loading the model")
    import_missing_operator_sets(model)
    within = limits or (DEFAULT_LIMITS if doubt else None)
    try:
        types: list[list[Any]] = guarded(_load, (model, weights, path), within, path, "loading the model")
    except ModelError as error:
        if not doubt:
            raise
        raise ModelError(f"{error}; it is not valid ONNX: {doubt}; export it again") from error
    return types


def _load(model: onnx.ModelProto, weights: Weights, path: Path) -> list[list[Any]]:
    """Inline functions with onnx and load the model with onnxruntime; returns the types of its inputs."""
    return _input_types(inlined(model, path), weights, path)


def model_in_memory(model: onnx.ModelProto, name: str) -> ModelFile:
    """Check a model that is not in a file; its inputs may be of any type.

    Raises
    ------
    ModelError
        onnxruntime refuses the model.
    """
    own = onnx.ModelProto()
    own.CopyFrom(model)
    use_default_domain(own)
    drop_inputs_of_constants(own)
    use_standard_operators(own)
    own = inlined(own, name)
    in_topological_order(own)
    use_unsigned_weights(own, {})
    types = guarded(_input_types, (own, NO_WEIGHTS, name), None, name, "loading the model")
    digest = hashlib.sha256(own.SerializeToString(deterministic=True)).hexdigest()
    return ModelFile(name, digest, own, MappingProxyType(_inputs(own, types)))


def _input_types(model: onnx.ModelProto, weights: Weights, where: Path | str) -> list[list[Any]]:
    """Name, type and shape of each input that a caller must feed, as onnxruntime sees it."""
    try:
        session = open_model(model, weights, once=True)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise refused(f"onnxruntime cannot run {where}", error) from error
    return [[value.name, value.type, session_shape(value)] for value in session.get_inputs()]


def _inputs(model: onnx.ModelProto, types: Sequence[Sequence[Any]]) -> dict[str, TensorType]:
    declared = {value.name: value.type for value in model.graph.input}
    inputs: dict[str, TensorType] = {}
    for name, kind, shape in types:
        dtype = tensor_dtype(kind)
        if dtype is None:
            inputs[name] = OtherType(kind, (), declared[name].SerializeToString(deterministic=True))
        else:
            inputs[name] = TensorType(dtype, tuple(shape))
    return inputs


def import_graph(file: ModelFile, sample: Mapping[str, NDArray[Any]], batching: Batching | None = None) -> Graph:
    """Build the IR graph of a model.

    Parameters
    ----------
    file
        The model.
    sample
        One value per model input, with the batch the model is to be observed at (one image where
        the batch is free); shapes of the values that linear operators read are observed on it.
    batching
        Axes along which samples lie; all other sizes of the inputs are then fixed to those of the sample. None takes
        axis 0, and types as the model declares them.

    Raises
    ------
    ModelError
        onnxruntime cannot run the model on the sample.
    """
    inputs = _input_types_on(file.inputs, sample, batching)
    sizes = {name: kind.shape for name, kind in inputs.items()} if batching else {}
    file = with_constant_control_flow(file, sample, sizes)
    graph = file.model.graph
    constants = _constants(graph, file.weights.arrays)
    nodes = operators_of(graph)
    types, observed = _observe(file, nodes, constants, sample, sizes)
    types |= inputs
    return Graph(
        name=file.name,
        inputs=tuple(file.inputs),
        outputs=tuple(value.name for value in graph.output),
        nodes=nodes,
        constants=MappingProxyType(constants),
        types=MappingProxyType(types),
        observed_shapes=MappingProxyType(observed),
        opsets=tuple(sorted((item.domain, item.version) for item in file.model.opset_import)),
        ir_version=file.model.ir_version,
        batching=batching,
    )


def with_constant_control_flow(
    file: ModelFile,
    sample: Mapping[str, NDArray[Any]],
    sizes: Mapping[str, tuple[int | None, ...]] = MappingProxyType({}),
) -> ModelFile:
    """The model with what runs the same way for all inputs written out: branches of If, and runs of Loop and Scan.

    Parameters
    ----------
    sizes
        Shapes of inputs, None where a size is open; a condition or the number of runs may follow from them.

    Raises
    ------
    ModelError
        onnxruntime cannot run the model on the sample.
    """
    while has_control_flow(file.model):
        constants = _constants(file.model.graph, file.weights.arrays)
        types, _ = _observe(file, operators_of(file.model.graph), constants, sample, sizes)
        known = {name: list(kind.shape) for name, kind in (*types.items(), *file.inputs.items()) if kind.shape}
        known |= {name: list(shape) for name, shape in sizes.items() if shape}
        arguments = file.model, known
        try:
            truths = guarded(constant_conditions, arguments, file.limits, file.name, "computing its constants")
        except ModelError:
            truths = []  # onnxruntime ran the network, so it can do with its branches as they are
        model = with_branches(file.model, dict(truths)) if truths else file.model
        written = written_out_loops(model, known) or model
        if written is file.model:
            break
        # A branch may hold further ones, and so may a loop.
        file = replace(file, model=written)
    return file


def _input_types_on(
    inputs: Mapping[str, TensorType], sample: Mapping[str, NDArray[Any]], batching: Batching | None
) -> dict[str, TensorType]:
    """Types of the inputs with all sizes of a sample but that of the batch."""
    bound: dict[str, TensorType] = {}
    for name, kind in inputs.items():
        if isinstance(kind, OtherType):
            bound[name] = kind
            continue
        axis = (0 if kind.shape else None) if batching is None else batching.inputs[name]
        size = batching.size if batching is not None else kind.shape[0] if kind.shape else None
        shape = tuple(size if place == axis else each for place, each in enumerate(sample[name].shape))
        bound[name] = TensorType(kind.dtype, shape)
    return bound


def _constants(
    graph: onnx.GraphProto, weights: Mapping[str, NDArray[Any]] = MappingProxyType({})
) -> dict[str, NDArray[Any]]:
    constants = {
        tensor.name: read_only(weights[tensor.name] if is_elsewhere(tensor) else onnx.numpy_helper.to_array(tensor))
        for tensor in graph.initializer
    }
    for sparse in graph.sparse_initializer:
        constants[sparse.values.name] = read_only(_dense(sparse))
    return constants


def _dense(sparse: onnx.SparseTensorProto) -> NDArray[Any]:
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def operators_of(graph: onnx.GraphProto) -> tuple[OnnxNode, ...]:
    """Operators of a graph in its order, with unique names."""
    taken: set[str] = set()
    nodes = []
    for proto in graph.node:
        name = proto.name or next((value for value in proto.output if value), proto.op_type)
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique)
        nodes.append(
            OnnxNode(
                name=unique,
                inputs=tuple(proto.input),
                outputs=tuple(proto.output),
                op_type=proto.op_type,
                domain=proto.domain,
                attributes=MappingProxyType({item.name: _attribute(item) for item in proto.attribute}),
                proto=proto.SerializeToString(deterministic=True),
                captures=captured_values(proto),
            )
        )
    return tuple(nodes)


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return read_only(onnx.numpy_helper.to_array(value))
    if isinstance(value, onnx.GraphProto):
        return f"<graph of {len(value.node)} nodes>"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value)
    return value


def with_all_values(model: bytes) -> bytes:
    """A digital stage's model with all values as outputs."""
    proto = onnx.ModelProto.FromString(model)
    exposed = expose(proto, [value for node in proto.graph.node for value in node.output if value])
    return bytes(exposed.SerializeToString(deterministic=True))


def make_operator(
    op_type: str,
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Mapping[str, Any],
    domain: str = "",
) -> OnnxNode:
    """An operator that is in no model."""
    proto = onnx.helper.make_node(op_type, inputs, outputs, name=name, domain=domain, **attributes)
    return OnnxNode(
        name=name,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        op_type=op_type,
        domain=domain,
        attributes=MappingProxyType({item.name: _attribute(item) for item in proto.attribute}),
        proto=proto.SerializeToString(deterministic=True),
    )


def digital_operators(model: bytes, where: str) -> tuple[tuple[OnnxNode, ...], dict[str, NDArray[Any]]]:
    """Operators and constants of a digital stage's model.

    Raises
    ------
    ProgramError
        The bytes are no ONNX model, or one with values in files; ``where`` names the stage.
    """
    try:
        proto = onnx.ModelProto.FromString(model)
        outside = next((tensor.name for tensor in tensors(proto) if is_elsewhere(tensor)), None)
        if outside is not None:  # neither onnx nor onnxruntime may look for the file
            raise ProgramError(
                f"the model of digital stage {where} has tensor {outside!r} in a file, and a program holds all it "
                "needs; compile the model again"
            )
        return operators_of(proto.graph), _constants(proto.graph)
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise ProgramError(
            f"the model of digital stage {where} is damaged ({first_line(error)}); compile the model again"
        ) from error


def operator_types(node: OnnxNode) -> set[str]:
    """Types of an operator and of all operators in its subgraphs."""
    alone = onnx.GraphProto(node=[onnx.NodeProto.FromString(node.proto)])
    return {inner.op_type for inner in nodes_of(onnx.ModelProto(graph=alone))}


def _observe(
    file: ModelFile,
    nodes: Sequence[OnnxNode],
    constants: Mapping[str, NDArray[Any]],
    sample: Mapping[str, NDArray[Any]],
    sizes: Mapping[str, tuple[int | None, ...]],
) -> tuple[dict[str, TensorType], dict[str, tuple[int, ...]]]:
    """Types of all values, and shapes of linear operators' inputs and of values that are not tensors, on the sample."""
    wanted = [value for value in observed_values(nodes) if value not in constants and value not in file.inputs]
    made = [value for node in nodes for value in node.outputs if value]
    sequences = [node.inputs[0] for node in nodes if node.op_type in ("GRU", "LSTM", "RNN")]
    kinds, observed = file.runs.observe(made, wanted, sample, sizes, sequences)
    types: dict[str, TensorType] = {}
    for name, kind, shape in kinds:
        dtype = tensor_dtype(kind)
        found = other_type(kind) if dtype is None else TensorType(dtype, shape)
        if found is not None and name not in file.inputs:
            types[name] = found
    observed.update({name: tuple(array.shape) for name, array in sample.items() if isinstance(array, np.ndarray)})
    return types, observed


def first_sizes(model: bytes) -> dict[str, int | None]:
    """Size of axis 0 of each input and output of a serialised model; None where it is free, unknown or not there."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)}
    return {name: dims[0].dim_value or None if dims else None for name, dims in shapes.items()}


def to_model(graph: Graph, nodes: Iterable[OnnxNode], inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Serialise some of a graph's ONNX operators as a model of their own.

    Constants that the operators read become initializers. Input shapes are left open where the
    graph does not know them; onnxruntime infers the rest.
    """
    nodes = tuple(nodes)
    read = {value for node in nodes for value in (*node.inputs, *node.captures)} | set(outputs)
    initializers = [
        onnx.numpy_helper.from_array(
            np.ascontiguousarray(graph.constants[name]).reshape(graph.constants[name].shape), name
        )
        for name in sorted(read & set(graph.constants))
        if name not in inputs
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.NodeProto.FromString(node.proto) for node in nodes],
            "digital",
            [value_info(name, graph.types[name]) for name in inputs],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            initializers,
        ),
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in graph.opsets],
        ir_version=max(graph.ir_version, 4),
        producer_name="memcompile",
    )
    return bytes(model.SerializeToString(deterministic=True))
