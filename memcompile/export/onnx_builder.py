"""Builds ONNX models node by node, in the operator set of a program's digital stages.

Only operators of the default domain are added, in the form that this operator set requires. The operators of digital
stages are taken over as they are, but for layer normalisations that onnxruntime knows and the operator set does not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime as ort
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from memcompile.errors import OutputError, ProgramError, UsageError
from memcompile.frontend.sessions import open_session, tensor_dtype, zeros_for
from memcompile.frontend.validation import MAX_MODEL_BYTES, nodes_of, subgraphs
from memcompile.frontend.value_types import other_type, value_info
from memcompile.ir.graph import TensorType

DEFAULT_OPSET = 17
"""Operator set of models without digital stages."""
OLDEST_OPSET = 7
"""Oldest operator set that is supported: the first whose operators broadcast, and the first that onnxruntime runs."""
OLDEST_IR_VERSION = 8
"""Version of the file format that every supported onnxruntime can read."""
OPEN_SIZES = (1, 2, 16)
"""Open sizes that a model is run with to see how many axes its outputs have."""
BATCH = "batch"
"""Name of the open first dimension of inputs."""
HEADROOM_BYTES = 16 * 1024**2
"""Room for everything in a file that is not a constant."""
ROUNDING_SHIFT = 1.5 * 2.0**23
"""Added to a float32 below 2^22 and subtracted again, it leaves the nearest integer, ties to even."""


class ModelBuilder:
    """A model in the making: constants, nodes in topological order, and names that never clash.

    Parameters
    ----------
    values
        Names that are taken from the start: those of the program's values.
    stages
        Serialised models of the digital stages, by name.

    Raises
    ------
    ProgramError
        A digital model is damaged, or the models are of different operator sets.
    UsageError
        Their operator set is older than ``OLDEST_OPSET``.
    """

    def __init__(self, values: Iterable[str], stages: Mapping[str, bytes]) -> None:
        self._stages = {name: _parse(name, model) for name, model in stages.items()}
        self._opsets = _operator_sets(self._stages)
        self._ir_version = max([OLDEST_IR_VERSION, *(model.ir_version for model in self._stages.values())])
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._bytes = 0
        self._values = set(values)
        self._names: set[str] = set()

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return self._opsets[""]

    def node(self, op_type: str, name: str, inputs: Sequence[str], result: str = "", **attributes: Any) -> str:
        """Add an operator of the default domain; returns its only output, ``result`` or a name like the node's."""
        name = _unused(name, self._names)
        result = result or _unused(name, self._values)
        self._nodes.append(onnx.helper.make_node(op_type, inputs, [result], name=name, **attributes))
        return result

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add an initializer; returns its name.

        Raises
        ------
        OutputError
            All constants together are more than one ONNX file holds.
        """
        name = _unused(name, self._values)
        self._keep(onnx.numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def program_constant(self, name: str, array: NDArray[Any]) -> None:
        """Add a value of the program that no stage makes."""
        self._keep(onnx.numpy_helper.from_array(np.array(array, order="C"), name))

    def _keep(self, tensor: onnx.TensorProto) -> None:
        self._bytes += tensor.ByteSize()
        if self._bytes + HEADROOM_BYTES > MAX_MODEL_BYTES:
            raise OutputError(
                f"the model needs more than {MAX_MODEL_BYTES} bytes, the most that one ONNX file holds; compile with "
                "fewer copies (--optimise arrays), or export a smaller network"
            )
        self._constants[tensor.name] = tensor

    # --- operators whose form depends on the operator set ----------------------------------------

    def clip(self, name: str, value: str, low: float, high: float) -> str:
        """Limit float32 values."""
        if self.opset < 11:
            return self.node("Clip", name, [value], min=float(low), max=float(high))
        limits = (np.array(limit, np.float32) for limit in (low, high))
        names = [self.constant(f"{name}/{word}", limit) for word, limit in zip(("low", "high"), limits, strict=True)]
        return self.node("Clip", name, [value, *names])

    def round(self, name: str, value: str) -> str:
        """Round float32 values below 2^22 to the nearest integer, ties to even."""
        if self.opset >= 11:
            return self.node("Round", name, [value])
        shift = self.constant(f"{name}/shift", np.array(ROUNDING_SHIFT, np.float32))
        return self.node("Sub", name, [self.node("Add", f"{name}/up", [value, shift]), shift])

    def round_whole(self, name: str, value: str) -> str:
        """Round float64 values to the nearest integer, ties to even."""
        if self.opset >= 11:
            return self.node("Round", name, [value])
        shift = self.constant(f"{name}/shift", np.array(1.5 * 2.0**52))
        return self.node("Sub", name, [self.node("Add", f"{name}/up", [value, shift]), shift])

    def pad(self, name: str, value: str, padding: Sequence[tuple[int, int]]) -> str:
        """Surround values with zeros, so many before and after along each axis."""
        flat = [before for before, _ in padding] + [after for _, after in padding]
        if self.opset < 11:
            return self.node("Pad", name, [value], pads=flat)
        return self.node("Pad", name, [value, self.constant(f"{name}/pads", np.array(flat, np.int64))])

    def sum_over(self, name: str, value: str, axis: int) -> str:
        """Sum along an axis, which goes."""
        if self.opset < 13:
            return self.node("ReduceSum", name, [value], axes=[axis], keepdims=0)
        axes = self.constant(f"{name}/axes", np.array([axis], np.int64))
        return self.node("ReduceSum", name, [value, axes], keepdims=0)

    def mean_over(self, name: str, value: str, axes: Sequence[int]) -> str:
        """Mean along axes, which stay."""
        if self.opset < 18:
            return self.node("ReduceMean", name, [value], axes=list(axes), keepdims=1)
        return self.node("ReduceMean", name, [value, self.constant(f"{name}/axes", np.array(axes, np.int64))])

    def cast(self, name: str, value: str, dtype: str) -> str:
        """Turn values into another type, by its NumPy name."""
        return self.node("Cast", name, [value], to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reshape(self, name: str, value: str, shape: Sequence[int]) -> str:
        """Give values a shape; one size may be -1."""
        return self.node("Reshape", name, [value, self.constant(f"{name}/shape", np.array(shape, np.int64))])

    def all_but_last(self, name: str, value: str) -> str:
        """All elements but the last of a vector of integers."""
        if self.opset < 10:
            return self.node("Slice", name, [value], starts=[0], ends=[-1])
        edges = [self.constant(f"{name}/{word}", np.array([at], np.int64)) for word, at in (("begin", 0), ("end", -1))]
        return self.node("Slice", name, [value, *edges])

    # --- digital stages ---------------------------------------------------------------------------

    def inline(self, stage: str) -> None:
        """Add the operators of a digital stage; what clashes with a name of another one is renamed."""
        graph = self._stages[stage].graph
        outer = {value.name for value in (*graph.input, *graph.output)}
        renamed: dict[str, str] = {}
        for tensor in graph.initializer:
            same = self._constants.get(tensor.name)
            if same is not None and same.SerializeToString() == tensor.SerializeToString():
                continue
            own = onnx.TensorProto()
            own.CopyFrom(tensor)
            own.name = tensor.name if tensor.name in outer else _unused(tensor.name, self._values)
            renamed[tensor.name] = own.name
            self._keep(own)
        for value in dict.fromkeys(value for node in graph.node for value in node.output):
            if value and value not in outer:
                renamed[value] = _unused(value, self._values)
        inside = (attribute for node in graph.node for attribute in node.attribute)
        self._values.update(
            value
            for inner in (each for attribute in inside for each in subgraphs(attribute))
            for node in nodes_of(onnx.ModelProto(graph=inner))
            for value in node.output
        )
        for node in graph.node:
            own_node = onnx.NodeProto()
            own_node.CopyFrom(node)
            own_node.name = _unused(node.name or node.op_type, self._names)
            _rename(own_node, renamed)
            self._add(own_node)

    def _add(self, node: onnx.NodeProto) -> None:
        """Add an operator of a digital stage; likewise those of its subgraphs."""
        for graph in (each for attribute in node.attribute for each in subgraphs(attribute)):
            outside, self._nodes = self._nodes, []
            for inner in graph.node:
                self._add(inner)
            inner_nodes, self._nodes = self._nodes, outside
            del graph.node[:]
            graph.node.extend(inner_nodes)
        kind = self._normalised(node)
        if kind is None:
            self._nodes.append(node)
        else:
            self._write_normalisation(node, kind)

    def _normalised(self, node: onnx.NodeProto) -> str | None:
        """Type of the numbers of a layer normalisation that has to be written out; None for other operators."""
        since = {"LayerNormalization": 17, "SimplifiedLayerNormalization": math.inf}.get(node.op_type, 0)
        if node.domain or self.opset >= since or len(node.input) < 2 or node.input[1] not in self._constants:
            return None
        if any(node.output[1:]):
            return None  # of use in training only
        return onnx.helper.tensor_dtype_to_np_dtype(self._constants[node.input[1]].data_type).name

    def _write_normalisation(self, node: onnx.NodeProto, kind: str) -> None:
        """Write a layer normalisation out; half precision in float32, as onnxruntime computes it."""
        settings = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        axis, half, name = settings.get("axis", -1), kind == "float16", node.name
        dtype = np.dtype("float32" if half else kind)
        x, *factors = [self.cast(f"{name}/float", each, "float32") if half else each for each in node.input if each]
        rows = x
        if axis >= 0:
            rows = self.node("Flatten", f"{name}/rows", [x], axis=axis)
            factors = [self.reshape(f"{name}/factors", each, [-1]) for each in factors]
        axes = range(min(axis, -1), 0)
        if node.op_type == "LayerNormalization":
            rows = self.node("Sub", f"{name}/centred", [rows, self.mean_over(f"{name}/mean", rows, axes)])
        two, little = (np.array(value, dtype) for value in (2, settings.get("epsilon", 1e-5)))
        squares = self.node("Pow", f"{name}/squares", [rows, self.constant(f"{name}/two", two)])
        variance = self.mean_over(f"{name}/variance", squares, axes)
        positive = self.node("Add", f"{name}/positive", [variance, self.constant(f"{name}/epsilon", little)])
        result = self.node("Div", f"{name}/divided", [rows, self.node("Sqrt", f"{name}/deviation", [positive])])
        for operator, factor in zip(("Mul", "Add"), factors, strict=False):
            result = self.node(operator, f"{name}/{operator}", [result, factor])
        if axis >= 0:
            result = self.node("Reshape", f"{name}/shaped", [result, self.node("Shape", f"{name}/shape", [x])])
        self.node("Cast", name, [result], node.output[0], to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    # --- the whole --------------------------------------------------------------------------------

    def model(
        self,
        name: str,
        inputs: Mapping[str, TensorType],
        outputs: Sequence[str],
        facts: Mapping[str, str],
        doc: str,
    ) -> bytes:
        """The serialised model.

        ``facts`` become its metadata. Types of outputs are what onnxruntime says; sizes of the batch
        that it does not know stay open.

        Raises
        ------
        ProgramError
            onnxruntime refuses the model, because a digital stage is damaged.
        """
        graph = onnx.helper.make_graph(
            self._nodes,
            name,
            [_input_info(value, kind) for value, kind in inputs.items()],
            [onnx.ValueInfoProto(name=value) for value in outputs],
            list(self._constants.values()),
        )
        model = onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()],
            ir_version=self._ir_version,
            producer_name="memcompile",
            doc_string=doc,
        )
        onnx.helper.set_model_props(model, dict(facts))
        _declare_outputs(model)
        return bytes(model.SerializeToString(deterministic=True))


def _parse(name: str, model: bytes) -> onnx.ModelProto:
    try:
        return onnx.ModelProto.FromString(model)
    except DecodeError as error:
        raise ProgramError(f"the model of digital stage {name} is damaged; compile the model again") from error


def _operator_sets(stages: Mapping[str, onnx.ModelProto]) -> dict[str, int]:
    """Version by domain, the same in all stages."""
    versions: dict[str, int] = {}
    for name, model in stages.items():
        for opset in model.opset_import:
            if versions.setdefault(opset.domain, opset.version) != opset.version:
                raise ProgramError(
                    f"digital stage {name} is of operator set {opset.domain or 'ai.onnx'} {opset.version}, the stages "
                    f"before it of {versions[opset.domain]}; compile the model again"
                )
    version = versions.setdefault("", DEFAULT_OPSET)
    if version < OLDEST_OPSET:
        raise UsageError(
            f"the program's digital operators are of operator set {version}, an exported model needs {OLDEST_OPSET} or "
            "later; bring the network to a later one with onnx.version_converter and compile it again"
        )
    return dict(sorted(versions.items()))


def _unused(name: str, taken: set[str]) -> str:
    """A name that is not taken, the one wanted if possible; it is taken from now on."""
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    taken.add(unique)
    return unique


def _rename(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Rename values that a node, and the subgraphs in it, read and make."""
    for values in (node.input, node.output):
        values[:] = [renamed.get(value, value) for value in values]
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
            own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            own.update(value for inner in graph.node for value in inner.output)
            outer = {name: new for name, new in renamed.items() if name not in own}
            for inner in graph.node:
                _rename(inner, outer)
            for value in graph.output:
                value.name = outer.get(value.name, value.name)


