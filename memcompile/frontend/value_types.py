"""Types of values as ONNX declares them, from what onnxruntime reports."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper

from memcompile.frontend.sessions import tensor_dtype
from memcompile.ir.graph import OtherType, TensorType


def value_info(name: str, kind: TensorType) -> onnx.ValueInfoProto:
    """Name, type and shape of a value as a model declares it; free sizes stay open."""
    if isinstance(kind, OtherType):
        return onnx.ValueInfoProto(name=name, type=onnx.TypeProto.FromString(kind.proto))
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
    # onnxruntime reports an unknown shape as an empty one; leaving it open is right for both.
    shape = [None if size is None else size for size in kind.shape] if kind.shape else None
    return onnx.helper.make_tensor_value_info(name, element, shape)


def other_type(kind: str) -> OtherType | None:
    """Type of a sequence, map or optional from onnxruntime's name for it, such as ``seq(tensor(float))``.

    None where a name has no counterpart that a model could declare, such as that of a sparse tensor.
    """
    proto = _type_proto(kind)
    return None if proto is None else OtherType(kind, (), proto.SerializeToString(deterministic=True))


def _type_proto(kind: str) -> onnx.TypeProto | None:
    dtype = tensor_dtype(kind)
    if dtype is not None:
        return onnx.helper.make_tensor_type_proto(_element(dtype), None)
    word, _, inside = kind.removesuffix(")").partition("(")
    if word == "map":
        key, _, held = inside.partition(",")
        key_dtype, value = tensor_dtype(f"tensor({key})"), _type_proto(held)
        if key_dtype is None or value is None:
            return None
        return onnx.helper.make_map_type_proto(_element(key_dtype), value)
    wrap = {"seq": onnx.helper.make_sequence_type_proto, "optional": onnx.helper.make_optional_type_proto}.get(word)
    inner = _type_proto(inside) if wrap else None
    return wrap(inner) if wrap and inner is not None else None


def _element(dtype: str) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
