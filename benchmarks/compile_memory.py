"""Measure the memory of a whole compilation against the size of its model.

    python benchmarks/compile_memory.py [--megabytes 200] [--width 2048] [--inputs 1] [--inside] [--target pimcomp]
        [--json FILE|-] [-- OPTIONS]

The model is generated, a chain of dense layers (or, with several inputs, one layer each, and their sum) of
``width`` inputs and outputs, with random weights in external data or, with ``--inside``, in the model file.
Memory of all processes is sampled every few milliseconds, shared pages counted once; Linux only. The largest
process is the largest resident set of any single one. OPTIONS go to memcompile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

MEGABYTE = 1_000_000
INTERVAL_S = 0.005


@dataclass(frozen=True)
class Measurement:
    """Sizes in megabytes; ``tree`` is all processes together, ``largest`` the largest of them."""

    model_mb: float
    tree_mb: float
    largest_mb: float
    ratio: float
    seconds: float


def write_model(path: Path, megabytes: int, width: int, inputs: int, *, inside: bool) -> float:
    """Write a network of dense layers; returns the megabytes of all its files."""
    rng = np.random.default_rng(0)
    layers = max(round(megabytes * MEGABYTE / (4 * width**2)), inputs)
    nodes, weights = [], []
    for number in range(layers):
        weight = rng.standard_normal((width, width), np.float32) * np.float32((2 / width) ** 0.5)
        weights.append(onnx.numpy_helper.from_array(weight, f"w{number}"))
        source = f"x{number}" if number < inputs else f"z{number - 1}"
        nodes.append(onnx.helper.make_node("MatMul", [source, f"w{number}"], [f"y{number}"]))
        nodes.append(onnx.helper.make_node("Relu", [f"y{number}"], [f"z{number}"]))
    nodes.append(onnx.helper.make_node("Sum", [f"z{number}" for number in (*range(inputs - 1), layers - 1)], ["out"]))
    read, made = (
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", width]) for name in names]
        for names in ([f"x{number}" for number in range(inputs)], ["out"])
    )
    graph = onnx.helper.make_graph(nodes, "dense", read, made, weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, path, save_as_external_data=not inside, location="weights.bin")
    return sum(file.stat().st_size for file in path.parent.iterdir()) / MEGABYTE


def processes(root: int) -> list[int]:
    """A process and all that descend from it."""
    found = [root]
    for process in found:
        try:
            for task in Path(f"/proc/{process}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:  # it has ended
            continue
    return found


def memory(process: int) -> tuple[int, int]:
    """Bytes of a process: its share of what it holds, and all that it holds; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    facts = {line.split()[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
    return facts.get("Pss:", 0), facts.get("Rss:", 0)


def measure(command: Sequence[str], folder: Path, model_mb: float) -> Measurement:
    """Run a command and watch its memory."""
    tree = largest = 0
    begin = time.perf_counter()
    with (folder / "errors.txt").open("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            held = [memory(each) for each in processes(process.pid)]
            tree = max(tree, sum(share for share, _ in held))
            largest = max(largest, *(whole for _, whole in held))
            time.sleep(INTERVAL_S)
        seconds = time.perf_counter() - begin
        if process.returncode != 0:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} left with code {process.returncode}:\n{errors.read()}")
    return Measurement(model_mb, tree / MEGABYTE, largest / MEGABYTE, tree / MEGABYTE / model_mb, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    own = list(sys.argv[1:] if arguments is None else arguments)
    place = own.index("--") if "--" in own else len(own)
    own, passed = own[:place], own[place + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=2048, help="inputs and outputs of a layer, default: %(default)s")
    parser.add_argument("--inputs", type=int, default=1, help="inputs of the network, default: %(default)s")
    parser.add_argument("--inside", action="store_true", help="weights in the model file")
    parser.add_argument("--target", default="pimcomp", help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE|-", help="write the figures as JSON (- for standard output)")
    options = parser.parse_args(own)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model", "chain.onnx")
        model.parent.mkdir()
        model_mb = write_model(model, options.megabytes, options.width, options.inputs, inside=options.inside)
        compiler = [sys.executable, "-m", "memcompile", "compile", str(model), "--target", options.target]
        found = measure([*compiler, "--no-evaluation", "--quiet", *passed], Path(folder), model_mb)
    if options.json:
        text = json.dumps({"processors": os.cpu_count(), **asdict(found)}, indent=2) + "\n"
        if options.json == "-":
            sys.stdout.write(text)
            return 0
        Path(options.json).write_text(text, encoding="utf-8")
    print(
        f"model {found.model_mb:.0f} MB, all processes {found.tree_mb:.0f} MB ({found.ratio:.1f} x), "
        f"largest {found.largest_mb:.0f} MB, {found.seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
