"""Growth of time and memory with the number of cells: compile, program and run chains of dense layers.

    python benchmarks/scale.py [--largest 1e8] [--memory GIB] [--json FILE] [--plot FILE.svg]
    python benchmarks/scale.py --from FILE --plot FILE.svg

Each size has processes of its own: one compiles for `pimcomp` as the command line does, without evaluation and with one
replica a layer; another loads the program, programs a chip with all effects and runs images. Times are processor times
of all threads, and memory is the peak of the process. The exponent is that of the power law through the sizes from
``FIT_FROM`` on, less what the smallest one takes, which is the start of a process. Sizes that ask for more memory than
is free are left out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from compile_memory import MEGABYTE, write_model
from rounds import exponent, machine

SIZES = tuple(10**power for power in range(4, 10))
TARGET = "pimcomp"
OPTIONS = ("--no-evaluation", "--no-check", "--max-loss", "none", "--quiet", "--no-calibration")
SETTINGS = ("--set", "replicate.objective=arrays", "--set", "replicate.parallel_windows=false")
WIDEST = 1024
FIT_FROM = 1_000_000
BYTES_A_CELL = 8
"""Memory that a size takes at most in either process, beside what a small one takes."""
BASE_BYTES = 1 << 30
IMAGES = 16
FIGURES = ("compile_s", "program_s", "image_s", "compile_mb", "run_mb")
Row = dict[str, float]


def shape(cells: int) -> tuple[int, float]:
    """Width of the dense layers, and megabytes of their weights: two cells each."""
    width = min(WIDEST, 1 << int(math.log2(math.sqrt(cells / 2))))
    layers = max(1, round(cells / (2 * width**2)))
    return width, 4 * layers * width**2 / MEGABYTE


def run_child(command: Sequence[str]) -> tuple[str, float, float]:
    """Output of a process, its processor time in seconds, and its peak memory in megabytes."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} left with code {process.returncode}")
    return output, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measured(cells: int, folder: Path, memory: Sequence[str]) -> Row:
    """All figures of one size."""
    width, megabytes = shape(cells)
    model, program = folder / "chain.onnx", folder / "chain.mcp"
    # A child begins with the peak of its parent, so that this process must not hold the weights.
    write = [sys.executable, str(Path(__file__)), "--write", str(model), str(megabytes), str(width)]
    subprocess.run(write, check=True)
    compile_ = ["compile", str(model), "--target", TARGET, "-o", str(program), *OPTIONS, *SETTINGS]
    _, compile_s, compile_mb = run_child([sys.executable, "-m", "memcompile", *compile_])
    output, _, run_mb = run_child([sys.executable, str(Path(__file__)), "--one", str(program), *memory])
    return {**json.loads(output), "compile_s": compile_s, "compile_mb": compile_mb, "run_mb": run_mb}


def one(path: Path) -> Row:
    """Program a chip and run images; the first image is the one that cells are programmed for."""
    from memcompile.program.file import load_program  # noqa: PLC0415 - in the process that is measured
    from memcompile.runtime.emulator import Emulator  # noqa: PLC0415 - only where it is used, for a quick start

    program = load_program(path)
    ((name, kind),) = program.inputs.items()
    x = np.random.default_rng(0).random((IMAGES, *kind.shape[1:]), np.float32)
    emulator = Emulator(program, 1)
    times = []
    for _ in range(3):
        begin = time.process_time()
        emulator.run({name: x})
        times.append(time.process_time() - begin)
    cells = program.cell_map.arrays * program.target.array.cells
    later = min(times[1:])
    return {"cells": cells, "program_s": max(times[0] - later, 1e-9), "image_s": later / IMAGES}


def free_bytes() -> int:
    """Memory that is free now."""
    from memcompile.runtime.cells.memory import free_bytes as free  # noqa: PLC0415 - not before --help

    return free()


def exponents(rows: list[Row]) -> dict[str, float]:
    """Fitted exponent of each figure over the larger sizes, less what it is at the smallest; none of fewer than two."""
    found = {}
    for name in FIGURES:
        start = min(row[name] for row in rows)
        grown = [(row["cells"], row[name] - start) for row in rows if row["cells"] >= FIT_FROM and row[name] > start]
        if len(grown) > 1:
            found[name] = exponent([cells for cells, _ in grown], [value for _, value in grown])
    return found


def plot(facts: dict[str, Any], path: Path) -> None:
    """Draw times and memory over cells, both axes logarithmic."""
    import matplotlib as mpl  # noqa: PLC0415 - only for the picture

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "memcompile"
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only where it is used, for a quick start

    figure, (times, memory) = plt.subplots(1, 2, figsize=(9, 3.6))
    cells = [row["cells"] for row in facts["rows"]]
    for name, title in (("compile_s", "compile"), ("program_s", "program"), ("image_s", "run an image")):
        slope = facts["exponents"].get(name)
        label = title if slope is None else f"{title}, exponent {slope:.2f}"
        times.loglog(cells, [row[name] for row in facts["rows"]], "o-", label=label)
    for name, title in (("compile_mb", "compile"), ("run_mb", "program and run")):
        memory.loglog(cells, [row[name] for row in facts["rows"]], "o-", label=title)
    for axes, what in ((times, "processor time, s"), (memory, "peak memory, MB")):
        axes.set_xlabel("cells")
        axes.set_ylabel(what)
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=float, default=1e8, help="cells; default: %(default)g")
    parser.add_argument("--memory", metavar="GIB", help="bound of the processes that program and run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--from", dest="source", type=Path, help="draw what was measured before")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        model, megabytes, width = arguments.write
        write_model(Path(model), float(megabytes), int(width), 1, inside=False)
        return
    if arguments.memory:
        os.environ["MEMCOMPILE_MEMORY"] = arguments.memory
    if arguments.one:
        sys.stdout.write(json.dumps(one(arguments.one)) + "\n")
        return
    if arguments.source:
        facts = json.loads(arguments.source.read_text(encoding="utf-8"))
        facts["exponents"] = exponents(facts["rows"])
    else:
        facts = measured_sizes(int(arguments.largest), arguments.memory)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        plot(facts, arguments.plot)


def measured_sizes(largest: int, memory: str | None) -> dict[str, Any]:
    """Figures of all sizes that fit the memory, with exponents and the machine."""
    rows, left_out = list[Row](), list[int]()
    for cells in (size for size in SIZES if size <= largest):
        if BASE_BYTES + BYTES_A_CELL * cells > free_bytes():
            left_out.append(cells)
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = measured(cells, Path(folder), ("--memory", memory) if memory else ())
        rows.append(row)
        times = ", ".join(f"{name[:-2]} {row[name]:.3g} s" for name in ("compile_s", "program_s", "image_s"))
        size = f"{row['cells']:.3g} cells: {times}; memory {row['compile_mb']:.0f} and {row['run_mb']:.0f} MB"
        sys.stdout.write(size + "\n")
        sys.stdout.flush()
    for name, slope in exponents(rows).items():
        sys.stdout.write(f"exponent of {name}: {slope:.2f}\n")
    if left_out:
        sys.stdout.write(f"left out: {', '.join(f'{cells:.0e}' for cells in left_out)} cells\n")
    return {"machine": machine(), "rows": rows, "exponents": exponents(rows), "left_out": left_out}


if __name__ == "__main__":
    main()
