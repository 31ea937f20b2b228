"""Mutated inputs for the fuzzer: models, target files, program files and data files, each from its number alone."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any

import models
import numpy as np
import onnx
import stages
from google.protobuf.message import DecodeError
from models import dyadic, float_model, make, node
from onnx import TensorProto, helper
from program_members import signed, unpack

from memcompile.hardware.target import builtin_targets
from memcompile.pipelines import emit_program
from memcompile.program.file import encode_program
from memcompile.program.program import Provenance

FLOAT = TensorProto.FLOAT
NUMBERS = (0, 1, -1, 2, 3, 7, 16, 255, 4096, 10**6, 10**9, 2**31 - 1, -(2**31), 2**53, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1.0, 0.5, 1e-38, 1e38, -1e38, float("nan"), float("inf"), float("-inf"))
OPERATORS = """
    Add AveragePool Cast Clip Concat ConstantOfShape Conv ConvInteger ConvTranspose DequantizeLinear Einsum Expand
    Flatten GRU Gather Gemm Identity LSTM LayerNormalization Loop MatMul MatMulInteger MaxPool NonZero Pad Pow
    QuantizeLinear RNN RandomNormal Range ReduceSum Relu Reshape Resize Scan Shape Slice Softmax Split Squeeze Tile
    TopK Transpose Unsqueeze Where
