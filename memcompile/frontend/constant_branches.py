"""Writes out the branch that an If takes where its condition does not depend on the network's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from memcompile.frontend.sessions import open_session
from memcompile.frontend.validation import captured_values, is_elsewhere, nodes_of, subgraphs, unused_name

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
_BRANCHES = ("then_branch", "else_branch")
Sizes = Mapping[str, Sequence[int | None]]


def _is_if(node: onnx.NodeProto) -> bool:
    return node.op_type == "If" and not node.domain


def has_control_flow(model: onnx.ModelProto) -> bool:
    """Return True if there is an If, a Loop or a Scan among the operators of the main graph."""
    return any(node.op_type in ("If", "Loop", "Scan") and not node.domain for node in model.graph.node)


# --- conditions ----------------------------------------------------------------------------------


def constant_conditions(model: onnx.ModelProto, sizes: Sizes) -> list[list[Any]]:
    """Conditions of If operators of the main graph that depend on no input: name and value of each.

    Parameters
    ----------
    model
        Its operators are in topological order.
    sizes
        Sizes of values, None where they are free: what is computed from static ones alone is constant, too.

    Raises
    ------
    Exception
        onnxruntime cannot compute a condition; its exceptions have no common base class.
    """
    known = {tensor.name: tensor for tensor in model.graph.initializer if not is_elsewhere(tensor)}
    open_sizes: dict[str, list[int | None]] = {}
    made: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        read = [value for value in (*node.input, *captured_values(node)) if value]
        found = _static_sizes(node, known, sizes, open_sizes)
        if found is not None:
            known[node.output[0]] = onnx.numpy_helper.from_array(found, node.output[0])
        elif node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = _named(node.attribute[0].t, node.output[0])
        elif all(value in known or value in made for value in read) and not _is_random(node):
            made.update({value: node for value in node.output if value})
    wanted = dict.fromkeys(node.input[0] for node in model.graph.node if _is_if(node))
    names = [name for name in wanted if name in known or name in made]
    if not names:
        return []
    results = open_session(_cone(model, names, made, known), optimise=False, once=True).run(names, {})
    return [[name, bool(np.all(value))] for name, value in zip(names, results, strict=True)]


def _static_sizes(
    node: onnx.NodeProto,
    known: Mapping[str, onnx.TensorProto],
    sizes: Sizes,
    open_sizes: dict[str, list[int | None]],
) -> NDArray[np.int64] | None:
    """Static result of a Shape or of a Gather from one, else None; a Shape with free sizes is noted."""
    if node.domain or not node.input:
        return None
    attributes = {item.name: item.i for item in node.attribute}
    if node.op_type == "Shape" and sizes.get(node.input[0]):
        found = list(sizes[node.input[0]])[slice(attributes.get("start", 0), attributes.get("end"))]
        open_sizes[node.output[0]] = found
    elif node.op_type == "Gather" and node.input[0] in open_sizes and node.input[1] in known:
        given, places = open_sizes[node.input[0]], onnx.numpy_helper.to_array(known[node.input[1]])
        if places.size == 0 or places.min() < -len(given) or places.max() >= len(given):
            return None
        picked = [given[place] for place in places.reshape(-1)]
        return None if None in picked else np.array(picked, np.int64).reshape(places.shape)
    else:
        return None
    return None if None in found else np.array(found, np.int64)


def _named(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _is_random(node: onnx.NodeProto) -> bool:
    inner = (each for item in node.attribute for graph in subgraphs(item) for each in graph.node)
    return node.op_type in _RANDOM or any(map(_is_random, inner))


def _cone(
    model: onnx.ModelProto,
    names: Sequence[str],
    made: Mapping[str, onnx.NodeProto],
    known: Mapping[str, onnx.TensorProto],
) -> bytes:
    """The operators that some values come from, as a model without inputs."""
    wanted, waiting = dict.fromkeys(names), list(names)
    while waiting:
        node = made.get(waiting.pop())
        read = [] if node is None else [value for value in (*node.input, *captured_values(node)) if value]
        waiting += [value for value in read if value not in wanted]
        wanted.update(dict.fromkeys(read))
    cone = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    cone.graph.name = "conditions"
    cone.graph.node.extend(
        node for node in model.graph.node if any(value in wanted and value in made for value in node.output)
    )
    cone.graph.initializer.extend(known[value] for value in wanted if value in known and value not in made)
    cone.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return bytes(cone.SerializeToString(deterministic=True))


# --- inlining ------------------------------------------------------------------------------------


def with_branches(model: onnx.ModelProto, truths: Mapping[str, bool]) -> onnx.ModelProto:
    """A copy of a model in which each If whose condition is known is replaced by the branch that it takes."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    taken = set(names_of(whole))
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if not _is_if(node) or node.input[0] not in truths:
            nodes.append(node)
            continue
        branch = next(item.g for item in node.attribute if item.name == _BRANCHES[not truths[node.input[0]]])
        nodes += _branch(branch, node, whole.graph, taken)
    del whole.graph.node[:]
    whole.graph.node.extend(nodes)
    return whole