def _input_info(name: str, kind: TensorType) -> onnx.ValueInfoProto:
    """Type of an input; an open batch, the only size that may be open, is called so; one without axes is a scalar."""
    info = value_info(name, kind)
    if not kind.shape and info.type.HasField("tensor_type"):
        info.type.tensor_type.shape.SetInParent()
        return info
    shape = info.type.tensor_type.shape
    for axis, size in enumerate(kind.shape):
        if size is None:
            shape.dim[axis].dim_param = BATCH
    return info


def _declare_outputs(model: onnx.ModelProto) -> None:
    """Write down types and shapes of outputs, as onnxruntime infers them."""
    try:
        session = open_session(model.SerializeToString(deterministic=True), optimise=False)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        reason = str(error).strip().splitlines()[0][:400]
        raise ProgramError(
            f"onnxruntime refuses the program's digital stages ({reason}); compile the model again"
        ) from error
    found = {value.name: value for value in session.get_outputs()}
    ranks = _observed_ranks(session, [name for name, value in found.items() if value.shape == []])
    for output in model.graph.output:
        kind = found[output.name]
        dtype = tensor_dtype(kind.type)
        if dtype is None:
            other = other_type(kind.type)
            if other is not None:
                output.CopyFrom(value_info(output.name, other))
            continue
        sizes = kind.shape or [None] * ranks.get(output.name, 0)
        known = tuple(size if isinstance(size, int) else None for size in sizes)
        output.CopyFrom(value_info(output.name, TensorType(dtype, known)))
        if output.name in ranks:
            output.type.tensor_type.shape.SetInParent()
        # onnxruntime makes up names for other sizes that it does not know.
        for size, dimension in zip(sizes, output.type.tensor_type.shape.dim, strict=False):
            if size == BATCH:
                dimension.dim_param = BATCH


def _observed_ranks(session: ort.InferenceSession, outputs: Sequence[str]) -> dict[str, int]:
    """Number of axes of outputs for which onnxruntime reports none: scalars, and outputs that it cannot infer.

    They are observed in runs on zeros or ones with small open sizes, and stay unknown where no such run succeeds.
    """
    for value, size in itertools.product((0, 1), OPEN_SIZES if outputs else ()):
        feeds = {
            item.name: zeros_for(
                tensor_dtype(item.type) or "float32", tuple(n if isinstance(n, int) else size for n in item.shape)
            )
            for item in session.get_inputs()
        }
        for array in feeds.values():
            if value and array.dtype != object:
                array[...] = value
        try:
            results = session.run(list(outputs), feeds)
        except Exception:  # onnxruntime's exceptions have no common base class
            continue
        pairs = zip(outputs, results, strict=True)
        return {name: result.ndim for name, result in pairs if isinstance(result, np.ndarray)}
    return {}
