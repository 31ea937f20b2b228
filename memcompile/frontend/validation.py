"""Checks of a model before it is trusted: functions, validity, NaN."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.inliner
import onnx.numpy_helper
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from memcompile.errors import ModelError
from memcompile.frontend.sandbox import out_of_memory
from memcompile.frontend.sessions import open_session

# onnx and onnxruntime agree on protobuf's own limit.
MAX_MODEL_BYTES = 2 * 1024**3
# Operators of a model whose functions are written out where they are called, and how deep functions call others.
MAX_INLINED_NODES = 1_000_000
MAX_FUNCTION_DEPTH = 50
# Versions of operator sets and files that every onnxruntime takes, and of operator sets that none takes.
OLD_VERSION = 7
UNKNOWN_VERSION = 100


def parse(data: bytes, path: Path) -> onnx.ModelProto:
    """Parse a model.

    Raises
    ------
    ModelError
        The bytes are no ONNX model, or one that computes nothing.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{path} is not an ONNX file, or it is truncated ({first_line(error)}); export it again"
        ) from error
    if not model.graph.node and not model.graph.output:
        raise ModelError(f"{path} holds no ONNX graph; export it again")
    if not model.graph.output:
        raise ModelError(f"{path} has no outputs, so it computes nothing; export it again")
    return model


