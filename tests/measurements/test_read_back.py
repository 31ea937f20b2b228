"""Programs on conductances read back from a chip, and the list that such a chip is programmed with."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import models
import numpy as np
import pytest

from memcompile.cli.console import write_npz
from memcompile.cli.main import main
from memcompile.errors import MemcompileError
from memcompile.export.conductances import conductance_arrays, programming_list
from memcompile.hardware.target import load_target
from memcompile.measurements.read_back import read_back
from memcompile.pipelines import compile_model
from memcompile.program.file import save_program
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.training.transfer import transfer

SHAPE = models.SMALL["conv_bn"][1]


@cache
def program_on(target: str) -> Program:
    model = models.SMALL["conv_bn"][0]()
    images = {"x": models.images((12, *SHAPE), seed=3)}
    hardware = load_target(target)
    if target == "neurram":  # with fewer cells
        hardware = hardware.with_(array__input_lines=32, array__output_lines=32)
    return compile_model(model, hardware, data=images, settings=("replicate.effort=fast",)).program


def listed(program: Program, values: np.ndarray, path: Path) -> Path:
    """The programming list with a column of measured values beside it."""
    rows = list(csv.DictReader(programming_list(program)))
    axes = ["array", "input_line", "output_line", "polarity"][: values.ndim]
    for row in rows:
        row["measured_us"] = repr(float(values[tuple(int(row[axis]) for axis in axes)]))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("target", ["yao2020", "neurram"])
def test_program_computes_with_the_cells_that_were_read(target: str, tmp_path: Path) -> None:
    """A chip that was transferred, written to files of both kinds and read back, gives the same bits."""
    program = program_on(target)
    chip, _ = transfer(program, 5)
    assert chip.chip is not None
    plain = conductance_arrays(program)["conductances_us"]
    cells = chip.chip.conductances_us.reshape(plain.shape)
    x = models.images((4, *SHAPE), seed=4)
    quiet = Effects(stuck_cells=False, dead_lines=False)
    expected = Emulator(chip, 5, effects=quiet).run(x)
    write_npz(tmp_path / "read.npz", {"conductances_us": cells})
    found = Emulator(read_back(program, tmp_path / "read.npz", 5), 5).run(x)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    # A list has no cells but those of weights; the others are at the lowest conductance.
    held = np.full(plain.shape, program.target.cell.g_min_us, np.float32)
    for row in csv.DictReader(programming_list(program)):
        place = tuple(int(row[axis]) for axis in ("array", "input_line", "output_line", "polarity")[: plain.ndim])
        held[place] = cells[place]
    write_npz(tmp_path / "held.npz", {"conductances_us": held})
    of_list = read_back(program, listed(program, cells, tmp_path / "read.csv"), 5)
    of_arrays = read_back(program, tmp_path / "held.npz", 5)
    assert of_list.chip is not None
    assert of_arrays.chip is not None
    assert np.array_equal(of_list.chip.conductances_us, of_arrays.chip.conductances_us)


def test_lists_of_spreadsheets_are_read_like_those_of_the_export(tmp_path: Path) -> None:
    """Semicolons with decimal commas, comments, and rows of empty cells."""
    program = program_on("yao2020")
    cells = conductance_arrays(program)["conductances_us"]
    plain = listed(program, cells, tmp_path / "plain.csv")
    rows = csv.reader(plain.read_text(encoding="utf-8").splitlines())
    lines = [";".join(entry.replace(".", ",") for entry in row) for row in rows]
    (tmp_path / "sheet.csv").write_text("\n".join(["# chip 7", *lines, ";" * 8, "# end"]) + "\n", encoding="utf-8")
    found, expected = (read_back(program, tmp_path / name, 5).chip for name in ("sheet.csv", "plain.csv"))
    assert found is not None
    assert expected is not None
    assert np.array_equal(found.conductances_us, expected.conductances_us)


def test_measured_faults_and_noise_are_not_drawn_again(tmp_path: Path) -> None:
    program = program_on("yao2020")
    write_npz(tmp_path / "a.npz", {"conductances_us": conductance_arrays(program)["conductances_us"]})
    target = load_target("yao2020").with_(
        faults__stuck_low_share=0.5,
        faults__dead_input_line_share=0.5,
        flicker_noise={"share_table": [[1.0, 0.5]], "read_s": 1e-6, "first_read_s": 1.0},
        read_noise__sigma_us=0.0,
    )
    measured = read_back(replace(program, target=target), tmp_path / "a.npz", 1)
    x = models.images((4, *SHAPE), seed=4)
    ideal = Emulator(program, 1, effects=Effects(**{**vars(Effects.none()), "adc": True})).run(x)
    found = Emulator(measured, 1).run(x)
    assert all(np.array_equal(found[name], ideal[name]) for name in ideal)
    aged = read_back(replace(program, target=target), tmp_path / "a.npz", 1, aged=True)
    assert aged.target.flicker_noise is not None


def test_list_has_every_cell_of_a_weight_with_its_goal(tmp_path: Path) -> None:
    program = program_on("neurram")
    rows = list(csv.DictReader(programming_list(program)))
    arrays = conductance_arrays(program)
    assert len(rows) == len(arrays["index"])
    columns = arrays["index_columns"].tolist()
    for row, entry in list(zip(rows, arrays["index"].tolist(), strict=True))[::37]:
        of = dict(zip(columns, entry, strict=True))
        assert row["layer"] == str(arrays["layers"][of["layer"]])
        assert all(int(row[name]) == of[name] for name in ("weight", "slice", "polarity", "array", "level"))
        place = of["array"], of["input_line"], of["output_line"], of["polarity"]
        assert float(row["target_us"]) == pytest.approx(float(arrays["conductances_us"][place]), rel=1e-5)


def of_values(
    change: Callable[[np.ndarray], np.ndarray], key: str = "conductances_us"
) -> Callable[[Program, Path], Path]:
    def write(program: Program, folder: Path) -> Path:
        write_npz(folder / "w.npz", {key: change(conductance_arrays(program)["conductances_us"].copy())})
        return folder / "w.npz"

    return write


def of_list(change: Callable[[list[str]], list[str]]) -> Callable[[Program, Path], Path]:
    def write(program: Program, folder: Path) -> Path:
        lines = change([line.replace("target_us", "measured_us") for line in programming_list(program)])
        (folder / "w.csv").write_text("\n".join(lines), encoding="utf-8")
        return folder / "w.csv"

    return write


def negative(values: np.ndarray) -> np.ndarray:
    values[0, 1, 2] = -1.0
    return values


WRONG: dict[str, Callable[[Program, Path], Path]] = {
    "has no array 'conductances_us', but other": of_values(lambda values: values, "other"),
    "but the program has": of_values(lambda values: values[:, :-1]),
    "conductances_us[0, 1, 2] is -1; conductances are from 0": of_values(negative),
    "has no column 'measured_us'": of_list(lambda lines: [line.replace("measured_us", "m") for line in lines]),
    "has no column 'array'": of_list(lambda lines: [lines[0].replace("array", "a"), *lines[1:]]),
    "this cell is in the list twice": of_list(lambda lines: [*lines, lines[1]]),
    "lacks the cell at array": of_list(lambda lines: lines[:-1]),
    "line 2, column 'array': 'x' is not a number from 0 to": of_list(lambda lines: [lines[0], "x" + lines[1][1:]]),
    "line 2, column 'measured_us': '' is not a number": of_list(lambda lines: [lines[0], "0,0,0,0,,a,0,0,0"]),
    "line 2, column 'measured_us': 1e9 uS is out of range": of_list(lambda lines: [lines[0], "0,0,0,0,1e9,a,0,0,0"]),
    "cannot be read": lambda program, folder: folder / "none.csv",
    "cannot be read as a NumPy .npz archive": lambda program, folder: Path(__file__),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_named(message: str, tmp_path: Path) -> None:
    program = program_on("yao2020")
    with pytest.raises(MemcompileError) as error:
        read_back(program, WRONG[message](program, tmp_path), 0)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_programs_that_cannot_be_read_back(tmp_path: Path) -> None:
    program = program_on("yao2020")
    chip, _ = transfer(program, 1)
    with pytest.raises(MemcompileError, match="is transferred to a chip already"):
        read_back(chip, tmp_path / "a.npz", 0)
    with pytest.raises(MemcompileError, match="cells of ideal are ideal"):
        read_back(program_on("ideal"), tmp_path / "a.npz", 0)


def test_commands_export_a_list_and_run_on_what_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "p.mcp"
    save_program(program_on("yao2020"), program)
    np.savez(tmp_path / "images.npz", x=models.images((12, *SHAPE), seed=3))
    data = ["--data", str(tmp_path / "images.npz")]
    assert main(["export", str(program), "--csv", str(tmp_path / "list.csv")]) == 0
    assert "cells written to" in capsys.readouterr().out
    text = (tmp_path / "list.csv").read_text(encoding="utf-8")
    (tmp_path / "read.csv").write_text(text.replace("target_us", "measured_us"), encoding="utf-8")
    assert main(["run", str(program), *data, "--conductances", str(tmp_path / "read.csv")]) == 0
    assert f"cells of {tmp_path / 'read.csv'}" in capsys.readouterr().out
    assert main(["run", str(program), *data, "--conductances", "a.csv", "--ideal"]) == 2
    assert "--conductances contradicts --ideal" in capsys.readouterr().err
