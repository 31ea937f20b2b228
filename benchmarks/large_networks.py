"""Large networks end to end: compile, program and run networks for images of 224 x 224, with time and memory.

    python benchmarks/large_networks.py FOLDER [--networks NAME ..] [--targets NAME ..] [--images N] [--json FILE]

FOLDER takes NAME.onnx of each network, written with random weights where it is not there yet; that takes `torchvision`
and the torch that belongs to it. Speed does not depend on the values of weights.

Each network and target has processes of its own: one compiles as the command line does, without evaluation; another
loads the program and is timed from then on. The first image includes programming all cells of a chip, with all effects
on; later images run in rounds, of which the median counts, and between any two of them onnxruntime runs the float
network. Images are random numbers. Memory is the peak of each process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rounds import machine, seconds_a_call
from scale import run_child

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "vit_small")
TARGETS = ("hermes", "pimcomp")
SHAPE = (3, 224, 224)
OPTIONS = ("--no-evaluation", "--quiet", "--html", "none")
CHIPS = 5
"""Fresh chips whose first image is timed."""
SEED = 0
Row = dict[str, Any]


def write_network(name: str, path: Path) -> None:
    """Write one network of torchvision with random weights; the small transformer has 12 layers of width 384."""
    import torch  # noqa: PLC0415 - only where the file is not there yet
    from torchvision import models  # noqa: PLC0415 - only where the file is not there yet
    from torchvision.models.vision_transformer import VisionTransformer  # noqa: PLC0415 - the same

    torch.manual_seed(SEED)
    if name == "vit_small":
        network = VisionTransformer(224, 16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536)
    else:
        network = models.get_model(name, weights=None)
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, *SHAPE),),
        str(path),
        dynamo=False,
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
    )


def measured(model: Path, target: str, images: int, rounds: int) -> Row:
    """All figures of one network on one target."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.mcp"
        compile_ = ["compile", str(model), "--target", target, "-o", str(program), *OPTIONS]
        begin = time.perf_counter()
        _, compile_cpu_s, compile_mb = run_child([sys.executable, "-m", "memcompile", *compile_])
        compile_s = time.perf_counter() - begin
        one = [str(Path(__file__)), str(model.parent), "--one", str(program), str(model)]
        one += ["--images", str(images), "--rounds", str(rounds)]
        output, _, run_mb = run_child([sys.executable, *one])
    return {
        "network": model.stem,
        "target": target,
        **json.loads(output),
        "compile_s": compile_s,
        "compile_cpu_s": compile_cpu_s,
        "compile_mb": compile_mb,
        "run_mb": run_mb,
    }


def run_images(program_file: Path, model: Path, images: int, rounds: int) -> Row:
    """Time the first image of some chips, and later images by turns with onnxruntime."""
    import onnxruntime as ort  # noqa: PLC0415 - in the process that is measured

    from memcompile.program.file import load_program  # noqa: PLC0415 - in the process that is measured
    from memcompile.runtime.emulator import Emulator  # noqa: PLC0415 - only where it is used, for a quick start

    begin = time.perf_counter()
    program = load_program(program_file)
    load_s = time.perf_counter() - begin
    ((name, _),) = program.inputs.items()
    x = np.random.default_rng(SEED).standard_normal((max(images // rounds, 1), *SHAPE)).astype(np.float32)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])

    def first_image(seed: int) -> Callable[[], object]:
        return lambda: Emulator(program, seed).run({name: x[:1]})

    first = [seconds_a_call(first_image(seed)) for seed in range(CHIPS)]
    emulator = Emulator(program, SEED)
    emulator.run({name: x[:1]})
    session.run(None, {name: x[:1]})
    pairs = [
        (
            seconds_a_call(lambda: emulator.run({name: x})),
            seconds_a_call(lambda: session.run(None, {name: x})),
        )
        for _ in range(rounds)
    ]
    return {
        "arrays": program.cell_map.arrays,
        "cells": program.cell_map.arrays * program.target.array.cells,
        "interval_steps": program.placement.initiation_interval_steps,
        "load_s": load_s,
        "first_image_s": statistics.median(first),
        "first_image_slowest_s": max(first),
        "images_per_s": len(x) / statistics.median(work for work, _ in pairs),
        "times_onnxruntime": statistics.median(work / reference for work, reference in pairs),
        "images": len(x) * rounds,
    }


def show(row: Row) -> str:
    """One row of the table."""
    return (
        f"| {row['network']} | `{row['target']}` | {row['arrays']:,} | {row['cells'] / 1e6:.0f} "
        f"| {row['compile_s']:.0f} | {row['compile_mb']:.0f} | {row['first_image_s']:.1f} | {row['images_per_s']:.1f} "
        f"| {row['times_onnxruntime']:.0f} | {row['run_mb']:.0f} |"
    )


HEADER = (
    "| network | target | arrays | cells, millions | compile, s | memory, MB | first image, s | images/s "
    "| x onnxruntime | memory, MB |"
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--images", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--write", choices=NETWORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.write:
        write_network(arguments.write, arguments.folder / f"{arguments.write}.onnx")
        return
    if arguments.one:
        row = run_images(*arguments.one, arguments.images, arguments.rounds)
        sys.stdout.write(json.dumps(row) + "\n")
        return
    sys.stdout.write(HEADER + "\n" + "|---" * HEADER.count(" | ") + "|---|\n")
    rows = []
    for name in arguments.networks:
        model = arguments.folder / f"{name}.onnx"
        if not model.exists():
            # A child begins with the peak of its parent, so that this process must not load torch.
            write = [sys.executable, str(Path(__file__)), str(arguments.folder), "--write", name]
            subprocess.run(write, check=True)
        for target in arguments.targets:
            rows.append(measured(model, target, arguments.images, arguments.rounds))
            sys.stdout.write(show(rows[-1]) + "\n")
            sys.stdout.flush()
    if arguments.json:
        facts = {"machine": machine(), "rows": rows}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
