"""Conv and ConvTranspose with static kernels, over any number of spatial axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import Graph, OnnxNode
from memcompile.passes.lowering.lowering import Lowering, float_reason, opset, reshaped, transposed


def convolution_reason(node: OnnxNode, graph: Graph) -> str | None:
    """Return the reason why a Conv or ConvTranspose stays digital; None if it is mapped."""
    reason = float_reason(node, graph, *node.inputs[:2])
    if reason is not None:
        return reason
    if len(node.inputs) > 2 and node.inputs[2] and node.inputs[2] not in graph.constants:
        return "its bias is not static"
    shape = graph.observed_shapes[node.inputs[0]]
    if len(shape) < 3:
        return "it has no spatial axis"
    if shape[0] > graph.samples and (node.op_type != "Conv" or not _one_sample(graph)):
        return "it works on several items per image"
    if node.op_type == "Conv":
        size = conv_geometry(node, graph).output_size
    elif opset(graph) < 5:
        return "its operator set is older than 5"
    else:
        _, size = _transposed_output(node, shape[2:], graph.constants[node.inputs[1]].shape[2:])
    return None if min(size) > 0 else "its output is empty"


def _one_sample(graph: Graph) -> bool:
    """Return True if a run is one sample, so that all items belong to it."""
    return graph.batching is not None and graph.batching.one_by_one


def lower_conv(node: OnnxNode, graph: Graph) -> Lowering:
    """One layer; several items of a sample, such as frames of a recording, form a further spatial axis."""
    low = Lowering(node, graph)
    data, weight, bias = node.inputs[0], graph.constants[node.inputs[1]], _bias(node, graph)
    dtype, shape = graph.types[node.outputs[0]].dtype, graph.observed_shapes[data]
    geometry, items = conv_geometry(node, graph), shape[0]
    if items <= graph.samples:
        return low.finish(low.layer(data, shape, geometry, weight, bias, dtype=dtype))
    exchange = [0, 2, 1, *range(3, 3 + geometry.rank)]
    value = transposed(low, reshaped(low, data, [-1, items, *shape[1:]], dtype), exchange, dtype)
    value = low.layer(
        value, (1, shape[1], items, *shape[2:]), _along_items(geometry, items), weight[:, :, None], bias, dtype=dtype
    )
    value = transposed(low, value, exchange, dtype)
    return low.finish(reshaped(low, value, [-1, geometry.out_channels, *geometry.output_size], dtype))


def _along_items(geometry: Geometry, items: int) -> Geometry:
    """The geometry with a first spatial axis of items, which the kernel does not reach across."""
    return replace(
        geometry,
        kernel=(1, *geometry.kernel),
        input_size=(items, *geometry.input_size),
        strides=(1, *geometry.strides),
        dilations=(1, *geometry.dilations),
        pads_begin=(0, *geometry.pads_begin),
        pads_end=(0, *geometry.pads_end),
    )


def _bias(node: OnnxNode, graph: Graph) -> NDArray[np.float32] | None:
    has_bias = len(node.inputs) > 2 and node.inputs[2]
    return graph.constants[node.inputs[2]].astype(np.float32) if has_bias else None


def conv_geometry(node: OnnxNode, graph: Graph) -> Geometry:
    """Geometry of a Conv (or ConvInteger); its kernels are the constant input 1."""
    return geometry_of(node, graph.observed_shapes[node.inputs[0]], graph.constants[node.inputs[1]].shape)


def geometry_of(node: OnnxNode, shape: Sequence[int], weight: Sequence[int]) -> Geometry:
    """Geometry of a convolution from its attributes, and the shapes of its data and kernels."""
    kernel, size = tuple(weight[2:]), tuple(shape[2:])
    ones = (1,) * len(kernel)
    strides = tuple(node.attributes.get("strides", ones))
    dilations = tuple(node.attributes.get("dilations", ones))
    begin, end = _pads(node, size, kernel, strides, dilations)
    return Geometry(
        in_channels=shape[1],
        out_channels=weight[0],
        kernel=kernel,
        input_size=size,
        groups=int(node.attributes.get("group", 1)),
        strides=strides,
        dilations=dilations,
        pads_begin=begin,
        pads_end=end,
    )


def _pads(
    node: OnnxNode, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before and after each spatial axis, as the ONNX operator specification defines auto_pad."""
    auto = node.attributes.get("auto_pad", "NOTSET")
    rank = len(kernel)
    if auto in ("NOTSET", ""):
        pads = tuple(node.attributes.get("pads", (0,) * (2 * rank)))
        return pads[:rank], pads[rank:]
    if auto == "VALID":
        return (0,) * rank, (0,) * rank
    begin, end = [], []
    for length, taps, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(length / stride) - 1) * stride + dilation * (taps - 1) + 1 - length)
        small, large = total // 2, total - total // 2
        begin.append(small if auto == "SAME_UPPER" else large)
        end.append(large if auto == "SAME_UPPER" else small)
    return tuple(begin), tuple(end)


# --- transposed convolutions -------------------------------------------------------------------


