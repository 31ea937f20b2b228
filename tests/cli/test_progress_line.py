"""The line of a terminal and the lines of a pipe."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import models
import numpy as np
import pytest

from memcompile.cli.main import main
from memcompile.progress.terminal import THREAD, PlainLines, TerminalLine

PHASE = re.compile(r"phase (\d+) of (\d+): ([a-z ]+)")
ENVIRONMENT = {**os.environ, "MEMCOMPILE_NUMBA": "0", "TERM": "xterm", "COLUMNS": ""}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and labelled data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")
    (tmp_path / "m.onnx").write_bytes(models.conv_bn().SerializeToString())
    x = models.images((60, *models.SMALL["conv_bn"][1]))
    np.savez(tmp_path / "d.npz", x=x, labels=np.arange(60) % 3)
    np.savez(tmp_path / "unlabelled.npz", x=x)
    return tmp_path


def screens(text: str) -> list[str]:
    """Contents of the line, one after the other, without what is printed above it."""
    return [part.split("\x1b[K")[0] for part in re.split(r"\r(?!\n)", text) if "\x1b[K" in part]


def test_a_pipe_gets_a_line_a_phase() -> None:
    stream = io.StringIO()
    lines = PlainLines(("reading", "mapping"), stream)
    with lines("reading", 1), lines("calibrating", 30) as advance:
        advance(30)
    with lines("mapping", 1), lines.paused():
        pass
    lines.close()
    assert stream.getvalue() == "phase 1 of 2: reading (after 0:00)\nphase 2 of 2: mapping (after 0:00)\n"


def test_lines_that_nobody_reads_are_no_failure() -> None:
    stream = io.StringIO()
    lines = PlainLines(("reading",), stream)
    stream.close()
    with lines("reading", 1):
        pass


@pytest.mark.parametrize("columns", [200, 79, 60, 40, 39, 20, 6, 1])
def test_the_line_is_as_long_as_it_may_be(columns: int) -> None:
    line = TerminalLine(("reading the model", "mapping"), io.TextIOWrapper(io.BytesIO(), "utf-8"))
    with line.phases("reading the model", 12_000), line.phases("weighing rounding errors of layers", 12_000):
        text = line.text(columns)
    line.close()
    assert len(text) == columns
    assert ("━" in text or "─" in text) == (columns >= 40)
    assert text.rstrip().endswith("0:00") == (columns >= 6)


def test_a_terminal_without_signs_gets_letters() -> None:
    line = TerminalLine(("reading", "mapping"), io.TextIOWrapper(io.BytesIO(), "ascii"))
    with line.phases("mapping", 1):
        text = line.text(60)
    line.close()
    assert text.startswith("######------ phase 2 of 2: mapping")


def test_the_line_goes_away_while_something_is_printed_and_in_the_end() -> None:
    held = io.BytesIO()
    stream = io.TextIOWrapper(held, "utf-8", write_through=True)
    line = TerminalLine(("reading",), stream)
    with line("reading", 1):
        with line.paused():
            stream.write("a result\n")
        line.remark("compiling kernels")
    line.close()
    written = held.getvalue().decode()
    assert re.search(r"reading +0:00\x1b\[K\r\x1b\[Ka result\n\r.*compiling kernels", written)
    assert written.endswith("\r\x1b[K")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_no_thread_runs_while_the_process_forks() -> None:
    seen = []

    def threads() -> int:
        return sum(thread.name == THREAD for thread in threading.enumerate())

    class Watched(TerminalLine):
        def go_on(self) -> None:
            seen.append(threads())
            super().go_on()

    line = Watched(("reading",), io.TextIOWrapper(io.BytesIO(), "utf-8"))
    with line("reading", 1):
        assert threads() == 1
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert threads() == 1, "it goes on"
    line.close()
    assert seen == [0, 0], "none at the beginning, and none between the two processes"
    assert threads() == 0


def in_terminal(command: list[str], rows: int, **variables: str) -> tuple[int, str]:
    """Run a command in a pseudo terminal of 80 columns, which all streams go to; returns its code and the text."""
    parent, child = pty.openpty()
    os.set_blocking(parent, False)
    subprocess.run(["stty", "cols", "80", "rows", str(rows)], stdin=child, check=True)
    environment = {**ENVIRONMENT, **variables}
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment) as process:
        written = b""
        while process.poll() is None:
            time.sleep(0.05)
            with suppress(BlockingIOError):
                written += os.read(parent, 1 << 16)
    with suppress(BlockingIOError):
        written += os.read(parent, 1 << 16)
    os.close(child)
    return process.returncode, written.decode()


# --- commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        ("m.onnx --data d.npz --seeds 1", "writing the report"),
        (
            "m.onnx --data d.npz --max-loss none --html none --seeds 1 --images 20 --tune --tune-images 30",
            "tuning chips",
        ),
        ("m.onnx --data unlabelled.npz --max-loss none --html none --seeds 1", "emulating chips"),
        ("m.onnx --html none --no-evaluation --no-check", "mapping layers"),
    ],
)
def test_phases_of_compiling_come_in_order(
    arguments: str, last: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments.split(), "--effort", "fast"]) == 0
    lines = capsys.readouterr().err.splitlines()
    found = [PHASE.fullmatch(re.sub(r" \(after \d+:\d\d\)$", "", line)) for line in lines]
    assert all(found), lines
    numbers = [int(item[1]) for item in found if item]
    assert numbers == sorted(set(numbers))
    assert found[0] is not None
    assert (numbers[0], found[0][3]) == (1, "reading model and data")
    assert len({item[2] for item in found if item}) == 1
    assert found[-1] is not None
    assert found[-1][3] == last


def test_other_commands_say_phases_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["m.onnx", "--html", "none", "--no-evaluation", "--effort", "fast", "-o", "p.mcp", "--quiet"]) == 0
    assert main(["run", "p.mcp", "--data", "d.npz", "--quiet", "--images", "9"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["run", "p.mcp", "--data", "d.npz", "--images", "9"]) == 0
    found = [name.strip() for _, _, name in PHASE.findall(capsys.readouterr().err)]
    assert found == ["reading program and data", "fitting output lines", "running"]
    training = ["--data", "d.npz", "--images", "40", "--epochs", "2"]
    assert main(["tune", "p.mcp", *training, "--test", "d.npz", "--skip", "40"]) == 0
    found = PHASE.findall(capsys.readouterr().err)
    assert [int(number) for number, _, _ in found] == sorted({int(number) for number, _, _ in found})
    assert found[-1][2].strip() == "scoring the chip"


def test_a_terminal_shows_one_line_and_leaves_none(folder: Path) -> None:
    """A process in a pseudo terminal of 80 columns, which both streams go to."""
    command = [sys.executable, "-m", "memcompile", "m.onnx", "--effort", "fast", "--html", "none", "--no-evaluation"]
    code, text = in_terminal(command, 50)
    assert code == 0, text
    assert text.startswith("loading memcompile ...")
    shown = [line for line in screens(text) if line.strip()]
    assert max(map(len, shown)) == 79
    assert {1, 2, 3, 4} <= {int(number) for line in shown for number, _, _ in PHASE.findall(line)}
    assert "m.onnx fits on 1 chip" in text.replace("\r\n", "\n")
    for line in text.replace("\r\n", "\n").split("\n"):
        assert len(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", re.sub(r".*\r", "", line))) <= 80
    assert "phase" not in text.rpartition("\x1b[K")[2]


@pytest.mark.parametrize(("options", "paged"), [([], True), (["--no-pager"], False)])
def test_long_explanations_go_to_the_pager(options: list[str], paged: bool, folder: Path) -> None:
    """In a terminal of 24 lines; the pager is a script that keeps what it gets."""
    pager = folder / "pager"
    pager.write_text("#!/bin/sh\ncat > paged.txt\n")
    pager.chmod(0o755)
    command = [sys.executable, "-m", "memcompile", "m.onnx", "--effort", "fast", "--html", "none", "--no-evaluation"]
    code, text = in_terminal([*command, "--explain", *options], 24, PAGER=str(pager))
    assert code == 0, text
    assert (folder / "paged.txt").exists() == paged
    shown = (folder / "paged.txt").read_text() if paged else text
    assert "operator" in shown
    assert ("analog" in text) == (not paged)
