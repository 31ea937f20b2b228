"""The program file: same bytes, nothing lost, and no damage goes unnoticed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
import stages
from factories import make_program, random_layer, two_layer_program
from program_members import pack, signed, unpack

from memcompile import atomic
from memcompile.errors import MemcompileError, OutputError, ProgramError
from memcompile.hardware.target import load_target
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import TensorType
from memcompile.pipelines import emit_program
from memcompile.program import file
from memcompile.program.file import VERSION, decode_program, encode_program, load_program, save_program
from memcompile.program.program import ChipState, Program, Provenance
from memcompile.runtime.emulator import Emulator
from memcompile.verify.verifier import verify_program

FEEDS = {"x": models.images((4, 2, 6, 6))}


def compiled(slices: int = 1) -> Program:
    graph = stages.after("schedule", models.conv_bn(), FEEDS, slices=slices)
    options: dict[str, str | int | float | bool | None] = {"chips": None, "seed": 3, "settings": "", "share": 0.5}
    provenance = Provenance("conv_bn.onnx", "a" * 64, "1.2.3", options, ("a note", "another"))
    return emit_program(graph, stages.context_for(FEEDS, slices=slices), provenance)


@pytest.fixture(scope="module")
def program() -> Program:
    return compiled()


@pytest.fixture(scope="module")
def data(program: Program) -> bytes:
    return encode_program(program)


def assert_same(first: Any, second: Any, where: str = "program") -> None:
    """Equality of everything, arrays and bytes included."""
    assert type(first) is type(second) or (hasattr(first, "items") and hasattr(second, "items")), where
    if isinstance(first, np.ndarray):
        assert first.dtype == second.dtype, where
        assert np.array_equal(first, second), where
    elif is_dataclass(first):
        for field in fields(first):
            assert_same(getattr(first, field.name), getattr(second, field.name), f"{where}.{field.name}")
    elif hasattr(first, "items"):
        assert list(first) == list(second), where
        for key in first:
            assert_same(first[key], second[key], f"{where}[{key!r}]")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for number, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{where}[{number}]")
    else:
        assert first == second, where


# --- contents ----------------------------------------------------------------------------------


def test_same_program_same_bytes(data: bytes) -> None:
    assert encode_program(compiled()) == data


def test_reading_and_writing_again_gives_the_same_bytes(data: bytes) -> None:
    assert encode_program(decode_program(data, "test")) == data


@pytest.mark.parametrize("slices", [1, 3])
def test_everything_comes_back(slices: int, tmp_path: Path) -> None:
    program = compiled(slices)
    save_program(program, tmp_path / "p.mcp")
    assert_same(program, verify_program(load_program(tmp_path / "p.mcp")))


def test_constants_and_odd_names_come_back(tmp_path: Path) -> None:
    """Names from other people's models are data, never paths."""
    rng = np.random.default_rng(0)
    target = load_target("yao2020")
    layer = random_layer(rng, Geometry(3, 2, layout="channels_last"), target, name="../../ä\n ")
    constants = {"../k": np.array(2.5, np.float32), "": np.array([], np.int64), "t": np.array([[True, False]])}
    inputs = {"x": TensorType("float32", (None, 1, 3))}
    program = make_program(rng, [layer], target, inputs, ("y", "../k"), constants)
    save_program(program, tmp_path / "p.mcp")
    loaded = load_program(tmp_path / "p.mcp")
    assert loaded.layers[0].name == "../../ä\n "
    assert_same(dict(sorted(constants.items())), dict(loaded.constants))


def test_a_programmed_chip_comes_back(program: Program) -> None:
    arrays = int(program.placement.tiles.array.max()) + 1
    conductances = np.random.default_rng(1).uniform(2, 20, (arrays, 16, 128)).astype(np.float32)
    with_chip = stages.replaced(program, chip=ChipState(conductances, 7))
    assert_same(with_chip, verify_program(decode_program(encode_program(with_chip), "test")))