def is_elsewhere(tensor: onnx.TensorProto) -> bool:
    """Return True if a tensor's values are not in the model."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def refuse_undecodable_names(model: onnx.ModelProto, path: Path) -> None:
    """Refuse names that are no UTF-8 text, which protobuf hands on as bytes.

    Raises
    ------
    ModelError
        Naming the first such name.
    """
    names: list[str | bytes] = [model.graph.name, *(tensor.name for tensor in model.graph.initializer)]
    names += [value.name for value in (*model.graph.input, *model.graph.output)]
    names += [opset.domain for opset in _opsets(model)]
    for node in nodes_of(model):
        names += [
            node.name,
            node.op_type,
            node.domain,
            *node.input,
            *node.output,
            *(item.name for item in node.attribute),
        ]
    for name in names:
        if isinstance(name, bytes):
            raise ModelError(f"{path} is not valid ONNX: the name {name!r} is no UTF-8 text; export it again")


def refuse_endless_functions(model: onnx.ModelProto, path: Path) -> None:
    """Refuse functions that never end, or that expand to too many operators.

    A chain of thirty functions, each of which calls the next one twice, expands to a billion operators.

    Raises
    ------
    ModelError
        The nesting or the number of operators is beyond its limit.
    """
    bodies = {(item.domain, item.name, item.overload): item for item in model.functions}
    sizes: dict[tuple[str, str, str], int] = {}

    def count(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        if depth > MAX_FUNCTION_DEPTH:
            raise ModelError(
                f"{path}: its functions and subgraphs are nested more than {MAX_FUNCTION_DEPTH} deep; "
                "export the model without functions"
            )
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if key in bodies and key not in sizes:
                sizes[key] = count(bodies[key].node, depth + 1)
            total += sizes.get(key, 1)
            total += sum(count(graph.node, depth + 1) for item in node.attribute for graph in subgraphs(item))
        return total

    total = count(model.graph.node, 0) if bodies else 0
    if total > MAX_INLINED_NODES:
        raise ModelError(
            f"{path}: with its functions written out it has {total} operators, the limit is {MAX_INLINED_NODES}; "
            "export the model without functions"
        )


def use_default_domain(model: onnx.ModelProto) -> None:
    """Write the default domain as "": ``ai.onnx`` is its other name, but onnx.checker knows only one."""
    for opset in _opsets(model):
        opset.domain = _domain(opset.domain)
    for node in nodes_of(model):
        node.domain = _domain(node.domain)


def drop_inputs_of_constants(model: onnx.ModelProto) -> None:
    """Have Constants read nothing: onnxruntime takes them for weights, even if what they read does not exist."""
    for node in nodes_of(model):
        if node.op_type == "Constant" and not node.domain:
            del node.input[:]


@lru_cache
def latest_operator_set(domain: str) -> int | None:
    """Latest version of an operator set that onnxruntime takes; None if it does not know the domain."""
    if _takes(domain, UNKNOWN_VERSION):
        return None
    return next((version for version in range(UNKNOWN_VERSION - 1, 0, -1) if _takes(domain, version)), None)


def _takes(domain: str, version: int) -> bool:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "nothing", [value], [value])
    opsets = {"": OLD_VERSION, domain: version}
    imports = [onnx.helper.make_opsetid(*item) for item in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=OLD_VERSION)
    try:
        open_session(model.SerializeToString(), once=True)
    except Exception:  # onnxruntime's exceptions have no common base class
        return False
    return True


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def validity_doubt(model: onnx.ModelProto) -> str | None:
    """Objection of ``onnx.checker`` to a model; None if there is none.

    Only a reason to give where onnxruntime refuses the model, too: onnxruntime runs models that the checker refuses.

    Raises
    ------
    MemoryError
        The checker gets no memory.
    """
    # onnxruntime finds out types and shapes of outputs itself; only the checker wants them written down.
    bare = [value for value in model.graph.output if value.type.WhichOneof("value") in (None, "tensor_type")]
    before = [(value, value.SerializeToString()) for value in bare if not value.type.tensor_type.HasField("shape")]
    for value, _ in before:
        value.type.tensor_type.shape.SetInParent()
        value.type.tensor_type.elem_type = value.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
    # The checker wants to see the numbers of a tensor unless it has none.
    elsewhere = [(tensor, tensor.SerializeToString()) for tensor in model.graph.initializer if is_elsewhere(tensor)]
    for tensor, _ in elsewhere:
        tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises its own and protobuf's kinds
        if out_of_memory(error):
            raise MemoryError(str(error)) from error
        return first_line(error)
    finally:
        for value, was in before:
            value.ParseFromString(was)
        for tensor, was in elsewhere:
            tensor.ParseFromString(was)
    return None


def in_topological_order(model: onnx.ModelProto) -> None:
    """Sort the operators of the main graph, which onnxruntime takes in any order; a cycle stays as it is."""
    nodes = list(model.graph.node)
    made = {value: number for number, node in enumerate(nodes) for value in node.output if value}
    waits = [
        {made[value] for value in (*node.input, *captured_values(node)) if made.get(value, number) != number}
        for number, node in enumerate(nodes)
    ]
    if all(max(before, default=-1) < number for number, before in enumerate(waits)):
        return
    readers: dict[int, list[int]] = {}
    for number, before in enumerate(waits):
        for other in before:
            readers.setdefault(other, []).append(number)
    left = [len(before) for before in waits]
    ready = [number for number, count in enumerate(left) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for reader in readers.get(number, ()):
            left[reader] -= 1
            if not left[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        return
    copies = [onnx.NodeProto.FromString(nodes[number].SerializeToString()) for number in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def import_missing_operator_sets(model: onnx.ModelProto) -> None:
    """Write down the operator sets that onnxruntime assumes where a model names none: the latest it knows."""
    if not model.opset_import:
        return  # onnxruntime refuses it
    given = {opset.domain for opset in model.opset_import}
    used = dict.fromkeys(["", *(node.domain for node in nodes_of(model))])
    for domain in used:
        version = None if domain in given else latest_operator_set(domain)
        if version is not None:
            model.opset_import.append(onnx.helper.make_opsetid(domain, version))


def refuse_bad_weights(model: onnx.ModelProto, weights: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Refuse tensors and attributes that cannot be read, and weights, in the model or beside it, that are no numbers.

    Raises
    ------
    ModelError
        Naming the first of them.
    """
    for node in nodes_of(model):
        for attribute in node.attribute:
            if attribute.ref_attr_name:  # once functions are written out there is nothing to refer to
                raise ModelError(
                    f"{path}: attribute {attribute.name!r} of operator {node.name!r} refers to a function's attribute "
                    f"{attribute.ref_attr_name!r}, but is in no function; export the model again"
                )
    for tensor in tensors(model):
        if tensor.data_type == onnx.TensorProto.UNDEFINED or is_elsewhere(tensor):
            continue  # an attribute that holds something else; an array already
        try:
            onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # whatever onnx raises on what onnxruntime reads in another way
            raise ModelError(
                f"{path}: tensor {tensor.name!r} cannot be read: {first_line(error)}; export the model again"
            ) from error
    for tensor in model.graph.initializer:
        if tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
            continue
        values = weights[tensor.name] if is_elsewhere(tensor) else onnx.numpy_helper.to_array(tensor)
        bad = int(np.isnan(values).sum())
        if bad:
            raise ModelError(f"{path}: tensor {tensor.name!r} holds {bad} NaN values; train or export the model again")


