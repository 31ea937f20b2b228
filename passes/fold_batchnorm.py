"""Folds per-channel scales and offsets that follow a crossbar layer into its weights and bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import Graph, LinearLayer, Node, OnnxNode, read_only
from memcompile.ir.pass_contract import Fidelity, Form, Forms
from memcompile.ir.pass_manager import Pass, PassContext

# Scale, offset, and the sum of the magnitudes that the offset is made of.
_Affine = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """Folds BatchNormalization, and Mul, Div, Add, Sub with per-channel constants.

    y = a (W x + b) + c becomes (a W) x + (a b + c). Applies only where nothing else reads the
    value in between.
    """

    summary: ClassVar[str] = "fold batch normalisation and per-channel Mul/Add into the layer before"
    consumes: ClassVar[Forms] = frozenset({Form.OPERATORS, Form.LINEAR})
    produces: ClassVar[Forms] = frozenset({Form.OPERATORS, Form.LINEAR})
    fidelity: ClassVar[Fidelity] = "lossless"

    def run(self, graph: Graph, context: PassContext) -> Graph:
        changed: dict[str, Node] = {}
        folded: set[str] = set()
        for node in graph.nodes:
            if not isinstance(node, LinearLayer):
                continue
            layer = node
            while (found := _follower(layer, graph)) is not None:
                follower, affine = found
                layer = _fold(layer, affine, follower)
                folded.add(follower.name)
            changed[node.name] = layer
        nodes = tuple(changed.get(node.name, node) for node in graph.nodes if node.name not in folded)
        return graph.replace(nodes=nodes)


def _follower(layer: LinearLayer, graph: Graph) -> tuple[OnnxNode, _Affine] | None:
    """The only reader of a layer's output, if it is a per-channel affine map."""
    if layer.integer:
        return None  # its weights have to stay integers
    value = layer.outputs[0]
    readers = graph.consumers.get(value, ())
    if value in graph.outputs or len(readers) != 1 or not isinstance(readers[0], OnnxNode):
        return None
    reader = readers[0]
    if reader.domain or value in reader.captures:
        return None
    if reader.op_type == "BatchNormalization":
        affine = _batchnorm(reader, layer, graph)
    elif reader.op_type in ("Mul", "Div", "Add", "Sub"):
        affine = _arithmetic(reader, layer, graph)
    else:
        affine = None
    return None if affine is None or not all(np.isfinite(part).all() for part in affine) else (reader, affine)


def _batchnorm(node: OnnxNode, layer: LinearLayer, graph: Graph) -> _Affine | None:
    parameters = [graph.constants.get(name) for name in node.inputs[1:5]]
    one_output = not any(node.outputs[1:])
    if not one_output or node.attributes.get("training_mode", 0) or any(part is None for part in parameters):
        return None
    if layer.geometry.layout == "channels_last" and len(graph.observed_shapes[layer.inputs[0]]) != 2:
        return None  # axis 1 is not the channel axis
    gamma, beta, mean, variance = (np.asarray(part, np.float64) for part in parameters)
    if gamma.shape != (layer.geometry.out_channels,):
        return None  # before opset 9, spatial=0 means one number per position
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing that is not finite is folded
        scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        return scale, beta - mean * scale, np.abs(beta) + np.abs(mean * scale)


def _arithmetic(node: OnnxNode, layer: LinearLayer, graph: Graph) -> _Affine | None:
    value = layer.outputs[0]
    left = node.inputs[0] == value
    other = graph.constants.get(node.inputs[1 if left else 0])
    if other is None or (node.op_type == "Div" and not left) or node.attributes:
        return None
    operand = _per_channel(other, layer, graph)
    if operand is None:
        return None
    one, zero = np.ones_like(operand), np.zeros_like(operand)
    if node.op_type == "Mul":
        return operand, zero, zero
    if node.op_type == "Div":
        with np.errstate(divide="ignore"):
            return one / operand, zero, zero
    if node.op_type == "Add":
        return one, operand, np.abs(operand)
    return (one, -operand, np.abs(operand)) if left else (-one, operand, np.abs(operand))


def _per_channel(constant: NDArray[Any], layer: LinearLayer, graph: Graph) -> NDArray[np.float64] | None:
    """A constant as one number a channel; None if broadcasting makes it anything else."""
    channels = layer.geometry.out_channels
    rank = len(graph.observed_shapes[layer.inputs[0]])
    axis = 1 if layer.geometry.layout == "channels_first" else rank - 1
    if constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if any(size != 1 for place, size in enumerate(shape) if place != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(constant.reshape(-1).astype(np.float64), (channels,))


def _fold(layer: LinearLayer, affine: _Affine, follower: OnnxNode) -> LinearLayer:
    scale, offset, size = affine
    own_size = np.abs(layer.bias.astype(np.float64)) if layer.bias_size is None else layer.bias_size
    shape = (-1,) + (1,) * (layer.weight.ndim - 1)
    return replace(
        layer,
        outputs=follower.outputs[:1],
        weight=read_only((layer.weight * scale.reshape(shape)).astype(np.float32)),
        bias=read_only((layer.bias * scale + offset).astype(np.float32)),
        bias_size=read_only(own_size * np.abs(scale) + size),
    )
