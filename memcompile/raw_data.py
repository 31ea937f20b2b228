"""Where a model file holds the numbers of its initializers.

onnxruntime takes weights in place only where the model says in which file they are, and some of its graph
rewrites read them there. So the places must be true, down to the byte; protobuf does not tell them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Numbers of the fields on the way, and protobuf's wire types.
GRAPH, INITIALIZER, NAME, RAW_DATA = 7, 5, 8, 9
VARINT, FIXED_64, LENGTH, FIXED_32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Span:
    """Bytes of a file: where they begin, and how many there are."""

    offset: int
    length: int


class _UnknownLayoutError(Exception):
    """The bytes are not laid out as any exporter does it."""


def raw_data_spans(data: bytes) -> dict[str, Span]:
    """Where the ``raw_data`` of each initializer of the main graph lies in a serialised model, by name.

    Empty where the layout is unusual, such as a graph in several pieces, which protobuf would join.
    """
    try:
        graphs = [span for field, span in _fields(data, Span(0, len(data))) if field == GRAPH]
        if len(graphs) != 1:
            return {}
        spans: dict[str, Span] = {}
        for field, span in _fields(data, graphs[0]):
            if field != INITIALIZER:
                continue
            parts = dict(_fields(data, span))
            if NAME not in parts or RAW_DATA not in parts:
                continue
            name = data[parts[NAME].offset : parts[NAME].offset + parts[NAME].length].decode()
            spans[name] = parts[RAW_DATA]
    except (_UnknownLayoutError, UnicodeDecodeError):
        return {}
    return spans


def _fields(data: bytes, message: Span) -> Iterator[tuple[int, Span]]:
    """Fields with a length of a message: their numbers, and the bytes of their values."""
    at, end = message.offset, message.offset + message.length
    while at < end:
        key, at = _varint(data, at, end)
        kind = key & 7
        if kind == VARINT:
            _, at = _varint(data, at, end)
        elif kind == FIXED_64:
            at += 8
        elif kind == FIXED_32:
            at += 4
        elif kind == LENGTH:
            length, at = _varint(data, at, end)
            yield key >> 3, Span(at, length)
            at += length
        else:
            raise _UnknownLayoutError
    if at != end:
        raise _UnknownLayoutError


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value, shift = 0, 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise _UnknownLayoutError
