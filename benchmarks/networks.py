"""Networks as others exported them: outputs on the target `ideal` against onnxruntime, and mapping on a chip.

    python -m benchmarks.networks FOLDER [--target NAME] [--effort fast|normal|best] [--only PART]

One line a file: crossbar layers, the largest difference of an output from onnxruntime without graph
rewrites on `ideal` (share of the output's largest magnitude, less 1e-6, the absolute error of
onnxruntime's own sigmoid; whole levels where outputs are integers), and chips, bounds and time on
the target with as many chips as it takes. What onnxruntime refuses is listed with its message.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from memcompile.errors import MemcompileError
from memcompile.evaluation import whole_batches
from memcompile.onnx_session import open_session
from memcompile.pipelines import compile_model
from memcompile.runtime.emulator import Emulator

SIGMOID_ERROR = 1e-6


def difference_on_ideal(path: Path) -> tuple[int, float, float]:
    """Crossbar layers, largest relative difference of float outputs, largest of integer outputs in levels."""
    compilation = compile_model(path, "ideal", settings=("replicate.objective=arrays", "replicate.effort=fast"))
    model = compilation.model
    feeds = whole_batches(compilation.dataset, 1, model).inputs
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
    return len(compilation.program.layers), relative, levels


def mapping_on(path: Path, target: str, effort: str) -> str:
    """Chips, interval with its bound, and the seconds it took."""
    start = time.perf_counter()
    placement = compile_model(path, target, settings=(f"replicate.effort={effort}",)).program.placement
    seconds = time.perf_counter() - start
    bound = {item.quantity: item.bound for item in placement.certificates}.get("initiation_interval", 0)
    steps = placement.initiation_interval_steps
    return f"{placement.chips:,} chips, {steps:,} steps (bound {bound:,}), {seconds:.1f} s"


def main() -> None:
    """Print one line a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="yao2020")
    parser.add_argument("--effort", default="normal", help="how long the mapping is searched for")
    parser.add_argument("--only", default="", help="part of the file names")
    options = parser.parse_args()
    for path in sorted(options.folder.glob("*.onnx")):
        if options.only not in path.stem:
            continue
        try:
            layers, relative, levels = difference_on_ideal(path)
            whole = f", {levels:g} levels" if levels else ""
            mapping = mapping_on(path, options.target, options.effort)
            line = f"{layers} layers, {relative:.1e} from onnxruntime{whole}; {mapping}"
        except MemcompileError as error:
            line = f"refused: {' '.join(str(error).split())[:160]}"
        print(f"{path.stem:45} {line}", flush=True)


if __name__ == "__main__":
    main()