def names_of(model: onnx.ModelProto) -> Iterator[str]:
    """All names of values and nodes, inner ones included."""
    yield from (value.name for value in model.graph.input)
    yield from (tensor.name for tensor in model.graph.initializer)
    yield from (sparse.values.name for sparse in model.graph.sparse_initializer)
    for node in nodes_of(model):
        yield from (node.name, *node.input, *node.output)
        for graph in (graph for item in node.attribute for graph in subgraphs(item)):
            yield from (value.name for value in (*graph.input, *graph.output))
            yield from (tensor.name for tensor in graph.initializer)


def _branch(
    branch: onnx.GraphProto, node: onnx.NodeProto, graph: onnx.GraphProto, taken: set[str]
) -> list[onnx.NodeProto]:
    """Operators of a branch under names of their own; its constants go to the graph."""
    prefix = node.name or node.output[0]
    names = moved_constants(branch, prefix, graph, taken)
    made = {value for inner in branch.node for value in inner.output if value}
    copied = []
    for value, result in zip(branch.output, node.output, strict=False):
        if result and value.name in made:
            made.remove(value.name)
            names[value.name] = result
        elif result:
            copied.append((value.name, result))
    written = written_out(branch, prefix, names, taken)
    for source, result in copied:
        name = unused_name(f"{prefix}/{result}", taken)
        written.append(onnx.helper.make_node("Identity", [names.get(source, source)], [result], name=name))
    return written


def moved_constants(body: onnx.GraphProto, prefix: str, graph: onnx.GraphProto, taken: set[str]) -> dict[str, str]:
    """Move the constants of a body to a graph; returns their new names by the old ones."""
    names = {}
    for tensor in body.initializer:
        names[tensor.name] = unused_name(f"{prefix}/{tensor.name}", taken)
        graph.initializer.append(_named(tensor, names[tensor.name]))
    for sparse in body.sparse_initializer:
        names[sparse.values.name] = unused_name(f"{prefix}/{sparse.values.name}", taken)
        moved = graph.sparse_initializer.add()
        moved.CopyFrom(sparse)
        moved.values.name = names[sparse.values.name]
    return names


def written_out(body: onnx.GraphProto, prefix: str, names: dict[str, str], taken: set[str]) -> list[onnx.NodeProto]:
    """Operators of a body; values that ``names`` has no name for get one, which is added."""
    for value in (value for inner in body.node for value in inner.output if value):
        if value not in names:
            names[value] = unused_name(f"{prefix}/{value}", taken)
    written = []
    for inner in body.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner)
        copy.name = unused_name(f"{prefix}/{inner.name or inner.output[0]}", taken)
        _rename(copy, names)
        written.append(copy)
    return written


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Give values other names where a node and its subgraphs read or make them."""
    for values in (node.input, node.output):
        values[:] = [names.get(value, value) for value in values]
    for graph in (graph for item in node.attribute for graph in subgraphs(item)):
        _rename_captured(graph, names)


def _rename_captured(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    hidden = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    hidden |= {value for node in graph.node for value in node.output}
    outer = {name: new for name, new in names.items() if name not in hidden}
    for node in graph.node:
        _rename(node, outer)
    for value in graph.output:
        value.name = outer.get(value.name, value.name)
