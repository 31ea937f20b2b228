"""Reads a model file, with large weights in arrays beside the model.

All readers use these arrays in place: graph constants, and onnxruntime's sessions.
"""

from __future__ import annotations

import hashlib
import math
import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime as ort
from numpy.typing import NDArray

from memcompile.errors import ModelError
from memcompile.frontend.external_data import external_bytes
from memcompile.frontend.raw_data import FileBytes, with_places
from memcompile.frontend.sessions import NO_WEIGHTS, FileStamp, Weights, open_session
from memcompile.frontend.validation import MAX_MODEL_BYTES, first_line, is_elsewhere, tensors

# Initializers of so many bytes (a page) are kept beside the model.
LARGE_BYTES = 1 << 12
# Location of those whose place in the model's file is not known; no file has a name of nothing but a slash.
NOWHERE = "/"


def read_model_bytes(path: Path) -> tuple[bytes, str]:
    """Read a model file; large initializers of its own become external data in it.

    Returns
    -------
    The model as bytes, and the SHA-256 of the whole file.

    Raises
    ------
    ModelError
        The file is missing, a directory, too large or cannot be read.
    """
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a directory; give the path of an .onnx file")
        with path.open("rb") as stream:
            found = path.stat()
            if found.st_size > MAX_MODEL_BYTES:
                raise ModelError(
                    f"{path} has {found.st_size} bytes; an ONNX file holds at most {MAX_MODEL_BYTES} (use external "
                    "data)"
                )
            if stat.S_ISREG(found.st_mode) and _names_itself(path):
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                short = with_places(FileBytes(stream, found.st_size), LARGE_BYTES, path.resolve().name)
                if short is not None:
                    return short, digest
                stream.seek(0)
            data = stream.read()
            return data, hashlib.sha256(data).hexdigest()
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist; give the path of an .onnx file") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def _names_itself(path: Path) -> bool:
    """Return True if a model may keep weights in its own file: not behind a link to another folder."""
    own = path.resolve()
    try:
        return own.parent == path.parent.resolve() and external_bytes(path, "", {"location": own.name}) > 0
    except ModelError:  # a name such as that of a folder on another system
        return False


def load_weights(model: onnx.ModelProto, file: FileStamp) -> tuple[onnx.ModelProto, Weights]:
    """Read external data, and take large initializers out of the model.

    A model with functions keeps them, because onnx inlines functions and needs the whole model.

    Parameters
    ----------
    model
        Parsed result of :func:`read_model_bytes`.
    file
        The model's own, as it was before it was read.

    Returns
    -------
    The model with only the places of large initializers, and their values; with their files if the places of all are
    known.

    Raises
    ------
    ModelError
        A file is missing, outside the model's directory or too short, or all are too large together.
    """
    path, own = file.path, file.path.resolve()
    held = Counter[Path]()
    for tensor in tensors(model):
        if is_elsewhere(tensor):
            entries = _entries(tensor)
            held[path.parent / entries.get("location", "")] += external_bytes(path, tensor.name, entries)
    others = [name for name in sorted(held) if name.resolve() != own]
    total = sum(held[name] for name in others)
    if total > MAX_MODEL_BYTES:
        raise ModelError(
            f"{path} has {total} bytes of external data; onnxruntime takes models of at most {MAX_MODEL_BYTES} bytes "
            "from memory, so cut the model into parts"
        )
    files = (file, *map(FileStamp.of, others))
    weights: dict[str, NDArray[Any]] = {}
    places: dict[str, onnx.TensorProto] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # onnx warns of keys that it then ignores
            for tensor in [] if model.functions else _large_initializers(model, path):
                weights[tensor.name] = _values(tensor, path)
                places[tensor.name] = _place(tensor)
                tensor.data_location = onnx.TensorProto.DEFAULT  # not to be read again
            onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx raises bare exceptions of several kinds here
        raise ModelError(f"{path}: its external data cannot be read: {first_line(error)}") from error
    if len(others) < len(held) and not file.holds:
        raise ModelError(f"{path} changed while it was read; compile it again when it is complete")
    if not places:
        return model, Weights(weights)
    bare = _without_values(model, places)
    if NOWHERE in (place.external_data[0].value for place in places.values()):
        return bare, Weights(weights)
    return bare, Weights(weights, path.parent.resolve(), files)


