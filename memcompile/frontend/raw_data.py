"""Leaves large initializers out of a model file as it is read, and refers to their place in the file instead.

Protobuf copies what it holds again and again, and frees memory only with the whole message. onnxruntime takes weights
in place only where the model says in which file they are, and some of its graph rewrites read them there. So
initializers become external data of the model's own file, at their true offsets; protobuf does not report those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, NamedTuple

# Numbers of the fields on the way, and protobuf's wire types.
GRAPH, INITIALIZER, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 7, 5, 9, 13, 14
KEY, VALUE = 1, 2
VARINT, FIXED_64, LENGTH, FIXED_32 = 0, 1, 2, 5
EXTERNAL = 1
WINDOW_BYTES = 1 << 16


class FileBytes:
    """A file as a sequence of bytes of which only a window is in memory."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._size = size
        self._begin, self._window = 0, b""

    def __len__(self) -> int:
        return self._size

    def byte(self, at: int) -> int:
        """One byte."""
        if not self._begin <= at < self._begin + len(self._window):
            self._begin, self._window = at, self.part(at, min(at + WINDOW_BYTES, self._size))
        return self._window[at - self._begin]

    def part(self, begin: int, end: int) -> bytes:
        """Bytes ``begin`` to ``end``.

        Raises
        ------
        OSError
            The file cannot be read, or has become shorter.
        """
        self._stream.seek(begin)
        data = self._stream.read(end - begin)
        if len(data) < end - begin:
            raise OSError("it became shorter while it was read")
        return data


class _Field(NamedTuple):
    """A field of a message: where it begins, and where its value begins and ends."""

    number: int
    kind: int
    begin: int
    value: int
    end: int


class _UnknownLayoutError(Exception):
    """The bytes are laid out in a way that no exporter uses."""


def with_places(data: FileBytes, least_bytes: int, location: str) -> bytes | None:
    """A serialised model whose initializers from ``least_bytes`` on are external data in its own file ``location``.

    None where there are none, or the layout is unusual, such as a graph in several pieces, which protobuf would join.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    try:
        graphs = [field for field in _fields(data, 0, len(data)) if (field.number, field.kind) == (GRAPH, LENGTH)]
        if len(graphs) != 1:
            return None
        pieces, kept = [], graphs[0].value
        for field in _fields(data, graphs[0].value, graphs[0].end):
            short = _short(data, field, least_bytes, location)
            if short is not None:
                pieces += [data.part(kept, field.begin), _encoded(INITIALIZER, short)]
                kept = field.end
    except _UnknownLayoutError:
        return None
    if not pieces:
        return None
    graph = b"".join([*pieces, data.part(kept, graphs[0].end)])
    return data.part(0, graphs[0].begin) + _encoded(GRAPH, graph) + data.part(graphs[0].end, len(data))


def _short(data: FileBytes, tensor: _Field, least_bytes: int, location: str) -> bytes | None:
    """An initializer with the place of its raw data; None where it stays as it is."""
    if (tensor.number, tensor.kind) != (INITIALIZER, LENGTH) or tensor.end - tensor.value < least_bytes:
        return None
    fields = list(_fields(data, tensor.value, tensor.end))
    raw = [field for field in fields if (field.number, field.kind) == (RAW_DATA, LENGTH)]
    if len(raw) != 1 or raw[0].end - raw[0].value < least_bytes:
        return None
    if any(field.number in (EXTERNAL_DATA, DATA_LOCATION) for field in fields):
        return None
    facts = {"location": location, "offset": str(raw[0].value), "length": str(raw[0].end - raw[0].value)}
    entries = [_encoded(KEY, key.encode()) + _encoded(VALUE, value.encode()) for key, value in facts.items()]
    return b"".join(
        [
            data.part(tensor.value, raw[0].begin),
            data.part(raw[0].end, tensor.end),
            *(_encoded(EXTERNAL_DATA, entry) for entry in entries),
            bytes([DATA_LOCATION << 3 | VARINT, EXTERNAL]),
        ]
    )


def _encoded(number: int, value: bytes) -> bytes:
    """A field of a message."""
    length, size = len(value), b""
    while length >= 0x80:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | LENGTH]) + size + bytes([length]) + value


def _fields(data: FileBytes, at: int, end: int) -> Iterator[_Field]:
    """Fields of the message from ``at`` to ``end``."""
    while at < end:
        begin = at
        key, at = _varint(data, at, end)
        kind, value = key & 7, at
        if kind == VARINT:
            _, at = _varint(data, at, end)
        elif kind == FIXED_64:
            at += 8
        elif kind == FIXED_32:
            at += 4
        elif kind == LENGTH:
            length, value = _varint(data, at, end)
            at = value + length
        else:
            raise _UnknownLayoutError
        if at > end:
            raise _UnknownLayoutError
        yield _Field(key >> 3, kind, begin, value, at)


def _varint(data: FileBytes, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    number, shift = 0, 0
    while at < end and shift < 64:
        byte = data.byte(at)
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    raise _UnknownLayoutError
