"""The program file: a zip container without pickle, readable with nothing but zip, JSON and npy.

``program.json`` describes everything and lists every other member with its size and SHA-256; ``layers/N/*.npy`` hold
cell levels, scales, biases and windows, ``tiles.npy`` the tile table [tiles, columns], ``pauses.npy`` the pauses of
tiles, ``digital/N.onnx`` the digital subgraphs, ``constants/N.npy`` the rest, ``chip/conductances_us.npy`` the cells of
a chip that the program was transferred to, and ``calibration/N/*.npy`` the corrections of its lines. Same program, same
bytes: members have a fixed order and time stamp.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from memcompile.atomic import make_atomically
from memcompile.errors import MemcompileError, ProgramError
from memcompile.hardware.target import parse_target
from memcompile.ir.batching import Batching
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import (
    TILE_COLUMNS,
    Certificate,
    Cut,
    MappedLayer,
    Placement,
    Replica,
    Segment,
    TensorType,
    TileTable,
    read_only,
)
from memcompile.ir.quantizers import ExactInput, InputQuantizer
from memcompile.program.line_corrections import Calibration, LineCorrections
from memcompile.program.program import ChipState, DigitalStage, Program, Provenance, Stage
from memcompile.program.schema import CalibrationPart, CrossbarPart, DigitalPart, Document

FORMAT = "memcompile program"
VERSION = 2
MAX_BYTES = 8 * 1024**3
MAX_MEMBERS = 1_000_000
# Whatever the decoders of Python and NumPy raise on damaged members.
_DAMAGE = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    struct.error,
    tokenize.TokenError,
)
_TIME_STAMP = (1980, 1, 1, 0, 0, 0)


def save_program(program: Program, path: Path | str) -> None:
    """Write a program file; the file appears whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    make_atomically(Path(path), lambda stream: _write_program(program, stream))


def encode_program(program: Program) -> bytes:
    """The bytes of a program file."""
    buffer = io.BytesIO()
    _write_program(program, buffer)
    return buffer.getvalue()


def _write_program(program: Program, stream: IO[bytes]) -> None:
    # Encoded when they are needed, first for their digests and then for the archive: together they are large.
    members: dict[str, NDArray[Any] | DigitalStage] = {}

    def put(name: str, array: NDArray[Any] | DigitalStage) -> str:
        members[name] = array
        return name

    stages = [_encode_stage(stage, number, put) for number, stage in enumerate(program.stages)]
    tiles = np.stack([getattr(program.placement.tiles, name) for name in TILE_COLUMNS], axis=1)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "target": program.target.model_dump(),
        "provenance": asdict(program.provenance),
        "inputs": {name: _encode_type(kind) for name, kind in program.inputs.items()},
        "outputs": list(program.outputs),
        "stages": stages,
        "constants": {
            name: put(f"constants/{number}.npy", array)
            for number, (name, array) in enumerate(sorted(program.constants.items()))
        },
        "placement": {
            "chips": program.placement.chips,
            "initiation_interval_steps": program.placement.initiation_interval_steps,
            "latency_steps": program.placement.latency_steps,
            "pipelined_latency_steps": program.placement.pipelined_latency_steps,
            "crossing_values": program.placement.crossing_values,
            "segments": [asdict(segment) for segment in program.placement.segments],
            "batch": program.placement.batch,
            "certificates": [asdict(certificate) for certificate in program.placement.certificates],
            "tile_columns": list(TILE_COLUMNS),
            "tiles": put("tiles.npy", tiles),
            "pauses": put("pauses.npy", program.placement.pauses),
        },
    }
    if program.chip is not None:
        document["chip"] = {
            "seed": program.chip.seed,
            "conductances_us": put("chip/conductances_us.npy", program.chip.conductances_us),
        }
    if program.calibration is not None:
        document["calibration"] = {
            "seed": program.calibration.seed,
            "layers": [
                {
                    "gain": put(f"calibration/{number}/gain.npy", corrections.gain),
                    "offset": put(f"calibration/{number}/offset.npy", corrections.offset),
                }
                for number, corrections in enumerate(program.calibration.layers)
            ],
        }
    if program.layout is not None:
        document["layout"] = asdict(program.layout)
    document["members"] = {name: _facts(_encoded(item)) for name, item in members.items()}
    encoder = json.JSONEncoder(indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with zipfile.ZipFile(stream, "w") as archive:
        # Piece by piece: the text of a network of ten thousand layers takes tens of megabytes.
        with archive.open(_member("program.json"), "w") as binary, io.TextIOWrapper(binary, "utf-8") as text:
            text.writelines(encoder.iterencode(document))
        for name, item in members.items():
            archive.writestr(_member(name), _encoded(item))


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _TIME_STAMP)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _encoded(item: NDArray[Any] | DigitalStage) -> bytes:
    return item.model if isinstance(item, DigitalStage) else _encode_array(item)