def inlined(model: onnx.ModelProto, where: Path | str) -> onnx.ModelProto:
    """Inline model-local functions where they are called.

    Raises
    ------
    ModelError
        A function needs an operator set that the model's cannot be converted to.
    """
    if not model.functions:
        return model
    domains = {function.domain for function in model.functions} - {""}
    for opset in _opsets(model):
        if opset.domain in domains:
            opset.version = 1  # functions are in the file itself, so versions of their domains mean nothing
    try:
        for convert in (False, True):
            whole = onnx.inliner.inline_local_functions(model, convert)
            if not whole.functions:
                return whole
    except Exception as error:  # the inliner raises its own and the converter's kinds
        raise refused(
            f"{where}: its functions cannot be written out", error, "; export it without functions"
        ) from error
    raise ModelError(
        f"{where}: its function {whole.functions[0].name!r} cannot be written out, because its operator set differs "
        "from the model's; export the model without functions"
    )


def _opsets(model: onnx.ModelProto) -> Iterator[onnx.OperatorSetIdProto]:
    yield from model.opset_import
    for function in model.functions:
        yield from function.opset_import


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes: of the graph, of its subgraphs and of functions."""
    lists = [model.graph.node, *(function.node for function in model.functions)]
    while lists:
        for node in lists.pop():
            yield node
            lists += [graph.node for attribute in node.attribute for graph in subgraphs(attribute)]


def unused_name(name: str, taken: set[str]) -> str:
    """A name that is not taken, the one wanted if possible; it is taken from now on."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors: initializers and attributes, also of subgraphs and functions."""
    graphs = [model.graph]
    for node in nodes_of(model):
        for attribute in node.attribute:
            graphs += subgraphs(attribute)
            yield from (attribute.t, *attribute.tensors)
    for graph in graphs:
        yield from graph.initializer


def subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """Graphs in an attribute."""
    return [*attribute.graphs, *((attribute.g,) if attribute.type == onnx.AttributeProto.GRAPH else ())]


def refused(what: str, error: Exception, mend: str = "") -> Exception:
    """Error for a model that a library refuses; a MemoryError, for the guard, where the library got no memory."""
    if out_of_memory(error):
        return MemoryError(str(error))
    return ModelError(f"{what}: {first_line(error)}{mend}")


def first_line(error: BaseException) -> str:
    """The informative line of a library's message, without its own location prefix."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:400] if lines else type(error).__name__


def captured_values(proto: onnx.NodeProto) -> tuple[str, ...]:
    """Outer values that a node's subgraphs read."""
    found: dict[str, None] = {}
    for attribute in proto.attribute:
        for graph in subgraphs(attribute):
            found.update(dict.fromkeys(_free_values(graph)))
    return tuple(found)


def _free_values(graph: onnx.GraphProto) -> list[str]:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    free: list[str] = []
    for node in graph.node:
        free += [value for value in (*node.input, *captured_values(node)) if value and value not in own]
        own.update(node.output)
    return free + [value.name for value in graph.output if value.name not in own]
