"""Signals, full disks, closed pipes and two writers: nothing half-written, one message, the usual exit codes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import models
import numpy as np
import pytest
from models import float_model, loop, node

from memcompile import atomic
from memcompile.atomic import write_atomically
from memcompile.cli.main import main
from memcompile.errors import OutputError
from memcompile.program.file import load_program

ENVIRONMENT = {**os.environ, "MEMCOMPILE_NUMBA": "0"}


def listen_to_signals() -> None:
    """A parent in the background ignores SIGINT, and children inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def python_listens_to_sigint() -> Iterator[None]:
    """The same for this process, where tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def command(folder: Path, *arguments: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "memcompile", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_signals,  # noqa: PLW1509 - only signals are touched
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for task in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = task.read_text().rpartition(")")[2].split()
        except OSError:  # ended in between
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(task.parent.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_model_that_does_not_end(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "m.onnx").write_bytes(loop(2**62, node("Neg", "v", "vo")).SerializeToString())
    with command(tmp_path, "m.onnx") as process:
        busy: list[int] = []

        def runs_the_model() -> bool:
            # The second child runs the sample; the first one only loads the model and is soon gone.
            busy[:] = children(process.pid)
            time.sleep(0.3)
            return bool(busy) and children(process.pid) == busy

        wait_for(runs_the_model)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (code, "", "")
        assert not any(Path(f"/proc/{child}").exists() for child in busy)
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_signal_during_the_imports(tmp_path: Path) -> None:
    with command(tmp_path, "targets") as process:
        maps = Path(f"/proc/{process.pid}/maps")
        wait_for(lambda: process.poll() is not None or "multiarray" in maps.read_text())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_stop_the_clean_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The command line ends with 128 + N although the signal comes again while the file is removed."""
    (tmp_path / "m.onnx").write_bytes(models.matmul_add().SerializeToString())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")
    unlink = Path.unlink

    def interrupted_unlink(path: Path, missing_ok: bool = False) -> None:
        signal.raise_signal(number)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(atomic.os, "fsync", lambda handle: signal.raise_signal(number))
    monkeypatch.setattr(Path, "unlink", interrupted_unlink)
    with pytest.raises(SystemExit) as error:
        main(["m.onnx", "--no-evaluation"])
    assert error.value.code == 128 + number
    assert os.listdir(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_frees_an_object_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """There Python ignores exceptions, with a trace."""

    class Freed:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def go_on(_handle: int) -> None:
        Freed()
        wait_for(lambda: False)

    (tmp_path / "m.onnx").write_bytes(models.matmul_add().SerializeToString())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")
    monkeypatch.setattr(atomic.os, "fsync", go_on)
    hook, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    with pytest.raises(SystemExit) as error:
        main(["m.onnx", "--no-evaluation", "--quiet"])
    assert error.value.code == 128 + number
    assert capsys.readouterr() == ("", "")
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert (sys.unraisablehook, signal.getsignal(signal.SIGALRM)) == (hook, alarm)


def test_a_signal_right_after_the_temporary_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.mkstemp

    def interrupted(**options: str) -> tuple[int, str]:
        made = make(**options)
        signal.raise_signal(signal.SIGINT)
        return made

    monkeypatch.setattr(atomic.tempfile, "mkstemp", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "p.mcp", b"new")
    assert not os.listdir(tmp_path)


# --- places that cannot be written -------------------------------------------------------------


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond this: what a full disk looks like to a program."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "p.mcp"
    path.write_bytes(b"old")
    with largest_file(1000), pytest.raises(OutputError, match=r"p.mcp cannot be written: File too large; choose"):
        write_atomically(path, bytes(5000))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["p.mcp"]


def test_a_full_disk_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(models.matmul_add().SerializeToString())
    monkeypatch.chdir(tmp_path)
    for arguments in (["m.onnx"], ["m.onnx", "--dump-ir", "ir"]):
        with largest_file(100):
            assert main([*arguments, "--no-evaluation", "--quiet"]) == 8
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("memcompile: error: ")
        assert "cannot be written: File too large" in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["ir", "m.onnx"]


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: str) -> tuple[int, str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(atomic.tempfile, "mkstemp", refuse)
    with pytest.raises(OutputError, match="cannot be written: Permission denied; choose another place with -o"):
        write_atomically(tmp_path / "p.mcp", b"new")


def test_devices_and_pipes_are_written_to_and_stay(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"content")
    reader.join()
    assert got == [b"content"]
    assert pipe.is_fifo()
    write_atomically(Path("/dev/null"), b"content")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(Path("/dev/full"), b"content")


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("p.mcp")
    (tmp_path / "circle").symlink_to("circle")
    write_atomically(tmp_path / "link", b"content")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "p.mcp").read_bytes() == b"content"
    with pytest.raises(OutputError, match="circle cannot be written"):
        write_atomically(tmp_path / "circle", b"content")


# --- standard output ---------------------------------------------------------------------------


def run_with_stdout(folder: Path, stdout: int, *arguments: str) -> tuple[int, str]:
    with command(folder, *arguments, stdout=stdout) as process:
        _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_a_full_device_as_standard_output(tmp_path: Path) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        code, err = run_with_stdout(tmp_path, full.fileno(), "targets")
    assert (code, err) == (8, "memcompile: error: standard output cannot be written: No space left on device\n")


@pytest.mark.parametrize("arguments", [("targets",), ("compile", "--list-passes")])
def test_a_reader_that_goes_away(tmp_path: Path, arguments: Sequence[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        assert run_with_stdout(tmp_path, write_end, *arguments) == (0, "")
    finally:
        os.close(write_end)


# --- two writers -------------------------------------------------------------------------------


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    """Whoever reads sees one of the two files, whole."""
    path = tmp_path / "p.mcp"
    contents = {bytes([number]) * 200_000 for number in (1, 2)}
    write_atomically(path, bytes([1]) * 200_000)
    failures: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(20):
                write_atomically(path, content)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in contents
    assert not failures
    assert os.listdir(tmp_path) == ["p.mcp"]


def test_two_compiles_into_one_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        weights = {"w": np.full((4, 2 if name == "a" else 3), 0.5, np.float32)}
        model = float_model([node("MatMul", "x w", "y")], ("N", 4), weights)
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    with (
        command(tmp_path, "a.onnx", "-o", "p.mcp", "--no-evaluation", "--quiet") as first,
        command(tmp_path, "b.onnx", "-o", "p.mcp", "--no-evaluation", "--quiet") as second,
    ):
        assert [process.communicate(timeout=90) for process in (first, second)] == [("", "")] * 2
        assert (first.returncode, second.returncode) == (0, 0)
    assert sorted(os.listdir(tmp_path)) == ["a.onnx", "b.onnx", "p.html", "p.mcp"]
    assert load_program(tmp_path / "p.mcp").provenance.model in ("a.onnx", "b.onnx")