def _axes(node: OnnxNode, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and dilations."""
    ones = (1,) * rank
    return tuple(node.attributes.get("strides", ones)), tuple(node.attributes.get("dilations", ones))


def _transposed_output(
    node: OnnxNode, size: Sequence[int], kernel: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before each axis, and output size, as the ONNX specification of ConvTranspose defines them."""
    rank = len(kernel)
    strides, dilations = _axes(node, rank)
    extra = tuple(node.attributes.get("output_padding", (0,) * rank))
    auto = node.attributes.get("auto_pad", "NOTSET")
    full = [
        stride * (length - 1) + more + dilation * (taps - 1) + 1
        for length, taps, stride, dilation, more in zip(size, kernel, strides, dilations, extra, strict=True)
    ]
    wanted = node.attributes.get("output_shape")
    if not wanted and auto in ("NOTSET", "", "VALID"):
        pads = tuple(node.attributes.get("pads", (0,) * (2 * rank))) if auto != "VALID" else (0,) * (2 * rank)
        return pads[:rank], tuple(full[axis] - pads[axis] - pads[rank + axis] for axis in range(rank))
    goal = tuple(wanted)[-rank:] if wanted else tuple(a * b for a, b in zip(size, strides, strict=True))
    begin = []
    for length, out in zip(full, goal, strict=True):
        total = max(length - out, 0)
        begin.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return tuple(begin), goal


def lower_conv_transpose(node: OnnxNode, graph: Graph) -> Lowering:
    """One layer with stride 1 that yields all output phases of a position, and a digital pixel shuffle.

    Along an axis, output o of input x and kernel w is the sum of x[i] w[k] over i * stride +
    k * dilation = o + pad. With o + pad = q * stride + r only taps with k * dilation = j * stride
    + r count, and they meet x[q - j]: a convolution with reversed taps j per phase r. So no
    inserted zero is ever driven (the sub-pixel form, W. Shi et al., CVPR 2016).
    """
    low = Lowering(node, graph)
    data, weight = node.inputs[0], graph.constants[node.inputs[1]].astype(np.float32)
    dtype, shape = graph.types[node.outputs[0]].dtype, graph.observed_shapes[data]
    size, kernel = shape[2:], weight.shape[2:]
    rank, groups = len(kernel), int(node.attributes.get("group", 1))
    strides, dilations = _axes(node, rank)
    begin, output = _transposed_output(node, size, kernel)
    kernels = _phase_kernels(weight, groups, strides, dilations)
    taps = kernels.shape[2:]
    # Positions q that the wanted outputs need, however far they reach past the input.
    count = [-(-(first + out) // stride) for first, out, stride in zip(begin, output, strides, strict=True)]
    geometry = Geometry(
        in_channels=shape[1],
        out_channels=kernels.shape[0],
        kernel=taps,
        input_size=size,
        groups=groups,
        strides=(1,) * rank,
        dilations=(1,) * rank,
        pads_begin=tuple(tap - 1 for tap in taps),
        pads_end=tuple(max(number - length, 0) for number, length in zip(count, size, strict=True)),
    )
    bias, phases = _bias(node, graph), math.prod(strides)
    value = low.layer(data, shape, geometry, kernels, None if bias is None else np.repeat(bias, phases), dtype=dtype)
    return low.finish(_shuffled(low, value, geometry, strides, begin, output, dtype))


def _phase_kernels(
    weight: NDArray[np.float32], groups: int, strides: Sequence[int], dilations: Sequence[int]
) -> NDArray[np.float32]:
    """Kernels of all phases, [out_channels * phases, in_channels / groups, *taps], taps reversed."""
    channels, columns, *kernel = weight.shape
    taps = [d * (k - 1) // s + 1 for k, s, d in zip(kernel, strides, dilations, strict=True)]
    rank = len(kernel)
    kernels = np.zeros((groups, columns, *strides, channels // groups, *taps), np.float32)
    split = weight.reshape(groups, channels // groups, columns, *kernel).swapaxes(1, 2)
    everything: Any = slice(None)
    for place in itertools.product(*map(range, kernel)):
        offsets = [k * d for k, d in zip(place, dilations, strict=True)]
        phase = tuple(offset % stride for offset, stride in zip(offsets, strides, strict=True))
        tap = tuple(t - 1 - o // s for t, o, s in zip(taps, offsets, strides, strict=True))
        kernels[(everything, everything, *phase, everything, *tap)] = split[
            (everything, everything, everything, *place)
        ]
    return kernels.reshape(groups * columns * math.prod(strides), channels // groups, *kernels.shape[3 + rank :])


def _shuffled(
    low: Lowering,
    value: str,
    geometry: Geometry,
    strides: Sequence[int],
    begin: Sequence[int],
    output: Sequence[int],
    dtype: str,
) -> str:
    """Interleave the phases and cut the padding off."""
    rank, channels = geometry.rank, geometry.out_channels // math.prod(strides)
    places = geometry.output_size
    if math.prod(strides) > 1:
        value = reshaped(low, value, [-1, channels, *strides, *places], dtype)
        order = itertools.chain.from_iterable((2 + rank + axis, 2 + axis) for axis in range(rank))
        value = transposed(low, value, [0, 1, *order], dtype)
        value = reshaped(low, value, [-1, channels, *(p * s for p, s in zip(places, strides, strict=True))], dtype)
    for axis, (first, out, place, stride) in enumerate(zip(begin, output, places, strides, strict=True)):
        if (first, out) != (0, place * stride):
            wanted = low.constant(np.arange(first, first + out, dtype=np.int64))
            value = low.operator("Gather", value, wanted, dtype=dtype, axis=2 + axis)
    return value
