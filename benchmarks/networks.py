"""Networks as others exported them: outputs on the target `ideal` against onnxruntime, and what mapping takes.

    python -m benchmarks.networks FOLDER [FOLDER ...] [--target NAME] [--effort fast|normal|best] [--only PART]

One row of a Markdown table a file: crossbar layers, the share of all multiply-adds that they do, the largest
difference of an output from onnxruntime without graph rewrites on `ideal` (share of the output's largest magnitude,
less 1e-6, the absolute error of onnxruntime's own sigmoid; whole levels where outputs are integers), and, of the
command `memcompile compile` without evaluation for the target with as many chips as it takes: chips, interval with its
bound, processor time, wall time, and memory of all processes (Linux only) beside the size of the file. What
onnxruntime refuses is listed with its message.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compile_memory import MEGABYTE, Measurement, measure
from memcompile.errors import MemcompileError
from memcompile.frontend.sessions import open_session
from memcompile.pipelines import compile_model
from memcompile.runtime.emulator import Emulator

SIGMOID_ERROR = 1e-6
HEADER = (
    "| file | MB | crossbar layers | multiply-adds on arrays | difference | chips | interval (bound) "
    "| processor time, s | wall time, s | memory, MB |"
)


def difference_on_ideal(path: Path) -> str:
    """Largest relative difference of float outputs, and the largest of integer outputs in levels."""
    compilation = compile_model(path, "ideal", settings=("replicate.objective=arrays", "replicate.effort=fast"))
    model = compilation.model
    feeds = compilation.dataset.first_run
    session = open_session(model.serialized(), optimise=False)
    names = [value.name for value in session.get_outputs()]
    want = dict(zip(names, session.run(names, dict(feeds)), strict=True))
    got = Emulator(compilation.program).run(feeds)
    relative = levels = 0.0
    for name, value in want.items():
        if not isinstance(value, np.ndarray) or not value.size:
            continue
        error = float(np.abs(got[name].astype(np.float64) - value.astype(np.float64)).max())
        if value.dtype.kind == "f":
            relative = max(relative, max(error - SIGMOID_ERROR, 0.0) / max(float(np.abs(value).max()), 1e-30))
        else:
            levels = max(levels, error)
    return f"{relative:.1e}" + (f", {levels:g} levels" if levels else "")


def compiled(path: Path, target: str, effort: str) -> tuple[dict[str, Any], float, Measurement]:
    """The JSON report of the command line, its processor time in seconds, and its wall time and memory."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        compiler = [sys.executable, "-m", "memcompile", "compile", str(path.resolve()), "--target", target]
        options = ["--no-evaluation", "--quiet", "--effort", effort, "--json", str(report), "-o", "program.mcp"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = measure([*compiler, *options], Path(folder), path.stat().st_size / MEGABYTE)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        facts = json.loads(report.read_text(encoding="utf-8"))
    return facts, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, found


def row(path: Path, target: str, effort: str) -> str:
    """One row of the table."""
    difference = difference_on_ideal(path)
    facts, seconds, found = compiled(path, target, effort)
    counted = facts["multiply_adds"]
    share = "-" if not counted or not counted["total"] else f"{100 * counted['share_on_arrays']:.1f}%"
    interval = f"{facts['initiation_interval_steps']:,} ({facts['initiation_interval_bound']:,})"
    mapping = f"{len(facts['layers'])} | {share} | {difference} | {facts['chips']:,} | {interval}"
    return f"{found.model_mb:.2f} | {mapping} | {seconds:.1f} | {found.seconds:.1f} | {found.tree_mb:.0f}"


def main() -> None:
    """Print one row a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--target", default="yao2020")
    parser.add_argument("--effort", default="normal", help="how long the mapping is searched for")
    parser.add_argument("--only", default="", help="part of the file names")
    options = parser.parse_args()
    print(HEADER)
    print("|---" * (HEADER.count("|") - 1) + "|")
    for path in (path for folder in options.folders for path in sorted(folder.glob("*.onnx"))):
        if options.only not in path.stem:
            continue
        try:
            cells = row(path, options.target, options.effort)
        except MemcompileError as error:
            cells = f"refused: {' '.join(str(error).split())[:160]}"
        print(f"| `{path.stem}` | {cells} |", flush=True)


if __name__ == "__main__":
    main()