"""
Random = np.random.Generator


# --- bytes and text ----------------------------------------------------------------------------


def damage_bytes(data: bytes, other: bytes, rng: Random) -> bytes:
    """Flip bits, overwrite, cut, double or splice."""
    damaged = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not damaged:
            break
        place, length = int(rng.integers(len(damaged))), int(rng.integers(1, 9))
        match int(rng.integers(7)):
            case 0 | 1:
                damaged[place] ^= 1 << int(rng.integers(8))
            case 2:
                damaged[place : place + length] = rng.bytes(length)
            case 3:
                damaged[place : place + length] = int(rng.choice(NUMBERS)).to_bytes(8, "little", signed=True)[:length]
            case 4:
                del damaged[place : place + length * int(rng.integers(1, 50))]
            case 5:
                damaged[place:place] = damaged[place : place + length * 10]
            case _:
                there = int(rng.integers(len(other) + 1))
                damaged = damaged[:place] + other[there:]
    if rng.random() < 0.1:
        del damaged[int(rng.integers(len(damaged) + 1)) :]
    return bytes(damaged)


def damage_text(text: str, rng: Random) -> bytes:
    """Edit the tokens of a TOML file."""
    lines = text.splitlines()
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(lines)))
        key, equals, value = lines[place].partition("=")
        match int(rng.integers(8)):
            case 0:
                del lines[place : place + int(rng.integers(1, 4))]
            case 1:
                lines.insert(int(rng.integers(len(lines) + 1)), lines[place])
            case 2 | 3 | 4 if equals:
                lines[place] = f"{key}= {_toml_value(rng)}"
            case 5 if equals:
                lines[place] = f"{key[:-2]}{equals}{value}"
            case 6:
                lines[place] = lines[place][: int(rng.integers(len(lines[place]) + 1))]
            case _:
                lines[place] = lines[place].replace("_", ".").replace("1", "10000000000")
        lines = lines or [""]
    return "\n".join(lines).encode()


def _toml_value(rng: Random) -> str:
    choices = [*map(str, NUMBERS), *map(repr, FLOATS), "true", '"x"', "[]", "[1, 2]"]
    return str(rng.choice([*choices, "{ a = 1 }", "2024-01-01", "[[[[[]]]]]", "0x10", "1e400", "-0.0", '"\\u0000"']))


# --- models ------------------------------------------------------------------------------------


def _product() -> onnx.ModelProto:
    return float_model([node("Gemm", "x w b", "y")], ("N", 6), {"w": dyadic(_rng(), (6, 3)), "b": dyadic(_rng(), (3,))})


def _rng() -> Random:
    return np.random.default_rng(5)


def _recurrent() -> onnx.ModelProto:
    weights = {"w": dyadic(_rng(), (1, 16, 3)), "r": dyadic(_rng(), (1, 16, 4)), "s": np.array([4, -1, 3], np.int64)}
    nodes = [node("Reshape", "x s", "q"), node("LSTM", "q w r", "y h c", hidden_size=4)]
    return make(nodes, {"x": (FLOAT, (1, 12))}, {"y": (FLOAT, (None,) * 4)}, weights)


def _loop() -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Add", "v v", "vo"), node("Identity", "c", "co")],
        "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("v", FLOAT, ["N", 4])],
        [info("co", TensorProto.BOOL, []), info("vo", FLOAT, ["N", 4])],
    )
    nodes = [node("Loop", "n t x", "l", body=body), node("MatMul", "l w", "y")]
    weights = {"n": np.array(3, np.int64), "t": np.array(True), "w": dyadic(_rng(), (4, 2))}
    return make(nodes, {"x": (FLOAT, ("N", 4))}, {"y": (FLOAT, ("N", 2))}, weights)


def _shapes() -> onnx.ModelProto:
    """Operators whose sizes are data."""
    nodes = [
        node("Reshape", "x s", "q"),
        node("Resize", "q none scales", "r", mode="nearest"),
        node("Tile", "r reps", "t"),
        node("Pad", "t pads", "p"),
        node("Slice", "p starts ends", "c"),
        node("Conv", "c k", "y", strides=[2, 1], pads=[1, 0, 1, 0]),
    ]
    weights = {
        "s": np.array([-1, 1, 2, 3], np.int64),
        "none": np.array([], np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "reps": np.array([1, 2, 1, 1], np.int64),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "starts": np.array([0, 0, 0, 0], np.int64),
        "ends": np.array([9, 2, 5, 6], np.int64),
        "k": dyadic(_rng(), (4, 2, 3, 3)),
    }
    return make(nodes, {"x": (FLOAT, ("N", 6))}, {"y": (FLOAT, (None,) * 4)}, weights)


def _quantized() -> onnx.ModelProto:
    weights = {
        "xs": np.array(0.0625, np.float32),
        "xz": np.array(128, np.uint8),
        "w": np.arange(-9, 9, dtype=np.int8).reshape(6, 3),
        "ws": np.array(0.125, np.float32),
        "wz": np.array(0, np.int8),
    }
    nodes = [
        node("QuantizeLinear", "x xs xz", "q"),
        node("DequantizeLinear", "q xs xz", "d"),
        node("DequantizeLinear", "w ws wz", "v"),
        node("MatMul", "d v", "y"),
    ]
    return make(nodes, {"x": (FLOAT, ("N", 6))}, {"y": (FLOAT, ("N", 3))}, weights)


def _function() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = helper.make_function("own", "inner", ["a"], ["b"], [node("Relu", "a", "b")], opsets)
    call = helper.make_node("inner", ["m"], ["o"], domain="own")
    outer = helper.make_function("own", "outer", ["a", "w"], ["o"], [node("MatMul", "a w", "m"), call], opsets)
    model = make(
        [helper.make_node("outer", ["x", "w"], ["y"], domain="own")],
        {"x": (FLOAT, ("N", 4))},
        {"y": (FLOAT, ("N", 2))},
        {"w": dyadic(_rng(), (4, 2))},
        extra_opsets=[("own", 1)],
    )
    model.functions.extend([inner, outer])
    return model


@cache
def valid_models() -> list[onnx.ModelProto]:
    """Models from which damaged ones are made; all compile."""
    small = (models.conv_bn, models.matmul_add, models.skip_connection, models.grouped_conv, models.constant_chain)
    return [make() for make in (*small, _product, _recurrent, _loop, _shapes, _quantized, _function)]


def mutated_model(rng: Random) -> bytes:
    """A model with damaged bytes, or with edited protobuf fields."""
    pool = valid_models()
    model, other = (pool[int(rng.integers(len(pool)))] for _ in range(2))
    if rng.random() < 0.25:
        return damage_bytes(model.SerializeToString(), other.SerializeToString(), rng)
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        _edit_field(edited, other, rng)
    try:
        return edited.SerializeToString()
    except ValueError:  # a string that is no UTF-8
        return b""


def _fields(message: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """All fields that are set, in the message and below, and some that are not."""
    for field, value in message.ListFields():
        found.append((message, field))
        if field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                _fields(item, found)
    return found


def _edit_field(model: onnx.ModelProto, other: onnx.ModelProto, rng: Random) -> None:
    # Operators, their attributes and shapes are few among many weights: look there every other time.
    root = model
    if rng.random() < 0.5 and len(model.graph.node):
        root = model.graph.node[int(rng.integers(len(model.graph.node)))]
    found = _fields(root, [])
    message, field = found[int(rng.integers(len(found)))] if found else (root, root.DESCRIPTOR.fields[0])
    if rng.random() < 0.1:
        field = message.DESCRIPTOR.fields[int(rng.integers(len(message.DESCRIPTOR.fields)))]
    if field.is_repeated:
        _edit_repeated(getattr(message, field.name), field, rng)
    elif field.message_type is not None:
        message.ClearField(field.name) if rng.random() < 0.5 else getattr(message, field.name).SetInParent()
    else:
        old = getattr(message, field.name)
        _assign(message, field.name, str(rng.choice(OPERATORS.split())) if field.name == "op_type" else old, rng)


def _edit_repeated(values: Any, field: Any, rng: Random) -> None:
    if not len(values):
        if field.message_type is None:
            _append(values, _other_value(0 if field.cpp_type in (1, 2, 3, 4) else "", rng))
        else:
            values.add()
        return
    place, there = int(rng.integers(len(values))), int(rng.integers(len(values)))
    match int(rng.integers(5)):
        case 0:
            del values[place]
        case 1 if field.message_type is not None:
            values.add().CopyFrom(values[place])
        case 2 if field.message_type is not None:
            kept = [type(item).FromString(item.SerializeToString()) for item in values]
            kept[place], kept[there] = kept[there], kept[place]
            del values[:]
            values.extend(kept)
        case 3:
            del values[place:]
        case _ if field.message_type is None:
            _append(values, _other_value(values[place], rng))
            if rng.random() < 0.8:
                values[place] = values.pop()
        case _:
            pass


def _append(values: Any, value: Any) -> None:
    for candidate in (value, 0, "", b""):
        try:
            values.append(candidate)
        except (ValueError, TypeError, OverflowError):  # of another type, or beyond it
            continue
        return


def _assign(message: Any, name: str, old: Any, rng: Random) -> None:
    value = old if name == "op_type" and rng.random() < 0.8 else _other_value(old, rng)
    try:
        setattr(message, name, value)
    except (ValueError, TypeError, OverflowError):  # beyond the field's type
        message.ClearField(name)


def _other_value(old: Any, rng: Random) -> Any:
    if isinstance(old, bool | int):
        return int(rng.choice([*NUMBERS, old + 1, old - 1, 2 * old])) if abs(old) < 2**60 else 0
    if isinstance(old, float):
        return float(rng.choice([*FLOATS, -old, 2 * old]))
    if isinstance(old, bytes):
        return damage_bytes(old, b"", rng)
    return str(rng.choice(["", "x", "y", "w", "a", "VALID", "SAME_UPPER", "../x", "\0", "ä", old + old, old[:-1]]))


# --- target files ------------------------------------------------------------------------------


@cache
def target_texts() -> list[str]:
    """The built-in target files."""
    from importlib import resources  # noqa: PLC0415

    folder = resources.files("memcompile.hardware") / "targets"
    return [(folder / f"{name}.toml").read_text(encoding="utf-8") for name in builtin_targets()]


def mutated_target(rng: Random) -> bytes:
    """A target file with edited tokens, or with damaged bytes."""
    texts = target_texts()
    text, other = (texts[int(rng.integers(len(texts)))] for _ in range(2))
    if rng.random() < 0.15:
        return damage_bytes(text.encode(), other.encode(), rng)
    return damage_text(text, rng)


# --- program files -----------------------------------------------------------------------------


@cache
def valid_programs() -> list[bytes]:
    """Program files of two networks."""
    programs = []
    for model, feeds in ((models.conv_bn(), (2, 2, 6, 6)), (_product(), (4, 6))):
        x = {"x": models.images(feeds)}
        graph = stages.after("schedule", model, x, slices=2)
        programs.append(
            encode_program(emit_program(graph, stages.context_for(x, slices=2), Provenance("m", "0" * 64, "1", {})))
        )
    return programs


def mutated_program(rng: Random) -> bytes:
    """A program file with damaged bytes, or one whose parts were changed by someone who knows the format."""
    pool = valid_programs()
    data, other = (pool[int(rng.integers(len(pool)))] for _ in range(2))
    if rng.random() < 0.2:
        return damage_bytes(data, other, rng)
    document, members = unpack(data)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        name = str(rng.choice(sorted(members)))
        match int(rng.integers(5)):
            case 0:
                members[name] = damage_bytes(members[name], members[str(rng.choice(sorted(members)))], rng)
            case 1 if name.endswith(".npy"):
                members[name] = _changed_array(members[name], rng)
            case 2 if name.endswith(".onnx"):
                members[name] = _edited_stage(members[name], rng)
            case _:
                _edit_json(document, rng)
    return signed(document, members)


def _edited_stage(content: bytes, rng: Random) -> bytes:
    try:
        model = onnx.ModelProto.FromString(content)
        _edit_field(model, model, rng)
        return model.SerializeToString()
    except (DecodeError, ValueError):  # an earlier edit damaged it, or a string is no UTF-8
        return damage_bytes(content, b"", rng)


def _changed_array(content: bytes, rng: Random) -> bytes:
    try:
        array = np.load(io.BytesIO(content))
    except Exception:  # an earlier edit damaged it
        return damage_bytes(content, b"", rng)
    flat = array.reshape(-1).copy()
    if flat.size:
        flat[int(rng.integers(flat.size))] = np.array([rng.choice([0, 1, 2, 7, 100, 255])]).astype(flat.dtype)[0]
        if rng.random() < 0.3:
            flat[int(rng.integers(flat.size))] = np.array([rng.choice(FLOATS)]).astype(flat.dtype)[0]
    changed = flat.reshape(array.shape)
    match int(rng.integers(6)):
        case 0:
            changed = changed[:-1] if array.ndim else changed
        case 1:
            changed = changed.astype(str(rng.choice(["float64", "int64", "uint8", "complex64", "bool"])))
        case 2:
            changed = changed[None]
        case _:
            pass
    buffer = io.BytesIO()
    np.save(buffer, changed)
    return buffer.getvalue()


def _edit_json(value: Any, rng: Random) -> None:
    """Change one value somewhere in a document."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        inner = value[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.95:
            value = inner
            continue
        junk = [
            None,
            True,
            "",
            "x",
            [],
            {},
            [1],
            0.5,
            float(rng.choice([1e300, -1.0, 1e-300])),
            int(rng.choice(NUMBERS)),
        ]
        if isinstance(inner, int):
            junk += [inner + 1, inner - 1, 2 * inner] * 3
        value[key] = junk[int(rng.integers(len(junk)))]
        return