def with_weights(model: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """A copy of a model with the values it leaves out."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for tensor in whole.graph.initializer:
        if is_elsewhere(tensor):
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights.arrays[tensor.name], tensor.name))
    return whole


def open_model(
    model: onnx.ModelProto,
    weights: Weights,
    *,
    optimise: bool = True,
    once: bool = False,
    shapes_first: bool = False,
) -> ort.InferenceSession:
    """Open a session of a model that leaves out weights.

    onnxruntime reads weights from their files for some rewrites. If a file is gone or has changed, the session gets
    copies instead. Options are those of :func:`memcompile.frontend.sessions.open_session`.
    """
    if weights.folder is not None and not weights.in_place:
        model, weights = with_weights(model, weights), NO_WEIGHTS
    data = model.SerializeToString(deterministic=True)
    return open_session(data, optimise=optimise, weights=weights, once=once, shapes_first=shapes_first)


def _large_initializers(model: onnx.ModelProto, path: Path) -> Iterator[onnx.TensorProto]:
    """Initializers of plain numbers that fill at least LARGE_BYTES and that an operator of the graph itself reads."""
    read = {value for node in model.graph.node for value in node.input}
    names = Counter(tensor.name for tensor in model.graph.initializer)
    for tensor in model.graph.initializer:
        size = _plain_bytes(tensor)
        if size < LARGE_BYTES or tensor.name not in read or names[tensor.name] > 1:
            continue
        held = external_bytes(path, tensor.name, _entries(tensor)) if is_elsewhere(tensor) else len(tensor.raw_data)
        if held == size:
            yield tensor


def _plain_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor by its shape, if its numbers are of a type that NumPy has itself; else 0."""
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except KeyError:  # no type that onnx knows
        return 0
    plain = dtype.isbuiltin == 1 and dtype.kind in "fiu" and all(size >= 0 for size in tensor.dims)
    return dtype.itemsize * math.prod(tensor.dims) if plain else 0


def _values(tensor: onnx.TensorProto, path: Path) -> NDArray[Any]:
    """Plain numbers of a tensor; those in a file are read straight into their array."""
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    if not is_elsewhere(tensor):
        return np.frombuffer(tensor.raw_data, dtype).reshape(tensor.dims).astype(dtype.newbyteorder("="))
    entries = _entries(tensor)
    values = np.empty(tuple(tensor.dims), dtype)
    with open(path.parent / entries["location"], "rb", buffering=0) as stream:
        stream.seek(int(entries.get("offset", 0)))
        if stream.readinto(values.reshape(-1).view(np.uint8).data) < values.nbytes:
            raise OSError("the file became shorter while it was read")
    return values.astype(dtype.newbyteorder("="), copy=False)


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    """Location, offset and length that a tensor gives for its values."""
    return {item.key: item.value for item in tensor.external_data}


def _place(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """A tensor without its values."""
    place = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    place.data_location = onnx.TensorProto.EXTERNAL
    if is_elsewhere(tensor):
        place.external_data.extend(tensor.external_data)
    else:
        place.external_data.add(key="location", value=NOWHERE)
    return place


def _without_values(model: onnx.ModelProto, places: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """A copy of a model with only the places of some initializers; the model itself loses all of them."""
    kept = [
        places.get(tensor.name) or onnx.TensorProto.FromString(tensor.SerializeToString())
        for tensor in model.graph.initializer
    ]
    # Protobuf frees memory of a message only with the message, so a new one is made.
    del model.graph.initializer[:]
    bare_model = onnx.ModelProto()
    bare_model.CopyFrom(model)
    bare_model.graph.initializer.extend(kept)
    return bare_model
