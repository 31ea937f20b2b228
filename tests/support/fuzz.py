"""Feeds mutated files to the command line and looks for tracebacks, crashes, hangs and files left behind.

    python tests/support/fuzz.py --count 25000               so many inputs of each kind
    python tests/support/fuzz.py --kind model --only 1234    one input, with its traceback
    python tests/support/fuzz.py --keep DIR                  keep the inputs that found something

An input is made from its kind, the seed and its number alone, so whatever is found can be had
again. Inputs run in a child process that a watchdog looks after; one that crashes or hangs costs
its child, and the next child goes on with the next number.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import models
import numpy as np
from fuzz_inputs import MUTATORS, mutated, valid_models, valid_programs
from models import float_model, node

from memcompile.cli.main import main
from memcompile.errors import EXIT_CODES, MemcompileError
from memcompile.frontend.sandbox import GIB, Limits, run_guarded
from memcompile.pipelines import compile_model
from memcompile.program.file import load_program, save_program

SLOW_S = 10.0
"""Processor time at which an input counts as a hang."""
PATIENCE_S = 60.0
"""Wall time after which the child is ended: several times as much, for other work may go on beside it."""
MEMORY_BYTES = 6 * GIB
MAKES_WAY = 3
"""Exit code of a child that holds half of these addresses and leaves the other inputs to the next one."""
CHUNK = 500
"""Inputs a child runs before a fresh one takes over."""
OUR_FAULTS = {1, 70, 71}
"""Exit codes that no file may bring about."""


@dataclass
class Findings:
    """Results of a run: exit codes by kind, and faults with the inputs that showed them."""

    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, number: int, code: int, fault: str) -> None:
        """Count one input."""
        self.codes[kind, code] += 1
        if fault:
            self.faults.setdefault(fault, []).append(f"{kind} {number}")

    def __str__(self) -> str:
        lines = []
        for kind in sorted({kind for kind, _ in self.codes}):
            counts = {code: count for (own, code), count in sorted(self.codes.items()) if own == kind}
            listed = ", ".join(f"{count:,} with code {code}" for code, count in counts.items())
            lines.append(f"{kind}: {sum(counts.values()):,} inputs, {listed}")
        lines += [
            f"FAULT {fault}\n  in {len(where):,} inputs, such as {', '.join(where[:4])}"
            for fault, where in sorted(self.faults.items(), key=lambda item: -len(item[1]))
        ]
        return "\n".join(lines)


# --- one input ---------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Write what mutated files are used with."""
    product = valid_models()[5].SerializeToString()
    (folder / "product.onnx").write_bytes(product)
    (folder / "good.mcp").write_bytes(valid_programs()[1])
    np.savez(folder / "images.npz", x=models.images((4, 2, 6, 6)))
    for name, shape in (("grey", (1, 28, 28)), ("colour", (3, 32, 32))):
        path = folder / f"{name}.onnx"
        path.write_bytes(float_model([node("Relu", "x", "y")], ("N", *shape), {}).SerializeToString())
        save_program(compile_model(path).program, folder / f"{name}.mcp")
        path.unlink()


def command(kind: str, seed: int, number: int, folder: Path) -> list[str]:
    """Write an input into a folder; returns the command that meets it."""
    content = mutated(kind, seed, number)
    cheap = _words("-o o.mcp --quiet --optimise arrays --effort fast --import-seconds 3 --import-memory 2")
    scored = _words("--no-evaluation" if number % 4 else "--images 4 --emulated-images 4 --seeds 1")
    if kind == "model":
        (folder / "m.onnx").write_bytes(content)
        return ["m.onnx", *cheap, *scored]
    if kind == "target":
        (folder / "t.toml").write_bytes(content)
        return ["product.onnx", "--target", "t.toml", *cheap, *scored]
    if kind == "program":
        (folder / "p.mcp").write_bytes(content)
        uses = ("run p.mcp -o y.npz --images 4 --quiet", "show p.mcp", "export p.mcp --npz c.npz")
        return _words(uses[number % 3])
    name, data = content
    where = folder / "data"
    where.mkdir()
    (where / name).write_bytes(data)
    if "labels" in name or "images" in name:
        (where / "t10k-images-idx3-ubyte").touch()
        (where / "t10k-labels-idx1-ubyte").touch()
    program = "colour.mcp" if "batch" in name else "grey.mcp" if name[0] in "et" else "good.mcp"
    path = f"data/{name}" if name.endswith("npz") else "data"
    return ["run", program, "--data", path, "--quiet"]


def _words(text: str) -> list[str]:
    return text.split()


def run_one(kind: str, seed: int, number: int, folder: Path) -> tuple[int, str]:
    """Run one input; returns the exit code and the fault, empty if all is well."""
    with tempfile.TemporaryDirectory(dir=folder) as name, contextlib.chdir(name):
        here = Path(name)
        for item in folder.glob("*.*"):
            (here / item.name).symlink_to(item)
        arguments = command(kind, seed, number, here)
        before = set(here.rglob("*"))
        began = time.process_time() + _children_s()
        code, fault, said = _call(arguments)
        spent = time.process_time() + _children_s() - began
        left = {str(path.relative_to(here)) for path in set(here.rglob("*")) - before}
        if left - ({"o.mcp", "o.html", "y.npz", "c.npz"} if code in (0, 4) else {"o.mcp"} if code == 3 else set()):
            fault = fault or f"files left behind: {sorted(left)} with code {code}"
        if code and "o.mcp" in left and not _is_whole(here / "o.mcp"):
            fault = fault or f"half a program left behind with code {code}"
        if code and "o.mcp" in left and "the program was written to o.mcp" not in said:
            fault = fault or f"nothing said of the program that was written, with code {code}"
        if spent > SLOW_S:
            fault = fault or f"slow: {arguments[0]} of a {kind} took more than {SLOW_S:g} s"
    return code, fault