# --- data files --------------------------------------------------------------------------------


@cache
def valid_data() -> dict[str, bytes]:
    """Data files by name; the names decide how they are read."""
    rng = _rng()
    npz, plain = io.BytesIO(), io.BytesIO()
    np.savez_compressed(npz, x=models.images((5, 6)), labels=np.arange(5) % 3)
    np.savez(plain, x=rng.integers(0, 255, (3, 28, 28), np.uint8), labels=np.arange(3))
    images = b"\0\0\x08\x03" + np.array([3, 28, 28], ">u4").tobytes() + rng.bytes(3 * 28 * 28)
    labels = b"\0\0\x08\x01" + np.array([3], ">u4").tobytes() + bytes([1, 2, 3])
    batch = {b"data": rng.integers(0, 255, (2, 3072), np.uint8), b"labels": [3, 4], b"batch_label": b"one"}
    return {
        "d.npz": npz.getvalue(),
        "e.npz": plain.getvalue(),
        "t10k-images-idx3-ubyte": images,
        "t10k-images-idx3-ubyte.gz": gzip.compress(images, mtime=0),
        "t10k-labels-idx1-ubyte": labels,
        "test_batch": pickle.dumps(batch, protocol=2),
        "test_batch.bin": (b"\3" + rng.bytes(3072)) * 2,
    }


def mutated_data(rng: Random) -> tuple[str, bytes]:
    """Name and content of a data file."""
    files = valid_data()
    name, other = (str(rng.choice(sorted(files))) for _ in range(2))
    content = files[name]
    if name.endswith(".npz") and rng.random() < 0.5:
        return name, _changed_archive(content, rng)
    return name, damage_bytes(content, files[other], rng)


def _changed_archive(content: bytes, rng: Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = str(rng.choice(sorted(members)))
    match int(rng.integers(4)):
        case 0:
            members[name] = damage_bytes(members[name], b"", rng)
        case 1:
            del members[name]
        case 2:
            members[f"{name[:-4]}2.npy"] = members[name]
        case _:
            members[name] = _changed_array(members[name], rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return buffer.getvalue()


MUTATORS: dict[str, Callable[[Random], Any]] = {
    "data": mutated_data,
    "model": mutated_model,
    "program": mutated_program,
    "target": mutated_target,
}


def mutated(kind: str, seed: int, number: int) -> Any:
    """Input ``number`` of a kind: the same for the same seed, whatever came before."""
    with np.errstate(all="ignore"):
        return MUTATORS[kind](np.random.default_rng([seed, number, sorted(MUTATORS).index(kind)]))
