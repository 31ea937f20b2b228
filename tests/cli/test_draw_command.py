"""``memcompile draw``: pictures of few and of many arrays, with and without accuracy."""

from __future__ import annotations

import builtins
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest

from memcompile.cli.main import main
from memcompile.errors import UsageError
from memcompile.export.mapping_picture import mapping_figure
from memcompile.pictures import colour_of, picture_of
from memcompile.program.program import Program
from memcompile.report.facts import program_facts


@pytest.fixture
def program() -> Program:
    return factories.two_layer_program(np.random.default_rng(0), factories.make_target())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> Path:
    monkeypatch.chdir(tmp_path)
    program.save(tmp_path / "p.mcp")
    return tmp_path


def pixels(png: bytes) -> Any:
    import matplotlib.image as images  # noqa: PLC0415

    return images.imread(io.BytesIO(png))


def share(image: Any, colour: str) -> float:
    wanted = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return float((np.abs(image[..., :3] - wanted) < 0.01).all(axis=-1).mean())


def test_each_kind_of_picture_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "p.mcp", "--dpi", "40"]) == 0
    assert capsys.readouterr().out.endswith("; drawn in p.png\n")
    for name, begin in (("p.png", b"\x89PNG"), ("p.svg", b"<?xml"), ("p.pdf", b"%PDF")):
        if name != "p.png":
            assert main(["draw", "p.mcp", "-o", name, "--quiet"]) == 0
        assert (folder / name).read_bytes().startswith(begin)
    assert main(["draw", "p.mcp", "-o", "again.svg", "--quiet"]) == 0
    assert (folder / "again.svg").read_bytes() == (folder / "p.svg").read_bytes(), "same program, same bytes"


def test_wrong_endings_and_programs_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "p.mcp", "-o", "p.gif"]) == UsageError.exit_code
    assert "p.gif is no kind of picture; give it one of the endings .png, .svg, .pdf" in capsys.readouterr().err
    assert main(["draw", "absent.mcp"]) != 0
    assert main(["draw", "p.mcp", "-o", "absent/p.png"]) == UsageError.exit_code
    assert {path.name for path in folder.iterdir()} == {"p.mcp"}


def test_without_matplotlib_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return usual(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["draw", "p.mcp"]) == UsageError.exit_code
    assert "memcompile draw needs matplotlib: pip install 'memcompile[plot]'" in capsys.readouterr().err


def test_every_layer_is_seen_on_few_and_on_many_arrays(program: Program) -> None:
    many = factories.two_layer_program(np.random.default_rng(0), factories.make_target(chip={"arrays": 900}))
    for shown in (program, many):
        facts = program_facts(shown)
        image = pixels(picture_of(mapping_figure(shown, facts), 60))
        for number in range(len(shown.layers)):
            assert share(image, colour_of(number)) > 0.0005


def test_segments_and_accuracy_are_drawn_and_described(program: Program) -> None:
    segmented = factories.in_segments(program, (1,), batch=4)
    accuracy = {"float": 0.9, "ideal": 0.9, "emulated_mean": 0.8, "emulated_std": 0.01, "seeds": 2}
    facts = {**program_facts(segmented), "accuracy": accuracy, "data": "digits"}
    figure = mapping_figure(segmented, facts)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "accuracy" in titles
    assert any(title.endswith("first segment") for title in titles)
    png = picture_of(figure, 30, ".png", "what it shows")
    place, found = 8, []
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        body = png[place + 4 : place + 8 + length]
        assert zlib.crc32(body) == struct.unpack_from(">I", png, place + 8 + length)[0]
        found.append(body)
        place += length + 12
    assert b"tEXtDescription\0what it shows" in found