def _is_whole(program: Path) -> bool:
    """Return True if a program can be read: one whose evaluation fails stays, but never a part of one."""
    try:
        load_program(program)
    except MemcompileError:
        return False
    return True


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _call(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Run a command; returns its exit code, what is wrong with the way it ended, and what it said."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(arguments))
    except BaseException as error:  # whatever is not a message is what is looked for
        return -1, _signature(error), ""
    text = err.getvalue()
    if code not in EXIT_CODES or code in OUR_FAULTS:
        return code, f"exit code {code}: {re.sub(r'[0-9.]+', 'N', text)[:200]}", text
    if code and (text.count("memcompile: error: ") != 1 or "Traceback" in text or out.getvalue()):
        return code, f"not one message: {text[:200]!r}, {out.getvalue()[:100]!r}", text
    return code, "warnings on standard error: " + text[:200] if not code and text else "", text


def _signature(error: BaseException) -> str:
    """Kind of an exception, and the innermost place of ours that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if re.search(r"/(memcompile|passes|runtime)/[^/]+\.py$", frame.filename)]
    frame = (ours or frames)[-1]
    return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.name}:{frame.lineno}: {str(error)[:160]}"


# --- many inputs -------------------------------------------------------------------------------


def run_many(kind: str, seed: int, numbers: Sequence[int], folder: Path, keep: Path | None = None) -> Findings:
    """Run inputs in children that may crash or hang."""
    findings = Findings()
    rest = list(numbers)
    while rest:
        chunk, rest = rest[:CHUNK], rest[CHUNK:]
        done = 0
        for number, code, fault in _in_child(kind, seed, chunk, folder):
            findings.add(kind, number, code, fault)
            done += 1
            if fault and keep is not None:
                with contextlib.suppress(FileExistsError):
                    (keep / f"{kind}-{seed}-{number}").mkdir()
                    command(kind, seed, number, keep / f"{kind}-{seed}-{number}")
        rest = chunk[done:] + rest
    return findings


def _in_child(kind: str, seed: int, numbers: Sequence[int], folder: Path) -> Iterator[tuple[int, int, str]]:
    """Number, exit code and fault of each input, until the child is through with all or has died."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _be_child(kind, seed, numbers, folder, write_end)
    os.close(write_end)
    began, done, hung = time.monotonic(), 0, False
    text = b""
    while done < len(numbers):
        if not select.select([read_end], [], [], PATIENCE_S)[0]:
            hung = True
            break
        part = os.read(read_end, 1 << 16)
        if not part:
            break
        *lines, text = (text + part).split(b"\n")
        for line in lines:
            code, fault = line.decode().split(" ", 1)
            yield numbers[done], int(code), fault
            done, began = done + 1, time.monotonic()
    os.close(read_end)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL if hung else 0)
    _, status = os.waitpid(child, 0)
    if done < len(numbers) and os.waitstatus_to_exitcode(status) != MAKES_WAY:
        how = f"hangs ({time.monotonic() - began:.0f} s)" if hung else f"crash, wait status {status}"
        yield numbers[done], -2, f"{how} of a {kind}"


def _be_child(kind: str, seed: int, numbers: Sequence[int], folder: Path, write_end: int) -> None:
    held = _address_space()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open(write_end, "w", encoding="utf-8", errors="replace") as stream:
            for number in numbers:
                code, fault = run_one(kind, seed, number, folder)
                print(code, fault.replace("\n", " | "), file=stream, flush=True)
                if _address_space() > held + MEMORY_BYTES // 2:
                    stream.flush()
                    os._exit(MAKES_WAY)  # the allocator keeps addresses of what was given back
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _address_space() -> int:
    """Addresses that this process holds, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder with what mutated files are used with, in memory where the system offers that."""
    os.environ["MEMCOMPILE_NUMBA"] = "0"  # nothing here is worth compiling kernels for
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="fuzz-") as name:
        prepare(Path(name))
        run_guarded(len, ((),), Limits())  # starts the helper here, for all children
        yield Path(name)


def run() -> int:
    """Read the command line and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=sorted(MUTATORS), action="append", help="default: all")
    parser.add_argument("--count", type=int, default=1000, help="inputs of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run one input in this process")
    parser.add_argument("--keep", type=Path, help="folder for inputs that found something")
    options = parser.parse_args()
    kinds = options.kind or sorted(MUTATORS)
    with workplace() as folder:
        if options.only is not None:
            where = folder / "only"
            where.mkdir()
            for item in folder.glob("*.*"):
                shutil.copy(item, where)
            arguments = command(kinds[0], options.seed, options.only, where)
            print("memcompile", *arguments)
            with contextlib.chdir(where):
                return main(arguments)
        if options.keep is not None:
            options.keep.mkdir(exist_ok=True)
        faults = 0
        for kind in kinds:
            numbers = range(options.first, options.first + options.count)
            findings = run_many(kind, options.seed, numbers, folder, options.keep)
            print(findings, flush=True)
            faults += len(findings.faults)
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(run())