def test_the_loaded_program_computes_the_same(program: Program, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")  # the results are the same, and nothing has to be compiled
    loaded = decode_program(data, "test")
    for seed in (0, 5):
        want = Emulator(program, seed).run(FEEDS)["y"]
        assert np.array_equal(Emulator(loaded, seed).run(FEEDS)["y"], want)


def test_readable_with_zip_json_and_numpy_alone(program: Program, data: bytes) -> None:
    """Rebuild the first layer's conductance levels and where they sit, without memcompile."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        document = json.loads(archive.read("program.json"))
        arrays = {
            name: np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
            for name in archive.namelist()
            if name.endswith(".npy")
        }
        assert set(archive.namelist()) == {"program.json", *document["members"]}
        for name, facts in document["members"].items():
            content = archive.read(name)
            assert (len(content), hashlib.sha256(content).hexdigest()) == (facts["bytes"], facts["sha256"])
    assert (document["format"], document["version"]) == ("memcompile program", VERSION)
    stage = document["stages"][0]
    assert np.array_equal(arrays[stage["cells"]], program.layers[0].cells)
    assert document["target"]["array"]["input_lines"] == 16
    table = arrays[document["placement"]["tiles"]]
    column = document["placement"]["tile_columns"].index("output_line")
    assert np.array_equal(table[:, column], program.placement.tiles.output_line)
    assert [entry["quantity"] for entry in document["placement"]["certificates"]]
    assert document["provenance"]["model_sha256"] == "a" * 64


# --- damage ------------------------------------------------------------------------------------


def refused(data: bytes) -> str:
    """The message with which a file is refused."""
    with pytest.raises(ProgramError) as error:
        verify_program(decode_program(data, "FILE"))
    return str(error.value)


def test_every_damaged_byte_is_noticed_or_harmless(program: Program, data: bytes) -> None:
    """Flipping one bit in any of 400 places: an error, or (in unused fields of the zip) the same program."""
    rng = np.random.default_rng(2)
    noticed = 0
    for place in rng.choice(len(data), 400, replace=False):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        try:
            loaded = verify_program(decode_program(bytes(damaged), "FILE"))
        except ProgramError:
            noticed += 1
        else:
            assert_same(program, loaded)
    assert noticed > 300


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.95, 0.9999])
def test_truncated(data: bytes, share: float) -> None:
    assert "damaged or no program file" in refused(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "content", [b"", b"not a zip", b"PK\x03\x04", bytes(1000)], ids=["empty", "text", "magic", "zeros"]
)
def test_no_zip_file(content: bytes) -> None:
    assert "damaged or no program file" in refused(content)


def test_a_zip_file_of_something_else(data: bytes) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "without program.json" in refused(buffer.getvalue())
    assert "not a memcompile program" in refused(pack({"format": "another"}, {}))
    assert "not a memcompile program" in refused(pack([1, 2], {}))


@pytest.mark.parametrize(
    "text",
    ["{", "", b"\xff\xfe", "[" * 100_000, '{"a": NaN}'],
    ids=["cut", "empty", "not UTF-8", "deep", "NaN"],
)
def test_description_that_is_no_json(text: str | bytes) -> None:
    refused(pack(text, {}))


@pytest.mark.parametrize("version", [0, VERSION + 1, "1", None, 1.5])
def test_another_version(data: bytes, version: object) -> None:
    document, members = unpack(data)
    message = refused(pack({**document, "version": version}, members))
    assert f"version {version!r}" in message
    assert f"reads version {VERSION}" in message


def test_every_missing_member_is_named(data: bytes) -> None:
    document, members = unpack(data)
    for name in members:
        assert f"lacks its member {name}" in refused(pack(document, {k: v for k, v in members.items() if k != name}))


def test_every_exchanged_member_is_named(data: bytes) -> None:
    document, members = unpack(data)
    for name in members:
        assert f"{name} does not match its digest" in refused(pack(document, {**members, name: b"something else"}))


def test_declared_size_beyond_the_limit_is_refused_before_reading(data: bytes) -> None:
    """A zip bomb: the central directory declares 64 GiB (sizes of 4 GiB less 2 each)."""
    document, members = unpack(data)
    bomb = bytearray(pack(document, {**members, **{f"m{number}": b"" for number in range(16)}}))
    place = bomb.find(b"PK\x01\x02")
    while place >= 0:
        struct.pack_into("<I", bomb, place + 24, 0xFFFFFFFE)
        place = bomb.find(b"PK\x01\x02", place + 1)
    assert "the limits are" in refused(bytes(bomb))


def test_more_content_than_declared_is_not_read(data: bytes) -> None:
    """The size in the directory is the most that is ever unpacked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("program.json", json.dumps(unpack(data)[0]) + " " * 50_000_000)
    bomb = bytearray(buffer.getvalue())
    for marker, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", bomb, bomb.find(marker) + offset, 100)
    refused(bytes(bomb))


def pickled_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    return buffer.getvalue()


def test_pickled_arrays_are_refused(data: bytes) -> None:
    document, members = unpack(data)
    for name in members:
        if name.endswith(".npy"):
            assert "allow_pickle" in refused(signed(document, {**members, name: pickled_array()}))


@pytest.mark.parametrize("form", ["initializer", "attribute"])
@pytest.mark.parametrize("place", ["beside.bin", "/etc/hostname", "../beside.bin"])
def test_digital_stages_name_no_files(data: bytes, form: str, place: str) -> None:
    document, members = unpack(data)
    name = next(name for name in members if name.endswith(".onnx"))
    model = onnx.ModelProto.FromString(members[name])
    tensor = onnx.TensorProto(name="outside", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.external_data.add(key="location", value=place)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    if form == "initializer":
        model.graph.initializer.append(tensor)
    else:
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["outside"], value=tensor))
    members[name] = model.SerializeToString()
    with pytest.raises(ProgramError, match="has tensor 'outside' in a file, and a program holds all it needs"):
        verify_program(decode_program(signed(document, members), "FILE"))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def piled(table: np.ndarray) -> np.ndarray:
    table = table.copy()
    table[:, 8:11] = 0
    return table


