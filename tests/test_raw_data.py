"""Places of raw data in serialised models, as exporters and protobuf itself lay them out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from memcompile.raw_data import Span, raw_data_spans

ARRAYS = {"a": np.arange(300, dtype=np.float32), "b": np.arange(7, dtype=np.int64), "": np.ones((2, 3), np.uint8)}


def model() -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    tensors = [numpy_helper.from_array(array, name) for name, array in ARRAYS.items()]
    listed = helper.make_tensor("listed", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    node = helper.make_node("Constant", [], ["x"], value=numpy_helper.from_array(np.full(50, 3.0), "inner"))
    return helper.make_model(helper.make_graph([node], "g", [], [value], [*tensors, listed]), producer_name="p" * 200)


def test_spans_hold_the_raw_data_of_initializers() -> None:
    made = model()
    data = made.SerializeToString()
    spans = raw_data_spans(data)
    named = {tensor.name: tensor.raw_data for tensor in made.graph.initializer if tensor.name in spans}
    assert {name: data[span.offset : span.offset + span.length] for name, span in spans.items()} == named
    assert set(spans) == {"a", "b"}  # protobuf writes no empty name, and listed numbers are no raw data


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_bytes_lead_out_of_the_file(data: st.DataObject) -> None:
    """Whatever is cut or changed, spans are inside, or the whole layout is given up."""
    whole = bytearray(model().SerializeToString())
    for _ in range(data.draw(st.integers(0, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for span in raw_data_spans(cut).values():
        assert 0 <= span.offset <= span.offset + span.length <= len(cut)


@pytest.mark.parametrize(
    "data",
    [
        2 * model().SerializeToString(),  # protobuf joins the two graphs
        model().SerializeToString() + b"\x0b",  # a group, which ONNX never had
        model().SerializeToString() + b"\xff" * 12,  # a number without an end
        model().SerializeToString()[:-1],
    ],
)
def test_unusual_layouts_are_given_up(data: bytes) -> None:
    assert raw_data_spans(data) == {}


def test_the_last_of_two_values_counts() -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.uint8), "a").SerializeToString()
    tensor += onnx.TensorProto(raw_data=b"1234").SerializeToString()
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    data = b"\x3a" + bytes([len(graph)]) + graph
    assert onnx.ModelProto.FromString(data).graph.initializer[0].raw_data == b"1234"
    assert raw_data_spans(data) == {"a": Span(len(data) - 4, 4)}