def _encode_array(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    return buffer.getvalue()


def _facts(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _encode_type(kind: TensorType) -> dict[str, Any]:
    return {"dtype": kind.dtype, "shape": list(kind.shape)}


def _encode_stage(stage: Stage, number: int, put: Callable[[str, NDArray[Any] | DigitalStage], str]) -> dict[str, Any]:
    common = {"name": stage.name, "inputs": list(stage.inputs), "outputs": list(stage.outputs)}
    if isinstance(stage, DigitalStage):
        return {**common, "kind": "digital", "model": put(f"digital/{number}.onnx", stage)}
    folder = f"layers/{number}"
    return {
        **common,
        "kind": "crossbar",
        "dtype": stage.dtype,
        "geometry": asdict(stage.geometry),
        "quantizer": asdict(stage.quantizer) if isinstance(stage.quantizer, InputQuantizer) else None,
        "base": stage.base,
        "cells": put(f"{folder}/cells.npy", stage.cells),
        "scale": put(f"{folder}/scale.npy", stage.scale),
        "bias": put(f"{folder}/bias.npy", stage.bias),
        "replicas": [
            {
                "window": list(replica.unrolling.window),
                "bundle": replica.unrolling.bundle,
                "row_cuts": list(replica.cut.rows),
                "column_cuts": list(replica.cut.columns),
                "windows": put(f"{folder}/windows_{copy}.npy", replica.windows),
            }
            for copy, replica in enumerate(stage.replicas)
        ],
        "range_share": stage.range_share,
        **_encode_sharing(stage),
    }


def _encode_sharing(stage: MappedLayer) -> dict[str, Any]:
    """Fields of a layer that shares cells."""
    if not stage.shares_with:
        return {}
    return {"shares_with": stage.shares_with, "shared_replicas": [replica.number for replica in stage.replicas]}


def load_program(path: Path | str) -> Program:
    """Read a program file.

    Raises
    ------
    ProgramError
        The file is missing, is no program, is damaged, or another version wrote it.
    """
    return _load(Path(path), path)


def decode_program(data: bytes, where: str) -> Program:
    """Read a program from the bytes of a program file; ``where`` names it in messages.

    Raises
    ------
    ProgramError
        As :func:`load_program`.
    """
    return _load(io.BytesIO(data), where)


def _load(source: Path | IO[bytes], path: Path | str) -> Program:
    try:
        with zipfile.ZipFile(source) as archive:
            document, members = _read_members(archive, path)
        return _decode(document, members)
    except MemcompileError:
        raise
    except FileNotFoundError as error:
        raise ProgramError(
            f"program {path} does not exist; compile one with `memcompile MODEL.onnx -o {path}`"
        ) from error
    except OSError as error:
        raise ProgramError(f"program {path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ProgramError(
            f"program {path} is damaged or no program file ({error}); compile the model again"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ProgramError(
            f"program {path} does not hold what a program of version {VERSION} must hold "
            f"(program.json, {'.'.join(map(str, first['loc']))}: {first['msg']}); compile the model again"
        ) from error
    except _DAMAGE as error:
        raise ProgramError(
            f"program {path} does not hold what a program of version {VERSION} must hold "
            f"({type(error).__name__}: {error}); compile the model again"
        ) from error


def _read_members(archive: zipfile.ZipFile, path: Path | str) -> tuple[Document, dict[str, bytes]]:
    infos = archive.infolist()
    declared = sum(info.file_size for info in infos)
    if declared > MAX_BYTES or len(infos) > MAX_MEMBERS:
        raise ProgramError(
            f"program {path} declares {declared} bytes in {len(infos)} members; "
            f"the limits are {MAX_BYTES} bytes and {MAX_MEMBERS} members"
        )
    if "program.json" not in archive.namelist():
        raise ProgramError(f"{path} is a zip file without program.json, so no memcompile program")
    text = _read(archive, "program.json")
    head = json.loads(text)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ProgramError(f"{path} is a zip file but not a {FORMAT}")
    if head.get("version") != VERSION:
        raise ProgramError(
            f"program {path} has file version {head.get('version')!r}, this memcompile reads version {VERSION}; "
            "compile the model again"
        )
    document = Document.model_validate_json(text)
    members = {}
    for name, facts in document.members.items():
        if name not in archive.namelist():
            raise ProgramError(f"program {path} lacks its member {name}; compile the model again")
        data = _read(archive, name)
        if len(data) != facts.bytes or hashlib.sha256(data).hexdigest() != facts.sha256:
            raise ProgramError(f"program {path} is damaged: {name} does not match its digest; compile the model again")
        members[name] = data
    return document, members


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a member, never more bytes than it declares."""
    size = archive.getinfo(name).file_size
    with archive.open(name) as stream:
        return stream.read(size)


def _decode(document: Document, members: Mapping[str, bytes]) -> Program:
    def get(name: str) -> NDArray[Any]:
        return read_only(
            np.lib.format.read_array(io.BytesIO(members[name]), allow_pickle=False, max_header_size=10_000)
        )

    placement = document.placement
    if placement.tile_columns != TILE_COLUMNS:
        raise ProgramError(
            f"the program's tile table has columns {list(placement.tile_columns)}, expected {list(TILE_COLUMNS)}"
        )
    table = get(placement.tiles)
    if table.ndim != 2 or table.shape[1] != len(TILE_COLUMNS) or table.dtype != np.int32:
        raise ProgramError(
            f"the program's tile table is {table.dtype} {table.shape}, expected int32 [tiles, {len(TILE_COLUMNS)}]"
        )
    pauses = get(placement.pauses)
    if pauses.ndim != 2 or pauses.shape[1] != 3 or pauses.dtype != np.int32:
        raise ProgramError(f"the program's pauses are {pauses.dtype} {pauses.shape}, expected int32 [pauses, 3]")
    return Program(
        target=parse_target(document.target, "in the program file"),
        inputs={name: TensorType(kind.dtype, kind.shape) for name, kind in document.inputs.items()},
        outputs=document.outputs,
        stages=tuple(_decode_stage(stage, get, members) for stage in document.stages),
        constants={name: get(member) for name, member in document.constants.items()},
        placement=Placement(
            chips=placement.chips,
            tiles=TileTable(**{name: read_only(table[:, i]) for i, name in enumerate(TILE_COLUMNS)}),
            certificates=tuple(Certificate(**dict(certificate)) for certificate in placement.certificates),
            initiation_interval_steps=placement.initiation_interval_steps,
            latency_steps=placement.latency_steps,
            pipelined_latency_steps=placement.pipelined_latency_steps,
            pauses=pauses,
            crossing_values=placement.crossing_values,
            segments=tuple(Segment(**dict(segment)) for segment in placement.segments),
            batch=placement.batch,
        ),
        provenance=Provenance(**dict(document.provenance)),
        chip=None if document.chip is None else ChipState(get(document.chip.conductances_us), document.chip.seed),
        calibration=None if document.calibration is None else _decode_calibration(document.calibration, get),
        layout=None if document.layout is None else Batching(**dict(document.layout)),
    )


def _decode_calibration(part: CalibrationPart, get: Callable[[str], NDArray[Any]]) -> Calibration:
    layers = (LineCorrections(get(corrections.gain), get(corrections.offset)) for corrections in part.layers)
    return Calibration(part.seed, tuple(layers))


def _decode_stage(
    stage: CrossbarPart | DigitalPart, get: Callable[[str], NDArray[Any]], members: Mapping[str, bytes]
) -> Stage:
    if isinstance(stage, DigitalPart):
        return DigitalStage(stage.name, stage.inputs, stage.outputs, members[stage.model])
    geometry = Geometry(**dict(stage.geometry))
    numbers = stage.shared_replicas or (0,) * len(stage.replicas)
    return MappedLayer(
        name=stage.name,
        inputs=stage.inputs,
        outputs=stage.outputs,
        dtype=stage.dtype,
        geometry=geometry,
        quantizer=ExactInput() if stage.quantizer is None else InputQuantizer(**dict(stage.quantizer)),
        base=stage.base,
        cells=get(stage.cells),
        scale=get(stage.scale),
        bias=get(stage.bias),
        replicas=tuple(
            Replica(
                Unrolling(geometry, replica.window, replica.bundle),
                Cut(replica.row_cuts, replica.column_cuts),
                get(replica.windows),
                number,
            )
            for replica, number in zip(stage.replicas, numbers, strict=True)
        ),
        range_share=stage.range_share,
        shares_with=stage.shares_with,
    )