TAMPERED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "two tiles in one place": (piled, "no-overlap"),
    "a tile outside": (lambda table: table + np.array([0] * 9 + [16] + [0] * 5, np.int32), "tile-inside-array"),
    "a tile left out": (lambda table: table[:-1], "every-tile-once"),
    "not placed": (lambda table: np.where(np.arange(15) == 8, -1, table).astype(np.int32), "placed-and-scheduled"),
    "all at once": (lambda table: np.where(np.arange(15) >= 11, 0, table).astype(np.int32), "one-tile-a-step"),
    "too few columns": (lambda table: table[:, :-1], "expected int32"),
    "no whole numbers": (lambda table: table.astype(np.float32), "expected int32"),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_a_tampered_tile_table_is_refused(data: bytes, change: str) -> None:
    document, members = unpack(data)
    alter, expected = TAMPERED[change]
    table = np.load(io.BytesIO(members["tiles.npy"]))
    assert expected in refused(signed(document, {**members, "tiles.npy": npy(alter(table))}))


JUNK: list[object] = [None, True, -1, 0, 3, 10**30, 0.5, "", "x", [], [0], ["x"], {}, {"a": 1}, [[1]]]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a JSON document, containers included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, item in inner for found in leaves(item, (*path, key))]


def test_junk_anywhere_in_the_description_is_refused_or_harmless(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a wrong hand writes into program.json, the answer is one error message or a program.

    Digests of members are covered by the tests above; they are not computed again for each change.
    """
    document, members = unpack(data)
    read = file._read_members

    def with_members(archive: zipfile.ZipFile, path: Path | str) -> tuple[Any, dict[str, bytes]]:
        described, _ = read(archive, path)
        return described, members

    monkeypatch.setattr(file, "_read_members", with_members)
    text = json.dumps({**document, "members": {}})
    surprises, seen = [], set()
    for path in leaves(document):
        kind = tuple(key if isinstance(key, str) else 0 for key in path)
        if kind in seen or path[0] == "members":
            continue  # one of each list; sizes and digests are covered by the tests above
        seen.add(kind)
        for junk in JUNK:
            changed = json.loads(text)
            spot = changed
            for key in path[:-1]:
                spot = spot[key]
            spot[path[-1]] = junk
            try:
                verify_program(decode_program(pack(changed, {}), "FILE"))
            except MemcompileError:
                pass
            except Exception as error:  # what users must never see
                surprises.append((path, junk, repr(error)))
    assert len(seen) > 90
    assert not surprises, "\n".join(map(str, surprises[:40]))


# --- the file itself ---------------------------------------------------------------------------


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"nothing\.mcp does not exist; compile one with"):
        load_program(tmp_path / "nothing.mcp")
    with pytest.raises(ProgramError, match="cannot be read"):
        load_program(tmp_path)


def test_the_file_has_ordinary_permissions(program: Program, tmp_path: Path) -> None:
    save_program(program, tmp_path / "p.mcp")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "p.mcp").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("parent", ["file", "missing"])
def test_a_place_that_cannot_be_written(program: Program, tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="cannot be written"):
        save_program(program, tmp_path / parent / "p.mcp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupted_write_keeps_the_old_file(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "p.mcp"
    path.write_bytes(b"old")

    def fail(*args: object) -> None:
        assert len(list(tmp_path.iterdir())) == 2, "the new file is under way"
        raise error

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises((OutputError, KeyboardInterrupt, SystemExit)):
        save_program(program, path)
    assert [item.name for item in tmp_path.iterdir()] == ["p.mcp"]
    assert path.read_bytes() == b"old"


def test_a_new_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "p.mcp"
    rng = np.random.default_rng(3)
    save_program(two_layer_program(rng, load_target("yao2020")), path)
    program = two_layer_program(rng, load_target("yao2020"))
    save_program(program, path)
    assert_same(program, load_program(path))
    assert os.listdir(tmp_path) == ["p.mcp"]
