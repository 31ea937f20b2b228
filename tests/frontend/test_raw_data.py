"""Raw data of serialised models, left out as exporters and protobuf itself lay it out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from memcompile.frontend.raw_data import WINDOW_BYTES, FileBytes, with_places

LEAST = 24
ARRAYS = {
    "a": np.arange(300, dtype=np.float32),
    "b": np.arange(7, dtype=np.int64),
    "": np.ones((5, 9), np.uint8),
    "small": np.ones(5, np.float32),
    "wide": np.arange(WINDOW_BYTES, dtype=np.float32),
}


def model(**arrays: np.ndarray) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    tensors = [numpy_helper.from_array(array, name) for name, array in (arrays or ARRAYS).items()]
    listed = helper.make_tensor("listed", onnx.TensorProto.FLOAT, [9], [1.0] * 9)
    node = helper.make_node("Constant", [], ["x"], value=numpy_helper.from_array(np.full(50, 3.0), "inner"))
    return helper.make_model(helper.make_graph([node], "g", [], [value], [*tensors, listed]), producer_name="p" * 200)


def shortened(data: bytes) -> bytes | None:
    return with_places(FileBytes(io.BytesIO(data), len(data)), LEAST, "m.onnx")


def test_places_hold_the_raw_data_of_initializers(tmp_path: Path) -> None:
    """Reading the raw data from these places gives the original model."""
    made = model()
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    short = shortened(path.read_bytes())
    assert short is not None and len(short) < 2000
    found = onnx.ModelProto.FromString(short)
    elsewhere = {tensor.name for tensor in found.graph.initializer if tensor.data_location}
    assert elsewhere == {"a", "b", "", "wide"}  # the rest is small, or no raw data
    onnx.load_external_data_for_model(found, str(tmp_path))
    for tensor in found.graph.initializer:
        tensor.ClearField("data_location")
    for tensor in made.graph.initializer:
        tensor.ClearField("data_location")
    assert found.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_bytes_lead_out_of_the_file(data: st.DataObject) -> None:
    """Whatever is cut or changed, places are inside and hold what protobuf reads, or the layout is given up."""
    whole = bytearray(model(a=ARRAYS["a"], b=ARRAYS["b"]).SerializeToString())
    for _ in range(data.draw(st.integers(0, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    short = shortened(cut)
    if short is None:
        return
    try:
        before = onnx.ModelProto.FromString(cut)
    except Exception:  # the same must be said of the short one
        with pytest.raises(Exception, match="pars"):
            onnx.ModelProto.FromString(short)
        return
    after = onnx.ModelProto.FromString(short)
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
        entries = {item.key: item.value for item in new.external_data}
        if entries.get("location") == "m.onnx" and not old.external_data:
            offset, length = int(entries["offset"]), int(entries["length"])
            assert cut[offset : offset + length] == old.raw_data
            new.raw_data = old.raw_data
            new.ClearField("external_data")
            new.ClearField("data_location")
    assert after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "data",
    [
        2 * model().SerializeToString(),  # protobuf joins the two graphs
        model().SerializeToString() + b"\x0b",  # a group, which ONNX never had
        model().SerializeToString() + b"\xff" * 12,  # a number without an end
        model().SerializeToString()[:-1],
        model(small=ARRAYS["small"]).SerializeToString(),  # nothing large
    ],
)
def test_unusual_layouts_are_given_up(data: bytes) -> None:
    assert shortened(data) is None


@pytest.mark.parametrize(
    "more",
    [
        onnx.TensorProto(raw_data=b"1234"),  # the last of two values counts
        onnx.TensorProto(data_location=onnx.TensorProto.DEFAULT),
        onnx.TensorProto(external_data=[onnx.StringStringEntryProto(key="location", value="x")]),
    ],
)
def test_tensors_that_say_more_stay_as_they_are(more: onnx.TensorProto) -> None:
    made = model(a=ARRAYS["a"])
    assert shortened(made.SerializeToString()) is not None
    tensor = made.graph.initializer[0].SerializeToString() + more.SerializeToString()
    del made.graph.initializer[:]
    graph = made.graph.SerializeToString() + b"\x2a" + bytes([len(tensor) & 127 | 128, len(tensor) >> 7]) + tensor
    whole = b"\x3a" + bytes([len(graph) & 127 | 128, len(graph) >> 7]) + graph
    assert onnx.ModelProto.FromString(whole).graph.initializer[0].name == "a"
    assert shortened(whole) is None


def test_files_that_become_shorter_are_noticed() -> None:
    data = model().SerializeToString()
    with pytest.raises(OSError, match="shorter"):
        with_places(FileBytes(io.BytesIO(data[:-100]), len(data)), LEAST, "m.onnx")
