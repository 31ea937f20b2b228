"""The story of the paper in one table: float, quantised, transferred, calibrated, tuned, beside its figures.

    python benchmarks/paper_story.py --data MNIST_DIR --seeds 10

The five-layer example, one replica of each layer as the paper's network was mapped, on all test images. Chips are tuned
with 10 % of the training images twice: the last layer alone, as the paper does it, and as ``memcompile tune`` does it
without options. `memcompile examples/five_layer_cnn.onnx --data MNIST_DIR --optimise arrays --tune --tune-images 6000
--seeds 10` prints the same but for the column of the paper's way.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.held_back import MOST_IMAGES
from memcompile.data.loader import load_dataset
from memcompile.pipelines import compile_model
from memcompile.report.emulated_chips import spread
from memcompile.report.evaluation import evaluate
from memcompile.runtime.training.hybrid_training import TuningOptions
from memcompile.tuned_chips import tune_chips
from memcompile.tuning import TuningPlan, usual_plan

FIVE_LAYER = Path(__file__).parent.parent / "examples" / "five_layer_cnn.onnx"
PAPER = {"float": "97.99%", "quantised": "", "transferred": "95.07%", "calibrated": "", "tuned": "96.19%"}
"""P. Yao et al., Nature 577, 641 (2020)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the MNIST files")
    parser.add_argument("--seeds", type=int, default=10, help="chips")
    parser.add_argument("--train-images", type=int, default=6000)
    parser.add_argument("--images", type=int, help="test images [all]")
    arguments = parser.parse_args(argv)
    compilation = compile_model(FIVE_LAYER, data=arguments.data, settings=("replicate.objective=arrays",))
    program, seeds = compilation.program, range(arguments.seeds)
    training = load_dataset(arguments.data, program.inputs, part="train").head(arguments.train_images + MOST_IMAGES)
    test = compilation.dataset.head(arguments.images or compilation.dataset.count)
    found = evaluate(program, compilation.model, test, seeds=len(seeds), emulated_images=test.count, written=True)
    accuracy = found.accuracy
    assert accuracy is not None
    usual = usual_plan(arguments.train_images)
    by_paper = TuningPlan(0, options=TuningOptions(epochs=usual.options.epochs))
    tuned: dict[str, NDArray[np.float64]] = {}
    for name, plan in (("paper", by_paper), ("usual", usual)):
        chips = tune_chips(program, training, test, seeds, plan, images=arguments.train_images)
        tuned[name] = chips.accuracy.chips
    rows = {
        "float": (f"{accuracy.reference:.2%}",) * 2,
        "quantised": (f"{accuracy.ideal:.2%}",) * 2,
        "transferred": (_chips(accuracy.transferred),) * 2,
        "calibrated": ("", _chips(accuracy.emulated)),
        "tuned": (_chips(tuned["paper"]), _chips(tuned["usual"])),
    }
    print("| network | paper | the last layer tuned, as in the paper | `--tune` |")
    print("|---|---|---|---|")
    for name, own in rows.items():
        print(f"| {name} | {' | '.join((PAPER[name], *own))} |")
    return 0


def _chips(shares: NDArray[np.float64]) -> str:
    return f"{shares.mean():.2%} +- {spread(shares):.2%}"


if __name__ == "__main__":
    sys.exit(main())
