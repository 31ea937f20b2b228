"""Time whole compilations, from the start of the process to its end.

    python benchmarks/compile_time.py [MODEL.onnx ...] [--runs 5] [--json FILE|-]

Without models it takes examples/five_layer_cnn.onnx. Each figure is the median over runs and comes
with its ratio to a baseline measured in the same run, in turns with it: a Python process that
only imports onnxruntime and OR-Tools, which no compiler built on the two can beat. No network is
evaluated, and the program file is written. `OPTIONS` after `--` go to memcompile, such as
`-- --slices 2`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

BASELINE = "import onnxruntime; from ortools.sat.python import cp_model"
DEFAULT_MODEL = Path(__file__).resolve().parent.parent / "examples" / "five_layer_cnn.onnx"


@dataclass(frozen=True)
class Measurement:
    """Seconds and peak memory of one kind of process, over runs."""

    name: str
    median_s: float
    fastest_s: float
    slowest_s: float
    peak_mib: float
    ratio_to_baseline: float


def run_once(command: Sequence[str], folder: str) -> tuple[float, float]:
    """Run a process; returns its seconds and its peak memory in MiB (0 where the system does not say)."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    peak = 0.0
    if hasattr(os, "wait4"):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    seconds = time.perf_counter() - begin
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} left with code {process.returncode}:\n{errors}")
    return seconds, peak


def measure(commands: dict[str, list[str]], runs: int) -> list[Measurement]:
    """Run all commands in turns, so that whatever slows the machine slows all of them."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            for name, command in commands.items():
                results[name].append(run_once(command, folder))
    medians = {name: statistics.median(seconds for seconds, _ in pairs) for name, pairs in results.items()}
    baseline = next(iter(medians.values()))
    return [
        Measurement(
            name=name,
            median_s=medians[name],
            fastest_s=min(seconds for seconds, _ in pairs),
            slowest_s=max(seconds for seconds, _ in pairs),
            peak_mib=max(peak for _, peak in pairs),
            ratio_to_baseline=medians[name] / baseline,
        )
        for name, pairs in results.items()
    ]


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line; returns it and the options for memcompile."""
    own, passed = list(arguments), []
    if "--" in own:
        place = own.index("--")
        own, passed = own[:place], own[place + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*", default=[DEFAULT_MODEL], metavar="MODEL.onnx")
    parser.add_argument("--runs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE|-", help="write the figures as JSON (- for standard output)")
    return parser.parse_args(own), passed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options, passed = parse(sys.argv[1:] if arguments is None else arguments)
    commands = {"baseline: import onnxruntime, ortools": [sys.executable, "-c", BASELINE]}
    for model in options.models:
        compiler = [sys.executable, "-m", "memcompile", "compile", str(model.resolve())]
        commands[" ".join([model.name, *passed])] = [*compiler, "--no-evaluation", "--quiet", *passed]
    found = measure(commands, options.runs)
    if options.json:
        facts = {"machine": platform.machine(), "processors": os.cpu_count(), "runs": options.runs}
        text = json.dumps({**facts, "measurements": [asdict(item) for item in found]}, indent=2) + "\n"
        if options.json == "-":
            sys.stdout.write(text)
            return 0
        Path(options.json).write_text(text, encoding="utf-8")
    print(f"whole process, median of {options.runs} runs (fastest to slowest), {os.cpu_count()} processors")
    for item in found:
        spread = f"({item.fastest_s:.2f} to {item.slowest_s:.2f})"
        print(
            f"  {item.name:40}{item.median_s:8.2f} s  {spread:18}"
            f"{item.ratio_to_baseline:7.2f} x baseline{item.peak_mib:8.0f} MiB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
