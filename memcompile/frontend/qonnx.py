"""Operators of QONNX in those of ONNX, as far as these can say the same.

Networks that were trained with few bits come from Brevitas, QKeras and FINN with operators of their own: Quant (also
IntQuant), BipolarQuant, Trunc and MultiThreshold (QONNX, A. Pappalardo et al., arXiv:2206.07527). onnxruntime does not
know them. Where a Quant has constant scales and whole numbers of up to eight bits it becomes QuantizeLinear and
DequantizeLinear, which keep the network's own whole numbers; else arithmetic on floats. QuantizeLinear rounds before it
adds the zero point: with an odd one a value exactly between two whole numbers goes the other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from memcompile.frontend.constant_branches import names_of
from memcompile.frontend.validation import is_elsewhere, unused_name

DOMAINS = frozenset({"finn.custom_op.general", "onnx.brevitas", "qonnx.custom_op.general"})
OLDEST = 9
"""Operator set from which on ONNX has all that is needed."""
ROUND, CLIP_OF_INTEGERS, AXIS_OF_SCALES = 11, 12, 13
"""Operator sets that brought Round, Clip of integers, and an axis for scales."""
MOST_BITS, BITS_OF_BYTES = 64, 8
"""Most bits of whole numbers, as those of a bias, and most that are bytes."""
BITS_OF_ROUNDER = 22
"""Most bits that an addition rounds, before there was Round."""
ROUNDER = np.float32(1.5 * 2**23)
"""Number whose addition and subtraction rounds a float32 of few bits, halves to even."""


def use_standard_operators(model: onnx.ModelProto) -> None:
    """Write the operators of QONNX in the main graph as those of ONNX; what has no such form stays as it is."""
    opset = next((item.version for item in model.opset_import if not item.domain), 0)
    if opset < OLDEST or not any(node.domain in DOMAINS for node in model.graph.node):
        return
    writer = _Writer(model, opset)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        write = writer.forms.get(node.op_type) if node.domain in DOMAINS else None
        written = write(node) if write is not None else None
        model.graph.node.extend([node] if written is None else written)
    used = {node.domain for node in model.graph.node}
    left = [item for item in model.opset_import if item.domain not in DOMAINS or item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(left)


@dataclass(frozen=True, eq=False)
class _Quantizer:
    """Whole numbers of a Quant: the least and largest, whether these are signed, and how values are rounded to them."""

    least: int
    largest: int
    signed: bool
    rounding: str

    @classmethod
    def of(cls, node: onnx.NodeProto, bits: int) -> _Quantizer:
        """Whole numbers of so many bits, as the attributes of a node say."""
        signed, narrow = bool(_integer(node, "signed", 1)), bool(_integer(node, "narrow", 0))
        if signed:
            return cls(int(narrow) - (1 << (bits - 1)), (1 << (bits - 1)) - 1, True, _rounding(node, "ROUND"))
        return cls(0, (1 << bits) - 1 - int(narrow), False, _rounding(node, "ROUND"))


class _Writer:
    """Writes operators, and the constants that they need into the graph of a model."""

    def __init__(self, model: onnx.ModelProto, opset: int) -> None:
        self.graph, self.opset = model.graph, opset
        self.taken = set(names_of(model))
        self.known = {tensor.name: tensor for tensor in model.graph.initializer if not is_elsewhere(tensor)}
        for node in model.graph.node:
            if node.op_type == "Constant" and not node.domain and node.attribute[0].name == "value":
                self.known[node.output[0]] = node.attribute[0].t
        self.ranks = {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in (*model.graph.input, *model.graph.value_info)
            if value.type.tensor_type.HasField("shape")
        }
        self.forms = {
            "Quant": self.quant,
            "IntQuant": self.quant,
            "BipolarQuant": self.bipolar,
            "Trunc": self.trunc,
            "MultiThreshold": self.thresholds,
        }

    def quant(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Scaled, rounded, and limited to whole numbers of some bits."""
        bits = self._whole(node, 3)
        if bits is None or not 1 <= bits <= (MOST_BITS if self.opset >= ROUND else BITS_OF_ROUNDER):
            return None
        numbers = _Quantizer.of(node, bits)
        linear = self._linear(node, numbers) if numbers.rounding == "ROUND" and bits <= BITS_OF_BYTES else None
        return linear if linear is not None else self._in_floats(node, numbers)

    def _linear(self, node: onnx.NodeProto, numbers: _Quantizer) -> list[onnx.NodeProto] | None:
        """QuantizeLinear, Clip and DequantizeLinear; None where scale or zero point are no constants or no bytes."""
        scale, zero = self._array(node, 1), self._array(node, 2)
        if scale is None or zero is None or self.opset < CLIP_OF_INTEGERS or not (scale > 0).all():
            return None
        kind = np.int8 if numbers.signed else np.uint8
        limits = np.iinfo(kind)
        shape = np.broadcast_shapes(scale.shape, zero.shape)
        axes = [axis for axis, size in enumerate(shape) if size > 1]
        fits = (zero == np.rint(zero)).all() and (zero >= limits.min).all() and (zero <= limits.max).all()
        if not fits or len(axes) > 1 or (axes and self.opset < AXIS_OF_SCALES):
            return None
        flat = (-1,) if axes else ()
        scales = np.broadcast_to(scale, shape).astype(np.float32).reshape(flat)
        zeros = np.broadcast_to(zero, shape).astype(kind).reshape(flat)
        parts = [self.constant(node, scales), self.constant(node, zeros)]
        axis: dict[str, Any] = {"axis": axes[0]} if axes else {}
        nodes = [self.operator(node, "QuantizeLinear", [node.input[0], *parts], **axis)]
        if (numbers.least, numbers.largest) != (limits.min, limits.max):
            ends = [self.constant(node, np.array(end, kind)) for end in (numbers.least, numbers.largest)]
            nodes.append(self.operator(node, "Clip", [nodes[-1].output[0], *ends]))
        last = self.operator(node, "DequantizeLinear", [nodes[-1].output[0], *parts], node.output[0], **axis)
        return [*nodes, last]

    def _in_floats(self, node: onnx.NodeProto, numbers: _Quantizer) -> list[onnx.NodeProto] | None:
        """Whole numbers as floats."""
        scale, zero = (self._as_float(node, place) for place in (1, 2))
        chain = _Chain(self, node)
        chain.then("Div", scale)
        chain.then("Add", zero)
        chain.then("Max", self.constant(node, np.float32(numbers.least)))
        chain.then("Min", self.constant(node, np.float32(numbers.largest)))
        if not chain.rounded(numbers.rounding):
            return None
        chain.then("Sub", zero)
        return chain.end("Mul", scale)

    def bipolar(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """The scale, with the sign of the value; that of zero is positive."""
        negative = self.operator(node, "Less", [node.input[0], self.constant(node, np.float32(0))])
        minus = self.operator(node, "Neg", [node.input[1]])
        chosen = [negative.output[0], minus.output[0], node.input[1]]
        return [negative, minus, self.operator(node, "Where", chosen, node.output[0])]

    def trunc(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Whole numbers without their last bits (version 1, with five inputs)."""
        before, after = self._whole(node, 3), self._whole(node, 4)
        if len(node.input) != 5 or before is None or after is None or not 0 <= before - after <= BITS_OF_ROUNDER:
            return None
        scale, zero = (self._as_float(node, place) for place in (1, 2))
        chain = _Chain(self, node)
        chain.then("Div", scale)
        chain.then("Add", zero)
        chain.rounded("ROUND")
        chain.then("Div", self.constant(node, np.float32(2.0 ** (before - after))))
        if not chain.rounded(_rounding(node, "FLOOR")):
            return None
        chain.then("Sub", zero)
        return chain.end("Mul", scale)

    def thresholds(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Number of a channel's thresholds that a value reaches, scaled and shifted."""
        limits, rank = self._array(node, 1), self.ranks.get(node.input[0])
        if limits is None or limits.ndim != 2:
            return None
        last = _text(node, "data_layout", "NCHW") in ("NHWC", "NC") or rank == 2 or len(limits) == 1
        if not last and rank is None:
            return None
        if not last:  # channels along axis 1
            limits = limits.reshape(len(limits), *(1,) * (rank - 2 if rank else 0), -1)
        apart = self._over_last("Unsqueeze", node, node.input[0])
        below = self.operator(node, "Less", [apart.output[0], self.constant(node, limits.astype(np.float32))])
        reached = self.operator(node, "Not", [below.output[0]])
        counted = self.operator(node, "Cast", [reached.output[0]], to=onnx.TensorProto.FLOAT)
        total = self._over_last("ReduceSum", node, counted.output[0])
        chain = _Chain(self, node, [apart, below, reached, counted, total])
        chain.then("Mul", self.constant(node, np.float32(_float(node, "out_scale", 1.0))))
        return chain.end("Add", self.constant(node, np.float32(_float(node, "out_bias", 0.0))))

    def _over_last(self, op_type: str, node: onnx.NodeProto, value: str) -> onnx.NodeProto:
        """Unsqueeze or ReduceSum over the last axis."""
        more: dict[str, Any] = {"keepdims": 0} if op_type == "ReduceSum" else {}
        if self.opset >= AXIS_OF_SCALES:
            return self.operator(node, op_type, [value, self.constant(node, np.array([-1], np.int64))], **more)
        return self.operator(node, op_type, [value], axes=[-1], **more)

    def _array(self, node: onnx.NodeProto, place: int) -> NDArray[Any] | None:
        """Value of an input, None where it is no constant."""
        name = node.input[place] if place < len(node.input) else ""
        return onnx.numpy_helper.to_array(self.known[name]) if name in self.known else None

    def _as_float(self, node: onnx.NodeProto, place: int) -> str:
        """An input as float32, which some exporters write as an integer where it is a constant."""
        array = self._array(node, place)
        same = array is None or array.dtype == np.float32
        return node.input[place] if same else self.constant(node, np.asarray(array, np.float32))

    def _whole(self, node: onnx.NodeProto, place: int) -> int | None:
        """A constant input as one whole number."""
        array = self._array(node, place)
        if array is None or array.size != 1 or not np.isfinite(array).all() or (array != np.rint(array)).any():
            return None
        return int(array.reshape(-1)[0])

    def constant(self, node: onnx.NodeProto, value: NDArray[Any] | np.generic) -> str:
        """Name of a new constant for what stands in place of a node."""
        name = unused_name(f"{node.output[0]}/constant", self.taken)
        self.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def operator(
        self, node: onnx.NodeProto, op_type: str, inputs: Sequence[str], output: str = "", **attributes: Any
    ) -> onnx.NodeProto:
        """An operator in place of a node, whose name the one has that makes its result."""
        made = output or unused_name(f"{node.output[0]}/{op_type}", self.taken)
        name = node.name if output and node.name else unused_name(f"{made}/node", self.taken)
        return onnx.helper.make_node(op_type, list(inputs), [made], name=name, **attributes)


class _Chain:
    """Operators one after the other, from the first input of a node to its output."""

    def __init__(self, writer: _Writer, node: onnx.NodeProto, begun: Sequence[onnx.NodeProto] = ()) -> None:
        self.writer, self.node, self.nodes = writer, node, list(begun)

    def then(self, op_type: str, *others: str, output: str = "") -> None:
        """The next operator, with other inputs behind what the last one made."""
        value = self.nodes[-1].output[0] if self.nodes else self.node.input[0]
        self.nodes.append(self.writer.operator(self.node, op_type, [value, *others], output))

    def end(self, op_type: str, *others: str) -> list[onnx.NodeProto]:
        """All operators, the last of which makes the output."""
        self.then(op_type, *others, output=self.node.output[0])
        return self.nodes

    def rounded(self, how: str) -> bool:
        """Round what the last operator made; returns False if there is no operator for that."""
        if how in ("CEIL", "FLOOR"):
            self.then({"CEIL": "Ceil", "FLOOR": "Floor"}[how])
        elif how == "ROUND" and self.writer.opset >= ROUND:
            self.then("Round")
        elif how == "ROUND":
            rounder = self.writer.constant(self.node, ROUNDER)
            self.then("Add", rounder)
            self.then("Sub", rounder)
        else:
            return False
        return True


def _attributes(node: onnx.NodeProto) -> Mapping[str, onnx.AttributeProto]:
    return {item.name: item for item in node.attribute}


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    found = _attributes(node).get(name)
    return default if found is None else found.i


def _float(node: onnx.NodeProto, name: str, default: float) -> float:
    found = _attributes(node).get(name)
    return default if found is None else found.f


def _text(node: onnx.NodeProto, name: str, default: str) -> str:
    found = _attributes(node).get(name)
    return default if found is None else found.s.decode("utf-8", "replace")


def _rounding(node: onnx.NodeProto, default: str) -> str:
    return _text(node, "rounding_mode", default).upper()
